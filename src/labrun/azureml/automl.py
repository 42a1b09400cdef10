"""`AutoMLConfig`: a search over scikit-learn pipelines, run by `sweep=automl`."""

from __future__ import annotations

import copy
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labrun.azureml import automl_data, compute
from labrun.azureml.automl_run import NEEDED, AutoMLRun
from labrun.azureml.featurization import FeaturizationConfig
from labrun.azureml.kinds import RunType
from labrun.azureml.notices import notify_once
from labrun.azureml.overrides import override
from labrun.azureml.submitting import Config, submit
from labrun.azureml.tags import TARGET_TAG
from labrun.compat.azureml import absent, arguments
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.messages import suggest
from labrun.tasks import automl_metrics, scoring

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment

ESTIMATORS = {
    "BernoulliNaiveBayes": "naive_bayes",
    "DecisionTree": "decision_tree",
    "ElasticNet": "logistic_regression",
    "ExtremeRandomTrees": "extra_trees",
    "FastLinearRegressor": "sgd",
    "GradientBoosting": "gradient_boosting",
    "KNN": "knn",
    "LassoLars": "logistic_regression",
    "LightGBM": "gradient_boosting",
    "LinearSVM": "linear_svm",
    "LogisticRegression": "logistic_regression",
    "MultinomialNaiveBayes": "naive_bayes",
    "OnlineGradientDescentRegressor": "sgd",
    "RandomForest": "random_forest",
    "SGD": "sgd",
    "SVM": "svm_rbf",
    "TensorFlowDNN": "mlp",
    "TensorFlowLinearClassifier": "logistic_regression",
    "TensorFlowLinearRegressor": "logistic_regression",
    "XGBoostClassifier": "gradient_boosting",
    "XGBoostRegressor": "gradient_boosting",
}
"""The SDK's models, and the closest option of labrun's `model/estimator` for each."""
FORMER = {
    "bernoullinb": "BernoulliNaiveBayes",
    "dt": "DecisionTree",
    "extratrees": "ExtremeRandomTrees",
    "kneighbors": "KNN",
    "lgbm": "LightGBM",
    "multinomialnb": "MultinomialNaiveBayes",
    "nb": "MultinomialNaiveBayes",
    "nimbusmlfastlinear": "FastLinearRegressor",
    "nimbusmllinearsvm": "LinearSVM",
    "nimbusmlonlinegradientdescent": "OnlineGradientDescentRegressor",
    "rf": "RandomForest",
    "svc": "SVM",
    "tfdnn": "TensorFlowDNN",
    "tflinear": "TensorFlowLinearClassifier",
}
"""The models' names from 2018 and their class names, as normalized by `_plain`."""
UNKNOWN = ("averagedperceptron", "prophet", "autoarima", "catboost", "tabnet")
"""Models of the SDK that have no counterpart in labrun."""
ALL = tuple(sorted({*ESTIMATORS.values()}))
DEFAULT_ITERATIONS, FOLDS = 20, 5
LANDMARKS, PATIENCE = 20, 10
"""The SDK's early stopping: the first iterations, which it ignores, and the iterations without improvement that end a
search."""
OLD = {
    "max_time_sec": "iteration_timeout_seconds",
    "exit_time_sec": "experiment_timeout_seconds",
    "exit_score": "experiment_exit_score",
    "concurrent_iterations": "max_concurrent_iterations",
    "num_iterations": "iterations",
    "blacklist_models": "blocked_models",
    "blacklist_algos": "blocked_models",
    "whitelist_models": "allowed_models",
    "n_cross_validation": "n_cross_validations",
}
"""Argument names from earlier SDK releases."""
WITHOUT_EFFECT = frozenset(
    """
    debug_log verbosity model_explainability enable_tf enable_voting_ensemble
    enable_stack_ensemble ensemble_iterations enable_ensembling auto_blacklist num_classes
    blacklist_samples_reached exclude_nan_labels send_telemetry telemetry_verbosity vm_type max_cores_per_iteration
    enable_dnn enable_local_managed enable_split enable_feature_sweeping spark_context
    experiment_name model_types enable_cache cache_store enable_code_generation scenario name data_script_path
    mem_in_mb enforce_time_on_windows use_distributed max_nodes node_count enable_subsampling subsample_seed
    force_curated_environment environment_label start_auxiliary_runs_before_parent_complete save_mlflow cost_mode
    forecasting_parameters
    """.split()  # noqa: SIM905 - one name per line would be too long
)
"""Settings that have no effect in labrun."""
USED = frozenset(
    """
    primary_metric run_configuration data_script training_data drop_column_names
    label_column_name X y X_valid y_valid validation_data test_data preprocess featurization n_cross_validations
    compute_target experiment_timeout_minutes experiment_timeout_hours experiment_timeout_seconds
    iteration_timeout_minutes iteration_timeout_seconds iterations experiment_exit_score max_concurrent_iterations
    allowed_models blocked_models validation_size test_size enable_early_stopping early_stopping_n_iters
    """.split()  # noqa: SIM905
)
EQUALLY = "labrun weights all samples equally"
FOLDED = "labrun draws its own folds"
NO_ENSEMBLES = "labrun builds no ensembles: the best single pipeline is the result"
NO_NETWORKS = "labrun has one network, TensorFlowDNN, with one hidden layer"
NO_ONNX = "labrun saves models with skops, not as ONNX"
REPORTED = {
    "weight_column_name": EQUALLY,
    "sample_weight": EQUALLY,
    "sample_weight_valid": EQUALLY,
    "cv_splits_indices": FOLDED,
    "cv_split_column_names": FOLDED,
    "positive_label": "labrun averages a metric over the classes",
    "y_min": "labrun takes the range from the data",
    "y_max": "labrun takes the range from the data",
    "enable_onnx_compatible_models": NO_ONNX,
    "enable_split_onnx_featurizer_estimator_models": NO_ONNX,
    "enable_voting_ensemble": NO_ENSEMBLES,
    "enable_stack_ensemble": NO_ENSEMBLES,
    "enable_dnn": NO_NETWORKS,
    "force_text_dnn": NO_NETWORKS,
}
"""Settings that would change the result in the SDK and have no effect in labrun, with the reason."""
PRIMARY = {"classification": "accuracy", "regression": "normalized_root_mean_squared_error"}
"""The SDK's default primary metric."""
SDK_METRICS = {
    "classification": (
        "AUC_weighted",
        "accuracy",
        "average_precision_score_weighted",
        "norm_macro_recall",
        "precision_score_weighted",
    ),
    "regression": (
        "normalized_mean_absolute_error",
        "normalized_root_mean_squared_error",
        "r2_score",
        "spearman_correlation",
    ),
}
"""The SDK's choices for `primary_metric`."""


