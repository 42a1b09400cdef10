"""A transformer that writes Python, one character at a time."""
