"""`Estimator` and those of frameworks: a script with what it needs, as the SDK had it before `ScriptRunConfig`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from labrun.azureml.conda_dependencies import CondaDependencies, from_pip_requirements
from labrun.azureml.distributed import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from labrun.azureml.environment import Environment
from labrun.azureml.local_paths import local
from labrun.azureml.run_configuration import RunConfiguration
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.submitting import Config
from labrun.azureml.telling import once
from labrun.compat.azureml.exceptions import UserErrorException

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment


class Estimator(Config):
    """What `Experiment.submit` takes to run a script.

    Args:
        source_directory: the folder that the run gets a copy of; None: the current one.
        compute_target: where it runs; None: as `local`.
        entry_script: the script, below that folder.
        script_params: its arguments by their names; one whose value is '' or None is a flag.
        inputs: data sets and references that the script finds by their names.
        node_count: of machines; labrun has one.
        process_count_per_node: of processes, side by side.
        distributed_backend: `mpi` and so on; the processes are told their ranks.
        distributed_training: `MpiConfiguration` and the like, in place of these.
        use_gpu: not used: the compute target says whether there is one.
        conda_packages: what the environment holds besides, by conda's names.
        pip_packages: the same, by PyPI's.
        conda_dependencies_file: a conda file, in their place; below the folder, or a path.
        pip_requirements_file: a requirements file, besides.
        conda_dependencies_file_path: the older name.
        pip_requirements_file_path: the older name.
        environment_definition: an `Environment`, in place of all of these.
        environment_variables: for the script.
        framework_version: of the framework's package.
        user_managed: the present interpreter, whatever is named.
        max_run_duration_seconds: a limit.
        resume_from: a run; not used.
        custom_docker_image: not used, and told.
        **kwargs: whatever else the SDK's constructor takes of machines and Docker; not used.

    Raises:
        UserErrorException: no script is named, or a file is not there.
    """

    packages: ClassVar[Sequence[str]] = ()
    """The framework's; the first is the one whose version is `framework_version`."""

    def __init__(
        self,
        source_directory: Any = None,
        *,
        compute_target: Any = None,
        entry_script: str | None = None,
        script_params: Mapping[str, Any] | None = None,
        inputs: Sequence[Any] | None = None,
        node_count: int = 1,
        process_count_per_node: int = 1,
        distributed_backend: str | None = None,
        distributed_training: Any = None,
        use_gpu: bool = False,
        conda_packages: Sequence[str] | None = None,
        pip_packages: Sequence[str] | None = None,
        conda_dependencies_file: Any = None,
        pip_requirements_file: Any = None,
        conda_dependencies_file_path: Any = None,
        pip_requirements_file_path: Any = None,
        environment_definition: Any = None,
        environment_variables: Mapping[str, str] | None = None,
        framework_version: str | None = None,
        user_managed: bool = False,
        max_run_duration_seconds: float | None = None,
        resume_from: Any = None,
        custom_docker_image: str | None = None,
        **kwargs: Any,
    ) -> None:
        if entry_script is None:
            raise UserErrorException(f"{type(self).__name__}: entry_script= names the script")
        if script_params is not None and not isinstance(script_params, Mapping):
            raise UserErrorException(
                f"{type(self).__name__}: script_params={script_params!r}: give a dictionary, {{'--rate': 0.1}}"
            )
        self.source_directory = str(local(source_directory or "."))
        self.entry_script = str(local(entry_script, self.source_directory))
        self.script_params = dict(script_params or {})
        self.distributed_training = distributed_training or _processes(
            distributed_backend, node_count, process_count_per_node, kwargs
        )
        if use_gpu:
            once("use_gpu=True is not used: whether there is a GPU is for the compute target to say (--compute gpu)")
        self.run_config = RunConfiguration()
        self.run_config.target = compute_target if compute_target is not None else "local"
        self.run_config.node_count = int(node_count or 1)
        self.run_config.max_run_duration_seconds = max_run_duration_seconds
        for number, item in enumerate(inputs or []):
            name = getattr(item, "labrun_alias", None) or getattr(item, "data_reference_name", None)
            self.run_config.data[str(name or f"input_{number}")] = item
        environment = environment_definition
        if environment is None:
            environment = Environment(f"{type(self).__name__.lower()}-of-{Path(entry_script).stem}")
            environment.python.user_managed_dependencies = bool(user_managed)
            image = custom_docker_image or kwargs.get("custom_docker_base_image")
            environment.docker.base_image = image or environment.docker.base_image
            environment.python.conda_dependencies = self._dependencies(
                conda_dependencies_file or conda_dependencies_file_path,
                pip_requirements_file or pip_requirements_file_path,
                framework_version,
                conda_packages,
                pip_packages,
            )
        environment.environment_variables.update(environment_variables or {})
        self.run_config.environment = environment

    def _dependencies(
        self,
        conda_file: Any,
        pip_file: Any,
        version: str | None,
        conda_packages: Sequence[str] | None,
        pip_packages: Sequence[str] | None,
    ) -> CondaDependencies:
        made = CondaDependencies(None if conda_file is None else self._file(conda_file))
        for number, name in enumerate(self.packages if conda_file is None else ()):
            pinned = number == 0 and version and re.fullmatch(r"[\d.]+", version)
            made.add_pip_package(f"{name}=={version}.*" if pinned else name)
        for one in conda_packages or ():
            made.add_conda_package(one)
        listed = [] if pip_file is None else list(from_pip_requirements(self._file(pip_file)).pip_packages)
        for one in [*listed, *(pip_packages or ())]:
            made.add_pip_package(one)
        return made

    def _file(self, name: Any) -> Path:
        """A file that is named below the folder, or by a path of its own."""
        below = Path(self.source_directory, local(name, self.source_directory))
        return below if below.is_file() else local(name)

    @property
    def conda_dependencies(self) -> CondaDependencies:
        """Its packages, which can be changed."""
        found: CondaDependencies = self.run_config.environment.python.conda_dependencies
        return found

    def words(self, experiment: Experiment) -> list[str]:
        """What is typed after `labrun`."""
        arguments: list[Any] = []
        for name, value in self.script_params.items():
            arguments += [name] if value is None or (isinstance(value, str) and value == "") else [name, value]
        config = ScriptRunConfig(
            self.source_directory,
            self.entry_script,
            arguments,
            self.run_config,
            distributed_job_config=self.distributed_training,
        )
        return config.words(experiment)


def _processes(backend: str | None, nodes: int, per_node: int, others: Mapping[str, Any]) -> Any:
    """What the older arguments say of processes; None where they ask for one."""
    workers, servers = others.get("worker_count", 1), others.get("parameter_server_count")
    if workers > 1 or servers:
        return TensorflowConfiguration(workers, servers)
    if int(nodes or 1) * int(per_node or 1) > 1:
        return MpiConfiguration(per_node, nodes)
    return None


class PyTorch(Estimator):
    """A script with PyTorch."""

    packages = ("torch", "torchvision")


class TensorFlow(Estimator):
    """A script with TensorFlow."""

    packages = ("tensorflow",)


class Chainer(Estimator):
    """A script with Chainer."""

    packages = ("chainer",)


class SKLearn(Estimator):
    """A script with scikit-learn."""

    packages = ("scikit-learn",)


class Mpi(MpiConfiguration):
    """The name of 2019."""


class Nccl(PyTorchConfiguration):
    """The name of 2019; the processes are those of the nodes."""


class Gloo(PyTorchConfiguration):
    """The name of 2019; the processes are those of the nodes."""


class ParameterServer(TensorflowConfiguration):
    """The name of 2019."""
