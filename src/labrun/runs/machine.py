"""The resources of this machine: cores, memory, GPUs. Reading them loads no library of a run, such as torch.

Every command imports this module, and few ask it, so each function imports what it needs.
"""

from __future__ import annotations

import os

from labrun._io import run_command


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> float:
    """Return the size of this machine's memory in GiB."""
    import psutil

    return psutil.virtual_memory().total / 2**30


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, in the form of CUDA_VISIBLE_DEVICES."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [index for index, _ in gpu_names()]
    from labrun.runs import nvml

    visible = []
    present = {index for index, _ in gpu_names()}
    for entry in nvml.listed(listed):
        # Like CUDA, stop at a number that no GPU has. Only CUDA resolves names other than numbers.
        if present and entry.isdigit() and entry not in present:
            break
        visible.append(entry)
    return visible


def gpu_names() -> list[tuple[str, str]]:
    """Return the index and the name of each NVIDIA GPU of this machine."""
    return [(index, name) for index, name in gpu_table("index", "name")]


def gpu_table(*columns: str) -> list[list[str]]:
    """Return a row for each NVIDIA GPU of this machine, with columns of `nvidia-smi`, in its units; [] without GPUs."""
    import shutil

    if shutil.which("nvidia-smi") is None:
        return []
    answer = run_command(["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]) or ""
    rows = [[part.strip() for part in line.split(",", len(columns) - 1)] for line in answer.splitlines()]
    return [row for row in rows if len(row) == len(columns)]
