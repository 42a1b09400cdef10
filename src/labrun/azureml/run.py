"""`Run` from the submitter's side: labrun's runs and sweeps under the SDK's names, with the SDK's status words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from labrun.api import handles
from labrun.azureml import definition, folder, kinds, lookup, starting
from labrun.azureml.advice import Advising, AdvisingType
from labrun.azureml.data_reference import DataPath
from labrun.azureml.experiment import Experiment
from labrun.azureml.notices import notify_once
from labrun.azureml.tags import OWN, SEARCHES, TARGET_TAG
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import (
    ActivityFailedException,
    ExperimentExecutionException,
    UserErrorException,
)
from labrun.compat.azureml.training import children, files, metrics, registered
from labrun.compat.azureml.training import run as training
from labrun.compat.azureml.training.base import RunBase, RunFacts, failure_text, sdk_status
from labrun.compat.azureml.training.keyvault import secret_of
from labrun.compat.azureml.training.run import TYPE_TAG
from labrun.errors import LabrunError
from labrun.remote import notes
from labrun.runs import context
from labrun.runs.record import CANCELED, COMPLETED, FAILED

Paths = list[Path]
Texts = list[str]
Runs = list[Any]

OWN_ARGUMENTS = {"work", "run_type"}
"""Arguments of the constructor that only labrun gives."""
SDK_ARGUMENTS = ("directory",)
"""Arguments of the constructor of the SDK's `ScriptRun`; not used."""


class _AnyRun(AdvisingType):
    """Makes `isinstance(run, Run)` true for every SDK run, including the one that a script belongs to."""

    def __instancecheck__(cls, instance: Any) -> bool:  # noqa: N805 - the first argument of a metaclass is the class
        if cls.__name__ == "Run" and isinstance(instance, RunBase):
            return True
        return super().__instancecheck__(instance)


