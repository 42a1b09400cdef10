"""Python handles of runs and sweeps. Properties read the current record; many method names match Azure ML's.

`Run` and `Sweep` refer to each other, so both are in this module.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.api.base import Handle, Submission, root_of
from labrun.api.model import Model
from labrun.control import cancel, objective
from labrun.control.query import StatusResolver
from labrun.errors import ConfigError, RecordError
from labrun.remote import mirror, notes
from labrun.report import aggregation
from labrun.runs import context, definition, files, store, sweep_state
from labrun.runs.groups import plain
from labrun.runs.record import (
    CANCELED,
    COMPLETED,
    FAILED,
    FINISHED,
    LOST,
    QUEUED,
    RUNNING,
    Record,
    RunPaths,
    read_record,
    sweep_folder,
)
from labrun.runs.status import Status
from labrun.runs.sweep_state import SweepState
from labrun.tracking import trackers

if TYPE_CHECKING:
    import pandas


class Run(Handle):
    """A run. Its properties always reflect the current record.

    Args:
        folder: its directory, or any reference that `labrun.get_run` accepts.
        submission: the process that executes it, if this interpreter submitted it.

    Raises:
        RecordError: there is no such run.
    """

    def __init__(self, folder: str | os.PathLike[str], submission: Submission | None = None) -> None:
        if not (Path(folder) / "run.json").exists():
            folder = store.find(store.workspace(), os.fspath(folder))[0]
        super().__init__(folder, submission)
        self._last = read_record(self.folder)

    def __repr__(self) -> str:
        return f"Run({self.name}, {self.id}, {self.status})"

    @property
    def record(self) -> Record:
        """Its current record."""
        mirror.refresh(root_of(self.folder))
        with contextlib.suppress(RecordError):
            self._last = read_record(self.folder)
        return self._last

    @property
    def id(self) -> str:
        """Its id."""
        return self._last.id

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._last.name

    @property
    def status(self) -> Status:
        """`queued`, `running`, `completed`, `failed`, `canceled`, `stopped`, `preempted`, `lost` or `unreachable`."""
        return StatusResolver()(self.folder, self.record)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is lost."""
        return self.record.finished or self.status == LOST

    @property
    def config(self) -> dict[str, Any]:
        """Its frozen config."""
        return self.record.config

    @property
    def tags(self) -> dict[str, str]:
        """Its tags."""
        return self.record.tags

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return self.record.metrics or {n: v[-1] if isinstance(v, list) else v for n, v in self.get_metrics().items()}

    @property
    def parent(self) -> Run | Sweep | None:
        """The sweep that it belongs to, or its parent run; None if it has neither."""
        record = self.record
        sweep = sweep_folder(self.folder, record)
        if sweep is not None:
            return Sweep(sweep)
        root = root_of(self.folder)
        return Run(store.find(root, record.parent)[0]) if record.parent else None

    def get_metrics(self, name: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the metrics by name: a number if logged once, a list of numbers if logged repeatedly.

        Args:
            name: only this metric; this may also be a system metric (`system/cpu`).
        """
        found: dict[str, list[float]] = {}
        for line in context.read_metrics(self.folder, system=name is not None):
            if name in (None, line["name"]):
                found.setdefault(line["name"], []).append(line["value"])
        return {key: values if len(values) > 1 else values[0] for key, values in found.items()}

    def to_frame(self) -> pandas.DataFrame:
        """Return every logged value: columns `name`, `step`, `value`, `time` (seconds since the epoch)."""
        import pandas

        columns = ["name", "step", "value", "time"]
        return pandas.DataFrame(
            [(one["name"], one["step"], one["value"], one["time"]) for one in context.read_metrics(self.folder)],
            None,
            columns,
        )

    def get_details(self) -> dict[str, Any]:
        """Return all details under Azure ML's names: `runId`, `status`, `startTimeUtc`, `runDefinition`, ..."""
        record = self.record
        own = {"arguments": definition.arguments(record.config)} if record.config.get("script") else {}
        return {
            "runId": record.id,
            "experiment": record.name,
            "status": self.status,
            "startTimeUtc": record.started,
            "endTimeUtc": record.ended,
            "duration_s": record.duration_s,
            "properties": record.properties,
            "tags": record.tags,
            "inputDatasets": plain(record.data),
            "runDefinition": {**record.config, **own},
            "overrides": record.overrides,
            "error": None if record.error is None else record.error.as_json(),
            "metrics": self.metrics,
            "logFiles": {name: str(self.folder / name) for name in files.of(self.folder) if name.endswith(".log")},
            "folder": str(self.folder),
        }

    def get_file_names(self) -> list[str]:
        """Return the paths of its files, relative to its folder."""
        return list(files.of(self.folder))

    def download_file(
        self, name: str, output_file_path: str | os.PathLike[str] | None = None, overwrite: bool = True, **_: Any
    ) -> str:
        """Copy one of its files.

        Args:
            name: path relative to its folder, as in `get_file_names`.
            output_file_path: path of the copy, or a folder for it; None: the current folder.
            overwrite: replace an existing file.

        Returns:
            The path of the copy.

        Raises:
            RecordError: it has no such file, or the copy cannot be written.
        """
        there = files.of(self.folder)
        if name not in there:
            files.chosen(self.folder, self.record, [name])
            raise RecordError(f"{name!r} is a folder, or several files of run {self.id}: download_files takes those")
        target = Path(name).name if output_file_path is None else output_file_path
        place = Path(target).expanduser()
        place = place / Path(name).name if place.is_dir() else place
        if place.exists() and not overwrite:
            raise RecordError(f"{place} already exists: use overwrite=True, or give another output_file_path")
        try:
            files.ready(place).write_bytes((self.folder / name).read_bytes())
        except OSError as error:
            raise RecordError(f"cannot write {place}: {error.strerror or error}") from error
        return str(place)

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
        output_paths: Any = None,
        **_: Any,
    ) -> list[str]:
        """Copy all of its files, or those in a folder, with their relative paths.

        Args:
            prefix: a folder or a pattern; None: all files.
            output_directory: destination; None: the current folder.
            output_paths: not used.

        Returns:
            The paths of the copies.

        Raises:
            RecordError: there is no such file, or the copies cannot be written.
        """
        target = Path(output_directory or ".").expanduser()
        return [str(p) for p in files.copy(self.folder, self.record, [prefix] if prefix else [], target, force=True)]

    def cancel(self) -> None:
        """Cancel the run, and wait up to 20 seconds for it to stop."""
        if not self.record.finished:
            cancel.end_runs([self.folder])

    def get_children(self, **_: Any) -> list[Run]:
        """Return the runs whose parent it is. For the runs of a sweep, see `Sweep`."""
        found = store.listing(root_of(self.folder)).runs
        return [
            Run(run_dir) for run_dir, record in sorted(found, key=lambda p: p[1].created) if record.parent == self.id
        ]

    def tag(self, key: str, value: str | None = None) -> None:
        """Set a tag. The run may be in progress or over."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        context.annotate(self.folder, tags={str(k): "" if v is None else str(v) for k, v in tags.items()})
        notes.owe([(self.folder, self._last)])

    def get_tags(self) -> dict[str, str]:
        """Return `tags`."""
        return self.tags

    def get_properties(self) -> dict[str, str]:
        """Return the properties that the run's own code has set. They cannot be changed."""
        return self.record.properties

    def log_text(self) -> str:
        """Return its log so far."""
        try:
            return context.content(RunPaths(self.folder).log).decode(errors="replace")
        except OSError:
            return ""

    def register_model(
        self,
        model_name: str | None = None,
        model_path: str | None = None,
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        path: str | None = None,
        **_: Any,
    ) -> Model:
        """Register its model, or another of its files.

        Args:
            model_name: name of the model.
            model_path: path relative to its folder, as in `outputs/model.npz`; None: the model that it saved.
            tags: tags of the version.
            name: alias of `model_name`.
            path: alias of `model_path`.

        Returns:
            The new version, or the existing one if this file is already registered.

        Raises:
            LabrunError: the name is invalid, or there is no such file.
        """
        from labrun.registry import models

        chosen = model_name or name
        if not chosen:
            raise ConfigError("register_model: give the model a name: model_name='mnist'")
        root = root_of(self.folder)
        version, _is_new = models.register(root, self.folder, chosen, model_path or path, tags)
        return Model(version.name, version.number, root)

    def log_file(self) -> Path | None:
        """Return the path of its log file."""
        return RunPaths(self.folder).log

    def get_portal_url(self) -> str:
        """Return the URL of its page in a tracker, such as in `lab ui` while that is running, else of its folder."""
        page = trackers.page(root_of(self.folder), self.folder, self.record.typed.tracker)
        return page or super().get_portal_url()

    def failure(self) -> str | None:
        """Return why it failed; None if it did not."""
        status = self.status
        if status not in (FAILED, LOST):
            return None
        why = self.record.reason or "its process is gone"
        return f"run {self.id} is {status}: {why}   (log: {RunPaths(self.folder).log})"

    def _repr_html_(self) -> str:
        from labrun.api import notebook

        return notebook.run_page(self)


