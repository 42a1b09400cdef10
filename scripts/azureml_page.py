"""Generate docs/reference/azureml.md: every public name of the Azure ML SDK v1, and labrun's support for it.

`azureml_names.txt` lists the classes and functions of azureml-core 1.61, azureml-train-core,
azureml-train-automl-client, azureml-widgets, azureml-tensorboard, azureml-pipeline-core and -steps 1.62. Each line has
the module, the name and, for a class, its public members. The support is determined by inspecting the modules that
labrun provides to scripts.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from labrun.compat.azureml import absent, finder, runner

sys.path.append(runner.SITE)
NAMES = Path(__file__).with_name("azureml_names.txt")
WITHOUT_EFFECT = ("labrun.azureml.accepted", "labrun.azureml.authentication")
"""Modules whose classes and functions have no effect."""
SUPPORTED, ACCEPTED, NOT_SUPPORTED = "Supported", "Accepted, no effect", "Not supported"
HEAD = """# Names of the Azure ML SDK v1

This page lists every public class and function of the SDK. **Supported**: labrun implements it; the table lists members
that are missing and raise an error when they are used. **Accepted, no effect**: it can be called, but does nothing.
**Not supported**: it can be imported; using it raises an error that says what labrun has instead. Error classes can
always be caught.
[Coming from the Azure ML SDK v1](../coming-from-azureml.md) explains how to use labrun with the SDK.
"""


@dataclass(frozen=True)
class Name:
    """A name of the SDK."""

    module: str
    name: str
    members: tuple[str, ...]


def names() -> list[Name]:
    """Return all names, in the order of the file."""
    found = []
    for line in NAMES.read_text(encoding="utf-8").splitlines():
        place, _, members = line.partition(": ")
        module, name = place.split(" ")
        found.append(Name(module, name, tuple(members.split())))
    return found


def state(name: Name) -> tuple[str, str]:
    """Return labrun's support for a name, and a remark."""
    thing = finder.find(name.module, name.name)
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return SUPPORTED, ""
    # An unknown lower-case name is taken for a module, so a missing function looks like one.
    if isinstance(thing, absent.Absent | ModuleType):
        advice = absent.advice(name.module, name.name)
        return NOT_SUPPORTED, "" if advice == absent.GENERAL else advice
    if thing.__module__ in WITHOUT_EFFECT:
        return ACCEPTED, ""
    missing = [member for member in name.members if not member.isupper() and not has(thing, member)]
    return SUPPORTED, f"without {', '.join(f'`{member}`' for member in missing)}" if missing else ""


def has(thing: Any, member: str) -> bool:
    """Whether a class implements a member."""
    return member in _set_when_made(thing) or inspect.getattr_static(thing, member, None) is not None


@cache
def _set_when_made(thing: Any) -> frozenset[str]:
    """Return the attributes that methods of a class and of its bases assign to `self`."""
    found = set()
    for cls in getattr(thing, "__mro__", (thing,)):
        if cls.__module__ == "builtins":
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        found |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
        }
    return frozenset(found)


def page() -> str:
    """Return the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield HEAD.rstrip()
    module = ""
    counts: dict[str, int] = {}
    rows = [(name, *state(name)) for name in names()]
    for _, what, _ in rows:
        counts[what] = counts.get(what, 0) + 1
    yield ""
    yield "; ".join(f"{what}: {counts[what]}" for what in (SUPPORTED, ACCEPTED, NOT_SUPPORTED)) + "."
    for name, what, more in rows:
        if name.module != module:
            module = name.module
            yield from ["", f"## {module}", "", "| Name | State | |", "| --- | --- | --- |"]
        yield f"| `{name.name}` | {what} | {more} |"


if __name__ == "__main__":
    sys.stdout.write(page())
