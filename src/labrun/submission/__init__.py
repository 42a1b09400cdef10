"""Turns composed configs into frozen runs: captures everything that a run needs before anything starts."""
