"""Hyperparameter search: proposing trials, stopping them early, and reporting the best."""
