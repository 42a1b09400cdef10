"""Pipelines: steps, probabilities, tables, sparse samples, regression; saving, and loading without trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from conftest import Runner
from labrun.compose import paths
from labrun.errors import ConfigError, DataError, UnfitError
from labrun.models import pipeline
from labrun.tasks import estimator, scoring
from labrun.tasks.pipeline import OUT_OF_FOLD

pytestmark = pytest.mark.long

ESTIMATORS = sorted(path.stem for path in (paths.conf_dir() / "model" / "estimator").glob("*.yaml"))
PREPROCESSORS = sorted(path.stem for path in (paths.conf_dir() / "model" / "preprocessor").glob("*.yaml"))
SHIFTS = {"classes": 0, "sparse": 2}
"""Of the preprocessors against the estimators, by kind of samples: both kinds need not try the same pairs."""
FEW_TREES = ("model.estimator.n_estimators=10", "model.folds=2")
WRITTEN = {
    "table": """
        rng = np.random.default_rng(0)
        a, c = rng.normal(size=120), rng.choice(["red", "green"], 120)
        y = np.where((a > 0) ^ (c == "red"), "yes", "no")
        a[::17] = np.nan
        x = pd.DataFrame({"size": a, "colour": c, "flag": rng.random(120) > 0.5})
        x.loc[::13, "colour"] = None
        return {"X": x, "y": y}
    """,
    "objects": """
        x = np.array([[1.0, "red"], [2.0, None], [None, "green"], [3.0, "red"]] * 20, dtype=object)
        return {"X": x, "y": np.array(["a", "b", "b", "a"] * 20)}
    """,
    "gaps": """
        x = np.random.default_rng(0).normal(size=(80, 3))
        y = (x[:, 0] > 0).astype(int)
        x[::9, 2] = np.nan
        return {"X": x, "y": y}
    """,
    "sparse": """
        x = sp.random(150, 40, 0.2, random_state=0, format="csr")
        sums = x @ np.repeat([[1.0], [-1.0]], 20, axis=0)
        return {"X": x, "y": (sums.ravel() > 0).astype(int)}
    """,
    "quantity": """
        x = np.random.default_rng(0).normal(size=(150, 4))
        return {"X": x, "y": 100 * x[:, 0] + 10 * x[:, 1] ** 2 + 0.5}
    """,
    "few": """
        x = np.random.default_rng(0).normal(size=(60, 3))
        return {"X": x, "y": np.array(["a"] * 40 + ["b"] * 17 + ["c"] * 3)}
    """,
    "one": """
        return {"X": np.ones((20, 2)), "y": np.array(["a"] * 20)}
    """,
}


def data(workspace: Path, name: str) -> tuple[str, ...]:
    """The overrides for a data set made by a user's own file."""
    (workspace / f"{name}.py").write_text(
        f"import numpy as np\nimport pandas as pd\nimport scipy.sparse as sp\n\ndef get_data():{WRITTEN[name]}"
    )
    return "dataset=get_data", f"dataset.script={name}.py", "model=pipeline"


def saved(run_dir: Path) -> Any:
    """A run's model, built only from classes that are trusted by default."""
    return estimator.load_estimator(run_dir / "outputs" / "model.skops", [])


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", ["classes", "quantity", "sparse"])
def test_every_estimator_trains_in_a_pipeline(run_here: Runner, workspace: Path, name: str, kind: str) -> None:
    """With classes, and with sparse samples, each after one of the preprocessors in turn."""
    preprocessor = "standard"
    if kind != "quantity":
        preprocessor = PREPROCESSORS[(ESTIMATORS.index(name) + SHIFTS[kind]) % len(PREPROCESSORS)]
    own = ("dataset.max_samples=200", "model=pipeline")
    if kind != "classes":
        own = data(workspace, kind)
    if kind == "quantity":
        own = (*own, "dataset.regression=true")
    small = {"random_forest": "n_estimators=20", "extra_trees": "n_estimators=20", "gradient_boosting": "max_iter=10"}
    less = [f"model.estimator.{small[name]}"] if name in small else []
    folds = 3 if name == "gradient_boosting" else 2  # its leaves need many samples
    parts = (f"model/estimator={name}", f"model/preprocessor={preprocessor}")
    record, run_dir = run_here(*own, *parts, f"model.folds={folds}", *less)
    assert record.status == "completed"
    if kind == "quantity":
        assert record.metrics["r2"] > 0.3 and "test_rmse" in record.metrics and "accuracy" not in record.metrics
    else:
        assert record.metrics["AUC_weighted"] > 0.6 and set(scoring.STANDARD) <= set(record.metrics)
        assert record.metrics["test_accuracy"] > 0.4
    model = saved(run_dir)
    assert hasattr(model, "predict")
    assert kind == "quantity" or len([step for step in model.steps if step[0] != "dense"]) == (
        1 if preprocessor == "none" else 2
    )


