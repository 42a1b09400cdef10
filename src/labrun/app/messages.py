"""Display of errors to the user: one message, and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from labrun import masking, refusal, terminal
from labrun.errors import ControlledError, LabrunError
from labrun.refusal import Refusal

USER_ERROR = 2


class UserErrors:
    """Shows a `LabrunError` as one message and exits with code 2; LABRUN_DEBUG=1 or --debug shows the traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LabrunError) and os.environ.get("LABRUN_DEBUG") != "1":
            refuse(str(error), isinstance(error, ControlledError))


def for_terminal(text: str) -> str:
    """Return a text for the terminal, with secrets masked and control characters escaped."""
    return terminal.lines(masking.masked(text))


def refuse(text: str, is_controlled: bool = False) -> NoReturn:
    """Print a message to standard error, and exit with code 2; see `Refusal`."""
    sys.stderr.write(f"labrun: {for_terminal(text)}\n")
    refusal.leave(Refusal(for_terminal(text), is_controlled))
    sys.exit(USER_ERROR)
