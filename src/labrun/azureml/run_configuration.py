"""`RunConfiguration`: the compute target and the environment of a script."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from labrun.azureml.advice import Advising
from labrun.azureml.distributed import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from labrun.azureml.elements import Element
from labrun.azureml.notices import notify_once


class RunConfiguration(Element, Advising):
    """The settings of a run other than its script.

    Args:
        script: the script to use if `ScriptRunConfig` is given neither script nor command.
        arguments: the arguments to use if `ScriptRunConfig` is given none.
        framework: kept as text.
        communicator: kept as text.
        conda_dependencies: packages; the same as `environment.python.conda_dependencies`.
    """

    def __init__(
        self,
        script: str | None = None,
        arguments: Any = None,
        framework: str | None = None,
        communicator: str | None = None,
        conda_dependencies: Any = None,
        _history_enabled: Any = None,
        _path: Any = None,
        _name: Any = None,
        command: Any = None,
    ) -> None:
        self.script, self.arguments = script, list(arguments or [])
        self.framework, self.communicator = framework or "Python", communicator
        self.target: Any = "local"
        self.command: Any = command
        self.auto_prepare_environment = self.prepare_environment = True
        self.node_count = 1
        self.max_run_duration_seconds: float | None = None
        self.data: dict[str, Any] = {}
        self.data_references: dict[str, Any] = {}
        self.output_data: dict[str, Any] = {}
        self.source_directory_data_store: str | None = None
        self.docker = SimpleNamespace(use_docker=True, shm_size=None, arguments=[])
        self.history = SimpleNamespace(output_collection=True, snapshot_project=True, directories_to_watch=["logs"])
        self.amlcompute = SimpleNamespace(
            vm_size=None, vm_priority=None, retain_cluster=False, _cluster_max_node_count=1
        )
        self.mpi = MpiConfiguration()
        self.pytorch = PyTorchConfiguration()
        self.tensorflow = TensorflowConfiguration()
        self.spark = SimpleNamespace(configuration={})
        self.hdi = SimpleNamespace(yarn_deploy_mode="cluster")
        self.credential_passthrough = False
        self.priority = self.paralleltask = self.kubernetescompute = self.auto_cluster_compute_specification = None
        self.datacaches: list[Any] = []
        self.services: dict[str, Any] = {}
        self._environment: Any = None
        if conda_dependencies is not None:
            self.environment.python.conda_dependencies = conda_dependencies
        self._complete()

    def __repr__(self) -> str:
        return f"RunConfiguration(target={getattr(self.target, 'name', self.target)}, framework={self.framework})"

    @property
    def environment(self) -> Any:
        """The environment, created on first access."""
        if self._environment is None:
            from labrun.azureml.environment import Environment  # here: with it come the parsers of package versions

            self._environment = Environment("labrun-default")
        return self._environment

    @environment.setter
    def environment(self, value: Any) -> None:
        self._environment = value

    @property
    def environment_variables(self) -> dict[str, str]:
        """The environment variables for the script."""
        found: dict[str, str] = self.environment.environment_variables
        return found

    @environment_variables.setter
    def environment_variables(self, value: dict[str, str]) -> None:
        self.environment.environment_variables = dict(value)

    def save(self, path: Any = None, name: str | None = None, separate_environment_yaml: bool = False) -> None:
        """Print a notice, once, that nothing is written: the run's record holds what was submitted."""
        notify_once("RunConfiguration.save: nothing is written: a run's record holds what was submitted")

    @staticmethod
    def load(path: Any, name: str | None = None) -> RunConfiguration:
        """Raise: labrun does not read `.runconfig` files."""
        from labrun.compat.azureml.absent import not_here

        not_here(
            f"RunConfiguration.load({str(path)!r})",
            "create it in Python, RunConfiguration(), or write a YAML file in conf/",
        )
