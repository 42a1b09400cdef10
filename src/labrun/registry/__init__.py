"""Registered models: their journal is the truth, and MLflow follows."""
