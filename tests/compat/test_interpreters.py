"""The shim and its runner under every supported interpreter, one process each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labrun.submission import pythons

SCRIPT = """\
import json, os, subprocess, sys
import azureml.core
from azureml.core import Dataset, Environment, Experiment, Model, Run, Workspace
from azureml.core.compute_target import ComputeTargetException
from azureml.core.run import _OfflineRun
from azureml.pipeline.core import Pipeline
from azureml.data.dataset_factory import TabularDatasetFactory

def scaled(x: int = 2) -> float:
    return x * 0.5

run = Run.get_context()
assert not isinstance(run, _OfflineRun) and run.experiment.workspace.name == Workspace.from_config().name
run.log("loss", scaled())
run.log_list("curve", [1, 2, float("nan")])
run.log_row("row", x=1, y=2.5)
run.log_table("table", {"a": [1, 2]})
run.tag("kind", "old"); run.add_properties({"p": 1})
with open("made.txt", "w") as file:
    file.write("made")
run.upload_file("outputs/made.txt", "made.txt")
assert run.get_metrics()["loss"] == 1.0 and run.get_tags()["kind"] == "old", run.get_metrics()
assert "outputs/made.txt" in run.get_file_names()
assert run.get_details()["runId"] == run.id and os.listdir(run.input_datasets["rows"]) == ["a.csv"]
for wrong, argument, kind in ((Pipeline, 1, "NotInLabrun"), (Model.get_model_path, "m", "ModelNotFoundException")):
    try:
        wrong(argument)
    except Exception as error:
        assert type(error).__name__ == kind, repr(error)
    else:
        raise AssertionError(kind)
import importlib, pkgutil
import labrun.compat.azureml as shim
for found in pkgutil.walk_packages(shim.__path__, "labrun.compat.azureml."):
    if not found.name.endswith((".__main__", ".logistic")) and ".site" not in found.name:
        importlib.import_module(found.name)
code = "from azureml.core import Run; Run.get_context().log('child', 1); import labrun; labrun.log('own', 0.5, step=3)"
subprocess.run([sys.executable, "-c", code], check=True)
run.complete()
print(sys.version_info[:2])
"""


@pytest.mark.parametrize("minor", range(6, 14))
def test_a_script_runs_under_every_python(bench: Any, well: Any, tmp_path: Path, minor: int) -> None:
    python = pythons.find(f"3.{minor}")
    if python is None:
        pytest.skip(f"there is no Python 3.{minor} here (pyenv install 3.{minor}, or uv python install 3.{minor})")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").write_text("a,b\n1,2\n")
    rows = {"rows": str(tmp_path / "rows")}
    script = bench.write(SCRIPT)
    done = well(bench.run(script, python=python, LABRUN_INPUTS=json.dumps(rows)))
    assert done.stdout.splitlines()[-1] == f"(3, {minor})" and not done.stderr
    metrics = bench.metrics()
    assert metrics["loss"] == [(0, 1.0)] and metrics["child"] == [(0, 1.0)] and metrics["own"] == [(3, 0.5)]
    assert (bench.run_dir / "outputs" / "made.txt").read_text() == "made"
