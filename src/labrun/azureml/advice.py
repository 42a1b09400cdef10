"""What objects of the SDK answer for the members that labrun does not have."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml.exceptions import NoSuchMemberError

PAGE = "docs/coming-from-azureml.md lists what labrun has"


class AdvisingType(type):
    """The type of such classes: it refuses what is asked of the class itself, as `AmlCompute.list_usages(ws)`."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        raise NoSuchMemberError(f"{cls.__name__}.{name} is part of Azure ML and not of labrun: {PAGE}")


class Advising(metaclass=AdvisingType):
    """Refuses unknown members with advice in place of a bare AttributeError."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what notebooks and copies ask every object for
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise NoSuchMemberError(f"{type(self).__name__}.{name} is part of Azure ML and not of labrun: {PAGE}")
