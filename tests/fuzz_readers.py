"""A fuzzer for all readers of files that others may have written.

It randomly changes files written by labrun (`run.json`, `metrics.jsonl`, annotations, a plan, a card, archives, assets
and their manifests, the journal, the index, and more), then calls every reader. A reader may return a result or raise a
`LabrunError`. It must not raise anything else, hang, create or remove anything outside the workspace, or print control
characters.

    python tests/fuzz_readers.py --seconds 600 [--seed N]

Each finding is printed once, with the change that caused it. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrun import cli
from labrun.api import handles, notebook
from labrun.backends.slurm import queue
from labrun.control import lease, monitor, query, results
from labrun.data import assets
from labrun.data.cache import Cache, Wanted
from labrun.data.digests import Entry
from labrun.data.stores.base import STATE
from labrun.data.stores.local import LocalDatastore
from labrun.errors import LabrunError
from labrun.registry import models
from labrun.runs import (
    archive_export,
    archive_format,
    archive_import,
    cards,
    context,
    custom_locations,
    end_requests,
    model_journal,
    recording,
    removing,
    store,
    sweep_state,
)
from labrun.runs.attempts import Attempt
from labrun.runs.groups import Code, DataEntry, GitState, SweepMember, ThreadChoice, ThreadUse
from labrun.runs.record import (
    Record,
    claim_attempt,
    newest_attempt,
    process_identity,
    read_record,
    shown_status,
    sweep_folder,
    timestamp,
    write_record,
)
from labrun.runs.sweep_state import SweepState
from labrun.runs.workspace import Workspace
from labrun.search import takeover
from labrun.submission import rerun
from labrun.tasks import saved
from labrun.tracking.mlflow import ui_state

HANG_S = 20
OBEYED = frozenset("\x1b\x07\x08\x7f\x9b\u202e\u2066\r")
TEXTS = [
    "",
    ".",
    "..",
    "../../../../EVIL",
    "/",
    "a/b",
    "\0",
    "\x1b]0;PWN\x07",
    "\u202eabc",
    "x" * 300,
    "${oc.env:HOME}",
    "${evil:1}",
    "os.system",
    "-1",
    "--help",
    "'; touch EVIL; '",
    "%s%n",
    "{0.__class__}",
    "NaN",
    "\ud800",
    "true",
    "²",
    "2026-01-01T00:00:00+00:00",
    "9999-12-31T23:59:59+00:00",
    "0001-01-01T00:00:00+14:00",
    "completed",
    "running",
    "last",
    "best:x",
    "a1111111",
    "EVIL\\..\\x",
    "[red]",
    "$\\frac{1}{",
    "\n",
    "\t",
    " ",
]
OTHERS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    -0.5,
    [],
    {},
    [[]],
    [None],
    [1, "a", {}],
    {"": ""},
    {"a": {"b": {"c": []}}},
    {"_target_": "os.system", "command": "touch EVIL"},
    [{"_target_": "os.mkdir", "path": "EVIL"}],
]
BYTES = [
    b"",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b"[" * 50_000,
    b'{"a":' * 600 + b"1" + b"}" * 600,
    b"null",
    b"7",
    b'"x"',
    b"{}",
    b"[]",
    b"{",
    b"1" * 5000,
    b"[1e999]",
    b'{"a": NaN}',
    b"\xef\xbb\xbf{}",
    b"x" * 100_000,
]


@dataclass
class Place:
    """The test folder: a workspace, and folders next to it that must not change."""

    top: Path

    @property
    def root(self) -> Path:
        return self.top / "deep" / "workspace"

    @property
    def data(self) -> Path:
        return self.top / "deep" / "data"


@dataclass
class Report:
    """Result of fuzzing."""

    rounds: int = 0
    calls: int = 0
    answers: int = 0
    refusals: int = 0
    by_kind: collections.Counter[str] = field(default_factory=collections.Counter)
    found: dict[str, str] = field(default_factory=dict)
    """Findings by location of the error, each with the first change that caused it."""


def make(place: Place) -> None:
    """Create the files with labrun's own writers."""
    root = place.root
    root.mkdir(parents=True)
    config = {
        "name": "test",
        "task": "fit",
        "seed": 1,
        "report": "none",
        "trusted": [],
        "script": None,
        "tags": None,
        "dataset": {"_target_": "labrun.data.readers.Digits", "name": "digits"},
        "model": {"_target_": "labrun.models.mnist_dnn.MnistDNN", "units": 8, "token": "${oc.env:HOME}"},
        "datastore": {"name": "local", "root": str(place.data)},
        "trainer": {"max_epochs": 1, "resume": None},
        "compute": {"target": "local", "environment": {}, "cpus_per_run": 1},
        "sweep": {"resume": None, "metric": "auto"},
        "tracking": {"kind": "none"},
    }
    ids = {
        "a1111111": "outputs/test/one-a1111111",
        "b2222222": "multirun/test/s-b2222222/0",
        "b3333333": "multirun/test/s-b2222222/1",
    }
    for run_id, folder in ids.items():
        run_dir = root / folder
        sweep = SweepMember(str(run_dir.parent), int(run_dir.name)) if folder.startswith("multirun") else None
        record = Record(
            run_id,
            "test",
            "fit",
            "queued",
            timestamp(),
            config,
            ["seed=1"],
            "labrun seed=1",
            sweep=sweep,
            code=Code("0" * 64, "0" * 64, files=1, base="/x", folder="/x"),
            data=[DataEntry(name="digits", digest="d" * 64, files=1, bytes=10)],
            packages={"numpy": "2.0"},
            git=GitState("c" * 40, "main", True),
            threads=ThreadUse(1, ThreadChoice(1)),
        )
        recording.create(run_dir, record)
        attempt = claim_attempt(run_dir)
        record.attempts = [Attempt(attempt, timestamp(), "completed")] * 2
        record.status, record.started, record.ended = "completed", timestamp(), timestamp()
        record.duration_s, record.process, record.metrics = 1.0, process_identity(), {"accuracy": 0.9}
        write_record(run_dir, record, to_disk=False)
        run = context.RunContext(run_dir)
        for step in range(4):
            run.log("loss", 1 / (step + 1), step)
        run.close()
        context.annotate(run_dir, tags={"a": "b"}, note="note", properties={"p": "q"})
        (run_dir / "driver.log").write_text("printed\n")
        (run_dir / "heartbeat").touch()
        model = run_dir / "outputs" / "model.pt"
        model.write_bytes(b"weights")
        card = {
            "format": 1,
            "name": "m",
            "kind": "network",
            "file": "model.pt",
            "target": "torch.nn.Linear",
            "sha256": hashlib.sha256(b"weights").hexdigest(),
            "arguments": {"in_features": 2},
            "input_shape": [2],
            "class_names": ["a", "b"],
            "scaling": {"scale": 1.0, "mean": [0.0], "std": [1.0]},
        }
        (run_dir / "outputs" / cards.NAME).write_text(json.dumps(card))
    folder = root / "multirun/test/s-b2222222"
    plan = sweep_state.Plan(
        "local", ["0", "1"], ["/x"], ["sklearn"], str(root), "test", {"kind": "none"}, is_marked=True
    )
    plan.write(folder)
    sweep_state.note_submitted(folder)
    controllers = SweepState(folder).controllers
    controllers.mkdir()
    (controllers / "1").write_text(json.dumps(process_identity().as_json()))
    SweepState(folder).search_ending.write_text(json.dumps(process_identity().as_json()))
    queue.note_submission(SweepState(folder).jobs, "t", [[str(folder / "0")]])
    queue.note_job(SweepState(folder).jobs, "t", "17", is_array=False)
    (folder / "0" / "requests" / "cancel").write_text("why")
    models.register(root, root / ids["a1111111"], "model")
    models.alias(root, "model/1", "champion")
    removing.note(root, [("c4444444", root / "outputs/test/gone")])
    elsewhere_dir = root / "mine"
    shutil.copytree(root / ids["a1111111"], elsewhere_dir)
    state = Workspace(root).state
    (state / "elsewhere.jsonl").write_text(
        json.dumps({"folder": str(elsewhere_dir)}) + "\n" + json.dumps({"folder": str(folder)}) + "\n"
    )
    ui_state.publish_address(root, "http://127.0.0.1:1")
    ui_state.notes(root).write_text(
        json.dumps({"runs": {str(root / ids["a1111111"]): {"experiment": "1", "mlflow_id": "2"}}})
    )
    place.data.mkdir()
    shop = LocalDatastore("local", str(place.data))
    shop.write("files/a.csv", b"1,2\n")
    entries = [Entry("a.csv", 4, hashlib.sha256(b"1,2\n").hexdigest())]
    assets.register(shop, "asset", "files", entries, {"a.csv": "token"})
    cache = Cache(root / "cache", None)
    cache.view("k" * 32, [Wanted("a.csv", "files/a.csv", 4, entries[0].sha256)], shop, 1)
    chosen = [(root / ids[one], read_record(root / ids[one])) for one in ids]
    archive_export.export(root, chosen, place.top / "deep" / "all.tar")
    store.listing(root)


