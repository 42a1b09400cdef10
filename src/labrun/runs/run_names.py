"""Display names of runs in lists: the overrides that distinguish a run from the others, not its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from labrun.errors import RecordError
from labrun.runs.record import Record, read_record

LONGEST = 160
"""Maximum characters of overrides in a name."""
LOOKED_AT = 50
"""How many runs of a sweep to read to find their common overrides."""
UNSAID = ("tracking", "report", "name", "notes", "tags", "compute", "sweep", "hydra", "logger")
"""Config nodes that are irrelevant to what a run tries."""


class RunNames:
    """Names for the runs of a workspace."""

    def __init__(self) -> None:
        self._common: dict[Path, frozenset[str]] = {}

    def name(self, record: Record, run_dir: Path) -> str:
        """Return a name like `3: lr=0.1 (d1a2b3c4)`. The run's number in its sweep is first, since columns truncate."""
        common = self._of_all(run_dir.parent) if record.sweep is not None else frozenset()
        own = [text for text in record.overrides if text not in common and not _is_unsaid(text, record)]
        said = " ".join(_short(text, own) for text in own)
        said = said if len(said) <= LONGEST else f"{said[: LONGEST - 3]}..."
        number = f"{record.sweep.number}: " if record.sweep is not None else ""
        return f"{number}{said} ({record.id})" if said else f"{number}{record.id}"

    def _of_all(self, sweep: Path) -> frozenset[str]:
        """Return the overrides that all runs of a sweep have so far in common; empty if it has fewer than two runs."""
        if sweep not in self._common:
            found = list(_overrides(sorted(sweep.glob("*/run.json"))[:LOOKED_AT]))
            if len(found) < 2:
                return frozenset()  # not cached, since more runs may follow
            self._common[sweep] = frozenset(found[0]).intersection(*found[1:])
        return self._common[sweep]


def _short(text: str, others: list[str]) -> str:
    """Shorten an override: its key to the last part if that is unique, a decimal number to four significant digits."""
    key, equals, value = text.partition("=")
    last = _last(key)
    if [_last(other.partition("=")[0]) for other in others].count(last) == 1 and not last.startswith("_"):
        key = f"{'~' if key.startswith('~') else ''}{last}"
    with contextlib.suppress(ValueError):
        value = f"{float(value):.4g}" if "." in value else value
    return f"{key}{equals}{value}"


def _last(key: str) -> str:
    return key.lstrip("+~").partition("@")[0].replace("/", ".").rpartition(".")[2]


def _is_unsaid(text: str, record: Record) -> bool:
    key, _, value = text.lstrip("+~").partition("=")
    return key.replace("/", ".").partition(".")[0] in UNSAID or (key == "experiment" and value == record.name)


def _overrides(paths: Iterable[Path]) -> Iterable[list[str]]:
    for path in paths:
        with contextlib.suppress(RecordError):
            yield read_record(path.parent).overrides