class Run(RunFacts, Advising, metaclass=_AnyRun):
    """A submitted run or sweep.

    Inside a run, a call without an id, or with that run's id, returns the script's own run.

    Args:
        experiment: the experiment; None: the one in the run's record.
        run_id: the run's id.
        outputs: not used: the run's record says where its outputs are.
        **kwargs: `work` and `run_type`, for labrun.

    Raises:
        UserErrorException: there is no such run.
        TypeError: there is no such argument.
    """

    def __new__(cls, experiment: Any = None, run_id: str | None = None, **kwargs: Any) -> Any:
        current = context.current()
        if cls is Run and current is not None and "work" not in kwargs:
            inside = training.Run.get_context()
            if run_id is None or run_id in training.ids(current):
                return inside
        return super().__new__(cls)

    def __init__(self, experiment: Any = None, run_id: str | None = None, outputs: Any = None, **kwargs: Any) -> None:
        arguments.check(Run.__init__, kwargs.keys() - OWN_ARGUMENTS, SDK_ARGUMENTS)
        work = kwargs.get("work")
        if work is None:
            root = getattr(experiment, "workspace", None) or Workspace()
            work = lookup.find(root.folder, run_id)
        self._work = work
        self._experiment = experiment
        self._type = kwargs.get("run_type")

    # Lookup

    @classmethod
    def get_context(cls, allow_offline: bool = True, used_for_context_manager: bool = False, **unknown: Any) -> Any:
        """Return the run that this script belongs to; see `labrun.compat.azureml.training.run`."""
        return training.Run.get_context(allow_offline, used_for_context_manager, **unknown)

    @classmethod
    def get_submitted_run(cls, **unknown: Any) -> Any:
        """Return `get_context()`, under its name from 2018."""
        return cls.get_context(**unknown)

    @staticmethod
    def get(workspace: Any, run_id: str) -> Any:
        """Return a run by its id."""
        made = workspace if isinstance(workspace, Workspace) else Workspace()
        current = context.current()
        if current is not None and run_id in training.ids(current):
            return training.Run.get_context()
        return kinds.wrapped(None, lookup.find(made.folder, run_id))

    @staticmethod
    def list(
        experiment: Any,
        type: str | None = None,
        tags: Any = None,
        properties: Any = None,
        status: str | None = None,
        include_children: bool = False,
        **unknown: Any,
    ) -> Iterator[Run]:
        """Yield the runs of an experiment, newest first; see `Experiment.get_runs`."""
        arguments.check(Run.list, unknown)
        found: Iterator[Run] = experiment.get_runs(type, tags, properties, include_children, status)
        return found

    @staticmethod
    def list_by_compute(
        compute: Any, type: str | None = None, tags: Any = None, properties: Any = None, status: Any = None
    ) -> Iterator[Run]:
        """Yield the runs of a compute target, newest first."""
        works = lookup.runs_of(compute.workspace.folder, None, include_children=True)
        for run in (kinds.wrapped(None, work) for work in works):
            if run._is_sweep or run._notes.get(TARGET_TAG) != compute.name:
                continue
            fits = type in (None, run.type) and status in (None, run.get_status())
            if fits and registered.fits(run.tags, tags) and registered.fits(run.properties, properties):
                yield run

    def __repr__(self) -> str:
        return (
            f"Run(Experiment: {self.experiment.name},\nId: {self.id},\nType: {self.type},\nStatus: {self.get_status()})"
        )

    def _repr_html_(self) -> str:
        from labrun.azureml import widgets

        row = {"Experiment": self.experiment.name, "Id": self.id, "Type": self.type, "Status": self.get_status()}
        return widgets.table([{**row, "Details Page": self.get_portal_url()}])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and getattr(other, "id", None) == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        """Copy with the wrapped work: a copy made inside a run must not turn into that run."""
        return (), {"work": self._work}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave the run as it is: this program does not own it."""

    # Identity

    @property
    def _is_sweep(self) -> bool:
        return isinstance(self._work, handles.Sweep)

    @property
    def _folder(self) -> Path:
        return Path(self._work.folder)

    @property
    def _notes(self) -> dict[str, str]:
        """The names that the control script gave to its target and environment, taken from its search if need be."""
        if not self._is_sweep and (properties := dict(self._work.record.properties)).keys() & set(OWN):
            return properties
        if self._is_sweep:
            search = self._work
        elif self._work.record.sweep is None or (search := self._work.parent) is None:
            return {}
        return dict(folder.read_table(self.experiment.workspace.folder, SEARCHES).get(search.id) or {})

    @property
    def experiment(self) -> Experiment:
        """The experiment that the run belongs to."""
        if self._experiment is None:
            self._experiment = Experiment(Workspace(), self._work.name, _skip_name_validation=True)
        found: Experiment = self._experiment
        return found

    @cached_property
    def id(self) -> str:
        """labrun's id, by which every run is found; for a search and its runs the SDK's form, such as `HD_<uuid>_3`."""
        return kinds.id_of(self._work)

    @property
    def number(self) -> int:
        """The run's number within its sweep or, without one, within its experiment (counted from 1)."""
        if not self._is_sweep and self._work.record.sweep is not None:
            return int(self._work.record.number or 0)
        siblings = lookup.runs_of(self.experiment.workspace.folder, self._work.name)
        folders = [work.folder for work in reversed(siblings)]
        return folders.index(self._work.folder) + 1 if self._work.folder in folders else 0

    @property
    def type(self) -> str:
        """`azureml.scriptrun`, `hyperdrive`, `automl`, ..."""
        if self._type:
            return str(self._type)
        if self._is_sweep:
            return kinds.type_of(self._work)
        return self._shared("properties").get(TYPE_TAG) or "azureml.scriptrun"

    @property
    def display_name(self) -> str:
        return self.tags.get("display_name") or str(self._work.name)

    @display_name.setter
    def display_name(self, value: str) -> None:
        self.tag("display_name", value)

    @property
    def description(self) -> str:
        return self.tags.get("description", "")

    @property
    def parent(self) -> Any:
        """The parent sweep or run; None for a stand-alone run."""
        try:
            origin = self._work.parent
        except LabrunError:
            return None
        return None if origin is None else kinds.wrapped(self._experiment, origin)

    # Status and control

    def get_status(self) -> str:
        """Return the SDK's status word.

        In the SDK, a search with some failed runs is `Completed`; only those runs are `Failed`.
        """
        status = str(self._work.status)
        if self._is_sweep and status == FAILED:
            states = {child.status for child in self._work.get_children()}
            better = [state for state in (CANCELED, COMPLETED) if state in states]
            status = better[0] if better else status
        return sdk_status(status)

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True, **unknown: Any
    ) -> dict[str, Any]:
        """Wait until the run has ended.

        Args:
            show_output: stream the run's output.
            wait_post_processing: not used: labrun has no post-processing.
            raise_on_error: raise if the run failed.
            **unknown: refused.

        Returns:
            The same as `get_details`.

        Raises:
            ActivityFailedException: the run failed.
            ExperimentExecutionException: Ctrl-C interrupted the output; the run keeps going.
            TypeError: there is no such argument.
        """
        arguments.check(Run.wait_for_completion, unknown)
        if show_output:
            sys.stdout.write(f"RunId: {self.id}\nWeb View: {self.get_portal_url()}\n\n")
            sys.stdout.write("Streaming driver.log\n====================\n\n")
            sys.stdout.flush()
        try:
            self._work.wait_for_completion(show_output=show_output, raise_on_error=False)
        except KeyboardInterrupt as error:
            if not show_output:
                raise
            raise ExperimentExecutionException(
                f"The output streaming for the run interrupted. But the run is still executing: run.cancel(), or "
                f"`lab runs cancel {self.id}`, ends it"
            ) from error
        if show_output:
            sys.stdout.write(f"\nExecution Summary\n=================\nRunId: {self.id}\nStatus: {self.status}\n\n")
            sys.stdout.flush()
        failure = self._work.failure()
        if failure is not None and raise_on_error and self.get_status() == "Failed":
            raise ActivityFailedException(failure, error_details=failure)
        return self.get_details()

    def start(self) -> None:
        """Do nothing: a submitted run has already started."""

    def cancel(self) -> None:
        """Cancel the run and wait up to 20 seconds for it to stop."""
        self._work.cancel()

    def complete(self, _set_status: bool = True) -> None:
        """Do nothing: a run completes when its script ends."""

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """Cancel the run, with the reason in the tag `error_details`."""
        self.tag("error_details", failure_text(error_details, error_code))
        self.cancel()

    def flush(self, timeout_seconds: int = 300) -> None:
        """Do nothing: logged values are already on disk."""

    # Results

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: Any = None, populate: bool = False
    ) -> dict[str, Any]:
        """Return the logged values by metric name: numbers, lists, table columns or text.

        Args:
            name: only this metric.
            recursive: include child runs; the result is then keyed by run id.
            run_type: include only child runs of this type.
            populate: not used.
        """
        values = {key: value for key, value in self._logged().items() if name in (None, key)}
        if not recursive:
            return values if self._work.is_over else Logged(self, values)
        below = {child.id: child.get_metrics(name) for child in self.get_children(recursive=True, type=run_type)}
        return {run_id: found for run_id, found in {**below, self.id: values}.items() if found}

    def _logged(self) -> dict[str, Any]:
        return {} if self._is_sweep else metrics.read(self._folder, max(len(self._work.record.attempts), 1))

    def _has_ended(self, call: str) -> bool:
        """Wait for a script that is still running; return False if there is none.

        In some notebooks the author waited by hand between two cells, so the next cell asks for results that the
        script has yet to write.
        """
        if self._work.is_over or self._is_sweep or self.type != "azureml.scriptrun":
            return False
        notify_once(f"{call}: the run {self.id} is still running; waiting for it to end")
        self._work.wait_for_completion(show_output=False, raise_on_error=False)
        return True

    def get_details(self) -> dict[str, Any]:
        """Return the run's details under the SDK's names."""
        return definition.details(self)

    def get_details_with_logs(self) -> dict[str, Any]:
        """Return the same as `get_details`, with the log files' text in place of their paths."""
        details = self.get_details()
        names = details["logFiles"]
        texts = {name: Path(path).read_text(errors="replace") for name, path in names.items()}
        details["logFiles"] = files.LogFiles(texts)
        return details

    def get_detailed_status(self) -> dict[str, Any]:
        """Return the status and, for a failed run, the reason."""
        return {"status": self.get_status(), "details": [self._work.failure()] if self._work.failure() else []}

    def get_docs_url(self) -> str:
        """Return the path of the page that explains the SDK's names."""
        return "docs/coming-from-azureml.md"

    @property
    def portal_url(self) -> str:
        return self.get_portal_url()

    @property
    def identity(self) -> str:
        return self.id

    def get_secret(self, name: str) -> str:
        """Return a secret, which is an environment variable."""
        return secret_of(f"run.get_secret({name!r})", name)

    def get_secrets(self, secrets: Any) -> dict[str, str]:
        """Return several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def clean(self) -> None:
        """Do nothing: a run's working folder is part of its record."""

    def take_snapshot(self, file_or_folder_path: Any = None) -> str:
        """Return the run's id: the code was frozen when the run started; a notice says so."""
        notify_once(
            f"take_snapshot({file_or_folder_path!r}): nothing is copied: labrun keeps the code that the run started "
            "with. upload_folder() keeps more files"
        )
        return self.id

    def get_logs(self) -> dict[str, str]:
        """Return the paths of the log files by name."""
        found: dict[str, str] = self.get_details()["logFiles"]
        return found

    def get_all_logs(self, destination: Any = None) -> Texts:
        """Copy the log files and return the copies' paths."""
        target = Path(destination or ".") / self.id
        copies = []
        for name, path in self.get_logs().items():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(Path(path).read_bytes())
            copies.append(str(copy))
        return copies

    def get_file_names(self) -> Texts:
        """Return the names of the files that the run wrote, including its log."""
        return files.listing(self._folder) if not self._is_sweep else []

    def download_file(self, name: str, output_file_path: Any = None, **unknown: Any) -> None:
        """Copy one of the run's files to a path or into a folder (default: the current folder).

        Raises:
            UserErrorException: the run has no such file.
        """
        arguments.check(Run.download_file, unknown)
        try:
            files.download(self._folder, name, output_file_path)
        except UserErrorException:
            if not self._has_ended(f"download_file({name!r})"):
                raise
            files.download(self._folder, name, output_file_path)

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: Any = None,
        output_paths: Any = None,
        batch_size: int = 100,
        append_prefix: bool = True,
        timeout_seconds: Any = None,
    ) -> None:
        """Copy the run's files into a folder.

        Args:
            prefix: only files whose names begin with this.
            output_directory: the target folder; None: the current one.
            output_paths: a target path per file, in place of the file's name.
            batch_size: not used.
            append_prefix: False: remove the prefix from the copies' names.
            timeout_seconds: not used.
        """
        names = [] if self._is_sweep else files.beginning_with(self._folder, prefix)
        for number, name in enumerate(names):
            shown = name if append_prefix or not prefix else name[len(prefix) :].lstrip("/")
            copy_name = output_paths[number] if output_paths else shown
            files.download(self._folder, name, str(Path(output_directory or ".") / copy_name))

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: str | None = None) -> None:
        """Copy a file into the run's folder under a name such as `outputs/model.pkl`; see `files.upload`."""
        files.tell_datastore("upload_file", datastore_name)
        files.upload(self._folder, name, path_or_stream)

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
        files.upload_folder(self._folder, name, path)

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        description: str | None = None,
        datasets: Any = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Any = None,
        **unknown: Any,
    ) -> Any:
        """Register the run's model, or another of its files or folders.

        Args:
            model_name: the model's name.
            model_path: relative to the run's folder, such as `outputs/model.pkl`; None: the model that labrun saved,
                or else `outputs`.
            tags: tags of the model version.
            properties: properties of the model version.
            model_framework: kept.
            model_framework_version: kept.
            description: the version's description.
            datasets: not kept: the run's record lists the data that it read.
            sample_input_dataset: not kept.
            sample_output_dataset: not kept.
            resource_configuration: not kept.
            **unknown: refused.

        Returns:
            The model version.

        Raises:
            UserErrorException: the name is invalid, or there is no such file.
            TypeError: there is no such argument.
        """
        arguments.check(Run.register_model, unknown)
        registered.tell_not_kept(
            "register_model", datasets, sample_input_dataset, sample_output_dataset, resource_configuration
        )
        registered.check_name(model_name)
        about = registered.about(tags, properties, description, model_framework, model_framework_version)
        try:
            return self._registered(model_name, model_path, about)
        except UserErrorException:
            if not self._has_ended(f"register_model({model_name!r})"):
                raise
            return self._registered(model_name, model_path, about)

    def _registered(self, model_name: str, model_path: str | None, about: Mapping[str, Any]) -> Any:
        """Do the work of `register_model`; see `registering.of_run`."""
        from labrun.azureml import registering

        return registering.of_run(self, model_name, model_path, about)

    # Children, tags and properties

    def get_children(
        self,
        recursive: bool = False,
        tags: Any = None,
        properties: Any = None,
        type: str | None = None,
        status: str | None = None,
        _rehydrate_runs: bool = True,
    ) -> Iterator[Run]:
        """Yield the runs of a sweep, or the child runs of a run, newest first."""
        for work in reversed(self._works_below()):
            child = kinds.wrapped(self._experiment, work)
            fits = type in (None, child.type) and status in (None, child.get_status())
            if fits and registered.fits(child.tags, tags) and registered.fits(child.properties, properties):
                yield child
            if recursive:
                yield from child.get_children(True, tags, properties, type, status)

    def _works_below(self) -> Runs:
        if self._is_sweep:
            return list(self._work.get_children())
        return lookup.below(self.experiment.workspace.folder, self._work)

    def tag(self, key: str, value: Any = None) -> None:
        """Set a tag."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; other tags stay."""
        texts = {str(key): "" if value is None else str(value) for key, value in tags.items()}
        for run_dir in self._records():
            context.annotate(run_dir, tags=texts)
        notes.owe_of(self._records())

    def remove_tags(self, tags: Any) -> None:
        """Remove tags by key."""
        for run_dir in self._records():
            context.annotate(run_dir, untag=[tags] if isinstance(tags, str) else [str(tag) for tag in tags])
        notes.owe_of(self._records())

    def add_properties(self, properties: Mapping[str, Any]) -> None:
        """Add properties; an existing property never changes."""
        for run_dir in self._records():
            context.annotate(run_dir, properties={str(key): str(value) for key, value in properties.items()})
        notes.owe_of(self._records())

    def _records(self) -> Paths:
        """Return the run folders that carry its tags: for a sweep, its runs' folders."""
        return [run.folder for run in self._work.get_children()] if self._is_sweep else [self._folder]

    def get_tags(self) -> dict[str, str]:
        """Return the current tags."""
        return dict(self._shared("tags"))

    def get_properties(self) -> dict[str, str]:
        """Return the current properties."""
        found = {key: value for key, value in self._shared("properties").items() if key not in OWN}
        return {"ContentSnapshotId": self.id, **found}

    def _shared(self, what: str) -> dict[str, str]:
        """Return the tags or properties; for a sweep, those that all of its runs share."""
        if not self._is_sweep:
            return dict(getattr(self._work.record, what))
        each = [dict(getattr(run.record, what)) for run in self._work.get_children()]
        return {k: v for k, v in each[0].items() if all(one.get(k) == v for one in each)} if each else {}

    def get_portal_url(self) -> str:
        """Return the run's page in `lab ui` while that is running, otherwise its folder's URI."""
        return str(self._work.get_portal_url())

    def get_environment(self) -> Any:
        """Return the environment that the run was submitted with."""
        from labrun.azureml import environment

        return environment.of_run(self.experiment.workspace, self._notes)

    def get_snapshot_id(self) -> str:
        """Return the run's id: code and config are frozen with the run."""
        return self.id

    def _get_outputs_datapath(self) -> Any:
        """Copy `outputs` to the default datastore and return its `DataPath`, so that another run can resume from it."""
        store, target = self.experiment.workspace.get_default_datastore(), f"ExperimentRun/dcid.{self.id}/outputs"
        store.upload(self._folder / "outputs", target, overwrite=True, show_progress=False)
        return DataPath(store, target)

    def restore_snapshot(self, snapshot_id: Any = None, path: Any = None) -> str:
        """Copy the run's code and return the copy's path.

        Raises:
            UserErrorException: the snapshot is another run's.
        """
        if snapshot_id not in (None, self.get_snapshot_id()):
            raise UserErrorException(
                f"restore_snapshot({snapshot_id!r}): the snapshot of the run {self.id} is {self.get_snapshot_id()}: "
                "call restore_snapshot() of the other run"
            )
        return definition.restore(self, Path(path or "."))

    def child_run(
        self, name: Any = None, run_id: Any = None, outputs: Any = None, tags: Any = None, **unknown: Any
    ) -> Any:
        """Start a child run; see `starting.child`."""
        arguments.check(Run.child_run, unknown)
        return starting.child(self, name, run_id, outputs, tags)

    def create_children(self, count: int | None = None, tag_key: Any = None, tag_values: Any = None) -> Runs:
        """Start `count` child runs, or one per value of a tag.

        Raises:
            UserErrorException: neither or both were given.
        """
        return [self.child_run(tags=tags) for tags in children.tags_of(count, tag_key, tag_values)]

    def submit_child(self, config: Any, tags: Any = None, **kwargs: Any) -> Any:
        """Submit a configuration as a child run."""
        made = self.experiment.submit(config, tags, parent=self._work.id, **kwargs)
        starting.note(self, made)
        return made

    # Logging, also after the run has ended

    @cached_property
    def _metrics(self) -> metrics.Metrics:
        if self._is_sweep:
            raise UserErrorException("a sweep has no metrics: log to one of its runs")
        number = max(len(self._work.record.attempts), 1)
        return metrics.Metrics(context.RunContext(self._folder, number))

    log = training.Run.log
    log_list = training.Run.log_list
    log_row = training.Run.log_row
    log_table = training.Run.log_table
    log_image = training.Run.log_image
    log_confusion_matrix = training.Run.log_confusion_matrix
    log_accuracy_table = training.Run.log_accuracy_table
    log_predictions = training.Run.log_predictions
    log_residuals = training.Run.log_residuals


class Logged(dict[str, Any]):
    """The metrics that an active run has logged so far. Looking up a missing name waits for the run to end.

    Args:
        run: the run.
        found: the metrics logged so far.
    """

    def __init__(self, run: Run, found: Mapping[str, Any]) -> None:
        super().__init__(found)
        self._run = run

    def __missing__(self, name: str) -> Any:
        self._run._has_ended(f"get_metrics()[{name!r}]")
        self.update(self._run._logged())
        if name not in self:
            raise KeyError(name)
        return self[name]

    def __reduce__(self) -> Any:
        """Copy as a plain dict of the current values."""
        return dict, (dict(self),)


ScriptRun = Run
"""The SDK's class for the run of a `ScriptRunConfig`."""


def get_run(experiment: Any, run_id: str, rehydrate: bool = True, clean_up: bool = True, **unknown: Any) -> Any:
    """Return a run by its id. Every run has the SDK's class for its type, whatever `rehydrate` says."""
    arguments.check(get_run, unknown)
    return Run.get(experiment.workspace, run_id)
