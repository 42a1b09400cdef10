"""`AutoMLConfig` and its run: a search over pipelines of scikit-learn, carried out by `sweep=automl`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labrun import api
from labrun.azureml import automl_data, compute
from labrun.azureml.run import Run
from labrun.azureml.submitting import Config, submit
from labrun.azureml.telling import once
from labrun.azureml.words import word
from labrun.compat.azureml import absent
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.errors import LabrunError
from labrun.runs import record as records
from labrun.search import automl as search
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
"""The SDK's models, and what is nearest to each of labrun's `model/estimator`."""
ALL = tuple(sorted({*ESTIMATORS.values()}))
DEFAULT_ITERATIONS = 20
PICKLE = "outputs/model.pkl"
LAST_FIT_S, POLL_S = 600.0, 0.5
OLD = {
    "max_time_sec": "iteration_timeout_seconds",
    "exit_score": "experiment_exit_score",
    "concurrent_iterations": "max_concurrent_iterations",
    "num_iterations": "iterations",
    "blacklist_models": "blocked_models",
    "blacklist_algos": "blocked_models",
    "whitelist_models": "allowed_models",
    "n_cross_validation": "n_cross_validations",
}
"""Words of former releases."""
WITHOUT_EFFECT = frozenset(
    """
    debug_log verbosity model_explainability enable_tf enable_onnx_compatible_models enable_voting_ensemble
    enable_stack_ensemble ensemble_iterations enable_ensembling enable_early_stopping auto_blacklist num_classes
    blacklist_samples_reached exclude_nan_labels send_telemetry telemetry_verbosity vm_type max_cores_per_iteration
    enable_dnn enable_local_managed enable_split enable_feature_sweeping early_stopping_n_iters spark_context
    experiment_name model_types enable_cache cache_store enable_code_generation scenario name data_script_path
    """.split()  # noqa: SIM905 - one a line is longer than this page
)
"""What decides nothing here."""
USED = frozenset(
    """
    primary_metric run_configuration weight_column_name sample_weight cv_splits_indices data_script training_data
    label_column_name X y X_valid y_valid validation_data test_data preprocess featurization n_cross_validations
    compute_target experiment_timeout_minutes experiment_timeout_hours iteration_timeout_minutes
    iteration_timeout_seconds iterations experiment_exit_score max_concurrent_iterations allowed_models blocked_models
    validation_size
    """.split()  # noqa: SIM905
)
PRIMARY = {"classification": "accuracy", "regression": "spearman_correlation"}
"""The SDK's primary metric where none is named."""
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
"""What the SDK offers for `primary_metric`."""
ALIASES = {"r2": "r2_score", "rmse": "root_mean_squared_error", "mae": "mean_absolute_error"}
"""labrun's names of metrics, and the SDK's."""


