"""Safe terminal output: text from records, archives, datastores and registries must not control the terminal.

Terminals interpret control characters: they can set the title, overwrite earlier output, inject input, or reverse the
text direction. `plain` replaces them with visible escapes. `guarded` applies this to everything that a command prints,
so that no print statement can forget it; output that must stay unchanged goes through `raw`.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

KEPT = frozenset("\u200c\u200d")
"""Zero-width joiners, which some scripts and emoji need."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def plain(text: str, keep: str = "") -> str:
    """Replace control characters (C0, DEL, C1, thus all escape sequences), bidirectional controls and non-characters
    in a text with visible escapes such as `\\x1b` and `\\u202e`.

    Args:
        text: any text.
        keep: control characters to keep, such as line ends in a text of several lines.
    """
    if text.translate(dict.fromkeys(map(ord, keep))).isprintable() if keep else text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or _is_harmless(c) else escaped(c) for c in text)


def lines(text: str) -> str:
    """Apply `plain` to a text of several lines, keeping line ends and tabs."""
    return plain(text, "\n\t")


def cell(value: Any) -> Any:
    """Escape the control characters in a value for a CSV file, except newlines and tabs."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(escaped(c) if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in value)


def log(text: str) -> str:
    """Prepare a run's log for display: remove colours, and replace carriage returns with newlines."""
    return COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def _is_harmless(character: str) -> bool:
    return character in KEPT or unicodedata.category(character) == "Zs"


def escaped(character: str) -> str:
    """Return the escape of a character, such as `\\x1b`."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Guarded(io.TextIOBase):
    """A standard stream that passes all text through `lines`.

    Args:
        stream: the underlying stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(lines(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.stream.errors

    @property
    def buffer(self) -> Any:
        """The underlying binary buffer."""
        return self.stream.buffer

    def reconfigure(self, **how: Any) -> None:
        """Reconfigure the underlying stream."""
        self.stream.reconfigure(**how)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Do nothing: the stream belongs to the process."""


def raw(stream: Any) -> Any:
    """Return the unguarded stream, for machine-readable output and for output of runs."""
    return stream.stream if isinstance(stream, Guarded) else stream


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """In the context, guard standard output and standard error; only `raw` bypasses this."""
    before = (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = Guarded(before[0]), Guarded(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
