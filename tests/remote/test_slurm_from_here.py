"""The test cluster, used through its login node over a real sshd; the local clone and home are not visible there.

The login node also has its own network namespace, and reaches the cluster over a link.
"""

from __future__ import annotations

import stat
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import far
from conftest import Command
from far_project import SERVED, only_tinything, write_project
from helpers import program, wait_for
from labrun.remote import channel, environment, remotes
from labrun.runs.record import read_record
from pseudo_terminal import Terminal

USER = (5, 60)
"""One that this machine has, too: the nodes are this machine, and Slurm starts jobs there as that user."""
SMALL = (*SERVED, "compute=slurm", "compute.host=box", "tracking=none", "report=none")


@pytest.fixture(scope="module")
def login_node(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Iterator[tuple[far.Far, Path]]:
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    if private := [str(one) for one in Path(sys.base_prefix).parents if not one.stat().st_mode & stat.S_IXOTH]:
        pytest.skip(f"the cluster's user has no access to this Python: {private[-1]} is private")
    folder = tmp_path_factory.mktemp("login")
    with (
        far.shared_folder(far.free_number(), USER) as shared,
        far.machine(folder, is_login_node=True, uid=USER[0], gid=USER[1]) as machine,
    ):
        yield machine, shared


@pytest.fixture
def known(login_node: tuple[far.Far, Path], workspace: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[far.Far, Path]:
    machine, shared = login_node
    write_project(workspace)
    machine.make_known(workspace, monkeypatch, python=f"{shared}/env/bin/python", folder=f"{shared}/home/lab")
    return login_node


def test_a_sweep_on_a_remote_cluster_offers_shells_and_is_canceled(
    known: tuple[far.Far, Path],
    workspace: Path,
    labrun: Command,
    lab_here: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Takes over 15 s: jobs of Slurm."""
    machine, _ = known
    for hidden in (str(workspace), str(Path(__file__).parents[2]), str(Path.home())):
        found = f"find {hidden} -type f -not -path '{sysconfig.get_config_var('LIBDIR')}/*'"  # see `far._library`
        assert machine.inside(f"{found} 2>/dev/null | head -3") == ""
    told = lab_here("remote", "doctor", "box")
    assert told.returncode == 0 and "compute=slurm compute.host=box" in told.stdout, told.stdout + told.stderr
    port, here = far.free_port(), far.free_port()
    words = ("script.arguments.seconds=0,300", f"script.arguments.port=0,{port}")
    words = (*words, "sweep.zip=[[script.arguments.seconds,script.arguments.port]]")
    monkeypatch.setenv("SAID", "a value")
    done = labrun("-m", *words, *SMALL, "compute.detach=true", "+compute.environment.OWN='${oc.env:SAID}'")
    assert done.returncode == 0, done.stderr
    folder = next(workspace.glob("multirun/*/*"))
    first, second = folder / "0", folder / "1"
    wait_for(lambda: lab_here("runs").stdout.count("completed") == 1 and read_record(second).status == "running")
    assert str(read_record(first).job.node).startswith("n")
    beside = lab_here(
        "shell", read_record(second).id, "--", "sh", "-c", "echo $SLURM_JOB_ID $SLURMD_NODENAME $PWD $OWN"
    )
    assert beside.returncode == 0, beside.stderr
    job, node, place, *own = beside.stdout.split()
    assert own == ["a", "value"]
    assert job.isdigit() and node.startswith("n") and place.startswith("/srv/"), beside.stderr
    terminal = Terminal(program("lab", "shell", read_record(second).id, "-L", f"{here}:{port}"), workspace)
    terminal.expect(f"(run {read_record(second).id})")
    shown = urllib.request.urlopen(f"http://127.0.0.1:{here}/", timeout=20).read().decode()
    assert "Directory listing" in shown
    terminal.type("echo node $SLURMD_NODENAME; exit\n")
    assert f"node {node}" in terminal.expect(f"node {node}") and terminal.end() == 0
    assert lab_here("runs", "cancel", read_record(second).id).returncode == 0
    wait_for(lambda: "canceled" in lab_here("runs", "show", read_record(second).id).stdout)
    assert read_record(second).status == "canceled"
    assert lab_here("runs", "rm", read_record(first).id, "--yes", "--here").returncode == 0
    assert lab_here("runs", "tag", read_record(second).id, "x=1").returncode == 0
    assert not first.exists(), "what was removed here does not come back with a look at the others"


def test_an_environment_is_built_in_a_job_from_wheels(
    known: tuple[far.Far, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takes over 15 s: uv is sent, and a job of Slurm installs a wheel that was made here."""
    if environment.local_uv() is None:
        pytest.skip("needs uv")
    machine, shared = known
    wanted = only_tinything(tmp_path, monkeypatch)
    settings = {"folder": f"{shared}/home/built", "ssh_config": str(machine.ssh_config)}
    remote = remotes.Remote("box", "box", build="slurm --time=5", wheelhouse="auto", **settings)
    with channel.Channel(remote) as conversation:
        python = environment.ensure(conversation)
        log = machine.inside(f"cat {conversation.root}/env/{wanted.key}.log")
    assert machine.inside(f"{python} -c 'import tinything; print(tinything.ANSWER)'").strip() == "42", log
    # srun must live until it has released its nodes; otherwise Slurm keeps them for the whole five minutes.
    wait_for(lambda: not machine.inside("squeue -h -n labrun-build"))
    assert (tmp_path / "cache" / "labrun" / "wheels" / wanted.key / "tinything-1.0-py3-none-any.whl").is_file()
