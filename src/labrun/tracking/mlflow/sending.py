"""Sending to MLflow so that a refused item affects no other, and is reported. Does not import MLflow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from labrun import causes

Item = TypeVar("Item")

REASON_LENGTH = 300
BROKEN = ("OperationalError", "InterfaceError", "DatabaseError")
"""Errors of SQLAlchemy and sqlite3 for a database that is locked, full, damaged or gone. A refused value raises another
class of error, which may be a subclass of these."""


def reason(error: BaseException) -> str:
    """Return the first line of an error, truncated."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines[0]) <= REASON_LENGTH else f"{lines[0][: REASON_LENGTH - 3]}..."


def in_halves(
    send: Callable[[Sequence[Item]], None],
    items: Sequence[Item],
    refused: Callable[[Item, Exception], None],
    must_stop: Callable[[Exception], bool],
) -> None:
    """Send all items at once; on refusal, retry in halves, so that only the items at fault are skipped.

    Args:
        send: sends a batch of items.
        items: the items to send.
        refused: called with each skipped item and its error.
        must_stop: returns whether an error is not a refusal; such an error is raised.
    """
    if not items:
        return
    try:
        send(items)
    except Exception as error:
        if must_stop(error):
            raise
        if len(items) == 1:
            refused(items[0], error)
            return
        middle = len(items) // 2
        in_halves(send, items[:middle], refused, must_stop)
        in_halves(send, items[middle:], refused, must_stop)


def is_database_broken(error: BaseException) -> bool:
    """Return whether an error means that the database is unusable."""
    broken = (*loaded("sqlalchemy.exc", *BROKEN), *loaded("sqlite3", *BROKEN))
    return (
        any(type(one) in broken for one in causes.chain(error))
        or getattr(error, "error_code", None) == "TEMPORARILY_UNAVAILABLE"
    )


def is_unreachable(error: BaseException) -> bool:
    """Return whether an error is a failed connection or HTTP request to a server."""
    of_http = (*loaded("requests", "RequestException"), *loaded("urllib3.exceptions", "HTTPError"))
    return any(isinstance(one, (ConnectionError, TimeoutError, *of_http)) for one in causes.chain(error))


def loaded(module: str, *names: str) -> tuple[type[BaseException], ...]:
    """Return classes of errors of a module; none if it is not loaded, since then it cannot have raised any."""
    found = sys.modules.get(module)
    return () if found is None else tuple(getattr(found, name) for name in names)
