"""AutoML from the command line: its report, and the resulting model."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from helpers import lab, start, start_labrun, statuses, sweep_dir, wait_for, write_model
from labrun.api.handles import Sweep
from labrun.control.objective import Objective
from labrun.errors import RecordError
from labrun.runs.record import Record, RunPaths, read_record, timestamp
from labrun.search import automl
from labrun.search.trial_result import TrialResult
from labrun.tasks import estimator, scoring
from labrun.tasks.pipeline import OUT_OF_FOLD


def test_a_search_of_eight_pipelines_leaves_a_table_and_a_best_model(
    workspace: Path, labrun: Command, labrun_here: Command
) -> None:
    """Over 15 s: eight trials on a sixth of the samples, to check every file and table of a search."""
    assert "max_trials: 20\n" in labrun_here("experiment=automl_digits", "--cfg", "job", "--package", "sweep").stdout
    fewer = ("dataset.max_samples=300", "model.folds=2", "sweep.max_trials=8")
    done = labrun("experiment=automl_digits", "seed=0", *fewer, "tracking=none", "report=none")
    assert done.returncode == 0, done.stderr
    folder = sweep_dir(workspace)
    lines = done.stdout.splitlines()
    head = next(line for line in lines if "ITERATION" in line)
    assert head.split() == ["ITERATION", "PIPELINE", "DURATION", "METRIC", "BEST", "(AUC_weighted)"]
    assert any("StandardScaler LogisticRegression" in line for line in lines)
    found = [read_record(folder / str(number)) for number in range(8)]
    assert not (folder / "8").exists() and {record.status for record in found} <= {"completed", "stopped"}
    assert max(record.metrics["AUC_weighted"] for record in found) >= 0.99
    for record in found:
        if record.status == "completed":
            assert set(scoring.STANDARD) <= set(record.metrics), "the same runs can be looked at under another metric"
        assert record.command.endswith(" hydra.mode=RUN") and record.model is None
    best = read_record(folder / "best")
    assert best.status == "completed" and best.metrics["test_AUC_weighted"] > 0.99
    assert estimator.load_estimator(folder / "best" / "outputs" / "model.skops", []).predict(
        np.zeros((1, 64))
    ).shape == (1,)
    assert "best pipeline" in done.stdout and "on the test split" in done.stdout
    if (folder / "ensemble").exists():
        assert read_record(folder / "ensemble").status == "completed" and (folder / "ensemble.yaml").exists()
        estimator.load_estimator(folder / "ensemble" / "outputs" / "model.skops", [])
    scored = labrun("task=evaluate", f"from={folder / 'best'}", "tracking=none", "report=none")
    assert scored.returncode == 0, scored.stderr
    (run,) = workspace.glob("outputs/evaluate/*/run.json")
    assert read_record(run.parent).metrics["accuracy"] == best.metrics["accuracy"]


def test_a_search_on_a_table_optimizes_another_metric_and_an_ensemble(workspace: Path, labrun: Command) -> None:
    """Over 15 s: two searches of cross-validated pipelines, and the run of the ensemble."""
    rng = np.random.default_rng(0)
    rows = ["a,b,c,word,y"]
    for _ in range(200):
        a, b, c = rng.normal(size=3)
        word = rng.choice(["x", "z", ""])
        rows.append(
            f"{a:.3f},{b:.3f},{c:.3f},{word},{'in' if a * b + (word == 'x') + 0.5 * rng.normal() > 0.3 else 'out'}"
        )
    (workspace / "own.csv").write_text("\n".join(rows) + "\n")
    own = (
        "-m",
        "dataset=csv",
        "dataset.path=own.csv",
        f"datastore.root={workspace}",
        "model=pipeline",
        "sweep=automl",
        "sweep.max_trials=5",
        "model.folds=2",
        "tracking=none",
        "report=none",
    )
    refused = labrun(*own)
    assert (
        refused.returncode == 2 and "the column word holds text" in refused.stderr and "Traceback" not in refused.stderr
    )
    assert len(statuses(workspace)) <= 3, "the first trials to fail for this reason end the search"
    done = labrun(*own, "model.preprocess=true", "sweep.metric=balanced_accuracy", "name=second")
    assert done.returncode == 0, done.stderr
    (folder,) = workspace.glob("multirun/second/*")
    best = read_record(folder / "best")
    assert best.status == "completed" and best.metrics["test_balanced_accuracy"] > 0.6
    assert "balanced_accuracy" in done.stdout
    if (folder / "ensemble.yaml").exists():
        again = labrun("--config-dir", str(folder), "--config-name", "ensemble", "tracking=none", "report=none")
        assert again.returncode == 0, again.stderr
        (run,) = workspace.glob("outputs/second/*/run.json")
        assert read_record(run.parent).metrics["accuracy"] == read_record(folder / "ensemble").metrics["accuracy"]


def test_a_search_can_be_limited_to_estimators_and_a_users_own(workspace: Path, labrun: Command) -> None:
    """Over 15 s: two searches of cross-validated pipelines."""
    own = workspace / "conf" / "model" / "estimator"
    own.mkdir(parents=True)
    (own / "bernoulli.yaml").write_text(
        "# My own.\n_target_: sklearn.naive_bayes.BernoulliNB\nalpha: 1.0\nsearch_space:\n  alpha: interval(0.1, 2)\n"
    )
    general = (
        "-m",
        "dataset.max_samples=200",
        "model=pipeline",
        "model.folds=2",
        "sweep=automl",
        "tracking=none",
        "report=none",
    )
    done = labrun(*general, "model/estimator=knn,bernoulli", "sweep.max_trials=5", "sweep.timeout_min=5")
    assert done.returncode == 0, done.stderr
    assert "Skipped entries of sweep.portfolio" in done.stdout and "KNeighbors" in done.stdout
    journal = (sweep_dir(workspace) / ".launch" / "study.journal").read_text()
    assert "bernoulli" in journal
    fixed = labrun(*general, "model/estimator=bernoulli", "sweep.max_trials=2", "name=fixed")
    assert fixed.returncode == 0 and "BernoulliNB" in fixed.stdout, fixed.stderr


def test_an_ensemble_is_chosen_only_if_it_is_better(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)

    def said(noise: float) -> np.ndarray:
        score = (y - 0.5) + noise * rng.normal(size=len(y))
        chance = 1 / (1 + np.exp(-2 * score))
        return np.stack([1 - chance, chance], axis=1)

    def put(name: str, values: np.ndarray) -> TrialResult:
        folder = RunPaths(tmp_path / name).outputs
        folder.mkdir(parents=True)
        np.savez(folder / OUT_OF_FOLD, said=values.astype(np.float32), y=y)
        return TrialResult(name, Record("a", "b", "fit", "completed", timestamp(), {}), values=[0.0])

    goal = Objective("AUC_weighted", True)
    alike = [put(str(number), said(1.0)) for number in range(3)]
    vote, single = automl._chosen(alike, tmp_path, goal)
    assert vote is not None and len(vote.chosen) == 3 and vote.value > single
    perfect = np.stack([1.0 - y, y * 1.0], axis=1)
    vote, single = automl._chosen([put("perfect", perfect), *alike], tmp_path, goal)
    assert vote is None and single == 1.0
    vote, single = automl._chosen(alike, tmp_path, Objective("neg_brier_score", True))
    assert vote is not None and vote.value > single, "any scorer of scikit-learn will do"
    loss, single = automl._chosen(alike, tmp_path, Objective("log_loss", False))
    assert loss is not None and loss.value < single


def test_an_interrupt_swallowed_by_a_model_still_ends_the_run(workspace: Path) -> None:
    (workspace / "deaf.py").write_text(
        "import time\nimport numpy as np\n\nclass Deaf:\n    def __init__(self, number=0):\n        pass\n"
        "    def fit(self, x, y):\n        print('WAITING', flush=True)\n        try:\n            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n            print('never mind', flush=True)\n        return self\n"
        "    def predict(self, x):\n        return np.zeros(len(x), int)\n"
    )
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "deaf.yaml").write_text("_target_: deaf.Deaf\nnumber: 0\n")
    sweep = start(workspace, "model=deaf", "model.number=1,2", "compute.max_parallel=2")
    logs = lambda: [path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log")]  # noqa: E731
    wait_for(lambda: sum("WAITING" in log for log in logs()) == 2)
    folder = sweep_dir(workspace)
    assert lab(workspace, "runs", "cancel", str(folder)).returncode == 0
    sweep.communicate(timeout=60)
    assert statuses(workspace) == ["canceled"] * 2 and all("never mind" in log for log in logs())


@pytest.mark.parametrize("kind", ["cancel", "stop"])
def test_cancel_and_stop_requests_give_different_statuses(workspace: Path, kind: str) -> None:
    write_model(workspace)
    sweep = start(workspace, "model=sleeper", "model.number=1,2", "model.seconds=60", "compute.max_parallel=1")
    wait_for(lambda: "running" in statuses(workspace))
    for number in ("0", "1"):
        (sweep_dir(workspace) / number / "requests" / kind).write_text("because of it")
    sweep.communicate(timeout=60)
    wanted = {"cancel": "canceled", "stop": "stopped"}[kind]
    assert statuses(workspace) == [wanted] * 2
    for number in ("0", "1"):
        error = read_record(sweep_dir(workspace) / number).error
        assert kind == "cancel" or error.message == "because of it"


SLOW = """
import time
from sklearn.naive_bayes import GaussianNB

