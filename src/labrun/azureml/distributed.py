"""Several processes of a script, as `MpiConfiguration`, `PyTorchConfiguration` and `TensorflowConfiguration` ask for.

They run side by side on one machine; several machines are for labrun's own networks. A target of several machines
refuses a script that asks for more than one.
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

    @property
    def processes(self) -> int:
        """In all."""
        return int(self.process_count_per_node or 1) * int(self.node_count or 1)


class PyTorchConfiguration:
    """So many processes in all; by default one on each node."""

    def __init__(
        self, communication_backend: str = "Nccl", process_count: int | None = None, node_count: int = 1
    ) -> None:
        self.communication_backend, self.node_count = communication_backend, node_count
        self.process_count = process_count

    @property
    def processes(self) -> int:
        """In all."""
        return int(self.process_count or self.node_count or 1)


class TensorflowConfiguration:
    """Workers, which TensorFlow finds by TF_CONFIG; the first of them is the chief."""

    def __init__(self, worker_count: int = 1, parameter_server_count: int = 0) -> None:
        self.worker_count, self.parameter_server_count = worker_count, parameter_server_count
        self.node_count = 1

    @property
    def processes(self) -> int:
        """In all."""
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
        told = run_config.tensorflow
        config = TensorflowConfiguration(told.worker_count, told.parameter_server_count)
    is_tensorflow = isinstance(config, TensorflowConfiguration)
    if is_tensorflow and config.parameter_server_count:
        raise UserErrorException(
            f"parameter_server_count={config.parameter_server_count}: labrun starts no parameter servers. Use workers "
            "alone: TensorflowConfiguration(worker_count=N) with MultiWorkerMirroredStrategy"
        )
    count = 1 if config is None else int(config.processes)
    nodes = max(nodes, int(getattr(config, "node_count", 1) or 1))
    if nodes > 1:
        _check_nodes(nodes, count, target)
    if count == 1:
        return []
    if isinstance(config, MpiConfiguration):
        once(
            f"{count} processes run side by side, and find RANK, LOCAL_RANK, WORLD_SIZE and OMPI_COMM_WORLD_RANK; "
            f"there is no MPI: a script with mpi4py or Horovod wants command='mpirun -n {count} python SCRIPT.py'"
        )
    is_gpu = any(text in ("compute=gpu", "compute=slurm_gpu") for text in target)
    return [
        f"script.processes={count}",
        *([f"compute.gpus_per_run={count}"] if is_gpu else []),
        *([word(f"+compute.environment.{TF_VARIABLE}", "worker")] if is_tensorflow else []),
    ]


def _check_nodes(nodes: int, count: int, target: Sequence[str]) -> None:
    """Several machines: side by side where there is one; refused where there are several, and would not be used.

    Raises:
        UserErrorException: see above.
    """
    name = target[0].partition("=")[2]
    if "nodes" in registry.get(_backend(name)).settings:
        raise UserErrorException(
            f"node_count={nodes} on compute={name}: the processes of a script run on one machine there. Ask for them "
            f"on one: MpiConfiguration(process_count_per_node={max(count, nodes)}, node_count=1), or "
            f"PyTorchConfiguration(process_count={max(count, nodes)}, node_count=1)"
        )
    how = f"its {count} processes run there side by side" if count > 1 else "and one process, as it names no others"
    once(f"node_count={nodes}: a script has one machine here, {how}")


def _backend(name: str) -> str:
    """What a choice of `compute=` runs on: said by its file, or by one that it builds on."""
    told = paths.option("compute", name)
    if told.get("target"):
        return str(told["target"])
    bases = [one for one in told.get("defaults") or () if isinstance(one, str) and one not in ("_self_", name)]
    return next((_backend(base) for base in bases), compute.DEFAULT)
