"""The partitions of a Slurm cluster, and checks of requests against them and against sbatch."""

from __future__ import annotations

import functools
import getpass
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labrun._io import run_command
from labrun.config.schema import Compute
from labrun.errors import ConfigError
from labrun.runs import machine


@dataclass(frozen=True)
class Partition:
    """A partition of the cluster: its largest resources on one node."""

    name: str
    default: bool
    up: bool
    nodes: int
    cpus: int
    memory_gb: float
    gpus: int
    limit_min: float | None


class NoClusterError(ConfigError):
    """This machine does not belong to a cluster that responds.

    Args:
        compute: settings that need the cluster.
        why: the reason.
        way: advice for the user.
    """

    def __init__(self, compute: Compute, why: str, way: str) -> None:
        self.why = why
        super().__init__(f"{compute.choice('slurm')}: {why}. {way}")


SINFO = ["sinfo", "-h", "-e", "-o", "%P|%a|%D|%c|%m|%G|%l"]


def partitions(compute: Compute) -> list[Partition]:
    """Return the cluster's partitions, according to sinfo.

    Args:
        compute: settings that need the cluster, for the error message.

    Raises:
        NoClusterError: sinfo is missing, or no cluster responds to it.
    """
    for program in ("sbatch", "sinfo"):
        if shutil.which(program) is None:
            raise NoClusterError(
                compute,
                f"there is no {program} on this machine, so it is not part of a Slurm cluster",
                f"Start the command where there is one, or choose {compute.choice('local')} (here: {machine.cores()} "
                "cores)",
            )
    answer = run_command(SINFO)
    if answer is None:
        raise NoClusterError(compute, "sbatch exists, but no cluster answers (sinfo failed)", "Is slurmctld up?")
    return parsed(answer)


def parsed(output: str) -> list[Partition]:
    """Return the partitions from the output of `SINFO`."""
    found: dict[str, Partition] = {}
    for line in output.splitlines():
        name, up, nodes, cpus, memory, gres, limit = (part.strip() for part in line.split("|"))
        one = Partition(
            name.rstrip("*"),
            name.endswith("*"),
            up == "up",
            int(nodes),
            int(cpus.rstrip("+")),
            int(memory.rstrip("+")) / 1024,
            _gpus_of(gres),
            _minutes(limit),
        )
        known = found.get(one.name)
        if known is not None:
            one = Partition(
                one.name,
                one.default,
                one.up,
                one.nodes + known.nodes,
                max(one.cpus, known.cpus),
                max(one.memory_gb, known.memory_gb),
                max(one.gpus, known.gpus),
                one.limit_min,
            )
        found[one.name] = one
    return list(found.values())


def _gpus_of(gres: str) -> int:
    total = 0
    for entry in gres.split(","):
        parts = entry.split("(")[0].split(":")
        if parts[0] == "gpu":
            total += int(parts[-1]) if parts[-1].isdigit() else 1
    return total


def _minutes(limit: str) -> float | None:
    """Convert Slurm's `days-hours:minutes:seconds` to minutes; None for no limit."""
    if not limit or limit in ("infinite", "n/a", "UNLIMITED", "NOT_SET"):
        return None
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    seconds = sum(value * 60**power for power, value in enumerate(reversed(parts)))
    return float(int(days or 0) * 1440 + seconds / 60)


def chosen_partition(compute: Compute, known: Sequence[Partition] | None = None) -> Partition | None:
    """Return a job's partition: the selected one or the cluster's default; the largest values of several selected ones.

    Returns:
        The partition; None if the selected one does not exist, or there is no default.
    """
    known = partitions(compute) if known is None else known
    named = compute.partition or os.environ.get("SBATCH_PARTITION")
    if named is None:
        return next((one for one in known if one.default), None)
    names = [name.strip() for name in str(named).split(",")]
    chosen = [one for one in known if one.name in names]
    if len(chosen) < len(set(names)):
        return None
    limits = [one.limit_min for one in chosen]
    return Partition(
        ",".join(names),
        False,
        any(one.up for one in chosen),
        max(one.nodes for one in chosen),
        max(one.cpus for one in chosen),
        max(one.memory_gb for one in chosen),
        max(one.gpus for one in chosen),
        None if None in limits else max(limit for limit in limits if limit is not None),
    )


def longest_min(compute: Compute) -> float:
    """Return the limit in minutes of a job without its own limit: that of its partition, or a year."""
    one = chosen_partition(compute)
    return 365 * 24 * 60 if one is None or one.limit_min is None else one.limit_min


