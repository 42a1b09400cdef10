"""Hydra's side of labrun's sweeper: the full grid of what is given with commas, in Hydra's own order and numbering."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


class LabrunSweeper(BasicSweeper):
    """Hydra's grid, without composing every job twice: labrun's launcher composes all before any starts."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher."""


NODE = {"_target_": "hydra_plugins.labrun_sweeper.sweeper.LabrunSweeper", "max_batch_size": None, "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="labrun", node=NODE, provider="labrun")
