"""`Run`: the run that a script belongs to or, for a script tried by hand, one that only prints."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

from labrun import causes
from labrun.compat.azureml import arguments, finder
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import RunEnvironmentException
from labrun.compat.azureml.training import children, files, model, registered, script_context, values
from labrun.compat.azureml.training.base import RunBase, RunFacts, failure_text, sdk_status
from labrun.compat.azureml.training.metrics import FOLDER, Metrics, read
from labrun.compat.azureml.training.offline import _OfflineRun
from labrun.runs import child_list, context, definition, sdk_ids
from labrun.runs.context import RunContext
from labrun.runs.end_requests import Request, write_request

__all__ = ["Run", "_OfflineRun", "_SubmittedRun"]

TYPE_TAG, SCRIPT_RUN = "azureml.type", "azureml.scriptrun"
"""The record property that holds the SDK's run type, and the type of a run without it."""


class Run(RunFacts, RunBase):
    """The script's run, which is recorded.

    Args:
        experiment: the experiment of another run; not used for this one.
        run_id: this run's id or, if the script's interpreter has labrun, another run's.
        outputs: not used: `./outputs` belongs to the run.
        **unknown: refused.

    Raises:
        TypeError: there is no such argument.
        NotInLabrun: the id is another run's, and the interpreter does not have labrun.
        RunEnvironmentException: the script does not belong to a run.
    """

    def __new__(cls, experiment: Any = None, run_id: str | None = None, outputs: Any = None, **unknown: Any) -> Any:
        arguments.check(Run.__init__, unknown)
        run = context.current()
        whole = finder.whole()
        if run is None or run_id is None or whole is None or run_id in ids(run):
            return super().__new__(cls)
        return whole.find("azureml.core", "Run")(experiment, run_id)

    def __init__(self, experiment: Any = None, run_id: str | None = None, outputs: Any = None, **unknown: Any) -> None:
        run = context.current()
        if run is None:
            raise RunEnvironmentException(
                "this script does not belong to a run: use Run.get_context(), which returns one that only prints"
            )
        self._run: RunContext = run
        self._metrics = Metrics(run)
        if run_id is not None and run_id not in ids(run):
            not_here(
                f"Run({run_id!r}), a run other than the script's own,", "`lab runs show`, or labrun.runs() in Python"
            )

    @classmethod
    def get_context(cls, allow_offline: bool = True, used_for_context_manager: bool = False, **unknown: Any) -> Any:
        """Return the run that this script belongs to, or an `_OfflineRun` outside a run.

        Raises:
            RunEnvironmentException: the script does not belong to a run, and `allow_offline` is False.
            TypeError: there is no such argument.
        """
        arguments.check(Run.get_context, unknown)
        run = context.current()
        if run is not None:
            return _submitted(str(run.run_dir), run.attempt)
        if allow_offline:
            return _offline()
        raise RunEnvironmentException(
            "this script does not belong to a run, and its allow_offline=False forbids running without one"
        )

    @classmethod
    def get_submitted_run(cls, **unknown: Any) -> Any:
        """Return `get_context()`, under its name from 2018."""
        return cls.get_context(**unknown)

    @classmethod
    def get(cls, workspace: Any, run_id: str) -> Any:
        """Return a run by its id; see the class."""
        return cls(run_id=run_id)

    def __repr__(self) -> str:
        return f"Run(Experiment: {self.experiment.name}, Id: {self.id}, Status: {self.status})"

    @property
    def _record(self) -> dict[str, Any]:
        return script_context.record(self._run.run_dir)

    @property
    def id(self) -> str:
        return _id(self._run)

    @property
    def number(self) -> int:
        """The run's number in its sweep; 1 for a stand-alone run."""
        return int((self._record.get("sweep") or {}).get("number", 1))

    @property
    def display_name(self) -> str:
        return str(self._record.get("name") or "")

    @property
    def parent(self) -> Any:
        """The parent sweep or run; None for a stand-alone run.

        Without labrun in the script's interpreter, it has only an `id` and an `experiment`.
        """
        record = self._record
        sweep = Path(str((record.get("sweep") or {}).get("folder") or "")).name.rpartition("-")[2]
        origin = sweep or record.get("parent")
        whole = finder.whole()
        if origin and whole is not None:
            return whole.find("azureml.core", "Run").get(None, str(origin))
        shown = sdk_ids.of_search(sweep, False) if sweep else str(origin)
        return SimpleNamespace(id=shown, experiment=self.experiment) if origin else None

    def get_status(self) -> str:
        """Return the record's status as the SDK's status word, such as `Running`."""
        status = str(self._record.get("status") or "running")
        return sdk_status(status)

    def get_details(self) -> dict[str, Any]:
        """Return the record's content under the SDK's names."""
        record = self._record
        return {
            "runId": self.id,
            "status": self.status,
            "startTimeUtc": definition.utc(record.get("started")),
            "properties": self.properties,
            "inputDatasets": list(self.input_datasets),
            "runDefinition": definition.of(record.get("config") or {}),
            "logFiles": {"driver.log": str(self._run.run_dir / "driver.log")},
        }

    def get_portal_url(self) -> str:
        """Return the URI of the run's folder."""
        return self._run.run_dir.absolute().as_uri()

    def log(self, name: str, value: Any, description: str = "", step: int | None = None) -> None:
        """Log one value of a metric. Text goes to a file in `logs/azureml/`."""
        self._metrics.scalar(name, value, step)

    def log_list(self, name: str, value: Any, description: str = "") -> None:
        """Log a list. Its values become the metric's steps, starting at 0."""
        self._metrics.series(name, value)

    def log_row(self, name: str, description: str | None = None, **kwargs: Any) -> None:
        """Log a row of a table. Its numbers become metrics `name/column`."""
        self._metrics.row(name, kwargs)

    def log_table(self, name: str, value: dict[str, Any], description: str = "") -> None:
        """Log a table, given as columns. Its numbers become metrics `name/column`."""
        self._metrics.table(name, value)

    def log_image(self, name: str, path: Any = None, plot: Any = None, description: str = "") -> None:
        """Save an image in `outputs/`: a file or a matplotlib plot."""
        self._metrics.image(name, path, plot)

    def log_confusion_matrix(self, name: str, value: Any, description: str = "") -> None:
        """Save a confusion matrix in `outputs/`, in the same form as labrun's own runs."""
        self._metrics.confusion(name, value)

    def log_accuracy_table(self, name: str, value: Any, description: str = "") -> None:
        """Save an accuracy table in `outputs/`."""
        self._metrics.document(name, value)

    def log_predictions(self, name: str, value: Any, description: str = "") -> None:
        """Save predictions in `outputs/`."""
        self._metrics.document(name, value)

    def log_residuals(self, name: str, value: Any, description: str = "") -> None:
        """Save residuals in `outputs/`."""
        self._metrics.document(name, value)

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: str | None = None, populate: bool = False
    ) -> Any:
        """Return the logged values: one value per name, a list if there are several, columns for a table.

        Args:
            name: only this metric.
            recursive: include child runs; the result is then keyed by run id.
            run_type: include only child runs of this type.
            populate: not used.
        """
        own = {key: value for key, value in read(self._run.run_dir, self._run.attempt).items() if name in (None, key)}
        if not recursive:
            return own
        below = {child.id: child.get_metrics(name) for child in self.get_children(recursive=True, type=run_type)}
        return {run_id: found for run_id, found in {**below, self.id: own}.items() if found}

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: str | None = None) -> None:
        """Copy a file into the run's folder under a name such as `outputs/model.pkl`; see `files.upload`."""
        files.tell_datastore("upload_file", datastore_name)
        files.upload(self._run.run_dir, name, path_or_stream)

    def upload_files(
        self,
        names: Any,
        paths: Any,
        return_artifacts: bool = False,
        timeout_seconds: Any = None,
        datastore_name: str | None = None,
    ) -> None:
        """Copy several files into the run's folder.

        Raises:
            TypeError: there are more names than paths, or fewer.
        """
        for name, path in files.pairs(names, paths):
            self.upload_file(name, path, datastore_name)

    def upload_folder(self, name: str, path: Any, datastore_name: str | None = None) -> None:
        """Copy a folder into the run's folder."""
        files.tell_datastore("upload_folder", datastore_name)
        files.upload_folder(self._run.run_dir, name, path)

    def download_file(self, name: str, output_file_path: Any = None, **unknown: Any) -> None:
        """Copy one of the run's files to another place."""
        arguments.check(Run.download_file, unknown)
        files.download(self._run.run_dir, name, output_file_path)

    def get_file_names(self) -> list[str]:
        """Return the names of the files that the run wrote, including its log."""
        return files.listing(self._run.run_dir)

    def tag(self, key: str, value: Any = None) -> None:
        """Set a tag."""
        self.set_tags({key: value})

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Set tags; other tags stay."""
        context.annotate(self._run.run_dir, tags=values.as_texts(tags))

    def remove_tags(self, tags: Any) -> None:
        """Remove tags by key."""
        context.annotate(self._run.run_dir, untag=[str(key) for key in values.as_list(tags)])

    def add_properties(self, properties: dict[str, Any]) -> None:
        """Add properties; an existing property never changes."""
        context.annotate(self._run.run_dir, properties=values.as_texts(properties))

    def get_tags(self) -> dict[str, str]:
        """Return the current tags."""
        return dict(self._record.get("tags") or {})

    def get_properties(self) -> dict[str, str]:
        """Return the current properties."""
        return dict(self._record.get("properties") or {})

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
        """Register a file or folder of the run when the run completes. A failed run registers nothing.

        Args:
            model_name: the model's name.
            model_path: a path in the run's folder, such as `outputs/model.pkl`, or else in the working folder;
                None: `outputs`.
            tags: the version's tags.
            properties: the version's properties.
            model_framework: kept.
            model_framework_version: kept.
            description: the version's description.
            datasets: not kept: the run's record lists the data that it read.
            sample_input_dataset: not kept.
            sample_output_dataset: not kept.
            resource_configuration: not kept.
            **unknown: refused.

        Raises:
            ModelPathNotFoundException: there is no such file or folder.
            TypeError: there is no such argument.
        """
        arguments.check(Run.register_model, unknown)
        registered.tell_not_kept(
            "register_model", datasets, sample_input_dataset, sample_output_dataset, resource_configuration
        )
        about = registered.about(tags, properties, description, model_framework, model_framework_version)
        return model.promised(self._run, model_name, model_path, about, local=False)

    def child_run(
        self, name: Any = None, run_id: Any = None, outputs: Any = None, tags: Any = None, **unknown: Any
    ) -> Any:
        """Start a child run. It has its own metrics and ends on its own call or with this run.

        Args:
            name: the child's display name.
            run_id: not used: labrun assigns the ids; a notice says so.
            outputs: a folder whose files are copied into the child's `outputs` when the child ends on its own call.
            tags: the child's tags.
            **unknown: refused.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(Run.child_run, unknown)
        arguments.tell_unused("child_run", {"run_id": run_id}, children.ASSIGNED)
        folder = children.begin(self._run.run_dir, name, tags)
        if outputs is None or isinstance(outputs, bool):
            return ChildRun(folder, self)
        return ChildRun(folder, self, os.path.abspath(os.path.expanduser(os.fsdecode(outputs))))

    def create_children(self, count: int | None = None, tag_key: Any = None, tag_values: Any = None) -> list[Any]:
        """Start `count` child runs, or one per value of a tag.

        Raises:
            UserErrorException: neither or both were given.
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
    ) -> Any:
        """Yield the child runs, newest first.

        Args:
            recursive: include the children's children.
            tags: only runs with these tags: a name, or names with values.
            properties: only runs with these properties, in the same form.
            type: only runs of this type.
            status: only runs with this status, such as `Completed`.
        """
        for child in self._children():
            own_type = child.get_properties().get(TYPE_TAG, SCRIPT_RUN)
            fits = type in (None, own_type) and status in (None, child.get_status())
            if fits and registered.fits(child.get_tags(), tags) and registered.fits(child.get_properties(), properties):
                yield child
            if recursive:
                yield from child.get_children(True, tags, properties, type, status)

    def _children(self) -> list[Any]:
        """Return the child runs, newest first, including sweeps if the script's interpreter has labrun."""
        found = reversed(children.folders(script_context.workspace(), self._run.run_dir))
        return [child for child in map(self._child, found) if child is not None]

    def _child(self, folder: Path) -> Any:
        if (folder / "run.json").is_file():
            return ChildRun(folder, self)
        whole = finder.whole()
        return None if whole is None else whole.find("azureml.core", "Run").get(None, folder.name.rpartition("-")[2])

    def submit_child(self, config: Any, tags: Any = None, **kwargs: Any) -> Any:
        """Submit a configuration as a child run.

        Raises:
            NotInLabrun: the script's interpreter does not have labrun.
        """
        whole = finder.whole()
        if whole is None:
            not_here("run.submit_child() in an interpreter without labrun", "run.child_run(), or a control script")
        experiment = whole.find("azureml.core", "Experiment")(None, self.experiment.name)
        child = experiment.submit(config, tags, parent=ids(self._run)[1], **kwargs)
        child_list.add(script_context.workspace(), self._run.run_dir, child._folder)
        return child

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """Mark the run to end as failed when its script returns."""
        message = failure_text(error_details, error_code)
        path = self._run.run_dir / FOLDER / "failed.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"message": message, "attempt": self._run.attempt}) + "\n", encoding="utf-8")

    def cancel(self) -> None:
        """Request that the run be canceled; its supervisor does so within seconds."""
        write_request(self._run.run_dir, Request.CANCEL, "the script canceled its own run\n")


