"""Runs on a remote machine, over a real sshd in separate namespaces (`far`)."""

from __future__ import annotations

import ast
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest

import far
from conftest import Command
from helpers import PLAIN, installed, new, wait_for
from labrun.backends import registry
from labrun.config.schema import Compute
from labrun.control import controller, lease
from labrun.errors import ConfigError
from labrun.remote import backend, channel, editable, environment, helper, links, mirror, packed, remotes, shell, ssh
from labrun.remote.messages import Do
from labrun.runs import context, files, model_journal, sweep_state
from labrun.runs.attempts import Job
from labrun.runs.record import Record, read_record
from labrun.runs.sweep_state import SweepState

MODEL = """
import os, time
import numpy as np

class Sleeper:
    def __init__(self, seconds=0.0):
        self.seconds = seconds
    def fit(self, x, y):
        print("VARIABLE", len(os.environ.get("OWN", "")), flush=True)
        beside = os.path.join(os.path.dirname(__file__), "beside.txt")
        print("BESIDE", open(beside).read() if os.path.exists(beside) else "nothing")
        time.sleep(self.seconds)
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""
SMALL = ("model=sleeper", "dataset.max_samples=50", "compute=remote", *PLAIN)
SCRIPT = """
import os, sys, time

print("VARIABLE", len(os.environ.get("OWN", "")), flush=True)
print("BESIDE", open("beside.txt").read())
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def model(workspace: Path) -> None:
    (workspace / "sleeper.py").write_text(MODEL)
    (workspace / "conf" / "model").mkdir(parents=True, exist_ok=True)
    (workspace / "conf" / "model" / "sleeper.yaml").write_text("_target_: sleeper.Sleeper\nseconds: 0.0\n")


def runs_of(workspace: Path) -> list[Record]:
    found = [*workspace.glob("outputs/*/*/run.json"), *workspace.glob("multirun/*/*/*/run.json")]
    return [read_record(path.parent) for path in found]


def test_a_machine_is_added_examined_and_removed(box: far.Far, lab_here: Command) -> None:
    """Takes over 15 s: the packages of an interpreter there are listed from a cold disk."""
    told = lab_here("remote", "doctor", "box")
    assert told.returncode == 0 and "use       compute.host=box" in told.stdout and "Linux" in told.stdout
    assert f"{far.PYTHON}, Python 3.{sys.version_info.minor}" in told.stdout and "other versions" not in told.stdout
    assert "yes" in lab_here("remote", "ls").stdout.splitlines()[1].split()
    assert lab_here("remote", "add", "bad name", "x").stderr.startswith("lab: 'bad name' is not a valid name")
    assert "is not an address" in lab_here("remote", "add", "other", "user@host -oProxyCommand=x").stderr
    assert "it cannot contain ':' or line ends" in lab_here("remote", "add", "other", "x", "--folder", "/a:b").stderr
    assert lab_here("remote", "add", "other", "nowhere.invalid").returncode == 0
    assert "no host has that name" in lab_here("remote", "doctor", "other").stderr
    assert lab_here("remote", "rm", "other").returncode == 0
    lab_here("remote", "add", "away", "box", "--folder", "/proc/x", "--ssh-config", str(box.ssh_config))
    assert "Choose another folder: lab remote add away box --folder PATH" in lab_here("remote", "doctor", "away").stderr
    assert lab_here("remote", "rm", "away").returncode == 0
    unknown = lab_here("remote", "doctor", "bxo")
    assert unknown.returncode == 2 and "there is no machine of that name (known: box" in unknown.stderr


