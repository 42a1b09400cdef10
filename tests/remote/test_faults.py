"""What goes wrong on the way to another machine and back: each run is done once, or plainly not begun."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import far
from conftest import Command
from labrun.errors import LabrunError
from labrun.remote import backend, carry, channel, clocks, data, environment, helper, mirror, packed, remotes, searching
from labrun.remote import link as links
from labrun.remote.ssh import UnreachableError
from labrun.runs import record as records
from labrun.runs import sweep_state
from labrun.runs.record import Record

SCRIPT = """
import os, pathlib, sys, time
number, seconds, rows = sys.argv[1], float(sys.argv[2]), sys.argv[3]
ledger = pathlib.Path.home() / "ledger"
with open(ledger, "a") as file:
    file.write(f"begun {number}\\n")
time.sleep(seconds)
if number == "1" and os.environ["LABRUN_ATTEMPT"] == "1":
    sys.exit("the first time it fails")
pathlib.Path("outputs/rows").write_text(pathlib.Path(rows).read_text())
"""
WORDS = (
    "-m",
    "experiment=script",
    "script.path=train.py",
    "datastore.root=data",
    "script.positional=[${seed},0.2,'${mount:rows.txt}']",
    "compute.host=box",
    "tracking=none",
)


@pytest.fixture
def script(workspace: Path) -> None:
    (workspace / "code").mkdir()
    (workspace / "train.py").write_text(SCRIPT)
    (workspace / "data").mkdir()
    (workspace / "data" / "rows.txt").write_text("old\n" * 50_000)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a machine that does not answer."""
    monkeypatch.setattr(channel, "QUIET_S", 1.5)
    monkeypatch.setattr(channel, "LONGEST_PAUSE_S", 1.0)
    monkeypatch.setattr(backend, "LONGEST_PAUSE_S", 1.0)


def runs_of(workspace: Path) -> list[Record]:
    found = [*workspace.glob("outputs/*/*/run.json"), *workspace.glob("multirun/*/*/*/run.json")]
    return sorted((records.read(path.parent) for path in found), key=lambda one: one.config["seed"])


def ledger(box: far.Far) -> list[str]:
    return sorted(box.inside(f"cat /home/{far.USER}/ledger; rm -f /home/{far.USER}/ledger").splitlines())


class Cutting:
    """Pulls the plug once in each phase of a submit.

    Args:
        box: the machine.
        monkeypatch: the test's.
    """

    PHASES = ("have", "put labrun", "put workspaces", "store", "link", "spawn", "wait", "news")

    def __init__(self, box: far.Far, monkeypatch: pytest.MonkeyPatch) -> None:
        self.box, self.cut, self._phase = box, [], ""
        write, answer = channel.Channel._write, channel.Channel._answer

        def write_and_cut(conversation: channel.Channel, content: bytes) -> None:
            if content.startswith(b'{"do": "'):
                asked = json.loads(content)
                to = str(asked.get("to", "")).partition("/")[0] if asked["do"] == "put" else ""
                self._phase = f"{asked['do']} {to}".strip()
                if not asked["bytes"] and self._phase != "spawn":
                    self._pull(self._phase)
            elif self._phase:  # in the middle of a file
                self._pull(self._phase)
            write(conversation, content)

        def answer_lost(conversation: channel.Channel, quiet_s: float | None) -> tuple[dict[str, Any], int]:
            if self._phase == "spawn" and "spawn" not in self.cut:
                self.cut.append("spawn")
                found = answer(conversation, quiet_s)
                assert found[0]["state"] == "started"
                raise UnreachableError("the answer is lost")
            return answer(conversation, quiet_s)

        monkeypatch.setattr(channel.Channel, "_write", write_and_cut)
        monkeypatch.setattr(channel.Channel, "_answer", answer_lost)

    def _pull(self, phase: str) -> None:
        if phase in self.PHASES and phase not in self.cut:
            self.cut.append(phase)
            self.box.set_link(up=False)
            threading.Timer(2.0, self.box.set_link, [True]).start()


