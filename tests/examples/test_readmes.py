"""The READMEs of `examples/`: every command composes, and every folder is described."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conftest import Command
from example_projects import EXAMPLES, Project

NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
LONGEST = 40
"""Lines of a README."""


@pytest.mark.parametrize("name", NAMES)
def test_every_command_in_a_readme_composes(
    name: str, workspace: Path, labrun_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(name, workspace)
    monkeypatch.chdir(project.folder)
    text = Path("README.md").read_text()
    assert len(text.splitlines()) <= LONGEST
    shown = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line, comments=True) for block in shown for line in block.splitlines()]
    assert commands and all(command[0] in ("labrun", "lab", "python") for command in commands)
    for command in commands:
        if command[0] == "labrun":
            done = labrun_here(
                *(_first(one) for one in command[1:] if one != "-m" and "interval(" not in one), "--cfg", "job"
            )
            assert done.returncode == 0, done.stderr


def _first(override: str) -> str:
    """An override of a sweep, with the first of its values alone."""
    depth = 0
    for place, character in enumerate(override):
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            return override[:place]
    return override


def test_every_example_is_described() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert re.findall(r"\((\w+)/README\.md\)", text) and set(re.findall(r"\((\w+)/README\.md\)", text)) == set(NAMES)
