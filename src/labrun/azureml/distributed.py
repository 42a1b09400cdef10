"""Several processes of a script, as `MpiConfiguration`, `PyTorchConfiguration` and `TensorflowConfiguration` ask for.

They run side by side: on one machine where there is one, and on as many as they ask for where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labrun.azureml import compute
from labrun.azureml.telling import once
from labrun.azureml.words import word
from labrun.backends import registry
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.config import paths
from labrun.tasks.ranks import TF_VARIABLE

COMMUNICATORS = ("Mpi", "IntelMpi", "OpenMpi", "Nccl", "Gloo")
"""Of a `RunConfiguration` in the old way: its `mpi` says how many processes."""


class MpiConfiguration:
    """So many processes on each node."""

    def __init__(self, process_count_per_node: int = 1, node_count: int = 1) -> None:
        self.process_count_per_node, self.node_count = process_count_per_node, node_count

    def processes(self, nodes: int) -> int:
        """In all, on so many nodes."""
        return int(self.process_count_per_node or 1) * nodes


class PyTorchConfiguration:
    """So many processes in all; by default one on each node."""

    def __init__(
        self, communication_backend: str = "Nccl", process_count: int | None = None, node_count: int = 1
    ) -> None:
        self.communication_backend, self.node_count = communication_backend, node_count
        self.process_count = process_count

    def processes(self, nodes: int) -> int:
        """In all, on so many nodes."""
        return int(self.process_count or nodes)


class TensorflowConfiguration:
    """Workers, which TensorFlow finds by TF_CONFIG; the first of them is the chief."""

    def __init__(self, worker_count: int = 1, parameter_server_count: int | None = None) -> None:
        self.worker_count, self.node_count = worker_count, 1
        self.servers = parameter_server_count
        """As given; None: nobody asked for any."""

    @property
    def parameter_server_count(self) -> int:
        """As given, or the SDK's default, which is one."""
        return 1 if self.servers is None else self.servers

    @parameter_server_count.setter
    def parameter_server_count(self, value: int) -> None:
        self.servers = value

    def processes(self, nodes: int) -> int:
        """In all, on so many nodes."""
        return int(self.worker_count or 1)


def words(config: Any, run_config: Any, target: Sequence[str]) -> list[str]:
    """How many processes, as words of labrun's command line.

    Args:
        config: one of the classes above, or None.
        run_config: the run's, which says it in the old way: `communicator`, `node_count`, `mpi`, `tensorflow`.
        target: the words of its compute target.

    Raises:
        UserErrorException: it asks for several machines where there are some, or for parameter servers.
    """
    nodes = int(run_config.node_count or 1)
    if config is None and run_config.communicator in COMMUNICATORS:
        config = MpiConfiguration(run_config.mpi.process_count_per_node, nodes)
    if config is None and run_config.communicator == "ParameterServer":
        config = run_config.tensorflow
    is_tensorflow = isinstance(config, TensorflowConfiguration)
    if is_tensorflow and config.servers is None and config.worker_count > 1:
        once(f"{config.worker_count} workers run and no parameter server, as parameter_server_count=0 asks for")
    if is_tensorflow and config.servers:
        raise UserErrorException(
            f"parameter_server_count={config.parameter_server_count}: labrun starts no parameter servers. Use workers "
            "alone: TensorflowConfiguration(worker_count=N) with MultiWorkerMirroredStrategy"
        )
    nodes = max(nodes, int(getattr(config, "node_count", 1) or 1))
    count = 1 if config is None else int(config.processes(nodes))
    if nodes > 1 and not _has_nodes(nodes, count, target, is_tensorflow):
        nodes = 1
    if count == 1:
        return []
    if count % nodes:
        raise UserErrorException(
            f"process_count={count} on node_count={nodes} machines: give a multiple of {nodes}, each has as many"
        )
    if isinstance(config, MpiConfiguration):
        where = "side by side" if nodes == 1 else f"on {nodes} machines"
        once(
            f"{count} processes run {where}, and find RANK, LOCAL_RANK, WORLD_SIZE and OMPI_COMM_WORLD_RANK; "
            f"there is no MPI: a script with mpi4py or Horovod wants command='mpirun -n {count} python SCRIPT.py'"
        )
    is_gpu = any(text in ("compute=gpu", "compute=slurm_gpu") for text in target)
    return [
        f"script.processes={count // nodes}",
        *([f"compute.nodes={nodes}"] if nodes > 1 else []),
        *([f"compute.gpus_per_run={count // nodes}"] if is_gpu else []),
        *([word(f"+compute.environment.{TF_VARIABLE}", "worker")] if is_tensorflow else []),
    ]


def _has_nodes(nodes: int, count: int, target: Sequence[str], is_tensorflow: bool) -> bool:
    """Whether several machines are used; where there is one, its processes run side by side, which is told.

    Raises:
        UserErrorException: there are several, and the script would not use them.
    """
    name = target[0].partition("=")[2]
    if "nodes" not in registry.get(_backend(name)).settings:
        how = f"its {count} processes run there side by side" if count > 1 else "and one process, as it names no others"
        once(f"node_count={nodes}: a script has one machine here, {how}")
        return False
    if is_tensorflow:
        raise UserErrorException(
            f"node_count={nodes} on compute={name}: TensorFlow's workers run on one machine. Ask for them there: "
            f"TensorflowConfiguration(worker_count={max(count, nodes)}) and node_count=1"
        )
    if count == 1:
        raise UserErrorException(
            f"node_count={nodes} on compute={name}, and one process: say how many there are, as "
            f"MpiConfiguration(node_count={nodes}) or PyTorchConfiguration(node_count={nodes}), or say node_count=1"
        )
    return True


def _backend(name: str) -> str:
    """What a choice of `compute=` runs on: said by its file, or by one that it builds on."""
    told = paths.option("compute", name)
    if told.get("target"):
        return str(told["target"])
    bases = [one for one in told.get("defaults") or () if isinstance(one, str) and one not in ("_self_", name)]
    return next((_backend(base) for base in bases), compute.DEFAULT)
