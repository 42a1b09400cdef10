"""Processes of one script side by side on this machine, each told which it is as torchrun and MPI tell it.

Started by path under a bare interpreter (`python -IS ranks.py COUNTxMACHINES COMMAND ...`), with the standard library
alone. Where there are several machines it is started on each, and finds its place among them and the address of the
first in NODE_RANK, MASTER_ADDR and MASTER_PORT. It ends as the first process that failed; the others are ended then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

POLL_S = 0.05
PATIENCE_S = 5.0
"""How long those that are left may take to end, when one has failed."""
TF_VARIABLE = "LABRUN_TF_CONFIG"
"""Set for processes that find each other as TensorFlow's do, by TF_CONFIG."""


def variables(local: int, count: int, host: str, port: str, machines: int = 1, node: int = 0) -> dict[str, str]:
    """The message to one process.

    Args:
        local: its place among those of this machine.
        count: how many of them there are.
        host: the first machine.
        port: where the processes meet there.
        machines: how many there are.
        node: which of them this is.
    """
    rank, total = node * count + local, count * machines
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(total),
        "LOCAL_WORLD_SIZE": str(count),
        "NODE_RANK": str(node),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(local),
        "OMPI_COMM_WORLD_SIZE": str(total),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(count),
        "AZ_BATCH_MASTER_NODE": f"{host}:{port}",
        "AZ_BATCHAI_MPI_MASTER_NODE": host,
    }


def main(count: int, machines: int, command: list[str]) -> int:
    """Start them, and wait; the exit code is the first that is not 0."""
    # The guard passes signals to the whole group: the scripts hear them, and this process waits for what comes of it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: None)
    port, *others = free_ports(1 + (count if TF_VARIABLE in os.environ else 0))
    where = (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) if machines > 1 else ("127.0.0.1", str(port))
    node = int(os.environ["NODE_RANK"]) if machines > 1 else 0
    processes = []
    for rank in range(count):
        environment = {**os.environ, **variables(rank, count, *where, machines, node)}
        if others:
            environment["TF_CONFIG"] = tf_config(rank, others)
        processes.append(subprocess.Popen(command, env=environment, restore_signals=True))
    failed = _first_failure(processes)
    if failed is None:
        return 0
    rank, code = failed
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    sys.stderr.write(f"labrun: process {node * count + rank} of {count * machines} {how}; the others are ended\n")
    _end(processes)
    return code if code > 0 else 128 - code


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody has."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def tf_config(rank: int, ports: list[int]) -> str:
    """What TensorFlow reads of the others, and of its own place among them."""
    workers = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def _first_failure(processes: list[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                return rank, code
        if None not in codes:
            return None
        time.sleep(POLL_S)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    until = time.monotonic() + PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    counts = [int(text) for text in sys.argv[1].split("x")]
    sys.exit(main(counts[0], counts[1], sys.argv[2:]))
