"""Views of the records: what `base.py` says of them, and the process that feeds them while runs go on."""
