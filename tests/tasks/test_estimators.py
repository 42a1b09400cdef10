"""scikit-learn models: the fast path equals the plain one, safe files, clear refusals."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.svm
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from conftest import Runner
from labrun.errors import ConfigError, LabrunError, MissingExtraError, UnfitError
from labrun.runs import context
from labrun.runs.record import COMPLETED
from labrun.tasks import estimator, skops_io


def test_regularization_is_inverted_and_all_metrics_are_recorded(run_here: Runner) -> None:
    record, run_dir = run_here("model.regularization=0.5")
    model = estimator.load_estimator(run_dir / "outputs" / "model.skops", [])
    assert type(model) is LogisticRegression and model.C == 2.0 and model.random_state == 42
    assert {"accuracy", "regularization rate", "test_loss"} == set(record.metrics)
    assert {line["name"] for line in context.read_metrics(run_dir)} == set(record.metrics)


def test_a_fit_in_float32_has_the_accuracy_of_a_plain_fit(run_here: Runner) -> None:
    from sklearn.datasets import load_digits

    from labrun.data.arrays import stratified_split

    record, _ = run_here("model.regularization=0.5")
    digits = load_digits()
    x, y = digits.data / 16.0, digits.target
    kept, held = stratified_split(y.astype(np.int64), 0.2, 0)
    plain = LogisticRegression(C=2.0, random_state=42).fit(x[kept], y[kept]).score(x[held], y[held])
    assert record.metrics["accuracy"] == pytest.approx(plain, abs=0.001)


def test_a_pickle_is_written_only_on_request(run_here: Runner) -> None:
    _, without = run_here()
    _, with_pickle = run_here("export=[pkl]")
    assert not (without / "outputs" / "model.pkl").exists()
    assert (with_pickle / "outputs" / "model.pkl").stat().st_size > 1000


def test_a_model_trained_with_intelex_is_saved_portably(run_here: Runner) -> None:
    plain, _ = run_here()
    fast, run_dir = run_here("model.backend=intelex")
    assert fast.metrics["accuracy"] == pytest.approx(plain.metrics["accuracy"], abs=0.02)
    assert type(estimator.load_estimator(run_dir / "outputs" / "model.skops", [])) is LogisticRegression


def test_any_scikit_learn_classifier_is_a_target(run_here: Runner) -> None:
    record, run_dir = run_here(
        "model._target_=sklearn.svm.SVC", "+model.C=5.0", "~model.regularization", "~model.solver", "~model.backend"
    )
    assert record.metrics["accuracy"] > 0.97
    assert isinstance(estimator.load_estimator(run_dir / "outputs" / "model.skops", []), sklearn.svm.SVC)
    scored, _ = run_here("task=evaluate", "from=last")
    assert scored.metrics["accuracy"] == record.metrics["accuracy"]


def test_the_validation_part_is_scored(run_here: Runner) -> None:
    record, _ = run_here("dataset.validation_size=0.2")
    assert record.data[0].validation == round(0.2 * 1438)
    assert "val_accuracy" in record.metrics and "val_loss" in record.metrics


class Evil:
    """What a malicious file would hold."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("code from a model file was run",))


def test_a_pickle_under_the_models_name_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(LabrunError, match="cannot be loaded"):
        estimator.load_estimator(path, [])


def test_types_beyond_scikit_learn_are_named_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops_io.load().dump({"a": Path("x")}, path)
    with pytest.raises(ConfigError, match="trusted=.*pathlib"):
        estimator.load_estimator(path, [])


