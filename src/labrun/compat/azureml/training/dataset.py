"""`Dataset`: the inputs that the run's config mounted, and tables in local files."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml import absent
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training.data import InputDataset, Inputs
from labrun.compat.azureml.training.factories import FileDatasetFactory, TabularDatasetFactory
from labrun.compat.azureml.training.tabular import Missing


class Dataset(metaclass=Missing):
    """The SDK's entry to data."""

    File = FileDatasetFactory
    Tabular = TabularDatasetFactory

    @classmethod
    def get_by_name(cls, workspace: Any = None, name: str = "", version: Any = "latest") -> InputDataset:
        """An input of this run; its version is the one that the config mounted.

        Raises:
            NotInLabrun: the run has no such input.
        """
        return Inputs()[name]

    @classmethod
    def get_by_id(cls, workspace: Any = None, id: str = "", **kwargs: Any) -> InputDataset:
        """An input of this run by its name or its path: Azure passes an id as argument where labrun passes a path.

        Raises:
            NotInLabrun: the run has no such input.
        """
        found = input_by_id(id)
        return Inputs()[id] if found is None else found

    @classmethod
    def get_all(cls, workspace: Any = None) -> Inputs:
        """All inputs of this run."""
        return Inputs()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        absent.datastore_way("Dataset(...)")


def input_by_id(id: str) -> Any:
    """The input of this run that has a name or a path; None where there is none."""
    inputs = Inputs()
    # Those with names of their own come last, and know how they are read.
    found = [inputs[name] for name in reversed(list(inputs)) if id in (name, str(inputs[name]))]
    ways = []
    for one in found:
        if one._definition is not None and one._definition not in ways:
            ways.append(one._definition)
    if len(ways) > 1 and id not in inputs:
        raise UserErrorException(
            "several inputs of this run lie at {}, each with other rows or columns: take one by its name, "
            "Run.get_context().input_datasets['NAME'] (there is: {})".format(id, ", ".join(inputs))
        )
    return found[0] if found else None
