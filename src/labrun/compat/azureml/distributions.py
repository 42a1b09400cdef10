"""`pkg_resources` as notebooks of 2018 to 2021 use it: which packages are installed, and in which versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class DistributionNotFound(Exception):  # noqa: N818 - its name there
    """A package is not installed."""


class Distribution:
    """An installed package.

    Args:
        found: what importlib knows of it.
    """

    def __init__(self, found: Any) -> None:
        self.project_name = str(found.metadata["Name"])
        self.key, self.version = self.project_name.lower(), str(found.version)


def get_distribution(dist: str) -> Distribution:
    """An installed package by its name.

    Raises:
        DistributionNotFound: there is none.
    """
    import importlib.metadata  # Python 3.6 and 3.7 have none; their setuptools have pkg_resources itself

    try:
        return Distribution(importlib.metadata.distribution(dist))
    except importlib.metadata.PackageNotFoundError as error:
        raise DistributionNotFound(f"The {dist!r} distribution was not found") from error


class _WorkingSet:
    def __iter__(self) -> Iterator[Distribution]:
        import importlib.metadata

        return map(Distribution, importlib.metadata.distributions())


working_set = _WorkingSet()
