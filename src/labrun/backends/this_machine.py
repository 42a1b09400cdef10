"""Checks of what runs request against the resources of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

from labrun.config.schema import Compute
from labrun.runs.machine import cores, memory_gb, visible_gpus

DEFAULTS = Compute(target="local")


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
