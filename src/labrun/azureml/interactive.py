"""`InteractiveRun`: a run without a script, from `experiment.start_logging()` or `run.child_run()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from labrun.azureml.run import Run
from labrun.compat.azureml.training import model
from labrun.compat.azureml.training.base import failure_text
from labrun.runs import context


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


def _written(folder: Path, since: float) -> Iterator[Path]:
    """Yield the files in a folder that are newer than `since`, without labrun's records, which may be there too."""
    for top in sorted(folder.glob("[!.]*")):
        if not any(top.glob("*/run.json")):
            files = [top, *sorted(top.rglob("*"))]
            yield from (path for path in files if path.is_file() and path.stat().st_mtime >= since)
