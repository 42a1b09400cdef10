"""A remote sweep with broken links and processes killed on both sides."""

from __future__ import annotations

import collections
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import far
from conftest import Command
from helpers import program, wait_for
from labrun.remote import remotes, ssh
from labrun.runs.record import COMPLETED, read_record

RUNS, BLOWS = 60, 20
SCRIPT = """
import pathlib, sys, time
with open(pathlib.Path.home() / "chaos", "a") as file:
    file.write(sys.argv[1] + "\\n")
time.sleep(0.6)
pathlib.Path("outputs/done").touch()
"""
KINDS = ("link", "link", "controller", "laptop", "sshd", "connection")


class Chaos:
    """What is done to a sweep.

    Args:
        box: the machine it runs on.
        workspace: the laptop's.
    """

    def __init__(self, box: far.Far, workspace: Path) -> None:
        self.box, self.workspace = box, workspace
        self.blows: collections.Counter[str] = collections.Counter()
        self.laptop: subprocess.Popen[bytes] | None = None
        self.folder: Path | None = None

    def begin(self, name: str, *words: str) -> None:
        with open(self.workspace / "laptop.log", "ab") as log:
            self.laptop = subprocess.Popen(program(name, *words), cwd=self.workspace, stdout=log, stderr=log)  # type: ignore[arg-type]

    def strike(self, kind: str) -> None:
        self.blows[kind] += 1
        if kind == "link":
            self.box.set_link(up=False)
            time.sleep(0.7)
            self.box.set_link(up=True)
        elif kind == "controller":
            kill = "pgrep -f '[t]rain.py' > /dev/null && pkill -9 -f '[l]abrun.remote.controller' && echo hit"
            wait_for(lambda: self.box.inside(kill))  # once there is a run
        elif kind == "sshd":
            wait_for(lambda: self.box.inside("pgrep -f '[s]shd: far'"))
            self.box.kill_sshd()
            time.sleep(0.5)
            self.box.start_sshd()
        elif kind == "connection":
            ssh.close(remotes.get("box"))
        elif self.laptop is not None:
            self.laptop.send_signal(signal.SIGKILL)
            self.laptop.wait()

    def run_to_completion(self, words: tuple[str, ...]) -> None:
        chance = random.Random(19)
        self.begin("labrun", *words)
        while not (found := list(self.workspace.glob("multirun/*/*"))) or not list(found[0].glob("*/attempts/1")):
            assert self.laptop is not None and self.laptop.poll() is None, (self.workspace / "laptop.log").read_text()
            if found and any(read_record(path.parent).attempts for path in found[0].glob("*/run.json")):
                break
            time.sleep(0.1)
        left = [*KINDS * 3, "controller", "laptop"]
        chance.shuffle(left)
        while True:
            assert self.laptop is not None
            if left:
                time.sleep(chance.uniform(0.3, 1.2))
                self.strike(left.pop())
            if self.laptop.poll() is None and not left:
                self.laptop.wait()
            if self.laptop.poll() == 0:
                return
            if self.laptop.poll() is not None:
                self.begin("lab", "runs", "watch", str(found[0]))


def test_sixty_runs_complete_once_despite_twenty_faults(box: far.Far, labrun: Command, workspace: Path) -> None:
    """Takes about a minute: sixty runs, and controllers that must start again each time they are killed."""
    box.inside(f"rm -f /home/{far.USER}/chaos")
    (workspace / "train.py").write_text(SCRIPT)
    words = ("-m", "experiment=script", "script.path=train.py", "script.positional=[${seed}]")
    words += (f"seed=range(0,{RUNS})", "compute.host=box", "compute.max_parallel=2", "tracking=none", "report=none")
    chaos = Chaos(box, workspace)
    chaos.run_to_completion(words)
    log = (workspace / "laptop.log").read_text()
    assert chaos.blows.total() == BLOWS and "Traceback" not in log, log
    found = {path.parent: read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")}
    assert len(found) == RUNS and sorted(one.config["seed"] for one in found.values()) == list(range(RUNS))
    texts = box.inside(f"cat /home/{far.USER}/.labrun/workspaces/{workspace.name}-*/multirun/*/*/*/run.json")
    there = {}
    decoder, place = json.JSONDecoder(), 0
    while place < len(texts.rstrip()):
        one, place = decoder.raw_decode(texts, place)
        place += len(texts[place:]) - len(texts[place:].lstrip())
        there[one["id"]] = one
    assert set(there) == {one.id for one in found.values()}
    begun = collections.Counter(box.inside(f"cat /home/{far.USER}/chaos").split())
    for run_dir, one in found.items():
        assert one.status == COMPLETED == there[one.id]["status"], one
        assert len(one.attempts) == len(there[one.id]["attempts"]) >= begun[str(one.config["seed"])] >= 1
        assert [attempt.status for attempt in one.attempts].count(COMPLETED) == 1
        assert (run_dir / "outputs" / "done").is_file() and one.ended is not None
