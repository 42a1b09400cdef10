"""Display of errors to the user: one message, and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from labrun import refusal, terminal
from labrun.config import masking
from labrun.errors import ControlledError, LabrunError
from labrun.refusal import Refusal

USER_ERROR = 2
EXIT_CANCELED = 130


class UserErrors:
    """Shows a `LabrunError` as one message and exits with code 2; LABRUN_DEBUG=1 or --debug shows the traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LabrunError) and os.environ.get("LABRUN_DEBUG") != "1":
            refuse(error)


def show_traceback(error: Exception) -> NoReturn:
    """Print an error with its traceback, secrets masked, and exit: with code 2 for a `LabrunError`, otherwise 1."""
    import traceback

    sys.stderr.write(for_terminal("".join(traceback.format_exception(error))))
    sys.exit(USER_ERROR if isinstance(error, LabrunError) else 1)


def for_terminal(text: str) -> str:
    """Return a text for the terminal, with secrets masked and control characters escaped."""
    return terminal.lines(masking.masked(text))


def refuse(error: LabrunError | str) -> NoReturn:
    """Print a message to standard error, leave it for the process that started this one, and exit with code 2."""
    message = for_terminal(str(error))
    sys.stderr.write(f"labrun: {message}\n")
    refusal.leave(Refusal(message, isinstance(error, ControlledError)))
    sys.exit(USER_ERROR)
