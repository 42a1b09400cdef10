"""The part of the Azure ML SDK v1 that training scripts use. It works in any Python, with the standard library alone.

run.py       the script's run: metrics, files, tags
data.py      the inputs mounted by the run's config, and local tables
model.py     registered models, for reading
"""
