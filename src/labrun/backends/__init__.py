"""Backends that execute runs. `base.py` states their contract; `registry.py` finds them by name."""
