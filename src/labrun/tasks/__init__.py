"""What a run does: fit a model, or evaluate one. A task never knows where it runs."""
