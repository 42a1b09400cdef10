"""Ctrl-C and kill -9 at critical moments (while writing records, after the last run), and a step of the clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Command
from helpers import lab, statuses, sweep_dir, wait_for
from labrun.runs.record import process_identity, process_lives

HELD = """
import os, time
from labrun.control import results
from labrun.submission import submit

def held(real, name):
    def wait(*arguments, **options):
        if not os.path.exists("go-" + name):
            open("at-" + name, "w").close()
            time.sleep(60)
        return real(*arguments, **options)
    return wait

if os.environ["HOLD"] == "record":
    real, count = submit.write, [0]
    def write(job):
        count[0] += 1
        (held(real, "record") if count[0] == 3 else real)(job)
    submit.write = write
else:
    results.print_summary = held(results.print_summary, "table")
from labrun.app import main
main()
"""


SWEEP = ("-m", "seed=1,2,3,4,5", "experiment=script", "script.path=work.py", "tracking=none", "report=none")
"""Five runs of a script, which import no large library."""


def begin(workspace: Path, hold: str) -> subprocess.Popen[str]:
    """A sweep of five runs that pauses at one moment until `go-...` exists or a signal arrives."""
    (workspace / "work.py").write_text("print('done')\n")
    return subprocess.Popen(
        [sys.executable, "-c", HELD, *SWEEP],
        cwd=workspace,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HOLD": hold},
    )


def test_ctrl_c_while_records_are_written_cancels_the_sweep(workspace: Path) -> None:
    sweep = begin(workspace, "record")
    wait_for((workspace / "at-record").exists)
    sweep.send_signal(signal.SIGINT)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "labrun: canceled; the records are in" in err, err
    assert statuses(workspace) == ["canceled"] * 2


def test_ctrl_c_after_the_last_run_keeps_the_results(workspace: Path) -> None:
    sweep = begin(workspace, "table")
    wait_for((workspace / "at-table").exists)
    (workspace / "go-table").touch()
    sweep.send_signal(signal.SIGINT)
    out, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "but the runs are over" in err, err
    assert statuses(workspace) == ["completed"] * 5
    assert len((sweep_dir(workspace) / "results.csv").read_text().splitlines()) == 6 and "overrides" in out


def test_kill_9_while_the_records_are_written_is_reported(workspace: Path, labrun: Command) -> None:
    sweep = begin(workspace, "record")
    wait_for((workspace / "at-record").exists)
    sweep.kill()
    sweep.communicate()
    watched = lab(workspace, "runs", "watch", str(sweep_dir(workspace)))
    assert watched.returncode == 1 and "3 of its 5 runs were never submitted" in watched.stderr, watched.stderr
    assert statuses(workspace) == ["completed"] * 2
    again = labrun(*SWEEP, "sweep.resume=last")
    assert again.returncode == 0 and statuses(workspace) == ["completed"] * 5, again.stderr
    assert lab(workspace, "runs", "watch", "last").returncode == 0


def test_a_step_of_the_clock_does_not_make_a_live_process_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process's start time must not change with the clock, as the kernel's `btime` does."""
    import psutil

    mine = process_identity()
    if sys.platform == "linux":
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: time.time() - 5)  # type: ignore[attr-defined]
        monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", time.time() - 5, raising=False)  # type: ignore[attr-defined]
    assert process_lives(mine) is True
