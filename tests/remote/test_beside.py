"""Work with remote runs: shells, logins, tags, removal, a second laptop, Python."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import far
import far_project
import labrun as api
from conftest import Command, Refused
from far_project import SERVED, write_project
from helpers import program, submitted, wait_for
from labrun.errors import ConfigError
from labrun.remote import channel, environment, links, remotes, shell, ssh
from labrun.runs.record import RUNNING, read_record
from pseudo_terminal import Terminal

SMALL = (*SERVED, "compute=box", "tracking=none", "report=none")


@pytest.fixture
def project(workspace: Path) -> Path:
    """A project whose `conf/compute/box.yaml` is the pool of the box."""
    write_project(workspace)
    return workspace


def test_a_remote_run_has_shells_and_a_second_laptop_beside_it(
    box: far.Far,
    project: Path,
    lab_here: Command,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Takes over 15 s: a remote run, beside which everything is done that can be done beside a run."""
    monkeypatch.setenv("SAID", value := f"it's {uuid.uuid4().hex} & é")
    own = ("+compute.environment.OWN='${oc.env:SAID}'", "+compute.environment.UNTOLD=x")
    words = ("script.arguments.seconds=300", "script.arguments.port=6006")
    run = api.submit([*SMALL, *own, "compute=local", "compute.host=box", *words])
    wait_for(lambda: run.status == RUNNING)
    assert run.record.config["compute"]["host"] == "box"

    # Folders that no run needs there are removed, and nothing else
    assert lab_here("remote", "gc", "box").stdout == "nothing to remove on box\n", "all of it was used today"
    unused = f"/home/{far.USER}/.labrun/env/0123456789abcdef"
    box.inside(f"mkdir -p {unused}; chown {far.USER} {unused}/.. {unused}")
    box.inside(f"find /home/{far.USER}/.labrun -exec touch -d '2 days ago' {{}} +")
    assert "Nothing was done: use --yes" in lab_here("remote", "gc", "box").stdout
    gone = lab_here("remote", "gc", "box", "--yes")
    assert "env/0123456789abcdef" in gone.stdout and " on box, " in gone.stdout, gone.stderr

    # Shells
    assert run.id in lab_here("shell", "last", "--", "cat", "run.json").stdout
    told = lab_here("shell", "--", "python -c 'import labrun, sys; print(labrun.__file__, sys.executable)' | cat")
    assert "/home/far/.labrun/labrun/" in told.stdout and far.PYTHON in told.stdout, told.stderr
    assert lab_here("shell", run.id, "--", "sh", "-c", "exit 7").returncode == 7
    told = lab_here(
        "shell", run.id, "--", "sh", "-c", "echo $OWN; tr '\\0' ' ' < /proc/$PPID/cmdline; cat /proc/*/cmdline"
    )
    assert told.stdout.startswith(f"{value}\n") and told.stdout.count(value) == 1
    assert box.inside(f"ls -d /home/{far.USER}/.labrun/.offer*") == ""
    port = far.free_port()
    terminal = Terminal(program("lab", "shell", "last", "-L", f"{port}:6006"), project)
    told = terminal.expect(f"(run {run.id})")
    assert f"records hold no values: UNTOLD. 'UNTOLD=VALUE lab shell {run.id}' sets it" in told
    shown = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read().decode()
    assert "Directory listing" in shown
    terminal.type("tty; exit 3\n")
    assert "/dev/pts/" in terminal.expect("/dev/pts/") and terminal.end() == 3
    assert lab_here("shell", "last", "-L", f"{port}", "--", "true").returncode == 0, "the port is free again"

    # Tags, and another laptop, which ends it
    run.tag("mine", "1")
    other = tmp_path_factory.mktemp("other")
    away = ("--root", str(other))
    where = Path(run.folder).relative_to(project)
    listed = lab_here(*away, "remote", "runs", "box").stdout
    assert where.as_posix() in listed and " no " in listed
    assert lab_here(*away, "remote", "fetch", "box", run.id).returncode == 0
    assert "no folder or run on box matches 'nothing'" in lab_here(*away, "remote", "fetch", "box", "nothing").stderr
    assert lab_here(*away, "runs", "tag", run.id, "yours=2").returncode == 0
    assert lab_here(*away, "runs", "cancel", run.id).returncode == 0
    assert run.wait_for_completion()["status"] == "canceled"
    for folder in (run.folder, other / where):
        found = read_record(folder)
        assert (found.status, found.tags) == ("canceled", {"mine": "1", "yours": "2"})
        assert found.code is not None and (Path(str(found.code.folder)) / "served.py").is_file()
    assert lab_here("shell", "last", "--", "ls").stdout.count("run.json") == 1, "of an ended run, too"

    # What is said of it afterwards, and its removal
    link = links.read(run.folder)
    assert link is not None and lab_here("runs", "note", run.id, "late").returncode == 0
    there = f"/home/{far.USER}/.labrun/{link.folder}"
    assert '"late"' in box.inside(f"cat {there}/annotations.jsonl") and links.live(project) == []
    assert "Nothing was done" in lab_here("runs", "rm", run.id).stdout
    assert lab_here(*away, "runs", "rm", run.id, "--yes", "--here").stdout.endswith("removed 1 run\n")
    assert "run.json" in box.inside(f"ls {there}")
    gone = lab_here("runs", "rm", run.id, "--yes")
    assert "removed 1 run on box\nremoved 1 run\n" in gone.stdout and box.inside(f"ls {there}") == "", gone.stderr

    # What it needed there
    box.inside(f"find /home/{far.USER}/.labrun -exec touch -d '2 days ago' {{}} +")
    gone = lab_here("remote", "gc", "box", "--yes")
    assert "  labrun  " in gone.stdout and "  code  " in gone.stdout, gone.stderr
    assert box.inside(f"ls /home/{far.USER}/.labrun/labrun") == ""


