"""The controller of detached runs, in a separate process that survives the terminal. Usage: detached FOLDER"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from labrun.backends.base import Head
from labrun.config.schema import Tracking
from labrun.control import controller, monitor, results
from labrun.errors import LabrunError
from labrun.runs import store, sweep_state
from labrun.runs.record import Record
from labrun.runs.recording import terminating_politely
from labrun.runs.sweep_state import SweepState
from labrun.tracking.feed import follow
from labrun.user_errors import refuse


class StartSignal:
    """A view that also signals, once, that the controller has taken over the runs."""

    def __init__(self, folder: Path, view: controller.View) -> None:
        self._flag, self._view = SweepState(folder).begun, view

    def update(self, running: bool = True) -> None:
        if self._flag is not None and not self._flag.exists():
            self._flag.touch()
        self._view.update(running)

    def ended(self, run_dir: Path, record: Record) -> None:
        self._view.ended(run_dir, record)


def main() -> None:
    """Execute the runs of the folder given on the command line."""
    folder = Path(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    environment = {Path(run): values for run, values in json.load(sys.stdin).items()}
    try:
        take_over(folder, environment, StartSignal(folder, monitor.Lines(folder)))
    except LabrunError as error:
        refuse(error)
    except KeyboardInterrupt:
        sys.exit(130)


def take_over(
    folder: Path, environment: Mapping[Path, Mapping[str, str]], view: controller.View, head: Head | None = None
) -> list[Record]:
    """Control a folder's runs in this process, and write the results at the end.

    Args:
        folder: the folder of the runs.
        environment: the runs' own variables.
        view: is notified of events.
        head: see `controller.run`; the caller closes it.

    Raises:
        LabrunError: see `controller.run`.
    """
    plan = sweep_state.read_plan(folder)
    with _in(plan.cwd), follow(store.workspace(), Tracking.of(plan.tracking)), terminating_politely():
        runner = controller.run(folder, view, environment, head)
        try:
            view.update(running=False)
            return results.print_summary(folder, store.dirs_of_plan(folder, plan), runner.draw)
        finally:
            runner.close()


@contextlib.contextmanager
def _in(cwd: str) -> Iterator[None]:
    before = os.getcwd()
    with contextlib.suppress(OSError):
        os.chdir(cwd)
    try:
        yield
    finally:
        os.chdir(before)
