"""Hydra's side of labrun's sweeper: thin, since Hydra imports every plug-in at each start of each application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


class LabrunSweeper(BasicSweeper):
    """A plain grid is as Hydra's own, same order and numbering; `sweep=tpe` and its like search."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run what the arguments ask for."""
        from hydra_plugins.labrun_sweeper._sweep import sweep

        return sweep(self, arguments)

    def grid(self, arguments: Sequence[str]) -> Any:
        """The full grid of what is given with commas, in an application that is not labrun."""
        return super().sweep(list(arguments))

    def launch(self, jobs: Sequence[Sequence[str]]) -> Any:
        """Run these jobs, as a grid's."""
        assert self.launcher is not None
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises the first failure
        return [results]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher, which composes every job before any starts."""


NODE = {"_target_": "hydra_plugins.labrun_sweeper.sweeper.LabrunSweeper", "max_batch_size": None, "params": None}
ConfigStore.instance().store(group="hydra/sweeper", name="labrun", node=NODE, provider="labrun")
