"""Display of errors to the user: one message, and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from labrun import masking, terminal
from labrun.errors import LabrunError

USER_ERROR = 2


class UserErrors:
    """Shows a `LabrunError` as one message and exits with code 2; LABRUN_DEBUG=1 or --debug shows the traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LabrunError) and os.environ.get("LABRUN_DEBUG") != "1":
            sys.stderr.write(f"labrun: {shown(str(error))}\n")
            sys.exit(USER_ERROR)


def shown(text: str) -> str:
    """Return a text for the terminal, with secrets masked and control characters escaped."""
    return terminal.lines(masking.masked(text))


def refuse(text: str) -> NoReturn:
    """Print a message to standard error, and exit with code 2."""
    sys.stderr.write(f"labrun: {shown(text)}\n")
    sys.exit(USER_ERROR)
