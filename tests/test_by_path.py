"""Files that are started by path set the import path themselves, so they must not import labrun before that."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import labrun

STARTED = (
    "backends/local/forkserver.py",
    "backends/slurm/job.py",
    "remote/helper.py",
    "runs/sidecar.py",
    "tasks/script/process_guard.py",
    "tasks/script/ranks.py",
)


@pytest.mark.parametrize("name", STARTED)
def test_a_file_started_by_path_imports_the_standard_library_alone(name: str) -> None:
    """Its functions import the frozen code, once the import path is set."""
    tree = ast.parse((Path(labrun.__file__).parent / name).read_text())
    assert {module.partition(".")[0] for module in imported(tree)} <= sys.stdlib_module_names


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the modules that are imported when a module is loaded."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            yield one.module or ""
        elif isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(one, ast.FunctionDef | ast.Lambda):
            yield from imported(one)
