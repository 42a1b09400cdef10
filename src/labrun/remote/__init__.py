"""Runs on another machine that SSH reaches: carried there as frozen folders, and mirrored back."""
