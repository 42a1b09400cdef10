"""The models that labrun brings. Each takes its input shape and number of classes from the data."""
