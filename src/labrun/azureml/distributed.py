"""Multi-process runs: `MpiConfiguration`, `PyTorchConfiguration` and `TensorflowConfiguration`.

On a compute target with several nodes, the processes run on as many nodes as requested; otherwise all on one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labrun.azureml import compute
from labrun.azureml.elements import Element
from labrun.azureml.notices import notify_once
from labrun.azureml.overrides import override
from labrun.backends import registry
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compose import paths
from labrun.tasks.script.ranks import TF_VARIABLE

COMMUNICATORS = ("Mpi", "IntelMpi", "OpenMpi", "Nccl", "Gloo")
"""Communicators of an old-style `RunConfiguration`, whose `mpi` holds the number of processes."""


class MpiConfiguration(Element):
    """A number of processes per node."""

    def __init__(self, process_count_per_node: int = 1, node_count: int = 1) -> None:
        self.process_count_per_node, self.node_count = process_count_per_node, node_count
        self._complete()

    def processes(self, nodes: int) -> int:
        """Return the total number of processes on this many nodes."""
        return int(self.process_count_per_node or 1) * nodes


class PyTorchConfiguration(Element):
    """A total number of processes; by default one per node."""

    def __init__(
        self, communication_backend: str = "Nccl", process_count: int | None = None, node_count: int = 1
    ) -> None:
        self.communication_backend, self.node_count = communication_backend, node_count
        self.process_count = process_count
        self._complete()

    def processes(self, nodes: int) -> int:
        """Return the total number of processes on this many nodes."""
        return int(self.process_count or nodes)


class TensorflowConfiguration(Element):
    """Workers, which find each other through TF_CONFIG; the first is the chief."""

    def __init__(self, worker_count: int = 1, parameter_server_count: int | None = None) -> None:
        self.worker_count, self.node_count = worker_count, 1
        self.servers = parameter_server_count
        """The requested parameter servers; None if not given."""
        self._complete()

    @property
    def parameter_server_count(self) -> int:
        """The requested number, or the SDK's default of one."""
        return 1 if self.servers is None else self.servers

    @parameter_server_count.setter
    def parameter_server_count(self, value: int) -> None:
        self.servers = value

    def processes(self, nodes: int) -> int:
        """Return the total number of processes, whatever the number of nodes."""
        return int(self.worker_count or 1)


def overrides(config: Any, run_config: Any, target: Sequence[str]) -> list[str]:
    """Return the number of processes and nodes as arguments for the `labrun` command.

    Args:
        config: one of the classes above, or None.
        run_config: the run's settings, for the old style: `communicator`, `node_count`, `mpi`, `pytorch`,
            `tensorflow`.
        target: the compute target's arguments for the `labrun` command.

    Raises:
        UserErrorException: the processes cannot be distributed over the nodes, or parameter servers are requested.
    """
    nodes = int(run_config.node_count or 1)
    if config is None:
        config = _of_communicator(run_config, nodes)
    is_tensorflow = isinstance(config, TensorflowConfiguration)
    if is_tensorflow and config.servers is None and config.worker_count > 1:
        notify_once(f"{config.worker_count} workers run without a parameter server, as with parameter_server_count=0")
    if is_tensorflow and config.servers:
        raise UserErrorException(
            f"parameter_server_count={config.parameter_server_count}: labrun starts no parameter servers. Use only "
            "workers: TensorflowConfiguration(worker_count=N) with MultiWorkerMirroredStrategy"
        )
    nodes = max(nodes, int(getattr(config, "node_count", 1) or 1))
    count = 1 if config is None else int(config.processes(nodes))
    if nodes > 1 and not _has_nodes(nodes, count, target, is_tensorflow):
        nodes = 1
    if count == 1:
        return []
    if count % nodes:
        raise UserErrorException(
            f"process_count={count} on node_count={nodes} machines: give a multiple of {nodes}, the same number on each"
        )
    if isinstance(config, MpiConfiguration):
        where = "side by side" if nodes == 1 else f"on {nodes} machines"
        notify_once(
            f"{count} processes run {where}, with RANK, LOCAL_RANK, WORLD_SIZE and OMPI_COMM_WORLD_RANK set; "
            f"there is no MPI: a script with mpi4py or Horovod needs command='mpirun -n {count} python SCRIPT.py'"
        )
    name = next((text.partition("=")[2] for text in target if text.startswith("compute=")), "")
    is_gpu = bool(_setting(name, "gpus_per_run"))
    return [
        f"script.processes={count // nodes}",
        *([f"compute.nodes={nodes}"] if nodes > 1 else []),
        *([f"compute.gpus_per_run={count // nodes}"] if is_gpu else []),
        *([override(f"+compute.environment.{TF_VARIABLE}", "worker")] if is_tensorflow else []),
    ]


def _of_communicator(run_config: Any, nodes: int) -> Any:
    """Return what the old style, `run_config.communicator`, stands for; None for a single process."""
    communicator = run_config.communicator
    if communicator in ("Nccl", "Gloo") and run_config.pytorch.process_count is not None:
        return PyTorchConfiguration(communicator, run_config.pytorch.process_count, nodes)
    if communicator in COMMUNICATORS:
        return MpiConfiguration(run_config.mpi.process_count_per_node, nodes)
    return run_config.tensorflow if communicator == "ParameterServer" else None


def _has_nodes(nodes: int, count: int, target: Sequence[str], is_tensorflow: bool) -> bool:
    """Return whether the target has several nodes. If not, print a notice that the processes share one machine.

    Raises:
        UserErrorException: the target has several nodes, but the script would not use them.
    """
    name = target[0].partition("=")[2]
    if "nodes" not in registry.get(str(_setting(name, "target") or compute.DEFAULT)).settings:
        how = f"where its {count} processes run side by side" if count > 1 else "in one process, as it asks for no more"
        notify_once(f"node_count={nodes}: a script runs on one machine, {how}")
        return False
    if is_tensorflow:
        raise UserErrorException(
            f"node_count={nodes} on compute={name}: TensorFlow's workers run on one machine. Request them with "
            f"TensorflowConfiguration(worker_count={max(count, nodes)}) and node_count=1"
        )
    if count == 1:
        raise UserErrorException(
            f"node_count={nodes} on compute={name}, but one process: give the number of processes, as in "
            f"MpiConfiguration(node_count={nodes}) or PyTorchConfiguration(node_count={nodes}), or set node_count=1"
        )
    return True


def _setting(name: str, key: str) -> Any:
    """Return a key of a choice of `compute=`, from its file or one that it extends; None if they do not set it."""
    option = paths.option("compute", name)
    if option.get(key) is not None:
        return option[key]
    bases = [one for one in option.get("defaults") or () if isinstance(one, str) and one not in ("_self_", name)]
    return next((found for found in (_setting(base, key) for base in bases) if found is not None), None)
