"""Reruns prepared from records; the command is tested with `lab runs rerun`."""

from __future__ import annotations

from pathlib import Path

import pytest

from labrun.submission import rerun


def test_an_option_is_found_in_a_folder_with_odd_characters(
    workspace: Path, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = workspace / "Läufe, 'two'" / "conf" / "tracking"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("kind: none\nwait: true\n")
    monkeypatch.chdir(own.parents[1])
    assert rerun._option("tracking", "tracking=mine")["wait"] is True
