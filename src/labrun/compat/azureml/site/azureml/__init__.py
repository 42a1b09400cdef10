"""The Azure ML SDK v1, as far as labrun carries it out: see `labrun.compat.azureml.finder`."""

from labrun.compat.azureml import finder

finder.install()
