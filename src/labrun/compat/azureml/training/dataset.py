"""`Dataset`: the inputs mounted by the run's config, and tables in local files."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml import absent, arguments
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import script_context
from labrun.compat.azureml.training.data import InputDataset, Inputs
from labrun.compat.azureml.training.factories import FileDatasetFactory, TabularDatasetFactory
from labrun.compat.azureml.training.tabular import Missing
from labrun.runs import context


class Dataset(metaclass=Missing):
    """The SDK's entry point to data."""

    File = FileDatasetFactory
    Tabular = TabularDatasetFactory

    @classmethod
    def get_by_name(cls, workspace: Any = None, name: str = "", version: Any = "latest") -> InputDataset:
        """Return an input of this run, in the version mounted by the config.

        Raises:
            NotInLabrun: the run has no such input.
            UserErrorException: the config mounted another version.
        """
        found = Inputs()[name]
        mounted = _number(found)
        if version not in (None, "latest") and mounted is not None and str(version) != str(mounted):
            raise UserErrorException(
                f"Dataset.get_by_name({name!r}, version={version!r}): this run's input {name!r} is version {mounted}: "
                f"mount the other one on the command line: 'script.inputs.{script_context.alias(name)}="
                f"${{mount:{script_context.asset_name(name)}@{version}}}'"
            )
        return found

    @classmethod
    def get_by_id(cls, workspace: Any = None, id: str = "", **unknown: Any) -> InputDataset:
        """Return an input of this run by name or path: labrun passes a path as argument where Azure passes an id.

        Raises:
            NotInLabrun: the run has no such input.
            TypeError: there is no such argument.
        """
        arguments.check(Dataset.get_by_id, unknown)
        found = input_by_id(id)
        return Inputs()[id] if found is None else found

    @classmethod
    def get_all(cls, workspace: Any = None) -> Inputs:
        """Return all inputs of this run."""
        return Inputs()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        absent.datastore_way("Dataset(...)")


def _number(path: str) -> Any:
    """Return the asset version mounted at a path, from the run's record; None if it is unknown."""
    run = context.current()
    entries = script_context.record(run.run_dir).get("data") or [] if run is not None else []
    folders = [(str(one.get("path")), one.get("number")) for one in entries]
    return next((number for folder, number in folders if path == folder or path.startswith(folder + "/")), None)


def input_by_id(id: str) -> Any:
    """Return the input of this run with this name or path; None if there is none.

    Raises:
        UserErrorException: several inputs with different table definitions have this path.
    """
    inputs = Inputs()
    # Inputs with explicit names come last and have table definitions, so prefer them.
    found = [inputs[name] for name in reversed(list(inputs)) if id in (name, str(inputs[name]))]
    ways = []
    for one in found:
        if one._definition is not None and one._definition not in ways:
            ways.append(one._definition)
    if len(ways) > 1 and id not in inputs:
        raise UserErrorException(
            "several inputs of this run are at {}, with different rows or columns: take one by its name, "
            "Run.get_context().input_datasets['NAME'] (inputs: {})".format(id, ", ".join(inputs))
        )
    return found[0] if found else None
