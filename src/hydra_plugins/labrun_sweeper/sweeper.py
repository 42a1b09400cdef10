"""Hydra's side of labrun's sweeper: thin, since Hydra imports every plug-in at each start of each application."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.labrun_sweeper._nodes import AX, NEVERGRAD, NODE, OPTUNA, SAMPLERS


class LabrunSweeper(BasicSweeper):
    """A plain grid is as Hydra's own, same order and numbering; with a sampler it searches.

    Args:
        max_batch_size: of a grid, see Hydra's own.
        params: what varies, beside the command line.
        settings: those of `NODE`, or of a sweeper that this one stands for.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.settings = settings
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives before the sweep begins."""
        self.task_function = task_function
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

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


def _store() -> None:
    """Offer this sweeper; and in the place of others that are not installed, so that a YAML which names them works."""
    store = ConfigStore.instance().store
    store(group="hydra/sweeper", name="labrun", node=NODE, provider="labrun")
    for name, node in (("optuna", OPTUNA), ("ax", AX), ("nevergrad", NEVERGRAD)):
        if find_spec(f"hydra_plugins.hydra_{name}_sweeper") is None:
            store(group="hydra/sweeper", name=name, node=node, provider="labrun")
            for sampler, kind in SAMPLERS.items() if name == "optuna" else ():
                target, *keys = kind.split()
                made = {"_target_": f"optuna.samplers.{target}", **dict.fromkeys(["seed", *keys])}
                store(group="hydra/sweeper/sampler", name=sampler, node=made, provider="labrun")


_store()
