"""Runs, sweeps and models as Python sees them: read anew at each look; with the names that Azure's users type too."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.control import cancel
from labrun.control.query import StatusResolver
from labrun.errors import ConfigError, RecordError, RunFailedError
from labrun.runs import context, files, store
from labrun.runs import record as records
from labrun.runs.record import Record
from labrun.tracking.mlflow import ui_state

if TYPE_CHECKING:
    import pandas

    from labrun.sweeps import Sweep

POLL_S = 0.5


class Submission:
    """The process that carries out what was submitted from here; it ends with this Python, unless detached."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        atexit.register(self.end)

    def end(self) -> None:
        """Ask it to end, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=15)

    def output(self) -> str:
        """What it has printed."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


class Handle:
    """What a run and a sweep have in common."""

    def __init__(self, folder: str | os.PathLike[str], submission: Submission | None = None) -> None:
        self.folder = Path(folder).resolve()
        self.submission = submission

    @property
    def status(self) -> str:
        """As readers see it."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        raise NotImplementedError

    def get_status(self) -> str:
        """As `status`."""
        return self.status

    def log_file(self) -> Path | None:
        """Where what it prints is kept."""
        raise NotImplementedError

    def failure(self) -> str | None:
        """Why it failed, if it did."""
        raise NotImplementedError

    def get_details(self) -> dict[str, Any]:
        """All there is to know of it."""
        raise NotImplementedError

    def wait_for_completion(
        self, show_output: bool = False, raise_on_error: bool = True, timeout_s: float | None = None, **_: Any
    ) -> dict[str, Any]:
        """Wait until it has ended.

        Args:
            show_output: print what it prints, as it comes.
            raise_on_error: raise if it failed.
            timeout_s: wait no longer than this, in seconds.

        Returns:
            As `get_details`.

        Raises:
            RunFailedError: it failed.
            TimeoutError: it has not ended in time; it goes on.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        shown, over = 0, False
        while True:
            over = self.is_over and (self.submission is None or self.submission.process.poll() is not None)
            log = self.log_file() if show_output else None
            if log is not None and log.exists():
                file = context.opened(log)
                if file is None:  # nobody may ever write to a pipe
                    data = b""
                else:
                    with file:
                        file.seek(shown)
                        data = file.read()
                shown += len(data)
                sys.stdout.write(data.decode(errors="replace"))
                sys.stdout.flush()
            if over:
                break
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"{self!r} has not ended within {timeout_s:g} s; it goes on")
            time.sleep(POLL_S)
        failure = self.failure()
        if failure is not None and raise_on_error:
            raise RunFailedError(failure)
        return self.get_details()

    def get_portal_url(self) -> str:
        """Its page: MLflow's where `lab ui` is up, else its folder's address."""
        return ui_state.page(root_of(self.folder), self.folder) or self.folder.as_uri()


