"""Support for running scripts of other systems unchanged, using only the standard library and `runs.context`."""
