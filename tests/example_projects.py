"""Copies of the projects in `examples/` for the tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import labrun
from helpers import call_here, run_labrun, start_labrun, wait_for
from labrun import app
from labrun.app.resolvers import register
from labrun.runs.context import read_metrics
from labrun.runs.record import COMPLETED, Record, read_record
from labrun.tasks.saved import Saved

EXAMPLES = Path(__file__).parents[1] / "examples"
WRITTEN = {"outputs", "multirun", "data", ".venv", "uv.lock"}
"""Files that a developer's own runs may have left in the folder of an example; they are not copied."""
WAITING = """
import os, pathlib, time
import pytorch_lightning as pl


class Wait(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1:
            pathlib.Path("waits.part").write_text(str(os.getpid()))
            os.rename("waits.part", "waits")
            time.sleep(600)
"""
"""Source of a callback that stops in the middle of the second epoch."""
SMALL_TEXT = (
    "dataset.train.files=8",
    "dataset.train.length=32",
    "model.width=16",
    "model.layers=1",
    "model.new=5",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
    "trainer.options.limit_test_batches=2",
)
"""Overrides with which the example on text trains in a second."""


class Project:
    """A copy of an example project.

    Args:
        name: folder of the example.
        parent: folder in which the copy is created.
    """

    def __init__(self, name: str, parent: Path) -> None:
        top = EXAMPLES / name
        self.folder = parent / name

        def unwanted(place: str, names: list[str]) -> set[str]:
            return {"__pycache__"} | (WRITTEN if Path(place) == top else set())

        shutil.copytree(top, self.folder, ignore=unwanted)

    def run(self, *arguments: str) -> tuple[Record, Path]:
        """Execute a single run in this process, and return its record and directory."""
        register()
        before = set(self.folder.glob("outputs/*/*/run.json"))
        with self.script():
            assert call_here(app.main, "labrun", *arguments, "tracking=none", "report=none") == 0
        (path,) = set(self.folder.glob("outputs/*/*/run.json")) - before
        record = read_record(path.parent)
        assert record.status == COMPLETED
        return record, path.parent

    def sweep(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a sweep to its end, and return the records of its runs, as parsed from their files."""
        before = set(self.folder.glob("multirun/*/*/*/run.json"))
        done = run_labrun("-m", *arguments, "tracking=none", "report=none", cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        found = sorted(set(self.folder.glob("multirun/*/*/*/run.json")) - before)
        return [json.loads(path.read_text()) for path in found]

    def kill_and_resume(self, undisturbed: Record, *arguments: str) -> None:
        """Kill a run in the middle of its second epoch, resume it, and check that it ends like an undisturbed one.

        Args:
            undisturbed: record of an undisturbed run with the same arguments.
            arguments: arguments of the command.
        """
        (self.folder / "waiting.py").write_text(WAITING)
        before = set(self.folder.glob("outputs/*/*/run.json"))
        wait = "+callbacks.wait={_target_: waiting.Wait}"
        begun = start_labrun(*arguments, wait, "tracking=none", "report=none", cwd=self.folder)
        wait_for(lambda: (self.folder / "waits").exists() or begun.poll() is not None)
        assert begun.poll() is None, begun.communicate()
        os.kill(int((self.folder / "waits").read_text()), signal.SIGKILL)
        begun.communicate()
        (killed,) = {path.parent for path in set(self.folder.glob("outputs/*/*/run.json")) - before}
        (self.folder / "waits").unlink()
        record, run_dir = self.run(*arguments, f"trainer.resume={killed}")
        assert 1 not in {line["step"] for line in read_metrics(run_dir)}, "the first epoch was done"
        assert record.metrics == pytest.approx(undisturbed.metrics, rel=1e-5)

    def loaded(self, record: Record) -> list[Saved]:
        """Load the model of a run as a script in the project does: by the run, and by its registered name."""
        with self.script():
            labrun.get_run(record.id).register_model("trained")
            return [labrun.load_model(name) for name in (f"run:{record.id}", "trained")]

    @contextlib.contextmanager
    def script(self) -> Iterator[None]:
        """In the context, make this process behave like a script in the project's folder."""
        place, known = Path.cwd(), set(sys.modules)
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        try:
            yield
        finally:
            sys.path.remove(str(self.folder))
            os.chdir(place)
            for name in set(sys.modules) - known:
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.folder)):
                    del sys.modules[name]