class ChildRun(Run):
    """A child run. It ends with `complete`, `fail` or `cancel`, or else like its parent."""

    def __new__(cls, run_dir: Path, parent: Any, outputs: Any = None) -> ChildRun:
        return object.__new__(cls)

    def __init__(self, run_dir: Path, parent: Any, outputs: Any = None) -> None:
        self._run = RunContext(run_dir, 1)
        self._metrics = Metrics(self._run)
        self._parent = parent
        self._outputs = outputs
        """A folder whose files become the run's when it ends."""

    def __enter__(self) -> ChildRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run: completed, canceled on Ctrl-C, or failed if another exception ends the block."""
        if error is None:
            self.complete()
        elif any(isinstance(one, KeyboardInterrupt) for one in causes.chain(error)):
            self.cancel()
        else:
            self.fail(f"{type(error).__name__}: {error}")

    @property
    def parent(self) -> Any:
        return self._parent

    @property
    def display_name(self) -> str:
        return self.get_tags().get(children.DISPLAY_NAME) or super().display_name

    def complete(self, _set_status: bool = True) -> None:
        """End the run as completed."""
        self._close("completed")

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """End the run as failed; its parent continues."""
        self._close("failed", failure_text(error_details, error_code))

    def cancel(self) -> None:
        """End the run as canceled; its parent continues."""
        self._close("canceled", "canceled by the script")

    def _close(self, status: str, message: str | None = None) -> None:
        self.flush()
        if self._outputs is not None and os.path.isdir(self._outputs):
            self.upload_folder("outputs", self._outputs)
        self._outputs = None
        children.close(self._run.run_dir, status, message)


def _id(run: RunContext) -> str:
    return ids(run)[0]


def ids(run: RunContext) -> tuple[str, str]:
    """Return a run's id in the SDK's form and labrun's own id."""
    record = script_context.record(run.run_dir)
    own = str(record.get("id") or run.run_dir.name)
    return sdk_ids.of_run(own, record.get("sweep"), record.get("config") or {}), own


class _SubmittedRun(Run):
    """The class of a script's run; some scripts check for it by name."""


@lru_cache(maxsize=1)
def _submitted(run_dir: str, attempt: int) -> Run:
    """Return the same object throughout a process, because it counts the rows of tables."""
    return _SubmittedRun()


@lru_cache(maxsize=1)
def _offline() -> _OfflineRun:
    return _OfflineRun()
