"""Sending to MLflow so that what it refuses costs nothing but itself, and is named. Imports no MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

REASON_LENGTH = 300
BROKEN = frozenset({"OperationalError", "InterfaceError", "DatabaseError"})
"""What SQLAlchemy and sqlite3 call a database that is locked, full, damaged or gone. A value that it refuses is another
class of error."""


def reason(error: BaseException) -> str:
    """The first line of an error, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines[0]) <= REASON_LENGTH else f"{lines[0][: REASON_LENGTH - 3]}..."


def in_halves(
    send: Callable[[Sequence[Item]], None],
    items: Sequence[Item],
    refused: Callable[[Item, Exception], None],
    must_stop: Callable[[Exception], bool],
) -> None:
    """Send all at once; where that is refused, in halves, so that only what is refused by itself is left out.

    Args:
        send: sends some.
        items: what is to be sent.
        refused: called with each value that is left out, and why.
        must_stop: whether an error is of another kind than a refusal; it is raised then.
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
    """Whether the database cannot be used at all."""
    return (
        any(
            type(one).__module__.startswith(("sqlalchemy", "sqlite3")) and type(one).__name__ in BROKEN
            for one in _chain(error)
        )
        or getattr(error, "error_code", None) == "TEMPORARILY_UNAVAILABLE"
    )


def is_unreachable(error: BaseException) -> bool:
    """Whether a server has not answered, or not with more than that something went wrong there."""
    return any(
        isinstance(one, ConnectionError | TimeoutError) or type(one).__module__.startswith(("requests", "urllib3"))
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        yield at
        at = at.__cause__ or at.__context__
