"""`Run` as who submitted it sees it: labrun's runs and sweeps under the SDK's names and words."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun import api
from labrun.azureml import definition, folder, kinds
from labrun.azureml.advice import Advising, AdvisingType
from labrun.azureml.submitting import OWN, SEARCHES, TARGET_TAG, TYPE_TAG
from labrun.azureml.telling import once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import (
    ActivityFailedException,
    ExperimentExecutionException,
    UserErrorException,
)
from labrun.compat.azureml.training import children, files, metrics, registered
from labrun.compat.azureml.training import run as training
from labrun.compat.azureml.training.base import RunBase, RunFacts, sdk_status
from labrun.compat.azureml.training.keyvault import secret_of
from labrun.errors import LabrunError
from labrun.remote import notes
from labrun.runs import context
from labrun.runs import record as records

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment

Paths = list[Path]
Texts = list[str]
Runs = list[Any]


class _AnyRun(AdvisingType):
    """Every run of the SDK is a `Run`, the one that a script belongs to as well."""

    def __instancecheck__(cls, instance: Any) -> bool:  # noqa: N805 - of a type, its class
        if cls.__name__ == "Run" and isinstance(instance, RunBase):
            return True
        return super().__instancecheck__(instance)


class Run(RunFacts, Advising, metaclass=_AnyRun):
    """A run, or a sweep, that was submitted.

    Args:
        experiment: that it belongs to; None: its own.
        run_id: its id; inside of a run, that run's own gives the run of the script.
        **kwargs: whatever else the SDK's constructor takes; not used.

    Raises:
        UserErrorException: there is no such run.
    """

    def __new__(cls, experiment: Any = None, run_id: str | None = None, **kwargs: Any) -> Any:
        own = context.current()
        if cls is Run and own is not None and "work" not in kwargs:
            inside = training.Run.get_context()
            if run_id is None or run_id in training.ids(own):
                return inside
        return super().__new__(cls)

    def __init__(self, experiment: Any = None, run_id: str | None = None, outputs: Any = None, **kwargs: Any) -> None:
        work = kwargs.get("work")
        if work is None:
            root = getattr(experiment, "workspace", None) or Workspace()
            work = find(root, run_id)
        self._work = work
        self._experiment = experiment
        self._type = kwargs.get("run_type")

    # Ways to get one

    @classmethod
    def get_context(cls, allow_offline: bool = True, **kwargs: Any) -> Any:
        """The run that this script belongs to; see `labrun.compat.azureml.training.run`."""
        return training.Run.get_context(allow_offline, **kwargs)

    @classmethod
    def get_submitted_run(cls, **kwargs: Any) -> Any:
        """The name of `get_context` in 2018."""
        return cls.get_context()

    @staticmethod
    def get(workspace: Any, run_id: str) -> Any:
        """A run by its id."""
        made = workspace if isinstance(workspace, Workspace) else Workspace()
        own = context.current()
        if own is not None and run_id in training.ids(own):
            return training.Run.get_context()
        return wrapped(None, find(made, run_id))

    @staticmethod
    def list(experiment: Any, type: str | None = None, tags: Any = None, **kwargs: Any) -> Iterator[Run]:
        """The runs of an experiment, the newest first; see `Experiment.get_runs`."""
        found: Iterator[Run] = experiment.get_runs(type=type, tags=tags, **kwargs)
        return found

    @staticmethod
    def list_by_compute(
        compute: Any, type: str | None = None, tags: Any = None, properties: Any = None, status: Any = None
    ) -> Iterator[Run]:
        """The runs of a compute target, the newest first."""
        from labrun.azureml.experiment import runs_of

        for run in (wrapped(None, work) for work in runs_of(compute.workspace, None, children=True)):
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
        """What copies are made with: inside of a run, too, this is not that run."""
        return (), {"work": self._work}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: Any) -> None:
        """The run goes on: it is not this program's to end."""

    # What it is

    @property
    def _is_sweep(self) -> bool:
        return isinstance(self._work, api.Sweep)

    @property
    def _folder(self) -> Path:
        return Path(self._work.folder)

    @property
    def _notes(self) -> dict[str, str]:
        """What its control script said of it: the names of its target and its environment; of its search's, if any."""
        if not self._is_sweep and (own := dict(self._work.record.properties)).keys() & set(OWN):
            return own
        search = self._work if self._is_sweep else self._work.record.sweep and self._work.parent
        if search is None:
            return {}
        return dict(folder.read_table(self.experiment.workspace.folder, SEARCHES).get(search.id) or {})

    @property
    def experiment(self) -> Experiment:
        """The experiment that it belongs to."""
        if self._experiment is None:
            from labrun.azureml.experiment import Experiment

            self._experiment = Experiment(Workspace(), self._work.name, _skip_name_validation=True)
        found: Experiment = self._experiment
        return found

    @cached_property
    def id(self) -> str:
        """labrun's own, which finds every run; of a search and its runs as the SDK has it, `HD_<uuid>_3`."""
        return kinds.id_of(self._work)

    @property
    def number(self) -> int:
        """Its place among the runs of its sweep, or of its experiment, from 1 on."""
        if not self._is_sweep and self._work.record.sweep:
            return int(self._work.record.sweep.get("number", 0))
        from labrun.azureml.experiment import runs_of

        folders = [work.folder for work in reversed(runs_of(self.experiment.workspace, self._work.name))]
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
        """The sweep or the run that it belongs to; None for a run by itself."""
        try:
            origin = self._work.parent
        except LabrunError:
            return None
        return None if origin is None else wrapped(self._experiment, origin)

    # How it goes

    def get_status(self) -> str:
        """In the SDK's words. A search of which some runs failed is `Completed` there, and those runs are `Failed`."""
        status = str(self._work.status)
        if self._is_sweep and status == records.FAILED:
            states = {child.status for child in self._work.get_children()}
            better = [state for state in (records.CANCELED, records.COMPLETED) if state in states]
            status = better[0] if better else status
        return sdk_status(status)

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True, **_: Any
    ) -> dict[str, Any]:
        """Wait until it has ended.

        Args:
            show_output: print what it prints, as it comes.
            wait_post_processing: not used: there is none.
            raise_on_error: raise where it failed.

        Returns:
            As `get_details`.

        Raises:
            ActivityFailedException: it failed.
            ExperimentExecutionException: Ctrl-C ended the output; the run goes on.
        """
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
        """Nothing: a run has begun as soon as it is there."""

    def cancel(self) -> None:
        """Ask it to stop, and wait until it has, 20 seconds at most."""
        self._work.cancel()

    def complete(self, _set_status: bool = True) -> None:
        """Nothing: a run completes when what it carries out has ended."""

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """Have a run that goes on end, for the reason that is given."""
        self.tag("error_details", str(error_details))
        self.cancel()

    def flush(self, timeout_seconds: int = 300) -> None:
        """Nothing: what is logged is on the disk."""

    # What it left

    def get_metrics(
        self, name: str | None = None, recursive: bool = False, run_type: Any = None, populate: bool = False, **_: Any
    ) -> dict[str, Any]:
        """What was logged, as it was logged: numbers, lists, columns of tables, texts.

        Args:
            name: only this one.
            recursive: of the runs below it, too: what each logged, by the run's id.
            run_type: of the runs below it, those of this type alone.
            populate: not used.
        """
        own = {key: value for key, value in self._logged().items() if name in (None, key)}
        if not recursive:
            return own if self._work.is_over else Logged(self, own)
        below = {child.id: child.get_metrics(name) for child in self.get_children(recursive=True, type=run_type)}
        return {run_id: found for run_id, found in {**below, self.id: own}.items() if found}

    def _logged(self) -> dict[str, Any]:
        return {} if self._is_sweep else metrics.read(self._folder, max(len(self._work.record.attempts), 1))

    def _has_ended(self, call: str) -> bool:
        """Wait for a script that still runs; False where there is none to wait for.

        Notebooks whose author waited by hand, between two cells, ask for what the script has yet to leave.
        """
        if self._work.is_over or self._is_sweep or self.type != "azureml.scriptrun":
            return False
        once(f"{call}: the run {self.id} still runs; its end is waited for")
        self._work.wait_for_completion(show_output=False, raise_on_error=False)
        return True

    def get_details(self) -> dict[str, Any]:
        """All there is to know of it, under the SDK's names."""
        return definition.details(self)

    def get_details_with_logs(self) -> dict[str, Any]:
        """As `get_details`, with what the logs hold in place of their addresses."""
        details = self.get_details()
        names = details["logFiles"]
        texts = {name: Path(path).read_text(errors="replace") for name, path in names.items()}
        details["logFiles"] = files.LogFiles(texts)
        return details

    def get_detailed_status(self) -> dict[str, Any]:
        """The status, and why it is so."""
        return {"status": self.get_status(), "details": [self._work.failure()] if self._work.failure() else []}

    def get_docs_url(self) -> str:
        """Where the SDK's names are explained here."""
        return "docs/coming-from-azureml.md"

    @property
    def portal_url(self) -> str:
        return self.get_portal_url()

    @property
    def identity(self) -> str:
        return self.id

    def get_secret(self, name: str) -> str:
        """A secret: a variable of the environment."""
        return secret_of(f"run.get_secret({name!r})", name)

    def get_secrets(self, secrets: Any) -> dict[str, str]:
        """Several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def clean(self) -> None:
        """Nothing: a run's working folder is part of its record."""

    def take_snapshot(self, *args: Any, **kwargs: Any) -> str:
        """Its id: the code was frozen when it was submitted."""
        return self.id

    def get_logs(self) -> dict[str, str]:
        """The paths of its logs, by name."""
        found: dict[str, str] = self.get_details()["logFiles"]
        return found

    def get_all_logs(self, destination: Any = None) -> Texts:
        """Copy its logs; returns the copies' paths."""
        target = Path(destination or ".") / self.id
        copies = []
        for name, path in self.get_logs().items():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(Path(path).read_bytes())
            copies.append(str(copy))
        return copies

    def get_file_names(self) -> Texts:
        """The files that it wrote, and its log."""
        return files.listing(self._folder) if not self._is_sweep else []

    def download_file(self, name: str, output_file_path: Any = None, **_: Any) -> None:
        """Copy one of its files: to a path, into a folder, or under its own name to here.

        Raises:
            UserErrorException: it has no such file.
        """
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
        """Copy its files below a folder.

        Args:
            prefix: only those whose names begin so.
            output_directory: None: here.
            output_paths: where each goes, in place of its own name.
            batch_size: not used.
            append_prefix: False: the copies' names are without the prefix.
            timeout_seconds: not used.
        """
        names = [] if self._is_sweep else files.beginning_with(self._folder, prefix)
        for number, name in enumerate(names):
            shown = name if append_prefix or not prefix else name[len(prefix) :].lstrip("/")
            own = output_paths[number] if output_paths else shown
            files.download(self._folder, name, str(Path(output_directory or ".") / own))

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: str | None = None) -> None:
        """Copy a file into the run's folder, under a name as `outputs/model.pkl`."""
        files.upload(self._folder, name, path_or_stream)

    def upload_files(
        self, names: Any, paths: Any, return_artifacts: bool = False, timeout_seconds: Any = None, **_: Any
    ) -> None:
        """Copy several files into the run's folder."""
        for name, path in zip(names, paths, strict=True):
            self.upload_file(name, path)

    def upload_folder(self, name: str, path: Any, datastore_name: str | None = None) -> None:
        """Copy a folder into the run's folder."""
        files.upload_folder(self._folder, name, path)

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        *more: Any,
        **kwargs: Any,
    ) -> Any:
        """Register its model, or another of its files or folders.

        Args:
            model_name: the model's name.
            model_path: relative to its folder, as `outputs/model.pkl`; None: the model that labrun saved, else
                `outputs`.
            tags: of the version.
            properties: of the version.
            *more: `model_framework`, `model_framework_version` and `description`, which are kept.
            **kwargs: the same by their names; the SDK's other words are not kept.

        Returns:
            The version.

        Raises:
            UserErrorException: the name will not do, or there is no such file.
        """
        from labrun.azureml import registering

        registered.check_name(model_name)
        try:
            return registering.of_run(self, model_name, model_path, tags, properties, *more, **kwargs)
        except UserErrorException:
            if not self._has_ended(f"register_model({model_name!r})"):
                raise
            return registering.of_run(self, model_name, model_path, tags, properties, *more, **kwargs)

    # What belongs to it

    def get_children(
        self,
        recursive: bool = False,
        tags: Any = None,
        properties: Any = None,
        type: str | None = None,
        status: str | None = None,
        **_: Any,
    ) -> Iterator[Run]:
        """The runs of a sweep; the runs that a run started as its children; the newest first."""
        from labrun.azureml import interactive

        for work in reversed(self._work.get_children() if self._is_sweep else interactive.works_below(self)):
            child = wrapped(self._experiment, work)
            fits = type in (None, child.type) and status in (None, child.get_status())
            if fits and registered.fits(child.tags, tags) and registered.fits(child.properties, properties):
                yield child
            if recursive:
                yield from child.get_children(True, tags, properties, type, status)

    def tag(self, key: str, value: Any = None) -> None:
        """Set a tag."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; others stay."""
        texts = {str(key): "" if value is None else str(value) for key, value in tags.items()}
        for run_dir in self._records():
            context.annotate(run_dir, tags=texts)
        notes.owe_of(self._records())

    def remove_tags(self, tags: Any) -> None:
        """Take tags away, by their keys."""
        for run_dir in self._records():
            context.annotate(run_dir, untag=[tags] if isinstance(tags, str) else [str(tag) for tag in tags])
        notes.owe_of(self._records())

    def add_properties(self, properties: Mapping[str, Any]) -> None:
        """Set properties; one that is set is never changed."""
        for run_dir in self._records():
            context.annotate(run_dir, properties={str(key): str(value) for key, value in properties.items()})
        notes.owe_of(self._records())

    def _records(self) -> Paths:
        """The folders that carry its tags: a sweep's are those of its runs."""
        return [run.folder for run in self._work.get_children()] if self._is_sweep else [self._folder]

    def get_tags(self) -> dict[str, str]:
        """The tags as they are now."""
        return dict(self._shared("tags"))

    def get_properties(self) -> dict[str, str]:
        """The properties as they are now."""
        found = {key: value for key, value in self._shared("properties").items() if key not in OWN}
        return {"ContentSnapshotId": self.id, **found}

    def _shared(self, what: str) -> dict[str, str]:
        """Tags or properties; of a sweep those that all of its runs have."""
        if not self._is_sweep:
            return dict(getattr(self._work.record, what))
        each = [dict(getattr(run.record, what)) for run in self._work.get_children()]
        return {k: v for k, v in each[0].items() if all(one.get(k) == v for one in each)} if each else {}

    def get_portal_url(self) -> str:
        """Its page in `lab ui` while that is up; else the address of its folder."""
        return str(self._work.get_portal_url())

    def get_environment(self) -> Any:
        """The environment that it ran in, by the name that its config has."""
        from labrun.azureml import environment

        return environment.of_run(self.experiment.workspace, self._notes)

    def get_snapshot_id(self) -> str:
        """Its id: code and config are frozen with it."""
        return self.id

    def _get_outputs_datapath(self) -> Any:
        """Its `outputs`, as a `DataPath`: a copy in the default datastore, for another run to go on from."""
        from labrun.azureml.data_reference import DataPath

        store, place = self.experiment.workspace.get_default_datastore(), f"ExperimentRun/dcid.{self.id}/outputs"
        store.upload(self._folder / "outputs", place, overwrite=True, show_progress=False)
        return DataPath(store, place)

    def restore_snapshot(self, snapshot_id: Any = None, path: Any = None) -> str:
        """Copy the code that it ran; returns the copy's path."""
        return definition.restore(self, Path(path or "."))

    def child_run(self, *args: Any, **kwargs: Any) -> Any:
        """A run below this one; see `interactive.child`."""
        from labrun.azureml import interactive

        return interactive.child(self, *args, **kwargs)

    def create_children(self, count: int | None = None, tag_key: Any = None, tag_values: Any = None) -> Runs:
        """Begin several runs below this one: so many, or one for each value of a tag.

        Raises:
            UserErrorException: neither was given, or both.
        """
        return [self.child_run(tags=tags) for tags in children.tags_of(count, tag_key, tag_values)]

    def submit_child(self, config: Any, tags: Any = None, **kwargs: Any) -> Any:
        """Submit a configuration as a run below this one."""
        from labrun.azureml import interactive

        return interactive.submitted(self, config, tags, **kwargs)

    # What it logs, or what is logged to it afterwards

    @cached_property
    def _metrics(self) -> metrics.Metrics:
        if self._is_sweep:
            raise UserErrorException("a sweep logs nothing: its runs do")
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
    """What a run that goes on has logged so far. A name that is not among them is looked for again when it has ended.

    Args:
        run: the run.
        found: what it has logged.
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
        """Copies are what it is now."""
        return dict, (dict(self),)


ScriptRun = Run
"""The SDK's class of a run that was made by a `ScriptRunConfig`."""


def get_run(experiment: Any, run_id: str, **kwargs: Any) -> Any:
    """A run by its id."""
    return Run.get(experiment.workspace, run_id)


def find(workspace: Workspace, run_id: str | None) -> Any:
    """labrun's run or sweep of an id.

    Raises:
        UserErrorException: there is none.
    """
    if not run_id:
        raise UserErrorException("Run(experiment, run_id): give the id of a run; `lab runs` lists them")
    try:
        return api.get_run(run_id, root=workspace.folder)
    except LabrunError as error:
        sweep = next((path for path in (workspace.folder / "multirun").glob(f"*/*-{run_id}") if path.is_dir()), None)
        if sweep is not None:
            return api.Sweep(sweep)
        raise UserErrorException(f"Run {run_id!r}: {error}") from error


def wrapped(experiment: Any, work: Any, run_type: str | None = None) -> Run:
    """labrun's run or sweep as the SDK's: of the class that its type has."""
    made: Run = kinds.of(experiment, work, run_type)
    return made
