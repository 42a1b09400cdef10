"""Scripts of the Azure ML SDK v1: `runner.py` runs one inside a run, `python -m labrun.compat.azureml` by hand.

The module `azureml` itself lies in `site/`, which only these two put on the path: an environment that has labrun does
not thereby have an `azureml`.
"""
