"""Mirroring of remote runs, so that their local folders are ordinary run folders.

New parts of growing files are appended. The size of the local file determines where to continue, so that a process that
ends in between neither loses nor duplicates anything. An ended run's record is written last, after its files: a run
that is shown as completed is complete locally, except for its checkpoints (`lab remote pull`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from labrun.compat.azureml.training import pending_models
from labrun.errors import LabrunError, RecordError
from labrun.remote import clocks, links, local_seals, notes
from labrun.remote.channel import Channel, Meter, remote_digests
from labrun.remote.links import Link
from labrun.remote.partial_downloads import PartialDownloads
from labrun.remote.ssh import UnreachableError
from labrun.runs import child_list, children, context, store, sweep_state
from labrun.runs.attempts import Job, Process
from labrun.runs.record import (
    COMPLETED,
    Record,
    RunPaths,
    cannot_write,
    parse_record,
    read_record,
    replace_text,
    write_record,
)
from labrun.runs.sweep_state import RELATIVE, SweepState
from labrun.tasks.script import registering

if TYPE_CHECKING:
    from labrun.remote.messages import FolderNews, Mark, RunNews

log = logging.getLogger(__name__)

FROZEN = (
    "id",
    "name",
    "task",
    "created",
    "config",
    "overrides",
    "command",
    "parent",
    "sweep",
    "hydra",
    "settings",
    "code",
)
"""Fields of a record that do not change after submission; the local values are kept."""
PARTS = ("outputs", "logs", "attempts")
"""Parts of an ended run to fetch, in addition to `driver.log` and `metrics.jsonl`, which were mirrored before."""
TOP = (
    "results.csv",
    "results_over_seed.csv",
    "report.html",
    "best.yaml",
    "ensemble.yaml",
    str(RELATIVE.study),
    str(RELATIVE.search),
)
"""Files of a sweep other than its runs."""
WITHOUT_HOST = "compute.host=null"
"""Last argument of a search that was transferred."""
DEAD_POLLS = 3
"""Number of polls in a row that must find a controller dead."""
EVERY_S = 5.0
"""Shortest interval at which commands that only read mirror a folder, in seconds."""
RETRY_S = 30.0
"""The same after a machine did not answer."""
REFRESH_S = 2.0
"""How long a command that only reads waits for changes from a controller, in seconds."""
SILENT_S = 15.0
"""Age from which the data of an active command are reported as late, in seconds."""
QUIET_S = 6.0
"""How long a command that only reads waits for a machine, in seconds."""


class FolderGoneError(RecordError):
    """A folder no longer exists on its machine."""


def bring(channel: Channel, folder: Path, link: Link) -> tuple[list[str], bool]:
    """Poll once: forward requests, and mirror changes. The caller must hold the lock (`link.locked`).

    Returns:
        The runs whose records have changed; and whether the remote controller is alive.

    Raises:
        UnreachableError: the machine does not answer.
        FolderGoneError: the folder no longer exists there.
        RecordError: a record cannot be written locally, or is invalid.
    """
    try:
        return _bring(channel, folder, link)
    except OSError as error:
        raise RecordError(cannot_write(folder, error)) from error


def _bring(channel: Channel, folder: Path, link: Link) -> tuple[list[str], bool]:
    changed: list[str] = []
    clocks.note(link, channel.ahead_s)
    while True:
        requests, marks = _requests(folder, link)
        seen = _seen(folder, link)
        gone = [
            run for run in link.pulled if not os.path.exists(os.path.join(folder, run, "run.json"))
        ]  # removed locally: do not fetch them again
        request = {link.folder: {"runs": link.runs, "seen": seen, "without": gone}}
        said, sizes = notes.unsent(folder, link, [*runs_of(folder, link), *_children(folder, link)])
        leave, said_there = ({link.folder: one} if one else {} for one in (requests, said))
        answer, _ = channel.ask("news", folders=request, leave=leave, said=said_there)
        link.left += marks
        link.said |= sizes
        news: FolderNews = answer["folders"][link.folder]
        if not news["there"] and link.state == links.STARTED:
            raise FolderGoneError(
                f"{link.root}/{link.folder} is not on {link.remote} any more: it was removed, or its disk is "
                f"not mounted. 'lab runs cancel {folder}' gives up its runs"
            )
        finished = _apply(channel, folder, link, news, changed)
        _finish(channel, folder, link, finished)
        if not answer["more"]:
            break
    link.reached, link.why, link.owed = time.time(), "", False
    _bring_children(channel, folder, link)
    link.living = bool(news["living"])
    if link.runs is None:
        note_runs(folder)
    link.state = links.STARTED if link.state == links.STARTING and news["living"] else link.state
    _close(channel, folder, link, news)
    links.write(folder, link)
    return changed, bool(news["living"])


def _seen(folder: Path, link: Link) -> dict[str, dict[str, Any]]:
    """Return the local size of each mirrored file."""
    sizes: dict[str, dict[str, Any]] = {"": {str(RELATIVE.controller_log): _size(SweepState(folder).controller_log)}}
    pulled = set(link.pulled)
    for run in runs_of(folder, link):  # including complete runs, as files that are not listed would be sent again
        if run not in pulled:
            sizes[run] = _seen_of(folder / run, run, link)
            link.sizes.pop(run, None)
            continue
        if run not in link.sizes:
            link.sizes[run] = _seen_of(folder / run, run, link)
        sizes[run] = link.sizes[run] | {context.ANNOTATIONS_FILE: link.said_marks.get(run)}
    return sizes


def has_requests(folder: Path, link: Link) -> bool:
    """Return whether there are requests that were not forwarded yet."""
    return bool(_requests(folder, link)[1])


def _seen_of(run_dir: Path, key: str, link: Link) -> dict[str, Any]:
    names = [name for name in _names(run_dir) if name.startswith("driver") and name.endswith(".log")]
    sizes: dict[str, Any] = {
        name: _size(os.path.join(run_dir, name)) for name in ("metrics.jsonl", child_list.FILE, *names)
    }
    if key in link.marks:
        sizes["run.json"] = link.marks[key]
    return sizes | {context.ANNOTATIONS_FILE: link.said_marks.get(key)}


def runs_of(folder: Path, link: Link) -> list[str]:
    """Return the runs of a folder that are on the machine, as far as known locally."""
    return link.runs if link.runs is not None else _local_runs(folder)


def _local_runs(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/run.json"))


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _requests(folder: Path, link: Link) -> tuple[dict[str, str], list[str]]:
    """Return the requests that were not forwarded yet, by path in the folder, and their marks."""
    texts, marks, pulled = {}, [], set(link.pulled)
    for run in runs_of(folder, link):
        requests = os.path.join(folder, run, "requests")
        for path in (Path(requests, name) for name in _names(requests)) if run not in pulled else ():
            with contextlib.suppress(OSError):
                mark = f"{run}/{path.name}/{path.stat().st_mtime_ns}"
                if mark not in link.left and not path.name.startswith(".") and path.name != child_list.NAME:
                    texts[f"{run}/requests/{path.name}"] = path.read_text(encoding="utf-8", errors="replace")
                    marks.append(mark)
    canceled = SweepState(folder).search_canceled
    if link.runs is None and canceled.exists() and RELATIVE.search_canceled.name not in link.left:
        texts[str(RELATIVE.search_canceled)] = ""
        marks.append(RELATIVE.search_canceled.name)
    return texts, marks


def _names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _apply(
    channel: Channel, folder: Path, link: Link, news: FolderNews, changed: list[str]
) -> list[tuple[str, Record, Mark]]:
    """Write the received changes. Return the ended runs, whose other files must still be fetched."""
    finished = []
    for run, one in news["runs"].items():
        record = _take(channel, _inside(folder, run), run, folder, link, one)
        if "record" in one:
            changed.append(run)
        if record is not None:
            finished.append((run, record, one["mark"]))
    for name, (start, count) in news["files"].items():
        _add(_inside(folder, name), start, channel.read(count))
    return finished


def _take(channel: Channel, run_dir: Path, key: str, folder: Path, link: Link, one: RunNews) -> Record | None:
    """Write the received changes of a run. If it has ended, return its record, which is not written yet."""
    run_dir.mkdir(parents=True, exist_ok=True)
    link.sizes.pop(key, None)
    for name, (start, count) in one["files"].items():
        _add(_inside(run_dir, name), start, channel.read(count))
    if one["age"] is not None:
        _beat(run_dir, one["age"])
    record = _record(channel.read(one["record"]), run_dir, folder, link) if "record" in one else None
    if "said" in one:
        notes.take(run_dir, key, link, channel.read(one["said"]))
        link.said_marks[key] = one["said_mark"]
    if record is None or record.finished:
        return record
    write_record(run_dir, record)
    link.marks[key] = one["mark"]
    if key in link.pulled:  # it runs again
        link.pulled.remove(key)
    return None


def _children(folder: Path, link: Link) -> list[str]:
    """Return the runs that scripts have started below those of a folder, as relative paths."""
    root = Path(link.home)
    named = (name for run in runs_of(folder, link) for name in children.names(root, folder / run))
    return [os.path.relpath(root / name, folder) for name in named]


def _bring_children(channel: Channel, folder: Path, link: Link) -> None:
    """Mirror the runs that scripts have started below their own; they are in the workspace, outside the folder."""
    root = Path(link.home)
    while True:
        named = [name for run in runs_of(folder, link) for name in children.names(root, folder / run)]
        names = {f"{link.workspace}/{name}": name for name in named if name not in link.pulled}
        if not names:
            return
        request = {
            remote_path: {"runs": ["."], "seen": {".": _seen_of(root / name, name, link)}}
            for remote_path, name in names.items()
        }
        answer, _ = channel.ask("news", folders=request)
        finished = {}
        for remote_path, name in names.items():
            child_news: FolderNews = answer["folders"][remote_path]
            one = child_news["runs"].get(".")
            record = None if one is None else _take(channel, root / name, name, folder, link, one)
            if one is not None and record is not None:
                finished[remote_path] = (record, one["mark"])
        for remote_path, (record, mark) in finished.items():
            pull(channel, root / names[remote_path], remote_path, PARTS)
            write_record(root / names[remote_path], record)
            link.marks[names[remote_path]] = mark
            link.pulled.append(names[remote_path])
        if not finished:  # loop, since a child may have children
            return


def _inside(folder: Path, name: str) -> Path:
    """Return the local path for a name from the other machine.

    Raises:
        RecordError: the path is outside the folder.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise RecordError(f"the other machine names {name!r:.100}, which is not in {folder}")
    return folder / name


