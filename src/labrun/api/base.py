"""Base class of the `Run` and `Sweep` handles, and the process that executes a submission."""

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
from labrun.runs.status import Status

POLL_S = 0.5


class Submission:
    """The process that executes work submitted from this interpreter. It is stopped when the interpreter exits."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        atexit.register(self.end)

    def end(self) -> None:
        """Interrupt the process, and wait up to 15 seconds for it to end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=15)

    def output(self) -> str:
        """Return the output of the process so far."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


class Handle:
    """Base class of `Run` and `Sweep`."""

    def __init__(self, folder: str | os.PathLike[str], submission: Submission | None = None) -> None:
        self.folder = Path(folder).resolve()
        self.submission = submission

    @property
    def status(self) -> Status:
        """The current status."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        raise NotImplementedError

    def get_status(self) -> Status:
        """Return `status`."""
        return self.status

    def log_file(self) -> Path | None:
        """Return the path of the log file; None if there is none."""
        raise NotImplementedError

    def failure(self) -> str | None:
        """Return why it failed; None if it did not."""
        raise NotImplementedError

    def get_details(self) -> dict[str, Any]:
        """Return all details as a dictionary."""
        raise NotImplementedError

    def wait_for_completion(
        self, show_output: bool = False, raise_on_error: bool = True, timeout_s: float | None = None, **_: Any
    ) -> dict[str, Any]:
        """Wait until it has ended.

        Args:
            show_output: print its log while waiting.
            raise_on_error: raise an error if it failed.
            timeout_s: maximum time to wait, in seconds.

        Returns:
            The same as `get_details`.

        Raises:
            RunFailedError: it failed.
            TimeoutError: it has not ended in time; it keeps running.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        shown, over = 0, False
        # A read may end in the middle of a multi-byte character.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            over = self.is_over and (self.submission is None or self.submission.process.poll() is not None)
            log = self.log_file() if show_output else None
            if log is not None and log.exists():
                file = context.opened(log)
                if file is None:  # a named pipe: reading it could block forever
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
                raise TimeoutError(f"{self!r} has not ended within {timeout_s:g} s; it is still running")
            time.sleep(POLL_S)
        failure = self.failure()
        if failure is not None and raise_on_error:
            raise RunFailedError(failure)
        return self.get_details()

    def get_portal_url(self) -> str:
        """Return the URL of its folder."""
        return self.folder.as_uri()


def root_of(folder: Path) -> Path:
    """Return the workspace that contains the folder of a run or a sweep."""
    for parent in folder.parents:
        if parent.name in ("outputs", "multirun"):
            return parent.parent
    return store.workspace()
