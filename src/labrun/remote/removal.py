"""Removal of runs that are also on a remote machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from labrun.errors import ConfigError
from labrun.remote import links, mirror
from labrun.remote.channel import Channel
from labrun.remote.links import Link
from labrun.runs.record import Record

REMOVE_S = 600.0
"""Time for the removal of a folder, in seconds."""
CopiesByMachine = dict[str, dict[Path, list[Path]]]
"""Local folders by machine, each with its runs to remove."""


def copies(chosen: Sequence[tuple[Path, Record]]) -> CopiesByMachine:
    """Return the remote machines that also have the given runs."""
    copies_by_machine: CopiesByMachine = {}
    for run_dir, record in chosen:
        folder = links.folder_of(run_dir, record)
        link = None if folder is None else links.read(folder)
        if folder is not None and link is not None:
            copies_by_machine.setdefault(link.remote, {}).setdefault(folder, []).append(run_dir)
    return copies_by_machine


def remove(copies_by_machine: CopiesByMachine) -> None:
    """Remove runs from their remote machines; remove a folder completely if no other run is left in it.

    Raises:
        UnreachableError: a machine does not answer.
        ConfigError: a machine is no longer known.
    """
    for name, folders in copies_by_machine.items():
        known = {folder: link for folder in folders if (link := links.read(folder)) is not None}
        try:
            machines = {link.place: link.machine for link in known.values()}
        except ConfigError as error:
            raise ConfigError(f"{error}. To leave the files on {name}: lab runs rm --here") from error
        for remote_folder, machine in machines.items():
            with Channel(machine, quiet_s=mirror.QUIET_S) as channel:
                for folder, link in known.items():
                    if link.place == remote_folder:
                        _remove(channel, folder, link, folders[folder])


def _remove(channel: Channel, folder: Path, link: Link, run_dirs: Sequence[Path]) -> None:
    going = {os.path.relpath(run_dir, folder) for run_dir in run_dirs}
    left = {run for run in mirror.runs_of(folder, link) if (folder / run / "run.json").exists()} - going
    below = {run for run in going if run.startswith("..")}  # runs started by a script are outside the folder
    for remote_path in [f"{link.folder}/{run}" for run in sorted(going if left else {".", *below})]:
        channel.call("remove", quiet_s=REMOVE_S, folder=remote_path)