def test_a_model_just_saved_is_loaded_without_skops_lists_of_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building these lists takes longer than many fits."""
    model = make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()).fit([[0.0], [1.0]], [0, 1])
    skops_io.load().dump(model, tmp_path / "model.skops")
    monkeypatch.setattr(skops_io, "load_lists", lambda: pytest.fail("the lists were made"))
    assert list(estimator.load_estimator(tmp_path / "model.skops", None).predict([[0.0], [1.0]])) == [0, 1]
    names = skops_io._Later("SKLEARN_ESTIMATOR_TYPE_NAMES")
    with skops_io.trusting():
        assert list(names) == []
    with pytest.raises(pytest.fail.Exception):
        list(names)


def test_a_file_that_holds_no_estimator_is_refused(tmp_path: Path) -> None:
    import skops.io

    skops.io.dump({"predict": [1]}, tmp_path / "model.skops")
    with pytest.raises(LabrunError, match="holds a dict, which is not an estimator"):
        estimator.load_estimator(tmp_path / "model.skops", [])


def test_a_model_that_is_neither_network_nor_estimator_is_refused(run_here: Runner) -> None:
    with pytest.raises(ConfigError, match="gave a Fraction"):
        run_here(
            "model._target_=fractions.Fraction",
            "~model.regularization",
            "~model.max_iter",
            "~model.tol",
            "~model.solver",
            "~model.backend",
        )


def test_regressors_and_clusterers_are_refused(run_here: Runner) -> None:
    drop = ("~model.regularization", "~model.solver", "~model.backend", "~model.max_iter", "~model.tol")
    with pytest.raises(ConfigError, match="is a regressor, but data set 'digits' has classes"):
        run_here("model._target_=sklearn.linear_model.Ridge", *drop)
    with pytest.raises(ConfigError, match="is a clusterer"):
        run_here("model._target_=sklearn.cluster.KMeans", *drop)


def test_evaluate_scales_as_in_training_and_keeps_the_split(run_here: Runner) -> None:
    trained, _ = run_here("dataset.mean=0.5", "dataset.std=0.05", "dataset.split_seed=3", "dataset.validation_size=100")
    again, _ = run_here("task=evaluate", "from=last", "dataset.max_samples=1000")
    assert again.metrics == {name: trained.metrics[name] for name in ("accuracy", "test_loss")}
    for override in ("dataset.split_seed=0", "dataset=digits", "model.regularization=3", "dataset.mean=0"):
        with pytest.raises(ConfigError, match="another split|leave out"):
            run_here("task=evaluate", "from=last", override)


def test_a_forest_is_saved_scored_and_drawn(run_here: Runner) -> None:
    drop = ("~model.regularization", "~model.solver", "~model.backend", "~model.max_iter", "~model.tol")
    trained, _ = run_here("model._target_=sklearn.ensemble.RandomForestClassifier", "+model.n_estimators=20", *drop)
    scored, _ = run_here("task=evaluate", "from=last")
    assert scored.metrics["accuracy"] == trained.metrics["accuracy"]


def test_a_missing_extra_is_reported_with_the_install_line(run_here: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearnex.linear_model", None)
    with pytest.raises(MissingExtraError, match="uv sync --extra intelex"):
        run_here("model.backend=intelex")


def test_wrong_arguments_of_a_known_target_are_config_errors(run_here: Runner) -> None:
    with pytest.raises(ConfigError, match=r"model: labrun.models.mnist_dnn.MnistDNN could not be built"):
        run_here("model=mnist_dnn", "model.units=99999999999999")


class Unsavable:
    """Holds an object that cannot be saved."""

    def __init__(self) -> None:
        self.rows = (number for number in range(3))

    def fit(self, x: np.ndarray, y: np.ndarray) -> Unsavable:
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.zeros(len(x), int)


def test_a_model_that_cannot_be_saved_is_reported(run_here: Runner, workspace: Path) -> None:
    with pytest.raises(UnfitError, match=r"is trained, but cannot be saved.*Let Unsavable drop it"):
        run_here(
            f"model._target_={__name__}.Unsavable",
            *(f"~model.{key}" for key in ("regularization", "max_iter", "tol", "solver", "backend")),
        )
    (run_dir,) = workspace.glob("outputs/test/*")
    assert context.read_metrics(run_dir), "its scores are kept"


def test_class_weights_reach_estimators_also_in_pipelines(run_here: Runner) -> None:
    plain, _ = run_here()
    weighed, _ = run_here("+model.class_weight=[1,1,1,1,1,1,1,1,1,50]")
    assert weighed.metrics["accuracy"] < plain.metrics["accuracy"]
    piped, _ = run_here("model=pipeline", "+model.class_weight=balanced", "model.folds=0")
    assert piped.status == COMPLETED
    drop = [f"~model.{key}" for key in ("regularization", "solver", "backend")]
    sgd = ("model._target_=sklearn.linear_model.SGDClassifier", "+model.loss=log_loss", *drop)
    own, _ = run_here(*sgd, "+model.class_weight={0:1,1:5}")
    assert own.status == COMPLETED
    with pytest.raises(UnfitError, match=r"model\.class_weight: .* does not support class weights"):
        run_here("model=pipeline", "model/estimator=knn", "+model.class_weight=balanced")
    with pytest.raises(UnfitError, match="has 2 weights, but there are 10 classes"):
        run_here("+model.class_weight=[1,2]")
