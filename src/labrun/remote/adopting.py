"""Runs that another laptop carried to a machine: what lies there, and having it here, too.

A folder that is taken in here is a mirror like that of the laptop that sent it: either may look, cancel and tag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.remote import link as links
from labrun.remote import mirror
from labrun.remote.channel import Channel
from labrun.remote.link import Link
from labrun.runs import custom_locations, store, sweep_state
from labrun.runs import record as records


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of runs on a machine."""

    workspace: str
    """Relative to the machine's folder, as `folder`."""
    folder: str
    runs: dict[str, list[str | None]]
    """By name: id, status, and when it was submitted."""
    search: bool
    living: bool
    """Whether its controller there lives."""

    @property
    def name(self) -> str:
        """Its path in a workspace."""
        return self.folder.removeprefix(f"{self.workspace}/")

    @property
    def created(self) -> str:
        """When the first of its runs was submitted."""
        return min((str(created) for _, _, created in self.runs.values() if created), default="")

    def is_called(self, text: str) -> bool:
        """Whether a person may mean it: by its path, the end or a part of it, or by the beginning of a run's id."""
        ids = [str(run_id) for run_id, _, _ in self.runs.values() if run_id]
        is_part = text in self.name.split("/")
        is_end = f"/{self.folder}".endswith((f"/{text.strip('/')}", f"-{text}"))
        return is_part or is_end or any(one.startswith(text) for one in ids)


def folders(channel: Channel) -> list[Folder]:
    """What lies on a machine, the newest first."""
    answer = channel.call("folders")
    found = [Folder(**{key: one[key] for key in Folder.__dataclass_fields__}) for one in answer["folders"]]
    return sorted(found, key=lambda one: one.created, reverse=True)


def is_here(one: Folder, root: Path) -> bool:
    """Whether this workspace has it."""
    link = links.read(root / one.name)
    return link is not None and link.folder == one.folder


def take(channel: Channel, one: Folder, root: Path) -> list[Path]:
    """Have a folder of there here: its runs, their code, and all that comes while they go on.

    Returns:
        The runs' folders.

    Raises:
        RecordError: other runs lie at its place here.
    """
    parts = Path(one.name).parts
    if ".." in parts or not any(custom_locations.is_usual((*parts, *more)) for more in ((), ("0",))):
        raise RecordError(f"{one.folder} on {channel.remote.name} is not a folder of runs")
    folder = root / one.name
    with links.locked(folder) as is_mine:
        link = links.read(folder)
        if link is None:
            link = _begin(channel, one, root, folder)
        elif link.folder != one.folder:
            raise RecordError(f"{folder} holds other runs, of {link.folder} on {link.remote}")
        if is_mine:  # else a command at work brings them
            mirror.bring(channel, folder, link)
    found = [folder / run for run in mirror.runs_of(folder, link)]
    for run_dir in found:
        _take_rest(channel, run_dir, folder, link)
    return found


def _begin(channel: Channel, one: Folder, root: Path, folder: Path) -> Link:
    if any(folder.glob("run.json")) or any(folder.glob("*/run.json")):
        raise RecordError(f"{folder} holds other runs, which did not come from {channel.remote.name}")
    runs, name = None if one.search else list(one.runs), channel.remote.name
    link = Link(name, one.workspace, one.folder, str(root), channel.root, links.STARTED, runs)
    link.place = channel.remote.folder
    mirror.pull(channel, folder, one.folder, [".launch/plan.json", ".hydra", "multirun.yaml"])
    plan, code = sweep_state.read_plan(folder), store.state_folder(root) / "code"
    plan.target = links.CLUSTER  # the plan of there says what its own controller does
    plan.path = [place for place in link.here(plan.path, folder) if Path(place).is_relative_to(code)]
    plan.cwd = link.here(plan.cwd, folder)
    plan.write(folder)
    sweep_state.note_submitted(folder)
    store.keep_out_of_git(root)
    links.write(folder, link)
    return link


def _take_rest(channel: Channel, run_dir: Path, folder: Path, link: Link) -> None:
    """What the laptop that sent a run has of it: what Hydra saved, and its code."""
    run = run_dir.relative_to(folder).as_posix()
    mirror.pull(channel, run_dir, f"{link.folder}/{run}", [".hydra"])
    code = records.read(run_dir).code or {}
    state = store.state_folder(Path(link.home))
    named: Sequence[Any] = [code.get("folder"), (code.get("script") or {}).get("folder")]
    for place in (Path(str(one)) for one in named if one):
        if place.is_relative_to(state / "code") and not place.is_dir():
            inner = place.relative_to(link.home).as_posix()
            mirror.pull(channel, state / "code", f"{link.workspace}/{Path(inner).parent.as_posix()}", [place.name])
