"""The part of `pkg_resources` that notebooks from 2018 to 2021 use: installed packages and their versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class DistributionNotFound(Exception):  # noqa: N818 - its name in pkg_resources
    """A package is not installed."""


class Distribution:
    """An installed package.

    Args:
        found: the distribution object of importlib.metadata.
    """

    def __init__(self, found: Any) -> None:
        self.project_name = str(found.metadata["Name"])
        self.key, self.version = self.project_name.lower(), str(found.version)


def get_distribution(dist: str) -> Distribution:
    """Return an installed package by name.

    Raises:
        DistributionNotFound: the package is not installed.
    """
    import importlib.metadata  # missing in Python 3.6 and 3.7, whose setuptools still have pkg_resources

    try:
        return Distribution(importlib.metadata.distribution(dist))
    except importlib.metadata.PackageNotFoundError as error:
        raise DistributionNotFound(f"The {dist!r} distribution was not found") from error


class _WorkingSet:
    def __iter__(self) -> Iterator[Distribution]:
        import importlib.metadata

        return map(Distribution, importlib.metadata.distributions())


working_set = _WorkingSet()
