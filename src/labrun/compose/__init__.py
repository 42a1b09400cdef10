"""The composed configuration: locations of its files, conversion to plain values, and Hydra's handling of jobs."""
