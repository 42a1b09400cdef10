"""The local pool as a backend."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from labrun.backends import this_machine
from labrun.backends.base import Backend, Calls, Capacity, Head
from labrun.backends.local.pool import LocalPool
from labrun.backends.local.server import Server
from labrun.backends.local.slots import Slots
from labrun.config.schema import Compute
from labrun.runs import machine
from labrun.runs.sweep_state import Plan

log = logging.getLogger(__name__)


class Local(Backend):
    """Executes runs in a pool of local processes, forked from a server that has imported their modules."""

    name = "local"
    starts_ahead = True
    settings = frozenset({"tasks_per_node"})

    def problems(self, compute: Compute) -> Iterator[str]:
        """Yield a message for everything that this machine lacks."""
        return this_machine.problems(compute)

    def summary(self, compute: Compute) -> str:
        """Describe this machine's cores and memory, or its GPUs."""
        return this_machine.summary(compute)

    def capacity(self, needs: Sequence[tuple[int, int]], compute: Compute) -> Capacity:
        """Return as many runs as the cores and GPUs allow, or `max_parallel` if it is set."""
        cores = machine.cores() if compute.max_parallel is None else None
        gpus = machine.visible_gpus() if any(count for _, count in needs) else None
        slots = Slots(sys.maxsize, machine.cores(), gpus, compute.runs_per_gpu)
        without_gpu, with_gpu = (
            [slots.carries(*one) for one in set(needs) if bool(one[1]) == is_one] for is_one in (False, True)
        )
        most = compute.max_parallel or max(without_gpu, default=0) + max(with_gpu, default=0)
        if cores is None and most * compute.cpus_per_run > machine.cores():
            log.info("%d runs of %d cores at once, on %d cores", most, compute.cpus_per_run, machine.cores())
        return Capacity(most, cores)

    def start_ahead(self, compute: Compute, path: Sequence[str], targets: Sequence[str]) -> Server:
        """Start the fork server, which imports modules while the runs are being frozen."""
        return Server(path, targets, compute.python, os.getcwd(), threads=compute.cpus_per_run)

    def executor(self, folder: Path, plan: Plan, count: int, head: Head | None = None) -> LocalPool:
        """See `Backend.executor`."""
        assert head is None or isinstance(head, Server)

        def start(threads: int) -> Server:
            if head is None:
                return Server(plan.path, plan.preload, plan.python, plan.cwd, threads=threads)
            if set(plan.preload) - set(head.preload):
                head.import_ahead(plan.preload)
            return head

        gpus = machine.visible_gpus() if plan.gpus_per_run else None
        slots = Slots(max(1, min(plan.parallel, count)), plan.cores, gpus, plan.runs_per_gpu)
        return LocalPool(start, slots, plan.draws)

    def room(self, compute: Compute) -> int:
        """Return as many calls as the cores or GPUs allow, or `max_parallel` if it is set."""
        gpus = compute.gpus_per_run
        carried = len(machine.visible_gpus()) // gpus if gpus else machine.cores() // compute.cpus_per_run
        return max(1, compute.max_parallel or carried)

    def calls(self, folder: Path, compute: Compute, modules: Sequence[str]) -> Calls:
        """See `Backend.calls`."""
        return LocalCalls(folder, compute, modules)


class LocalCalls:
    """Executes an application's calls, forked from a server that has imported its modules; see `Calls`."""

    poll_s = 0.02

    def __init__(self, folder: Path, compute: Compute, modules: Sequence[str]) -> None:
        from labrun.backends.local.executor import LabrunExecutor

        self._executor = LabrunExecutor(folder)
        self._executor.imports_from_cwd = False  # like the application itself
        self._executor.update_parameters(
            timeout_min=compute.timeout_min,
            mem_gb=compute.mem_gb,
            cpus_per_task=compute.cpus_per_run,
            gpus_per_node=compute.gpus_per_run,
            max_parallel=compute.max_parallel,
            modules=list(modules),
            signal_delay_s=0,
        )

    def submit(self, function: Callable[[bytes], Any], payloads: Sequence[bytes]) -> list[Any]:
        """Put the calls in the pool's queue."""
        return list(self._executor.map_array(function, payloads))

    def ends(self, jobs: Mapping[int, Any]) -> dict[int, str | None]:
        """Return the jobs that have ended, from the pool's state."""
        found: dict[int, str | None] = {}
        for number, job in jobs.items():
            if all(job.task(task).paths.result_pickle.exists() for task in range(job.num_tasks)):
                found[number] = None
            elif job.done():
                found[number] = job.end
        return found

    def last_lines(self, job: Any) -> str:
        """See `Calls.last_lines`."""
        from labrun.backends.local.calls import tail  # imports submitit

        lines = [line.strip() for line in tail(job.paths.stderr).splitlines()]
        return "; ".join([line for line in lines if line][-2:])

    def cancel(self, jobs: Sequence[Any]) -> None:
        """Ask the jobs to stop, and wait for them until the user presses Ctrl-C again."""
        for job in jobs:
            job.cancel(check=False)
        if not all(job.done() for job in jobs):
            log.info("Asking the jobs to stop; Ctrl-C ends them at once")
            with suppress(KeyboardInterrupt):
                for job in jobs:
                    job.wait()

    def close(self) -> None:
        """End the pool."""
        self._executor.close()
