"""Searches of plain Hydra applications: the return value of the application's function is the objective."""
