"""Removing runs that lie on another machine, too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from labrun.errors import ConfigError
from labrun.remote import link as links
from labrun.remote import mirror
from labrun.remote.channel import Channel
from labrun.remote.link import Link
from labrun.runs.record import Record

REMOVE_S = 600.0
"""How long the removal of a folder may take."""
Places = dict[str, dict[Path, list[Path]]]
"""By machine: folders here, and those of their runs that are to go."""


def places(chosen: Sequence[tuple[Path, Record]]) -> Places:
    """Where runs lie beside here."""
    found: Places = {}
    for run_dir, record in chosen:
        folder = links.folder_of(run_dir, record)
        link = None if folder is None else links.read(folder)
        if folder is not None and link is not None:
            found.setdefault(link.remote, {}).setdefault(folder, []).append(run_dir)
    return found


def remove(found: Places) -> None:
    """Remove runs there; a folder of which nothing is left goes as a whole.

    Raises:
        UnreachableError: a machine does not answer.
        ConfigError: one is not known any more.
    """
    for name, folders in found.items():
        known = {folder: link for folder in folders if (link := links.read(folder)) is not None}
        try:
            machines = {link.place: link.machine for link in known.values()}
        except ConfigError as error:
            raise ConfigError(f"{error}. Without it: lab runs rm --here, which leaves what is on {name}") from error
        for place, machine in machines.items():
            with Channel(machine, quiet_s=mirror.QUIET_S) as channel:
                for folder, link in known.items():
                    if link.place == place:
                        _remove(channel, folder, link, folders[folder])


def _remove(channel: Channel, folder: Path, link: Link, run_dirs: Sequence[Path]) -> None:
    going = {os.path.relpath(run_dir, folder) for run_dir in run_dirs}
    left = {run for run in mirror.runs_of(folder, link) if (folder / run / "run.json").exists()} - going
    below = {run for run in going if run.startswith("..")}  # runs that a script has begun lie beside its own
    for place in [f"{link.folder}/{run}" for run in sorted(going if left else {".", *below})]:
        channel.call("remove", quiet_s=REMOVE_S, folder=place)
