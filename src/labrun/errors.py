"""Every error that labrun raises on purpose.

    LabrunError                 the root: a person can act on it; shown as one message, without a traceback
    |-- ConfigError             the configuration asks for something that cannot be
    |-- DataError               the data cannot be used
    |   |-- MissingDataError    files that should be there are not
    |   |-- CorruptDataError    files are there, but are not what they claim to be
    |   `-- UnfitError          data and model are fine, but do not go together
    |-- MissingExtraError       an optional package is needed and not installed
    |-- RecordError             a run's record cannot be found, read or written
    `-- RunFailedError          the run's own code failed

A message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class LabrunError(Exception):
    """Root of all errors that a person can act on."""


class ConfigError(LabrunError):
    """One or more mistakes in a configuration, all told at once."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            super().__init__(f"{len(self.problems)} mistakes in the configuration:\n{lines}")


class DataError(LabrunError):
    """The data cannot be used as they are."""


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


class RunFailedError(LabrunError):
    """The run's own code failed; its record and its log hold the details.

    Args:
        message: how it ended.
        trace: the traceback that it printed, if any.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace
