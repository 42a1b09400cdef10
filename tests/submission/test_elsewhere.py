"""Sweeps in custom folders are found again; resuming distinguishes runs by environment values."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Command
from helpers import PLAIN, lab
from labrun.runs.record import read_record


def listed(workspace: Path) -> list[str]:
    found = lab(workspace, "runs", "ls", "--json", "-n", "100")
    assert found.returncode == 0, found.stderr
    return sorted(json.loads(line)["folder"] for line in found.stdout.splitlines())


def test_a_sweep_in_a_custom_folder_is_found_and_resumed(labrun: Command, workspace: Path) -> None:
    where = ("-m", "hydra.sweep.dir=mine", *PLAIN)
    assert labrun(*where, "seed=1,2").returncode == 0
    assert labrun("-m", "seed=7", *PLAIN).returncode == 0, "another sweep of the name, later, where sweeps lie"
    assert len(listed(workspace)) == 3
    again = labrun(*where, "seed=1,2,3", "sweep.resume=last")
    assert again.returncode == 0 and "2 of 3 runs are done" in again.stdout, again.stdout + again.stderr
    assert sorted(path.parent.name for path in (workspace / "mine").glob("*/run.json")) == ["0", "1", "2"]
    assert lab(workspace, "runs", "watch", "mine").returncode == 0
    assert lab(workspace, "runs", "rm", str(workspace / "mine" / "1"), "--yes").returncode == 0
    assert len(listed(workspace)) == 3


def test_runs_in_deeper_folders_are_found_and_resumed(labrun: Command, workspace: Path) -> None:
    values = ("-m", "hydra.sweep.subdir=r${model.regularization}/s${seed}", *PLAIN)
    assert labrun(*values, "seed=1,2").returncode == 0
    assert len(listed(workspace)) == 2
    again = labrun(*values, "seed=1,2,3", "sweep.resume=last")
    assert again.returncode == 0 and "2 of 3 runs are done" in again.stdout, again.stdout + again.stderr
    assert len(listed(workspace)) == 3 and lab(workspace, "runs", "show", "last").returncode == 0


def test_a_single_run_in_a_custom_folder_is_found(labrun: Command, workspace: Path) -> None:
    assert labrun("hydra.run.dir=here", *PLAIN).returncode == 0
    assert listed(workspace) == [str(workspace / "here")]
    refused = labrun("-m", "seed=1,2", "sweep.resume=here", *PLAIN)
    assert refused.returncode == 2 and "that is a single run, not a sweep" in refused.stderr


def test_a_workspace_that_is_itself_a_run_is_never_removed(labrun: Command, workspace: Path) -> None:
    (workspace / "thesis.tex").write_text("all of it")
    assert labrun("hydra.run.dir=.", *PLAIN).returncode == 0
    assert labrun("hydra.run.dir=mine", *PLAIN).returncode == 0
    (workspace / "mine" / "notes.txt").write_text("the user's own")
    assert labrun("hydra.run.dir=its", *PLAIN).returncode == 0
    for folder in (workspace, workspace / "mine"):
        refused = lab(workspace, "runs", "rm", str(folder), "--yes")
        assert refused.returncode != 0 and "that holds nothing else" in refused.stdout + refused.stderr
    assert (workspace / "thesis.tex").exists() and (workspace / "mine" / "notes.txt").exists()
    assert lab(workspace, "runs", "export", str(workspace), "-o", "all.tar").returncode != 0
    assert lab(workspace, "runs", "export", str(workspace / "its"), "-o", "its.tar").returncode == 0
    assert lab(workspace, "runs", "rm", str(workspace / "its"), "--yes").returncode == 0
    taken = lab(workspace, "runs", "import", "its.tar")
    assert taken.returncode == 0 and len(list(workspace.glob("outputs/digits-*/*/run.json"))) == 1, taken.stderr
    assert not (workspace / "its").exists() and (workspace / "thesis.tex").exists()


def test_a_single_run_is_never_the_last_sweep(labrun: Command, workspace: Path) -> None:
    assert labrun("-m", "seed=1,2", *PLAIN).returncode == 0
    assert labrun("compute=local", "hydra.run.dir=here", *PLAIN).returncode == 0
    (workspace / "broken" / ".launch").mkdir(parents=True)
    (workspace / "broken" / ".launch" / "plan.json").write_text("{")
    with open(workspace / "outputs" / ".labrun" / "elsewhere.jsonl", "a") as file:
        file.write(json.dumps({"folder": str(workspace / "broken")}) + "\ntorn")
    again = labrun("-m", "seed=1,2,3", "sweep.resume=last", *PLAIN)
    assert again.returncode == 0 and "2 of 3 runs are done" in again.stdout, again.stdout + again.stderr
    assert not (workspace / "here" / "0").exists()


def test_values_from_the_environment_distinguish_runs(labrun: Command, workspace: Path) -> None:
    (workspace / "conf" / "experiment").mkdir(parents=True)
    (workspace / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nmodel:\n  regularization: ${oc.decode:${oc.env:RATE}}\n"
    )
    values = ("-m", "experiment=mine", "seed=1,2", *PLAIN)
    assert labrun(*values, RATE="0.25").returncode == 0
    other = labrun(*values, "sweep.resume=last", RATE="100")
    assert other.returncode == 0 and "0 of 2 runs are done" in other.stdout, other.stdout + other.stderr
    same = labrun(*values, "sweep.resume=last", RATE="0.25")
    assert same.returncode == 0 and "2 of 2 runs are done" in same.stdout, same.stdout + same.stderr
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert len({record.settings for record in found}) == 4 and len({record.metrics["accuracy"] for record in found}) > 1
