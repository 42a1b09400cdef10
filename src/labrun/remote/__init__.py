"""Runs on remote machines over SSH: frozen folders are transferred to a machine, and their results mirrored back."""
