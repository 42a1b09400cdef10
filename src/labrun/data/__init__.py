"""Data loading, from datastore to batches: datastore -> mount -> reader -> arrays -> batches."""
