"""The command `lab compute`: list compute targets and their free resources."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

import psutil

from labrun.backends import registry
from labrun.backends.this_machine import DEFAULTS
from labrun.cli.parsing import Parser
from labrun.compose import paths
from labrun.config.instantiate import Node
from labrun.config.schema import Compute
from labrun.errors import ConfigError
from labrun.runs import machine, store
from labrun.runs.record import RUNNING, process_lives


def fill(command: Parser) -> None:
    """Add the actions to the parser of the command."""
    actions = command.add_commands(title="actions", metavar="ACTION", required=True)
    action = actions.add("ls", help="list the options of compute=, and what each finds on this machine")
    action.set_defaults(act=ls)
    action = actions.add("status", help="show the load of this machine and the cluster")
    action.set_defaults(act=status)


def ls(options: argparse.Namespace) -> int:
    """Print the options of `compute=`, each with the resources it finds on this machine."""
    for name, comment in paths.groups().get("compute", {}).items():
        print(f"{name:<12}{comment} Here: {_summary(paths.option('compute', name))}")
    return 0


def _summary(choice: Node) -> str:
    """Return a summary of the resources that an option would use; `auto` means this machine."""
    try:
        # Only a submission resolves ${labrun_cpus:}; until then, the default stands for it.
        given = {key: value for key, value in choice.items() if not str(value).startswith("${labrun_")}
        compute = Compute.of({**asdict(DEFAULTS), **given})
        return registry.chosen(compute, sweep=False).summary(compute)
    except ConfigError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a third-party backend must not hide the others
        return f"its summary fails: {type(error).__name__}: {error}"


def status(options: argparse.Namespace) -> int:
    """Print the cores, memory and GPUs of this machine, and the partitions and nodes of Slurm, if available."""
    memory = psutil.virtual_memory()
    load = os.getloadavg()[0]
    print("this machine")
    print(f"  cores    {machine.cores()}, load {load:.1f} (mean of the last minute)")
    print(f"  memory   {memory.total / 2**30:.1f} GB, {memory.available / 2**30:.1f} GB free")
    print(f"  GPUs     {_gpus()}")
    running = [record for _, record in store.runs(store.workspace()) if record.status == RUNNING]
    running_here = [record for record in running if record.job is None and process_lives(record.process)]
    print(f"  runs     {len(running_here)} of this workspace running")
    for backend in registry.all_known():
        try:
            lines = backend.status()
        except Exception as error:  # noqa: BLE001 - a third-party backend must not hide the others
            lines = [f"{backend.name}: its status fails: {type(error).__name__}: {error}"]
        for line in lines:
            print(line)
    return 0


def _gpus() -> str:
    names = machine.gpu_names()
    if not names:
        return "none"
    shown = {
        index: f"{int(taken) / 1024:.1f} of {int(total) / 1024:.1f} GB used, {busy} % busy"
        for index, taken, total, busy in machine.gpu_table("index", "memory.used", "memory.total", "utilization.gpu")
    }
    visible = machine.visible_gpus()
    lines = [
        f"{index}: {name} ({shown.get(index, '?')}{'' if index in visible else '; not in CUDA_VISIBLE_DEVICES'})"
        for index, name in names
    ]
    return "\n           ".join(lines)
