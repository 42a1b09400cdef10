"""`AutoMLRun`, its iterations, and their fitted pipelines."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labrun.api import functions, handles
from labrun.azureml import automl_constants, automl_data, fitted_steps
from labrun.azureml.conda_dependencies import CondaDependencies
from labrun.azureml.kinds import RunType
from labrun.azureml.notices import notify_once
from labrun.azureml.overrides import override
from labrun.azureml.run import Run
from labrun.azureml.submitting import own_path
from labrun.compat.azureml import absent, arguments
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import registered
from labrun.errors import LabrunError
from labrun.runs import direction
from labrun.runs.record import COMPLETED, FAILED, LOST, read_record
from labrun.search.automl import BEST, short

PICKLE, PACKAGES = automl_constants.MODEL_PATH, automl_constants.CONDA_ENV_FILE_PATH
SCORING = (automl_constants.SCORING_FILE_PATH, "outputs/scoring_file_v_2_0_0.py")
NEEDED = ("scikit-learn", "numpy", "pandas", "scipy", "joblib", "skops")
"""The packages that a fitted pipeline needs besides labrun."""
SCORE = '''"""Answers requests with the fitted pipeline of an AutoML run, by labrun."""

import json
import os

import joblib
import pandas as pd


def init():
    global model
    model = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.pkl"))


def run(data):
    rows = pd.DataFrame(json.loads(data)["data"])
    return json.dumps({"result": model.predict(rows).tolist()})
'''
SOURCE = {"azureml.runsource": "automl"}
"""The property by which notebooks find searches among an experiment's runs."""
PARTS = {"algorithm": "estimator", "preprocessor": "preprocessor"}
"""The SDK's names for the parts of a pipeline, and labrun's."""
ALIASES = {"r2": "r2_score", "rmse": "root_mean_squared_error", "mae": "mean_absolute_error"}
"""labrun's metric names, and the SDK's."""


UNUSED = ("sample_weight", "sample_weight_valid", "data", "label", "columns", "cv_splits_indices")
"""Arguments of `continue_experiment` that labrun does not use."""
CONTINUED = (
    *("X", "y", "sample_weight", "X_valid", "y_valid", "sample_weight_valid", "data", "label", "columns"),
    *("cv_splits_indices", "spark_context", "experiment_timeout_hours", "experiment_exit_score"),
)
"""The first arguments of the SDK's `continue_experiment`, in its order."""
LIMITS = (
    *("training_data", "validation_data"),
    *("experiment_timeout_minutes", "iteration_timeout_minutes", "max_concurrent_iterations"),
)
"""Its other arguments, and limits that labrun takes as well."""