class AutoMLConfig(Config):
    """The configuration of an AutoML search, for `Experiment.submit`.

    Args:
        task: `classification` or `regression`.
        path: the project's folder, for `data_script`.
        **settings: the SDK's other arguments, including those of earlier releases. A notice is printed once for those
            that would change the result in the SDK but not in labrun, and, as in the SDK, for unknown ones.

    Raises:
        UserErrorException: the primary metric is unknown.
        TypeError: a setting is unknown and resembles a known one.
        NotInLabrun: the task is neither classification nor regression.
    """

    run_type = RunType.AUTOML

    def __init__(self, task: str, path: Any = None, **settings: Any) -> None:
        if task not in PRIMARY:
            absent.not_here(
                f"AutoMLConfig(task={task!r})",
                "classification or regression; write a forecast as your own script",
            )
        self.task, self.path = task, Path(path or ".")
        self.user_settings = {OLD.get(name, name): value for name, value in settings.items()}
        self.is_regression = task == "regression"
        self.primary_metric = str(self.user_settings.get("primary_metric") or PRIMARY[task])
        known = (
            [*scoring.QUANTITIES, *automl_metrics.QUANTITIES]
            if self.is_regression
            else [*scoring.STANDARD, *automl_metrics.CLASSES]
        )
        if self.primary_metric not in known:
            raise UserErrorException(
                f"AutoMLConfig: primary_metric={self.primary_metric!r} must be one of {', '.join(known)}"
            )
        self.run_config = self.user_settings.get("run_configuration")
        self._data: automl_data.Data | None = None
        self._notify_unused_settings()

    def _notify_unused_settings(self) -> None:
        """Print a notice of the settings without effect.

        Raises:
            TypeError: a setting is unknown and resembles a known one.
        """
        for name in sorted(self.user_settings.keys() - USED - WITHOUT_EFFECT - REPORTED.keys()):
            known = [*USED, *WITHOUT_EFFECT, *REPORTED, *OLD]
            if suggest(name, known):
                arguments.refuse("AutoMLConfig", name, known)
            notify_once(f"AutoMLConfig: {name} is unknown and not used")
        for name, why in REPORTED.items():
            arguments.tell_unused("AutoMLConfig", {name: self.user_settings.get(name)}, why)

    @property
    def data(self) -> automl_data.Data:
        """The samples and targets, read on first access."""
        if self._data is None:
            self._data = automl_data.Data(self._parts(), self.is_regression)
        return self._data

    def _parts(self) -> dict[str, Any]:
        settings = self.user_settings
        if settings.get("training_data") is None and self._dropped():
            notify_once("AutoMLConfig: columns are dropped only from training_data; all of X is used")
        if settings.get("data_script"):
            return automl_data.of_script(Path(str(settings["data_script"])), self.path)
        if settings.get("training_data") is None:
            return {name: settings.get(name) for name in ("X", "y", "X_valid", "y_valid")}
        label = str(settings.get("label_column_name") or "")
        weights, folds = settings.get("weight_column_name"), settings.get("cv_split_column_names")
        without = [*([str(weights)] if weights else []), *map(str, folds or ()), *self._dropped()]
        x, y = automl_data.of_table(settings["training_data"], label, "training_data", without)
        parts = {"X": x, "y": y}
        for name, part in (("validation_data", "valid"), ("test_data", "test")):
            if settings.get(name) is not None:
                parts[f"X_{part}"], parts[f"y_{part}"] = automl_data.of_table(settings[name], label, name, without)
        return parts

    def _dropped(self) -> list[str]:
        """Return the columns to drop, and print a notice of the other settings of a `FeaturizationConfig`."""
        names = self.user_settings.get("drop_column_names") or []
        names = [names] if isinstance(names, str) else list(names)
        config = self.user_settings.get("featurization")
        if isinstance(config, FeaturizationConfig):
            config.tell()
            names += config.drop_columns
        return [str(name) for name in names]

    @property
    def _preprocesses(self) -> bool:
        """Whether columns are turned into features. As in the SDK, `preprocess` counts only beside the default."""
        featurization = self.user_settings.get("featurization")
        if isinstance(featurization, FeaturizationConfig):
            return True
        wanted = str(featurization if featurization is not None else "auto").lower()
        if wanted not in ("auto", "off"):
            raise UserErrorException(
                f"AutoMLConfig: featurization={featurization!r} must be 'auto', 'off' or a FeaturizationConfig"
            )
        return wanted == "auto" and self.user_settings.get("preprocess") is not False

    def overrides(self, experiment: Experiment) -> list[str]:
        """Return the arguments for the `labrun` command."""
        script = self.data.keep(experiment.workspace.folder)
        return [
            "-m",
            "dataset=get_data",
            override("dataset.script", str(script)),
            *(["dataset.regression=true"] if self.is_regression else []),
            "model=pipeline",
            *self._comparison(),
            f"model.preprocess={'true' if self._preprocesses and self._is_raw else 'false'}",
            "sweep=automl",
            "sweep/early_termination=none",  # in the SDK every iteration has a score
            f"sweep.metric={self.primary_metric}",
            *self._limits(),
            *self._models(),
            *compute.overrides(self._target, experiment.workspace),
        ]

    def _comparison(self) -> list[str]:
        """Return the arguments for the validation and test splits, and print which data each uses."""
        parts, folds, size = (
            self.data.parts,
            self.user_settings.get("n_cross_validations"),
            self._share("validation_size"),
        )
        test_size = self._share("test_size")
        if "X_test" not in parts and "X_valid" in parts:
            notify_once("AutoMLConfig: no test data: the validation data also test the best pipeline")
        elif "X_test" not in parts:
            notify_once(f"AutoMLConfig: {test_size or 'a fifth'} of the data is held out to test the best pipeline")
        held_out_test = [override("dataset.test_size", test_size)] if test_size and "X_test" not in parts else []
        if "X_valid" in parts:
            if folds is not None or size:
                other = "n_cross_validations" if folds is not None else "validation_size"
                raise UserErrorException(
                    f"AutoMLConfig: {other} and validation data exclude each other: only one of them can be used to "
                    "compare pipelines. Leave one out"
                )
            return [*held_out_test, "model.folds=1"]
        if size and folds is None:
            return [*held_out_test, override("dataset.validation_size", size), "model.folds=1"]
        if size:
            notify_once(
                "AutoMLConfig: validation_size is not used: n_cross_validations decides how pipelines are compared"
            )
        if folds in (None, "auto"):
            notify_once(f"AutoMLConfig: the pipelines are compared in {FOLDS} folds; n_cross_validations changes that")
            return [*held_out_test, f"model.folds={FOLDS}"]
        if not isinstance(folds, int) or folds < 2:
            raise UserErrorException(
                f"AutoMLConfig: n_cross_validations={folds!r} must be an integer of at least 2, or 'auto'"
            )
        return [*held_out_test, f"model.folds={folds}"]

    def _share(self, name: str) -> float | None:
        """Return the setting for a held-out share of the samples; None if there is none."""
        share = self.user_settings.get(name)
        if share in (None, 0):
            return None
        if not isinstance(share, (int, float)) or not 0 < share < 1:
            raise UserErrorException(f"AutoMLConfig: {name}={share!r} must be between 0 and 1")
        return float(share)

    @property
    def _target(self) -> Any:
        return self.user_settings.get("compute_target") or getattr(self.run_config, "target", None)

    def _notes(self) -> dict[str, str]:
        """Return the notes, including the target's name."""
        target = self._target
        return {**super()._notes(), **({TARGET_TAG: str(getattr(target, "name", target))} if target else {})}

    @property
    def _is_raw(self) -> bool:
        """Whether the samples are a table or have missing values."""
        x = self.data.parts["X"]
        return hasattr(x, "columns") or (isinstance(x, np.ndarray) and x.dtype.kind == "f" and bool(np.isnan(x).any()))

    def _limits(self) -> list[str]:
        """Return the arguments for the number of trials, their concurrency and the time limits."""
        settings = self.user_settings
        minutes = settings.get("experiment_timeout_minutes")
        if minutes is None and settings.get("experiment_timeout_hours") is not None:
            minutes = 60 * float(settings["experiment_timeout_hours"])
        if minutes is None and settings.get("experiment_timeout_seconds") is not None:
            minutes = float(settings["experiment_timeout_seconds"]) / 60
        each = settings.get("iteration_timeout_minutes")
        if each is None and settings.get("iteration_timeout_seconds") is not None:
            each = float(settings["iteration_timeout_seconds"]) / 60
        count = settings.get("iterations")
        if count is None and minutes is None:
            count = DEFAULT_ITERATIONS
            notify_once(f"AutoMLConfig: neither iterations nor a timeout is given: {count} iterations")
        score = settings.get("experiment_exit_score")
        return [
            f"sweep.max_trials={int(count) if count is not None else 1000}",
            *([f"sweep.timeout_min={float(minutes):g}"] if minutes is not None else []),
            *([f"sweep.trial_timeout_min={float(each):g}"] if each is not None else []),
            *([f"sweep.stop_at={float(score)!r}"] if score is not None else []),
            *self._patience(count),
            *([f"sweep.max_concurrent={int(settings.get('max_concurrent_iterations') or 1)}"]),
        ]

    def _patience(self, count: Any) -> list[str]:
        """Return the arguments for early stopping; empty if it is off or the search is too short for it."""
        settings = self.user_settings
        patience = int(settings.get("early_stopping_n_iters") or PATIENCE)
        if settings.get("enable_early_stopping", True) is False or (count and int(count) <= LANDMARKS + patience):
            return []
        notify_once(
            f"AutoMLConfig: after {LANDMARKS} iterations the search ends when {patience} in a row are no better; "
            "enable_early_stopping=False runs them all"
        )
        return [f"sweep.patience={patience}", f"sweep.patience_from={LANDMARKS}"]

    def _models(self) -> list[str]:
        """Return the argument for the allowed estimators; empty if all are allowed."""
        allowed = _estimators(self.user_settings.get("allowed_models"), "allowed_models")
        blocked = _estimators(self.user_settings.get("blocked_models"), "blocked_models")
        chosen = [name for name in allowed or ALL if name not in blocked]
        if not chosen:
            raise UserErrorException("AutoMLConfig: allowed_models and blocked_models leave no models to try")
        return [] if set(chosen) == set(ALL) else [f"model/estimator={','.join(chosen)}"]

    def submitted(
        self, experiment: Experiment, tags: Mapping[str, str], parent: str | None = None, show_output: bool = False
    ) -> AutoMLRun:
        """Submit the search. As in the SDK, the call waits for a search on this machine but not for any other."""
        run = AutoMLRun(experiment, work=self._submit(experiment, tags, parent), run_type=self.run_type)
        run.automl_config = self
        is_local = getattr(self._target, "name", self._target) in (None, "local")
        if is_local or show_output:
            run.wait_for_completion(show_output=show_output)
        return run

    def resume(self, run: AutoMLRun, **settings: Any) -> AutoMLRun:
        """Continue a search that has ended; see `overrides_of_more`."""
        work = submit(run.experiment, self.overrides_of_more(run.experiment, run._work.folder, **settings), {})
        made = AutoMLRun(run.experiment, work=work, run_type=self.run_type)
        made.automl_config = self
        return made

    def overrides_of_more(self, experiment: Experiment, folder: Path, **settings: Any) -> list[str]:
        """Return the arguments for the `labrun` command that continues a search.

        Args:
            experiment: the search's experiment.
            folder: the search's folder.
            **settings: new limits, and optionally the same samples again.

        Raises:
            UserErrorException: the samples differ.
        """
        config = copy.copy(self)
        config.user_settings, config._data = {**self.user_settings, **settings, "enable_early_stopping": False}, None
        overrides, before = config.overrides(experiment), self.overrides(experiment)
        if overrides[2] != before[2]:
            raise UserErrorException(
                f"AutoMLRun: the search {folder.name} can only continue with the same samples; to search with others, "
                "submit another AutoMLConfig"
            )
        return [*overrides, override("sweep.resume", str(folder))]


