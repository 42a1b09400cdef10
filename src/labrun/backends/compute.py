"""What runs need of a machine or a cluster, what is there, and the refusal of what cannot be had."""

from __future__ import annotations

import functools
import getpass
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from labrun.errors import ConfigError
from labrun.runs.record import HIDDEN, Record
from labrun.schema import SLURM_ONLY, Compute


@dataclass(frozen=True)
class Needs:
    """What one run needs of the machine (from the config's `compute`)."""

    cpus: int = 1
    gpus: int = 0
    timeout_s: float | None = None
    mem_gb: float | None = None
    retries: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    pictures: bool = False
    data: Mapping[str, Any] | None = None
    """The nodes `dataset` and `datastore` of its config, by which a pool sees that several runs read the same."""


def needs(
    record: Record, environment: Mapping[str, str] | None = None, alone: bool = False, once: bool = False
) -> Needs:
    """What one run needs, from its config.

    Args:
        record: the run's.
        environment: its variables; records do not hold them. By default they are looked up, by name, in this process.
        alone: it has a cluster's job to itself, which the cluster ends in time.
        once: whoever carries it out cannot try it again by itself.
    """
    compute = record.config["compute"]
    if environment is None:
        environment = _known_here(compute["environment"])
    report = record.config["report"]
    return Needs(
        cpus=compute["cpus_per_run"],
        gpus=compute["gpus_per_run"],
        timeout_s=None if alone or compute["timeout_min"] is None else 60 * compute["timeout_min"],
        mem_gb=compute["mem_gb"],
        retries=0 if once else compute["retries"],
        environment=environment,
        pictures=report == "all" or (report == "auto" and record.sweep is None),
        data={key: record.config[key] for key in ("dataset", "datastore")} if record.config.get("dataset") else None,
    )


def _has_labrun(python: str) -> bool:
    """Whether an interpreter finds labrun: among its packages, or in the code of the working folder."""
    found = "import importlib.util as u, sys; sys.exit(u.find_spec('labrun') is None)"
    where = os.pathsep.join(filter(None, [os.getcwd(), os.path.join(os.getcwd(), "src"), os.environ.get("PYTHONPATH")]))
    try:
        answer = subprocess.run(
            [python, "-c", found], env={**os.environ, "PYTHONPATH": where}, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def _known_here(names: Mapping[str, Any]) -> dict[str, str]:
    """Variables of which a record has only the names, or references, with their values in this process."""
    from labrun import execute

    found = {name: os.environ.get(name) if value == HIDDEN else value for name, value in names.items()}
    return {name: str(value) for name, value in execute.here(found).items() if value is not None}


def missing_variables(names: Mapping[str, Any]) -> list[str]:
    """Variables of a run whose values nobody here knows."""
    return [name for name, value in names.items() if value == HIDDEN and name not in os.environ]


def target(compute: Mapping[str, Any], sweep: bool) -> str:
    """Where runs go: `inline`, `local` or `slurm`."""
    if compute["target"] == "auto":
        held = any(compute[key] != getattr(DEFAULTS, key) for key in POOL_ONLY)
        return "local" if sweep or held else "inline"
    return str(compute["target"])


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> float:
    """This machine's memory."""
    return psutil.virtual_memory().total / 2**30


def visible_gpus() -> list[str]:
    """The GPUs that the caller may use, as CUDA_VISIBLE_DEVICES names them; found without loading torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [index for index, _ in gpu_names()]
    found = []
    there = {index for index, _ in gpu_names()}
    for entry in map(str.strip, listed.split(",")):
        # As CUDA reads it: what is no device ends the list. Names other than numbers are looked up by CUDA alone.
        if entry.lower() in ("", "-1", "nodevfiles", "none", "void") or (
            there and entry.isdigit() and entry not in there
        ):
            break
        found.append(entry)
    return found


def gpu_names() -> list[tuple[str, str]]:
    """Index and name of each NVIDIA GPU of this machine."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"]
    lines = (ask(query) or "").splitlines()
    pairs = [line.split(",", 1) for line in lines if "," in line]
    return [(index.strip(), name.strip()) for index, name in pairs]


