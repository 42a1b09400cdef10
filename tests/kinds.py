"""Which tests are `unit`, `run`, `process`, `cluster` or `docs`: told from where they lie and what their code names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

import pytest

KINDS = ("cluster", "docs", "process", "run", "unit")
"""From those that take longest to those that take no time."""
TESTS = Path(__file__).parent
DOCS = ("test_docs.py", "test_readme.py")
STARTING = {
    "subprocess",
    "Popen",
    "multiprocessing",
    "LocalPool",
    "LabrunExecutor",
    "NotebookClient",
    "getfixturevalue",
}
"""Names of what starts processes; a fixture that is asked for by its name is a server."""
SERVERS = {"azurite_server", "s3_server", "sftp_server", "mlflow_server", "far_machine"}
"""Fixtures that start processes."""


def kind(item: pytest.Function) -> str:
    """The kind of a test; a marker that it has by hand comes first."""
    for name in KINDS:
        if item.get_closest_marker(name):
            return name
    if "cluster" in item.fixturenames:
        return "cluster"
    if item.path.name in DOCS:
        return "docs"
    fixtures = [one[-1].func for one in item._fixtureinfo.name2fixturedefs.values()]
    if SERVERS.intersection(item.fixturenames) or any(map(starts_processes, (item.function, *fixtures))):
        return "process"
    return "run" if "run_here" in item.fixturenames else "unit"


def starts_none(kind: str) -> bool:
    """Whether tests of that kind stay in their own process."""
    return kind in ("run", "unit")


def takes_the_cluster(nodeid: str) -> bool:
    """Whether a test submits jobs: such tests run one after the other, since the cluster is small."""
    return "/test_slurm" in nodeid or "_on_slurm" in nodeid


@functools.cache
def starts_processes(function: object) -> bool:
    """Whether a function of the tests, or one that it calls, names something that starts a process."""
    return _starts(function, set())


def _starts(function: object, seen: set[object]) -> bool:
    function = getattr(function, "__wrapped__", function)
    if isinstance(function, type):
        return any(_starts(member, seen) for member in vars(function).values() if isinstance(member, FunctionType))
    if not isinstance(function, FunctionType) or function in seen:
        return False
    if TESTS not in Path(function.__code__.co_filename).parents:
        return False
    seen.add(function)
    names = set(_names(function.__code__))
    return bool(names & STARTING) or any(_starts(function.__globals__.get(name), seen) for name in names)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
