"""Searching: what to try next, what to stop early, and what came out best."""
