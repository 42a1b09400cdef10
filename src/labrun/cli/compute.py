"""`lab compute`: where runs can go, and what is free there."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from typing import Any

import psutil

from labrun.backends import compute as computes
from labrun.config import paths
from labrun.errors import ConfigError
from labrun.runs import record as records
from labrun.runs import store


def add(nouns: Any) -> None:
    """Add the noun to the command line."""
    noun = nouns.add_parser("compute", help="where runs can go, and what is free there")
    verbs = noun.add_subparsers(title="verbs", metavar="VERB", required=True)
    verb = verbs.add_parser("ls", help="the targets, for compute=...")
    verb.set_defaults(act=ls)
    verb = verbs.add_parser("status", help="what this machine and the cluster hold now")
    verb.set_defaults(act=status)


def ls(options: argparse.Namespace) -> int:
    """The choices of `compute=`, and what each finds here."""
    for name, comment in paths.groups().get("compute", {}).items():
        print(f"{name:<12}{comment} Here: {_found(paths.option('compute', name))}")
    return 0


def _found(choice: Mapping[str, Any]) -> str:
    """What a target would run on."""
    if choice.get("target") == "slurm":
        try:
            there = "; ".join(computes.describe(one) for one in computes.partitions())
        except ConfigError as error:
            return str(error.problems[0]).partition(": ")[2].partition(". ")[0]
        return f"partitions {there}"
    gpus = computes.visible_gpus() if choice.get("gpus_per_run") else []
    if choice.get("gpus_per_run"):
        return f"{len(gpus)} GPUs ({', '.join(gpus)})" if gpus else "no GPU is visible"
    return f"{computes.cores()} cores, {computes.memory_gb():.1f} GB of memory"


def status(options: argparse.Namespace) -> int:
    """Cores, memory and GPUs here; partitions and their nodes where there is Slurm."""
    memory = psutil.virtual_memory()
    load = os.getloadavg()[0]
    print("this machine")
    print(f"  cores    {computes.cores()}, load {load:.1f} (mean of the last minute)")
    print(f"  memory   {memory.total / 2**30:.1f} GB, {memory.available / 2**30:.1f} GB free")
    print(f"  GPUs     {_gpus()}")
    running = [record for _, record in store.runs(store.workspace()) if record.status == records.RUNNING]
    here = [record for record in running if record.job is None and records.process_lives(record.process)]
    print(f"  runs     {len(here)} of this workspace running")
    print("Slurm")
    for line in _slurm():
        print(f"  {line}")
    return 0


def _gpus() -> str:
    names = computes.gpu_names()
    if not names:
        return "none"
    used = computes.ask(
        ["nvidia-smi", "--query-gpu=index,memory.used,memory.total,utilization.gpu", "--format=csv,noheader,nounits"]
    )
    shown = {}
    for line in (used or "").splitlines():
        index, taken, total, busy = (part.strip() for part in line.split(","))
        shown[index] = f"{int(taken) / 1024:.1f} of {int(total) / 1024:.1f} GB used, {busy} % busy"
    visible = computes.visible_gpus()
    lines = [
        f"{index}: {name} ({shown.get(index, '?')}{'' if index in visible else '; not in CUDA_VISIBLE_DEVICES'})"
        for index, name in names
    ]
    return "\n           ".join(lines)


def _slurm() -> list[str]:
    if shutil.which("sinfo") is None:
        return ["none: there is no sinfo on this machine"]
    answer = computes.ask(["sinfo", "-h", "-o", "%P|%a|%D|%T|%C|%m|%G|%l"])
    if answer is None:
        return ["the cluster does not answer (sinfo failed)"]
    lines = [f"{'partition':<14}{'nodes':<18}{'cores: used/free/other/all':<30}{'GB':<8}{'GPUs':<10}time limit"]
    for line in answer.splitlines():
        name, up, nodes, state, cpus, memory, gres, limit = (part.strip() for part in line.split("|"))
        which = f"{nodes} {state}" if up == "up" else f"{nodes} {up}"
        gpus = "-" if gres in ("(null)", "") else gres
        lines.append(f"{name:<14}{which:<18}{cpus:<30}{float(memory.rstrip('+')) / 1024:<8.1f}{gpus:<10}{limit}")
    jobs = (computes.ask(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%T"]) or "").split()
    counted = ", ".join(f"{jobs.count(state)} {state.lower()}" for state in sorted(set(jobs)))
    return [*lines, f"your jobs: {counted or 'none'}"]
