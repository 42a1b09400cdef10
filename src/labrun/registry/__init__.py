"""Registered models. Their journal is authoritative; MLflow's registry is a view of it."""
