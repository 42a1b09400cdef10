"""Faults on the way to a remote machine and back: each run is executed once, or clearly not started."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import far
from conftest import Command
from far_project import only_tinything, small_uv
from helpers import PLAIN, call_here, program, wait_for
from labrun import app, cli
from labrun.backends import registry
from labrun.config.schema import Compute
from labrun.control import lease
from labrun.errors import ConfigError, DataError, LabrunError
from labrun.remote import (
    adopting,
    backend,
    channel,
    clocks,
    data,
    dispatch,
    doctor,
    environment,
    helper,
    links,
    mirror,
    packed,
    remote_search,
    remotes,
    ssh,
)
from labrun.remote.ssh import UnreachableError
from labrun.runs import sweep_state
from labrun.runs.attempts import Attempt
from labrun.runs.record import QUEUED, Record, read_record, timestamp
from labrun.runs.sweep_state import SweepState

SCRIPT = """
import os, pathlib, sys, time
number, seconds, rows = sys.argv[1], float(sys.argv[2]), sys.argv[3]
ledger = pathlib.Path.home() / "ledger"
with open(ledger, "a") as file:
    file.write(f"begun {number}\\n")
time.sleep(max(seconds, 0))
while seconds < 0 and not (ledger.parent / "go").exists():
    time.sleep(0.05)
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
    "report=none",
)


@pytest.fixture
def script(workspace: Path) -> None:
    (workspace / "code").mkdir()
    (workspace / "train.py").write_text(SCRIPT)
    (workspace / "data").mkdir()
    (workspace / "data" / "rows.txt").write_text("old\n" * 50_000)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow after at most half a second."""
    monkeypatch.setattr(channel, "LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr(backend, "LONGEST_PAUSE_S", 0.5)


def runs_of(workspace: Path) -> list[Record]:
    found = [*workspace.glob("outputs/*/*/run.json"), *workspace.glob("multirun/*/*/*/run.json")]
    return sorted((read_record(path.parent) for path in found), key=lambda one: one.config["seed"])


def ledger(box: far.Far) -> list[str]:
    """Return the lines that runs have written since the last call, and remove them."""
    file = f"/home/{far.USER}/ledger"  # not removed while it is empty: a run may be about to write its line
    return sorted(box.inside(f"if [ -s {file} ]; then mv {file} {file}.read; cat {file}.read; fi").splitlines())


LONG_CUT_S = 120.0
LOGGING = """
import pathlib, sys, time
import labrun
with open(pathlib.Path.home() / "ledger", "a") as file:
    file.write(f"begun {sys.argv[1]}\\n")
for second in range(40):
    time.sleep(1)
    labrun.log("second", second)
    print(second, flush=True)
