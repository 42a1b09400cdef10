"""The record: replaced atomically, claimed once, read without a lock, never wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest

from helpers import new, submitted
from labrun import _io
from labrun.errors import DataError, RecordError
from labrun.report import formatting
from labrun.runs import recording, store
from labrun.runs.attempts import Failure
from labrun.runs.record import (
    LOST,
    RUNNING,
    UNREACHABLE,
    claim_attempt,
    installed_packages,
    process_identity,
    process_lives,
    process_start,
    read_record,
    record_json,
    shown_status,
    write_record,
)
from labrun.runs.recording import Recording


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = new(tags={"a": "b"}, metrics={"loss": float("nan")}, notes="grün")
    write_record(tmp_path, record)
    back = read_record(tmp_path)
    assert dataclasses.replace(back, metrics={}) == dataclasses.replace(record, metrics={})
    assert back.metrics == {"loss": "NaN"}
    json.loads((tmp_path / "run.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    record = new(notes="x" * 200_000)
    write_record(tmp_path, record)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            write_record(tmp_path, record)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(read_record(tmp_path).notes == record.notes for _ in range(200))
    finally:
        stop.set()
        writer.join()


def test_a_damaged_record_is_one_error_and_does_not_hide_others(tmp_path: Path) -> None:
    good, bad = submitted(tmp_path, "aaaa0000"), submitted(tmp_path, "bbbb0000")
    (bad / "run.json").write_text('{"id": "bbbb')
    with pytest.raises(RecordError, match="damaged"):
        read_record(bad)
    assert [run_dir for run_dir, _ in store.runs(tmp_path)] == [good]


def test_each_attempt_is_claimed_by_one_process(tmp_path: Path) -> None:
    claimed: list[int] = []
    refused: list[RecordError] = []
    barrier = threading.Barrier(8)

    def claim() -> None:
        barrier.wait()
        try:
            claimed.append(claim_attempt(tmp_path))
        except RecordError as error:
            refused.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, len(claimed) + 1)) and len(claimed) + len(refused) == 8


def test_failures_and_completions_are_recorded_by_attempt(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    with pytest.raises(ValueError), Recording(run_dir, capture=False):
        raise ValueError("no such luck")
    record = read_record(run_dir)
    assert record.status == "failed" and record.error is not None
    assert record.error.type == "ValueError" and "no such luck" in record.error.traceback
    with Recording(run_dir, capture=False):
        assert read_record(run_dir).status == "running"
    record = read_record(run_dir)
    assert record.status == "completed" and [a.status for a in record.attempts] == ["failed", "completed"]


def test_groups_of_keys_keep_the_keys_of_later_versions(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    process = {"pid": 7, "host": "a", "boot_id": "b", "start_time": 1.5, "later": 1}
    job = {"cluster": "slurm", "id": "8_0", "node": None, "restarts": 1}
    groups = {
        "error": {"type": "ValueError", "message": "no", "traceback": "", "later": [1]},
        "process": process,
        "job": job,
        "attempts": [
            {"number": 1, "status": "lost", "process": process, "job": job, "later": {"a": 1}},
            {"status": "?"},
        ],
    }
    path = run_dir / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **groups}))
    record = read_record(run_dir)
    assert record.reason == "no" and record.attempts[0].job == record.job and record.attempts[1].number == 0
    write_record(run_dir, record)
    written = json.loads(path.read_text())
    assert {key: written[key] for key in groups} == {
        **groups,
        "attempts": [groups["attempts"][0], {"number": 0, "status": "?"}],
    }


WRITTEN = {
    "sweep": {"folder": "/w/multirun/x", "number": 3},
    "code": {
        "digest": "d",
        "sources": "s",
        "files": 2,
        "bytes": 10,
        "base": "/w",
        "folder": "/c",
        "working": ".",
        "script": {"digest": "e", "folder": "/e", "files": 1, "bytes": 5, "base": "/w/script"},
        "environment": "f",
    },
    "git": {"commit": "c", "branch": None, "dirty": False},
    "host": {
        "name": "h",
        "platform": "Linux",
        "machine": "x86_64",
        "cpus": 2,
        "memory_gb": 7.5,
        "gpus": [],
        "python": "3.11.2",
        "executable": "/usr/bin/python",
    },
    "data": [
        {
            "name": "t",
            "digest": "d",
            "files": 1,
            "bytes": 10,
            "input_shape": [4],
            "classes": 2,
            "train": 8,
            "validation": 0,
            "test": 2,
            "class_names": ["a", "b"],
            "table": {"columns": []},
            "notes": ["one"],
            "content": "c",
            "reading": {"in_memory": True, "why": "small"},
            "own_test": False,
            "datastore": "local",
            "moved_bytes": 0,
            "asset": "t",
            "version": "v",
            "number": 1,
        },
        {"name": "m", "kind": "my.Module", "digest": "d", "signed_by": "files"},
        {
            "input": "t@1",
            "path": "/t",
            "datastore": "local",
            "moved_bytes": 0,
            "asset": "t",
            "version": "v",
            "number": 1,
        },
    ],
    "training": {
        "epochs": 5,
        "tested": 4,
        "why": "the best",
        "not_finite": {"since": 5, "what": "the loss is NaN"},
        "stopped_early": {"epoch": 5, "monitor": "loss", "patience": 1},
        "hyperparameters": {"a": 1},
    },
    "threads": {"allowed": 2, "training": {"count": 2, "why": "x"}, "scoring": {"count": 1, "why": "y"}},
    "imported": {"file": "x.tar", "time": "2026-01-01T00:00:00.000+00:00"},
}
"""Every group of keys with everything that labrun writes, in its order."""


def rewritten(tmp_path: Path, groups: dict[str, Any]) -> dict[str, Any]:
    """A record's groups after it was read and written again; `groups` as in its file."""
    (tmp_path / "run.json").write_text(record_json(new(**groups)))
    write_record(tmp_path, read_record(tmp_path))
    content = json.loads((tmp_path / "run.json").read_text())
    return {name: content[name] for name in groups}


