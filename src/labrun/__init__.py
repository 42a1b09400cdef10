"""labrun: declarative experiments. Compose with Hydra, run anywhere, keep a true record of every run."""

from labrun.runs.context import log

__all__ = ["log"]
