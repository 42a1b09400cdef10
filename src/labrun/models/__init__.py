"""Built-in models. Each takes its input shape and number of classes from the data."""
