"""The script for checks on a machine with a GPU."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import program

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"
PAGE = ROOT / "benchmarks" / "results" / "gpu.md"


def run(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LABRUN_PYTHON": python}
    return subprocess.run([str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False)


WARM = """#!/bin/sh
printf '%s' "$2" > {file}
exec env {environment} {command}
"""
"""Runs `python -c CODE` in the warm interpreter, which has imported PyTorch but not with the script's PYTHONPATH."""


def test_without_a_gpu_nothing_is_measured_or_written(tmp_path: Path) -> None:
    assert run("--nonsense").returncode == 2
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    before = PAGE.read_text()
    file, python = tmp_path / "code.py", tmp_path / "python"
    path = os.environ.get("PYTHONPATH")
    own, command = ["-u", "PYTHONPATH"] if path is None else [f"PYTHONPATH={path}"], program("python", str(file))
    python.write_text(WARM.format(file=file, environment=shlex.join(own), command=shlex.join(command)))
    python.chmod(0o755)
    done = run(python=str(python))
    assert done.returncode == 1 and "torch finds no GPU here" in done.stderr
    assert PAGE.read_text() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_with_a_gpu_every_check_runs() -> None:
    """Over 15 s: the whole check takes up to eight minutes."""
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "**failed**" not in PAGE.read_text()
