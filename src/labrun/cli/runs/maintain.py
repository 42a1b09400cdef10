"""Actions for maintenance: `tag`, `note`, `rm`, `gc`, `sync`, `export`, `import`."""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from labrun import messages
from labrun.cli import bars
from labrun.cli.confirm import agreed
from labrun.cli.runs import filters
from labrun.config.schema import Tracking
from labrun.control import cancel, lease, query
from labrun.control.query import Pair, StatusResolver
from labrun.errors import ConfigError, RecordError
from labrun.remote import mirror, notes, removal
from labrun.remote.ssh import UnreachableError
from labrun.report import formatting
from labrun.runs import archive_export, archive_format, archive_import, context, files, model_journal, removing, store
from labrun.runs.record import COMPLETED, cannot_write, read_record, seconds_between, timestamp
from labrun.runs.sweep_state import SweepState
from labrun.tracking import feed, trackers

NAMED = 20
"""Maximum number of incompletely synced runs and models to list; the others are only counted."""


def tag(options: argparse.Namespace) -> int:
    """Set and remove tags; without any, show them."""
    chosen, words = filters.split_words(options)
    wanted = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key.strip() or not word.isprintable():
            raise RecordError(f"{word!r} is not a tag: use NAME or NAME=VALUE")
        wanted[key] = value
    noted: list[Pair] = []
    for run_dir, record in filters.select(chosen, default=None):
        if wanted or options.remove:
            _annotate(run_dir, tags=wanted, untag=list(options.remove or []))
            noted.append((run_dir, record))
            record = read_record(run_dir)
        print(f"{record.id}  {formatting.tags(record.tags) or 'no tags'}")
    _pass_on(noted)
    return 0


def note(options: argparse.Namespace) -> int:
    """Set the notes of runs; without a text, show them."""
    chosen, words = filters.split_words(options)
    text = " ".join(words)
    noted: list[Pair] = []
    for run_dir, record in filters.select(chosen, default=None):
        if words:
            new = f"{record.notes}\n{text}" if options.append and record.notes else text
            _annotate(run_dir, note=new)
            noted.append((run_dir, record))
            record = read_record(run_dir)
        print(f"{record.id}  {record.notes or 'no notes'}")
    _pass_on(noted)
    return 0


def _pass_on(noted: Sequence[Pair]) -> None:
    """Forward new tags and notes to the machines that hold the runs, at once if they are reachable."""
    if notes.owe(noted):
        mirror.refresh(store.workspace())


def _annotate(run_dir: Path, **what: object) -> None:
    try:
        context.annotate(run_dir, **what)  # type: ignore[arg-type]
    except OSError as error:
        raise RecordError(cannot_write(run_dir, error)) from error


def remove(options: argparse.Namespace) -> int:
    """Remove runs, after asking."""
    root, shown = store.workspace(), StatusResolver()
    chosen = filters.select(options, default=None, shown=shown)
    linked = [name for name in options.run if _is_link(root, name)]
    if linked:
        raise RecordError(f"{linked[0]} is a link, or leads through one: name the run's own folder, or its id")
    kept = removing.reasons(root, chosen, shown, _registered(root), _has_controller)
    if options.force and filters.is_filtered(options):
        raise RecordError("--force is for runs that are named one by one, not for runs that filters select")
    forced = [run_dir for run_dir, why in kept.items() if options.force and why.forceable]
    going = [pair for pair in chosen if pair[0] not in kept or pair[0] in forced]
    _list(going, shown)
    for run_dir, why in kept.items():
        if run_dir not in forced:
            more = " (or --force)" if why.forceable and not options.force else ""
            sys.stderr.write(f"lab: kept: run {why.run.id}: {why.text}{more}\n")
    if not going:
        return 1
    if not agreed(f"Remove {_count(going)}?", options.yes):
        return 1
    copies = {} if options.here else _agreed_copies(going, options.yes)
    live = [d for d in forced if shown(d, read_record(d)) in removing.LIVE]
    if live and (left := cancel.end_runs(live)):
        raise RecordError(f"{len(left)} of the runs are still running ({left[0]}); nothing was removed")
    _remove_copies(copies)
    _remove(root, going)
    return int(len(going) < len(chosen))


