"""Runs several processes of one script on this machine, with the rank variables of torchrun and MPI.

Started by path under a bare interpreter (`python -IS ranks.py COUNTxMACHINES COMMAND ...`), so it imports only the
standard library. With several machines it runs on each, and gets its rank among them and the address of the first from
NODE_RANK, MASTER_ADDR and MASTER_PORT. When a process fails, it ends the others and exits with that process's code.
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
"""Grace period for the other processes when one has failed, seconds."""
TF_VARIABLE = "LABRUN_TF_CONFIG"
"""Set for processes that find each other through TensorFlow's TF_CONFIG."""


def variables(local: int, count: int, host: str, port: str, machines: int = 1, node: int = 0) -> dict[str, str]:
    """Return the environment variables that tell one process its rank.

    Args:
        local: its rank on this machine.
        count: number of processes on this machine.
        host: address of the first machine.
        port: port on that machine where the processes rendezvous.
        machines: number of machines.
        node: rank of this machine.
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
    """Start the processes and wait for them. Return the exit code of the first that fails, or 0."""
    # Signals go to the whole group: the scripts handle them, and this process waits for the result.
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
    """Return free ports of this machine."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def tf_config(rank: int, ports: list[int]) -> str:
    """Return TensorFlow's TF_CONFIG for a process: the addresses of all processes, and its own rank."""
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
