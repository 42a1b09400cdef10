"""The names under which Lightning logs a metric."""

from __future__ import annotations

from collections.abc import Iterable

OF_A_LOADER = "/dataloader_idx_"
"""Separates a metric's name from the index of its loader if there are several loaders."""


def is_fork(name: str, logged: Iterable[str]) -> bool:
    """Return whether Lightning derived a metric from another: `loss_step` or `loss_epoch`, if `loss` exists."""
    return unforked(name) != name and unforked(name) in logged


def unforked(name: str, *suffixes: str) -> str:
    """Strip the suffixes that Lightning adds from a metric's name: by default `_step` and `_epoch`."""
    head, mark, loader = name.partition(OF_A_LOADER)
    for suffix in suffixes or ("_step", "_epoch"):
        head = head.removesuffix(suffix)
    return f"{head}{mark}{loader}"