def test_groups_of_keys_are_written_in_their_order(tmp_path: Path) -> None:
    assert json.dumps(rewritten(tmp_path, WRITTEN)) == json.dumps(WRITTEN)
    read = read_record(tmp_path)
    assert read.code is not None and read.code.script is not None and read.code.script.base == "/w/script"
    assert read.training is not None and read.training.stopped_early is not None
    assert not any(group.more for group in (read.code, read.code.script, read.training, read.host, *read.data) if group)


@pytest.mark.parametrize(
    "groups",
    [
        {"training": {"epochs": 2}, "data": [{}, {"digest": "d"}], "sweep": {"number": 0}},
        {"code": {"digest": "d", "later": [1]}, "data": [{"name": ["a"], "later": {"x": None}}]},
        {"code": {"script": 7}, "training": {"epochs": "two", "not_finite": True}, "threads": {"training": [1]}},
    ],
    ids=["missing", "surplus", "of another type"],
)
def test_damaged_groups_of_keys_are_rewritten_unchanged(tmp_path: Path, groups: dict[str, Any]) -> None:
    assert rewritten(tmp_path, groups) == groups
    read = read_record(tmp_path)
    assert read.code is None or read.code.script is None
    assert formatting.trouble(read.training) is None


def test_a_users_error_with_a_name_of_labruns_is_the_users(tmp_path: Path) -> None:
    own = type("DataError", (Exception,), {})
    for number, (error, is_labruns) in enumerate([(own("no"), False), (DataError("no"), True)]):
        run_dir = submitted(tmp_path / str(number))
        with pytest.raises(type(error)), Recording(run_dir, capture=False):
            raise error
        failure = read_record(run_dir).error
        assert failure is not None and failure.type == "DataError" and failure.is_labruns() is is_labruns
    older = [Failure.of({"type": name}).is_labruns() for name in ("DataError", "ValueError", "RunFailedError")]
    assert older == [True, False, False] and "from_labrun" not in Failure("Killed").as_json()