def ask(command: list[str], timeout_s: float = 20.0) -> str | None:
    """What a command prints, or None if it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def check(compute: Mapping[str, Any], sweep: bool) -> None:
    """Whether what a run asks for can be had.

    Raises:
        ConfigError: it cannot; the message says what is there.
    """
    where = target(compute, sweep)
    problems = list(_slurm_problems(compute) if where == "slurm" else _local_problems(compute, where))
    if compute["python"] is not None and not (where == "inline" or shutil.which(compute["python"])):
        problems.append(f"compute.python={compute['python']!r}: there is no such program")
    elif compute["python"] is not None and where != "inline" and not _has_labrun(compute["python"]):
        problems.append(
            f"compute.python={compute['python']!r} has no labrun, which carries out the runs there: install labrun "
            "with that interpreter's pip"
        )
    if problems:
        raise ConfigError(problems)


def _local_problems(compute: Mapping[str, Any], where: str) -> Iterable[str]:
    if compute["cpus_per_run"] > cores():
        yield f"compute.cpus_per_run={compute['cpus_per_run']}: this machine has {cores()} cores"
    if compute["mem_gb"] is not None and compute["mem_gb"] > memory_gb():
        yield f"compute.mem_gb={compute['mem_gb']:g}: this machine has {memory_gb():.1f} GB of memory"
    gpus = visible_gpus() if compute["gpus_per_run"] else []
    if compute["gpus_per_run"] > len(gpus):
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        because = "" if listed is None else f" (CUDA_VISIBLE_DEVICES={listed!r})"
        there = f"{len(gpus)} GPUs are" if len(gpus) > 1 else "one GPU is" if gpus else "no GPU is"
        yield (
            f"compute.gpus_per_run={compute['gpus_per_run']}: {there} visible here{because}. compute=local runs on the "
            f"processor's {cores()} cores; 'lab compute status' shows what is there"
        )
    yield from _shared_gpus(compute)
    for key in SLURM_ONLY:
        if compute[key] != getattr(DEFAULTS, key):
            yield f"compute.{key}={compute[key]}: only compute=slurm and compute=slurm_gpu know it"
    for key in (*POOL_ONLY, "max_parallel") if where == "inline" else ():
        if compute[key] != getattr(DEFAULTS, key):
            yield f"compute.{key}={compute[key]}: an inline run has no supervisor; choose compute=local"


def _shared_gpus(compute: Mapping[str, Any]) -> Iterable[str]:
    if compute["gpus_per_run"] > 1 and compute["runs_per_gpu"] > 1:
        yield f"compute.runs_per_gpu={compute['runs_per_gpu']}: runs of more than one GPU do not share them"


DEFAULTS = Compute(target="local")
POOL_ONLY = ("timeout_min", "mem_gb", "retries", "python", "detach", "gpus_per_run")
"""What only a supervisor beside the run can see to."""


@dataclass(frozen=True)
class Partition:
    """What a partition of the cluster offers, at most, on one node."""

    name: str
    default: bool
    up: bool
    nodes: int
    cpus: int
    memory_gb: float
    gpus: int
    limit_min: float | None


def partitions() -> list[Partition]:
    """The cluster's partitions, by sinfo.

    Raises:
        ConfigError: there is no sinfo, or no cluster answers it.
    """
    for program in ("sbatch", "sinfo"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"compute=slurm: there is no {program} on this machine, so it is no part of a Slurm cluster. Start "
                f"the command where there is one, or choose compute=local (here: {cores()} cores)"
            )
    answer = ask(["sinfo", "-h", "-e", "-o", "%P|%a|%D|%c|%m|%G|%l"])
    if answer is None:
        raise ConfigError("compute=slurm: sbatch is there, but no cluster answers (sinfo failed). Is slurmctld up?")
    found: dict[str, Partition] = {}
    for line in answer.splitlines():
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
    """Slurm's `days-hours:minutes:seconds` in minutes; None for no limit."""
    if not limit or limit in ("infinite", "n/a", "UNLIMITED", "NOT_SET"):
        return None
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    seconds = sum(value * 60**place for place, value in enumerate(reversed(parts)))
    return float(int(days or 0) * 1440 + seconds / 60)


def chosen_partition(compute: Mapping[str, Any], there: Sequence[Partition] | None = None) -> Partition | None:
    """The partition that a job would go to: as named, or the cluster's default; of several names what any of them has.

    None: there is none of that name, or no default.
    """
    there = partitions() if there is None else there
    named = compute["partition"] or os.environ.get("SBATCH_PARTITION")
    if named is None:
        return next((one for one in there if one.default), None)
    names = [name.strip() for name in str(named).split(",")]
    chosen = [one for one in there if one.name in names]
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


def longest_min(compute: Mapping[str, Any]) -> float:
    """How long a job may last that names no limit: as its partition says, else a year."""
    one = chosen_partition(compute)
    return 365 * 24 * 60 if one is None or one.limit_min is None else one.limit_min


