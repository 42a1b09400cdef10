"""Resuming a sweep: which of its runs are completed, by signature, and which must still run."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labrun import execute, messages
from labrun.compose.hydra_files import top_key
from labrun.config import masking, schema
from labrun.config.instantiate import Node
from labrun.config.references import resolve_environment
from labrun.config.schema import Config
from labrun.data.digests import manifest_digest
from labrun.data.mount import local_root, mount
from labrun.errors import DataError, RecordError
from labrun.runs import custom_locations, store, sweep_state
from labrun.runs.groups import Code, DataEntry, Host
from labrun.runs.record import COMPLETED, Record, read_record
from labrun.runs.sweep_state import RELATIVE, SweepState
from labrun.submission import own_data

log = logging.getLogger(__name__)


@dataclass
class PreviousRun:
    """A run of the sweep that is resumed."""

    run_dir: Path
    record: Record


def find_sweep(root: Path, reference: str, name: str, composed: Path | None = None) -> Path:
    """Return the folder of the sweep that a reference means.

    Args:
        root: the workspace.
        reference: `last` (of this name), or a folder.
        name: the sweep's `name`.
        composed: the folder of this command's sweep (`hydra.sweep.dir`); a sweep in it counts as the last one.

    Raises:
        RecordError: there is no such sweep.
    """
    if reference != "last":
        for folder in (Path(reference).expanduser(), root / reference):
            if (folder / "run.json").is_file():
                raise RecordError(
                    f"sweep.resume={reference}: that is a single run, not a sweep: 'lab runs rerun' repeats it"
                )
            if SweepState(folder).plan.is_file():
                return folder.resolve()
        raise RecordError(f"sweep.resume={reference}: there is no sweep (it would contain {RELATIVE.plan})")
    if composed is not None and _is_sweep(composed):
        return composed.resolve()
    folders = [plan.parents[1] for plan in (root / "multirun" / name).glob(f"*/{RELATIVE.plan}")]
    others = [folder for folder in custom_locations.noted(root) if folder not in folders]
    folders += [folder for folder in others if _is_sweep(folder) and _name(folder) == name]
    if not folders:
        raise RecordError(f"sweep.resume=last: there is no sweep called {name!r} in {root / 'multirun'} yet")
    return max(folders, key=lambda folder: (_begun(folder), folder.name)).resolve()


def _is_sweep(folder: Path) -> bool:
    return SweepState(folder).plan.is_file() and not (folder / "run.json").exists()


def _name(folder: Path) -> str | None:
    """Return the name of a sweep's runs; None if it cannot be read."""
    with contextlib.suppress(RecordError):
        return next((one.record.name for one in previous_runs(folder)), None)
    return None


def _begun(folder: Path) -> str:
    """Return when a sweep was submitted, in UTC; its folder's name has local time, which may jump or change zones."""
    with contextlib.suppress(RecordError):
        for name in sweep_state.read_plan(folder).runs:
            with contextlib.suppress(RecordError):
                return read_record(folder / name).created
    changed = SweepState(folder).plan.stat().st_mtime
    return datetime.fromtimestamp(changed, UTC).isoformat()


def previous_runs(folder: Path) -> list[PreviousRun]:
    """Return the existing runs of a sweep."""
    return [PreviousRun(run_dir, record) for run_dir, record in store.of_plan(folder, sweep_state.read_plan(folder))]


