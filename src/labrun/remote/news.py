"""The answer to the request `news`, which mirrors runs. Only types, which no process imports.

The bytes that an answer announces follow it: of each run those of `files`, `record` and `said`, then those of the
folder's own `files`.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

Grown = dict[str, list[int]]
"""New ends of files: name -> [start, number of bytes]."""
Mark = list[int]
"""Identifies the version of a file (`helper.mark_of`)."""


class RunNews(TypedDict):
    """The changes of one run."""

    files: Grown
    age: float | None
    """Age of its heartbeat, in seconds; None if it has none."""
    record: NotRequired[int]
    """Number of bytes of its record; missing if the record has not changed, or is held back."""
    mark: NotRequired[Mark]
    """Mark of the record; comes with `record`."""
    said: NotRequired[int]
    """Number of bytes of its annotations; missing if they have not changed."""
    said_mark: NotRequired[Mark]


class FolderNews(TypedDict):
    """The changes in the folder of a sweep or of a run."""

    there: bool
    """Whether the folder exists."""
    living: bool
    """Whether it has a controller."""
    over: bool
    """Whether its search has ended."""
    runs: dict[str, RunNews]
    """Runs with changes, by name."""
    files: Grown
