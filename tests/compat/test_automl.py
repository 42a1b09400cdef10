"""Translation of `AutoMLConfig`, in this process. A complete search is in test_tutorials.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from labrun.azureml import automl, automl_data, fitted_steps
from labrun.azureml.automl import AutoMLConfig
from labrun.azureml.experiment import Experiment
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import finder, notice
from labrun.compat.azureml.exceptions import NotInLabrun, UserErrorException
from labrun.models.pipeline import columns_of, pipeline

X, Y = np.arange(12.0).reshape(6, 2), np.array([3, 3, 7, 7, 3, 7])
FRAME = pd.DataFrame({"number": [1.5, 2, 3, None], "word": ["a", None, "b", "a"], "label": [True, False, True, False]})


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.delenv("LABRUN_WORKSPACE", raising=False)
    monkeypatch.setattr(notice, "_printed", set())
    return Experiment(Workspace.from_config(), "automl")


def read_back(words: list[str]) -> dict[str, Any]:
    (script,) = (word.partition("=")[2].strip("'") for word in words if word.startswith("dataset.script="))
    return automl_data.of_script(Path(script), Path(script).parent)


def test_settings_become_labrun_arguments(experiment: Experiment) -> None:
    config = AutoMLConfig(
        "classification",
        X=X,
        y=Y,
        primary_metric="norm_macro_recall",
        iterations=7,
        max_concurrent_iterations=3,
        n_cross_validations=3,
        experiment_timeout_hours=0.5,
        iteration_timeout_minutes=2,
        blocked_models=["SVM", "KNN"],
    )
    words = config.overrides(experiment)
    assert words[0] == "-m" and "dataset.regression=true" not in words
    wanted = {"model.folds=3", "model.preprocess=false", "sweep=automl", "sweep.metric=norm_macro_recall"}
    wanted |= {"sweep.max_trials=7", "sweep.max_concurrent=3", "sweep.timeout_min=30", "sweep.trial_timeout_min=2"}
    assert wanted <= set(words)
    (chosen,) = (word for word in words if word.startswith("model/estimator="))
    assert "svm_rbf" not in chosen and "knn" not in chosen and "random_forest" in chosen
    found = read_back(words)
    assert np.array_equal(found["X"], X) and np.array_equal(found["y"], Y)
    assert config.overrides(experiment) == words, "the same data are kept once"
    more = config.overrides_of_more(experiment, Path("multirun/a"), iterations=9, X=X, y=Y)
    assert set(more) - set(words) == {"sweep.max_trials=9", "sweep.resume='multirun/a'"}
    with pytest.raises(UserErrorException, match="can only continue with the same samples"):
        config.overrides_of_more(experiment, Path("multirun/a"), X=X + 1, y=Y)
    gaps = AutoMLConfig("classification", X=np.where(X == 3, np.nan, X), y=Y, preprocess=True)
    assert "model.preprocess=true" in gaps.overrides(experiment), "no estimator takes NaN as it is"


def test_settings_of_2018_and_a_project_folder_are_accepted(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("project").mkdir()
    Path("project/helper.py").write_text("ROWS = 4\n")
    Path("project/get_data.py").write_text(
        "import helper\nimport numpy as np\n\n\ndef get_data():\n"
        "    return {'X': np.ones((helper.ROWS, 2)), 'y': [0.5, 1, 2, 3]}\n"
    )
    config = AutoMLConfig(
        "regression",
        path="project",
        data_script="get_data.py",
        max_time_sec=120,
        concurrent_iterations=2,
        whitelist_models=["ElasticNet", "RF regressor"],
        debug_log="x.log",
        enable_onnx_compatible_models=True,
        unheard_of=1,
    )
    words = config.overrides(experiment)
    assert {"sweep.trial_timeout_min=2", "sweep.max_concurrent=2", "dataset.regression=true"} <= set(words)
    assert (
        "sweep.metric=normalized_root_mean_squared_error" in words
        and f"sweep.max_trials={automl.DEFAULT_ITERATIONS}" in words
    )
    assert "model/estimator=logistic_regression,random_forest" in words
    told = capsys.readouterr().err
    assert "ElasticNet stands for labrun's logistic_regression" in told and "unheard_of is unknown" in told
    assert "enable_onnx_compatible_models is not used: labrun saves models with skops" in told
    assert "debug_log" not in told and read_back(words)["X"].shape == (4, 2)


def test_sparse_samples_stay_sparse(experiment: Experiment) -> None:
    rows = csr_matrix(np.eye(6, 40000))
    config = AutoMLConfig("classification", X=rows, y=Y, blacklist_algos=["kNN", "LinearSVMWrapper"])
    words = config.overrides(experiment)
    found = read_back(words)["X"]
    assert found.shape == rows.shape and found.nnz == 6 and (found != rows).nnz == 0
    (models,) = (text for text in words if text.startswith("model/estimator="))
    assert "knn" not in models and "linear_svm" not in models and "svm_rbf" in models


def test_tables_keep_their_gaps_and_texts(experiment: Experiment) -> None:
    config = AutoMLConfig("classification", training_data=FRAME, label_column_name="label", validation_data=FRAME)
    words = config.overrides(experiment)
    assert "model.preprocess=true" in words
    assert "model.folds=1" in words, "pipelines are compared on the validation data"
    found = read_back(words)
    parts = {f"{name}_{part}" for name in "Xy" for part in ("train", "valid", "test")}
    assert set(found) == parts and list(found["X_train"]) == ["number", "word"]
    assert found["X_test"].equals(found["X_valid"]), "labrun tests every model"
    assert found["X_train"].isna().sum().tolist() == [1, 1]
    assert found["X_train"]["word"].dropna().tolist() == ["a", "b", "a"]
    assert found["y_train"].tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"X": X}, "give training_data= and label_column_name=, or X= and y=.*given: X"),
        ({"X": X, "y": Y[:2]}, "X has 6 rows, but y has 2"),
        ({"training_data": FRAME, "label_column_name": "no"}, "has no column 'no'.*number, word, label"),
        ({"data_script": "no.py"}, "there is no data_script no.py"),
        ({"X": X, "y": Y, "allowed_models": ["Forest"]}, "'Forest' must be one of .*RandomForest"),
        ({"X": X, "y": Y, "allowed_models": ["KNN"], "blocked_models": ["KNN"]}, "leave no models to try"),
        ({"X": X, "y": Y, "X_valid": X, "y_valid": Y, "n_cross_validations": 3}, "exclude each other"),
        ({"X": X, "y": Y, "validation_size": 20}, "validation_size=20 must be between 0 and 1"),
        ({"X": X, "y": Y, "n_cross_validations": 1}, "n_cross_validations=1 must be an integer of at least 2"),
    ],
)
def test_mistakes_are_reported(experiment: Experiment, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserErrorException, match=message):
        AutoMLConfig("classification", **settings).overrides(experiment)


def test_the_steps_of_a_fitted_model_have_the_names_of_the_sdk() -> None:
    rows = FRAME.drop(columns="label")
    parts = {
        "preprocessor": {"_target_": "sklearn.preprocessing.StandardScaler"},
        "estimator": {"_target_": "sklearn.linear_model.LogisticRegression"},
    }
    model = pipeline(**parts, preprocess=True, columns=columns_of(rows)).fit(rows, [0, 1, 0, 1])
    (first, transformer), *others = fitted_steps.of(model, list(rows))
    assert first == "datatransformer" and [name for name, _ in others] == ["StandardScaler", "LogisticRegression"]
    names = transformer.get_engineered_feature_names()
    assert names == ["number", "word_(none)", "word_a", "word_b"] and transformer.transform(rows).shape == (4, 4)
    kept = {"Dropped": "No"}
    assert transformer.get_featurization_summary() == [
        kept
        | {"RawFeatureName": "number", "TypeDetected": "Numeric", "EngineeredFeatureCount": 1}
        | {"Transformations": ["SimpleImputer"]},
        kept
        | {"RawFeatureName": "word", "TypeDetected": "Categorical", "EngineeredFeatureCount": 3}
        | {"Transformations": ["OneHotEncoder"]},
    ]
    with pytest.raises(NotInLabrun, match="DataTransformer.get_stats is part of Azure ML"):
        transformer.get_stats()


def test_given_shares_are_held_out(experiment: Experiment) -> None:
    words = AutoMLConfig("classification", X=X, y=Y, validation_size=0.25, test_size=0.3).overrides(experiment)
    assert {"dataset.validation_size=0.25", "dataset.test_size=0.3", "model.folds=1"} <= set(words)
    config = AutoMLConfig(
        "regression",
        training_data=FRAME,
        validation_data=FRAME.iloc[:2],
        test_data=FRAME.iloc[2:],
        label_column_name="number",
    )
    found = read_back(config.overrides(experiment))
    assert (found["X_valid"]["word"].iloc[0], found["X_test"]["word"].tolist()) == ("a", ["b"])


def test_other_tasks_and_metrics_are_refused() -> None:
    with pytest.raises(UserErrorException, match="'r2_score' must be one of AUC_weighted"):
        AutoMLConfig("classification", primary_metric="r2_score", X=X, y=Y)
    with pytest.raises(NotInLabrun, match="task='forecasting'"):
        AutoMLConfig("forecasting", X=X, y=Y)


def test_columns_dropped_by_a_featurization_are_left_out(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finder.find("azureml.automl.core.featurization", "FeaturizationConfig")(drop_columns=["id"])
    made.add_column_purpose("b", "Categorical")
    frame = pd.DataFrame({"id": range(20), "a": range(20), "b": ["x", "y"] * 10, "y": [0, 1] * 10})
    config = AutoMLConfig(
        "classification",
        training_data=frame,
        label_column_name="y",
        featurization=made,
        experiment_exit_score=0.9,
        iterations=3,
    )
    words = config.overrides(experiment)
    assert list(config.data.parts["X"].columns) == ["a", "b"] and "sweep.stop_at=0.9" in words
    assert "model.preprocess=true" in words
    told = capsys.readouterr().err
    assert "column_purposes is not used" in told and "exit_score" not in told


def test_the_packages_of_a_search_have_versions() -> None:
    found = finder.find("azureml.train.automl.utilities", "get_sdk_dependencies")()
    assert set(found) >= {"labrun", "scikit-learn"} and all(found.values())


def test_early_stopping_becomes_patience(experiment: Experiment) -> None:
    def found(**settings: Any) -> list[str]:
        words = AutoMLConfig("classification", X=X, y=Y, n_cross_validations=2, **settings).overrides(experiment)
        return [text for text in words if text.startswith("sweep.patience")]

    usual = ["sweep.patience=10", "sweep.patience_from=20"]
    assert found(iterations=50) == found(experiment_timeout_minutes=5, enable_early_stopping=True) == usual
    assert found(iterations=30) == found(iterations=50, enable_early_stopping=False) == []
    assert found(iterations=50, early_stopping_n_iters=5)[0] == "sweep.patience=5"