def test_a_link_that_is_cut_in_each_phase_of_a_submit(
    box: far.Far, script: None, hasty: None, labrun_here: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takes over 15 s: the link is down for two seconds in each of eight phases."""
    box.inside(f"rm -rf /home/{far.USER}/.labrun")
    cutting = Cutting(box, monkeypatch)
    done = labrun_here(*WORDS, "seed=0,1,2", "compute.retries=1")
    assert done.returncode == 0, done.stderr
    assert set(cutting.cut) == set(cutting.PHASES), cutting.cut
    found = runs_of(workspace)
    assert [one.status for one in found] == ["completed"] * 3
    assert [len(one.attempts) for one in found] == [1, 2, 1]  # what fails there and is tried again is not taken as over
    assert ledger(box) == ["begun 0", "begun 1", "begun 1", "begun 2"]
    assert not any(".partial" in name for name in box.inside(f"find /home/{far.USER}/.labrun").split())


@pytest.fixture
def there(tmp_path: Path) -> helper.Helper:
    """What answers on the other machine, here: for what needs no machine."""
    answering = helper.Helper(io.BytesIO(), io.BytesIO())
    answering.root = str(tmp_path / "there")
    (tmp_path / "there").mkdir()
    return answering


def test_a_failed_run_is_over_only_when_its_controller_gives_it_up(there: helper.Helper) -> None:
    folder = Path(there.root) / "sweep"
    (folder / "0").mkdir(parents=True)
    (folder / ".launch").mkdir()
    record = {"id": "a1", "status": "failed", "attempts": [{}], "config": {"compute": {"retries": 1}}}
    (folder / "0" / "run.json").write_text(json.dumps(record))
    mine = {"pid": os.getpid(), "start": helper.start_of(os.getpid()), "host": socket.gethostname()}
    (folder / ".launch" / "far").write_text(json.dumps(mine))
    asked = {"folders": {"sweep": {"runs": ["0"], "seen": {}}}}

    def is_told() -> bool:
        found = there.do_news(asked, helper._Payload(io.BytesIO(), 0))[0]["folders"]["sweep"]
        return "record" in found["runs"].get("0", {})

    assert not is_told()
    record["config"] = {"compute": {"retries": 0}}
    (folder / "0" / "run.json").write_text(json.dumps(record))
    assert is_told()
    record["config"] = {"compute": {"retries": 1}}
    (folder / "0" / "run.json").write_text(json.dumps(record))
    sweep_state.note_given_up(folder, SimpleNamespace(id="a1", attempts=[{}]))  # type: ignore[arg-type]
    assert is_told()
    record["attempts"] = [{}, {}]
    (folder / "0" / "run.json").write_text(json.dumps(record))
    assert not is_told()
    (folder / ".launch" / "far").write_text(json.dumps({**mine, "start": 1}))  # nobody tries it again
    assert is_told()


def _environment(top: Path) -> Path:
    folder = top / "env" / "k"
    (folder / "bin").mkdir(parents=True)
    os.symlink(sys.executable, folder / "bin" / "python")
    for name in ("a", "b"):
        (folder / "lib" / "python3.11" / "site-packages" / name).mkdir(parents=True)
        (folder / "lib" / "python3.11" / "site-packages" / name / "__init__.py").touch()
    return folder


def test_an_environment_that_lacks_something_is_built_anew(there: helper.Helper) -> None:
    folder = _environment(Path(there.root))
    built = str(folder)
    assert helper.is_built(built)
    (folder / "lib" / "python3.11" / "site-packages" / "a" / "__pycache__").mkdir()
    assert helper.is_built(built)
    (folder / "lib" / "python3.11" / "site-packages" / "b" / "__init__.py").unlink()
    assert not helper.is_built(built)
    (folder.parent / ".k.elsewhere.7").mkdir()
    request = {"claim": "env/k.build", "built": "env/k", "log": "env/k.log", "command": ["true"], "environment": {}}
    nothing = helper._Payload(io.BytesIO(), 0)
    assert there.do_spawn(request, nothing)[0]["state"] == "started"
    assert not folder.exists() and not (folder.parent / ".k.elsewhere.7").exists()
    _environment(Path(there.root))
    assert there.do_spawn(request, nothing)[0]["state"] == "done"
    shutil.rmtree(folder)
    claim = Path(there.root) / "env" / "k.build"
    claim.write_text(json.dumps({"pid": 1, "start": 1, "host": "another-login-node", "beats": True}))
    assert there.do_spawn(request, nothing)[0]["state"] == "running"  # it builds there
    os.utime(claim, (time.time() - 100, time.time() - 100))
    assert there.do_spawn(request, nothing)[0]["state"] == "started"  # it did, and has died


def test_two_builds_at_once_leave_one_environment(tmp_path: Path) -> None:
    """As on two login nodes whose shared disk has no locks."""
    (tmp_path / "uv").write_text(
        '#!/bin/sh\nif [ "$1" = venv ]; then shift 5; mkdir -p "$1/bin"; sleep 0.5; echo "$$" > "$1/bin/python"\n'
        'else cat "$7" > "$(dirname "$(dirname "$5")")/packages"; fi\n'
    )
    (tmp_path / "uv").chmod(0o755)
    script = environment.BUILD.format(root=tmp_path, key="k", uv=tmp_path / "uv", version="3.11", claim="env/k.build")
    (tmp_path / "env").mkdir()
    building = [subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) for _ in range(2)]
    for process in building:
        process.communicate(b"thing==1\n")
    assert [process.returncode for process in building] == [0, 0]
    assert (tmp_path / "env" / "k" / "packages").read_text() == "thing==1\n"
    assert sorted(path.name for path in (tmp_path / "env").iterdir()) == ["k", "k.build"]


def test_code_that_was_half_removed_is_put_back(there: helper.Helper, tmp_path: Path) -> None:
    file, size = packed.archive({"a.py": b"1", "b/c.py": b"2"})
    content = file.read()

    def put() -> bool:
        request = {"to": "code/x", "marked": True}
        return bool(there.do_put(request, helper._Payload(io.BytesIO(content), size))[0]["new"])

    def have() -> list[str]:
        return list(there.do_have({"paths": ["code/x"]}, helper._Payload(io.BytesIO(), 0))[0]["have"])

    assert put() and have() == ["code/x"] and not put()
    (Path(there.root) / "code" / "x" / "b" / "c.py").unlink()
    assert have() == []
    put()
    assert have() == ["code/x"] and (Path(there.root) / "code" / "x" / "b" / "c.py").read_bytes() == b"2"


def test_a_process_that_cannot_be_noted_does_not_go_on(there: helper.Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(place: str, content: bytes) -> None:
        raise OSError(28, "No space left on device", place)

    monkeypatch.setattr(helper, "write", is_full)
    mark = Path(there.root) / "mark"
    command = ["sh", "-c", f"sleep 0.5; touch {mark}"]
    request = {"claim": "x/far", "log": "x/log", "command": command, "environment": {}}
    (Path(there.root) / "x").mkdir()
    with pytest.raises(OSError, match="No space"):
        there.do_spawn(request, helper._Payload(io.BytesIO(), 0))
    time.sleep(0.8)
    assert not mark.exists()


def _record(**config: Any) -> Record:
    base = {"compute": {"host": "box", "environment": {}}, "trainer": {}, "task": "fit", **config}
    return Record(id="a1b2c3d4", name="x", task="fit", status=records.QUEUED, created=records.now(), config=base)


@pytest.mark.parametrize("place", ["t.csv", "data/t.csv"])
def test_what_waits_there_reads_the_data_that_it_was_submitted_with(box: far.Far, workspace: Path, place: str) -> None:
    (workspace / "data").mkdir()
    table = workspace / place
    node = {"_target_": "labrun.data.readers.Csv", "name": "t", "path": str(table), "target": "c"}
    store = {"_target_": "labrun.data.stores.local.LocalDatastore", "name": "local", "root": str(workspace / "data")}
    record, found = _record(dataset=node, datastore=store), []
    with channel.Channel(remotes.get("box")) as conversation:
        for number in (1, 2):
            table.write_text(f"a,c\n1,{number}\n")
            link = carry.fresh(workspace / "multirun" / "x" / str(number), "box", conversation)
            data.send(conversation, link, [record])
            path = link.config_there(record.config, workspace, {})["dataset"]["path"]
            found.append(path)
            assert link.here(path, workspace) == str(table)
        table.write_text("a,c\n1,3\n")
        data.send(conversation, link, [record], keep=True)  # taken up again: nothing of it changes
    assert [box.inside(f"cat {path}").split()[-1] for path in found] == ["1,1", "1,2"]


def test_paths_of_data_that_stand_in_variables_are_those_of_there(box: far.Far, workspace: Path) -> None:
    link = links.Link("box", "w", "w/f", home=str(workspace), root="/far", datastores={"/data/x": "datastores/1"})
    config = {"datastore": {"root": "${oc.env:DATA}/x", "name": "${oc.env:N}"}, "model": {"path": f"{workspace}/m"}}
    settled = {"datastore": {"root": "/data/x", "name": "n"}}
    assert link.config_there(config, workspace / "f", settled) == {
        "datastore": {"root": "/far/datastores/1", "name": "${oc.env:N}"},
        "model": {"path": "/far/w/m"},
    }


def test_a_search_that_may_have_begun_keeps_its_tie(
    box: far.Far, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tries = (
        workspace / "multirun" / "x" / "1",
        iter([UnreachableError("the answer is lost"), LabrunError("no")]),
    )
    plan = sweep_state.Plan("remote", [], [], [], str(workspace), "x", {})
    plan.write(folder)

    def start(conversation: object, folder: Path, link: links.Link, *_: object) -> None:
        link.state = links.STARTING
        links.write(folder, link)
        raise next(tries)

    monkeypatch.setattr(searching, "_start", start)
    with pytest.raises(LabrunError, match="no"):
        searching.begin(folder, [_record()], plan, [])
    assert next(tries, None) is None and links.read(folder) is not None


def test_times_of_a_machine_whose_clock_is_hours_ahead_are_told_by_the_one_here() -> None:
    record = _record()
    record.created, record.started = "2026-01-01T10:00:00.000+00:00", "2026-01-01T12:00:05.000+00:00"
    record.attempts = [{"number": 1, "started": record.started}]
    link = links.Link("box", "w", "f")
    clocks.note(link, 7200.4)
    clocks.note(link, 7201.0)
    assert link.ahead_s == 7200.4
    clocks.turn(record, -7200.0)
    assert record.started == record.attempts[0]["started"] == "2026-01-01T10:00:05.000+00:00"
    assert record.created == "2026-01-01T10:00:00.000+00:00"
    clocks.note(link, 0.3)
    assert link.ahead_s == 0.0
    assert not mirror._is_recent(time.time() + 100, 5.0) and mirror._is_recent(time.time() - 1, 5.0)