def _agreed_copies(going: Sequence[Pair], yes: bool) -> removal.CopiesByMachine:
    """Return the copies on other machines that the user agrees to remove, too."""
    copies = removal.copies(going)
    count = {name: sum(map(len, folders.values())) for name, folders in copies.items()}
    return {
        name: folders
        for name, folders in copies.items()
        if agreed(f"Remove {messages.counted(count[name], 'run')} of them on {name}, too?", yes)
    }


def _remove_copies(copies: removal.CopiesByMachine) -> None:
    try:
        removal.remove(copies)
    except UnreachableError as error:
        raise UnreachableError(f"{error}. Nothing was removed here; --here keeps the copies there") from error
    for name, folders in copies.items():
        print(f"removed {messages.counted(sum(map(len, folders.values())), 'run')} on {name}")


def _registered(root: Path) -> dict[str, list[str]]:
    return model_journal.registered_runs(root)


@functools.cache
def _has_controller(sweep_dir: Path) -> bool:
    return lease.living(SweepState(sweep_dir)) is not None


def _is_link(root: Path, name: str) -> bool:
    """Whether a run's folder was named through a symbolic link."""
    for folder in (Path(name).expanduser(), root / name):
        if (folder / "run.json").exists():
            real = Path(os.path.realpath(folder))
            inner = real.relative_to(root).parts if real.is_relative_to(root) else real.parts
            return bool(inner) and Path(os.path.abspath(folder)).parts[-len(inner) :] != inner
    return False


def _count(going: Sequence[Pair]) -> str:
    return messages.counted(len(going), "run")


def _list(going: Sequence[Pair], shown: StatusResolver) -> None:
    rows = []
    for run_dir, record in going:
        old = formatting.duration(seconds_between(record.created, timestamp()))
        size = messages.size_text(removing.folder_size(run_dir))
        rows.append((record.id, record.name, shown.once(run_dir, record), old, size, str(run_dir)))
    if rows:
        print("\n".join(formatting.columns([("id", "experiment", "status", "age", "size", "folder"), *rows])))


def _remove(root: Path, going: Sequence[Pair]) -> None:
    gone = []
    try:
        for run_dir, record in going:
            removing.remove(root, run_dir)
            gone.append((record.id, run_dir))
    finally:
        if gone:
            feed.forget(root, gone)
            print(f"removed {len(gone)} {'run' if len(gone) == 1 else 'runs'}")


def gc(options: argparse.Namespace) -> int:
    """Remove old runs, except the best and the registered ones, and everything that no run needs."""
    root, shown = store.workspace(), StatusResolver()
    archive_import.left(root, finish=True)
    listing = filters.listed(root)
    going = _old(options, listing.runs, shown)
    kept = removing.reasons(root, going, shown, _registered(root), _has_controller)
    going = [pair for pair in going if pair[0] not in kept]
    _list(going, shown)
    for why in kept.values():
        print(f"kept: run {why.run.id}: {why.text}")
    waste = removing.garbage(root, listing, [run_dir for run_dir, _ in going])
    for item in waste:
        print(f"{item.path}  {messages.size_text(item.size)}  {item.what}")
    if not going and not waste:
        print("nothing to remove")
        return 0
    parts = ([_count(going)] if going else []) + ([f"{len(waste)} other folders"] if waste else [])
    if not agreed(f"Remove {' and '.join(parts)}?", options.yes):
        return 1
    _remove_copies({} if options.here else _agreed_copies(going, options.yes))
    _remove(root, going)
    for item in waste:
        removing.remove_garbage(item)
    if waste:
        print(f"removed {len(waste)} other folders, {messages.size_text(sum(item.size for item in waste))}")
    return 0


