"""Tables and pictures of runs, for the terminal, for files and for notebooks."""
