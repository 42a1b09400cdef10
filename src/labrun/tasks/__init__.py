"""Tasks: the work of a run, such as fitting or evaluating a model. A task never knows where it runs."""
