"""Prints the output of jobs while they run."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

SUBMITIT = re.compile(rb"submitit (INFO|WARNING|ERROR) \(|\[[^]]*\]\[submitit\]\[INFO\] - ")
"""Matches submitit's own lines in the log of a job."""
KEPT = 2**16
"""Length of the end of a job's output that is searched for its traceback, in characters."""


class Output:
    """Prints the output of a job as it arrives, each line prefixed with the number of the job.

    Args:
        number: number of the job.
        job: submitit's job.
    """

    def __init__(self, number: int, job: Any) -> None:
        self._mark = f"[{number}] ".encode()
        self._files = {path: 0 for task in range(job.num_tasks) for path in _logs(job.task(task))}
        self._rest: dict[Path, bytes] = {}
        self._last = ""

    def has_shown(self, trace: str) -> bool:
        """Whether the end of the job's output contains a traceback."""
        return bool(trace) and trace.splitlines()[-1] in self._last

    def show(self, at_end: bool = False) -> None:
        """Print new output in whole lines; at the end, also an incomplete last line."""
        for path, position in self._files.items():
            with suppress(OSError), open(path, "rb") as file:
                file.seek(position)
                content = file.read()
                self._files[path] += len(content)
                *lines, rest = (self._rest.get(path, b"") + content).split(b"\n")
                self._rest[path] = b"" if at_end else rest
                lines += [rest] if at_end and rest else []
                lines = [line for line in lines if not SUBMITIT.match(line)]
                text = b"".join(self._mark + line + b"\n" for line in lines).decode("utf-8", "replace")
                self._last = (self._last + text)[-KEPT:]
                sys.stdout.write(text)
        sys.stdout.flush()


def _logs(job: Any) -> list[Path]:
    return [job.paths.stdout, job.paths.stderr]
