"""What every configuration that can be submitted has, and how it becomes a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labrun import api
from labrun.azureml import folder
from labrun.azureml.words import word
from labrun.compat.azureml import runner
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.errors import ConfigError
from labrun.runs import context

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment

TYPE_TAG = "azureml.type"
"""The property of a record that tells which kind of the SDK's runs it is."""
TARGET_TAG, ENVIRONMENT_TAG = "azureml.target", "azureml.environment"
"""The names that the control script gave."""
VERSION_TAG = "azureml.environment_version"
SEARCHES = "searches"
"""The table that holds these for searches, by labrun's ids: a search has no record of its own."""
OWN = (TYPE_TAG, TARGET_TAG, ENVIRONMENT_TAG, VERSION_TAG)


class Config:
    """Something that `Experiment.submit` takes."""

    run_type = "azureml.scriptrun"

    def words(self, experiment: Experiment) -> list[str]:
        """What is typed after `labrun`, without the experiment's name and the tags.

        Raises:
            UserErrorException: it cannot be carried out.
        """
        raise NotImplementedError

    def variables(self) -> dict[str, str]:
        """Variables for the command, beside this process's."""
        return {}

    def submitted(
        self, experiment: Experiment, tags: Mapping[str, str], parent: str | None = None, **kwargs: Any
    ) -> Any:
        """Submit it, below another run if one is named, and give its run."""
        from labrun.azureml.run import wrapped

        return wrapped(experiment, self._begun(experiment, tags, parent), self.run_type)

    def _begun(self, experiment: Experiment, tags: Mapping[str, str], parent: str | None) -> Any:
        """labrun's run or sweep, with what its record does not tell by itself."""
        work = submit(experiment, self.words(experiment), tags, self.variables(), parent)
        if isinstance(work, api.Run):
            context.annotate(work.folder, properties=self._notes())
        else:
            folder.put(experiment.workspace.folder, SEARCHES, work.id, self._notes())
        return work

    def _notes(self) -> dict[str, str]:
        """What the SDK tells of a run and labrun's config does not: its type, and the names that its script gave."""
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
    words: Sequence[str],
    tags: Mapping[str, str],
    variables: Mapping[str, str] | None = None,
    parent: str | None = None,
) -> Any:
    """Hand words to labrun, detached: the run goes on when this program ends.

    Raises:
        UserErrorException: labrun refuses them; the message is its own.
    """
    sweep = ["-m"] if words and words[0] == "-m" else []
    rest = list(words[len(sweep) :])
    # A run's tags may have any names; those of the runs to come of a sweep are put into their config.
    tagged = [word("tags", dict(tags))] if tags and sweep else []
    try:
        work = api.submit(
            [*sweep, *rest, word("name", experiment.name), *tagged],
            detach=True,
            root=experiment.workspace.folder,
            environment={"PYTHONPATH": _own_path(), **(variables or {})},
            parent=parent,
        )
    except ConfigError as error:
        raise UserErrorException(str(error)) from error
    if tags and not sweep:
        work.set_tags(tags)
    return work


def _own_path() -> str:
    """This process's PYTHONPATH without `azureml`: of what is submitted only scripts are given that."""
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(part for part in parts if part != runner.SITE)