def test_every_preprocessor_is_tried() -> None:
    assert len(ESTIMATORS) >= len(PREPROCESSORS)


def test_folds_are_reproducible_and_learn_nothing_from_held_out_samples(run_here: Runner) -> None:
    _, first = run_here("model=pipeline", "model/preprocessor=pca", "dataset.max_samples=300")
    record, second = run_here("model=pipeline", "model/preprocessor=pca", "dataset.max_samples=300", "seed=7")
    with np.load(first / "outputs" / OUT_OF_FOLD) as one, np.load(second / "outputs" / OUT_OF_FOLD) as other:
        assert (one["y"] == other["y"]).all() and np.allclose(one["said"], other["said"], atol=0.05)
        auc = scoring.one("AUC_weighted", one["y"], one["said"].argmax(axis=1), one["said"], 10)
    assert auc == pytest.approx(record.metrics["AUC_weighted"], abs=0.02)
    lines = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["name"] == "AUC_weighted"] == [1, 2, 3, 4, 5]


def test_a_validation_part_replaces_the_folds(run_here: Runner, workspace: Path) -> None:
    (workspace / "own.py").write_text(
        "import numpy as np\nfrom sklearn.datasets import load_wine\n\n\ndef get_data():\n"
        "    x, y = load_wine(return_X_y=True)\n"
        "    order = np.random.default_rng(0).permutation(len(y))\n    x, y = x[order], y[order]\n"
        "    return {'X': x[:90], 'y': y[:90], 'X_valid': x[90:], 'y_valid': y[90:]}\n"
    )
    own = ("dataset=get_data", f"dataset.script={workspace}/own.py", "model=pipeline", "model.folds=1")
    record, run_dir = run_here(*own, "model.refit=false")
    with np.load(run_dir / "outputs" / OUT_OF_FOLD) as found:
        assert len(found["y"]) == 88 and np.isfinite(found["said"]).all()
        assert record.metrics["accuracy"] == pytest.approx((found["said"].argmax(axis=1) == found["y"]).mean())
    held, _ = run_here("model=pipeline", "model.folds=1", "dataset.validation_size=0.25", "dataset.max_samples=300")
    assert held.metrics["accuracy"] == pytest.approx(held.metrics["val_accuracy"])
    (workspace / "own.py").write_text("def get_data():\n    return {'X': [[1], [2]] * 10, 'y': [1, 2] * 10}\n")
    with pytest.raises(UnfitError, match="data set 'get_data' has none: set dataset.validation_size"):
        run_here(*own)


def test_cross_validation_alone_saves_no_model(run_here: Runner) -> None:
    record, run_dir = run_here("model=pipeline", "model.refit=false", "dataset.max_samples=300")
    assert record.status == "completed" and record.model is None and not (run_dir / "outputs" / "model.skops").exists()
    assert "accuracy" in record.metrics and not [name for name in record.metrics if name.startswith("test_")]


@pytest.mark.parametrize("name", ["table", "objects", "gaps"])
def test_a_table_with_text_and_gaps_is_preprocessed_in_each_fold(run_here: Runner, workspace: Path, name: str) -> None:
    own = data(workspace, name)
    named = {"table": "colour", "objects": "1", "gaps": "2"}[name]
    with pytest.raises(DataError, match=f"{named}.*model.preprocess=true"):
        run_here(*own)
    record, run_dir = run_here(*own, "model.preprocess=true", "model/estimator=random_forest", *FEW_TREES)
    assert record.metrics["accuracy"] > 0.6
    import pandas as pd

    model = saved(run_dir)
    if name == "table":
        strange = pd.DataFrame({"size": [np.nan, 1.0], "colour": ["blue", None], "flag": [True, False]})
        assert set(model.predict(strange)) <= {0, 1}, "unseen words and gaps are accepted"


