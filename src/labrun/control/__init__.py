"""Carrying out the runs of a folder: one controller at a time, whatever backend they go to."""
