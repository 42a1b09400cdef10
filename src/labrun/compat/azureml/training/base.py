"""Base classes of runs: the members that a script's run has whether it is recorded or only tried by hand."""

from __future__ import annotations

import importlib
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from labrun.compat.azureml import absent, finder
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import NoSuchMemberError
from labrun.compat.azureml.training.keyvault import secret_of

if TYPE_CHECKING:
    from labrun.compat.azureml.training.data import Inputs
    from labrun.compat.azureml.training.experiment import Experiment

Self = TypeVar("Self", bound="RunBase")


STATUSES = {"preempted": "Queued", "stopped": "Canceled", "lost": "Failed", "unreachable": "NotResponding"}
"""labrun's statuses that the SDK names differently; the others are only capitalized. A run that has ended must never
appear active, because scripts wait for its end in loops."""


def sdk_status(status: str) -> str:
    """Return the SDK's word for a status."""
    return STATUSES.get(status, status.capitalize())


def failure_text(error_details: Any, error_code: Any) -> str:
    """Return the reason that a script gives for a failure, with its error code."""
    text = str(error_details if error_details is not None else "the script called run.fail()")
    return text if error_code is None else f"{text} (error code {error_code})"


class RunFacts:
    """Attributes of a recorded run that mirror its `get_...` calls, both for its script and for the submitter."""

    if TYPE_CHECKING:

        @property
        def display_name(self) -> str: ...

        def get_status(self) -> str: ...

        def get_tags(self) -> dict[str, str]: ...

        def get_properties(self) -> dict[str, str]: ...

    @property
    def name(self) -> str:
        return self.display_name

    @property
    def status(self) -> str:
        return self.get_status()

    @property
    def tags(self) -> dict[str, str]:
        return self.get_tags()

    @property
    def properties(self) -> dict[str, str]:
        return self.get_properties()


class RunBase:
    """The members of `Run` that record nothing."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise NoSuchMemberError(f"run.{name} is not in labrun: {absent.GENERAL}")

    @property
    def experiment(self) -> Experiment:
        """The experiment that the run belongs to."""
        from labrun.compat.azureml.training.experiment import Experiment

        return Experiment()

    @property
    def input_datasets(self) -> Inputs:
        """The inputs mounted by the run's config, by name."""
        from labrun.compat.azureml.training.data import Inputs

        return Inputs()

    def complete(self, _set_status: bool = True) -> None:
        """Flush the output. The run completes when its script ends without an error."""
        self.flush()

    def start(self) -> None:
        """Do nothing: a run has started when its script runs."""

    def flush(self, timeout_seconds: int = 300) -> None:
        """Flush the printed output. Metrics are on disk as soon as they are logged."""
        sys.stdout.flush()
        sys.stderr.flush()

    def get_secret(self, name: str) -> str:
        """Return a secret from the environment variables.

        Raises:
            NotInLabrun: the variable is not set.
        """
        return secret_of(f"run.get_secret({name!r})", name)

    def get_secrets(self, secrets: Any) -> dict[str, str]:
        """Return several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def wait_for_completion(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a script cannot wait for its own run."""
        not_here("run.wait_for_completion() inside the run itself", "`lab runs logs -f`, or the same call in Python")

    def get_environment(self) -> Any:
        """Return the environment that the run was submitted with.

        Raises:
            NotInLabrun: the script's interpreter does not have labrun.
        """
        if finder.whole() is None:
            not_here("run.get_environment()", "the record lists the packages of the run: `lab runs show`")
        return importlib.import_module("labrun.azureml.environment").of_run(None, self.properties)