class Sweep(Handle):
    """The runs of one sweep or search.

    Args:
        folder: folder of the sweep.
        submission: the process that executes it, if this interpreter submitted it.

    Raises:
        RecordError: the folder holds no sweep.
    """

    def __init__(self, folder: str | os.PathLike[str], submission: Submission | None = None) -> None:
        super().__init__(folder, submission)
        if not SweepState(self.folder).root.is_dir() and not any(self.folder.glob("*/run.json")):
            raise RecordError(f"{folder} holds no sweep: labrun.get_run finds one by its folder")

    def __repr__(self) -> str:
        return f"Sweep({self.folder.parent.name}, {self.status}, {len(self.get_children())} runs)"

    @property
    def id(self) -> str:
        """Its id: the last part of its folder's name."""
        return self.folder.name.rpartition("-")[2]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.folder.parent.name

    @property
    def parent(self) -> Run | None:
        """The parent run that was given when it was submitted, if any."""
        found = sweep_state.parent_of(self.folder)
        return Run(store.find(root_of(self.folder), found)[0]) if found else None

    def get_children(self, **_: Any) -> list[Run]:
        """Return its runs, in order."""
        mirror.refresh(root_of(self.folder))
        found = []
        for path in self.folder.glob("*/run.json"):
            with contextlib.suppress(RecordError):
                found.append(Run(path.parent))
        return sorted(found, key=lambda run: (*_place(run._last), run.folder.name))  # each has just been read

    @property
    def status(self) -> Status:
        """`queued`, then `running` until all of it has ended; then `failed` if any run failed, `canceled` if any run
        was canceled, else `completed`.
        """
        states = [run.status for run in self.get_children()]
        if not self._has_ended(states):
            return RUNNING if states else QUEUED
        for status in (FAILED, LOST, CANCELED):
            if status in states:
                return FAILED if status == LOST else status
        return COMPLETED

    def _has_ended(self, states: Sequence[Status]) -> bool:
        from labrun.control import lease
        from labrun.search import takeover

        state = SweepState(self.folder)
        was_controlled = (
            lease.newest(state) > 0
        )  # read before `living`, so that a controller starting in between is noticed
        if lease.living(state) is not None or (self.submission and self.submission.process.poll() is None):
            return False
        over = {*FINISHED, LOST}
        with contextlib.suppress(RecordError):
            plan = sweep_state.read_plan(self.folder)
            if plan.command is not None and not takeover.is_over(self.folder):
                if takeover.is_unfinished(self.folder):  # an AutoML search fits its best pipeline to all data
                    return False
                return bool(states) and all(state in over for state in states)
            if len(states) < len(plan.runs):
                return False
            return all(state in over for state in states)
        # The plan has not been written yet.
        return all(state in over for state in states) and bool(states or was_controlled or self.submission)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._has_ended([run.status for run in self.get_children()])

    @property
    def metric(self) -> str:
        """The metric by which its runs are compared."""
        children = self.get_children()
        return objective.common([child.record for child in children]).metric if children else "accuracy"

    def get_best_child(self, metric: str | None = None, **_: Any) -> Run:
        """Return the completed run with the best value of a metric.

        Args:
            metric: name of the metric; None: the metric of the sweep.

        Raises:
            RecordError: no completed run has this metric.
        """
        return self.best_of(self.get_children(), metric)

    def best_of(self, children: Sequence[Run], metric: str | None = None) -> Run:
        """Return the best of some of its runs; see `get_best_child`."""
        pairs = [(run.folder, run.record) for run in children]
        if metric is None:
            wanted = objective.common([record for _, record in pairs]) if pairs else None
            ranked = sorted(pairs, key=lambda pair: -objective.rank(pair[1], wanted))
            if ranked and objective.rank(ranked[0][1], wanted) > float("-inf"):
                return Run(ranked[0][0])
        wanted_metric = metric or (objective.common([record for _, record in pairs]).metric if pairs else "accuracy")
        return Run(store.best(pairs, wanted_metric, lambda run_dir, record: True, self.folder)[0])

    get_best_run_by_primary_metric = get_best_child

    def get_metrics(self, name: str | None = None, **_: Any) -> dict[str, dict[str, float]]:
        """Return the last metric values of each run, by run id.

        Args:
            name: only this metric.
        """
        return {run.id: {k: v for k, v in run.metrics.items() if name in (None, k)} for run in self.get_children()}

    def to_frame(self, over: str | Sequence[str] | None = None) -> pandas.DataFrame:
        """Return a row per run: its number, id, status, duration, swept keys and metrics.

        Args:
            over: one or more keys to average over, such as `seed`. The rows are then the settings of the other keys,
                with the number of `runs`, and for each metric `accuracy_mean`, `accuracy_std` (sample standard
                deviation; NaN for a single run) and `accuracy_n` (completed runs with a finite value).
        """
        import pandas

        if over is not None:
            keys = [over] if isinstance(over, str) else list(over)
            return pandas.DataFrame(
                aggregation.table(aggregation.group([run.record for run in self.get_children()], keys))
            )
        rows = []
        for run in self.get_children():
            record = run.record
            given = dict(text.lstrip("+").partition("=")[::2] for text in record.overrides)
            rows.append(
                {
                    "number": record.number,
                    "id": run.id,
                    "status": run.status,
                    "duration_s": record.duration_s,
                    **given,
                    **record.metrics,
                }
            )
        return pandas.DataFrame(rows)

    def get_details(self) -> dict[str, Any]:
        """Return the details of the sweep and of its runs."""
        children = self.get_children()
        return {
            "runId": self.id,
            "experiment": self.name,
            "status": self.status,
            "folder": str(self.folder),
            "children": [{"runId": r.id, "status": r.status, "metrics": r.metrics} for r in children],
        }

    def cancel(self) -> None:
        """Cancel the whole sweep, and wait up to 20 seconds for it to stop."""
        from labrun.search import takeover

        with contextlib.suppress(RecordError):
            if sweep_state.read_plan(self.folder).command is not None:
                takeover.cancel(self.folder)
        cancel.end_runs([run.folder for run in self.get_children() if not run.record.finished])

    def log_file(self) -> Path | None:
        """Return the path of its controller's log file."""
        return self.submission.log if self.submission else SweepState(self.folder).controller_log

    def failure(self) -> str | None:
        """Return how many of its runs failed, and why the first did; None if none failed."""
        failed = [run for run in self.get_children() if run.status in (FAILED, LOST)]
        if not failed:
            return None
        return f"{len(failed)} of {len(self.get_children())} runs failed; the first: {failed[0].failure()}"

    def _repr_html_(self) -> str:
        from labrun.api import notebook

        return notebook.sweep_page(self)


def _place(record: Record) -> tuple[int, str]:
    """Return the sort key of a run in its sweep: by number, or by name if it has one instead."""
    number = 0 if record.number is None else record.number
    return (number, "") if isinstance(number, int) else (sys.maxsize, str(number))
