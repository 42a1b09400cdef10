"""Classification of tests as `unit`, `run`, `process`, `cluster` or `docs`, from their location and their code."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

import pytest

KINDS = ("cluster", "docs", "process", "run", "unit")
"""The kinds of tests, from slowest to fastest."""
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
"""Names in test code that start processes. Fixtures requested by name (`getfixturevalue`) are servers."""
SERVERS = {"azurite_server", "s3_server", "sftp_server", "mlflow_server", "far_machine"}
"""Fixtures that start processes."""


def kind(item: pytest.Function) -> str:
    """Return the kind of a test. An explicit marker takes precedence."""
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
    """Whether tests of a kind start no processes."""
    return kind in ("run", "unit")


def takes_the_cluster(nodeid: str) -> bool:
    """Whether a test submits jobs. Such tests run one after the other, because the cluster is small."""
    return "/test_slurm" in nodeid or "_on_slurm" in nodeid


@functools.cache
def starts_processes(function: object) -> bool:
    """Whether a test function, or one that it calls, uses a name in `STARTING`."""
    return _starts(function, set())


def _starts(function: object, seen: set[object]) -> bool:
    function = getattr(function, "__wrapped__", function)
    if isinstance(function, type):
        return any(_starts(member, seen) for member in vars(function).values() if isinstance(member, FunctionType))
    if not isinstance(function, FunctionType) or function in seen:
        return False
    seen.add(function)
    names = _names_in_tests(function.__code__)
    return bool(names & STARTING) or any(_starts(function.__globals__.get(name), seen) for name in names)


@functools.cache
def _names_in_tests(code: CodeType) -> frozenset[str]:
    """Return the names used in a function of the tests; none of other functions."""
    return frozenset(_names(code)) if code.co_filename.startswith(f"{TESTS}{os.sep}") else frozenset()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
