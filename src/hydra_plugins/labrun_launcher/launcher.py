"""Hydra's interface to labrun's launcher. Thin, because Hydra imports every plug-in whenever an application starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher

from hydra_plugins.labrun_launcher._node import NODE

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class LabrunLauncher(Launcher):
    """Runs the jobs of a sweep. A failed job does not affect the others."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the objects that Hydra passes before the sweep starts."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one job per list of overrides.

        Returns:
            One result per job, in order; that of a failed job holds its error.
        """
        from hydra_plugins.labrun_launcher._launch import launch

        return launch(self, job_overrides, initial_job_idx)


ConfigStore.instance().store(group="hydra/launcher", name="labrun", node=NODE, provider="labrun")
