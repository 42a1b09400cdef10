"""Execution of a folder's runs by one controller at a time, with any backend."""
