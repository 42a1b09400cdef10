"""Built-in models. Each takes its input shape and number of classes from the data."""

MOST_CATEGORIES = 50
"""Maximum number of one-hot columns per column of a table; rare values share one."""
