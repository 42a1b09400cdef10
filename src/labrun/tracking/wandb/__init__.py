"""Weights & Biases as a view of the records: offline runs, which `wandb sync` uploads."""
