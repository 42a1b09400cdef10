"""The run of a script that is tried by hand: it prints the logged values and records nothing."""

from __future__ import annotations

import sys
import uuid
from types import SimpleNamespace
from typing import Any

from labrun.compat.azureml import absent, arguments
from labrun.compat.azureml.training import children, files, values
from labrun.compat.azureml.training.base import RunBase, failure_text


def _print_attempt(text: str) -> None:
    sys.stdout.write(f"Attempted to {text}\n")


class _OfflineRun(RunBase):
    """The result of `Run.get_context()` outside a run; scripts check for this class by name."""

    parent = None
    number = None
    display_name = None

    def __init__(self) -> None:
        self.id = f"OfflineRun_{uuid.uuid4()}"
        self.tags: dict[str, str] = {}
        self.properties: dict[str, str] = {}
        self._metrics: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Run(Experiment: offline, Id: {self.id})"

    @property
    def status(self) -> str:
        return "Running"

    def get_status(self) -> str:
        """Return `Running`, since the calling script is running."""
        return self.status

    def get_details(self) -> dict[str, Any]:
        """Return the few known details."""
        return {"runId": self.id, "status": self.status, "properties": {}, "inputDatasets": [], "logFiles": {}}

    def _keep(self, kind: str, name: str, value: Any) -> None:
        number = values.as_number(value)
        _print_attempt(
            f"log {kind} metric {name}: {value if number is None or isinstance(value, (bool, int)) else number}"
        )
        if kind == "scalar" and name in self._metrics:
            before = self._metrics[name]
            value = [*(before if isinstance(before, list) else [before]), value]
        self._metrics[name] = value

    def log(self, name: str, value: Any, description: str = "", step: int | None = None) -> None:
        """Print a metric."""
        self._keep("scalar", name, value)

    def log_list(self, name: str, value: Any, description: str = "") -> None:
        """Print a list."""
        self._keep("list", name, value)

    def log_row(self, name: str, description: str | None = None, **kwargs: Any) -> None:
        """Print a row."""
        self._keep("row", name, kwargs)

    def log_table(self, name: str, value: Any, description: str = "") -> None:
        """Print a table."""
        self._keep("table", name, value)

    def log_image(self, name: str, path: Any = None, plot: Any = None, description: str = "") -> None:
        """Print the name of an image."""
        _print_attempt(f"log image metric {name}: {path if plot is None else plot}")

    def log_confusion_matrix(self, name: str, value: Any, description: str = "") -> None:
        """Print a confusion matrix."""
        self._keep("confusion matrix", name, value)

    def log_accuracy_table(self, name: str, value: Any, description: str = "") -> None:
        """Print an accuracy table."""
        self._keep("accuracy table", name, value)

    def log_predictions(self, name: str, value: Any, description: str = "") -> None:
        """Print predictions."""
        self._keep("predictions", name, value)

    def log_residuals(self, name: str, value: Any, description: str = "") -> None:
        """Print residuals."""
        self._keep("residuals", name, value)

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: Any = None, populate: bool = False
    ) -> dict[str, Any]:
        """Return the values logged so far; with `recursive`, by run id as for other runs."""
        own = {key: value for key, value in self._metrics.items() if name in (None, key)}
        return ({self.id: own} if own else {}) if recursive else own

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: str | None = None) -> None:
        """Print the name of a file."""
        _print_attempt(f"track file {name} at {path_or_stream}")

    def upload_files(
        self,
        names: Any,
        paths: Any,
        return_artifacts: bool = False,
        timeout_seconds: Any = None,
        datastore_name: str | None = None,
    ) -> None:
        """Print the names of files."""
        for name, path in files.pairs(names, paths):
            self.upload_file(name, path)

    def upload_folder(self, name: str, path: Any, datastore_name: str | None = None) -> None:
        """Print the name of a folder."""
        _print_attempt(f"track folder {name} at {path}")

    def get_file_names(self) -> list[str]:
        """Return an empty list: nothing is stored."""
        return []

    def tag(self, key: str, value: Any = None) -> None:
        """Print a tag."""
        self.set_tags({key: value})

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Print tags."""
        for key, value in tags.items():
            _print_attempt(f"tag the run: {key}={value}")
            self.tags[str(key)] = "" if value is None else str(value)

    def remove_tags(self, tags: Any) -> None:
        """Remove tags by key."""
        for key in values.as_list(tags):
            self.tags.pop(str(key), None)

    def add_properties(self, properties: dict[str, Any]) -> None:
        """Print properties."""
        for key, value in properties.items():
            _print_attempt(f"add the property {key}={value}")
            self.properties.setdefault(str(key), str(value))

    def get_tags(self) -> dict[str, str]:
        """Return the tags set so far."""
        return dict(self.tags)

    def get_properties(self) -> dict[str, str]:
        """Return the properties set so far."""
        return dict(self.properties)

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Any = None,
        properties: Any = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        description: str | None = None,
        datasets: Any = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Any = None,
        **unknown: Any,
    ) -> Any:
        """Print the name of a model.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(_OfflineRun.register_model, unknown)
        _print_attempt(f"register the model {model_name} from {model_path}")
        return SimpleNamespace(name=model_name, version=None, id=model_name)

    def child_run(
        self, name: Any = None, run_id: Any = None, outputs: Any = None, tags: Any = None, **unknown: Any
    ) -> _OfflineRun:
        """Return a child run that also only prints.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(_OfflineRun.child_run, unknown)
        _print_attempt(f"begin a child run {name or ''}".rstrip())
        child = _OfflineRun()
        if tags:
            child.set_tags(tags)
        return child

    def create_children(
        self, count: int | None = None, tag_key: Any = None, tag_values: Any = None
    ) -> list[_OfflineRun]:
        """Return several child runs that also only print.

        Raises:
            UserErrorException: neither `count` nor a tag's values were given, or both.
        """
        return [self.child_run(tags=tags) for tags in children.tags_of(count, tag_key, tag_values)]

    def get_children(
        self,
        recursive: bool = False,
        tags: Any = None,
        properties: Any = None,
        type: str | None = None,
        status: str | None = None,
        _rehydrate_runs: bool = True,
    ) -> list[_OfflineRun]:
        """Return an empty list: nothing is stored."""
        return []

    def submit_child(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a run that only prints cannot submit children."""
        absent.submit_way("run.submit_child() outside of a run")

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """Print the reason for the failure."""
        _print_attempt(f"mark the run as failed: {failure_text(error_details, error_code)}")

    def cancel(self) -> None:
        """Print that the script canceled the run."""
        _print_attempt("cancel the run")