def test_a_table_in_a_file_is_preprocessed(run_here: Runner, workspace: Path) -> None:
    rows = "\n".join(
        f"{i % 7},{'' if i % 5 == 0 else 'red' if i % 2 else 'green'},{'yes' if i % 2 else 'no'}" for i in range(80)
    )
    (workspace / "own.csv").write_text("size,colour,bought\n" + rows + "\n")
    own = ("dataset=csv", "dataset.path=own.csv", f"datastore.root={workspace}", "model=pipeline", "model.folds=3")
    with pytest.raises(DataError, match="the column colour holds text"):
        run_here(*own)
    record, _ = run_here(*own, "model.preprocess=true")
    assert record.metrics["accuracy"] > 0.8


def test_unsupported_options_of_a_pipeline_are_refused(run_here: Runner, workspace: Path) -> None:
    with pytest.raises(UnfitError, match=r"5 training samples of every class.*\(c: 2\).*model.folds=2"):
        run_here(*data(workspace, "few"))
    with pytest.raises(DataError, match="all 20 samples are of one class, 'a'"):
        run_here(*data(workspace, "one"))
    with pytest.raises(DataError, match="quantity.*dataset.regression=true"):
        run_here(*data(workspace, "quantity"))
    with pytest.raises(UnfitError, match="classifier, but data set 'get_data' has a numeric target"):
        run_here(*data(workspace, "quantity"), "dataset.regression=true", "model=logistic_regression")
    with pytest.raises(ConfigError, match="at least 2 folds"):
        run_here("model=pipeline", "model.folds=1")
    with pytest.raises(ConfigError, match="nothing would be fitted"):
        run_here("model=pipeline", "model.folds=0", "model.refit=false")
    with pytest.raises(ConfigError, match=r"no metric 'AUC_wighted'\. Did you mean 'AUC_weighted'"):
        run_here("model=pipeline", "model.metric=AUC_wighted")


def test_any_scorer_of_scikit_learn_can_be_the_metric(run_here: Runner) -> None:
    record, _ = run_here("model=pipeline", "model.metric=matthews_corrcoef", "dataset.max_samples=300", "model.folds=2")
    assert 0.5 < record.metrics["matthews_corrcoef"] < 1 and "AUC_weighted" in record.metrics


@pytest.mark.parametrize("shape", ["ovr", "ovo"])
def test_a_decision_function_gives_probabilities(shape: str) -> None:
    x, y = load_iris(return_X_y=True)
    plain = SVC(C=1.0, decision_function_shape=shape)
    made = pipeline.Calibrated(plain, seed=0).fit(x, y)
    chances = made.predict_proba(x)
    assert np.allclose(chances.sum(axis=1), 1) and (made.predict(x) == clone(plain).fit(x, y).predict(x)).all()
    assert roc_auc_score(y, chances, multi_class="ovr") > 0.99
    two = pipeline.Calibrated(plain, seed=0).fit(x[y < 2], y[y < 2])
    assert two.predict_proba(x[y < 2]).shape == (100, 2)
    assert ((two.predict_proba(x[y < 2])[:, 1] > 0.5) == (two.predict(x[y < 2]) == 1)).all()


def test_metrics_equal_scikit_learns() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    chances = rng.dirichlet([1, 1, 1], 200)
    found = scoring.measure(y, chances.argmax(axis=1), chances, 3)
    assert found["AUC_macro"] == pytest.approx(metrics.roc_auc_score(y, chances, multi_class="ovr"))
    assert found["AUC_weighted"] == pytest.approx(
        metrics.roc_auc_score(y, chances, multi_class="ovr", average="weighted")
    )
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, chances))
    assert found["f1_score_macro"] == pytest.approx(metrics.f1_score(y, chances.argmax(axis=1), average="macro"))
    equal = chances.round(1)
    assert scoring.one("AUC_weighted", y % 2, equal.argmax(axis=1), equal[:, :2], 2) == pytest.approx(
        metrics.roc_auc_score(y % 2, equal[:, 1])
    )
    chances[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        scoring.one("AUC_weighted", y, chances.argmax(axis=1), chances, 3)


def test_every_option_of_a_pipeline_is_a_yaml_with_a_comment() -> None:
    for folder, names in (("estimator", ESTIMATORS), ("preprocessor", PREPROCESSORS)):
        for name in names:
            text = (paths.conf_dir() / "model" / folder / f"{name}.yaml").read_text(encoding="utf-8")
            assert text.startswith("# ") and "_target_" in yaml.safe_load(text)
