"""Every error that labrun raises on purpose.

    LabrunError                 the root: the user can act on it; shown as one message, without a traceback
    |-- ConfigError             the configuration asks for something that cannot be
    |   `-- UntrustedError      a saved model is of classes that are not built unasked
    |-- DataError               the data cannot be used
    |   |-- MissingDataError    files that should be there are not
    |   |-- CorruptDataError    files are there, but are not what they claim to be
    |   `-- UnfitError          data and model are fine, but do not go together
    |-- MissingExtraError       an optional package is needed and not installed
    |-- RecordError             a run's record cannot be found, read or written
    |   `-- DamagedRecordError  it is there, and cannot be read
    `-- RunFailedError          the run's own code failed

A message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class LabrunError(Exception):
    """Root of all errors that the user can act on."""


class ConfigError(LabrunError):
    """One or more mistakes in a configuration, all told at once."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            super().__init__(f"{len(self.problems)} mistakes in the configuration:\n{lines}")


BY_OVERRIDE, BY_OPTION, BY_ARGUMENT, BY_VARIABLE = "labrun", "lab", "Python", "mlflow models serve"
"""Where the user names what is trusted."""
TRUSTING: Mapping[str, Callable[[Sequence[str]], str]] = {
    BY_OVERRIDE: lambda names: shlex.quote(f"trusted=[{','.join(names)}]"),
    BY_OPTION: lambda names: " ".join(f"--trusted {shlex.quote(name)}" for name in names),
    BY_ARGUMENT: lambda names: f"trusted={list(names)!r}",
    BY_VARIABLE: lambda names: f"LABRUN_TRUSTED={shlex.quote(','.join(names))}",
}
"""What is typed there."""


class UntrustedError(ConfigError):
    """A saved model is of classes that are not built unasked.

    Args:
        what: sentences that say so.
        names: all that has to be named for it to be built.
        way: a key of `TRUSTING`.
    """

    def __init__(self, what: str, names: Sequence[str], way: str = BY_OVERRIDE) -> None:
        self.what, self.names, self.way = what, list(names), way
        super().__init__(f"{what}. If you trust whoever made the run, name it: {TRUSTING[way](self.names)}")

    def said(self, way: str) -> UntrustedError:
        """The same, with what is typed elsewhere."""
        return UntrustedError(self.what, self.names, way)

    def because(self, reason: str) -> UntrustedError:
        """The same, with why it is not trusted by itself."""
        return UntrustedError(f"{self.what}. It is not trusted by itself: {reason}", self.names, self.way)


class DataError(LabrunError):
    """The data cannot be used as they are."""


DECIMAL: Mapping[str, Callable[[str], str]] = {
    BY_OVERRIDE: lambda word: f"dataset.decimal={word}",
    BY_OPTION: lambda word: f"--decimal {word}",
    BY_ARGUMENT: lambda word: f"model.decimal = {word!r}",
}
"""How the user says the decimal sign of a table, in words: point, comma."""


class DoubtfulDecimalError(DataError):
    """Numbers of a table may be read with either decimal sign.

    Args:
        what: a sentence that says so, the reading with a point first.
        way: a key of `DECIMAL`.
    """

    def __init__(self, what: str, way: str = BY_OVERRIDE) -> None:
        self.what, self.way = what, way
        super().__init__(f"{what}: say {DECIMAL[way]('point')} for the first, {DECIMAL[way]('comma')} for the second")

    def said(self, way: str) -> DoubtfulDecimalError:
        """The same, with what is typed elsewhere."""
        return DoubtfulDecimalError(self.what, way)


class MissingDataError(DataError):
    """Files that a data set needs are not there."""


class CorruptDataError(DataError):
    """A file is not what it claims to be: truncated, altered, or of another data set."""


class UnfitError(DataError):
    """A model and a data set do not go together."""


class MissingExtraError(LabrunError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: uv sync --extra {extra}   (or: pip install 'labrun[{extra}]')"
        )


class RecordError(LabrunError):
    """A run's record cannot be found, read or written."""


class DamagedRecordError(RecordError):
    """A record is there, and cannot be read.

    Args:
        path: the file.
        why: what is wrong with it.
    """

    def __init__(self, path: Path, why: str) -> None:
        self.why = why
        super().__init__(f"{path} is damaged or cannot be read: {why}")


class RunFailedError(LabrunError):
    """The run's own code failed; its record and its log hold the details.

    Args:
        message: how it ended.
        trace: the traceback that it printed, if any.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace
