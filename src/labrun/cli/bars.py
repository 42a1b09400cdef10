"""Progress bar for work of unknown length."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

from labrun import terminal

PATIENCE_S = 1.0


class Bar:
    """A progress bar on standard error, shown only at a terminal, and only if the work takes longer than a second.

    Args:
        what: the items that are processed, in the plural.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._done, self._total = 0, 0
        self._is_over = False
        self._lock = threading.Lock()
        self._bar: Any = None
        self._task: Any = None
        self._timer = threading.Timer(PATIENCE_S, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Remove the bar. May be called from any thread, and more than once."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.stop()
            self._bar = None

    def update(self, done: int, total: int) -> None:
        """Update the number of processed items and their total. May be called from any thread."""
        with self._lock:
            self._done, self._total = done, total
            self._update()

    def _update(self) -> None:
        if self._bar is not None:
            text = f"{self._done:,} of {self._total:,} {self._what}" if self._total else "starting MLflow"
            self._bar.update(self._task, completed=self._done, total=self._total or None, text=text)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.fields[text]}"), BarColumn(), TimeRemainingColumn(compact=True))
        bar = Progress(*columns, console=Console(file=terminal.raw(sys.stderr)), transient=True)
        with self._lock:
            if self._is_over:
                return
            self._bar, self._task = bar, bar.add_task("", total=None, text="")
            self._update()
            bar.start()