class IterationRun(Run):
    """One pipeline of a search."""

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: Any = None, populate: bool = False
    ) -> dict[str, Any]:
        """Return its cross-validation scores, also under the SDK's names; with `recursive`, by run id."""
        metrics = dict(self._work.metrics)
        metrics |= {ALIASES[alias]: value for alias, value in metrics.items() if alias in ALIASES}
        alias = {key: value for key, value in metrics.items() if name in (None, key)}
        return ({self.id: alias} if alias else {}) if recursive else alias

    def get_properties(self) -> dict[str, str]:
        """Return the properties: `iteration` (from 0), `run_algorithm`, `run_preprocessor`, `score`, ..."""
        record = self._work.record
        metric = str(record.typed.sweep.metric)
        number = int(record.number)
        return {
            **super().get_properties(),
            **self._parts(),
            "run_template": "automl_child",
            **SOURCE,
            "iteration": str(number),
            "primary_metric": metric,
            "goal": f"{metric}_{direction.of(metric) or direction.MAX}",
            "score": str(record.metrics.get(metric, float("nan"))),
            "model_name": f"AutoML{self._work.parent.id}{number}",
        }

    def get_tags(self) -> dict[str, str]:
        """Return the tags, including `run_algorithm` and `run_preprocessor`."""
        return {**self._parts(), **super().get_tags()}

    def _parts(self) -> dict[str, str]:
        model = self._work.record.typed.model
        return {f"run_{sdk}": short(model[key]) for sdk, key in PARTS.items()}

    def get_file_names(self) -> list[str]:
        """Return its file names. As in the SDK, a completed iteration has its fitted pipeline and scoring files."""
        found = super().get_file_names()
        return sorted({*found, PICKLE, PACKAGES, *SCORING}) if self._work.status == COMPLETED else found

    def download_file(self, name: str, output_file_path: Any = None, **unknown: Any) -> None:
        """Copy one of its files. The SDK's files, such as `outputs/model.pkl` (for joblib), are created on demand."""
        self._make(name)
        super().download_file(name, output_file_path, **unknown)

    def download_files(self, prefix: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Copy its files into a folder; see `Run.download_files`."""
        for name in self.get_file_names():
            if name.startswith(prefix or ""):
                self._make(name)
        super().download_files(prefix, *args, **kwargs)

    def _make(self, name: str) -> None:
        """Create one of the files that each iteration has in the SDK, unless it exists."""
        if name not in (PICKLE, PACKAGES, *SCORING) or name in super().get_file_names():
            return
        if name == PACKAGES:
            versions = self._work.record.packages
            pip = [f"{one}=={versions[one]}" for one in NEEDED if one in versions]
            self.upload_file(
                name, io.BytesIO(CondaDependencies.create(pip_packages=pip).serialize_to_string().encode())
            )
        elif name in SCORING:
            self.upload_file(name, io.BytesIO(SCORE.encode()))
        else:
            import joblib

            with tempfile.TemporaryDirectory() as folder:
                made = os.path.join(folder, "model.pkl")
                joblib.dump(FittedModel(self._search()._fitted(self)), made)
                self.upload_file(name, made)

    def _search(self) -> AutoMLRun:
        return AutoMLRun(self._experiment, work=self._work.parent, run_type=RunType.AUTOML)

    def _registered(self, model_name: str, model_path: str | None, about: Mapping[str, Any]) -> Any:
        """Register its fitted pipeline (the SDK's `outputs/model.pkl`) or another of its files."""
        if model_path not in (None, PICKLE) or model_path in super().get_file_names():
            return super()._registered(model_name, model_path, about)
        from labrun.azureml import registering

        shown = Run(self._experiment, work=handles.Run(self._search()._fitted(self)))
        return registering.of_run(shown, model_name, None, about)


class AutoMLRun(Run):
    """A search over pipelines."""

    model_id: str | None = None
    automl_config: Any = None
    """The submitted configuration; None for a search that was looked up later."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.id

    def _trials(self) -> list[Any]:
        """Return labrun's runs of the pipelines in order, without the final fit of the best one."""
        children = self._work.get_children()
        return [one for one in children if isinstance(one.record.number, int)]

    def get_children(
        self,
        recursive: bool = False,
        tags: Any = None,
        properties: Any = None,
        type: str | None = None,
        status: str | None = None,
        _rehydrate_runs: bool = True,
    ) -> Iterator[Run]:
        """Yield the iterations, newest first, optionally only those with these tags, properties, type or status."""
        for work in reversed(self._trials()):
            run = IterationRun(self._experiment, work=work, run_type="azureml.scriptrun")
            fits = type in (None, run.type) and status in (None, run.get_status())
            if fits and registered.fits(run.get_tags(), tags) and registered.fits(run.get_properties(), properties):
                yield run

    def get_properties(self) -> dict[str, str]:
        """Return the search's settings: `primary_metric`, `num_iterations`, `AMLSettingsJsonString`, ..."""
        first = self._trials()[0].record.config if self._trials() else {}
        if not first:
            return super().get_properties()
        settings = {
            "name": self._work.name,
            "task_type": "regression" if first["dataset"].get("regression") else "classification",
            "primary_metric": str(first["sweep"]["metric"]),
            "iterations": int(first["sweep"].get("max_trials") or len(self._trials())),
            "n_cross_validations": first["model"]["folds"] if first["model"]["folds"] > 1 else None,
            "validation_size": first["dataset"].get("validation_size") or 0.0,
            "max_concurrent_iterations": first["sweep"].get("max_concurrent"),
            "compute_target": first["compute"]["target"],
        }
        return {
            **super().get_properties(),
            "run_template": "AutoML",
            **SOURCE,
            "task_type": settings["task_type"],
            "primary_metric": settings["primary_metric"],
            "num_iterations": str(settings["iterations"]),
            "target": settings["compute_target"],
            "AMLSettingsJsonString": json.dumps(settings),
            "RawAMLSettingsString": repr(settings),
        }

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: Any = None, populate: bool = False
    ) -> dict[str, Any]:
        """Return the best pipeline's metrics; with `recursive`, each pipeline's by run id. See `Run.get_metrics`."""
        if recursive:
            return super().get_metrics(name, True, run_type)
        found: dict[str, Any] = self._best(None).get_metrics(name) if self._trials() else {}
        return found

    def _best(self, metric: str | None) -> IterationRun:
        trials = self._trials()
        try:
            recorded_name = {sdk: ours for ours, sdk in ALIASES.items()}.get(str(metric), metric)
            logged = metric is None or any(metric in run.record.metrics for run in trials)
            work = self._work.best_of(trials, metric if logged else recorded_name)
        except LabrunError as error:
            raise UserErrorException(f"AutoMLRun: {error}") from error
        return IterationRun(self._experiment, work=work, run_type="azureml.scriptrun")

    def get_best_child(self, metric: str | None = None, onnx_compatible: bool = False, **unknown: Any) -> IterationRun:
        """Return the best iteration by the primary metric or another metric."""
        arguments.check(AutoMLRun.get_best_child, unknown)
        if onnx_compatible:
            absent.not_here("get_best_child(onnx_compatible=True)", absent.ONNX)
        return self._best(metric)

    def get_output(
        self,
        iteration: int | None = None,
        metric: str | None = None,
        return_onnx_model: bool = False,
        return_split_onnx_model: Any = None,
        **unknown: Any,
    ) -> tuple[Run, FittedModel]:
        """Return the best iteration, by the primary or another metric, or a given one, with its fitted model.

        A pipeline other than the best is fitted now, because the search only cross-validated it.

        Raises:
            UserErrorException: there is no such iteration, or none has ended.
        """
        arguments.check(AutoMLRun.get_output, unknown)
        if return_onnx_model or return_split_onnx_model:
            absent.not_here("get_output(return_onnx_model=True)", absent.ONNX)
        if not self._work.is_over:
            notify_once(f"AutoMLRun.get_output(): the search {self.id} is still running; waiting for it to end")
            self._work.wait_for_completion(show_output=False, raise_on_error=False)
        run = self._iteration(iteration) if iteration is not None else self._best(metric)
        fitted = self._fitted(run, iteration is None and metric is None)
        return run, FittedModel(fitted)

    def _iteration(self, number: int) -> IterationRun:
        trials = self._trials()
        for run in trials:
            if run.record.number == number:
                return IterationRun(self._experiment, work=run, run_type="azureml.scriptrun")
        raise UserErrorException(f"AutoMLRun {self.id}: there is no iteration {number}; it has {len(trials)}")

    def _fitted(self, run: IterationRun, is_best: bool = False) -> Path:
        """Return the folder of the run with a pipeline's fitted model, fitting the pipeline if necessary.

        Args:
            run: the pipeline's run.
            is_best: the caller knows that it is the best.
        """
        if not self._work.is_over:  # the best pipeline is fitted at the end of the search
            self._work.wait_for_completion(raise_on_error=False)
        best = Path(self._work.folder) / BEST
        is_best = (best / "run.json").is_file() and (is_best or run.id == self._best(None).id)
        if is_best and read_record(best).status == COMPLETED:
            return best
        for child in functions.runs(root=self.experiment.workspace.folder, tags={"azureml.refit": run._work.id}):
            if child.status == COMPLETED:
                return Path(child.folder)
        record = run._work.record
        overrides = [text for text in record.overrides if not text.startswith(("sweep", "name=", "tags", "compute"))]
        again = [*overrides, "model.folds=0", "model.refit=true", "compute=inline", override("name", self._work.name)]
        work = functions.submit(
            [*again, override("tags", {"azureml.refit": run._work.id})],
            root=self.experiment.workspace.folder,
            environment={"PYTHONPATH": own_path()},
        )
        try:
            work.wait_for_completion()
        except LabrunError as error:
            raise UserErrorException(f"AutoMLRun: iteration {record.number} cannot be fitted: {error}") from error
        return Path(work.folder)

    def register_model(  # type: ignore[override]
        self,
        model_name: str | None = None,
        description: str | None = None,
        tags: Mapping[str, Any] | None = None,
        iteration: int | None = None,
        metric: str | None = None,
        **unknown: Any,
    ) -> Any:
        """Register the fitted model of the best or another iteration, and store its name in `model_id`.

        Raises:
            UserErrorException: there is no such iteration, or the name is invalid.
            TypeError: there is no such argument.
        """
        from labrun.azureml import registering

        arguments.check(AutoMLRun.register_model, unknown)
        run = self._iteration(iteration) if iteration is not None else self._best(metric)
        shown = Run(self._experiment, work=handles.Run(self._fitted(run)))
        name = model_name or f"AutoML{self._work.id}{'best' if iteration is None else iteration}"
        made = registering.of_run(shown, name, None, registered.about(tags, None, description, None, None))
        self.model_id = name
        return made

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True, **unknown: Any
    ) -> dict[str, Any]:
        """Wait until the search has ended; with `show_output`, print the table of iterations as it grows.

        Raises:
            ActivityFailedException: no iteration completed.
        """
        details = super().wait_for_completion(show_output, wait_post_processing, raise_on_error=False, **unknown)
        failed = [run for run in self._trials() if run.status in (FAILED, LOST)]
        if len(failed) == len(self._trials()) and raise_on_error:
            super().wait_for_completion(False, wait_post_processing, raise_on_error=True)
        return details

    def continue_experiment(
        self, *args: Any, show_output: bool = False, iterations: int | None = None, **settings: Any
    ) -> AutoMLRun:
        """Try more pipelines and wait for them.

        Args:
            *args: `X` and `y`, the same samples as before, and more of the SDK's arguments in its order.
            show_output: print the table of iterations.
            iterations: the number of additional iterations; None: as many as the search was submitted with.
            **settings: the same samples as keywords, and new limits such as `experiment_timeout_hours`.

        Raises:
            NotInLabrun: another program submitted the search.
            UserErrorException: the samples differ.
            TypeError: there is no such argument.
        """
        settings |= dict(zip(CONTINUED, args, strict=False))
        arguments.check(AutoMLRun.continue_experiment, settings, (*CONTINUED, *LIMITS))
        arguments.tell_unused(
            "continue_experiment",
            {name: settings.get(name) for name in UNUSED},
            "labrun weights all samples equally and compares pipelines as before",
        )
        if self.automl_config is None:
            absent.not_here(
                f"continue_experiment() of {self.id}, a search of another program,",
                "submit another AutoMLConfig, or repeat the command that `lab runs show` prints with sweep.resume",
            )
        more = iterations or self.automl_config.user_settings.get("iterations") or len(self._trials())
        changes = {key: value for key, value in settings.items() if value is not None}
        made: AutoMLRun = self.automl_config.resume(self, iterations=len(self._trials()) + int(more), **changes)
        made.wait_for_completion(show_output=show_output)
        return made

    def cancel_iteration(self, iteration: int) -> None:
        """Cancel one iteration; the search continues."""
        self._iteration(iteration).cancel()

    def clean_preprocessor_cache(self) -> None:
        """Do nothing: labrun has no such cache."""

    def summary(self) -> list[list[Any]]:
        """Return for each algorithm its name, the number of trials and the best score (failures: `Failed`, NaN)."""
        metric = self.get_properties().get("primary_metric", "")
        best = min if direction.of(metric) == direction.MIN else max
        scores: dict[str, list[float]] = {}
        for run in self.get_children():
            score = run.get_metrics().get(metric)
            name = "Failed" if score is None else run.get_properties()["run_algorithm"]
            scores.setdefault(name, []).append(math.nan if score is None else float(score))
        return [[name, len(found), best(found)] for name, found in scores.items()]

    def get_guardrails(self, to_console: bool = True) -> list[Any]:
        """Return an empty list: the log has the data checks."""
        return []

    def get_run_sdk_dependencies(
        self, iteration: int | None = None, check_versions: bool = True, **unknown: Any
    ) -> dict[str, str]:
        """Return the packages that the search used, with their versions: the same for each iteration."""
        arguments.check(AutoMLRun.get_run_sdk_dependencies, unknown)
        return dict(self._trials()[0].record.packages) if self._trials() else {}


