"""Secrets planted in all usual places must not appear in any file that runs leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from conftest import Command
from helpers import copy_database, lab, mlflow_sync, statuses, wait_for

PLANTED = {
    "environment": "env-7h3secret",
    "referenced": "ref-7h3secret",
    "dotenv": "dotenv-7h3secret",
    "key": "key-7h3secret",
    "remote": "remote-7h3secret",
    "variable": "var-7h3secret",
    "mixed": "mixed-7h3secret",
    "several": "several-7h3secret",
    "default": "default-7h3secret",
}


@pytest.fixture
def planted(workspace: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Path) -> Path:
    """A repository whose owner is not careful."""
    (workspace / ".env").write_text(f"PASSWORD={PLANTED['dotenv']}\n")
    (workspace / "server.key").write_text(PLANTED["key"])
    (workspace / "id_ed25519").write_text(PLANTED["key"])
    (workspace / "plain.py").write_text("VALUE = 1\n")
    (workspace / "conf" / "local").mkdir(parents=True)
    (workspace / "conf" / "local" / "default.yaml").write_text("# @package _global_\nnotes: ${oc.env:REFERENCED}\n")
    for command in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://me:{PLANTED['remote']}@example.org/repository.git"],
        ["add", "-A", "-f"],
        ["-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "-qm", "all of it"],
    ):
        subprocess.run(["git", *command], cwd=workspace, check=True)
    copy_database(empty_mlflow, workspace)
    monkeypatch.setenv("SERVICE_TOKEN", PLANTED["environment"])
    monkeypatch.setenv("REFERENCED", PLANTED["referenced"])
    return workspace


def holding(workspace: Path) -> list[str]:
    """What, below outputs/ and multirun/, holds a planted secret; MLflow's view of it, too."""
    mlflow_sync(workspace)
    found = []
    for top in ("outputs", "multirun"):
        for path in (workspace / top).rglob("*"):
            content = b""
            with contextlib.suppress(FileNotFoundError):  # a journal of SQLite, a file that is replaced
                content = path.read_bytes() if path.is_file() else b""
            found += [f"{path}: {kind}" for kind, secret in PLANTED.items() if secret.encode() in content]
    database = workspace / "outputs" / ".labrun" / "mlflow.db"
    with sqlite3.connect(database, timeout=60) as connection:
        dump = "\n".join(connection.iterdump())
    return found + [f"MLflow: {kind}" for kind, secret in PLANTED.items() if secret in dump]


VARIABLE = f"+compute.environment.TOKEN={PLANTED['variable']}"


ODD_VARIABLES = (
    f'+compute.environment.URL="https://me:{PLANTED["mixed"]}@example.org/${{seed}}"',
    f'+compute.environment.ELSE="${{oc.env:NOT_SET,{PLANTED["default"]}}}"',
)


def test_variables_in_other_forms_leave_no_secret(planted: Path, labrun: Command) -> None:
    """Text around an interpolation, a default, several variables as one; a script's argument from the environment."""
    (planted / "train.py").write_text("import os, sys\nassert sys.argv[2] == os.environ['REFERENCED']\n")
    script = ("experiment=script", "script.path=train.py", '+script.arguments.key="${oc.env:REFERENCED}"')
    done = labrun("-m", "seed=1,2", *script, *ODD_VARIABLES)
    assert done.returncode == 0, done.stdout + done.stderr
    together = f'++compute.environment={{A: {PLANTED["several"]}, B: "${{oc.env:HOME}}"}}'
    more = labrun("-m", "seed=3,4", together, "dataset.max_samples=50", "report=none")
    assert more.returncode == 0, more.stdout + more.stderr
    assert not [kind for kind, secret in PLANTED.items() if secret in done.stdout + more.stdout + more.stderr]
    assert holding(planted) == []


def test_no_local_run_leaves_a_secret(planted: Path, labrun: Command) -> None:
    """Over 15 s: every file of every kind of run is searched, including MLflow's database."""
    common = (VARIABLE, "dataset.max_samples=50")
    plain = "report=none"  # two of them draw pictures
    for arguments in ((), ("compute=local", plain), ("-m", "seed=1,2"), ("-m", "seed=1,2", "compute=inline", plain)):
        done = labrun(*arguments, *common)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not [kind for kind, secret in PLANTED.items() if secret in done.stdout + done.stderr]
    refused = labrun("-m", "seed=1,2", VARIABLE, "compute.mem_gb=99999")
    assert refused.returncode == 2 and PLANTED["variable"] not in refused.stderr
    failed = labrun("-m", "seed=8,9", *common, plain, "model.max_iter=0")
    assert failed.returncode in (1, 2) and PLANTED["variable"] not in failed.stdout + failed.stderr
    for sweep in [path.parent for path in planted.glob("multirun/*/*/*/run.json") if "failed" in path.read_text()]:
        shutil.rmtree(sweep)
    (planted / "train.py").write_text("import os\nassert os.environ['TOKEN']\n")
    script = ("experiment=script", "script.path=train.py", VARIABLE, plain)  # a detached pool would import scikit-learn
    assert labrun("-m", "seed=3,4", *script, "compute.detach=true").returncode == 0
    assert lab(planted, "runs", "watch").returncode == 0
    wait_for(lambda: statuses(planted) == ["completed"] * 6)
    assert (planted / "outputs" / ".labrun" / "code").is_dir(), "the code was kept"
    assert holding(planted) == []
    shown = lab(planted, "runs", "show", "last").stdout + lab(planted, "runs", "ls", "--json").stdout
    assert not [kind for kind, secret in PLANTED.items() if secret in shown]


def test_no_job_on_slurm_leaves_a_secret(planted: Path, labrun: Command, cluster: None) -> None:
    """With scripts, whose jobs import no large library; other files of a run are the same as locally."""
    (planted / "train.py").write_text("import os\nassert os.environ['TOKEN']\n")
    script = ("experiment=script", "script.path=train.py", VARIABLE)
    done = labrun("-m", "seed=1,2", "compute=slurm", "compute.runs_per_job=2", *script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(planted.glob("multirun/*/*/.launch/slurm/*.sh")), "there are batch files"
    assert holding(planted) == []
    assert os.environ["SERVICE_TOKEN"] not in done.stdout
