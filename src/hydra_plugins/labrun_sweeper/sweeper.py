"""Hydra's interface to labrun's sweeper. Thin, because Hydra imports every plug-in whenever an application starts."""

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
    """Runs a plain grid like Hydra's own sweeper, with the same order and numbering; with a sampler, it searches.

    Args:
        max_batch_size: as for Hydra's own sweeper, for a grid.
        params: the search space, in addition to the command line.
        settings: settings as in `NODE`, or those of a sweeper that this one replaces.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.settings = settings
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the objects that Hydra passes before the sweep starts."""
        self.task_function = task_function
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep or search that the arguments describe."""
        from hydra_plugins.labrun_sweeper._sweep import sweep

        return sweep(self, arguments)

    def grid(self, arguments: Sequence[str]) -> Any:
        """Run a full grid with Hydra's own sweeper, in a plain Hydra application."""
        return super().sweep(list(arguments))

    def launch(self, jobs: Sequence[Sequence[str]]) -> Any:
        """Run the jobs of a grid."""
        assert self.launcher is not None
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises the first failure
        return [results]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: the launcher composes every job before the first one starts."""


def _store() -> None:
    """Register this sweeper, also under the names of others that are not installed, so that configs for those work."""
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