def match(
    new: Sequence[Record], old: Sequence[PreviousRun], path: Sequence[str] | None = None
) -> list[PreviousRun | None]:
    """Return for each new run the old run that it repeats, if any. Each old run is matched once.

    Changes of the model's code are ignored: completed runs are kept whatever was edited since. Changes of data count.

    Args:
        new: the runs of the command.
        old: the existing runs of the sweep.
        path: the import path of the runs that must still run; None: that of this process.
    """
    # The record of an incomplete imported run would determine what runs: start the command's own run instead.
    kept = [one for one in old if one.record.imported is None or one.record.status == COMPLETED]
    pending = [one.record.config for one in kept if not _is_completed(one.record)]
    digests = _data_now([*pending, *(record.config for record in new)], path)
    by_signature: dict[str, list[PreviousRun]] = {}
    for one in kept:
        if _is_completed(one.record):
            data = [entry for entry in one.record.data if entry.digest is not None]
        else:
            data = digests[_data_key(one.record.config)]
        by_signature.setdefault(_signature(one.record, data), []).append(one)
    found: list[PreviousRun | None] = []
    for record in new:
        data = digests[_data_key(record.config)]
        candidates = by_signature.get(_signature(record, data)) or by_signature.get(_of_before(record, data), [])
        candidates.sort(key=lambda one: one.record.status != COMPLETED)
        found.append(candidates.pop(0) if candidates else None)
    taken = {one.run_dir for one in found if one is not None}
    left = Counter(
        _signature(one.record, []) for one in old if one.record.status == COMPLETED and one.run_dir not in taken
    )
    again = Counter(_signature(record, []) for record, one in zip(new, found, strict=True) if one is None)
    if stale := (left & again).total():
        log.warning(
            "The data have changed since %s read them, or cannot be read: the runs are repeated. The old results stay "
            "in the table",
            messages.counted(stale, "completed run"),
        )
    return found


