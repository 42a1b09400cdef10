"""A transformer that writes Python, a character at a time."""
