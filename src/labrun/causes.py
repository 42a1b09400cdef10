"""The errors that an error was raised for. Scripts' own interpreters import this too: Python 3.6, standard library."""

from __future__ import annotations

from collections.abc import Iterator


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the one that it was raised for or while handling, and so on; nothing for None."""
    seen: list[BaseException] = []
    while error is not None and not any(error is one for one in seen):
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
