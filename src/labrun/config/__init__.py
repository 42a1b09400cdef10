"""The configuration: where its files are, and what Hydra does around a job."""