def _add(path: Path, start: int, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.truncate(start)
        file.seek(start)
        file.write(data)


def _beat(run_dir: Path, age_s: float) -> None:
    """Give the local heartbeat the age of the remote one."""
    heartbeat, moment = RunPaths(run_dir).heartbeat, time.time() - age_s
    heartbeat.touch()
    os.utime(heartbeat, (moment, moment))


def _record(raw: bytes, run_dir: Path, folder: Path, link: Link) -> Record:
    """Convert a remote record for the local folder.

    Raises:
        RecordError: it is not a record.
    """
    record = parse_record(raw, RunPaths(run_dir).record)
    record.data, record.model = (link.to_local(value, folder) for value in (record.data, record.model))
    record.error = link.to_local(record.error, folder)
    job, process = record.job or Job(), record.process or Process()
    record.job = Job(links.CLUSTER, f"{link.remote}:{run_dir}", job.node or process.host)
    try:
        frozen = read_record(run_dir)
    except RecordError:
        return _created_remotely(record, folder, link)
    if frozen.id != record.id:
        raise RecordError(f"{run_dir} is run {frozen.id} here, but run {record.id} on {link.remote}")
    clocks.shift(record, -link.ahead_s)
    for name in FROZEN:
        setattr(record, name, getattr(frozen, name))
    return record


def _created_remotely(record: Record, folder: Path, link: Link) -> Record:
    """Convert the rest of the record of a trial or of a script's child run, which was created on the remote machine."""
    clocks.shift(record, -link.ahead_s, created=True)
    for name in ("config", "sweep", "code", "hydra"):
        setattr(record, name, link.to_local(getattr(record, name), folder))
    if "compute" in record.config:  # a trial, which was composed without a host
        local_words = {**link.words, WITHOUT_HOST: f"compute.host={link.remote}"}
        record.overrides = [word for text in record.overrides if (word := local_words.get(text, text))]
        record.command = shlex.join(["labrun", *record.overrides])
        record.config["compute"]["host"] = link.remote
    return record


def _finish(channel: Channel, folder: Path, link: Link, finished: Sequence[tuple[str, Record, Mark]]) -> None:
    """Fetch the files of ended runs, all in one answer; then write their records."""
    parts = PARTS if link.runs is not None else (*PARTS, context.HYDRA)
    if finished:
        _pull(channel, {f"{link.folder}/{run}": folder / run for run, _, _ in finished}, parts)
    for run, record, mark in finished:
        local_seals.seal(folder / run, record, link)
        write_record(folder / run, record)
        if record.status == COMPLETED and run not in link.pulled:
            registering.register(
                store.workspace(), folder / run, pending_models.read(folder / run, len(record.attempts))
            )
        link.marks[run] = mark
        if run not in link.pulled:
            link.pulled.append(run)
    if finished:
        links.write(folder, link)


def unfinished(folder: Path, link: Link) -> list[Path]:
    """Return the runs of a folder that have not ended, as far as known locally."""
    return [folder / run for run in runs_of(folder, link) if not read_record(folder / run).finished]


def close_if_over(folder: Path, link: Link) -> bool:
    """Return whether a folder's runs are over. If all have ended locally, ask the machine, and close the link.

    They have if the local controller ended while the remote one was dead, and canceled the queued runs.

    Raises:
        UnreachableError: the machine does not answer.
    """
    if link.state not in (links.STARTING, links.STARTED):
        return True
    with links.locked(folder) as is_mine:
        link = links.read(folder) or link
        if not is_mine or link.runs is None or unfinished(folder, link):
            return False
        try:
            with Channel(link.machine) as conversation:
                _, lives = bring(conversation, folder, link)
        except FolderGoneError:
            lives = False
        if link.state != links.OVER and (lives or unfinished(folder, link)):
            return False
        for run in set(link.runs) - set(link.pulled):
            give_up(folder, link, run)
        return True


def give_up(folder: Path, link: Link, run: str) -> None:
    """Record that a run will have no more changes; see `FolderGoneError`."""
    link.pulled.append(run)
    if not set(runs_of(folder, link)) - set(link.pulled):
        link.state = links.OVER
    links.write(folder, link)


def note_runs(folder: Path) -> None:
    """Add mirrored trials to the local plan of a search."""
    plan, names = sweep_state.read_plan(folder), _local_runs(folder)
    names.sort(key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    if names != plan.runs:
        plan.runs = names
        plan.write(folder)


def _close(channel: Channel, folder: Path, link: Link, news: FolderNews) -> None:
    """If all runs are over, record this, and fetch the sweep's other files."""
    if link.state != links.STARTED:
        return
    is_over = news["over"] and not news["living"] if link.runs is None else not set(link.runs) - set(link.pulled)
    if not is_over:
        return
    pull_top(channel, folder, link)
    if link.runs is None:
        _pull(channel, {f"{link.folder}/{run}": folder / run for run in _local_runs(folder)}, ("outputs",))
        SweepState(folder).search_over.touch()
    link.state = links.OVER


def pull_top(channel: Channel, folder: Path, link: Link) -> None:
    """Fetch the sweep's files other than runs, with a search's arguments converted to local ones."""
    pull(channel, folder, link.folder, TOP)
    settings_file = SweepState(folder).search
    if link.words and settings_file.is_file():
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        local_words = (link.words.get(word, word) for word in settings["fixed"])
        replace_text(
            settings_file,
            json.dumps({**settings, "fixed": sorted(word for word in local_words if word)}),
            to_disk=False,
        )


def pull(channel: Channel, folder: Path, remote_path: str, parts: Sequence[str]) -> list[str]:
    """Fetch files below a folder that are missing locally or differ.

    Returns:
        Their names.
    """
    return _pull(channel, {remote_path: folder}, parts)


def _pull(channel: Channel, folders: Mapping[str, Path], parts: Sequence[str]) -> list[str]:
    """Like `pull`, for several folders (remote -> local) in one answer."""
    local_files = {remote_folder: _known(folder, parts) for remote_folder, folder in folders.items()}
    with contextlib.ExitStack() as stack:
        begun = {
            remote_folder: stack.enter_context(PartialDownloads(folder)) for remote_folder, folder in folders.items()
        }
        offered = {remote_folder: one.offered for remote_folder, one in begun.items()}
        answer, _ = channel.ask("pull", folders=local_files, parts=list(parts), begun=offered)
        total = sum(size for files in answer["folders"].values() for _, size, *_ in files)
        names, resumed, meter = [], {}, Meter(f"fetching files from {channel.remote.name}", total)
        for remote_folder, files in answer["folders"].items():
            for name, size, moment, exact, start in files:
                path = _inside(folders[remote_folder], name)
                path.parent.mkdir(parents=True, exist_ok=True)
                meter(start)
                with begun[remote_folder].writing(path, name, size, exact, start) as file:
                    channel.read_into(file, size - start, meter)
                os.utime(path, (moment, moment))
                names.append(name)
                if start:
                    resumed[f"{channel.root}/{remote_folder}/{name}"] = path
    for link in answer["left"]:
        log.warning("Not fetched from %s, because it links out of the run's folder: %s", channel.remote.name, link)
    _verify(channel, resumed)
    return names


def _verify(channel: Channel, resumed: Mapping[str, Path]) -> None:
    """Check that resumed downloads, by remote path, equal the remote files.

    Raises:
        LabrunError: one differs; the local file is removed.
    """
    if not resumed:
        return
    from labrun.data import digests

    sums = remote_digests(channel, list(resumed))
    for (remote_path, path), digest in zip(resumed.items(), digests.of(list(resumed.values())), strict=True):
        if sums[remote_path] != digest:
            path.unlink()
            raise LabrunError(f"{remote_path} has changed, or was damaged in transfer: repeat the command")


def _known(folder: Path, parts: Sequence[str]) -> dict[str, list[int]]:
    """Return the sizes and times of the files that exist locally."""
    known = {}
    for path in (path for part in parts for path in [folder / part, *(folder / part).rglob("*")]):
        if path.is_file():
            stat = path.stat()
            known[path.relative_to(folder).as_posix()] = [stat.st_size, int(stat.st_mtime)]
    return known


def refresh(root: Path) -> None:
    """Mirror changes of a workspace's live remote runs, for a command that reads them.

    This happens at most every few seconds. An unreachable machine is reported, and its runs are left as they were.
    """
    folders = links.live(root)
    if not folders:
        return
    by_place: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        with contextlib.suppress(RecordError):
            link = links.read(folder)
            if link is not None and (link.owed or link.state in (links.STARTING, links.STARTED)):
                by_place.setdefault((link.remote, link.place), []).append(folder)
    for those in by_place.values():
        _refresh(those)


def _refresh(folders: Sequence[Path]) -> None:
    late: list[Link] = []
    with contextlib.ExitStack() as stack:
        channel: Channel | None = None
        why = ""
        for folder in folders:
            if not stack.enter_context(links.locked(folder)):
                busy = _ask_controller(folder)  # an active command mirrors them
                if busy is not None and (busy.why or (busy.reached and not _is_recent(busy.reached, SILENT_S))):
                    late.append(busy)
                continue
            link = links.read(folder)
            if link is None or (_is_recent(link.reached, EVERY_S) and not link.owed):
                continue
            if link.why and _is_recent(link.tried, RETRY_S):
                late.append(link)
                continue
            try:
                if why:
                    raise UnreachableError(why)
                channel = channel or stack.enter_context(Channel(link.machine, quiet_s=QUIET_S))
                bring(channel, folder, link)
            except LabrunError as error:
                why = str(error)
                link.why, link.tried = why, time.time()
                links.write(folder, link)
                late.append(link)
    if late:
        oldest = min(link.reached for link in late)
        since = f"{_minutes(time.time() - oldest)} ago" if oldest else "when they were submitted"
        why = late[0].why or f"{late[0].remote} has not answered yet"
        sys.stderr.write(f"lab: {why}; its runs are shown as they were {since}\n")


def forget_failures(root: Path, name: str) -> None:
    """Make the next command query a machine at once, because the user has connected to it."""
    for folder in links.live(root):
        with links.locked(folder) as is_mine, contextlib.suppress(RecordError):
            link = links.read(folder)
            if is_mine and link is not None and link.remote == name:  # otherwise an active command retries itself
                link.why, link.tried = "", 0.0
                links.write(folder, link)


def _is_recent(moment: float, seconds: float) -> bool:
    """Return whether a time is less than some seconds ago; a future time, from a clock set back, does not count."""
    return 0 <= time.time() - moment < seconds


def _ask_controller(folder: Path) -> Link | None:
    """Ask a detached controller to mirror a folder's changes, and wait briefly. Return the folder's updated link."""
    links.note_reader(folder)
    end = time.monotonic() + REFRESH_S
    while True:
        link = links.read(folder)
        if link is None or _is_recent(link.reached, EVERY_S) or link.why or time.monotonic() > end:
            return link
        time.sleep(0.05)


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
