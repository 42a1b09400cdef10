"""Several processes of a script, as `MpiConfiguration`, `PyTorchConfiguration` and `TensorflowConfiguration` ask for.

They run side by side on one machine; several machines are for labrun's own networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labrun.azureml.telling import once

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
    """Workers, which TensorFlow finds by TF_CONFIG."""

    def __init__(self, worker_count: int = 1, parameter_server_count: int = 0) -> None:
        self.worker_count, self.parameter_server_count = worker_count, parameter_server_count
        self.node_count = 1

    @property
    def processes(self) -> int:
        """One: TF_CONFIG is not carried out."""
        if self.worker_count > 1 or self.parameter_server_count:
            once("TensorflowConfiguration: labrun starts one worker, and no parameter servers")
        return 1


def words(config: Any, run_config: Any, target: Sequence[str]) -> list[str]:
    """How many processes, as words of labrun's command line.

    Args:
        config: one of the classes above, or None.
        run_config: the run's, which says it in the old way: `communicator`, `node_count`, `mpi`.
        target: the words of its compute target.
    """
    nodes = int(run_config.node_count or 1)
    if config is None and run_config.communicator in COMMUNICATORS:
        config = MpiConfiguration(run_config.mpi.process_count_per_node, nodes)
    count = 1 if config is None else int(config.processes)
    nodes = max(nodes, int(getattr(config, "node_count", 1) or 1))
    if nodes > 1:
        once(f"node_count={nodes}: a script has one machine here; {count} of its processes run there side by side")
    if count == 1:
        return []
    if isinstance(config, MpiConfiguration):
        once(
            f"{count} processes run side by side, and find RANK, LOCAL_RANK, WORLD_SIZE and OMPI_COMM_WORLD_RANK; "
            f"there is no MPI: a script with mpi4py or Horovod wants command='mpirun -n {count} python SCRIPT.py'"
        )
    is_gpu = any(text in ("compute=gpu", "compute=slurm_gpu") for text in target)
    return [f"script.processes={count}", *([f"compute.gpus_per_run={count}"] if is_gpu else [])]
