"""Requests that a run end: files in its folder `requests`. Any process may write one; the run's supervisor obeys it.

Scripts' own interpreters import this too: Python 3.6, standard library only.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from labrun._io import atomic_write
from labrun.runs import context

LARGEST = 2**16


class Request(Enum):
    """What a request asks for, by the name of its file. (Python 3.6 has no StrEnum.)"""

    CANCEL = "cancel"
    STOP = "stop"
    """For a run that did not fail and should not run again."""


def request_path(run_dir: Path, request: Request) -> Path:
    """Return the path of a request."""
    return run_dir / "requests" / request.value


def write_request(run_dir: Path, request: Request, why: str = "") -> None:
    """Write a request, which never appears without its reason.

    Raises:
        OSError: the run's folder is not writable.
    """
    path = request_path(run_dir, request)
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        file.write(why.encode())


def read_request(run_dir: Path, request: Request) -> str:
    """Return the text of a request. Any user may have written it, so its size is limited.

    Raises:
        OSError: there is no such request, or it is not a plain file.
    """
    return context.content(request_path(run_dir, request), LARGEST).decode(errors="replace").strip()


def end_requested(run_dir: Path) -> bool:
    """Return whether a run's folder holds a request to end it."""
    return any(request_path(run_dir, request).exists() for request in Request)


def stop_reason(run_dir: Path) -> str | None:
    """Return why a run was stopped early without having failed; None if it was not, or was canceled as well."""
    if request_path(run_dir, Request.CANCEL).exists():
        return None
    try:
        return read_request(run_dir, Request.STOP) or "asked by requests/stop"
    except OSError:
        return None


def forget_requests(run_dir: Path) -> None:
    """Remove a run's requests to end, so that it can run again."""
    for request in Request:
        request_path(run_dir, request).unlink(missing_ok=True)
