"""Runs without a script: `experiment.start_logging()`, and runs below others that a control script begins."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from labrun import api, program
from labrun.azureml import registering
from labrun.azureml.run import Run
from labrun.azureml.submitting import TYPE_TAG
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import children, model, registered
from labrun.compat.azureml.training.children import DISPLAY_NAME
from labrun.errors import ConfigError
from labrun.runs import context

TYPE = "azureml.interactive"


class InteractiveRun(Run):
    """A run that this program is, until it completes it; afterwards a run as others are."""

    _outputs: tuple[Path, float] | None = None
    """Where the program writes what becomes the run's, and since when."""

    def __enter__(self) -> InteractiveRun:
        self._work.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete it; failed, or canceled, where an error ends the block."""
        self._capture()
        self._work.__exit__(kind, error, trace)

    def complete(self, _set_status: bool = True) -> None:
        """End it well; what it asked to have registered is."""
        self._capture()
        self._work.complete()

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """End it as failed."""
        self._capture()
        self._work.fail(error_details if error_details is not None else "the program called run.fail()")

    def cancel(self) -> None:
        """End it as canceled."""
        self._work.cancel()

    def wait_for_completion(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """End it well, where it still goes on: nobody else would; see `Run.wait_for_completion`."""
        self.complete()
        return super().wait_for_completion(*args, **kwargs)

    def _capture(self) -> None:
        """Take what the program wrote to its `./outputs` since it began the run, as the SDK does at a run's end."""
        if self._outputs is None or not self._work.is_open:
            return
        folder, since = self._outputs
        for path in _written(folder, since):
            name = f"outputs/{path.relative_to(folder).as_posix()}"
            if not (self._folder / name).exists():
                self.upload_file(name, path)

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        *more: Any,
        **kwargs: Any,
    ) -> Any:
        """Register one of its files: at once where it has ended, else as it completes."""
        if not self._work.is_open:
            return super().register_model(model_name, model_path, tags, properties, *more, **kwargs)
        own = context.RunContext(self._folder)
        kwargs |= dict(zip(registering.AFTER, more, strict=False))
        about = registered.about(tags, properties, *[kwargs.get(name) for name in registering.KEPT])
        return model.promised(own, model_name, model_path, about, local=False)


def start(
    experiment: Any,
    outputs: Any = None,
    snapshot_directory: Any = ".",
    display_name: str | None = None,
    parent: Any = None,
    tags: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> InteractiveRun:
    """A run of this program.

    Args:
        experiment: that it belongs to.
        outputs: a folder whose files become the run's.
        snapshot_directory: whose code is kept with it; None: none.
        display_name: how it is shown.
        parent: the id of the run that it belongs to.
        tags: for the run.
        **kwargs: whatever else the SDK takes; not used.

    Raises:
        UserErrorException: there is no such folder.
    """
    shown = {DISPLAY_NAME: display_name} if display_name else {}
    code = None if snapshot_directory is None else os.fspath(snapshot_directory)
    try:
        work = program.start_run(experiment.name, {**(tags or {}), **shown}, parent, experiment.workspace.folder, code)
    except ConfigError as error:
        raise UserErrorException(f"start_logging: {error}") from error
    context.annotate(work.folder, properties={TYPE_TAG: TYPE})
    run = InteractiveRun(experiment, work=work, run_type=TYPE)
    if outputs is not None and os.path.isdir(os.fsdecode(outputs)):
        run.upload_folder("outputs", outputs)
    run._outputs = Path.cwd() / "outputs", (work.folder / "run.json").stat().st_mtime
    return run


def _written(folder: Path, since: float) -> Iterator[Path]:
    """The files below a folder that are newer, without labrun's records, which may lie there, too."""
    for top in sorted(folder.glob("[!.]*")):
        if not any(top.glob("*/run.json")):
            files = [top, *sorted(top.rglob("*"))]
            yield from (path for path in files if path.is_file() and path.stat().st_mtime >= since)


def child(run: Run, name: Any = None, run_id: Any = None, outputs: Any = None, **kwargs: Any) -> InteractiveRun:
    """A run below another, which may have ended.

    Args:
        run: that one.
        name: how the new one is shown.
        run_id: not used: labrun gives ids.
        outputs: a folder whose files become the run's.
        **kwargs: `tags`.

    Raises:
        UserErrorException: a sweep's runs are its own.
    """
    if run._is_sweep:
        raise UserErrorException("child_run: the runs below a sweep are those that it tries")
    made = start(run.experiment, outputs, None, None if name is None else str(name), run._work.id, kwargs.get("tags"))
    children_note(run, made)
    return made


def children_note(run: Run, made: Run) -> None:
    """Keep with a run that another belongs to it."""
    children.note(run._folder, made._folder, run.experiment.workspace.folder)


def of(run: Run) -> list[Path]:
    """The folders of the runs that were submitted below a run, beside those whose records name it."""
    return children.folders(run._folder, run.experiment.workspace.folder)


def submitted(run: Run, config: Any, tags: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """Submit a configuration as a run below another."""
    made = run.experiment.submit(config, tags, parent=run._work.id, **kwargs)
    children_note(run, made)
    return made


def works_below(run: Run) -> list[Any]:
    """labrun's runs below a run, the oldest first: those whose records name it, and those that it has noted."""
    found = {work.folder: work for work in run._work.get_children()}
    for folder in of(run):
        found.setdefault(folder.resolve(), None)
    made = [work or _work(folder) for folder, work in found.items()]
    return sorted(made, key=_begun)


def _begun(work: Any) -> tuple[str, str]:
    """When a run, or the first run of a sweep, was made: two of one second have their order, too."""
    runs = work.get_children() if isinstance(work, api.Sweep) else [work]
    return min((str(run.record.created) for run in runs), default=""), work.folder.name


def _work(folder: Path) -> Any:
    return api.get_run(folder)