def test_a_shell_opens_in_the_folder_of_a_local_run(workspace: Path, lab_here: Command) -> None:
    run_dir = submitted(workspace, "abcd1234", status="completed")
    done = lab_here("shell", "abcd1234", "-L", "6006", "--", "sh", "-c", "pwd; command -v python")
    assert done.stdout.splitlines() == [str(run_dir), str(Path(sys.executable).parent / "python")], done.stderr
    assert "port 6006 is already local" in done.stderr
    assert "no run is called 'nothing'" in lab_here("shell", "nothing").stderr
    for wrong in ("0", "x", "1:2:3", "70000", "80:"):
        with pytest.raises(ConfigError, match="give a port, or LOCAL:REMOTE"):
            shell.forward(wrong)


PAM = "auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
PASSWORD = "open sesame"


@pytest.fixture
def asking(
    tmp_path_factory: pytest.TempPathFactory, project: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[far.Far]:
    """A machine that requires a key and then a typed password, as ssh does for a second factor."""
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    folder = tmp_path_factory.mktemp("asking")
    (folder / "pam").write_text(PAM)
    (folder / "shadow").write_text(f"{far.USER}:{hashed}:19000:0:99999:7:::\n")
    more = f"mount --bind {folder}/pam /etc/pam.d/sshd\ncat {folder}/shadow /etc/shadow > {folder}/all\n"
    more += f"chmod 640 {folder}/all\nmount --bind {folder}/all /etc/shadow"
    settings = "AuthenticationMethods publickey,keyboard-interactive\nKbdInteractiveAuthentication yes"
    with far.machine(folder / "machine", sshd=settings, more=more, uses_pam=True) as machine:
        machine.make_known(project, monkeypatch)
        yield machine


def test_a_login_asks_for_its_password_once(asking: far.Far, project: Path, lab_here: Command) -> None:
    refused = lab_here("remote", "doctor", "box")
    assert (
        refused.returncode == 2
        and "the login has expired, or was never made: 'lab remote connect box'" in refused.stderr
    )
    terminal = Terminal(program("lab", "remote", "connect", "box"), project)
    terminal.expect("Password:")
    terminal.type(f"{PASSWORD}\n")
    terminal.expect("connected to box")
    assert terminal.end() == 0
    assert "yes" in lab_here("remote", "ls").stdout.splitlines()[1].split()
    assert lab_here("remote", "runs", "box").stdout.startswith("no runs on box")
    ssh.close(remotes.get("box"))
    assert "lab remote connect box" in lab_here("remote", "runs", "box").stderr


def test_a_notebook_submits_to_a_remote_machine(box: far.Far, project: Path) -> None:
    """Takes over 15 s: a kernel, and a remote run."""
    cells = [
        f"import labrun\nrun = labrun.submit({list(SMALL)!r})\nrun.wait_for_completion(show_output=True)",
        "run",
        "import json; print(json.dumps([run.status, run.record.process.host, run.get_metrics()]))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(project)}}).execute()
    status, host, metrics = json.loads(notebook.cells[2].outputs[0]["text"])
    assert (status, host) == ("completed", f"box{box.number}") and "accuracy" in metrics
    assert "completed" in notebook.cells[1].outputs[0]["data"]["text/html"]


def test_wheels_are_built_locally_for_a_machine_without_internet(
    box: far.Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    if environment.local_uv() is None:
        pytest.skip("needs uv")
    remote = remotes.Remote("box", "box", ssh_config=str(box.ssh_config), folder="~/without")
    far_project.only_tinything(tmp_path, monkeypatch)
    far_project.small_uv(tmp_path, monkeypatch)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with channel.Channel(remote) as conversation:
        python = environment.ensure(conversation)
        log = box.inside(f"cat {conversation.root}/env/*.log")
    assert box.inside(f"{python} -c 'import tinything; print(tinything.ANSWER)'").strip() == "42", log
    assert "Failed to fetch" in log


def test_a_machine_with_another_processor_is_refused(box: far.Far, project: Path, refused_here: Refused) -> None:
    facts = dataclasses.replace(channel.facts(remotes.get("box")), machine="aarch64")
    remotes.put(remotes.Remote("box", "box", ssh_config=str(box.ssh_config), facts=facts))
    assert "compute.host=box: box is Linux aarch64, but this machine is Linux" in refused_here(*SMALL)
