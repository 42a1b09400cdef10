"""Comparison of the packages in the current interpreter with those that an environment requires."""

from __future__ import annotations

import importlib.metadata
import sys

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from labrun.submission import conda

SAME = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python"),
    "tensorflow": ("tensorflow-cpu", "tensorflow-gpu"),
    "mlflow-skinny": ("mlflow",),
}
"""Packages that provide the same modules."""


def compared(wanted: conda.Requirements) -> tuple[list[str], list[str]]:
    """Compare the current interpreter with the required packages.

    Returns:
        The names of missing packages, and a text such as `numpy 2.1 for numpy==1.26` for each version mismatch.
    """
    python_version = ".".join(map(str, sys.version_info[:3]))
    missing, others = [], []
    try:
        if wanted.python and python_version not in SpecifierSet(wanted.python):
            others.append(f"Python {python_version} for python{wanted.python}")
    except InvalidSpecifier:
        pass
    for name, line in wanted.names.items():
        version = next(filter(None, map(_installed, (name, *SAME.get(name, ())))), None)
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        if version is None:
            missing.append(name)
        elif not requirement.specifier.contains(version, prereleases=True):
            others.append(f"{name} {version} for {name}{requirement.specifier}")
    return missing, others


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
