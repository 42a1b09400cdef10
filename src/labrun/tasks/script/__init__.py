"""Tasks that run a user's script."""
