"""The Azure ML SDK v1, as far as labrun carries it out: see `labrun.compat.azureml.finder`."""

from __future__ import annotations

from labrun.compat.azureml import finder

finder.install()
