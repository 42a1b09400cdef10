"""Runs without a script: `experiment.start_logging()`, and child runs started by a control script."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from labrun.api import functions, handles, program
from labrun.azureml.run import Run
from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import children, model
from labrun.compat.azureml.training.base import failure_text
from labrun.compat.azureml.training.children import ASSIGNED, DISPLAY_NAME
from labrun.compat.azureml.training.run import TYPE_TAG
from labrun.errors import ConfigError
from labrun.runs import context

TYPE = "azureml.interactive"


class InteractiveRun(Run):
    """A run that consists of this program until the program completes it; afterwards a run like any other."""

    _outputs: tuple[Path, float] | None = None
    """The program's output folder and a time in seconds since 1970; files written since then become the run's."""

    def __enter__(self) -> InteractiveRun:
        self._work.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run: completed, or failed or canceled if an exception ends the block."""
        self._capture()
        self._work.__exit__(kind, error, trace)

    def complete(self, _set_status: bool = True) -> None:
        """End the run as completed and register the models that it promised."""
        self._capture()
        self._work.complete()

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """End the run as failed."""
        self._capture()
        if error_details is None:
            error_details = "the program called run.fail()"
        self._work.fail(error_details if error_code is None else failure_text(error_details, error_code))

    def cancel(self) -> None:
        """End the run as canceled."""
        self._work.cancel()

    def wait_for_completion(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Complete the run if it is still active, since nothing else would; see `Run.wait_for_completion`."""
        self.complete()
        return super().wait_for_completion(*args, **kwargs)

    def _capture(self) -> None:
        """Copy the files of the program's output folder, as the SDK does at a run's end."""
        if self._outputs is None or not self._work.is_open:
            return
        folder, since = self._outputs
        for path in _written(folder, since):
            name = f"outputs/{path.relative_to(folder).as_posix()}"
            if not (self._folder / name).exists():
                self.upload_file(name, path)

    def _registered(self, model_name: str, model_path: str | None, about: Mapping[str, Any]) -> Any:
        """Register one of the run's files: at once if the run has ended, otherwise when it completes."""
        if not self._work.is_open:
            return super()._registered(model_name, model_path, about)
        return model.promised(context.RunContext(self._folder), model_name, model_path, dict(about), local=False)


def start(
    experiment: Any,
    outputs: Any = None,
    snapshot_directory: Any = ".",
    display_name: str | None = None,
    parent: Any = None,
    tags: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
) -> InteractiveRun:
    """Start a run that consists of this program.

    Args:
        experiment: the experiment.
        outputs: a folder whose files are copied into the run's `outputs` when the run ends; None or True: the files
            written to `./outputs` since the run's start; False: none.
        snapshot_directory: the folder whose code is stored with the run; None: no code.
        display_name: the run's display name.
        parent: the parent run's id.
        tags: tags of the run.
        properties: properties of the run.

    Raises:
        UserErrorException: labrun cannot start the run, for example because the folder does not exist.
    """
    shown = {DISPLAY_NAME: display_name} if display_name else {}
    code = None if snapshot_directory is None else os.fspath(snapshot_directory)
    try:
        work = program.start_run(experiment.name, {**(tags or {}), **shown}, parent, experiment.workspace.folder, code)
    except ConfigError as error:
        raise UserErrorException(f"start_logging: {error}") from error
    own = {str(key): str(value) for key, value in (properties or {}).items()}
    context.annotate(work.folder, properties={**own, TYPE_TAG: TYPE})
    run = InteractiveRun(experiment, work=work, run_type=TYPE)
    if outputs is None or outputs is True:
        run._outputs = Path.cwd() / "outputs", (work.folder / "run.json").stat().st_mtime
    elif outputs is not False:
        run._outputs = Path(os.fsdecode(outputs)).expanduser().absolute(), 0.0
    return run


def _written(folder: Path, since: float) -> Iterator[Path]:
    """Yield the files in a folder that are newer than `since`, without labrun's records, which may be there too."""
    for top in sorted(folder.glob("[!.]*")):
        if not any(top.glob("*/run.json")):
            files = [top, *sorted(top.rglob("*"))]
            yield from (path for path in files if path.is_file() and path.stat().st_mtime >= since)


def child(
    run: Run, name: Any = None, run_id: Any = None, outputs: Any = None, tags: Mapping[str, Any] | None = None
) -> InteractiveRun:
    """Start a child run. The parent may have ended.

    Args:
        run: the parent.
        name: the child's display name.
        run_id: not used: labrun assigns the ids; a notice says so.
        outputs: a folder whose files are copied into the child's `outputs` when the child ends; see `start`.
        tags: tags of the child.

    Raises:
        UserErrorException: the parent is a sweep.
    """
    if run._is_sweep:
        raise UserErrorException("child_run: a sweep creates its own child runs")
    arguments.tell_unused("child_run", {"run_id": run_id}, ASSIGNED)
    made = start(run.experiment, outputs, None, None if name is None else str(name), run._work.id, tags)
    children_note(run, made)
    return made


def children_note(run: Run, made: Run) -> None:
    """Note a child run in its parent."""
    children.note(run._folder, made._folder, run.experiment.workspace.folder)


def of(run: Run) -> list[Path]:
    """Return the folders of the child runs noted in a run; others name it only in their own records."""
    return children.folders(run._folder, run.experiment.workspace.folder)


def submitted(run: Run, config: Any, tags: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """Submit a configuration as a child run."""
    made = run.experiment.submit(config, tags, parent=run._work.id, **kwargs)
    children_note(run, made)
    return made


def works_below(run: Run) -> list[Any]:
    """Return labrun's child runs of a run, oldest first: those whose records name it and those noted in it."""
    found = {work.folder: work for work in run._work.get_children()}
    for folder in of(run):
        found.setdefault(folder.resolve(), None)
    made = [work or _work(folder) for folder, work in found.items()]
    return sorted(made, key=_created)


def _created(work: Any) -> tuple[str, str]:
    """Return the creation time of a run or of a sweep's first run, with the folder name to break ties."""
    runs = work.get_children() if isinstance(work, handles.Sweep) else [work]
    return min((str(run.record.created) for run in runs), default=""), work.folder.name


def _work(folder: Path) -> Any:
    return functions.get_run(folder)