def with_compute(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return a run's overrides with those of `compute` replaced by the new ones, under which the run is resumed."""
    return [text for text in old if top_key(text) != "compute"] + [text for text in new if top_key(text) == "compute"]


def _signature(record: Record, data: list[DataEntry]) -> str:
    """Return a signature that equal runs share; values from the environment count as they were at submission."""
    settings = record.settings or execute.signature(Config(resolve_environment(record.config)), [], None)
    return " ".join([settings, *(str(entry.content or entry.digest) for entry in data)])


def _of_before(record: Record, data: list[DataEntry]) -> str:
    """Return the signature of a run whose record does not hold the digest of arrays that the user's code produced.

    Records have held it since 28 November 2026.
    """
    return _signature(record, [DataEntry(digest=entry.digest) for entry in data])


def _is_completed(record: Record) -> bool:
    return record.finished and record.status == COMPLETED


def _data_nodes(config: Node) -> dict[str, Any]:
    """Return the parts of a config that say what its run reads; empty if it reads nothing."""
    if not config.get("dataset"):
        return {}
    return resolve_environment({key: config[key] for key in ("dataset", "datastore", "datastores") if key in config})


def _data_key(config: Node) -> str:
    return repr(_data_nodes(config))


def _data_now(configs: Sequence[Node], path: Sequence[str] | None) -> dict[str, list[DataEntry]]:
    """Return by `_data_key` the digests of the data that runs would read now; none of data that cannot be read."""
    known: dict[str, list[DataEntry]] = {}
    asked: dict[str, Question] = {}
    for key, nodes in {_data_key(config): _data_nodes(config) for config in configs}.items():
        known[key] = []
        if not nodes:
            continue
        if schema.has_loaders(nodes["dataset"]):
            asked[key] = Question(str(nodes["dataset"].get("name")), own_data.LOADERS, nodes)
            continue
        from labrun.data import reader  # loads NumPy

        with contextlib.suppress(DataError, OSError):
            mounted, _ = execute.mount_inputs(Config(nodes))
            made = reader.make_reader(mounted.dataset)
            root = local_root(mounted.datastore, mounted.dataset)
            place = root or mount(mounted.datastore, mounted.dataset, made).path
            if made.is_own_code:
                asked[key] = Question(mounted.dataset_settings.name, own_data.READER, [mounted.dataset, str(place)])
            else:
                known[key] = [DataEntry(digest=manifest_digest(reader.manifest(made.files(place))))]
    for key, answer in zip(asked, _answers(list(asked.values()), path or sys.path), strict=True):
        known[key] = [] if answer is None else [answer]
    return known


@dataclass
class Question:
    """What the user's own code must compute in a process of its own."""

    dataset: str
    """The data set's name, for messages."""
    kind: str
    """`own_data.READER` or `own_data.LOADERS`."""
    given: Any
    """Plain values; see `own_data`."""


LONGEST_S = 900
"""Time limit for the user's own code to produce the data of one data set, seconds."""


def _answers(questions: Sequence[Question], path: Sequence[str]) -> list[DataEntry | None]:
    """Return the digests of data produced by the user's own code, from a process that imports the code of the runs.

    Args:
        questions: what to compute.
        path: the import path of that process.

    Returns:
        For each question the digests; None if the code fails: the runs that need the data will report the reason.
    """
    if not questions:
        return []
    # Sent through a pipe, because it contains values of variables.
    written = json.dumps([[*path], LONGEST_S, [[one.kind, one.given] for one in questions]])
    command, limit = [sys.executable, "-P", own_data.__file__], LONGEST_S * (len(questions) + 1)
    answers: list[tuple[int, str, list[str]]] = []
    try:
        done = subprocess.run(command, input=written, capture_output=True, text=True, timeout=limit, check=False)
        why = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")
        answers = json.loads(done.stdout) if done.returncode == 0 else []
    except (subprocess.TimeoutExpired, ValueError) as error:
        why = str(error)
    return [
        _answer(one, *answer)
        for one, answer in zip(questions, answers or [(1, "", [why])] * len(questions), strict=True)
    ]


def _answer(question: Question, code: int, answer: str, last_line: Sequence[str]) -> DataEntry | None:
    if code == -signal.SIGALRM:
        why = f"it takes longer than {LONGEST_S} s"
    elif code:
        why = next(iter(last_line), f"exit code {code}")
    else:
        try:
            return DataEntry.of(json.loads(answer))
        except ValueError as error:
            why = str(error)
    log.warning("dataset=%s cannot be read now: %s", question.dataset, masking.masked(why))
    return None


def warn_about_changes(new: Sequence[Record], old: Sequence[PreviousRun], fresh_code: bool) -> None:
    """Warn about differences since the sweep was submitted: code, packages, machine."""
    if not new or not old:
        return
    then, now = old[0].record, new[0]
    codes = [one.code or Code() for one in (then, now)]
    if codes[0].sources != codes[1].sources:
        names = ", ".join(_changed_files(*codes)[:5]) or "some files"
        how = (
            "the new code is used"
            if fresh_code
            else "the submitted code is used; sweep.resume_code=new uses the new code"
        )
        log.warning("The code has changed since (%s): %s", names, how)
    differing = sorted(
        name for name in {*then.packages, *now.packages} if then.packages.get(name) != now.packages.get(name)
    )
    if differing:
        listed = ", ".join(f"{n} {then.packages.get(n)} -> {now.packages.get(n)}" for n in differing[:5])
        log.warning("Package versions have changed since: %s%s", listed, ", ..." if len(differing) > 5 else "")
    before, present = (record.host or Host() for record in (then, now))
    if (before.machine, before.gpus) != (present.machine, present.gpus):
        log.warning("The machine is different: then %s, now %s", before.name, present.name)


def _changed_files(then: Code, now: Code) -> list[str]:
    """Return the Python and YAML files that differ between two snapshots."""
    texts: list[dict[str, bytes]] = []
    for code in (then, now):
        top = Path(str(code.folder or "/nowhere"))
        files = [path for pattern in ("*.py", "*.yaml", "*.yml") for path in top.rglob(pattern)] if top.is_dir() else []
        texts.append({path.relative_to(top).as_posix(): path.read_bytes() for path in files})
    return sorted(name for name in {*texts[0], *texts[1]} if texts[0].get(name) != texts[1].get(name))