def _old(options: argparse.Namespace, pairs: Sequence[Pair], shown: StatusResolver) -> list[Pair]:
    """Return the runs that are old enough, except the best of each experiment."""
    if options.older_than is None and not filters.is_filtered(options):
        if options.keep_best:
            raise RecordError(
                "--keep-best says which runs to keep: select those to remove with --older-than (or a filter)"
            )
        return []
    now = timestamp()
    chosen = query.filtered(pairs, filters.filters(options), shown)
    if options.older_than is not None:
        chosen = [(d, r) for d, r in chosen if seconds_between(r.ended or r.created, now) > options.older_than]
    chosen = [(d, r) for d, r in chosen if shown.once(d, r) not in removing.LIVE]
    named, _ = store.parse_metric(options.metric or "", [record for _, record in pairs])
    filters.check_metric(named, pairs)
    best: set[Path] = set()
    for name in sorted({record.name for _, record in chosen}) if options.keep_best else ():
        completed = [(d, r) for d, r in pairs if r.name == name and r.status == COMPLETED]
        ranked = _ranked(completed, options.metric)
        if completed and not ranked:
            print(f"kept: all {len(completed)} completed runs of {name}: no metric shows which of them are best")
            best |= {d for d, _ in completed}
        best |= set(ranked[: options.keep_best])
    return [(d, r) for d, r in chosen if d not in best]


def _ranked(completed: Sequence[Pair], metric: str | None) -> list[Path]:
    """Return the folders of the runs that have the metric, the best first; without `metric`, it is a usual one.

    Raises:
        RecordError: nothing says whether the metric is to be high or low; removal is final, so labrun does not guess.
    """
    metric, wanted = store.parse_metric(metric or _usual(completed) or "", [record for _, record in completed])
    if wanted is None:
        if any(metric in record.metrics for _, record in completed):
            raise RecordError(store.unknown_direction_message(metric, "--metric "))
        return []
    scores = [(store.score(record, metric, wanted), run_dir) for run_dir, record in completed]
    scored = [pair for pair in scores if pair[0] > -math.inf]
    return [run_dir for _, run_dir in sorted(scored, key=lambda pair: -pair[0])]


def _usual(pairs: Sequence[Pair]) -> str | None:
    from labrun.cli.runs.list import USUAL

    return next((name for name in USUAL if any(name in record.metrics for _, record in pairs)), None)


def sync(options: argparse.Namespace) -> int:
    """Update a tracker from the records: the default one, unless another is given."""
    root, kind = store.workspace(), trackers.DEFAULT if options.tracker is None else options.tracker
    if kind not in trackers.names():
        known = trackers.names()
        raise ConfigError(f"--tracker {kind}: expected one of {', '.join(known)}.{messages.suggest(kind, known)}")
    tracker, settings = trackers.get(kind), Tracking(kind, options.uri)
    if problems := list(tracker.problems(settings)):
        raise ConfigError(problems)
    address = tracker.address(root, settings)
    began = time.monotonic()
    with bars.Bar("runs") as bar:
        fed = feed.sync(root, tracker, address, progress=bar.update, everything=options.all)
    for line in fed.left_out[:NAMED]:
        sys.stderr.write(f"lab: left out: {line}\n")
    if len(fed.left_out) > NAMED:
        sys.stderr.write(f"lab: left out: something of {len(fed.left_out) - NAMED} more\n")
    took = f"{time.monotonic() - began:.1f} s"
    rest = f"; something was left out of {len(fed.left_out)}" if fed.left_out else ""
    print(f"{messages.counted(fed.news, 'run')} updated in {tracker.label} at {address} ({took}){rest}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write runs, and their code, to an archive."""
    shown = StatusResolver()
    chosen = filters.select(options, default=None, shown=shown)
    live = [record.id for run_dir, record in chosen if shown.once(run_dir, record) in removing.LIVE]
    if live:
        raise RecordError(f"run {', '.join(live)} has not ended: wait (lab runs watch), or leave it out")
    target = options.output or Path(
        f"labrun-{chosen[0][1].id}{'' if len(chosen) == 1 else f'-and-{len(chosen) - 1}'}.tar.gz"
    )
    count = archive_export.export(store.workspace(), chosen, files.ready(target))
    print(f"{_count(chosen)}, {messages.counted(count, 'file')}, {messages.size_text(target.stat().st_size)}: {target}")
    return 0


def import_(options: argparse.Namespace) -> int:
    """Import runs from archives."""
    limits = archive_format.Limits(options.max_gb, options.max_ratio, options.max_files)
    for source in options.archive:
        new, known = archive_import.import_(store.workspace(), source, limits)
        print(
            f"{source}: {len(new)} {'run' if len(new) == 1 else 'runs'} imported"
            + (f": {', '.join(new)}" if new else "")
        )
        if known:
            print(f"  already here, and left unchanged: {', '.join(known)}")
    return 0
