"""Registered models. Their journal, `runs.model_journal`, is authoritative; MLflow's registry is a view of it."""
