"""`Estimator` and its framework subclasses: the SDK's way to describe a script run before `ScriptRunConfig`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from labrun.azureml.conda_dependencies import CondaDependencies, from_pip_requirements
from labrun.azureml.distributed import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from labrun.azureml.environment import Environment
from labrun.azureml.local_paths import local
from labrun.azureml.notices import notify_once
from labrun.azureml.run_configuration import RunConfiguration
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.submitting import Config
from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import UserErrorException

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment

BACKENDS = ("mpi", "nccl", "gloo", "ps")
OTHERS = frozenset(
    (
        "worker_count",
        "parameter_server_count",
        "vm_size",
        "vm_priority",
        "shm_size",
        "use_docker",
        "custom_docker_base_image",
        "image_registry_details",
        "source_directory_data_store",
        "_disable_validation",
        "_enable_optimized_mode",
        "_show_lint_warnings",
        "_show_package_warnings",
    )
)
"""The SDK's arguments that only some of its estimators and releases have."""


class Estimator(Config):
    """The configuration of a script run, for `Experiment.submit`.

    Args:
        source_directory: the folder that is copied into the run; None: the current one.
        compute_target: the compute target; None: `local`.
        entry_script: the script's path, relative to that folder.
        script_params: the script's arguments by name; one whose value is '' or None is a flag.
        inputs: data sets and data references that the script finds by name.
        node_count: the number of machines; see `distributed`.
        process_count_per_node: the number of processes per machine.
        distributed_backend: `mpi`, `nccl`, `gloo` or, for workers that find each other through TF_CONFIG, `ps`.
        distributed_training: an `MpiConfiguration` or similar, in place of the three arguments above.
        use_gpu: not used: the compute target decides whether there is a GPU.
        conda_packages: additional packages by their conda names.
        pip_packages: additional packages by their PyPI names.
        conda_dependencies_file: a conda file that replaces the framework's packages; relative to the folder, or a path.
        pip_requirements_file: a requirements file with additional packages.
        conda_dependencies_file_path: the older name of `conda_dependencies_file`.
        pip_requirements_file_path: the older name of `pip_requirements_file`.
        environment_definition: an `Environment`, in place of all package arguments.
        environment_variables: environment variables for the script.
        framework_version: the version of the framework's package.
        user_managed: use the current interpreter, whatever packages are listed.
        max_run_duration_seconds: time limit in seconds.
        resume_from: a `DataPath`, passed to the script as `--resume-from PATH`.
        custom_docker_image: not used; a notice is printed.
        **kwargs: `worker_count`, `parameter_server_count`, and the SDK's arguments for machines and Docker, which are
            not used.

    Raises:
        UserErrorException: no script is given, a file does not exist, or an argument is invalid.
        TypeError: an argument is not one of the SDK's.
    """

    packages: ClassVar[Sequence[str]] = ()
    """The framework's packages; `framework_version` is the version of the first."""

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
        unknown = sorted(kwargs.keys() - OTHERS)
        if unknown:
            known = (*inspect.signature(Estimator).parameters, *OTHERS)
            arguments.refuse(type(self).__name__, unknown[0], (name for name in known if name != "kwargs"))
        if entry_script is None:
            raise UserErrorException(f"{type(self).__name__}: give the script, entry_script='train.py'")
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
            notify_once("use_gpu=True is not used: the compute target decides whether there is a GPU (--compute gpu)")
        self.resume_from = resume_from
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
        """Return a file's path, relative to the source folder if it exists there."""
        below = Path(self.source_directory, local(name, self.source_directory))
        return below if below.is_file() else local(name)

    @property
    def conda_dependencies(self) -> CondaDependencies:
        """The environment's packages, which can be edited."""
        found: CondaDependencies = self.run_config.environment.python.conda_dependencies
        return found

    def overrides(self, experiment: Experiment) -> list[str]:
        """Return the arguments for the `labrun` command."""
        arguments: list[Any] = []
        for name, value in self.script_params.items():
            arguments += [name] if value is None or (isinstance(value, str) and value == "") else [name, value]
        config = ScriptRunConfig(
            self.source_directory,
            self.entry_script,
            arguments,
            self.run_config,
            distributed_job_config=self.distributed_training,
            resume_from=self.resume_from,
        )
        return config.overrides(experiment)


def _processes(backend: str | None, nodes: int, per_node: int, others: Mapping[str, Any]) -> Any:
    """Return the process configuration of the older arguments; None for a single process.

    Raises:
        UserErrorException: the backend is unknown.
    """
    kind = None if backend is None else str(backend).lower()
    if kind not in (None, *BACKENDS):
        raise UserErrorException(f"distributed_backend={backend!r}: choose one of {', '.join(BACKENDS)}")
    nodes, per_node = int(nodes or 1), int(per_node or 1)
    workers, servers = others.get("worker_count") or 1, others.get("parameter_server_count")
    if kind == "ps":
        workers = max(workers, nodes * per_node)
    if workers > 1 or servers:
        return TensorflowConfiguration(workers, servers)
    if nodes * per_node == 1:
        return None
    if kind in ("nccl", "gloo"):
        return PyTorchConfiguration(kind.title(), nodes * per_node, nodes)
    return MpiConfiguration(per_node, nodes)


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
    """The SDK's name for it in 2019."""


class Nccl(PyTorchConfiguration):
    """The SDK's name for it in 2019, with one process per node."""


class Gloo(PyTorchConfiguration):
    """The SDK's name for it in 2019, with one process per node."""


class ParameterServer(TensorflowConfiguration):
    """The SDK's name for it in 2019."""
