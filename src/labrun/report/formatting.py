"""Text about runs: tables, numbers, durations, tags, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labrun.terminal import plain

if TYPE_CHECKING:
    from labrun.runs.groups import Training
    from labrun.runs.record import Record


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Format two columns as text between horizontal rules."""
    names = [plain(name) for name, _ in rows]
    widest = max(map(width, names))
    lines = []
    for name, (_, value) in zip(names, rows, strict=True):
        for place, line in enumerate(value.splitlines() or [""]):
            lines.append(f"  {padded('' if place else name, widest)}  {plain(line)}")
    rule = "-" * min(100, max(map(width, lines)) + 2)
    return "\n".join([rule, *lines, rule])


def duration(seconds: float) -> str:
    """Format a duration in the most readable unit."""
    for limit, name, size in ((90, "s", 1), (5400, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{int(name == 'h')}f} {name}"
    return f"{seconds / 86400:.0f} d"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines, with each column as wide as its widest cell.

    By hand, because a table of rich takes 3 s for the 5,000 runs that `lab runs ls` formats here in 0.02 s.
    """
    shown = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(padded(cell, widest) for cell, widest in zip(row, widths, strict=True)).rstrip()


def width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal, where a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def padded(text: str, columns: int) -> str:
    """Fill a text with spaces on the right, to a number of a terminal's columns."""
    return text + " " * (columns - width(text))


def tags(given: Mapping[str, str]) -> str:
    """Format tags on one line, in the syntax of `lab runs tag`."""
    return " ".join(f"{key}={value}" if value else key for key, value in given.items())


def number(value: float) -> str:
    """Format a number with four significant digits, without an exponent where possible."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 1 else f"{value + 0.0:.4g}"  # + 0.0 turns -0.0 into 0.0


def parameter(value: Any) -> str:
    """Format a parameter's value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tested(training: Training) -> str:
    """Describe which epoch's weights were tested: `7 of 12, the best by val/acc (the larger the better)`."""
    text = f"{training.tested} of {training.epochs}, {training.why}"
    return f"{text}; stopped early" if training.stopped_early is not None else text


RESUME_KEYS = re.compile(r"\+{0,2}trainer\.(resume|resume_code)=")
"""Overrides that select the run to resume."""


def resume_command(record: Record) -> str:
    """Return the command that resumes a run's training; for a finished run, with twice the epochs."""
    try:
        words = [word for word in shlex.split(record.command) if not RESUME_KEYS.match(word)]
        if record.finished:
            words = [word for word in words if "trainer.max_epochs=" not in word]
            words.append(f"trainer.max_epochs={2 * int(record.config['trainer']['max_epochs'])}")
    except (ValueError, KeyError, TypeError):  # others may have written the record
        words = ["labrun"]
    return shlex.join([*words, f"trainer.resume={record.id}"])


def trouble(training: Training | None) -> str | None:
    """Return a warning if training ended in NaN or infinity, else None."""
    found = None if training is None else training.not_finite
    if found is None:
        return None
    return plain(f"The training ended in NaN or infinity: {found.what}, since epoch {found.since}")


def differing(overrides: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str]]:
    """Split the overrides of runs into those that distinguish each run and those that all runs share.

    Args:
        overrides: the overrides of each run, as typed.
    """
    if len(overrides) < 2:
        return [list(own) for own in overrides], []
    common = [text for text in overrides[0] if all(text in own for own in overrides[1:])]
    return [[text for text in own if text not in common] for own in overrides], common