class Run(Handle):
    """One run, read anew at each look.

    Args:
        folder: its directory, or a name as `labrun.get_run` takes it.
        submission: the process that carries it out, if it was started from here.

    Raises:
        RecordError: no run lies there.
    """

    def __init__(self, folder: str | os.PathLike[str], submission: Submission | None = None) -> None:
        if not (Path(folder) / "run.json").exists():
            folder = store.find(store.workspace(), os.fspath(folder))[0]
        super().__init__(folder, submission)
        self._last = records.read(self.folder)

    def __repr__(self) -> str:
        return f"Run({self.name}, {self.id}, {self.status})"

    @property
    def record(self) -> Record:
        """Its record, as it is now."""
        with contextlib.suppress(RecordError):
            self._last = records.read(self.folder)
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
    def status(self) -> str:
        """`queued`, `running`, `completed`, `failed`, `canceled`, `stopped`, `preempted`, `lost` or `unreachable`."""
        return StatusResolver()(self.folder, self.record)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is lost."""
        return self.record.finished or self.status == records.LOST

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
        """The sweep that it belongs to, or the run that it went on from."""
        from labrun.sweeps import Sweep

        record = self.record
        sweep = records.sweep_folder(self.folder, record)
        if sweep is not None:
            return Sweep(sweep)
        root = root_of(self.folder)
        return Run(store.find(root, record.parent)[0]) if record.parent else None

    def get_metrics(self, name: str | None = None, **_: Any) -> dict[str, Any]:
        """The metrics: a number for what was logged once, a list of numbers for what was logged again and again.

        Args:
            name: only this one.
        """
        found: dict[str, list[float]] = {}
        for line in context.read_metrics(self.folder):
            if name in (None, line["name"]):
                found.setdefault(line["name"], []).append(line["value"])
        return {key: values if len(values) > 1 else values[0] for key, values in found.items()}

    def to_frame(self) -> pandas.DataFrame:
        """Every value that was logged: columns `name`, `step`, `value`, `time` (seconds since the epoch)."""
        import pandas

        columns = ["name", "step", "value", "time"]
        return pandas.DataFrame(
            [{c: line[c] for c in columns} for line in context.read_metrics(self.folder)], None, columns
        )

    def get_details(self) -> dict[str, Any]:
        """All there is to know of it, under Azure's names: `runId`, `status`, `startTimeUtc`, `runDefinition`, ..."""
        record = self.record
        return {
            "runId": record.id,
            "experiment": record.name,
            "status": self.status,
            "startTimeUtc": record.started,
            "endTimeUtc": record.ended,
            "duration_s": record.duration_s,
            "properties": record.properties,
            "tags": record.tags,
            "inputDatasets": record.data,
            "runDefinition": record.config,
            "overrides": record.overrides,
            "error": record.error,
            "metrics": self.metrics,
            "logFiles": {name: str(self.folder / name) for name in files.of(self.folder) if name.endswith(".log")},
            "folder": str(self.folder),
        }

    def get_file_names(self) -> list[str]:
        """Its files, relative to its folder."""
        return list(files.of(self.folder))

    def download_file(
        self, name: str, output_file_path: str | os.PathLike[str] | None = None, overwrite: bool = True, **_: Any
    ) -> str:
        """Copy one of its files.

        Args:
            name: relative to its folder, as `get_file_names` has it.
            output_file_path: the copy, or a folder for it; None: the file's own name, here.
            overwrite: where a file of that name is there already.

        Returns:
            The copy's path.

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
            raise RecordError(f"{place} is there already: say overwrite=True, or give another output_file_path")
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
        """Copy all of its files, or those of a folder, as they lie in its own.

        Args:
            prefix: a folder, or a pattern; None: all.
            output_directory: None: here.
            output_paths: not used.

        Returns:
            The copies' paths.

        Raises:
            RecordError: there is no such file, or the copies cannot be written.
        """
        target = Path(output_directory or ".").expanduser()
        return [str(p) for p in files.copy(self.folder, self.record, [prefix] if prefix else [], target, force=True)]

    def cancel(self) -> None:
        """Ask it to stop, and wait until it has, 20 seconds at most."""
        if not self.record.finished:
            cancel.end_runs([self.folder])

    def get_children(self, **_: Any) -> list[Run]:
        """The runs that went on from it; the runs of a sweep are its `Sweep`'s."""
        found = store.listing(root_of(self.folder)).runs
        return [
            Run(run_dir) for run_dir, record in sorted(found, key=lambda p: p[1].created) if record.parent == self.id
        ]

    def tag(self, key: str, value: str | None = None) -> None:
        """Set a tag, while it goes on or later."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        context.annotate(self.folder, tags={str(k): "" if v is None else str(v) for k, v in tags.items()})

    def get_tags(self) -> dict[str, str]:
        """As `tags`."""
        return self.tags

    def get_properties(self) -> dict[str, str]:
        """What its own code set once and for all."""
        return self.record.properties

    def log_text(self) -> str:
        """What it has printed so far."""
        try:
            return context.content(records.RunPaths(self.folder).log).decode(errors="replace")
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
            model_name: the model's name; also as `name`.
            model_path: relative to its folder, as in `outputs/model.npz`; None: the model that it saved. Also `path`.
            tags: of the version.
            name: the same as model_name.
            path: the same as model_path.

        Returns:
            The version; the one that there is already if this file was registered before.

        Raises:
            LabrunError: the name will not do, or there is no such file.
        """
        from labrun.registry import models

        chosen = model_name or name
        if not chosen:
            raise ConfigError("register_model: give the model a name: model_name='mnist'")
        root = root_of(self.folder)
        version, _is_new = models.register(root, self.folder, chosen, model_path or path, tags)
        return Model(version.name, version.number, root)

    def log_file(self) -> Path | None:
        """Where what it prints is kept."""
        return records.RunPaths(self.folder).log

    def failure(self) -> str | None:
        """Why it failed, if it did."""
        status = self.status
        if status not in (records.FAILED, records.LOST):
            return None
        why = self.record.reason or "its process is gone"
        return f"run {self.id} is {status}: {why}   (log: {records.RunPaths(self.folder).log})"

    def _repr_html_(self) -> str:
        from labrun import notebook

        return notebook.page(self)


class Model:
    """A version of a registered model."""

    def __init__(self, name: str, version: int, root: Path) -> None:
        self.name, self.version, self._root = name, version, root

    def __repr__(self) -> str:
        names = self.needs_trusted
        told = f", trusted={names!r} where it is not trusted by itself" if names else ""
        return f"Model({self.name}/{self.version}{told})"

    @property
    def needs_trusted(self) -> list[str]:
        """What `load` has to be told to trust, elsewhere or once its code has changed; empty where nothing is."""
        from labrun.registry import journal, models

        try:
            return models.needed(self._root, journal.find(self._root, self.id))
        except RecordError:  # it was removed
            return []

    @property
    def id(self) -> str:
        """`name/version`, as `load_model` takes it."""
        return f"{self.name}/{self.version}"

    def load(self, trusted: Sequence[str] = (), allow_pickle: bool = False) -> Any:
        """See `labrun.load_model`."""
        from labrun.tasks.saved import load_model

        return load_model(self.id, root=self._root, trusted=trusted, allow_pickle=allow_pickle)


def root_of(folder: Path) -> Path:
    """The workspace that a run's or a sweep's folder lies in."""
    for parent in folder.parents:
        if parent.name in ("outputs", "multirun"):
            return parent.parent
    return store.workspace()