def test_adding_a_machine_again_keeps_the_other_settings(
    lab_here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(remotes.VARIABLE, str(tmp_path / "remotes.json"))
    lab_here("remote", "add", "box", "host", "--python", str(Path.home() / "env/bin/python"), "--data", "x=/far/x")
    link = links.Link("box", "w", "w/f", place=remotes.get("box").folder)
    told = lab_here("remote", "add", "box", "other", "--folder", "/scratch").stdout
    assert "box is other; as before: --python ~/env/bin/python" in told, "~ is that of the user there"
    found = remotes.get("box")
    assert (found.folder, found.data) == ("/scratch", {str(tmp_path / "x"): "/far/x"})
    assert link.machine.folder == "~/.labrun", "where its runs lie"
    lab_here("remote", "add", "box", "other", "--python", "", "--data", "x=")
    assert (remotes.get("box").python, remotes.get("box").data, remotes.get("box").folder) == (None, {}, "/scratch")


def test_a_third_party_backend_needs_its_program_only_on_the_machine(
    box: far.Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queued.py").write_text(
        "from labrun.backends.inline import Inline\n"
        "class Queued(Inline):\n    name, program, in_process = 'queued', 'qsub-of-box', False\n"
    )
    (tmp_path / "queued-1.0.dist-info").mkdir()
    (tmp_path / "queued-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: queued\nVersion: 1.0\n")
    (tmp_path / "queued-1.0.dist-info" / "entry_points.txt").write_text("[labrun.backends]\nqueued = queued:Queued\n")
    compute, home = Compute("queued", host="box"), f"/home/{far.USER}"
    with installed(tmp_path, registry.forget, monkeypatch):
        with pytest.raises(ConfigError, match="compute.target=queued: box has no qsub-of-box on its PATH"):
            registry.check(compute, sweep=True)
        box.inside(f"cd {home} && mkdir bin && printf '#!/bin/sh\n' > bin/qsub-of-box && chmod +x bin/qsub-of-box")
        box.inside(f"echo 'PATH=$HOME/bin:$PATH' > {home}/.bashrc")
        try:
            registry.check(compute, sweep=True)
        finally:
            box.inside(f"rm -r {home}/bin {home}/.bashrc")
    facts = remotes.get("box").facts
    assert facts is not None and facts.programs["qsub-of-box"] == f"{home}/bin/qsub-of-box"
    assert shutil.which("qsub-of-box") is None


def test_the_first_remote_sweep_brings_its_records_back(
    box: far.Far, model: None, labrun: Command, lab_here: Command, workspace: Path
) -> None:
    """Takes over 15 s: two commands, and the first use of a machine."""
    secret = f"zq-{uuid.uuid4().hex}"  # not in this file: the code of other tests' runs is sent there, too
    done = labrun("-m", "model.seconds=0,0.1,0.2", *SMALL, f"+compute.environment.OWN={secret}")
    assert done.returncode == 0, done.stderr
    found = runs_of(workspace)
    assert [one.status for one in found] == ["completed"] * 3 and all(len(one.attempts) == 1 for one in found)
    assert {one.process.host for one in found if one.process} == {f"box{box.number}"}
    folder = next(workspace.glob("multirun/*/*"))
    for run_dir in (folder / str(number) for number in range(3)):
        assert f"VARIABLE {len(secret)}" in (run_dir / "driver.log").read_text()
        assert {"model.json", "confusion_matrix.json"} & {path.name for path in (run_dir / "outputs").iterdir()}
    assert (folder / "results.csv").is_file() and links.live(workspace) == []
    assert box.inside(f"grep -rl {secret} /home/{far.USER} || true") == ""
    assert "completed" in lab_here("runs", "ls").stdout
    again = labrun("-m", "model.seconds=0,0.1,0.2,0.3", *SMALL, f"sweep.resume={folder}")
    assert again.returncode == 0, again.stderr
    assert [(one.status, len(one.attempts)) for one in runs_of(workspace)] == [("completed", 1)] * 4
    there = box.inside(f"ls -d /home/{far.USER}/.labrun/workspaces/*/multirun/*/*/").split()
    assert [Path(one).name for one in there].count(folder.name) == 1
    refused = labrun(*SMALL, "compute.cpus_per_run=999", "compute.gpus_per_run=9")
    assert "box has no GPU" in refused.stderr and "compute.cpus_per_run=999: box has" in refused.stderr


def test_cut_connections_and_dead_controllers_lose_nothing(
    box: far.Far, labrun: Command, lab_here: Command, workspace: Path
) -> None:
    """Takes over 15 s: a link is down for longer than a command waits."""
    (workspace / "train.py").write_text("import time\ntime.sleep(9)\n")
    words = ("experiment=script", "script.path=train.py", "seed=1,2", "compute=remote", "tracking=none", "report=none")
    done = labrun("-m", *words, "compute.detach=true")
    assert done.returncode == 0, done.stderr
    folder = next(workspace.glob("multirun/*/*"))
    wait_for(lambda: "running" in lab_here("runs", "ls").stdout)  # who looks has the news brought often
    holder = lease.living(SweepState(folder))
    assert holder is not None
    os.kill(holder.pid, 9)
    box.set_link(up=False)
    try:
        link = links.read(folder)
        assert link is not None
        link.reached = 0.0
        links.write(folder, link)
        shown = lab_here("runs", "ls")
        assert "does not answer" in shown.stderr and "lost" not in shown.stdout and "running" in shown.stdout
    finally:
        box.set_link(up=True)
    pids = box.inside("pgrep -f labrun.remote.controller").split()
    for pid in pids:
        box.inside(f"kill -9 {pid}")
    watched = lab_here("runs", "watch", str(folder))
    assert watched.returncode == 0, watched.stderr
    found = runs_of(workspace)
    assert [one.status for one in found] == ["completed"] * 2
    ends = [[attempt.status for attempt in one.attempts] for one in found]
    assert all(one.count("completed") == 1 for one in ends)


def test_a_search_over_a_script_runs_remotely(
    box: far.Far, labrun: Command, lab_here: Command, workspace: Path
) -> None:
    """Takes over 15 s: two commands; the search continues while no command watches it."""
    secret = "zq-8a1-of-the-search"
    subprocess.run(["git", "init", "-q"], check=True)  # in a repository, files that are no source count as code, too
    (workspace / "beside.txt").write_text("it")
    words = (
        "-m",
        "sweep=random",
        "sweep.max_trials=4",
        "sweep.metric=length",
        "sweep.goal=maximize",
        "experiment=sleeps",
        "script.arguments.seconds=interval(0.3,0.6)",
        "compute.detach=true",
        "name='größer'",
    )
    (workspace / "sleeps.py").write_text(SCRIPT)
    (workspace / "more configs" / "experiment").mkdir(parents=True)
    (workspace / "more configs" / "experiment" / "sleeps.yaml").write_text(
        "# @package _global_\ndefaults: [/experiment/script]\n"
        "script: {path: sleeps.py, metrics: {length: 'VARIABLE (.*)'}}\n"
    )
    configs = ("--config-dir", str(workspace / "more configs"))
    plain = ("compute=remote", "tracking=none", "report=none")
    done = labrun(*configs, *words, *plain, f"+compute.environment.OWN={secret}")
    assert done.returncode == 0, done.stderr
    folder = next(workspace.glob("multirun/*/*"))
    assert secret not in box.inside("cat /proc/*/cmdline | tr '\\0' ' '")
    watched = lab_here("runs", "watch", str(folder))
    assert watched.returncode == 0 and "The search is over" in watched.stdout, watched.stderr
    found = runs_of(workspace)
    assert len(found) == 4 and {one.status for one in found} == {"completed"}
    assert all("compute.host=box" in one.overrides and "compute.host=null" not in one.command for one in found)
    assert f"VARIABLE {len(secret)}" in (folder / "0" / "driver.log").read_text()
    assert {"results.csv", "report.html", "best.yaml"} <= {path.name for path in folder.iterdir()}
    assert (folder / "0" / "driver.log").read_text().count("BESIDE it") == 1
    code = found[0].code
    assert code is not None and Path(str(code.folder)).is_dir() and Path(str(code.folder)).is_relative_to(workspace)
    (workspace / "train.py").write_text(
        "import labrun, os\nlabrun.log('loss', 0.5)\nopen('outputs/x', 'w').write('1')\nopen('y', 'w').write('2')\n"
        "os.symlink('x', 'outputs/last')\nopen('outputs/x.partial.csv', 'w').write('3')\n"
        "from azureml.core import Model\nModel.register(None, 'y', 'carried')\n"
    )
    words = ("experiment=script", "script.azureml=true", "script.path=train.py", "compute.host=box")
    words = (*words, "tracking=none", "report=none")
    script = labrun(*words)
    assert script.returncode == 0, script.stderr
    run_dir = next(workspace.glob("outputs/train/*"))
    made = {path.name: path.read_text() for path in (run_dir / "outputs").iterdir() if path.name[0] in "lx"}
    assert read_record(run_dir).metrics["loss"] == 0.5 and made == {"x": "1", "last": "1", "x.partial.csv": "3"}
    version = model_journal.find(workspace, "carried")  # registered where the run came from
    assert (version.run, version.number) == (read_record(run_dir).id, 1)
    assert (model_journal.check(workspace, version) / "y").read_text() == "2"


def test_local_data_are_sent_once_and_again_after_a_change(box: far.Far, labrun: Command, workspace: Path) -> None:
    """Takes over 15 s: three commands."""
    table = workspace / "t.csv"
    rows = [f"{i % 7},{i % 5},{i % 2}" for i in range(200)]
    table.write_text("\n".join(["a,b,label", *rows]) + "\n")
    words = ("dataset=csv", "dataset.path=t.csv", "dataset.target=label", "compute.host=box", *PLAIN[:2])
    assert "sending data to box: 1 file" in labrun(*words).stderr
    assert "sending data" not in labrun(*words, "seed=2").stderr
    rows[0], size = "6,4,0", table.stat().st_size
    table.write_text("\n".join(["a,b,label", *rows]) + "\n")
    assert table.stat().st_size == size
    assert "sending data to box: 1 file" in labrun(*words, "seed=3").stderr
    found = sorted(runs_of(workspace), key=lambda one: one.created)
    assert [one.status for one in found] == ["completed"] * 3
    first, second, third = (json.dumps([entry.digest for entry in one.data]) for one in found)
    assert first == second != third


@pytest.fixture
def rough(
    tmp_path_factory: pytest.TempPathFactory, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[far.Far]:
    """A machine whose shell is chatty, and that allows two channels a connection; its `ssh_config` names a command."""
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    profile = "echo 'Welcome to the cluster'; echo '#labrun ' ; printf 'no newline'\n"
    with far.machine(tmp_path_factory.mktemp("rough"), profile=profile, sshd="MaxSessions 2") as machine:
        machine.inside(f"ln -s /opt/env /home/{far.USER}/env")
        machine.ssh_config.write_text(f"{machine.ssh_config.read_text()}  RemoteCommand true\n")
        machine.make_known(workspace, monkeypatch, python="~/env/bin/python")
        yield machine


def test_chatty_shells_few_channels_and_expired_logins_are_handled(
    rough: far.Far, labrun: Command, lab_here: Command, workspace: Path
) -> None:
    """Takes over 15 s: a separate machine."""
    (workspace / "train.py").write_text("import time\ntime.sleep(15)\n")
    words = ("experiment=script", "script.path=train.py", "compute=remote", "tracking=none", "report=none")
    remote = remotes.get("box")
    with channel.Channel(remote) as first, channel.Channel(remote) as second, channel.Channel(remote) as third:
        assert len({one.call("hello", root=remote.folder)["root"] for one in (first, second, third)}) == 1
    assert labrun(*words, "compute.detach=true").returncode == 0
    run_dir = next(workspace.glob("outputs/*/*/run.json")).parent
    wait_for(lambda: "running" in lab_here("runs", "ls").stdout)  # who looks has the news brought often
    holder, link = lease.living(SweepState(run_dir)), links.read(run_dir)
    assert holder is not None and link is not None
    os.kill(holder.pid, 9)
    rough.inside("mv /opt/ssh/authorized /opt/ssh/expired")
    ssh.close(remote)
    link.reached = 0.0
    links.write(run_dir, link)
    shown = lab_here("runs", "ls")
    assert "lab remote connect box" in shown.stderr and "running" in shown.stdout, shown.stderr
    told = lab_here("remote", "doctor", "box")
    assert told.returncode == 2 and "the login has expired, or was never made: 'lab remote connect box'" in told.stderr
    refused = labrun(*words)
    assert refused.returncode == 2 and "lab remote connect box" in refused.stderr
    rough.inside("mv /opt/ssh/expired /opt/ssh/authorized")
    assert lab_here("remote", "connect", "box").returncode == 0
    assert "expired" not in lab_here("runs", "ls").stderr, "the machine is asked again at once"
    watched = lab_here("runs", "watch", str(run_dir))
    assert watched.returncode == 0, watched.stderr
    assert [(one.status, len(one.attempts)) for one in runs_of(workspace) if one.attempts] == [("completed", 1)]
    told = lab_here("shell", str(run_dir), "--", "sh", "-c", "command -v python")
    assert told.stdout.endswith(f"/home/{far.USER}/env/bin/python\n"), told.stderr


def test_a_login_without_a_shell_is_reported(
    tmp_path_factory: pytest.TempPathFactory, workspace: Path, monkeypatch: pytest.MonkeyPatch, lab_here: Command
) -> None:
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    with far.machine(tmp_path_factory.mktemp("closed"), shell="/usr/sbin/nologin") as machine:
        machine.make_known(workspace, monkeypatch)
        told = lab_here("remote", "doctor", "box")
    assert told.returncode == 2 and "cannot be reached: This account is currently not available." in told.stderr


def test_a_small_environment_is_built_remotely_once(
    box: far.Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    """Takes over 15 s: uv is sent, and a wheel made here is installed from a folder there."""
    if environment.local_uv() is None:
        pytest.skip("needs uv")
    wheel = tmp_path / "wheels" / "tinything-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    import zipfile

    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tinything.py", "ANSWER = 42\n")
        file.writestr("tinything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        file.writestr("tinything-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true\n")
        file.writestr("tinything-1.0.dist-info/RECORD", "")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = environment.RequiredPackages(version, ("tinything==1.0",))
    monkeypatch.setattr(environment, "required_packages", lambda: wanted)
    remote = remotes.Remote("box", "box", ssh_config=str(box.ssh_config), folder="~/it's$x`y`")
    with channel.Channel(remote) as conversation:
        sent, size = packed.archive({wheel.name: wheel})
        conversation.send("put", sent, size, to="wheels")
        monkeypatch.setenv("UV_FIND_LINKS", f"{conversation.root}/wheels")
        monkeypatch.setenv("UV_OFFLINE", "1")
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
        python = environment.ensure(conversation)
        said = box.inside(f"{shlex.quote(python)} -c 'import tinything; print(tinything.ANSWER)'")
        assert said.strip() == "42"
        before = box.inside(f"stat -c %i {python.rpartition('/bin')[0]}")
        assert environment.ensure(conversation) == python
        assert box.inside(f"stat -c %i {python.rpartition('/bin')[0]}") == before
        broken = environment.RequiredPackages(version, ("nosuchthing==1.0",))
        monkeypatch.setattr(environment, "required_packages", lambda: broken)
        with pytest.raises(Exception, match="could not be built on box"):
            environment.ensure(conversation)
        monkeypatch.setattr(
            environment, "required_packages", lambda: environment.RequiredPackages("3.99", ("tinything==1.0",))
        )
        with pytest.raises(Exception, match=r"box has no Python 3.99, which this machine has, and uv cannot fetch"):
            environment.ensure(conversation)


def test_the_helper_and_labrun_agree_on_the_paths_of_a_launch() -> None:
    own = (helper.PLAN, helper.CONTROLLER, helper.CONTROLLERS, helper.CONTROLLER_LOG, helper.OVER, helper.GIVEN_UP)
    paths = sweep_state.RELATIVE
    others = (
        paths.plan,
        paths.remote_controller,
        paths.controllers,
        paths.controller_log,
        paths.search_over,
        paths.given_up,
    )
    assert own == tuple(map(str, others))
    assert (context.LAUNCH, str(context.STATE)) == (helper.LAUNCH, helper.STATE)


def test_the_helper_has_a_method_for_each_request() -> None:
    assert {name for name in vars(helper.Helper) if name.startswith("do_")} == {f"do_{do}" for do in get_args(Do)}


def test_the_helper_runs_under_python_3_8() -> None:
    source = Path(helper.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    versions = Path("~/.pyenv/versions").expanduser()
    old = next(map(str, versions.glob("3.8*/bin/python")), None) or shutil.which("python3.8")
    if old is None:
        pytest.skip("the syntax is; no Python 3.8 is here to run it")
    asked = b'{"nonce": "n"}\n{"do": "hello", "root": "/tmp/lr-helper", "facts": true}\n'
    done = subprocess.run([old, "-c", source], input=asked, capture_output=True, check=True)
    assert b"#labrun n#" in done.stdout and json.loads(done.stdout.splitlines()[-1])["facts"]["cores"] > 0


def test_only_the_changes_to_code_already_sent_are_sent(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, changed in ((old, "x = 1\n"), (new, "x = 2\n")):
        for name, text in (("a.py", changed), ("b/c.py", "y = 3\n"), ("b.py", "z = 4\n"), ("b-c/d.py", "")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    (old / "gone.py").touch()
    digest = files.tree_digest(new, sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file()))
    changed, gone = packed.changes(new, old)
    assert (list(changed), gone) == (["a.py"], ["gone.py"])
    shutil.copytree(old, tmp_path / "far" / "code" / "old")
    more = {"base": "code/old", "gone": gone, "digest": digest, "marked": True}
    assert _answers(tmp_path / "far", ("put", {"to": "code/new", **more}, changed))[0]["new"]
    assert files.is_tree(tmp_path / "far" / "code" / "new", digest)
    (tmp_path / "far" / "code" / "old" / "b.py").write_text("somebody has changed it")
    refused = _answers(tmp_path / "far", ("put", {"to": "code/other", **more}, changed))[0]
    assert not refused["ok"] and "has changed there" in refused["why"]
    assert not (tmp_path / "far" / "code" / "other").exists()


def test_long_operations_show_their_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(channel, "METER_S", -1.0)
    meter = channel.Meter("sending data to box", 4 << 20)
    meter(1 << 20)
    meter(3 << 20)
    assert capsys.readouterr().err == "labrun: sending data to box: 1.0 MB of 4.0 MB\n"


def test_hard_links_and_non_utf8_names_are_sent(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.ckpt").write_text("x")
    os.link(run / "best.ckpt", run / "last.ckpt")
    (run / os.fsdecode(b"caf\xe9.txt")).write_text("y")
    asked = ("put", {"to": "code/run", "marked": True}, packed.plain_files(run))
    assert _answers(tmp_path / "far", asked, ("have", {"paths": ["code/run"]}, {}))[1]["have"] == ["code/run"]
    sent = packed.plain_files(tmp_path / "far" / "code" / "run")
    assert {name: path.read_text() for name, path in sent.items()} == {
        "best.ckpt": "x",
        "last.ckpt": "x",
        "caf\udce9.txt": "y",
    }


def test_metadata_and_code_of_editable_packages_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "site" / "own_tool-1.2.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: own-tool\nVersion: 1.2\n")
    (told / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    monkeypatch.syspath_prepend(str(told.parent))
    assert list(editable.metadata_files()) == ["own_tool-1.2.dist-info/METADATA"]
    finder = ModuleType("__editable___own_tool_1_2_finder")
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    finder.MAPPING = {"own": "/x/own", "space.part": "/x/space/part", "single": "/x/single.py"}  # type: ignore[attr-defined]
    assert editable.folders() == [Path("/x")]
    finder.MAPPING = {"own": "/x/source"}  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="the package own is installed as the folder /x/source, which has another name"):
        editable.folders()


def _answers(root: Path, *asked: tuple[str, dict[str, Any], dict[str, Path]]) -> list[dict[str, Any]]:
    """What a helper answers to requests with archives."""
    source = json.dumps({"do": "hello", "root": str(root)}).encode() + b"\n"
    for do, arguments, content in asked:
        file, size = packed.archive(content)
        with file:
            source += json.dumps({"do": do, "bytes": size, **arguments}).encode() + b"\n" + file.read()
    sink = io.BytesIO()
    helper.Helper(io.BytesIO(source), sink).serve()
    return [json.loads(line) for line in sink.getvalue().splitlines()][1:]


def test_a_detached_controller_polls_rarely_until_a_user_watches(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(controller.DETACHED, "1")
    folder = workspace / "multirun" / "x" / "y"
    links.write(folder, links.Link("box", "workspaces/w", "workspaces/w/x", home=str(workspace)))
    executor = backend.RemoteExecutor(folder, sweep_state.Plan("remote", [], [], [], str(workspace), "x", {}))
    now = time.monotonic()
    assert executor._pause_s(now) == backend.FAST_S
    assert (
        executor._pause_s(now + 60) == backend.IDLE_POLL_S and executor._pause_s(now + 7200) == backend.LONGEST_PAUSE_S
    )
    links.note_reader(folder)
    assert executor._pause_s(now + 7200) == backend.SLOW_S
    executor.close()


def test_ctrl_c_during_an_answer_closes_the_connection(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the rest of the answer would be taken for the next one."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror, "bring", interrupted)
    folder, closed = workspace / "multirun" / "x" / "y", []
    links.write(folder, links.Link("box", "workspaces/w", "workspaces/w/x", home=str(workspace)))
    executor = backend.RemoteExecutor(folder, sweep_state.Plan("remote", [], [], [], str(workspace), "x", {}))
    executor._channel = SimpleNamespace(close=lambda: closed.append(True))  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        executor._mirror()
    assert closed == [True] and executor._channel is None
    executor.close()


def test_local_paths_become_remote_ones() -> None:
    pairs = [("/home/me/lab", "/far/ws"), ("/data", "/scratch/data")]
    value = {"a": "/home/me/lab/x", "b": ["/home/me/lab", "/home/me/labor"], "c": "x /data", "d": "/data/mnist"}
    assert links.moved(value, pairs) == {
        "a": "/far/ws/x",
        "b": ["/far/ws", "/home/me/labor"],
        "c": "x /data",
        "d": "/scratch/data/mnist",
    }
    with pytest.raises(Exception, match="is not in"):
        mirror._inside(Path("/x"), "../y")


@pytest.mark.parametrize("login_shell", ["sh", "bash", "zsh", "tcsh", "fish"])
def test_every_login_shell_receives_the_same_words(login_shell: str) -> None:
    if shutil.which(login_shell) is None:
        pytest.skip(f"needs {login_shell}: tests/storage/install")
    words = ["printf", "[%s]", "it's", "a\\\\b", "$HOME `x`", 'q"q', "!!", "two\nlines", "é", "", "%d \\n", "~"]
    done = subprocess.run([login_shell, "-c", ssh.for_any_shell(words)], capture_output=True, text=True, check=False)
    assert done.stdout == "".join(f"[{word}]" for word in words[2:]), done.stderr
    assert ssh.for_any_shell(["ls", "a b"]) == "exec ls 'a b'"


@pytest.mark.parametrize(
    "index, is_cut_off",
    [
        (("--default-index", "http://127.0.0.1:1/simple"), True),
        (("--default-index", "http://no.such.host.invalid/simple"), True),
        (("--no-index",), False),
    ],
)
def test_a_machine_that_reaches_no_index_is_told_from_a_missing_package(
    tmp_path: Path, index: tuple[str, ...], is_cut_off: bool
) -> None:
    uv = environment.local_uv()
    assert uv is not None
    command = [uv, "pip", "install", "--no-config", "--no-cache", "--python", sys.executable, "--target", tmp_path]
    variables = {**os.environ, "UV_HTTP_RETRIES": "0"}
    done = subprocess.run([*command, *index, "labrun-nowhere"], capture_output=True, text=True, env=variables)
    assert done.returncode and bool(environment.NO_INDEX.search(done.stderr)) is is_cut_off, done.stderr


def test_ssh_errors_are_reported_in_one_line() -> None:
    remote = remotes.Remote("box", "me@host")
    for text, kind, words in (
        ("me@host: Permission denied (publickey).", ssh.LoginError, "lab remote connect box"),
        ("ssh: connect to host host port 22: Connection timed out", ssh.UnreachableError, "it does not answer"),
        ("Host key verification failed.", ssh.LoginError, "'ssh me@host'"),
        ("strange words", ssh.UnreachableError, "strange words"),
    ):
        error = ssh.error_of(remote, text, 255)
        assert type(error) is kind and words in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("cluster", "status", "is_joined"),
    [
        ("slurm", "running", True),
        ("slurm", "completed", False),
        ("local", "running", False),
        ("not-installed", "running", False),
    ],
)
def test_a_shell_joins_only_jobs_that_have_steps(cluster: str, status: str, is_joined: bool) -> None:
    job = shell._job(new(status=status, job=Job(cluster, "7_1", "n1")))
    assert job == (shell.ActiveJob(registry.get(cluster), "7_1", "n1") if is_joined else None)
    assert shell._job(new(status="running")) is None


def test_a_command_joins_a_slurm_job_as_a_step_on_its_node() -> None:
    slurm = registry.get("slurm")
    options = ["--overlap", "--nodes=1", "--ntasks=1", "--quiet"]
    assert slurm.step("7", None) == ["srun", "--jobid=7", *options]
    there = ["/opt/srun", "--jobid=7", "--nodelist=n1", *options, "--pty"]
    assert slurm.step("7", "n1", "/opt", tty=True) == there
    number = "job=$(/opt/squeue --noheader --jobs=7_1 --format=%A)"
    script = f'{number} && exec /opt/srun --jobid="$job" "$@"'
    assert slurm.step("7_1", "n1", "/opt") == ["sh", "-c", script, "srun", "--nodelist=n1", *options]


@pytest.mark.parametrize(
    ("target", "is_in_process"),
    [("auto", True), ("inline", True), ("local", False), ("slurm", False), ("not-installed", False)],
)
def test_only_auto_and_inline_may_run_in_the_process(target: str, is_in_process: bool) -> None:
    assert registry.may_be_in_process(target) is is_in_process