class AutoMLConfig(Config):
    """What `Experiment.submit` takes to search for a model.

    Args:
        task: `classification` or `regression`.
        path: the project's folder, for `data_script`.
        **settings: the SDK's other words, those of former releases too; what has no effect here is told, once.

    Raises:
        UserErrorException: a setting is none, or says something that labrun cannot do.
        NotInLabrun: the task is another.
    """

    run_type = "automl"

    def __init__(self, task: str, path: Any = None, **settings: Any) -> None:
        if task not in PRIMARY:
            absent.not_here(
                f"AutoMLConfig(task={task!r})",
                "classification and regression; write a forecast in a script of your own",
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
                f"AutoMLConfig: primary_metric={self.primary_metric!r} is none of {', '.join(known)}"
            )
        self.run_config = self.user_settings.get("run_configuration")
        self._data: automl_data.Data | None = None
        for name in sorted(self.user_settings.keys() - USED - WITHOUT_EFFECT):
            once(f"AutoMLConfig: {name} is not known here, and not used")
        for name in sorted(self.user_settings.keys() & {"weight_column_name", "sample_weight", "cv_splits_indices"}):
            if self.user_settings[name] is not None:
                once(f"AutoMLConfig: {name} is not used: labrun weighs all samples alike, and draws the folds itself")

    @property
    def data(self) -> automl_data.Data:
        """The samples, looked for when they are first needed."""
        if self._data is None:
            self._data = automl_data.Data(self._parts(), self.is_regression)
        return self._data

    def _parts(self) -> dict[str, Any]:
        given = self.user_settings
        if given.get("data_script"):
            return automl_data.of_script(Path(str(given["data_script"])), self.path)
        if given.get("training_data") is None:
            return {name: given.get(name) for name in ("X", "y", "X_valid", "y_valid")}
        label = str(given.get("label_column_name") or "")
        weights = given.get("weight_column_name")
        without = [str(weights)] if weights else []
        x, y = automl_data.of_table(given["training_data"], label, "training_data", without)
        parts = {"X": x, "y": y}
        for name in ("validation_data", "test_data"):
            if given.get(name) is not None and "X_valid" not in parts:
                parts["X_valid"], parts["y_valid"] = automl_data.of_table(given[name], label, name, without)
            elif given.get(name) is not None:
                once(f"AutoMLConfig: {name} is not used: validation_data tests the best pipeline")
        return parts

    def words(self, experiment: Experiment) -> list[str]:
        """What is typed after `labrun`."""
        given = self.user_settings
        script = self.data.keep(experiment.workspace.folder)
        if "X_valid" in self.data.parts:
            once("AutoMLConfig: the pipelines are compared by cross-validation; the validation data test the best one")
        else:
            once("AutoMLConfig: a fifth of the data is held out, and tests the best pipeline")
        if given.get("validation_size") is not None and given.get("n_cross_validations") is None:
            once("AutoMLConfig: validation_size is not used: the pipelines are compared by 5-fold cross-validation")
        preprocess = bool(given.get("preprocess")) or str(given.get("featurization", "auto")) != "off"
        folds = int(given.get("n_cross_validations") or 5) if str(given.get("n_cross_validations")) != "auto" else 5
        target = given.get("compute_target") or getattr(self.run_config, "target", None)
        return [
            "-m",
            "dataset=get_data",
            word("dataset.script", str(script)),
            *(["dataset.regression=true"] if self.is_regression else []),
            "model=pipeline",
            f"model.folds={max(2, folds)}",
            f"model.preprocess={'true' if preprocess and self._has_table else 'false'}",
            "sweep=automl",
            "sweep/early_termination=none",  # each iteration of the SDK has its score
            f"sweep.metric={self.primary_metric}",
            *self._limits(),
            *self._models(),
            *compute.words(target, experiment.workspace),
        ]

    @property
    def _has_table(self) -> bool:
        return hasattr(self.data.parts["X"], "columns")

    def _limits(self) -> list[str]:
        """How many pipelines, how many at once, and how long."""
        given = self.user_settings
        minutes = given.get("experiment_timeout_minutes")
        if minutes is None and given.get("experiment_timeout_hours") is not None:
            minutes = 60 * float(given["experiment_timeout_hours"])
        each = given.get("iteration_timeout_minutes")
        if each is None and given.get("iteration_timeout_seconds") is not None:
            each = float(given["iteration_timeout_seconds"]) / 60
        count = given.get("iterations")
        if count is None and minutes is None:
            count = DEFAULT_ITERATIONS
            once(f"AutoMLConfig: neither iterations nor a timeout is given: {count} iterations")
        if given.get("experiment_exit_score") is not None:
            once("AutoMLConfig: experiment_exit_score is not used: the search goes on to its last iteration")
        return [
            f"sweep.max_trials={int(count) if count is not None else 1000}",
            *([f"sweep.timeout_min={float(minutes):g}"] if minutes is not None else []),
            *([f"sweep.trial_timeout_min={float(each):g}"] if each is not None else []),
            *([f"sweep.max_concurrent={int(given.get('max_concurrent_iterations') or 1)}"]),
        ]

    def _models(self) -> list[str]:
        """The estimators that are allowed, where not all are."""
        allowed = _estimators(self.user_settings.get("allowed_models"), "allowed_models")
        blocked = _estimators(self.user_settings.get("blocked_models"), "blocked_models")
        chosen = [name for name in allowed or ALL if name not in blocked]
        if not chosen:
            raise UserErrorException("AutoMLConfig: allowed_models and blocked_models leave no model over")
        return [] if set(chosen) == set(ALL) else [f"model/estimator={','.join(chosen)}"]

    def submitted(self, experiment: Experiment, tags: Mapping[str, str], **kwargs: Any) -> AutoMLRun:
        """Search: on this machine the call ends with the search, as the SDK has it; elsewhere at once."""
        given = self.user_settings.get("compute_target")
        work = submit(experiment, self.words(experiment), tags)
        run = AutoMLRun(experiment, work=work, run_type=self.run_type)
        if given is None or kwargs.get("show_output"):
            run.wait_for_completion(show_output=bool(kwargs.get("show_output")))
        return run


def _estimators(names: Any, what: str) -> list[str]:
    """labrun's names of the SDK's models; those that it has not are told.

    Raises:
        UserErrorException: a name is not one of the SDK's.
    """
    found = []
    for name in [getattr(one, "name", one) for one in names or ()]:
        own = ESTIMATORS.get(str(name)) or (str(name) if name in ALL else None)
        if own is None and str(name) not in ("AveragedPerceptronClassifier", "Prophet", "AutoArima"):
            raise UserErrorException(f"AutoMLConfig: {what}: {name!r} is none of {', '.join(sorted(ESTIMATORS))}")
        if own is None:
            once(f"AutoMLConfig: {what}: labrun has no {name}")
        elif what == "allowed_models" and own.replace("_", "") != str(name).lower():
            once(f"AutoMLConfig: {name} stands for labrun's {own}")
        found += [own] if own and own not in found else []
    return found