"""


class CutOff:
    """A sweep on a separate machine; once it runs, the link is down for two minutes. A process here follows it.

    Args:
        machine: where it runs.
        workspace: the laptop's.
        variables: of that process.
    """

    def __init__(self, machine: far.Far, workspace: Path, variables: dict[str, str]) -> None:
        self.machine, self.workspace = machine, workspace
        (workspace / "train.py").write_text(LOGGING)
        words = ("-m", "experiment=script", "script.path=train.py", "script.positional=[${seed}]", "seed=0,1,2,3")
        words += ("compute.host=box", "compute.max_parallel=1", "tracking=none", "report=none")
        with open(workspace.parent / "told", "wb") as told:
            self.process = subprocess.Popen(
                program("labrun", *words), cwd=workspace, env=variables, stdout=subprocess.DEVNULL, stderr=told
            )
        self.running: list[str] = []
        """What was running here when the link went down, and when it came up again."""
        self.cutting = threading.Thread(target=self._cut, daemon=True)
        self.cutting.start()

    def _cut(self) -> None:
        wait_for(lambda: self._running() or self.process.poll() is not None)
        self.running.append(self._running())
        self.machine.set_link(up=False)
        time.sleep(LONG_CUT_S)
        self.running.append(self._running())
        self.machine.set_link(up=True)

    def _running(self) -> str:
        return " ".join(str(one.config["seed"]) for one in runs_of(self.workspace) if one.status == "running")


@pytest.fixture(scope="session")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CutOff]:
    """See `CutOff`."""
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("cut")
    (folder / "laptop").mkdir()
    with far.machine(folder / "machine") as machine:
        with pytest.MonkeyPatch.context() as patch:
            machine.make_known(folder / "laptop", patch)
            variables = dict(os.environ)
        found = CutOff(machine, folder / "laptop", variables)
        try:
            yield found
        finally:
            found.process.kill()
            found.process.wait()


def test_a_command_survives_the_start_of_a_long_cut(cut_off: CutOff) -> None:
    """`test_runs_and_logs_are_complete_after_a_long_cut` checks the outcome; other tests run meanwhile."""
    assert cut_off.process.poll() is None


class Cutting:
    """Cuts the connection once in each phase of a submit, including the build of the environment.

    Args:
        box: the machine.
        phases: those in which it is cut.
        monkeypatch: the test's.
        kills: sshd is killed, and started again; else the link goes down.
        returns: the link comes up again.
    """

    PHASES = (
        "have",
        "put labrun",
        "put workspaces",
        "built",
        "put bin",
        "store wheels",
        "link env",
        "spawn",
        "wait",
        "store data",
        "link datastores",
        "begin",
        "news",
    )
    ANSWERS = ("spawn", "begin")
    """Of these the answer is lost."""
    HOLD = f"while [ -e /home/{far.USER}/hold ]; do sleep 0.05; done\n"
    """The environment is not there before `wait` was cut."""

    def __init__(
        self,
        box: far.Far,
        phases: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
        kills: bool = False,
        returns: bool = True,
    ) -> None:
        self.box, self.cut, self._left, self._kills = box, [], set(phases), kills
        self._phase, self._is_built, self._returns = "", False, returns
        box.inside(f"touch /home/{far.USER}/hold")
        monkeypatch.setattr(environment, "BUILD", self.HOLD + environment.BUILD)
        write, answer = channel.Channel._write, channel.Channel._answer

        def write_and_cut(conversation: channel.Channel, content: bytes) -> None:
            if content.startswith(b'{"do": "'):
                asked = json.loads(content)
                self._phase = self._phase_of(asked)
                if not asked["bytes"] and self._phase not in self.ANSWERS:
                    self._pull(conversation)
            elif self._phase:  # in the middle of a file
                self._pull(conversation)
            write(conversation, content)

        def answer_lost(conversation: channel.Channel, quiet_s: float | None) -> tuple[dict[str, Any], int]:
            if self._phase in self.ANSWERS and self._phase in self._left:
                found = answer(conversation, quiet_s)
                assert found[0]["state"] == "started"
                self._pull(conversation)
                raise UnreachableError("the answer is lost")
            return answer(conversation, quiet_s)

        monkeypatch.setattr(channel.Channel, "_write", write_and_cut)
        monkeypatch.setattr(channel.Channel, "_answer", answer_lost)

    def _phase_of(self, asked: dict[str, Any]) -> str:
        to = str(asked.get("to", "")).partition("/")[0]
        if asked["do"] == "store":
            to = "data" if self._is_built else "wheels"
        self._is_built = self._is_built or asked["do"] == "wait"
        return f"{asked['do']} {to}".strip()

    def _pull(self, conversation: channel.Channel) -> None:
        if self._phase not in self._left:
            return
        self._left.remove(self._phase)
        self.cut.append(self._phase)
        if self._phase == "wait":
            self.box.inside(f"rm /home/{far.USER}/hold")
        if self._kills:
            self.box.kill_sshd()
            threading.Timer(0.6, self.box.start_sshd).start()
        else:
            conversation._quiet_s = 1.0  # a short timeout: the next connection has the usual one
            self.box.set_link(up=False)
            if self._returns:
                threading.Timer(1.2, self.box.set_link, [True]).start()


KILLED = ("put labrun", "wait", "store data", "begin", "news")


@pytest.fixture
def unbuilt(
    box: far.Far, workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> far.Far:
    """The remote machine without any files sent before: it builds an environment from wheels."""
    if environment.local_uv() is None:
        pytest.skip("needs uv")
    box.inside(f"rm -rf /home/{far.USER}/.labrun")
    place = tmp_path_factory.mktemp("packages")
    only_tinything(place, monkeypatch, more=far.PACKAGES)
    small_uv(place, monkeypatch)
    box.make_known(workspace, monkeypatch, python=None, wheelhouse=str(place / "house"))
    return box


@pytest.mark.parametrize("phases", [Cutting.PHASES, KILLED], ids=["link", "sshd"])
def test_a_submit_survives_a_cut_connection_in_each_phase(
    unbuilt: far.Far,
    script: None,
    hasty: None,
    labrun_here: Command,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    phases: tuple[str, ...],
) -> None:
    """Takes over 15 s: the connection is down for a while in each phase; `news` is the phase in which runs work."""
    box = unbuilt
    cutting = Cutting(box, phases, monkeypatch, kills=phases is KILLED)
    done = labrun_here(*WORDS, "seed=0,1,2", "compute.retries=1")
    assert done.returncode == 0, done.stderr
    assert set(cutting.cut) == set(phases), cutting.cut
    found = runs_of(workspace)
    assert [one.status for one in found] == ["completed"] * 3
    # A run that fails there and is retried does not count as ended
    assert [len(one.attempts) for one in found] == [1, 2, 1]
    assert ledger(box) == ["begun 0", "begun 1", "begun 1", "begun 2"]
    top = f"/home/{far.USER}/.labrun"
    assert not any(".partial" in name for name in box.inside(f"find {top}").split())
    assert box.inside(f"grep -h tinything== {top}/env/*.log").split("\n") == [" + tinything==1.0", ""], "built once"


def test_a_submit_given_up_during_a_build_starts_nothing(
    unbuilt: far.Far, script: None, hasty: None, labrun_here: Command, workspace: Path
) -> None:
    box = unbuilt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "SENDING_S", 0.0)
        Cutting(box, ("wait",), patch, returns=False)
        given_up = labrun_here(*WORDS, "seed=0")
    box.set_link(up=True)
    assert given_up.returncode == 2 and given_up.stderr.endswith(
        "box (box) does not answer. Nothing has started there: repeat the command once it answers; "
        "what was sent and built is kept\n"
    )
    done = labrun_here(*WORDS, "seed=0")
    assert done.returncode == 0, done.stderr
    canceled, completed = sorted(runs_of(workspace), key=lambda one: one.status)
    assert [(one.status, len(one.attempts)) for one in (canceled, completed)] == [("canceled", 0), ("completed", 1)]
    assert canceled.reason.startswith("its controller ended (box (box) does not answer. Nothing has started there")
    assert ledger(box) == ["begun 0"]
    log = box.inside(f"grep -h tinything== /home/{far.USER}/.labrun/env/*.log")
    assert log.split("\n") == [" + tinything==1.0", ""], "built once"


def test_waiting_for_news_ends_when_news_arrives(tmp_path: Path) -> None:
    """Or when another request follows, even one sent along with it, or when the connection ends."""
    (tmp_path / "ws" / "sweep" / ".launch").mkdir(parents=True)
    ends = [os.pipe(), os.pipe()]
    asked, answers = os.fdopen(ends[0][1], "wb", 0), os.fdopen(ends[1][0], "rb")
    answering = helper.Helper(os.fdopen(ends[0][0], "rb"), os.fdopen(ends[1][1], "wb"))
    serving = threading.Thread(target=answering.serve, daemon=True)
    serving.start()

    def ask(*requests: dict[str, Any]) -> list[dict[str, Any]]:
        asked.write(b"".join(json.dumps(one).encode() + b"\n" for one in requests))
        found = [json.loads(answers.readline()) for _ in requests]
        answers.read(sum(one["bytes"] for one in found))
        return found

    def write(run: str, status: str) -> None:
        place = tmp_path / "ws" / "sweep" / run / "run.json"
        place.parent.mkdir(exist_ok=True)
        place.with_suffix(".new").write_text(json.dumps({"status": status, "why": time.monotonic()}))
        place.with_suffix(".new").replace(place)

    def news() -> dict[str, Any]:
        return ask({"do": "news", "folders": {"ws/sweep": {"runs": ["0", "1"], "seen": {}}}})[0]["folders"]["ws/sweep"]

    def watch(gather_s: float) -> dict[str, Any]:
        return {"do": "watch", "folders": ["ws/sweep"], "patience_s": 600.0, "gather_s": gather_s}

    ask({"do": "hello", "root": str(tmp_path)})
    write("0", "running"), write("1", "queued")
    assert set(news()["runs"]) == {"0", "1"}
    write("1", "running")
    assert ask(watch(0.0))[0]["ok"], "news since the last answer are sent at once"
    news()
    write("0", "completed")
    ask(watch(600.0), {"do": "have", "paths": []})  # more may come, but another request is waiting
    write("1", "failed")
    assert ask(watch(600.0))[0]["ok"], "the last end waits for no more"
    news()
    asked.write(json.dumps(watch(0.0)).encode() + b"\n")
    asked.close()
    serving.join(60)
    assert not serving.is_alive()


def test_a_failed_run_is_final_only_when_its_controller_gives_up(there: helper.Helper) -> None:
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
    (folder / ".launch" / "far").write_text(json.dumps({**mine, "start": 1}))  # no controller retries it
    assert is_told()


def _environment(top: Path) -> Path:
    folder = top / "env" / "k"
    (folder / "bin").mkdir(parents=True)
    os.symlink(sys.executable, folder / "bin" / "python")
    for name in ("a", "b"):
        (folder / "lib" / "python3.11" / "site-packages" / name).mkdir(parents=True)
        (folder / "lib" / "python3.11" / "site-packages" / name / "__init__.py").touch()
    return folder


def test_an_incomplete_environment_is_rebuilt(there: helper.Helper) -> None:
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
    (claim.parent / "k.log").write_text("dns error")  # of that try: it says nothing of the next one
    assert there.do_spawn(request, nothing)[0] == {"state": "started", "seen": 9}  # it did, and has died


def test_two_concurrent_builds_leave_one_environment(tmp_path: Path) -> None:
    """As on two login nodes whose shared disk has no locks."""
    (tmp_path / "uv").write_text(
        '#!/bin/sh\nif [ "$1" = venv ]; then shift 5; mkdir -p "$1/bin"; sleep 0.5; echo "$$" > "$1/bin/python"\n'
        'else cat "$7" > "$(dirname "$(dirname "$5")")/packages"; fi\n'
    )
    (tmp_path / "uv").chmod(0o755)
    names = {"root": tmp_path, "key": "k", "uv": tmp_path / "uv", "version": "3.11", "claim": "env/k.build"}
    script = environment.BUILD.format(**names, wheels="", no_python="")
    (tmp_path / "env").mkdir()
    building = [subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) for _ in range(2)]
    for process in building:
        process.communicate(b"thing==1\n")
    assert [process.returncode for process in building] == [0, 0]
    assert (tmp_path / "env" / "k" / "packages").read_text() == "thing==1\n"
    assert sorted(path.name for path in (tmp_path / "env").iterdir()) == ["k", "k.build"]


def test_gc_removes_only_folders_that_no_run_needs(there: helper.Helper) -> None:
    root, nothing = Path(there.root), helper._Payload(io.BytesIO(), 0)

    def run(name: str, status: str, code: str, env: str) -> None:
        folder = root / "workspaces" / "w" / "outputs" / "x" / name
        (folder / ".launch").mkdir(parents=True)
        if status == "completed":
            (folder / ".launch" / "over").touch()
        (folder / ".launch" / "plan.json").write_text(
            json.dumps({"command": ["-cd", f"{root}/configs/{name}"], "path": [f"{root}/{env}/lib"]})
        )
        (folder / ".launch" / "far").write_text(json.dumps({"host": "x", "needs": [f"{root}/labrun/{name}"]}))
        (folder / "run.json").write_text(json.dumps({"status": status, "code": {"folder": f"/x/code/{code}"}}))

    run("over", "completed", "c0de1", "env/e1")
    run("live", "queued", "c0de2", "env/e2")
    top = "workspaces/w/outputs/.labrun/code"
    for name in ("c0de1", "c0de2", "c0de3", "c0de4"):
        (root / top / name).mkdir(parents=True)
    for name in ("env/e1", "env/e2", "env/e3", "labrun/over", "labrun/live", "datastores/d1", "cache/uv"):
        (root / name).mkdir(parents=True)
    for name in ("over", "live"):
        (root / "configs" / name).mkdir(parents=True)
    (root / "env" / "e1.log").write_text("built")
    (root / "scratch").mkdir()
    (root / "workspaces" / "w").rename(root / "scratch" / "w")
    (root / "workspaces" / "w").symlink_to(root / "scratch" / "w")
    (root / "env" / "e3.build").write_text(
        json.dumps({"pid": os.getpid(), "start": helper.start_of(os.getpid()), "host": socket.gethostname()})
    )
    for name in ("one", "two", "three"):
        there.do_store({"store": "store", "digest": hashlib.sha256(name.encode()).hexdigest()}, payload_of(name))
    two = hashlib.sha256(b"two").hexdigest()
    os.link(root / "store" / two[:2] / two, root / "datastores" / "d1" / "f")
    (root / "workspaces" / "w" / "outputs" / "x" / "over" / "annotations.jsonl").write_text("datastores/d1")
    assert there.do_unused({}, nothing)[0]["unused"] == {}, "all of it was used today"
    for place in root.rglob("*"):
        os.utime(place, (time.time() - 2 * helper.LEFT_S,) * 2)
    there.do_have({"paths": [f"{top}/c0de4"]}, nothing)  # another command is about to send runs
    found = there.do_unused({}, nothing)[0]["unused"]
    wanted = {"env/e1", "labrun/over", "configs/over", f"{top}/c0de3", "datastores/d1", "store"}
    assert set(found) == wanted and found["store"] == ["data", 11 - 3 / 2]
    there.do_unused({"remove": [*found, "env/e2"]}, nothing)
    assert not any((root / name).exists() for name in {*wanted - {"store"}, "env/e1.log", f"store/{two[:2]}/{two}"})
    kept = ("env/e2", "env/e3", "labrun/live", "configs/live", f"{top}/c0de1", f"{top}/c0de2", f"{top}/c0de4")
    assert all((root / name).exists() for name in kept)
    assert len(list(root.rglob("run.json"))) == 2
    assert there.do_unused({}, nothing)[0]["unused"] == {}
    (root / "env" / "e3.build").unlink()
    assert set(there.do_unused({}, nothing)[0]["unused"]) == {"env/e3", "cache"}


def test_links_out_of_a_run_are_reported_not_followed(there: helper.Helper) -> None:
    run, away = Path(there.root, "run"), Path(there.root, "scratch")
    for place in (run / "outputs" / "deep", run / "checkpoints", away):
        place.mkdir(parents=True)
        (place / "file").write_text("x")
    for name, goal in (
        ("best", "../checkpoints"),
        ("deep/up", ".."),
        ("far", str(away)),
        ("deep/file2", "../best/file"),
    ):
        (run / "outputs" / name).symlink_to(goal)
    asked = {"folders": {"run": {}}, "parts": ["outputs"]}
    answer = there.do_pull(asked, helper._Payload(io.BytesIO(), 0))[0]
    names = sorted(entry[0] for entry in answer["folders"]["run"])
    assert names == ["outputs/best/file", "outputs/deep/file", "outputs/deep/file2"]
    assert answer["left"] == [f"{run}/outputs/far -> {away}"]


def test_differing_remote_versions_are_reported_once(
    there: helper.Helper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(remotes.VARIABLE, str(Path(there.root, "remotes.json")))
    remote = remotes.Remote("box", "box", python=sys.executable)
    remotes.put(remote)

    class Near:
        python, name = sys.executable, "box"

        def __init__(self) -> None:
            self.remote = remote

        def call(self, do: str, **arguments: Any) -> dict[str, Any]:
            assert do == "hello" and not arguments.get("full"), "that may take its time"
            return there.do_hello({**arguments, "root": there.root}, helper._Payload(io.BytesIO(), 0))[0]

    for version, times in (("0.1", 1), ("0.1", 0), ("0.2", 1)):
        monkeypatch.setattr(environment, "installed_packages", lambda version=version: {"numpy": version})
        assert environment.ensure(Near()) == sys.executable  # type: ignore[arg-type]
        assert capsys.readouterr().err.count(f"(here {version})") == times


def payload_of(text: str) -> helper._Payload:
    return helper._Payload(io.BytesIO(text.encode()), len(text))


def test_the_timeout_restarts_when_the_machine_is_reached(box: far.Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LONGEST_PAUSE_S", 0.3)
    tries: list[float] = []

    def attempt() -> str:
        with channel.Channel(remotes.get("box")) as conversation:
            tries.append(time.monotonic())
            if len(tries) > 1:
                return "done"
            time.sleep(1.6)  # for example, an environment is built for longer than the timeout
            conversation.call("have", paths=[])
            box.kill_sshd()
            box.start_sshd()
            conversation.call("have", paths=[])
        raise AssertionError("the connection is cut")

    assert channel.retry_while_unreachable(attempt, 1.5, lambda why: None) == "done"

    def in_vain() -> None:
        raise UnreachableError("no")

    with pytest.raises(UnreachableError):
        channel.retry_while_unreachable(in_vain, 0.5, lambda why: None)


def test_partly_removed_code_is_sent_again(there: helper.Helper, tmp_path: Path) -> None:
    odd = os.fsdecode(b"n\xe9.py")
    file, size = packed.archive({"a.py": b"1", "b/c.py": b"2", "two\nlines.py": b"", "page\x0c.py": b"", odd: b""})
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


def test_a_process_that_cannot_be_recorded_is_stopped(there: helper.Helper, monkeypatch: pytest.MonkeyPatch) -> None:
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
    store = {"_target_": "labrun.data.stores.local.LocalDatastore", "name": "local", "root": "/nowhere"}
    base = {"compute": {"host": "box", "environment": {}}, "trainer": {}, "task": "fit", "datastore": store, **config}
    return Record(id="a1b2c3d4", name="x", task="fit", status=QUEUED, created=timestamp(), config=base)


@pytest.mark.parametrize("place", ["t.csv", "data/t.csv"])
def test_a_waiting_remote_run_reads_its_data_as_submitted(box: far.Far, workspace: Path, place: str) -> None:
    (workspace / "data").mkdir()
    table = workspace / place
    node = {"_target_": "labrun.data.readers.Csv", "name": "t", "path": str(table), "target": "c"}
    store = {"_target_": "labrun.data.stores.local.LocalDatastore", "name": "local", "root": str(workspace / "data")}
    record, found = _record(dataset=node, datastore=store), []
    with channel.Channel(remotes.get("box")) as conversation:
        for number in (1, 2):
            table.write_text(f"a,c\n1,{number}\n")
            link = dispatch.fresh(workspace / "multirun" / "x" / str(number), "box", conversation)
            data.send(conversation, link, [record])
            path = link.remote_config(record.config, workspace, {})["dataset"]["path"]
            found.append(path)
            assert link.to_local(path, workspace) == str(table)
        table.write_text("a,c\n1,3\n")
        data.send(conversation, link, [record], keep=True)  # taken up again: nothing of it changes
    assert [box.inside(f"cat {path}").split()[-1] for path in found] == ["1,1", "1,2"]


def test_an_unusable_remote_interpreter_is_named(box: far.Far, workspace: Path) -> None:
    with channel.Channel(remotes.get("box")) as conversation:
        link = dispatch.fresh(workspace / "outputs" / "x" / "1", "box", conversation)
        box.inside(f"mkdir -p {link.root}/{link.workspace}; chown -R {far.USER} {link.root}")
        for python, why in (("/usr/bin/python3", "No module named 'nothing'"), ("/no/python", "No such file")):
            with pytest.raises(
                LabrunError, match=rf"{why}.*\. {python} cannot be used for runs there: 'lab remote doc"
            ):
                dispatch.begin(conversation, link, [python, "-c", "import nothing"], {}, "")


def test_missing_resources_of_a_machine_are_checked_again(box: far.Far) -> None:
    facts = channel.facts(remotes.get("box"))
    remotes.note_facts("box", dataclasses.replace(facts, cores=0))
    assert list(backend.RemoteBackend().problems(Compute("local", host="box"))) == []
    noted = remotes.get("box").facts
    assert noted is not None and noted.cores > 0
    lacking = backend.RemoteBackend()._lacking(Compute("slurm", host="box"), dataclasses.replace(facts, programs={}))
    assert list(lacking) == ["compute.target=slurm: box has no sbatch on its PATH"]


def test_a_machine_does_not_execute_runs_of_this_process(workspace: Path) -> None:
    needed = "compute.host needs one of compute=gpu, compute=local, compute=slurm, compute=slurm_gpu"
    with pytest.raises(ConfigError, match=f"compute=inline is this process: {needed}"):
        list(backend.RemoteBackend().problems(Compute("inline", host="box")))


def test_an_environment_is_built_only_by_a_backend_with_jobs() -> None:
    environment.check_build("slurm --partition=cpu")
    for build in ("local", "inline --x", "pbs", " "):
        with pytest.raises(ConfigError, match=f"--build '{build}': give slurm, with options"):
            environment.check_build(build)
    words = ["/opt/bin/srun", "--ntasks=1", "--job-name=a", "--time=5"]
    assert registry.get("slurm").blocking_job("a", ["--time=5"], "/opt/bin") == words


def test_facts_of_another_version_are_queried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remotes.VARIABLE, str(tmp_path / "remotes.json"))
    content = {"host": "h", "system": "Linux", "machine": "m", "helper": "3.12.1", "cores": 4, "memory_gb": None}
    content |= {"disk_gb": 1.5, "uv": None, "gpus": ["A", "A"], "programs": {"sbatch": "/bin/sbatch", "qsub": None}}
    content |= {
        "surveys": {"slurm": "main*|up|2|4|2048|gpu:1|1:00"},
        "python": {"version": "3.12", "packages": {"torch": "2"}},
    }
    facts = remotes.Facts.of({**content, "sbatch": "/bin/sbatch", "partitions": "main up 2 4"})
    assert facts.has("sbatch") and not facts.has("qsub")
    assert doctor.describe(facts) == "4 cores, 2 GPUs (A), sbatch"
    report = "\n".join(doctor.report(remotes.Remote("box", "there", python="p"), facts)[0])
    assert "  slurm     main (2 nodes of up to 4 cores, 2.0 GB, 1 GPUs)" in report
    silent = dataclasses.replace(facts, surveys={"slurm": None})
    report = "\n".join(doctor.report(remotes.Remote("box", "there", python="p"), silent)[0])
    assert "  slurm     sbatch exists, but sinfo fails" in report
    for name in ("new", "asked"):
        remotes.put(remotes.Remote(name, "there"))
    remotes.note_facts("asked", facts)
    saved = json.loads(remotes.file().read_text())
    assert saved["new"]["facts"] == {} and saved["asked"]["facts"] == content
    assert remotes.get("new").facts is None and remotes.get("asked").facts == facts
    del saved["asked"]["facts"]["programs"]
    remotes.file().write_text(json.dumps(saved))
    assert remotes.get("asked").facts is None


def test_a_remote_sweep_is_found_by_the_id_in_its_folders_name() -> None:
    folder = adopting.RemoteFolder("w", "w/multirun/x/2026-11-29_07-57-17-bb9e0781", {}, False, False)
    assert folder.matches("bb9e0781") and not folder.matches("9e0781")


def test_data_declared_present_on_a_machine_are_compared(box: far.Far, workspace: Path) -> None:
    table = workspace / "data" / "t.csv"
    table.parent.mkdir()
    table.write_text("a,c\n1,2\n")
    node = {"_target_": "labrun.data.readers.Csv", "name": "t", "path": str(table), "target": "c"}
    record = _record(dataset=node)
    remotes.put(dataclasses.replace(remotes.get("box"), data={str(table.parent): "/home/far/lies"}))
    with channel.Channel(remotes.get("box")) as conversation:
        link = dispatch.fresh(workspace / "multirun" / "x" / "1", "box", conversation)
        with pytest.raises(DataError, match="/home/far/lies/t.csv is missing on box"):
            data.send(conversation, link, [record])
        box.inside("mkdir -p /home/far/lies; echo other > /home/far/lies/t.csv")
        with pytest.raises(DataError, match="/home/far/lies/t.csv is different on box"):
            data.send(conversation, link, [record])
        box.inside("printf 'a,c\\n1,2\\n' > /home/far/lies/t.csv")
        data.send(conversation, link, [record])
        assert link.remote_config(record.config, workspace, {})["dataset"]["path"] == "/home/far/lies/t.csv"
        store = {"_target_": "labrun.data.stores.local.LocalDatastore", "name": "local", "root": str(workspace)}
        in_store = _record(dataset={**node, "path": "data/t.csv"}, datastore=store)
        with pytest.raises(
            DataError, match=f"a part of the datastore {workspace}, .* look for data/t.csv in the whole"
        ):
            data.send(conversation, link, [in_store])


def test_data_paths_from_variables_become_remote_paths(box: far.Far, workspace: Path) -> None:
    link = links.Link("box", "w", "w/f", home=str(workspace), root="/far", datastores={"/data/x": "datastores/1"})
    config = {"datastore": {"root": "${oc.env:DATA}/x", "name": "${oc.env:N}"}, "model": {"path": f"{workspace}/m"}}
    resolved = {"datastore": {"root": "/data/x", "name": "n"}}
    assert link.remote_config(config, workspace / "f", resolved) == {
        "datastore": {"root": "/far/datastores/1", "name": "${oc.env:N}"},
        "model": {"path": "/far/w/m"},
    }


def test_a_search_that_may_have_started_keeps_its_link(
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

    monkeypatch.setattr(remote_search, "_start", start)
    with pytest.raises(LabrunError, match="no"):
        remote_search.begin(folder, [_record()], plan, [])
    assert next(tries, None) is None and links.read(folder) is not None


def test_times_from_a_machine_with_a_fast_clock_are_corrected() -> None:
    record = _record()
    record.created, record.started = "2026-01-01T10:00:00.000+00:00", "2026-01-01T12:00:05.000+00:00"
    record.attempts = [Attempt(1, record.started)]
    link = links.Link("box", "w", "f")
    clocks.note(link, 7200.4)
    clocks.note(link, 7201.0)
    assert link.ahead_s == 7200.4
    clocks.shift(record, -7200.0)
    assert record.started == record.attempts[0].started == "2026-01-01T10:00:05.000+00:00"
    assert record.created == "2026-01-01T10:00:00.000+00:00"
    clocks.note(link, 0.3)
    assert link.ahead_s == 0.0
    assert not mirror._is_recent(time.time() + 100, 5.0) and mirror._is_recent(time.time() - 1, 5.0)


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(num_classes))
"""
OWN = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