def targets(place: Place) -> list[Path]:
    """Return the files to change."""
    root = place.root
    names = [
        "run.json",
        "metrics.jsonl",
        "annotations.jsonl",
        "model.json",
        "driver.log",
        "plan.json",
        "jobs.jsonl",
        "1",
        "ending",
        "cancel",
        "index.json",
        "registry.jsonl",
        "removed.jsonl",
        "elsewhere.jsonl",
        "ui.json",
        "tracking.json",
        "heartbeat",
        "MLmodel",
    ]
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name in names]
    found += [path for path in sorted(place.data.rglob("*")) if path.is_file() and STATE in path.parts]
    found += sorted((root / "cache").rglob("*.json"))
    return [*found, *[place.top / "deep" / "all.tar"] * 6]


def change(path: Path, draw: random.Random) -> str:
    """Change a file, and return a description of the change."""
    how = draw.random()
    if path.suffix == ".tar" and how < 0.85:
        return change_archive(path, draw)
    raw = path.read_bytes()
    if how < 0.06:
        path.unlink()
        kind = draw.choice(["fifo", "folder", "link", "nothing", "circle", "outside"])
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind != "nothing":
            path.symlink_to({"link": "/nowhere", "circle": path.name, "outside": "/etc/passwd"}[kind])
        return kind
    if how < 0.2:
        path.write_bytes(draw.choice(BYTES))
        return "other bytes"
    if how < 0.4:
        spot = draw.randrange(len(raw) + 1)
        piece = draw.choice([b"", bytes([draw.randrange(256)]), draw.choice(BYTES)[:50]])
        path.write_bytes(raw[:spot] + piece + raw[spot + draw.randrange(20) :])
        return "bytes changed"
    if path.suffix == ".jsonl":
        lines = raw.splitlines(keepends=True)
        place = draw.randrange(len(lines))
        with contextlib.suppress(ValueError):
            lines[place] = json.dumps(changed(json.loads(lines[place]), draw)).encode() + b"\n"
        if draw.random() < 0.2:
            lines.insert(place, draw.choice(BYTES) + b"\n")
        path.write_bytes(b"".join(lines))
        return "a line changed"
    try:
        content = json.loads(raw)
    except ValueError:
        path.write_bytes(draw.choice(BYTES))
        return "other bytes"
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        content = changed(content, draw)
    path.write_text(json.dumps(content))
    return "values changed"


def changed(value: Any, draw: random.Random) -> Any:
    """Return a copy of a value with a random change."""
    if isinstance(value, dict) and value and draw.random() < 0.93:
        key = draw.choice(list(value))
        how = draw.random()
        if how < 0.06:
            return {name: item for name, item in value.items() if name != key}
        if how < 0.12:
            return {**value, draw.choice(TEXTS): draw.choice([*OTHERS, *TEXTS])}
        if how < 0.15:
            return {draw.choice(TEXTS) if name == key else name: item for name, item in value.items()}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        return [*value[:place], changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(TEXTS) if draw.random() < 0.5 else draw.choice(OTHERS)


def change_archive(path: Path, draw: random.Random) -> str:
    """Change names, types and contents in an archive, with or without a matching manifest."""
    with tarfile.open(path) as archive:
        entries = [(one, (file.read() if (file := archive.extractfile(one)) else b"")) for one in archive]
    manifest = json.loads(entries.pop()[1])
    what = draw.choice(["name", "kind", "record", "manifest", "twice", "content", "record", "record"])
    place = draw.randrange(len(entries))
    entry, data = entries[place]
    if what == "name":
        name = entry.name
        parts = name.split("/")
        parts[draw.randrange(len(parts))] = draw.choice([*TEXTS, ".labrun", ".launch", "code", "outputs"])
        entry.name = draw.choice(["/".join(parts), draw.choice(TEXTS), f"/{name}", f"../{name}", name.upper()])
        manifest["files"][entry.name] = manifest["files"].pop(name)
    elif what == "kind":
        entry.type = draw.choice(
            [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, b"S"]
        )
        entry.linkname = draw.choice(["/etc/passwd", "../../x", entry.name])
    elif what == "record":
        place = next(n for n, (one, _) in enumerate(entries) if one.name.endswith("run.json") and draw.random() < 0.9)
        entry = entries[place][0]
        data = json.dumps(changed(json.loads(entries[place][1]), draw)).encode()
    elif what == "manifest":
        manifest = changed(manifest, draw)
    elif what == "twice":
        entries.append((entry, data))
    else:
        data = draw.choice(BYTES)
    entries[place] = (entry, data)
    if what in ("record", "content") and draw.random() < 0.9:
        manifest["files"][entry.name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    partial = path.with_suffix(".new")
    with contextlib.suppress(ValueError, OSError, UnicodeError), tarfile.open(partial, "w") as archive:
        for one, content in [*entries, (tarfile.TarInfo(archive_format.MANIFEST), json.dumps(manifest).encode())]:
            one.size = len(content) if one.isreg() else 0
            archive.addfile(one, io.BytesIO(content))
        partial.replace(path)
    partial.unlink(missing_ok=True)
    return f"archive: {what}"


def lab(*words: str) -> Callable[[], Any]:
    """Return a call of `lab` that checks that its exit code is 0, 1 or 2, and that it prints no control characters."""

    def call() -> None:
        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["lab", *words]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
            cli.main()
        text = out.getvalue() + err.getvalue()
        if words[:2] != ("runs", "logs") and (bad := set(text) & OBEYED - ({"\r"} if "--csv" in words else set())):
            raise AssertionError(f"{words} prints {bad!r}")

    call.__name__ = f"lab {' '.join(words)}"
    return call


def readers(place: Place) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield every reader with its name."""
    root = place.root
    folder = root / "multirun/test/s-b2222222"
    run_dirs = [root / "outputs/test/one-a1111111", folder / "0", folder / "1", root / "mine"]
    shop = LocalDatastore("local", str(place.data))
    listed = store.listing(root).runs
    for run_dir in run_dirs:
        yield (
            "record",
            lambda d=run_dir: query.filtered([(d, read_record(d))], query.Filters(), query.StatusResolver()),
        )
        yield "metrics", lambda d=run_dir: (context.read_metrics(d), context.bad_lines(d), monitor.progress(d))
        yield "record", lambda d=run_dir: monitor.ending(read_record(d))
        yield "card", lambda d=run_dir: cards.read(d / "outputs", "it")
        yield "card", lambda d=run_dir: models.described(d, read_record(d), None)
        yield "record", lambda d=run_dir: sweep_folder(d, read_record(d))
        yield "requests", lambda d=run_dir: (newest_attempt(d), end_requests.stop_reason(d))
        yield (
            "python",
            lambda d=run_dir: (repr(handles.Run(d)), handles.Run(d).get_details(), handles.Run(d).log_text()),
        )
        yield (
            "viewing",
            lambda d=run_dir: (ui_state.page(root, d), ui_state.mlflow_id(root, d), ui_state.ui_process(root)),
        )
        yield "rerun", lambda d=run_dir: rerun._check(read_record(d))
    yield "plan", lambda: store.of_plan(folder, sweep_state.read_plan(folder))
    yield "plan", lambda: sweep_state.never_submitted(folder, sweep_state.read_plan(folder))
    yield "plan", lambda: (lease.living(SweepState(folder)), takeover.is_ending(folder))
    yield "plan", lambda: queue.known_jobs(SweepState(folder).jobs)
    yield "sweep", lambda: (handles.Sweep(folder).status, handles.Sweep(folder).get_children())
    yield "sweep", lambda: results.write_csv([r for _, r in store.readable(run_dirs)], folder / "results.csv")
    yield "sweep", lambda: query.named(root, str(folder))
    yield "listing", lambda: (store.listing(root), list(store.runs(root)), list(custom_locations.run_dirs(root)))
    yield (
        "listing",
        lambda: [query.ordered(list(listed), key, query.StatusResolver()) for key in ("accuracy", "created", "notes")],
    )
    yield "listing", lambda: store.find(root, "best:accuracy")
    yield "journal", lambda: (model_journal.read(root), model_journal.registered_runs(root))
    yield "journal", lambda: model_journal.check(root, model_journal.find(root, "model@champion"))
    yield "journal", lambda: models.is_loadable(root, model_journal.find(root, "model"))
    yield "removing", lambda: removing.noted(root, 0)
    yield "removing", lambda: removing.garbage(root, store.listing(root))
    yield "removing", lambda: removing.reasons(root, listed, shown_status, {}, lambda sweep: False)
    yield "assets", lambda: [assets.versions(shop, name) for name in assets.names(shop)]
    yield (
        "assets",
        lambda: (assets.manifest(shop, assets.get(shop, "asset")), assets.seen(shop, assets.get(shop, "asset"))),
    )
    yield "assets", lambda: assets.find(shop, "asset", "abcdef")
    sha256 = hashlib.sha256(b"1,2\n").hexdigest()
    wanted = [Wanted("a.csv", "files/a.csv", 4, sha256)]
    yield "cache", lambda: Cache(root / "cache", 1.0).view("k" * 32, wanted, shop, 1)
    yield "cache", lambda: Cache(root / "cache", 1e-9).view("l" * 32, wanted, shop, 1)
    target = place.top / "deep" / "other"
    yield (
        "import",
        lambda: (
            target.mkdir(exist_ok=True),
            archive_import.import_(target, place.top / "deep" / "all.tar"),
        ),
    )
    yield "export", lambda: archive_export.export(root, [(d, read_record(d)) for d in run_dirs[:3]], root / "out.tar")
    at = ("--set", f"root={place.data}")
    for words in (
        ["runs"],
        ["runs", "--csv"],
        ["runs", "--json"],
        ["runs", "show", "a1"],
        ["runs", "show", "b2", "--error"],
        ["runs", "compare", "a1", "b2", "--json"],
        ["runs", "cancel", "a1"],
        ["runs", "watch", "b2"],
        ["runs", "metrics", "a1"],
        ["runs", "metrics", "b2", "--csv"],
        ["runs", "files", "a1"],
        ["runs", "logs", "a1"],
        ["runs", "note", "a1"],
        ["runs", "tag", "a1"],
        ["runs", "--where", "accuracy>0.5"],
        ["runs", "--sort", "accuracy"],
        ["runs", "gc", "--older-than", "0d", "--keep-best", "1"],
        ["runs", "rm", "a1"],
        ["runs", "--where", "trainer.max_epochs=1"],
        ["models"],
        ["models", "ls", "model"],
        ["models", "show", "model"],
        ["data", "ls", *at],
        ["data", "show", "asset", *at],
        ["data", "verify", "asset", *at],
        ["data", "ls", "/", *at],
    ):
        yield "lab", lab(*words)


def outside(place: Place) -> set[str]:
    """Return the files next to the workspace."""
    found = {path.name for path in place.top.iterdir()} | {
        f"deep/{path.name}" for path in (place.top / "deep").iterdir()
    }
    found |= {f"data/{path.name}" for path in place.data.iterdir()}
    evil = ("/EVIL", "/tmp/EVIL", str(place.root / "EVIL"))
    return found | {name for name in evil if os.path.lexists(name)}


class HangError(BaseException):
    """A reader took too long."""


def fuzz(seconds: float, seed: int, heavy: bool = True) -> Report:
    """Change files and call readers for some time.

    Args:
        seconds: duration.
        seed: seed of the changes.
        heavy: also render notebook pages and load models, which imports matplotlib and torch.
    """
    draw, report = random.Random(seed), Report()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="labrun-fuzz-") as name:
        pristine = Place(Path(name).resolve() / "pristine")
        os.environ["LABRUN_ROOT"] = str(pristine.root)
        make(pristine)
        end = time.monotonic() + seconds
        place = Place(Path(name).resolve() / "fuzzed")
        os.environ.update(LABRUN_ROOT=str(place.root), HOME=str(place.top / "home"))
        signal.signal(signal.SIGALRM, _hang)
        while time.monotonic() < end:
            shutil.rmtree(place.top, ignore_errors=True)
            shutil.copytree(pristine.top, place.top, symlinks=True)
            _rebase(pristine, place)
            before = outside(place)
            told = []
            for path in dict.fromkeys(draw.sample(targets(place), draw.choice([1, 2, 4, 8]))):
                if path.is_file():
                    told.append(f"{path.relative_to(place.top)}: {change(path, draw)}")
            report.rounds += 1
            _call_all(place, report, "; ".join(told), heavy and report.rounds % 10 == 0, draw)
            made = outside(place) - before - {"deep/other", "home"}
            gone = before - outside(place)
            if made or gone:
                report.found.setdefault(f"outside: made {sorted(made)}, gone {sorted(gone)}", "; ".join(told))
    logging.disable(logging.NOTSET)
    return report


def _hang(number: int, frame: Any) -> None:
    raise HangError


def _rebase(pristine: Place, place: Place) -> None:
    """Replace the absolute paths in the files with those of the copy."""
    old, new = str(pristine.top).encode(), str(place.top).encode()
    for path in place.top.rglob("*.json*"):
        raw = path.read_bytes()
        if old in raw:
            path.write_bytes(raw.replace(old, new))


def _call_all(place: Place, report: Report, told: str, heavy: bool, draw: random.Random) -> None:
    os.chdir(place.root)
    called = list(_guarded(report, told, "listing", lambda: list(readers(place))) or [])
    verbs = [one for one in called if one[0] == "lab"]
    called = [one for one in called if one[0] != "lab"] + draw.sample(verbs, min(len(verbs), 6))
    if heavy:
        run_dir = place.root / "outputs/test/one-a1111111"
        called.append(("notebook", lambda: notebook.run_page(handles.Run(run_dir))))
        called.append(("load", lambda: saved.load_model(run_dir)))
    for kind, call in called:
        _guarded(report, told, kind, call)


def _guarded(report: Report, told: str, kind: str, call: Callable[[], Any]) -> Any:
    report.calls += 1
    report.by_kind[kind] += 1
    signal.alarm(HANG_S)
    try:
        found = call()
        report.answers += 1
        return found
    except LabrunError:
        report.refusals += 1
    except (Exception, HangError) as error:  # noqa: BLE001 - these are the findings
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(one.filename).name}:{one.lineno}" for one in frames if "/labrun/" in one.filename]
        where = ours[-1] if ours else getattr(call, "__name__", "?")
        key = f"{kind}: {type(error).__name__} at {where}: {str(error)[:150]!r}"
        short = key.partition(": ")[2].rpartition(": ")[0]
        if not any(short in known for known in report.found):
            report.found[key] = f"{told}   ({' <- '.join(ours[-4:][::-1])})"
    finally:
        signal.alarm(0)
    return None


def main() -> int:
    """Fuzz, and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    report = fuzz(options.seconds, options.seed)
    print(
        f"seed {options.seed}: {report.rounds:,} changed workspaces, {report.calls:,} calls: {report.answers:,} "
        f"answers, {report.refusals:,} refusals, {len(report.found)} findings"
    )
    print(", ".join(f"{kind} {count:,}" for kind, count in sorted(report.by_kind.items())))
    for what, how in report.found.items():
        print(f"- {what}\n    {how}")
    return int(bool(report.found))


if __name__ == "__main__":
    sys.exit(main())
