"""What a run offers to its script whether it is recorded or only tried by hand."""

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
"""labrun's words that the SDK has otherwise; the others differ by their first letter. What ended may not be told as
going on: scripts wait for it in loops."""


def sdk_status(status: str) -> str:
    """A status in the SDK's words."""
    return STATUSES.get(status, status.capitalize())


class RunFacts:
    """What a recorded run tells by attributes and by calls alike, seen by its script and by who submitted it."""

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
    """The parts of `Run` that record nothing."""

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
        """The inputs that the run's config mounted, by their names."""
        from labrun.compat.azureml.training.data import Inputs

        return Inputs()

    def complete(self, _set_status: bool = True) -> None:
        """Accepted and not needed: the run is completed when its script has ended without an error."""
        self.flush()

    def start(self) -> None:
        """Accepted and not needed: a run has begun as soon as its script has."""

    def flush(self, timeout_seconds: int = 300) -> None:
        """Hand on what was printed; metrics are on the disk as soon as they are logged."""
        sys.stdout.flush()
        sys.stderr.flush()

    def get_secret(self, name: str) -> str:
        """A secret, which labrun takes from the environment.

        Raises:
            NotInLabrun: no such variable is set.
        """
        return secret_of(f"run.get_secret({name!r})", name)

    def get_secrets(self, secrets: Any) -> dict[str, str]:
        """Several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def wait_for_completion(self, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: the script is the run that would be waited for."""
        not_here("run.wait_for_completion() inside the run itself", "`lab runs logs -f`, or the same call in Python")

    def get_environment(self, *args: Any, **kwargs: Any) -> Any:
        """The environment of the run, by the name that its config has.

        Raises:
            NotInLabrun: the script's interpreter has no labrun.
        """
        if finder.whole() is None:
            not_here("run.get_environment()", "the record lists the packages of the run: `lab runs show`")
        return importlib.import_module("labrun.azureml.environment").of_run(None, self.properties)
