"""Tasks that train a network with Lightning."""