class Own(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        self.classes_, self.most_ = np.unique(y), int(np.bincount(y).argmax())
        return self
    def predict(self, x):
        return np.full(len(x), self.most_)
"""


def _make_wheel(folder: Path) -> Path:
    import zipfile

    wheel = folder / "tinything-1.0-py3-none-any.whl"
    info = "tinything-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tinything.py", "ANSWER = 42\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true\n")
        file.writestr(f"{info}/RECORD", "")
    return wheel


def test_local_models_and_checkpoints_are_used_remotely(box: far.Far, labrun: Command, workspace: Path) -> None:
    """Takes over 15 s: a network is trained in two places, and imports take their time."""
    (workspace / "own.py").write_text(OWN)
    (workspace / "net.py").write_text(NET)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "own.yaml").write_text("_target_: own.Own\n")
    net = "defaults: [{optimizer: adam}, {scheduler: none}, _self_]\n_target_: net.Net\nlr: 0.01\n"
    (workspace / "conf" / "model" / "net.yaml").write_text(net)
    assert labrun("model=own", *PLAIN).returncode == 0
    trained = runs_of(workspace)[0]
    done = labrun("-m", "task=evaluate,predict", f"from={trained.id}", "compute.host=box", *PLAIN)
    assert done.returncode == 0, done.stderr
    scored, predicted = (
        next(one for one in runs_of(workspace) if one.task == task) for task in ("evaluate", "predict")
    )
    assert scored.metrics == trained.metrics and scored.parent == trained.id
    assert len(list(workspace.glob("multirun/*/*/*/outputs/predictions.csv"))) == 1
    assert {one.process.host for one in (scored, predicted) if one.process} == {f"box{box.number}"}
    assert labrun("model=net", "trainer.max_epochs=1", *PLAIN).returncode == 0
    begun = max(runs_of(workspace), key=lambda one: one.created)
    resumed = labrun("model=net", "trainer.max_epochs=2", "trainer.resume=last", "compute.host=box", *PLAIN)
    assert resumed.returncode == 0, resumed.stderr
    went_on = max(runs_of(workspace), key=lambda one: one.created)
    assert went_on.status == "completed" and went_on.parent == begun.id
    assert went_on.process is not None and went_on.process.host == f"box{box.number}"
    steps = [metrics.read_text() for metrics in workspace.glob(f"outputs/*/*{went_on.id}/metrics.jsonl")]
    assert '"epoch", "value": 0' not in steps[0] and len(went_on.attempts) == 1, steps
    # And what was trained there is this user's here, too: its optimizer's module is the one that is installed here.
    back = labrun("task=evaluate", "from=last", *PLAIN)
    assert back.returncode == 0, back.stderr


def test_a_scripts_environment_is_built_remotely(
    box: far.Far,
    labrun_here: Command,
    workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment.local_uv() is None:
        pytest.skip("needs uv")
    small_uv(tmp_path_factory.mktemp("uv"), monkeypatch)
    (workspace / "train.py").write_text("import labrun, tinything\nlabrun.log('answer', tinything.ANSWER)\n")
    (workspace / "more.txt").write_text("tinything==1.0\n")
    (workspace / "requirements.txt").write_text("-r more.txt\n")
    with channel.Channel(remotes.get("box")) as conversation:
        wheel = _make_wheel(workspace)
        sent, size = packed.archive({wheel.name: wheel})
        conversation.send("put", sent, size, to="wheels", marked=True)
        monkeypatch.setenv("UV_FIND_LINKS", f"{conversation.root}/wheels")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    words = ("experiment=script", "script.path=train.py", "script.requirements=requirements.txt", "compute.host=box")
    done = labrun_here(*words, "tracking=none")
    assert done.returncode == 0, done.stderr
    assert runs_of(workspace)[0].metrics == {"answer": 42}
    (workspace / "more.txt").write_text("./folder\n")
    refused = labrun_here(*words, "tracking=none")
    assert refused.returncode == 2 and "contains './folder', which is on this machine" in refused.stderr
    assert len(runs_of(workspace)) == 1


def test_resuming_a_remote_search_locally_ends_it_there_first(
    box: far.Far, labrun: Command, lab_here: Command, workspace: Path
) -> None:
    """Takes over 15 s: two commands that search."""
    ledger(box)
    (workspace / "train.py").write_text(
        "import os, sys, time, labrun\n"
        "place = os.path.expanduser('~/ledger') if os.uname().nodename.startswith('box') else os.devnull\n"
        "with open(place, 'a') as file:\n"
        "    file.write(os.environ['LABRUN_RUN_DIR'] + '\\n')\n"
        "is_late = len(open(place).readlines()) > 1\n"
        "time.sleep(60 * is_late)\nlabrun.log('loss', float(sys.argv[1]))\n"
    )
    words = ("-m", "experiment=script", "script.path=train.py", "script.positional=[${seed}]", "sweep=random")
    words += (
        "seed=range(1,1000)",
        "sweep.metric=loss",
        "sweep.max_trials=8",
        "sweep.max_concurrent=2",
        "tracking=none",
        "report=none",
    )
    begun = labrun(*words, "compute.host=box", "compute.detach=true")
    assert begun.returncode == 0, begun.stderr
    folder = next(workspace.glob("multirun/*/*"))
    with channel.Channel(remotes.get("box")) as conversation:
        link = links.read(folder)
        assert link is not None
        wait_for(lambda: bool(mirror.bring(conversation, folder, link)[0]) and bool(link.pulled))
    done = labrun(*words, f"sweep.resume={folder}")
    assert done.returncode == 0, done.stderr
    assert box.inside("pgrep -f [l]abrun.remote.remote_search") == "" and links.read(folder) is None
    found = runs_of(workspace)
    assert [one.status for one in found] == ["completed"] * 8
    assert {"box" in str(one.process.host) for one in found if one.process} == {True, False}
    assert all(sum(one.status == "completed" for one in record.attempts) == 1 for record in found)
    left = ledger(box)
    assert len(left) == len(set(left)) < 8
    more = labrun(*words, "sweep.max_trials=9", f"sweep.resume={folder}", "compute.host=box")  # and back
    assert more.returncode == 0, more.stderr
    again = runs_of(workspace)
    assert [one.status for one in again] == ["completed"] * 9 and len(ledger(box)) == 1
    assert {one.id: one.attempts for one in found}.items() <= {one.id: one.attempts for one in again}.items()


def killed_at(phase: str, name: str, *words: str) -> None:
    """Run a command in a separate process, and kill it in a phase of a submit.

    It may be refused at first, while processes of the last command are still ending.
    """
    for _ in range(20):
        if (pid := os.fork()) == 0:
            kill_at(phase, name, *words)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, UNEXPECTED), (phase, status)
        time.sleep(0.5)
    raise AssertionError(f"refused again and again before {phase}: {status}")


UNEXPECTED = 99
"""Exit code of a command that ended with an exception."""


def kill_at(phase: str, name: str, *words: str) -> None:
    """Execute a command in this process, and exit."""
    code = UNEXPECTED
    try:
        write, answer = channel.Channel._write, channel.Channel._answer
        asked: list[str] = []

        def write_or_die(conversation: channel.Channel, content: bytes) -> None:
            is_request = content.startswith(b'{"do": "')
            if is_request:
                request = json.loads(content)
                asked.append(f"{request['do']} {str(request.get('to', '')).count('multirun')}")
            if asked and asked[-1].startswith(phase) and not (is_request and request["bytes"]):
                os.kill(os.getpid(), signal.SIGKILL)
            write(conversation, content)

        def answer_or_die(conversation: channel.Channel, quiet_s: float | None) -> tuple[dict[str, Any], int]:
            if phase == "wait" and asked and asked[-1].startswith("begin"):
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)
            return answer(conversation, quiet_s)

        channel.Channel._write = write_or_die  # type: ignore[method-assign]
        channel.Channel._answer = answer_or_die  # type: ignore[method-assign]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        code = call_here(app.main if name == "labrun" else cli.main, name, *words)  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - this process must not return into pytest
        sys.stderr.write(traceback.format_exc())
    finally:
        os._exit(code)


def test_a_submit_survives_the_death_of_the_laptop_in_each_phase(
    box: far.Far, script: None, labrun_here: Command, lab_here: Command, workspace: Path, registered: None
) -> None:
    box.inside(f"rm -rf /home/{far.USER}/.labrun")
    (workspace / "data" / "rows.txt").write_text(f"{workspace}\n" * 5_000)  # no process left by another test sends it
    ledger(box)
    killed_at("put 0", "labrun", *WORDS, "seed=0,2,3")
    folder = next(workspace.glob("multirun/*/*"))
    for phase in ("store", "link", "put 1", "begin", "wait", "news"):
        killed_at(phase, "lab", "runs", "watch", str(folder))
    watched = lab_here("runs", "watch", str(folder))
    assert watched.returncode == 0, watched.stderr
    assert [(one.status, len(one.attempts)) for one in runs_of(workspace)] == [("completed", 1)] * 3
    assert ledger(box) == ["begun 0", "begun 2", "begun 3"]


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> far.Far:
    """A machine whose disk is small."""
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    with far.machine(tmp_path_factory.mktemp("small"), home_size="48m") as machine:
        machine.make_known(workspace, monkeypatch)
        yield machine


def test_a_full_remote_disk_is_reported_and_leaves_no_partial_files(
    small: far.Far, script: None, labrun_here: Command, lab_here: Command, workspace: Path
) -> None:
    """Takes over 15 s: a separate machine, and runs whose disk is full for a while."""
    home = f"/home/{far.USER}"
    with open(workspace / "large", "wb") as file:
        file.truncate(1 << 27)
    with channel.Channel(remotes.get("box")) as conversation, pytest.raises(LabrunError) as large:
        data.send_missing(conversation, "box", {"0" * 64: workspace / "large"})
    assert "128.0 MB of data to send, but its disk has room for 4" in str(large.value)
    small.inside(f"dd if=/dev/zero of={home}/fill bs=4k count=11000; dd if=/dev/zero of={home}/rest bs=4k")
    refused = labrun_here(*WORDS, "seed=0,2,3")
    assert refused.returncode == 2 and "the disk of box is full" in refused.stderr, refused.stderr
    assert "or choose another folder: lab remote add box box --folder PATH" in refused.stderr
    assert {one.status for one in runs_of(workspace)} == {"canceled"} and ledger(small) == []
    assert small.inside(f"find {home}/.labrun -name '*partial*'") == "" and links.live(workspace) == []
    shutil.rmtree(workspace / "multirun")
    small.inside(f"rm {home}/fill {home}/rest")
    begun = labrun_here(*WORDS, "seed=0,2,3,4", "compute.detach=true", "compute.max_parallel=1")
    assert begun.returncode == 0, begun.stderr
    small.inside(f"dd if=/dev/zero of={home}/fill bs=4k")
    time.sleep(3)
    small.inside(f"rm {home}/fill")
    lab_here("runs", "watch", "last")
    found = runs_of(workspace)
    # For lack of room a run may fail, or not begin: its record says so, and it is run again.
    assert all(one.status == "completed" or one.reason for one in found), [one.error for one in found]
    again = labrun_here(*WORDS, "seed=0,2,3,4", "sweep.resume=last")
    assert again.returncode == 0, again.stderr
    found = runs_of(workspace)
    assert [one.status for one in found] == ["completed"] * 4
    assert all(sum(one.status == "completed" for one in record.attempts) == 1 for record in found)
    assert set(ledger(small)) == {f"begun {number}" for number in (0, 2, 3, 4)}


def test_a_sweep_that_both_controllers_gave_up_can_be_resumed(
    small: far.Far, script: None, labrun_here: Command, lab_here: Command, workspace: Path
) -> None:
    """Every run had ended here, so nothing was left to watch.

    Over 15 s: a controller gives up.
    """
    words = [*WORDS, "seed=0,2", "script.positional=[${seed},-1,'${mount:rows.txt}']", "compute.max_parallel=1"]
    begun = labrun_here(*words, "compute.detach=true")
    assert begun.returncode == 0, begun.stderr
    folder = next(workspace.glob("multirun/*/*"))
    wait_for(lambda: ledger(small) == ["begun 0"])
    small.inside(f"pkill -STOP -f [l]abrun.remote.controller; touch /home/{far.USER}/go")  # it starts no other run
    wait_for(lambda: read_record(folder / "0").finished)
    small.inside(f"dd if=/dev/zero of=/home/{far.USER}/fill bs=4k; pkill -9 -f [l]abrun.remote.controller")
    wait_for(lambda: lease.living(SweepState(folder)) is None)  # the full disk refuses another controller
    assert read_record(folder / "1").status == "canceled"
    small.inside(f"rm /home/{far.USER}/fill")
    again = labrun_here(*words, "sweep.resume=last")
    small.inside(f"rm /home/{far.USER}/go")
    assert again.returncode == 0, again.stderr
    assert [(one.status, len(one.attempts)) for one in runs_of(workspace)] == [("completed", 1)] * 2
    assert ledger(small) == ["begun 2"]


@pytest.mark.parametrize(("by", "told"), [("+2h", "ahead of"), ("-2h", "behind")])
def test_times_are_correct_when_clocks_are_two_hours_apart(
    tmp_path_factory: pytest.TempPathFactory,
    script: None,
    labrun_here: Command,
    lab_here: Command,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
    told: str,
) -> None:
    """Every process of the remote user has another clock, which also sets the times of its files."""
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    assert library is not None, "tests/storage/install fetches faketime"
    set_clock = f"SetEnv LD_PRELOAD={library} FAKETIME={by}"
    with far.machine(tmp_path_factory.mktemp("ahead"), sshd=set_clock) as ahead:
        ahead.make_known(workspace, monkeypatch)
        near = datetime.timedelta(seconds=0.5)  # the offset is measured to within half a round trip
        began = datetime.datetime.now(datetime.UTC)
        done = labrun_here(*WORDS, "seed=0,1", "compute.retries=1")
        assert done.returncode == 0, done.stderr
        assert f"the clock of box is 2.0 h {told} this machine's" in done.stderr
        found = runs_of(workspace)
        assert [one.status for one in found] == ["completed"] * 2
        for one in found:
            shown = [one.created, *(at for attempt in one.attempts for at in (attempt.started, attempt.ended))]
            moments = [datetime.datetime.fromisoformat(str(at)) for at in shown]
            assert moments == sorted(moments), one
            assert began - near < moments[0] and moments[-1] < datetime.datetime.now(datetime.UTC) + near, one
            assert one.duration_s is not None and 0 < one.duration_s < 60
        assert "2.0 h" not in lab_here("runs", "ls").stdout


def test_runs_complete_over_a_slow_link(
    box: far.Far,
    script: None,
    labrun_here: Command,
    lab_here: Command,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Takes over 15 s: a delay of a fifth of a second each way, and seconds in which nothing arrives."""
    box.inside(f"rm -rf /home/{far.USER}/.labrun")
    link, other = far.Line((box.address, 22), late_s=0.2, stall_every=50), tmp_path_factory.mktemp("other")
    text = box.ssh_config.read_text().replace(f"HostName {box.address}", f"HostName 127.0.0.1\n  Port {link.port}")
    (workspace / "ssh_config").write_text(f"{text}  HostKeyAlias {box.address}\n")
    box.make_known(workspace, monkeypatch, ssh_config=str(workspace / "ssh_config"))
    try:
        done = labrun_here(*WORDS, "seed=0,2")
        fetched = lab_here("--root", str(other), "remote", "fetch", "box", runs_of(workspace)[0].id)
    finally:
        ssh.close(remotes.get("box"))
        link.close()
        box.make_known(workspace, monkeypatch)
    assert done.returncode == 0 and link.stalls, done.stderr
    assert fetched.returncode == 0 and fetched.stdout.endswith(": 2 runs\n"), fetched.stderr
    for laptop in (workspace, other):
        assert [(one.status, len(one.attempts)) for one in runs_of(laptop)] == [("completed", 1)] * 2
        for rows in laptop.glob("multirun/*/*/*/outputs/rows"):
            assert rows.read_text() == (workspace / "data" / "rows.txt").read_text()


def test_two_laptops_share_a_machine(box: far.Far, script: None, workspace: Path, labrun: Command) -> None:
    """Takes over 15 s: two commands at once, each in its own workspace; both send the same code and labrun."""
    box.inside(f"rm -rf /home/{far.USER}/.labrun")
    ledger(box)
    laptops = []
    for name in ("one", "two"):
        folder = workspace / name
        folder.mkdir()
        for part in ("train.py", "data", "conf"):
            target = folder / part
            (shutil.copytree if (workspace / part).is_dir() else shutil.copy)(workspace / part, target)
        words = program("labrun", *WORDS, "seed=0,2")
        laptops.append(subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL))
    told = [process.communicate()[1] for process in laptops]
    assert [process.returncode for process in laptops] == [0, 0], told
    for name in ("one", "two"):
        found = runs_of(workspace / name)
        assert [(one.status, len(one.attempts)) for one in found] == [("completed", 1)] * 2
    assert ledger(box) == ["begun 0", "begun 0", "begun 2", "begun 2"]


