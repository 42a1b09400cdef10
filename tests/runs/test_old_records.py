"""Records, plans and sweeps written before November 28, 2026 15:00, in `old_records`, which newer code must read.

`own_data.json` is older than the digest of arrays from the user's code. All are older than the current target of local
datastores and than several keys of data sets and scripts.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import Command
from labrun import execute
from labrun.config import schema
from labrun.runs import sweep_state
from labrun.runs.groups import DataEntry
from labrun.runs.record import Record, parse_record, read_record
from labrun.runs.sweep_state import SweepState
from labrun.tasks.resume_checks import what_differs

OLD = Path(__file__).parent / "old_records"
PROJECT = "/home/ada/project"
"""Where they were written."""
COMMANDS = {
    "own_data": ["name=own", "dataset=get_data", "dataset.script=own.py", "model=logistic_regression"],
    "table": ["name=tab", "dataset=csv", "dataset.path=t.csv", "dataset.target=label", "model=logistic_regression"],
    "script": ["name=scr", "experiment=script", "script.path=train.py"],
}


def old(name: str) -> Record:
    """Return a record as its file holds it."""
    path = OLD / f"{name}.json"
    return parse_record(path.read_bytes(), path)


def restored(name: str, workspace: Path) -> Path:
    """Lay out an old sweep of one run, and the files of its project, in a workspace. Return its folder."""
    folder = workspace / "multirun" / "old"
    (folder / "0" / "attempts").mkdir(parents=True)
    (folder / "0" / "attempts" / "1").touch()
    text = (OLD / f"{name}.json").read_text(encoding="utf-8")
    (folder / "0" / "run.json").write_text(text.replace(PROJECT, str(workspace)), encoding="utf-8")
    SweepState(folder).make()
    shutil.copy(OLD / "plan.json", SweepState(folder).plan)
    SweepState(folder).submitted.touch()
    for file in ("own.py.txt", "train.py.txt", "t.csv"):
        shutil.copy(OLD / file, workspace / file.removesuffix(".txt"))
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_the_signature_of_an_old_run_has_not_changed(name: str) -> None:
    record = old(name)
    assert record.signature == execute.signature(record.typed, record.data, record.code)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_datastore_of_an_old_run_is_a_local_folder(name: str) -> None:
    node = old(name).typed.datastore
    assert node["_target_"] in schema.FORMER_DATASTORES and schema.is_local_datastore(node)


@pytest.mark.process
@pytest.mark.parametrize("name", COMMANDS)
def test_an_old_sweep_is_resumed(name: str, workspace: Path, labrun_here: Command) -> None:
    folder = restored(name, workspace)
    before = read_record(folder / "0")
    plain = ("tracking=none", "report=none", "compute=inline")
    done = labrun_here("-m", *COMMANDS[name], *plain, "seed=1", f"sweep.resume={folder}")
    assert done.returncode == 0 and "1 of 1 runs are done" in done.stdout + done.stderr, done.stdout + done.stderr
    assert read_record(folder / "0") == before


def test_data_without_a_digest_of_its_arrays_are_compared_by_their_files() -> None:
    (then,) = old("own_data").data
    assert then.content is None
    same = DataEntry.of({**json.loads((OLD / "own_data.json").read_text())["data"][0], "content": "a" * 64})
    assert what_differs([then], [same]) == ""
    same.digest = "b" * 64
    assert what_differs([then], [same]) == "files of get_data"


def test_a_search_without_a_metric_looked_for_the_highest_accuracy() -> None:
    node = {key: value for key, value in old("table").config["sweep"].items() if key not in ("metric", "goal")}
    assert schema.Sweep.of(node).goals == [("accuracy", "maximize")]


def test_only_a_plan_with_a_marker_tells_that_runs_were_never_submitted(tmp_path: Path) -> None:
    content = json.loads((OLD / "plan.json").read_text(encoding="utf-8"))
    SweepState(tmp_path).make()
    for is_marked, missing in ((True, 1), (False, 0)):
        content.pop("is_marked", None)
        SweepState(tmp_path).plan.write_text(json.dumps(content | ({"is_marked": True} if is_marked else {})))
        assert sweep_state.never_submitted(tmp_path, sweep_state.read_plan(tmp_path)) == missing
