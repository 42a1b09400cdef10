"""The SDK's datastore classes, for `isinstance` only: labrun has one class and compares its `datastore_type`."""

from __future__ import annotations

from typing import Any

from labrun.azureml.datastore import Datastore
from labrun.compat.azureml.absent import not_here


class _Kind(type):
    kinds: tuple[str, ...]

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Datastore) and (not cls.kinds or instance.datastore_type in cls.kinds)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        not_here(f"{cls.__name__}(...)", "Datastore.get(workspace, name), or Datastore.register_...()")


class AbstractDatastore(metaclass=_Kind):
    """Any datastore."""

    kinds = ()


class AzureBlobDatastore(metaclass=_Kind):
    """A datastore in Azure Blob Storage."""

    kinds = ("AzureBlob",)


class AzureDataLakeGen2Datastore(metaclass=_Kind):
    """A datastore in Data Lake Storage Gen2, which is Blob Storage."""

    kinds = ("AzureBlob",)


class AzureFileDatastore(metaclass=_Kind):
    """A file share, which labrun reads from its mount point."""

    kinds = ("Local",)
