"""What a run and a sweep have in common as Python sees them, and the process that carries out what was submitted."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from labrun.errors import RunFailedError
from labrun.runs import context, store
from labrun.tracking.mlflow import ui_state

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
        # A read may end within a letter of several bytes.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
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
                sys.stdout.write(decoder.decode(data, final=over))
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


def root_of(folder: Path) -> Path:
    """The workspace that a run's or a sweep's folder lies in."""
    for parent in folder.parents:
        if parent.name in ("outputs", "multirun"):
            return parent.parent
    return store.workspace()
