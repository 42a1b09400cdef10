"""The record properties that hold what labrun's config lacks: the SDK's run type, target and environment names."""

from __future__ import annotations

from labrun.compat.azureml.training.run import TYPE_TAG

TARGET_TAG, ENVIRONMENT_TAG = "azureml.target", "azureml.environment"
"""The names that the control script gave to its target and its environment."""
VERSION_TAG = "azureml.environment_version"
OWN = (TYPE_TAG, TARGET_TAG, ENVIRONMENT_TAG, VERSION_TAG)
SEARCHES = "searches"
"""The table that holds these properties for searches, by labrun id: a search has no record of its own."""
