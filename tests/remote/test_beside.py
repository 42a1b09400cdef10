"""What a person does about runs on another machine: shells, logins, tags, removal, another laptop, Python."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import far
import labrun as api
from conftest import Command
from far_project import write_project
from helpers import PLAIN, program, submitted, wait_for
from labrun.errors import ConfigError
from labrun.remote import link as links
from labrun.remote import remotes, shell, ssh
from labrun.runs import record as records
from pseudo_terminal import Terminal

SMALL = ("model=served", "dataset.max_samples=50", "compute=box", *PLAIN)


@pytest.fixture
def project(workspace: Path) -> Path:
    """A project whose `conf/compute/box.yaml` is the pool of the box."""
    write_project(workspace)
    return workspace


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_shell_beside_a_run_with_ports(box: far.Far, project: Path, labrun: Command, lab_here: Command) -> None:
    """Takes over 15 s: a run there, and two terminals."""
    assert labrun(*SMALL, "model.seconds=60", "model.port=6006", "compute.detach=true").returncode == 0
    run_dir = next(project.glob("outputs/[!.]*/*"))
    wait_for(lambda: lab_here("runs", "show", "last").stdout.count("running") > 0)
    run = records.read(run_dir)
    assert lab_here("shell", "last", "--", "cat", "run.json").stdout.count(run.id) > 0
    told = lab_here(
        "shell", "last", "--", "python -c 'import labrun, sys; print(labrun.__file__, sys.executable)' | cat"
    )
    assert "/home/far/.labrun/labrun/" in told.stdout and far.PYTHON in told.stdout, told.stderr
    assert lab_here("shell", run.id, "--", "sh", "-c", "exit 7").returncode == 7
    port = free_port()
    terminal = Terminal(program("lab", "shell", "last", "-L", f"{port}:6006"), project)
    terminal.expect(f"(run {run.id})")
    shown = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read().decode()
    assert "Directory listing" in shown
    terminal.type("echo $PWD; tty; exit 3\n")
    assert "/dev/pts/" in terminal.expect("/dev/pts/") and terminal.end() == 3
    taken = lab_here("shell", "last", "-L", f"{port}", "--", "true")
    assert taken.returncode == 0, taken.stderr  # the port is free again
    assert lab_here("runs", "cancel", "last").returncode == 0
    assert lab_here("shell", "last", "--", "ls").stdout.count("run.json") == 1  # of an ended run, too


def test_a_shell_beside_a_run_of_this_machine(workspace: Path, lab_here: Command) -> None:
    run_dir = submitted(workspace, "abcd1234", status="completed")
    done = lab_here("shell", "abcd1234", "-L", "6006", "--", "sh", "-c", "pwd; command -v python")
    assert done.stdout.splitlines() == [str(run_dir), str(Path(sys.executable).parent / "python")], done.stderr
    assert "port 6006 is one of this machine already" in done.stderr
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
    """A machine that wants a key, and then a password by the keyboard: what a second factor is to ssh."""
    if (why := far.can_be_had()) is not None:
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


def test_a_login_that_asks_passes_through_once(asking: far.Far, project: Path, lab_here: Command) -> None:
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
    assert lab_here("remote", "runs", "box").stdout.startswith("no runs lie on box")
    ssh.close(remotes.get("box"))
    assert "lab remote connect box" in lab_here("remote", "runs", "box").stderr


def test_tags_removal_and_another_laptop(
    box: far.Far, project: Path, labrun: Command, lab_here: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Takes over 15 s: three runs, and two workspaces that look at them."""
    words = ("-m", "model.seconds=6,6.1,6.2", *SMALL, "compute.detach=true", "++tags.team=a")
    assert labrun(*words).returncode == 0
    folder = next(project.glob("multirun/*/*"))
    first = records.read(folder / "0").id
    assert lab_here("runs", "tag", first, "mine=1").returncode == 0
    other = tmp_path_factory.mktemp("other")
    listed = lab_here("--root", str(other), "remote", "runs", "box").stdout
    assert folder.relative_to(project).as_posix() in listed and " no " in listed
    assert lab_here("--root", str(other), "remote", "fetch", "box", first).returncode == 0
    copy = other / folder.relative_to(project)
    assert lab_here("--root", str(other), "runs", "tag", first, "yours=2").returncode == 0
    watched = lab_here("--root", str(other), "runs", "watch", str(copy))
    assert watched.returncode == 0, watched.stderr
    assert lab_here("runs", "watch", str(folder)).returncode == 0
    for one in (folder, copy):
        found = [records.read(one / str(number)) for number in range(3)]
        assert [run.status for run in found] == ["completed"] * 3
        assert found[0].tags == {"team": "a", "mine": "1", "yours": "2"}
        code = found[0].code
        assert code is not None and (Path(code["folder"]) / "served.py").is_file()
    assert lab_here("runs", "note", first, "late").returncode == 0
    there = f"/home/{far.USER}/.labrun/{getattr(links.read(folder), 'folder', None)}"
    assert '"late"' in box.inside(f"cat {there}/0/annotations.jsonl") and links.live(project) == []
    assert "Nothing was done" in lab_here("runs", "rm", first).stdout
    assert lab_here("runs", "rm", first, "--yes", "--here").returncode == 0
    assert box.inside(f"ls {there}").split() == ["0", "1", "2"] or "0" in box.inside(f"ls {there}").split()
    gone = lab_here("runs", "rm", str(folder), "--yes")
    assert "removed 2 runs on box" in gone.stdout and "removed 2 runs" in gone.stdout, gone.stderr
    assert set(box.inside(f"ls {there}").split()) & {"1", "2"} == set()


def test_python_and_a_notebook_submit_there(box: far.Far, project: Path) -> None:
    """Takes over 15 s: a kernel, and two runs there."""
    run = api.submit([*SMALL, "compute=local", "compute.host=box"])
    assert run.wait_for_completion()["status"] == "completed"
    assert run.record.config["compute"]["host"] == "box"
    cells = [
        f"import labrun\nrun = labrun.submit({list(SMALL)!r})\nrun.wait_for_completion(show_output=True)",
        "run",
        "import json; print(json.dumps([run.status, run.record.process['host'], run.get_metrics()]))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(project)}}).execute()
    status, host, metrics = json.loads(notebook.cells[2].outputs[0]["text"])
    assert (status, host) == ("completed", f"box{box.number}") and "accuracy" in metrics
    assert "completed" in notebook.cells[1].outputs[0]["data"]["text/html"]
