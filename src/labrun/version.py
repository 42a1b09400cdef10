"""Which labrun this is. Imports next to nothing: `labrun --version` answers at once."""

from __future__ import annotations


def number() -> str:
    """The version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("labrun")
    except PackageNotFoundError:  # the sources, without being installed
        return "of a folder"


def text() -> str:
    """`labrun 1.0.0`."""
    return f"labrun {number()}"
