"""From a place to arrays: datastore -> mount -> reader -> arrays -> batches."""