def walls_min(compute: Mapping[str, Any]) -> set[float]:
    """The limits of time that accounting sets for such a job: of its quality of service and of the caller's accounts.

    Which of them is enforced only Slurm knows: they serve to stay below one that was meant. None without accounting.
    """
    qualities, rows = _accounting()
    mine = [row for row in rows if row[1] in ("", getpass.getuser())]
    accounts = {row[0] for row in mine if row[1]} if compute["account"] is None else {compute["account"]}
    mine = [row for row in mine if row[0] in accounts]
    named = {compute["qos"]} if compute["qos"] is not None else {row[3] for row in mine if row[1]} - {""} or {"normal"}
    partition = chosen_partition(compute)
    if partition is not None:
        found = re.search(r"\bQoS=(\S+)", ask(["scontrol", "show", "partition", partition.name.split(",")[0]]) or "")
        named |= {found[1]} if found else set()
    limits = [qualities.get(name, "") for name in named] + [row[2] for row in mine]
    return {limit for limit in map(_minutes, limits) if limit}


@functools.cache
def _accounting() -> tuple[dict[str, str], list[list[str]]]:
    """Each quality of service with its limit of time; account, user, limit and default quality of each association."""
    asked = ["sacctmgr", "-n", "-P", "show"]
    listed = (ask([*asked, "qos", "format=Name,MaxWall"]) or "").splitlines()
    qualities = dict(line.strip().split("|") for line in listed if line.count("|") == 1)
    listed = (ask([*asked, "assoc", "format=Account,User,MaxWall,DefaultQOS"]) or "").splitlines()
    return qualities, [line.strip().split("|") for line in listed if line.count("|") == 3]


@functools.cache
def largest_array() -> int:
    """How many jobs an array may have, at most 1,000."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]) or "")
    return max(1, min(1000, int(found[1]) if found else 1000))


def _slurm_problems(compute: Mapping[str, Any]) -> Iterable[str]:
    there = partitions()
    listed = "; ".join(describe(one) for one in there)
    if compute["partition"] is None and "partition" in compute["extra"]:
        yield "compute.extra.partition: say compute.partition"
    one = chosen_partition(compute, there)
    if one is None:
        given = "null" if compute["partition"] is None else repr(compute["partition"])
        why = "the cluster has no default partition" if compute["partition"] is None else "there is no such partition"
        yield f"compute.partition={given}: {why}. There are: {listed}"
        return
    if not one.up:
        yield f"compute.partition={one.name}: it is down. There are: {listed}"
    ranks = compute["tasks_per_node"]
    for key, wanted, has in (
        ("cpus_per_run", compute["cpus_per_run"] * ranks, one.cpus),
        ("cpus_per_job", compute["cpus_per_job"] or 0, one.cpus),
        ("gpus_per_run", compute["gpus_per_run"], one.gpus),
        ("nodes", compute["nodes"], one.nodes),
    ):
        if wanted > has:
            times = f" times tasks_per_node={ranks}" if key == "cpus_per_run" and ranks > 1 else ""
            noun = "nodes" if key == "nodes" else f"{'GPUs' if 'gpus' in key else 'cores'} at most on one node"
            yield f"compute.{key}={compute[key]}{times}: partition {one.name} has {has} {noun}. There are: {listed}"
    if compute["mem_gb"] is not None and compute["mem_gb"] > one.memory_gb:
        most = f"{one.memory_gb:.1f} GB at most on one node"
        yield f"compute.mem_gb={compute['mem_gb']:g}: partition {one.name} has {most}"
    if compute["timeout_min"] is not None and one.limit_min is not None and compute["timeout_min"] > one.limit_min:
        most = f"partition {one.name} ends jobs after {one.limit_min:g} minutes"
        yield f"compute.timeout_min={compute['timeout_min']:g}: {most}"
    yield from _shared_gpus(compute)
    if (compute["nodes"] > 1 or ranks > 1) and compute["runs_per_job"] > 1:
        yield "compute.runs_per_job: a run over several nodes or tasks has a job of its own"
    own = {"job-name", "array", "output", "error", "signal", "comment", "open-mode", "nodes", "time", "requeue"}
    own |= {"ntasks", "ntasks-per-node", "test-only"}
    for key in compute["extra"]:
        name = str(key).replace("_", "-").lstrip("-")
        if name in own | {"no-requeue", "parsable", "wait", "wrap"}:
            yield f"compute.extra.{key}: labrun sets this option of sbatch itself"
            return
    yield from _refused_by_sbatch(compute)


def sbatch_options(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Options as submitit takes them: null and true are a bare option, false is none, a list stands with commas."""
    options: dict[str, Any] = {}
    for key, value in extra.items():
        plain = ",".join(map(str, value)) if isinstance(value, list) else value
        if plain is not False:
            options[str(key).replace("_", "-").lstrip("-")] = True if plain is None else plain
    return options