def test_a_local_sweep_is_resumed_remotely(box: far.Far, labrun: Command, workspace: Path) -> None:
    """Takes over 15 s on a busy machine: two commands."""
    (workspace / "train.py").write_text("print('done')\n")
    words = ("-m", "experiment=script", "script.path=train.py", "tracking=none", "report=none")
    assert labrun(*words, "seed=0").returncode == 0
    done = labrun(*words, "seed=0,1", "sweep.resume=last", "compute.host=box")
    assert done.returncode == 0, done.stderr
    here, there = runs_of(workspace)
    assert [here.status, there.status] == ["completed"] * 2 and len(here.attempts) == 1
    assert here.process and there.process and there.process.host == f"box{box.number}" != here.process.host


def test_runs_and_logs_are_complete_after_a_long_cut(cut_off: CutOff) -> None:
    """Over 15 s by itself: a cut of two real minutes, and one more until the machine is asked again. It only waits."""
    cut_off.cutting.join(LONG_CUT_S + 60)
    assert cut_off.process.wait(LONG_CUT_S) == 0
    told = (cut_off.workspace.parent / "told").read_text()
    assert cut_off.running == ["0", "0"], "the last known state stays"
    assert told.count("; the runs continue there") == told.count("box answers again") == 1 and "lost" not in told, told
    found = runs_of(cut_off.workspace)
    assert [(one.status, len(one.attempts)) for one in found] == [("completed", 1)] * 4
    assert ledger(cut_off.machine) == [f"begun {number}" for number in range(4)]
    top = f"/home/{far.USER}/.labrun/workspaces"
    for run_dir in cut_off.workspace.glob("multirun/*/*/*/run.json"):
        place = run_dir.parent.relative_to(cut_off.workspace)
        for name in ("metrics.jsonl", "driver.log"):
            there = cut_off.machine.inside(f"cat {top}/*/{place}/{name}")
            assert (run_dir.parent / name).read_text() == there and "39" in there


def test_a_remote_clock_that_is_set_back_delays_no_answer(
    there: helper.Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(50, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    near, far_end = os.pipe()
    with open(near, "rb") as there.source, open(far_end, "wb"):
        nothing = helper._Payload(io.BytesIO(), 0)
        assert there.do_watch({"patience_s": 0.1, "gather_s": 0.0, "folders": []}, nothing) == ({}, [])


@pytest.mark.parametrize(("why", "told"), [("box is off", "box is off"), ("", "box has not answered yet")])
def test_runs_that_a_live_command_cannot_reach_are_reported_as_stale(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str, told: str
) -> None:
    monkeypatch.setattr(mirror, "REFRESH_S", 0.1)
    folder, before = workspace / "outputs" / "x" / "1", time.time() - 300
    link = links.Link("box", "w", "w/f", home=str(workspace), state=links.STARTED, reached=before, why=why)
    links.write(folder, link)
    with links.locked(folder):
        mirror.refresh(workspace)
        assert f"lab: {told}; its runs are shown as they were 5 min ago\n" == capsys.readouterr().err
        link.reached, link.why = time.time(), ""
        links.write(folder, link)
        mirror.refresh(workspace)
        assert capsys.readouterr().err == ""