class FittedModel:
    """A fitted pipeline, as returned by `get_output`: scikit-learn's pipeline with the original class labels.

    Args:
        folder: the folder of the run that saved it.
    """

    def __init__(self, folder: Path) -> None:
        self._saved = functions.load_model(folder)
        data = read_record(folder).typed.dataset["script"]
        parts = automl_data.of_script(Path(data), Path(data).parent)
        labels = np.unique(np.asarray(parts.get("y", parts.get("y_train"))))
        self._labels = {str(label): label.item() for label in labels} if self._saved.class_names else {}

    def __repr__(self) -> str:
        return repr(self._saved.model)

    @property
    def steps(self) -> list[tuple[str, Any]]:
        """The steps under the SDK's names; the first is the `datatransformer`."""
        model, names = self._saved.model, self._saved.columns
        return fitted_steps.of(model, list(names or (f"column{step}" for step in range(model.n_features_in_))))

    @property
    def named_steps(self) -> dict[str, Any]:
        """The steps by name."""
        from sklearn.utils import Bunch

        found: dict[str, Any] = Bunch(**dict(self.steps))
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_saved":
            raise AttributeError(name)
        return getattr(self._saved.model, name)

    def predict(self, X: Any) -> Any:  # noqa: N803 - as scikit-learn calls it
        """Predict labels or quantities, shape (N,).

        Args:
            X: (N, F) numbers, or a data frame with the columns of the training data.
        """
        found = self._saved.predict(X)
        if not self._labels:
            return np.asarray(found)
        return np.asarray([self._labels.get(str(label), label) for label in found])

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Predict the probability of each class, shape (N, classes)."""
        return self._saved.predict_proba(X)

    @property
    def classes_(self) -> Any:
        """The classes, in the order of `predict_proba`."""
        return np.asarray([self._labels.get(name, name) for name in self._saved.class_names])

    def score(self, X: Any, y: Any) -> float:  # noqa: N803
        """Return the accuracy or, for a regression, R2."""
        predicted, wanted = self.predict(X), np.asarray(y).ravel()
        if self._labels:
            return float(np.mean(predicted == wanted))
        spread = float(np.sum((wanted - wanted.mean()) ** 2))
        return 1 - float(np.sum((wanted - predicted) ** 2)) / spread if spread else math.nan
