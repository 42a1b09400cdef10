"""Reads the progress of training from a Lightning checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_of_an_epochs_end(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint is a complete state to resume from, written at the end of an epoch."""
    try:
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        return bool(epochs["processed"] == epochs["ready"] and checkpoint["optimizer_states"] is not None)
    except (KeyError, TypeError):
        return False


def is_midway(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint was written before the last batch of an epoch."""
    try:
        is_last = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    except (KeyError, TypeError):
        return False
    return not is_last and not is_of_an_epochs_end(checkpoint)


def epochs_in(checkpoint: Mapping[str, Any]) -> int:
    """Return the number of epochs completed when a checkpoint was written."""
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):
        return int(checkpoint["epoch"]) + 1


def in_words(checkpoint: Mapping[str, Any]) -> str:
    """Describe the position in training at which a checkpoint was written."""
    try:
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    except (KeyError, TypeError):
        return f"after epoch {epochs_in(checkpoint)}"
    return f"in epoch {epochs_in(checkpoint) + 1}, after {batches} of its batches"
