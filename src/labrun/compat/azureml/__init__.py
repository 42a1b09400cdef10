"""Support for scripts of the Azure ML SDK v1: `runner.py` runs one in a run, `python -m labrun.compat.azureml` by hand.

The module `azureml` is in `site/`, which only these two put on the path: installing labrun does not install `azureml`.
"""
