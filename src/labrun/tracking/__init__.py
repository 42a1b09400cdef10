"""Trackers, which provide views of the records (see `base.py`), and the process that feeds them during runs."""
