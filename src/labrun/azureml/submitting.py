"""Base class of the configurations that can be submitted, and their submission as labrun runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labrun.api import functions, handles
from labrun.azureml import folder, kinds
from labrun.azureml.overrides import override
from labrun.azureml.tags import ENVIRONMENT_TAG, SEARCHES, TARGET_TAG, VERSION_TAG
from labrun.compat.azureml import arguments, runner
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training.run import SCRIPT_RUN, TYPE_TAG
from labrun.errors import ConfigError
from labrun.runs import context

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment


class Config:
    """Base class of the configurations that `Experiment.submit` accepts."""

    run_type = SCRIPT_RUN

    def overrides(self, experiment: Experiment) -> list[str]:
        """Return the arguments for the `labrun` command, without the experiment's name and the tags.

        Raises:
            UserErrorException: labrun cannot run this configuration.
        """
        raise NotImplementedError

    def variables(self) -> dict[str, str]:
        """Return environment variables to add for the command."""
        return {}

    def submitted(
        self, experiment: Experiment, tags: Mapping[str, str], parent: str | None = None, show_output: bool = False
    ) -> Any:
        """Submit the configuration, optionally as a child of another run, and return its run.

        Args:
            experiment: the experiment.
            tags: tags of the run.
            parent: labrun's id of the parent run.
            show_output: not used, except by an `AutoMLConfig`; a notice says so.
        """
        why = "wait_for_completion(show_output=True) streams the output"
        arguments.tell_unused("submit", {"show_output": show_output}, why)
        return kinds.wrapped(experiment, self._submit(experiment, tags, parent), self.run_type)

    def _submit(self, experiment: Experiment, tags: Mapping[str, str], parent: str | None) -> Any:
        """Submit to labrun, store the SDK's notes and return labrun's run or sweep."""
        work = submit(experiment, self.overrides(experiment), tags, self.variables(), parent)
        if isinstance(work, handles.Run):
            context.annotate(work.folder, properties=self._notes())
        else:
            folder.put(experiment.workspace.folder, SEARCHES, work.id, self._notes())
        return work

    def _notes(self) -> dict[str, str]:
        """Return what labrun's config lacks: the SDK's run type, and the target and environment names."""
        settings = getattr(self, "run_config", None)
        target, environment = getattr(settings, "target", None), getattr(settings, "_environment", None)
        names = {
            TARGET_TAG: getattr(target, "name", target),
            ENVIRONMENT_TAG: getattr(environment, "name", None),
            VERSION_TAG: getattr(environment, "version", None),
        }
        return {TYPE_TAG: self.run_type, **{key: str(name) for key, name in names.items() if name}}


def submit(
    experiment: Experiment,
    overrides: Sequence[str],
    tags: Mapping[str, str],
    variables: Mapping[str, str] | None = None,
    parent: str | None = None,
) -> Any:
    """Submit arguments to labrun, detached: the run keeps going after this program exits.

    Raises:
        UserErrorException: labrun rejects the arguments; the message is labrun's.
    """
    sweep = ["-m"] if overrides and overrides[0] == "-m" else []
    rest = list(overrides[len(sweep) :])
    # A run's tags may have any name and are set afterwards. A sweep's runs do not exist yet: theirs go into the config.
    tagged = [override("tags", dict(tags))] if tags and sweep else []
    try:
        work = functions.submit(
            [*sweep, *rest, override("name", experiment.name), *tagged],
            detach=True,
            root=experiment.workspace.folder,
            environment={"PYTHONPATH": own_path(), **(variables or {})},
            parent=parent,
        )
    except ConfigError as error:
        raise UserErrorException(str(error)) from error
    if tags and not sweep:
        work.set_tags(tags)
    return work


def own_path() -> str:
    """Return this process's PYTHONPATH without `azureml`, which only the submitted scripts get."""
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(part for part in parts if part != runner.SITE)
