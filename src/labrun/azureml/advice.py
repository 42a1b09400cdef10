"""Base classes whose unknown members raise an error that points to the documentation."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml.exceptions import NoSuchMemberError

PAGE = "docs/coming-from-azureml.md lists what labrun supports"


class AdvisingType(type):
    """Metaclass of `Advising`: handles unknown members of the class itself, such as `AmlCompute.list_usages`."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        raise NoSuchMemberError(f"{cls.__name__}.{name} is part of Azure ML and not of labrun: {PAGE}")


class Advising(metaclass=AdvisingType):
    """Raises an error with advice for an unknown member, in place of a bare AttributeError."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # notebooks and `copy` probe every object for these
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise NoSuchMemberError(f"{type(self).__name__}.{name} is part of Azure ML and not of labrun: {PAGE}")
