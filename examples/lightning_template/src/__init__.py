"""The project's code, in the template's layout."""