def walls_min(compute: Compute) -> set[float]:
    """Return the time limits (minutes) that accounting sets for a job's quality of service and the caller's accounts.

    Only Slurm knows which of them it enforces; they help to stay below a likely limit. Empty without accounting.
    """
    qualities, rows = _accounting()
    mine = [row for row in rows if row[1] in ("", getpass.getuser())]
    accounts = {row[0] for row in mine if row[1]} if compute.account is None else {compute.account}
    mine = [row for row in mine if row[0] in accounts]
    named = {compute.qos} if compute.qos is not None else {row[3] for row in mine if row[1]} - {""} or {"normal"}
    partition = chosen_partition(compute)
    if partition is not None:
        found = re.search(
            r"\bQoS=(\S+)", run_command(["scontrol", "show", "partition", partition.name.split(",")[0]]) or ""
        )
        named |= {found[1]} if found else set()
    limits = [qualities.get(name, "") for name in named] + [row[2] for row in mine]
    return {limit for limit in map(_minutes, limits) if limit}


@functools.cache
def _accounting() -> tuple[dict[str, str], list[list[str]]]:
    """Return the time limit by quality of service, and [account, user, time limit, default quality] by association."""
    command = ["sacctmgr", "-n", "-P", "show"]
    listed = (run_command([*command, "qos", "format=Name,MaxWall"]) or "").splitlines()
    qualities = dict(line.strip().split("|") for line in listed if line.count("|") == 1)
    listed = (run_command([*command, "assoc", "format=Account,User,MaxWall,DefaultQOS"]) or "").splitlines()
    return qualities, [line.strip().split("|") for line in listed if line.count("|") == 3]


@functools.cache
def largest_array() -> int:
    """Return how many jobs an array may have, at most 1,000."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", run_command(["scontrol", "show", "config"]) or "")
    return max(1, min(1000, int(found[1]) if found else 1000))


def problems(compute: Compute) -> Iterable[str]:
    """Yield a message for each request of a run that the cluster cannot meet or refuses.

    Raises:
        ConfigError: there is no cluster.
    """
    known = partitions(compute)
    listed = "; ".join(describe(one) for one in known)
    if compute.partition is None and "partition" in compute.extra:
        yield f"{compute.key('extra.partition')}: use {compute.key('partition')}"
    one = chosen_partition(compute, known)
    if one is None:
        value = "null" if compute.partition is None else repr(compute.partition)
        why = "the cluster has no default partition" if compute.partition is None else "there is no such partition"
        yield f"{compute.key('partition')}={value}: {why}. There are: {listed}"
        return
    if not one.up:
        yield f"{compute.key('partition')}={one.name}: it is down. There are: {listed}"
    ranks = compute.tasks_per_node
    for key, wanted, has in (
        ("cpus_per_run", compute.cpus_per_run * ranks, one.cpus),
        ("cpus_per_job", compute.cpus_per_job or 0, one.cpus),
        ("gpus_per_run", compute.gpus_per_run, one.gpus),
        ("nodes", compute.nodes, one.nodes),
    ):
        if wanted > has:
            times = f" times tasks_per_node={ranks}" if key == "cpus_per_run" and ranks > 1 else ""
            noun = "nodes" if key == "nodes" else f"{'GPUs' if 'gpus' in key else 'cores'} at most on one node"
            request = f"{compute.key(key)}={getattr(compute, key)}{times}"
            yield f"{request}: partition {one.name} has {has} {noun}. There are: {listed}"
    if compute.mem_gb is not None and compute.mem_gb > one.memory_gb:
        most = f"{one.memory_gb:.1f} GB at most on one node"
        yield f"{compute.key('mem_gb')}={compute.mem_gb:g}: partition {one.name} has {most}"
    if compute.timeout_min is not None and one.limit_min is not None and compute.timeout_min > one.limit_min:
        most = f"partition {one.name} ends jobs after {one.limit_min:g} minutes"
        yield f"{compute.key('timeout_min')}={compute.timeout_min:g}: {most}"
    if (compute.nodes > 1 or ranks > 1) and compute.runs_per_job > 1:
        yield f"{compute.key('runs_per_job')}: a run with several nodes or tasks needs its own job"
    reserved = {"job-name", "array", "output", "error", "signal", "comment", "open-mode", "nodes", "time", "requeue"}
    reserved |= {"ntasks", "ntasks-per-node", "test-only"}
    for key in compute.extra:
        name = str(key).replace("_", "-").lstrip("-")
        if name in reserved | {"no-requeue", "parsable", "wait", "wrap"}:
            yield f"{compute.key(f'extra.{key}')}: labrun sets this option of sbatch itself"
            return
    yield from _refused_by_sbatch(compute)


def sbatch_options(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options for submitit: null and true are a bare flag, false is dropped, lists are joined with commas."""
    options: dict[str, Any] = {}
    for key, value in extra.items():
        plain = ",".join(map(str, value)) if isinstance(value, list) else value
        if plain is not False:
            options[str(key).replace("_", "-").lstrip("-")] = True if plain is None else plain
    return options


