"""Sweeps in folders that a person chose are found again; resuming tells runs apart by what the environment gave."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Command
from helpers import PLAIN, lab
from labrun.runs import record as records


def listed(workspace: Path) -> list[str]:
    found = lab(workspace, "runs", "ls", "--json", "-n", "100")
    assert found.returncode == 0, found.stderr
    return sorted(json.loads(line)["folder"] for line in found.stdout.splitlines())


def test_a_sweep_in_a_folder_of_its_own(labrun: Command, workspace: Path) -> None:
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


def test_runs_in_deeper_folders(labrun: Command, workspace: Path) -> None:
    values = ("-m", "hydra.sweep.subdir=r${model.regularization}/s${seed}", *PLAIN)
    assert labrun(*values, "seed=1,2").returncode == 0
    assert len(listed(workspace)) == 2
    again = labrun(*values, "seed=1,2,3", "sweep.resume=last")
    assert again.returncode == 0 and "2 of 3 runs are done" in again.stdout, again.stdout + again.stderr
    assert len(listed(workspace)) == 3 and lab(workspace, "runs", "show", "last").returncode == 0


def test_a_single_run_in_a_folder_of_its_own(labrun: Command, workspace: Path) -> None:
    assert labrun("hydra.run.dir=here", *PLAIN).returncode == 0
    assert listed(workspace) == [str(workspace / "here")]
    refused = labrun("-m", "seed=1,2", "sweep.resume=here", *PLAIN)
    assert refused.returncode == 2 and "that is a single run, and no sweep" in refused.stderr


def test_what_the_environment_gave_tells_runs_apart(labrun: Command, workspace: Path) -> None:
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
    found = [records.read(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert len({record.settings for record in found}) == 4 and len({record.metrics["accuracy"] for record in found}) > 1
