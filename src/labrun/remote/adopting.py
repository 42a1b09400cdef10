"""Adoption of runs that another laptop sent to a remote machine: listing them, and mirroring them locally.

An adopted folder is a mirror like the one on the laptop that sent it; both can show, cancel and tag the runs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from labrun.errors import RecordError
from labrun.remote import links, mirror
from labrun.remote.channel import Channel
from labrun.remote.links import Link
from labrun.runs import context, custom_locations, store, sweep_state
from labrun.runs.groups import Code
from labrun.runs.record import read_record
from labrun.runs.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class RemoteFolder:
    """A folder of runs on a remote machine."""

    workspace: str
    """Path relative to the machine's folder, like `folder`."""
    folder: str
    runs: dict[str, list[str | None]]
    """Id, status and submission time of each run, by name."""
    search: bool
    living: bool
    """Whether its remote controller is alive."""

    @property
    def name(self) -> str:
        """Its path relative to its workspace."""
        return self.folder.removeprefix(f"{self.workspace}/")

    @property
    def created(self) -> str:
        """The submission time of its first run."""
        return min((str(created) for _, _, created in self.runs.values() if created), default="")

    def matches(self, text: str) -> bool:
        """Return whether a user's text refers to it: its path, an end or a part of that, or a prefix of a run's id."""
        ids = [str(run_id) for run_id, _, _ in self.runs.values() if run_id]
        is_part = text in self.name.split("/")
        is_end = f"/{self.folder}".endswith((f"/{text.strip('/')}", f"-{text}"))
        return is_part or is_end or any(one.startswith(text) for one in ids)


def folders(channel: Channel) -> list[RemoteFolder]:
    """Return the folders of runs on a machine, newest first."""
    answer = channel.call("folders")
    run_folders = [
        RemoteFolder(**{key: one[key] for key in RemoteFolder.__dataclass_fields__}) for one in answer["folders"]
    ]
    return sorted(run_folders, key=lambda one: one.created, reverse=True)


def is_mirrored(one: RemoteFolder, root: Path) -> bool:
    """Return whether this workspace already mirrors a folder."""
    link = links.read(root / one.name)
    return link is not None and link.folder == one.folder


def take(channel: Channel, one: RemoteFolder, root: Path) -> list[Path]:
    """Mirror a remote folder locally: its runs, their code, and all later changes.

    Returns:
        The local folders of the runs.

    Raises:
        RecordError: the local path holds other runs.
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
            raise RecordError(f"{folder} contains other runs, of {link.folder} on {link.remote}")
        if is_mine:  # otherwise an active command does so
            mirror.bring(channel, folder, link)
    run_dirs = [folder / run for run in mirror.runs_of(folder, link)]
    for run_dir in run_dirs:
        _take_rest(channel, run_dir, folder, link)
    return run_dirs


def _begin(channel: Channel, one: RemoteFolder, root: Path, folder: Path) -> Link:
    if any(folder.glob("run.json")) or any(folder.glob("*/run.json")):
        raise RecordError(f"{folder} contains other runs, which did not come from {channel.remote.name}")
    runs, name = None if one.search else list(one.runs), channel.remote.name
    link = Link(name, one.workspace, one.folder, str(root), channel.root, links.STARTED, runs)
    link.place = channel.remote.folder
    mirror.pull(channel, folder, one.folder, [str(sweep_state.RELATIVE.plan), context.HYDRA, "multirun.yaml"])
    plan, code = sweep_state.read_plan(folder), Workspace(root).code
    plan.target = links.CLUSTER  # the remote plan is for the remote controller
    plan.path = [entry for entry in link.to_local(plan.path, folder) if Path(entry).is_relative_to(code)]
    plan.cwd = link.to_local(plan.cwd, folder)
    plan.write(folder)
    sweep_state.note_submitted(folder)
    store.keep_out_of_git(root)
    links.write(folder, link)
    return link


def _take_rest(channel: Channel, run_dir: Path, folder: Path, link: Link) -> None:
    """Fetch what the sending laptop already has of a run: Hydra's files, and its code."""
    run = run_dir.relative_to(folder).as_posix()
    mirror.pull(channel, run_dir, f"{link.folder}/{run}", [context.HYDRA])
    code = read_record(run_dir).code or Code()
    frozen = Workspace(Path(link.home)).code
    code_folders = [code.folder, None if code.script is None else code.script.folder]
    for code_folder in (Path(str(one)) for one in code_folders if one):
        if code_folder.is_relative_to(frozen) and not code_folder.is_dir():
            inner = code_folder.relative_to(link.home).as_posix()
            mirror.pull(channel, frozen, f"{link.workspace}/{Path(inner).parent.as_posix()}", [code_folder.name])
