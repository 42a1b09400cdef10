"""The pool on this machine: runs are forked from a server that has imported what they need."""
