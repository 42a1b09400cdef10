"""Sweeps with random kill -9."""

from __future__ import annotations

from pathlib import Path

from chaos import Chaos


def test_a_hundred_runs_complete_despite_twenty_kills(workspace: Path) -> None:
    """Over 15 s: a hundred runs of a third of a second, a kill in each."""
    chaos = Chaos(workspace, runs=100, kills=20)
    chaos.run_to_completion()
    chaos.check()
    assert chaos.killed.total() == 20 and chaos.sessions > 1 and chaos.attempts > chaos.runs, (
        "a controller and a run were killed"
    )
