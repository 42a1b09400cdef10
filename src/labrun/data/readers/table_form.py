"""What the user says about the form of a table file."""

from __future__ import annotations

from dataclasses import dataclass

from labrun.errors import BY_OPTION, BY_OVERRIDE

OF_FILE = ("separator", "encoding", "sheet", "skip_rows")
"""The settings that apply to a model's samples, too: they need no `header`, as the model knows its columns."""


@dataclass(frozen=True)
class TableForm:
    """Settings for reading a table file; None stands for what is to be detected.

    Args:
        separator: column separator: a character, or a name such as `comma`, `\\t`, `\\s+`.
        encoding: text encoding.
        header: whether the first line holds the column names.
        sheet: sheet of an Excel file: its name, or its number, counting from 1.
        skip_rows: number of lines, or rows of an Excel file, above the table.
        way: where the user sets them, for messages: `BY_OVERRIDE` for keys of a run's data set, `BY_OPTION` for options
            of `lab models predict`.
    """

    separator: str | None = None
    encoding: str | None = None
    header: bool | None = None
    sheet: str | int | None = None
    skip_rows: int | None = None
    way: str = BY_OVERRIDE

    def given(self) -> list[str]:
        """Return which of `OF_FILE` the user has set."""
        return [name for name in OF_FILE if getattr(self, name) is not None]

    def key(self, name: str) -> str:
        """Return a setting as the user writes it: `dataset.skip_rows`, or `--skip-rows`."""
        return f"--{name.replace('_', '-')}" if self.way == BY_OPTION else f"dataset.{name}"
