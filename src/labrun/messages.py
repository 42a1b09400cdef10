"""Parts of messages: counts, sizes, shapes, and the closest of the allowed words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

UNITS = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "KB"))


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest choice; an empty string if none is close."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def first_line(text: str) -> str:
    """Return the first line of a text that is not blank; with the next one if it ends in a colon, as before a list."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    announces = lines[0].endswith(":") if lines else False
    return " ".join([*lines[:1], *(line.removeprefix("- ") for line in lines[1 : 1 + announces])])


def without_details(error: BaseException) -> str:
    """Return what an error of OmegaConf's or Hydra's says, without the lines that it adds on keys, types and syntax.

    Their errors have no attribute with this alone: `msg` of OmegaConf's holds all of the lines.
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def size_text(count: float) -> str:
    """Format a number of bytes, as in `31.0 MB`; a KB is 1,024 bytes."""
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def counted(number: int, noun: str) -> str:
    """Format a number with its noun, as in `1 file`, `4 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shape_text(shape: Sequence[int]) -> str:
    """Format a shape for messages, as in `1x28x28 (grey, 28 high, 28 wide)`."""
    text = "x".join(str(size) for size in shape)
    if len(shape) != 3:
        return f"{text} (features)"
    channels, height, width = shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return f"{text} ({kind}, {height} high, {width} wide)"
