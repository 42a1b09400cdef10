"""A folder of images, and a network for them."""
