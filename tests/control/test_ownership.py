"""Files that another user has written to a shared folder are not executed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from conftest import Command
from helpers import new, submitted
from labrun.backends.slurm import queue
from labrun.cli.runs import control
from labrun.control import cancel, detached
from labrun.runs import ownership, recording, sweep_state
from labrun.runs.record import CANCELED, read_record, timestamp
from labrun.runs.sweep_state import SweepState
from labrun.search import takeover


@pytest.fixture
def shared(workspace: Path) -> Path:
    """A sweep without a controller, with one waiting run."""
    folder = workspace / "multirun" / "test" / "now-5eed5eed"
    recording.create(folder / "0", new("abcd1234", config={"trainer": {}, "compute": {"environment": {}}}))
    sweep_state.Plan("local", ["0"], [], ["antigravity"], str(workspace), "test", {}).write(folder)
    return folder


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose runs were continued."""
    found: list[Path] = []

    def take(folder: Path, *rest: object) -> int:
        found.append(folder)
        return 0

    monkeypatch.setattr(detached, "take_over", take)
    monkeypatch.setattr(takeover, "take_over", take)
    monkeypatch.setattr(control, "POLL_S", 0.0)
    return found


def as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


@pytest.mark.parametrize("is_search", [False, True])
@pytest.mark.parametrize("how", ["owner", "plan is open", "record is open", "imported"])
def test_only_the_users_own_runs_are_continued(
    shared: Path, lab_here: Command, taken: list[Path], monkeypatch: pytest.MonkeyPatch, how: str, is_search: bool
) -> None:
    if is_search:
        path = SweepState(shared).plan
        path.write_text(json.dumps({**json.loads(path.read_text()), "command": ["model._target_=os.system"]}))
    assert lab_here("runs", "watch", str(shared)).returncode in (0, 1) and len(taken) == 1, "it is one's own"
    if how == "owner":
        as_somebody_else(monkeypatch)
    elif how == "imported":
        text = json.loads((shared / "0" / "run.json").read_text())
        (shared / "0" / "run.json").write_text(json.dumps({**text, "imported": {"time": timestamp()}}))
    else:
        (SweepState(shared).plan if how == "plan is open" else shared / "0" / "run.json").chmod(0o666)
    done = lab_here("runs", "watch", str(shared))
    assert done.returncode == 2 and "--take-over" in done.stderr and len(taken) == 1, done.stderr
    assert lab_here("runs", "watch", str(shared), "--take-over").returncode in (0, 1) and len(taken) == 2


def test_a_job_named_by_another_user_is_not_canceled(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = submitted(workspace)
    journal = SweepState(run_dir).jobs
    journal.parent.mkdir()
    ended: list[str] = []
    monkeypatch.setattr(queue, "known_jobs", lambda path: {run_dir: "7"} if path == journal else {})
    monkeypatch.setattr(queue, "states", lambda jobs: dict.fromkeys(jobs, "PENDING"))
    monkeypatch.setattr(queue, "scancel", ended.extend)
    journal.write_text("")
    journal.chmod(0o666)
    assert ownership.foreign_writer([journal]) is not None
    assert cancel.end_runs([run_dir]) == [] and ended == []
    assert read_record(run_dir).status == CANCELED