def get_primary_metrics(task: str) -> list[str]:
    """The primary metrics of a task, as the SDK lists them."""
    return list(SDK_METRICS.get(task, ()))


class IterationRun(Run):
    """One pipeline of a search."""

    def get_metrics(self, name: str | None = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Its scores in cross-validation, under the SDK's names."""
        found = dict(self._work.metrics)
        found |= {ALIASES[own]: value for own, value in found.items() if own in ALIASES}
        return {key: value for key, value in found.items() if name in (None, key)}

    def get_properties(self) -> dict[str, str]:
        """`iteration` from 0 on, `run_algorithm`, `run_preprocessor`, `score`, ..."""
        record = self._work.record
        model = record.config["model"]
        parts = {part: search.short(model[part]) for part in ("preprocessor", "estimator")}
        metric = record.config["sweep"]["metric"]
        return {
            **super().get_properties(),
            "iteration": str(int(record.sweep["number"])),
            "run_algorithm": parts["estimator"],
            "run_preprocessor": parts["preprocessor"],
            "primary_metric": str(metric),
            "score": str(record.metrics.get(metric, float("nan"))),
        }

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Register its fitted pipeline, which the SDK has as `outputs/model.pkl`; or another of its files."""
        if model_path not in (None, PICKLE) or model_path in self.get_file_names():
            return super().register_model(model_name, model_path, tags, properties, **kwargs)
        from labrun.azureml import registering

        whole = AutoMLRun(self._experiment, work=self._work.parent, run_type="automl")
        shown = Run(self._experiment, work=api.Run(whole._fitted(self)))
        return registering.of_run(shown, model_name, None, tags, properties, **kwargs)


class AutoMLRun(Run):
    """A search over pipelines."""

    model_id: str | None = None

    def _trials(self) -> list[Any]:
        """labrun's runs of the pipelines, in their order; not the last fits of the best."""
        children = self._work.get_children()
        return [one for one in children if isinstance((one.record.sweep or {}).get("number"), int)]

    def get_children(self, *args: Any, **kwargs: Any) -> Iterator[Run]:
        """The iterations, the newest first."""
        for work in reversed(self._trials()):
            yield IterationRun(self._experiment, work=work, run_type="azureml.scriptrun")

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The best pipeline's."""
        found: dict[str, Any] = self._best(None).get_metrics() if self._trials() else {}
        return found

    def _best(self, metric: str | None) -> IterationRun:
        try:
            own = {sdk: ours for ours, sdk in ALIASES.items()}.get(str(metric), metric)
            logged = {name for run in self._trials() for name in run.metrics}
            work = self._work.get_best_child(None if metric is None else metric if metric in logged else own)
        except LabrunError as error:
            raise UserErrorException(f"AutoMLRun: {error}") from error
        trials = {run.id: run for run in self._trials()}
        return IterationRun(self._experiment, work=trials.get(work.id, work), run_type="azureml.scriptrun")

    def get_best_child(self, metric: str | None = None, onnx_compatible: bool = False, **kwargs: Any) -> IterationRun:
        """The best iteration by the primary metric, or by another."""
        return self._best(metric)

    def get_output(
        self, iteration: int | None = None, metric: str | None = None, return_onnx_model: bool = False, **kwargs: Any
    ) -> tuple[Run, FittedModel]:
        """The best run and its fitted model, or those of an iteration, or by another metric.

        A pipeline other than the best is fitted now: the search has cross-validated it alone.

        Raises:
            UserErrorException: there is no such iteration, or none has ended.
        """
        if return_onnx_model:
            absent.not_here("get_output(return_onnx_model=True)", "get_output() gives a model of scikit-learn")
        run = self._iteration(iteration) if iteration is not None else self._best(metric)
        fitted = self._fitted(run)
        return run, FittedModel(fitted)

    def _iteration(self, number: int) -> IterationRun:
        for run in self._trials():
            if run.record.sweep["number"] == number:
                return IterationRun(self._experiment, work=run, run_type="azureml.scriptrun")
        raise UserErrorException(f"AutoMLRun {self.id}: there is no iteration {number}; it has {len(self._trials())}")

    def _fitted(self, run: IterationRun) -> Path:
        """The folder of the run that has a pipeline's fitted model."""
        self._wait_for_last_fit()
        best = Path(self._work.folder) / search.BEST
        is_best = run.id == self._best(None).id and (best / "run.json").is_file()
        if is_best and records.read(best).status == records.COMPLETED:
            return best
        for child in api.runs(root=self.experiment.workspace.folder, tags={"azureml.refit": run.id}):
            if child.status == records.COMPLETED:
                return Path(child.folder)
        record = run._work.record
        words = [text for text in record.overrides if not text.startswith(("sweep", "name=", "tags", "compute"))]
        again = [*words, "model.folds=0", "model.refit=true", "compute=inline", word("name", self._work.name)]
        work = api.submit([*again, word("tags", {"azureml.refit": run.id})], root=self.experiment.workspace.folder)
        try:
            work.wait_for_completion()
        except LabrunError as error:
            raise UserErrorException(
                f"AutoMLRun: iteration {record.sweep['number']} cannot be fitted: {error}"
            ) from error
        return Path(work.folder)

    def _wait_for_last_fit(self) -> None:
        """Until the best pipeline is fitted to all training data, which follows the last iteration."""
        best, log = Path(self._work.folder) / search.BEST / "run.json", self._work.log_file()
        end = time.monotonic() + LAST_FIT_S
        while time.monotonic() < end and not (
            log and log.is_file() and "\nfolder: " in log.read_text(errors="replace")
        ):
            if best.is_file() and records.read(best.parent).finished:
                return
            if self._work.is_over and not any(run.status == records.COMPLETED for run in self._trials()):
                return
            time.sleep(POLL_S)

    def register_model(  # type: ignore[override]
        self,
        model_name: str | None = None,
        description: str | None = None,
        tags: Mapping[str, Any] | None = None,
        iteration: int | None = None,
        metric: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Register the fitted model of the best iteration, or of another; its name is `model_id`, too."""
        from labrun.azureml import registering

        run = self._iteration(iteration) if iteration is not None else self._best(metric)
        shown = Run(self._experiment, work=api.Run(self._fitted(run)))
        name = model_name or f"AutoML{self.id}{'best' if iteration is None else iteration}"
        made = registering.of_run(shown, name, None, tags, None, description=description)
        self.model_id = name
        return made

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True, **_: Any
    ) -> dict[str, Any]:
        """Wait until the search has ended; the table of iterations is printed as it comes.

        Raises:
            ActivityFailedException: no iteration completed.
        """
        details = super().wait_for_completion(show_output, wait_post_processing, raise_on_error=False)
        self._wait_for_last_fit()
        failed = [run for run in self._trials() if run.status in (records.FAILED, records.LOST)]
        if len(failed) == len(self._trials()) and raise_on_error:
            super().wait_for_completion(False, wait_post_processing, raise_on_error=True)
        return details

    def get_guardrails(self, *args: Any, **kwargs: Any) -> list[Any]:
        """None: the checks of the data are in the log."""
        return []

    def get_run_sdk_dependencies(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """The packages that the search used."""
        return dict(self._trials()[0].record.packages) if self._trials() else {}


class FittedModel:
    """A fitted pipeline, as `get_output` gives it: scikit-learn's, with the classes as they were given.

    Args:
        folder: of the run that saved it.
    """

    def __init__(self, folder: Path) -> None:
        self._saved = api.load_model(folder)
        data = records.read(folder).config["dataset"]["script"]
        parts = automl_data.of_script(Path(data), Path(data).parent)
        labels = np.unique(np.asarray(parts.get("y", parts.get("y_train"))))
        self._labels = {str(label): label.item() for label in labels} if self._saved.class_names else {}

    def __repr__(self) -> str:
        return repr(self._saved.model)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_saved":
            raise AttributeError(name)
        return getattr(self._saved.model, name)

    def predict(self, X: Any) -> Any:  # noqa: N803 - as scikit-learn calls it
        """Labels, or quantities: (N,).

        Args:
            X: (N, F) numbers, or a data frame with the columns of the training data.
        """
        found = self._saved.predict(X)
        if not self._labels:
            return np.asarray(found)
        return np.asarray([self._labels.get(str(label), label) for label in found])

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """The probability of each class: (N, classes)."""
        return self._saved.predict_proba(X)

    @property
    def classes_(self) -> Any:
        """The classes, in the order of `predict_proba`."""
        return np.asarray([self._labels.get(name, name) for name in self._saved.class_names])

    def score(self, X: Any, y: Any) -> float:  # noqa: N803
        """Accuracy, or R2."""
        said, wanted = self.predict(X), np.asarray(y).ravel()
        if self._labels:
            return float(np.mean(said == wanted))
        spread = float(np.sum((wanted - wanted.mean()) ** 2))
        return 1 - float(np.sum((wanted - said) ** 2)) / spread if spread else math.nan
