"""The errors that users see, as one tree.

    LabrunError                   root; the user can act on it; shown as one message, without a traceback
    |-- ConfigError               the configuration is invalid
    |   |-- UntrustedError        a saved model has classes that need the user's trust to be built
    |   `-- NoClusterError        no Slurm cluster responds on this machine (`backends.slurm.partitions`)
    |-- DataError                 the data cannot be used
    |   |-- DoubtfulDecimalError  numbers of a table can be read with either decimal sign
    |   |-- MissingDataError      required files are missing
    |   |-- CorruptDataError      files exist, but are truncated, altered or of the wrong kind
    |   `-- UnfitError            the data do not suit the model
    |-- MissingExtraError         a required optional package is not installed
    |-- RecordError               a run's record cannot be found, read or written
    |   |-- ControlledError       another controller holds the runs
    |   |   `-- OvertakenError    another controller has taken over this one's runs (`control.lease`)
    |   |-- DamagedRecordError    the record exists, but cannot be read
    |   `-- FolderGoneError       a folder no longer exists on its machine (`remote.mirror`)
    |-- RunFailedError            the run's own code failed
    |-- RequestRefusedError       another machine refuses or cannot fulfill a request (`remote.channel`)
    |-- UnreachableError          another machine cannot be reached now (`remote.ssh`)
    |   `-- LoginError            another machine requires an interactive login (`remote.ssh`)
    `-- NoIndexError              another machine cannot reach a package index (`remote.environment`)

Each message says what was given, what was expected, and what to do. Errors outside the tree are for callers inside
labrun, which handle them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class LabrunError(Exception):
    """Root of all errors that the user can act on."""


class ConfigError(LabrunError):
    """One or more mistakes in a configuration, reported together."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            super().__init__(f"{len(self.problems)} mistakes in the configuration:\n{lines}")


BY_OVERRIDE, BY_OPTION, BY_ARGUMENT, BY_VARIABLE = "labrun", "lab", "Python", "mlflow models serve"
"""Places where the user can name trusted classes."""
TRUSTING: Mapping[str, Callable[[Sequence[str]], str]] = {
    BY_OVERRIDE: lambda names: shlex.quote(f"trusted=[{','.join(names)}]"),
    BY_OPTION: lambda names: " ".join(f"--trusted {shlex.quote(name)}" for name in names),
    BY_ARGUMENT: lambda names: f"trusted={list(names)!r}",
    BY_VARIABLE: lambda names: f"LABRUN_TRUSTED={shlex.quote(','.join(names))}",
}
"""Functions that format trusted names for each place, ready to type."""


class UntrustedError(ConfigError):
    """A saved model has classes that are built only if the user trusts them.

    Args:
        what: sentences that say which classes, and why.
        names: all names that the user has to trust for the model to be built.
        way: a key of `TRUSTING`: where the user can name them.
    """

    def __init__(self, what: str, names: Sequence[str], way: str = BY_OVERRIDE) -> None:
        self.what, self.names, self.way = what, list(names), way
        super().__init__(f"{what}. If you trust the author of the run, name it: {TRUSTING[way](self.names)}")

    def with_advice(self, way: str) -> UntrustedError:
        """Return this error with advice for another place."""
        return UntrustedError(self.what, self.names, way)

    def because(self, reason: str) -> UntrustedError:
        """Return this error with the reason why the model is not trusted automatically."""
        return UntrustedError(f"{self.what}. It is not trusted automatically: {reason}", self.names, self.way)


class DataError(LabrunError):
    """The data cannot be used."""


DECIMAL: Mapping[str, Callable[[str], str]] = {
    BY_OVERRIDE: lambda word: f"dataset.decimal={word}",
    BY_OPTION: lambda word: f"--decimal {word}",
    BY_ARGUMENT: lambda word: f"model.decimal = {word!r}",
}
"""Functions that format the option for a table's decimal sign (`point`, `comma`) for each place, ready to type."""


class DoubtfulDecimalError(DataError):
    """Numbers of a table can be read with either decimal sign.

    Args:
        what: a sentence that gives both readings, the one with a point first.
        way: a key of `DECIMAL`: where the user can choose.
    """

    def __init__(self, what: str, way: str = BY_OVERRIDE) -> None:
        self.what, self.way = what, way
        super().__init__(f"{what}: use {DECIMAL[way]('point')} for the first, {DECIMAL[way]('comma')} for the second")

    def with_advice(self, way: str) -> DoubtfulDecimalError:
        """Return this error with advice for another place."""
        return DoubtfulDecimalError(self.what, way)


class MissingDataError(DataError):
    """Files that a data set needs are missing."""


class CorruptDataError(DataError):
    """A file is truncated, altered, or belongs to another data set."""


class UnfitError(DataError):
    """A model cannot be used with a data set."""


class MissingExtraError(LabrunError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: uv sync --extra {extra}   (or: pip install 'labrun[{extra}]')"
        )


class RecordError(LabrunError):
    """A run's record cannot be found, read or written."""


class ControlledError(RecordError):
    """Another controller holds the runs."""


class DamagedRecordError(RecordError):
    """A record exists, but cannot be read.

    Args:
        path: the record file.
        why: the reason, for the message.
    """

    def __init__(self, path: Path, why: str) -> None:
        self.why = why
        super().__init__(f"{path} is damaged or cannot be read: {why}")


class RunFailedError(LabrunError):
    """The run's own code failed; its record and its log hold the details.

    Args:
        message: how the run ended.
        trace: the traceback that it printed, if any.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace
