"""Control characters are shown as escapes by every action except `logs`; JSON and CSV stay exact."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from conftest import Command
from helpers import submitted
from labrun import terminal
from labrun.config import masking
from labrun.control import monitor, results
from labrun.data import assets
from labrun.data.digests import Entry
from labrun.data.stores.base import STATE
from labrun.data.stores.local import LocalDatastore
from labrun.runs import context, model_journal
from labrun.runs.record import read_record, timestamp, write_record

EVIL = "\x1b]0;PWN\x07\x1b[31mRED\x9b31m\x7f\u202egnp\u2066x\u200ey\r\b"
OBEYED = set(EVIL) - set("]0;PWN[31mREDgnpxy")


def obeyed(text: str) -> set[str]:
    return set(text) & OBEYED


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b", "\\x9b"),
        ("\x7f", "\\x7f"),
        ("a\tb\nc", "a\\x09b\\x0ac"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("ä 日本 \u00a0\u3000", "ä 日本 \u00a0\u3000"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("\u2028", "\\u2028"),
        ("\ufeff", "\\ufeff"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert terminal.plain(text) == shown
    assert not obeyed(terminal.lines(EVIL)) - {"\r"} or "\r" not in terminal.lines(EVIL)
    assert terminal.lines("a\n\tb") == "a\n\tb"


def test_a_guarded_stream_behaves_like_a_stream(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    before = sys.stdout
    with terminal.guarded():
        print(EVIL, flush=True)
        sys.stderr.write(EVIL)
        assert sys.stdout.isatty() is before.isatty() and sys.stdout.encoding == before.encoding
        terminal.raw(sys.stdout).write("\x1b[1m")
        Console(file=terminal.raw(sys.stdout), force_terminal=True, color_system="standard").print("[red]x[/red]")
        sys.stdout.close()
    assert sys.stdout is before
    out, err = capsys.readouterr()
    assert out.count("\x1b[") == 3 and not obeyed(err), (out, err)


@pytest.fixture
def evil(workspace: Path) -> Path:
    """A run whose record, metrics, annotations, files and log are made to be obeyed."""
    run_dir = submitted(workspace, "a1111111")
    content = json.loads((run_dir / "run.json").read_text()) | {
        "name": f"x{EVIL}",
        "status": "failed",
        "overrides": [EVIL],
        "command": EVIL,
        "notes": f"{EVIL}\n{EVIL}",
        "metrics": {EVIL: 1.0, "b": EVIL},
        "tags": {EVIL: EVIL},
        "properties": {EVIL: EVIL},
        "error": {"type": EVIL, "message": EVIL, "traceback": EVIL},
        "git": {"commit": EVIL, "branch": EVIL},
        "code": {"digest": EVIL, "folder": EVIL},
        "data": [{"name": EVIL, "digest": EVIL, "path": EVIL}],
        "host": {"name": EVIL},
        "process": {"host": EVIL},
        "job": {"id": EVIL, "cluster": EVIL, "node": EVIL},
        "sweep": {"folder": EVIL, "number": EVIL},
        "threads": {"allowed": EVIL, "training": {"count": EVIL}},
        "attempts": [{"number": 1, "status": EVIL, "reason": EVIL}, {"number": EVIL}],
        "parent": EVIL,
        "packages": {EVIL: EVIL},
        "config": {EVIL: EVIL, "trainer": {}},
    }
    (run_dir / "run.json").write_text(json.dumps(content))
    lines = [{"time": 1.0, "step": n, "name": EVIL, "value": n, "attempt": 1} for n in range(3)]
    (run_dir / context.METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines) + "bad\n")
    (run_dir / "driver.log").write_text(f"{EVIL}\n")
    (run_dir / "outputs" / EVIL.replace("/", "")).write_text("")
    other = submitted(workspace, "a2222222", metrics={"b": 1.0})
    (other / "run.json").write_text((other / "run.json").read_text().replace('"queued"', '"completed"'))
    broken = submitted(workspace, "a3333333")
    (broken / "run.json").write_text(json.dumps({**content, "status": EVIL}))
    return run_dir


VERBS = [
    (),
    ("ls",),
    ("--metric", EVIL),
    ("--metric", "nobody"),
    ("show", "a1"),
    ("show", "a1", "--error"),
    ("metrics", "a1"),
    ("metrics", "a1", "--plot"),
    ("metrics", "a1", "--name", "nobody"),
    ("files", "a1"),
    ("tag", "a1"),
    ("note", "a1"),
    ("tag", "a1", "t"),
    ("compare", "a1", "a2"),
    ("download", "a1", "nobody"),
    ("watch", "a1"),
    ("--where", "nobody=1"),
    ("export", "a1"),
    ("rm", "a1"),
    ("gc", "--older-than", "0d"),
    ("rerun", "a1"),
    ("--sort", EVIL),
    ("cancel", "a1"),
    ("show", "a1", "--json"),
    ("metrics", "a1", "--json"),
    ("compare", "a1", "a2", "--json"),
    ("--json",),
    ("--csv",),
    ("metrics", "a1", "--csv"),
    ("show", EVIL),
    ("import", EVIL),
    ("show", "a3"),
    ("files", "a1", "--json"),
]


@pytest.mark.parametrize("words", VERBS, ids=str)
def test_no_action_prints_control_characters_of_a_record(evil: Path, lab_here: Command, words: tuple[str, ...]) -> None:
    done = lab_here("runs", *words)
    found = obeyed(done.stdout + done.stderr)
    if "--csv" in words:
        found &= set("\x1b\x9b\x07\x7f\b\r")
    assert not found, done.stdout + done.stderr
    assert "Traceback" not in done.stderr.replace(EVIL, "")


def test_logs_are_printed_unchanged(evil: Path, lab_here: Command) -> None:
    assert lab_here("runs", "logs", "a1").stdout == f"{EVIL}\n"
    followed = lab_here("runs", "watch", "a1").stdout
    assert "RED" in followed and not obeyed(followed)


def test_json_and_csv_stay_exact(evil: Path, lab_here: Command) -> None:
    text = 'ä \u202e \u00a0,\t\n"x"\''
    context.annotate(evil, note=text, tags={"k": text})
    (record,) = [json.loads(line) for line in lab_here("runs", "--json", "--status", "failed").stdout.splitlines()]
    assert record["notes"] == text and record["name"] == f"x{EVIL}" and record["metrics"] == {EVIL: 1.0, "b": EVIL}
    table = list(csv.reader(io.StringIO(lab_here("runs", "--csv", "--status", "failed").stdout)))
    assert dict(zip(*table, strict=True))["tags"].endswith(f"k={text}")


def test_tables_and_live_views_print_no_control_characters(
    evil: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(evil)
    assert not obeyed(monitor.ending(record))
    live = monitor.Live(workspace, [evil])
    try:
        console = Console(file=io.StringIO(), width=200)
        record.status, record.started = "running", timestamp()
        write_record(evil, record)
        console.print(live.table())
        assert not obeyed(console.file.getvalue()), console.file.getvalue()  # type: ignore[attr-defined]
    finally:
        live.update(running=False)
    capsys.readouterr()
    results.say(EVIL)
    assert not obeyed(capsys.readouterr().out)


def test_names_of_models_and_data_print_no_control_characters(
    workspace: Path, lab_here: Command, tmp_path: Path
) -> None:
    store = LocalDatastore("local", str(tmp_path / "data"))
    store.write("files/a.csv", b"1")
    store.write(f"files/{EVIL.replace('/', '')}", b"2")
    assets.register(store, "good", "files", [Entry("a.csv", 1, "0" * 64)], {})
    for name in ("good", EVIL.replace("/", "")):
        store.write(f"{STATE}/assets/{name}/7.json", json.dumps({"name": name, "number": EVIL}).encode())
    at = ("--set", f"root={store.root}")
    for words in (
        ("ls",),
        ("ls", "files"),
        ("ls", "/"),
        ("show", "good"),
        ("show", EVIL),
        ("verify", "good"),
        ("download", "files", "got"),
        ("rm", "files"),
    ):
        done = lab_here("data", *words, *at)
        assert not obeyed(done.stdout + done.stderr), words
        assert "Traceback" not in done.stderr, done.stderr
    line: dict[str, Any] = {
        "event": "register",
        "name": "m",
        "number": 1,
        "run": EVIL,
        "experiment": EVIL,
        "uri": "",
        "file": f"outputs/{EVIL.replace('/', '')}",
        "time": EVIL,
        "metrics": {EVIL: EVIL},
        "tags": {EVIL: EVIL},
        "data": [{"name": EVIL}],
    }
    line["files"] = {EVIL.replace("/", ""): "0" * 64}
    model_journal.path(workspace).parent.mkdir(parents=True, exist_ok=True)
    model_journal.path(workspace).write_text(json.dumps(line) + "\n" + json.dumps({**line, "name": EVIL}) + "\n")
    for words in ((), ("ls", "m"), ("show", "m"), ("download", "m"), ("alias", "m", EVIL), ("rm", "m"), ("show", EVIL)):
        done = lab_here("models", *words)
        assert not obeyed(done.stdout + done.stderr), words
        assert "Traceback" not in done.stderr, done.stderr
    assert "left out: 1 line of" in lab_here("models").stderr


def test_only_labruns_own_log_lines_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    with masking.in_logs(), caplog.at_level(logging.INFO):
        logging.getLogger("labrun.x").info("%s", EVIL)
        logging.getLogger("other").info("%s", EVIL)
        logging.getLogger("labrun.x").info("%d", "no number") if os.environ.get("NEVER") else None
    own, other = caplog.messages
    assert not obeyed(own) and other == EVIL
