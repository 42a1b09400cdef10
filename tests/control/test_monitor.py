"""The terminal output during a sweep."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from pathlib import Path

from rich.console import Console

from helpers import PLAIN, new, start_labrun, submitted, write_model
from labrun.control import monitor
from labrun.runs.context import RunContext
from labrun.runs.groups import SweepMember
from labrun.runs.record import read_record, timestamp, write_record


def test_the_table_shows_the_status_of_runs_and_the_best_one(tmp_path: Path) -> None:
    folders = []
    for number, status in enumerate(["completed", "completed", "failed", "running", "queued", "canceled"]):
        run_dir = submitted(tmp_path, f"a000000{number}", overrides=[f"lr={number}"], sweep=SweepMember(number=number))
        record = read_record(run_dir)
        record.status, record.started = status, timestamp()
        record.metrics = {"accuracy": 0.5 + number / 10} if status == "completed" else {}
        write_record(run_dir, record)
        folders.append(run_dir)
    running = RunContext(folders[3])
    for epoch in (1, 2):
        running.log("train_loss", 1.0 / epoch, step=epoch)
    running.log("train_accuracy", 0.75, step=2)
    view = monitor.Live(tmp_path / "name" / "stamp", folders)
    try:
        console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(view.table())
        text = console.export_text()
    finally:
        view.update(running=False)
    assert "2 completed, 1 failed, 1 canceled or stopped, 1 running, 1 queued, of 6" in text
    line = next(line for line in text.splitlines() if "lr=3" in line)
    assert "running" in line and "train_accuracy 0.7500" in line and re.search(r" 2 ", line)
    assert "best so far: run 1, accuracy 0.6000  lr=1" in text


def test_the_epoch_is_shown_for_a_module_that_counts_batches(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path, "c0000000")
    with_epoch = RunContext(run_dir)
    with_epoch.log("val_loss", 0.5, step=250, epoch=3)
    with_epoch.log("grad_norm", 2.0, step=260)
    assert monitor.progress(run_dir) == ("3", "grad_norm 2")


def test_the_remaining_time_is_estimated(tmp_path: Path) -> None:
    folders = [submitted(tmp_path, f"b000000{number}", sweep=SweepMember(number=number)) for number in range(4)]
    view = monitor.Live(tmp_path / "name" / "stamp", folders)
    try:
        view.table()
        view._began -= 60
        write_record(folders[0], new("b0000000", status="completed", sweep=SweepMember(number=0)))
        assert "about 3 min left" in str(view.table().renderables[0])
    finally:
        view.update(running=False)


def test_a_terminal_shows_a_live_table(workspace: Path) -> None:
    write_model(workspace)
    ours, theirs = pty.openpty()
    sweep = start_labrun(
        "-m",
        "model=sleeper",
        "model.number=1,2,3,-4",
        "model.seconds=2",
        *PLAIN,
        cwd=workspace,
        environment={"TERM": "xterm", "COLUMNS": "140"},
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
    )
    os.close(theirs)
    seen, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.5)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:
                break
            seen += data
        elif sweep.poll() is not None:
            break
    assert sweep.wait(timeout=60) == 1
    text = seen.decode(errors="replace")
    assert re.search(r"2 running, \d queued, of 4", text) and "best so far" in text
    assert "number -4 is below zero" in text, "a failure is shown at once, above the table"
    assert text.count("Traceback") == 0 and "results.csv" in text
