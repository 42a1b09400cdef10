"""`labrun new`: its project runs immediately; if it writes nothing, it says why in one message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import helpers
from conftest import Command
from labrun.app import new
from labrun.errors import ConfigError
from labrun.warm import client


def test_a_project_is_written_and_its_files_are_listed(
    labrun_here: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = labrun_here("new", "My-Work")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "cd My-Work\n  labrun experiment=first\n" in done.stdout
    project = workspace / "My-Work"
    there = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert there == {*(name.replace("@PACKAGE@", "my_work") for name in new.FILES), new.TABLE}
    assert all(f"  {name}\n" in done.stdout for name in there)
    texts = {name: (project / name).read_text() for name in there}
    assert not any(mark in text for text in texts.values() for mark in ("@NAME@", "@PACKAGE@", "@SOURCE@"))
    assert "from my_work.model import SmallNet" in texts["tests/test_project.py"]
    told = tomllib.loads(texts["pyproject.toml"])
    assert told["project"]["name"] == "My-Work" and told["project"]["dependencies"] == ["labrun"]
    helped = labrun_here("new", "--help")
    assert helped.returncode == 0 and "FOLDER" in helped.stdout
    (workspace / "cloned" / ".git").mkdir(parents=True)
    monkeypatch.chdir(workspace / "cloned")
    done = labrun_here("new", ".")
    assert done.returncode == 0 and "cd " not in done.stdout, "a repository without files, and this folder"


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("full", "'full' already contains files (.d, a, b, ... (4 in all)): name a new or empty folder"),
        ("file", "already exists and is not a folder"),
        ("file/inner", "cannot be written: Not a directory"),
        ("my work", "letters, digits, - and _"),
        ("1st", "begins with a letter"),
        ("", "labrun new takes one folder"),
        ("läuft", "letters, digits, - and _"),
        ("a" * 61, "at most 60 characters"),
        ("-x", "takes one folder"),
        ("x_", "letters, digits"),
        ("a/b c", "labrun new "),
        ("a\nb", "labrun new a_b"),
        ("/", "letters, digits"),
        ("class", "a Python keyword"),
        ("None", "a Python keyword"),
        ("match", "a Python keyword"),
        ("json", "would hide Python's own module 'json'"),
        ("Random", "Python's own module 'random'"),
        ("numpy", "would hide the installed package 'numpy'"),
        ("Torch", "the installed package 'torch'"),
        ("scikit-learn", "the installed package"),
        ("sklearn", "the installed package"),
        ("labrun", "the installed package 'labrun'"),
        ("hydra-plugins", "the installed package"),
        ("tests", "means something else"),
        ("conf", "means something else"),
        ("outputs", "means something else"),
    ],
)
def test_an_invalid_folder_name_is_refused_in_one_message(
    labrun_here: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch, folder: str, words: str
) -> None:
    (workspace / "full").mkdir()
    for name in ("a", "b", "c", ".d"):
        (workspace / "full" / name).touch()
    (workspace / "file").touch()
    before = sorted(workspace.rglob("*"))
    done = labrun_here("new", folder)
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("labrun: ") and words in done.stderr, done.stderr
    assert sorted(workspace.rglob("*")) == before


def test_wrong_arguments_are_refused_in_one_message(
    labrun_here: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in ((), ("a", "b"), ("--fast", "a")):
        done = labrun_here("new", *words)
        assert done.returncode == 2 and done.stderr.startswith("labrun: labrun new takes one folder")
        assert done.stderr.count("\n") == 1 and not list(workspace.iterdir())
    monkeypatch.setattr(sys, "argv", ["labrun", "new", "a"])
    monkeypatch.setenv("LABRUN_WARM", "1")
    assert not client._uses_warm("labrun.app"), "it is not worth a warm interpreter"


def test_a_project_depends_on_labrun_from_its_installed_source(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        def __init__(self, content: dict[str, Any] | None) -> None:
            self.content = content

        def read_text(self, name: str) -> str | None:
            return None if self.content is None else json.dumps(self.content)

    for content, wanted in (
        (None, None),
        ({}, None),
        (
            {"url": "https://me:pass@git.example/labrun.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            {"git": "https://git.example/labrun.git", "rev": "abc"},
        ),
        (
            {"url": "ssh://git@git.example/labrun.git", "vcs_info": {"commit_id": "abc"}, "subdirectory": "x"},
            {"git": "ssh://git@git.example/labrun.git", "rev": "abc", "subdirectory": "x"},
        ),
        (
            {"url": "file:///my%20code/labrun", "dir_info": {"editable": True}},
            {"path": "/my code/labrun", "editable": True},
        ),
        ({"url": "file:///a/labrun-1.whl", "archive_info": {}}, {"path": "/a/labrun-1.whl"}),
        (
            {"url": "https://files.example/labrun-1.whl?token=x", "archive_info": {}},
            {"url": "https://files.example/labrun-1.whl"},
        ),
    ):
        monkeypatch.setattr(metadata, "distribution", lambda name, content=content: Told(content))
        text = new._source()
        assert (tomllib.loads(text)["tool"]["uv"]["sources"]["labrun"] if text else None) == wanted


def test_a_failed_write_leaves_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "FILES", {**new.FILES, "a/" * 9 + "x" * 300: "init.py.txt"})
    with pytest.raises(ConfigError, match="cannot be written: File name too long. Nothing was written"):
        new.make("deep/first")
    assert list(workspace.iterdir()) == []


def test_a_new_project_runs_without_changes(labrun_here: Command, workspace: Path) -> None:
    """Takes half a minute: its tests, an experiment, a sweep, an evaluation and a registered model, as a user types."""
    assert labrun_here("new", "first_steps").returncode == 0
    project = workspace / "first_steps"

    def labrun(*arguments: str) -> str:
        done = helpers.run_labrun(*arguments, "report=none", cwd=project)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lab(*arguments: str) -> str:
        done = helpers.run_lab(*arguments, cwd=project)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "SmallNet" in labrun("experiment=first")
    assert "model.width" in labrun("-m", "experiment=first", "model.width=4,8", "trainer.max_epochs=2")
    assert "accuracy" in labrun("task=evaluate", "from=last")
    assert lab("runs").count("experiment=first") == 3
    assert "trusted automatically" in lab("models", "register", "best:accuracy", "--name", "moons")
    lab("models", "predict", "moons", "data/moons.csv", "-o", "predictions.csv")
    assert (project / "predictions.csv").read_text().count("\n") == new.ROWS + 1
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    # In a fork of the warm interpreter, which has loaded PyTorch.
    (project / "run.py").write_text(
        "import sys\nimport pytest\nsys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))\n"
    )
    done = subprocess.run(
        helpers.program("python", "run.py"),
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