def _estimators(names: Any, what: str) -> list[str]:
    """Return labrun's names for the SDK's models, and print a notice of those that labrun lacks.

    Raises:
        UserErrorException: a name is not one of the SDK's models.
    """
    estimators = []
    known = {_plain(name): name for name in ESTIMATORS} | FORMER
    for name in [getattr(one, "name", one) for one in names or ()]:
        estimator = ESTIMATORS.get(known.get(_plain(name), "")) or (str(name) if name in ALL else None)
        if estimator is None and not _plain(name).startswith(UNKNOWN):
            raise UserErrorException(f"AutoMLConfig: {what}: {name!r} must be one of {', '.join(sorted(ESTIMATORS))}")
        if estimator is None:
            notify_once(f"AutoMLConfig: {what}: labrun has no {name}")
        elif what == "allowed_models" and estimator.replace("_", "") != str(name).lower():
            notify_once(f"AutoMLConfig: {name} stands for labrun's {estimator}")
        estimators += [estimator] if estimator and estimator not in estimators else []
    return estimators


def _plain(name: Any) -> str:
    """Normalize a model's name, so that variants such as `KNN` and `kNN regressor` compare equal."""
    letters = re.sub("[^a-z]", "", str(name).lower())
    return re.sub("(wrapper|classifier|regressor)+$", "", letters)


def get_primary_metrics(task: str) -> list[str]:
    """Return the SDK's primary metrics for a task."""
    return list(SDK_METRICS.get(task, ()))


def get_sdk_dependencies(all_dependencies_versions: Mapping[str, str] | None = None, **unknown: Any) -> dict[str, str]:
    """Return the packages that searches need, with the versions installed in this interpreter."""
    arguments.check(get_sdk_dependencies, unknown)
    return {name: importlib.metadata.version(name) for name in ("labrun", *NEEDED)}
