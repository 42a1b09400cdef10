"""The local pool: runs are forked from a server that has already imported the modules they need."""
