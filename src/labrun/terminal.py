"""Text as a terminal may have it: what records, archives, datastores and registries say is shown, and never obeyed.

A terminal takes control characters for commands: they set its title, move over what was written before, fill its input,
or turn the order of letters round. `plain` shows them as escapes. `guarded` does the same to all that a command prints,
so that no line of it has to be remembered; what is to stay as it is goes through `raw`.
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
"""Joiners without a width of their own: scripts and pictures are made with them."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def plain(text: str, keep: str = "") -> str:
    """A text without what a terminal takes for a command: control characters (C0, DEL, C1), so every escape sequence;
    what turns the direction of writing; what is not a character. They are shown as `\\x1b`, `\\u202e`.

    Args:
        text: any.
        keep: control characters that stay: line ends, in a text of several lines.
    """
    if text.translate(dict.fromkeys(map(ord, keep))).isprintable() if keep else text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or _is_harmless(c) else escaped(c) for c in text)


def lines(text: str) -> str:
    """As `plain`, of a text of several lines: their ends and tabs stay."""
    return plain(text, "\n\t")


def cell(value: Any) -> Any:
    """A value for a CSV file: exact, but for control characters other than line ends and tabs, which are escapes."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(escaped(c) if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in value)


def log(text: str) -> str:
    """What a run printed, for a view beside the log itself: colours taken out, a line that is written over below it."""
    return COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def _is_harmless(character: str) -> bool:
    return character in KEPT or unicodedata.category(character) == "Zs"


def escaped(character: str) -> str:
    """A character as its code."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Guarded(io.TextIOBase):
    """A standard stream that shows what it is given as `lines` has it.

    Args:
        stream: the stream itself.
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
        """The bytes below, for who must write those."""
        return self.stream.buffer

    def reconfigure(self, **how: Any) -> None:
        """Change how it is buffered."""
        self.stream.reconfigure(**how)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Never: it is the process's own."""


def raw(stream: Any) -> Any:
    """A standard stream as it is: for programs, and for what a run printed itself."""
    return stream.stream if isinstance(stream, Guarded) else stream


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Inside, nothing reaches the terminal but through `lines` and `raw`."""
    before = (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = Guarded(before[0]), Guarded(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
