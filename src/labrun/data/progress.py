"""Progress display of a transfer: a bar at a terminal, otherwise one line per file."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, Protocol

from labrun import terminal
from labrun.messages import counted, size_text


class TransferView(Protocol):
    """Receives the progress of a transfer, from any thread."""

    def begin(self, files: int, size: int) -> None:
        """Start a transfer of this many files and bytes."""

    def advance(self, count: int) -> None:
        """Add to the number of bytes transferred."""

    def done(self, name: str, size: int) -> None:
        """Report that a file has arrived."""


class Quiet:
    """Counts files and bytes; displays nothing."""

    def __init__(self) -> None:
        self.bytes = self.files = 0
        self._lock = threading.Lock()

    def begin(self, files: int, size: int) -> None:
        """Nothing to show."""

    def advance(self, count: int) -> None:
        """Nothing to show."""

    def done(self, name: str, size: int) -> None:
        """Count the file."""
        with self._lock:
            self.files += 1
            self.bytes += size


class ProgressDisplay(Quiet):
    """Shows a bar with bytes, files and rate at a terminal, otherwise one line per file.

    Args:
        verb: past participle for the line, such as `uploaded`.
    """

    def __init__(self, verb: str) -> None:
        super().__init__()
        self._verb = verb
        self._total = self._arrived = 0
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, files: int, size: int) -> None:
        """Show the bar."""
        self._total = files
        if not files or not sys.stdout.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        text = TextColumn("{task.fields[count]} of " + str(files))
        self._bar = Progress(
            text,
            BarColumn(),
            DownloadColumn(True),
            Speed(),
            TimeRemainingColumn(compact=True),
            console=Console(file=terminal.raw(sys.stdout)),
        )
        self._task = self._bar.add_task("", total=size, count=0)
        self._bar.start()

    def advance(self, count: int) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def done(self, name: str, size: int) -> None:
        """Print the file's name."""
        super().done(name, size)
        with self._lock:
            self._arrived += 1
            line = f"{self._verb} {terminal.plain(name)} ({size_text(size)}), {self._arrived} of {self._total}"
            if self._bar is None:
                print(line, flush=True)
            else:
                from rich.markup import escape

                self._bar.update(self._task, count=self._arrived)
                self._bar.print(escape(line))

    @property
    def summary(self) -> str:
        """Summary such as `9 files, 279.0 MB in 3.1 s (90.0 MB/s)`."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = f" ({size_text(self.bytes / seconds)}/s)" if self.bytes else ""
        return f"{counted(self.files, 'file')}, {size_text(self.bytes)} in {seconds:.1f} s{rate}"
