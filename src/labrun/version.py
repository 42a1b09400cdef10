"""Version of the installed package. Imports almost nothing, so that `labrun --version` is fast."""

from __future__ import annotations


def number() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("labrun")
    except PackageNotFoundError:  # running from the sources, without an installation
        return "of a folder"


def text() -> str:
    """Return name and version, as in `labrun 1.0.0`."""
    return f"labrun {number()}"