def test_a_run_that_calls_sys_exit_has_failed(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    with pytest.raises(SystemExit), Recording(run_dir, capture=False):
        sys.exit(0)
    assert read_record(run_dir).status == "failed"


def test_ctrl_c_cancels_the_run(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    with pytest.raises(KeyboardInterrupt), Recording(run_dir, capture=False):
        raise KeyboardInterrupt
    assert read_record(run_dir).status == "canceled"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", ""),
        (" \n no\n details", "no"),
        ("2 mistakes in the configuration:\n  - a is wrong\n  - b is", "2 mistakes in the configuration: a is wrong"),
        ("Error(s) in loading state_dict:\n\n\tsize mismatch", "Error(s) in loading state_dict: size mismatch"),
        ("ends in a colon:", "ends in a colon:"),
    ],
)
def test_the_reason_of_a_failure_is_a_line_that_says_something(message: str, reason: str) -> None:
    record = new()
    record.error = Failure("ValueError", message)
    assert record.reason == (reason or "ValueError")


def test_an_error_that_a_preemption_became_is_no_failure(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    with pytest.raises(recording.Preempted), Recording(run_dir, capture=False):
        try:
            raise recording.Preempted("preempted")
        except recording.Preempted as preempted:
            raise ValueError("not a valid buffer format") from preempted
    record = read_record(run_dir)
    assert (record.status, record.error) == ("preempted", None)


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    with pytest.raises(RecordError, match="already holds a run"):
        recording.create(run_dir, new())


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RecordError, match="cannot write to .*No space left on device"):
        write_record(tmp_path, new())
    assert list(tmp_path.iterdir()) == []


def test_a_process_is_identified_by_more_than_its_pid(tmp_path: Path) -> None:
    mine = process_identity()
    assert process_lives(mine) is True
    assert process_lives(dataclasses.replace(mine, start_time=mine.start_time - 5)) is False
    assert process_lives(dataclasses.replace(mine, boot_id="another")) is False
    assert process_lives(dataclasses.replace(mine, host="elsewhere")) is None
    child = subprocess.Popen([sys.executable, "-c", ""])
    start = process_start(child.pid)
    child.wait()
    assert process_lives(dataclasses.replace(mine, pid=child.pid, start_time=start)) is False


def test_the_status_lost_is_shown_but_never_written(tmp_path: Path) -> None:
    gone = dataclasses.replace(process_identity(), boot_id="before the reboot")
    run_dir = submitted(tmp_path)
    record = dataclasses.replace(read_record(run_dir), status=RUNNING, process=gone)
    write_record(run_dir, record)
    assert shown_status(run_dir, record) == LOST
    assert read_record(run_dir).status == RUNNING


def test_a_run_elsewhere_without_heartbeat_is_unreachable_then_lost(tmp_path: Path) -> None:
    far = dataclasses.replace(process_identity(), host="elsewhere")
    run_dir = submitted(tmp_path)
    record = dataclasses.replace(read_record(run_dir), status=RUNNING, process=far)
    beat = run_dir / "heartbeat"
    beat.touch()
    present = beat.stat().st_mtime
    for age, status in ((0, RUNNING), (90, UNREACHABLE), (700, LOST)):
        os.utime(beat, (present - age, present - age))
        assert shown_status(run_dir, record) == status


def test_a_run_is_found_by_an_id_prefix(tmp_path: Path) -> None:
    one, two = submitted(tmp_path, "aaaa0000"), submitted(tmp_path, "aabb0000")
    assert store.find(tmp_path, "aaa")[0] == one
    assert store.find(tmp_path, str(two))[1].id == "aabb0000"
    assert store.find(tmp_path, "last")[0] in (one, two)
    with pytest.raises(RecordError, match="beginning of 2 ids"):
        store.find(tmp_path, "aa")
    with pytest.raises(RecordError, match="The newest ids: "):
        store.find(tmp_path, "cc")
    with pytest.raises(RecordError, match="is not a finished one"):
        store.find(tmp_path, "aaaa", suitable=lambda *_: False, wanted="a finished one")


def test_packages_are_read_again_only_after_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "mine-1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n\nVersion: of the text\n")
    old = tmp_path / "older.egg-info"
    old.mkdir()
    (old / "PKG-INFO").write_text("Name: older\nVersion: 0.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)
    assert installed_packages() == {"mine": "1", "older": "0.1"}
    with monkeypatch.context() as patched:
        patched.setattr(PathDistribution, "read_text", lambda self, name: "Name: older\nVersion: 0.1\n")
        assert installed_packages() == {"mine": "1", "older": "0.1"}
    metadata.write_text("Name: mine\nVersion: 2.0\n")
    assert installed_packages() == {"mine": "2.0", "older": "0.1"}