def _refused_by_sbatch(compute: Compute) -> Iterable[str]:
    """Yield sbatch's own errors for options that it rejects, without submitting a job.

    Conditions that may change before the job starts, such as nodes that are down, do not count: the job would wait.
    """
    named = {key: getattr(compute, key) for key in ("account", "qos") if getattr(compute, key) is not None}
    requests = {f"{compute.key(key)}={value}": {key: value} for key, value in named.items()}
    for key, value in compute.extra.items():
        requests[f"{compute.key(f'extra.{key}')}={'null' if value is None else value}"] = sbatch_options({key: value})
    together = {name: value for options in requests.values() for name, value in options.items()}
    if not together:
        return
    whole = {**_basic_options(compute), **together}
    refusal = _refusal(compute, whole)
    if not refusal:
        return
    alone = [
        f"{request}: sbatch refuses it: {why}" for request, one in requests.items() if (why := _refusal(compute, one))
    ]
    if alone:
        yield from alone
        return
    shown = " ".join(f"--{key}" if value is True else f"--{key}={value}" for key, value in whole.items())
    yield f"{', '.join(requests)}: sbatch refuses this combination, {shown}: {refusal}"


def _basic_options(compute: Compute) -> dict[str, Any]:
    """Return the sbatch options for one run's resources, which `extra` may override."""
    options: dict[str, Any] = {
        "nodes": compute.nodes,
        "ntasks-per-node": compute.tasks_per_node,
        "cpus-per-task": compute.cpus_per_run,
    }
    if compute.mem_gb is not None:
        options["mem"] = f"{round(compute.mem_gb * 1024)}MB"
    if compute.gpus_per_run:
        options["gpus-per-node"] = compute.gpus_per_run
    if compute.timeout_min is not None:
        options["time"] = whole_minutes(60 * compute.timeout_min)
    return options


def _refusal(compute: Compute, options: Mapping[str, Any]) -> str:
    """Return sbatch's error for options that it will never accept; empty if it accepts them."""
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
    partition = [] if compute.partition is None else [f"--partition={compute.partition}"]
    command = ["sbatch", "--test-only", "--wrap=true", *partition, *flags]
    outside = {name: value for name, value in os.environ.items() if not is_of_a_job(name)}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20.0, check=False, env=outside)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in answer.stderr.splitlines()] if answer.returncode else []
    # sbatch's exit code is 1 for everything; its text tells what can never be accepted from what is only busy now
    final = ["invalid", "unrecognized", "unknown", "requires an argument", "doesn't allow an argument", "exclusive"]
    if _all_up(compute):
        final.append("configuration is not available")
    refused = [line for line in lines if any(word in line.lower() for word in final)]
    return re.sub("^(sbatch: |error: |fatal: |allocation failure: )*", "", refused[0]) if refused else ""


def _all_up(compute: Compute) -> bool:
    """Return whether all nodes of the partition are up: what is unavailable then will never be available."""
    one = chosen_partition(compute)
    states = (run_command(["sinfo", "-h", "-N", "-o", "%T", "-p", one.name]) or "").split() if one is not None else []
    up = ("idle", "mixed", "allocated", "completing", "planned")
    return bool(states) and all(state.rstrip("-") in up for state in states)  # "mixed-": also planned for another job


def describe(one: Partition) -> str:
    """Describe a partition in a few words."""
    gpus = f", {one.gpus} GPUs" if one.gpus else ""
    return f"{one.name} ({one.nodes} nodes of up to {one.cpus} cores, {one.memory_gb:.1f} GB{gpus})"


ABOUT_CLUSTERS = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"})
"""Slurm's variables that identify the cluster and the user."""


def is_of_a_job(variable: str) -> bool:
    """Return whether a variable describes a cluster job around this process; new jobs must not inherit it."""
    return variable.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and variable not in ABOUT_CLUSTERS


def whole_minutes(seconds: float) -> int:
    """Convert seconds to Slurm's minutes, rounded up."""
    return max(1, math.ceil(seconds / 60))


def status() -> list[str]:
    """Return lines on the partitions (nodes, cores, GPUs) and on this user's jobs."""
    if shutil.which("sinfo") is None:
        return ["none: there is no sinfo on this machine"]
    answer = run_command(["sinfo", "-h", "-o", "%P|%a|%D|%T|%C|%m|%G|%l"])
    if answer is None:
        return ["the cluster does not answer (sinfo failed)"]
    lines = [f"{'partition':<14}{'nodes':<18}{'cores: used/free/other/all':<30}{'GB':<8}{'GPUs':<10}time limit"]
    for line in answer.splitlines():
        name, up, nodes, state, cpus, memory, gres, limit = (part.strip() for part in line.split("|"))
        which = f"{nodes} {state}" if up == "up" else f"{nodes} {up}"
        gpus = "-" if gres in ("(null)", "") else gres
        lines.append(f"{name:<14}{which:<18}{cpus:<30}{float(memory.rstrip('+')) / 1024:<8.1f}{gpus:<10}{limit}")
    jobs = (run_command(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%T"]) or "").split()
    counted = ", ".join(f"{jobs.count(state)} {state.lower()}" for state in sorted(set(jobs)))
    return [*lines, f"your jobs: {counted or 'none'}"]