def _refused_by_sbatch(compute: Mapping[str, Any]) -> Iterable[str]:
    """Which options sbatch does not know or take, in its own words; nothing is submitted.

    What may change until the job's turn comes, such as nodes that are down, is no reason: the job would wait.
    """
    named = {key: compute[key] for key in ("account", "qos") if compute[key] is not None}
    asked = {f"compute.{key}={value}": {key: value} for key, value in named.items()}
    for key, value in compute["extra"].items():
        asked[f"compute.extra.{key}={'null' if value is None else value}"] = sbatch_options({key: value})
    together = {name: value for options in asked.values() for name, value in options.items()}
    if not together:
        return
    whole = {**_basic_options(compute), **together}
    said = _refusal(compute, whole)
    if not said:
        return
    alone = [f"{told}: sbatch refuses it: {why}" for told, one in asked.items() if (why := _refusal(compute, one))]
    if alone:
        yield from alone
        return
    shown = " ".join(f"--{key}" if value is True else f"--{key}={value}" for key, value in whole.items())
    yield f"{', '.join(asked)}: sbatch refuses that together with the rest, {shown}: {said}"


def _basic_options(compute: Mapping[str, Any]) -> dict[str, Any]:
    """What sbatch is told of one run's needs, unless `extra` says it."""
    options: dict[str, Any] = {
        "nodes": compute["nodes"],
        "ntasks-per-node": compute["tasks_per_node"],
        "cpus-per-task": compute["cpus_per_run"],
    }
    if compute["mem_gb"] is not None:
        options["mem"] = f"{round(compute['mem_gb'] * 1024)}MB"
    if compute["gpus_per_run"]:
        options["gpus-per-node"] = compute["gpus_per_run"]
    if compute["timeout_min"] is not None:
        options["time"] = whole_minutes(60 * compute["timeout_min"])
    return options


def _refusal(compute: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """What sbatch says against options that cannot be had, now or ever; nothing if they can."""
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
    partition = [] if compute["partition"] is None else [f"--partition={compute['partition']}"]
    command = ["sbatch", "--test-only", "--wrap=true", *partition, *flags]
    outside = {name: value for name, value in os.environ.items() if not is_of_a_job(name)}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20.0, check=False, env=outside)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in answer.stderr.splitlines()] if answer.returncode else []
    final = ["invalid", "unrecognized", "unknown", "requires an argument", "doesn't allow an argument", "exclusive"]
    if _all_up(compute):
        final.append("configuration is not available")
    refused = [line for line in lines if any(word in line.lower() for word in final)]
    return re.sub("^(sbatch: |error: |fatal: |allocation failure: )*", "", refused[0]) if refused else ""


def _all_up(compute: Mapping[str, Any]) -> bool:
    """Whether no node of the partition is down: what is not to be had then will never be."""
    one = chosen_partition(compute)
    states = (ask(["sinfo", "-h", "-N", "-o", "%T", "-p", one.name]) or "").split() if one is not None else []
    return bool(states) and all(state in ("idle", "mixed", "allocated", "completing") for state in states)


def describe(one: Partition) -> str:
    """A partition in a few words."""
    gpus = f", {one.gpus} GPUs" if one.gpus else ""
    return f"{one.name} ({one.nodes} nodes of up to {one.cpus} cores, {one.memory_gb:.1f} GB{gpus})"


ABOUT_CLUSTERS = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"})
"""Slurm's variables that say which cluster is meant, and who asks."""


def is_of_a_job(variable: str) -> bool:
    """Whether a variable tells of a cluster's job that this process is in itself: no job of its own may inherit it."""
    return variable.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and variable not in ABOUT_CLUSTERS


def whole_minutes(seconds: float) -> int:
    """Seconds as Slurm's minutes, rounded up."""
    return max(1, math.ceil(seconds / 60))


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's own, and nobody else may look into it."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o077


def same_owner(path: Path) -> bool:
    """Whether a file or folder is this user's own, and nobody else may write it."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
