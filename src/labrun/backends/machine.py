"""The resources of this machine (cores, memory, GPUs), and checks of file ownership."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from labrun._io import run_command
from labrun.config.schema import Compute
from labrun.runs import nvml

DEFAULTS = Compute(target="local")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> float:
    """Return the size of this machine's memory in GiB."""
    return psutil.virtual_memory().total / 2**30


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, in the form of CUDA_VISIBLE_DEVICES, without loading torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [index for index, _ in gpu_names()]
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
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"]
    lines = (run_command(query) or "").splitlines()
    pairs = [line.split(",", 1) for line in lines if "," in line]
    return [(index.strip(), name.strip()) for index, name in pairs]


def problems(compute: Compute) -> Iterator[str]:
    """Yield a message for each requested resource that this machine does not have."""
    if compute.cpus_per_run > cores():
        yield f"{compute.key('cpus_per_run')}={compute.cpus_per_run}: this machine has {cores()} cores"
    if compute.mem_gb is not None and compute.mem_gb > memory_gb():
        yield f"{compute.key('mem_gb')}={compute.mem_gb:g}: this machine has {memory_gb():.1f} GB of memory"
    gpus = visible_gpus() if compute.gpus_per_run else []
    if compute.gpus_per_run > len(gpus):
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        because = "" if listed is None else f" (CUDA_VISIBLE_DEVICES={listed!r})"
        visible = f"{len(gpus)} GPUs are" if len(gpus) > 1 else "one GPU is" if gpus else "no GPU is"
        key = compute.key("gpus_per_run")
        yield (
            f"{key}={compute.gpus_per_run}: {visible} visible here{because}. {key}=0 runs on {cores()} CPU "
            "cores; 'lab compute status' lists the devices"
        )


def summary(compute: Compute) -> str:
    """Describe in a few words what runs with this `compute` would get on this machine."""
    if not compute.gpus_per_run:
        return f"{cores()} cores, {memory_gb():.1f} GB of memory"
    gpus = visible_gpus()
    return f"{len(gpus)} GPUs ({', '.join(gpus)})" if gpus else "no GPU is visible"


def is_private(folder: Path) -> bool:
    """Return whether a folder belongs to this user and nobody else has access to it."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o077


def same_owner(path: Path) -> bool:
    """Return whether a file or folder belongs to this user and nobody else may write it."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