class Slow(GaussianNB):
    def fit(self, x, y, sample_weight=None):
        time.sleep(0 if len(x) < 1000 else 99)
        return super().fit(x, y, sample_weight)
"""
"""Waits where it is fitted to all 1,438 samples, and not to one of two folds."""


def test_an_interrupt_during_the_final_fit_cancels_only_that_fit(workspace: Path) -> None:
    (workspace / "slow.py").write_text(SLOW)
    own = workspace / "conf" / "model" / "estimator"
    own.mkdir(parents=True)
    (own / "slow.yaml").write_text(
        "_target_: slow.Slow\nvar_smoothing: 1e-9\nsearch_space:\n  var_smoothing: interval(1e-9, 1e-3)\n"
    )
    search = start_labrun(
        "-m",
        "model=pipeline",
        "model/estimator=slow",
        "sweep=automl",
        "model.folds=2",
        "sweep.max_trials=2",
        "tracking=none",
        "report=none",
        cwd=workspace,
    )
    over = []

    def is_fitted() -> bool:
        for folder in workspace.glob("multirun/*/*"):
            with contextlib.suppress(RecordError):
                over.append(Sweep(folder).is_over)
        found = workspace.glob("multirun/*/*/best/run.json")
        return any(read_record(path.parent).status == "running" for path in found)

    wait_for(is_fitted, 180)
    assert over and not any(over), "a search is not over while its best pipeline is still to be fitted"
    search.terminate()
    out, err = search.communicate(timeout=120)
    assert search.returncode == 130 and "resumes the search" in err and "Traceback" not in err
    folder = sweep_dir(workspace)
    assert read_record(folder / "best").status == "canceled" and "best: run" in out
    assert all((folder / name).exists() for name in ("results.csv", "best.yaml", "report.html"))
