"""What a training script uses of the Azure ML SDK v1: in any Python, with the standard library alone.

run.py       the run that the script belongs to: metrics, files, tags
data.py      the inputs that the run's config mounted, and local tables
model.py     registered models, to read
"""
