"""The end of a sweep: pictures of the best run that cannot be drawn are reported, and break nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from labrun.control import results
from labrun.errors import DataError


def test_the_best_run_is_drawn_once_and_a_failure_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Path] = []

    def fails(run_dir: Path) -> bool:
        asked.append(run_dir)
        return False

    def lacks_data(run_dir: Path) -> bool:
        raise DataError("the data have changed since")

    results.draw_best(tmp_path, lambda run_dir: None)
    assert not caplog.text, "the backend never draws"
    results.draw_best(tmp_path, fails)
    assert asked == [tmp_path] and f"{tmp_path / 'driver.log'} says why" in caplog.text
    results.draw_best(tmp_path, lacks_data)
    assert "could not be drawn: the data have changed since" in caplog.text
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "predictions.png").touch()
    results.draw_best(tmp_path, fails)
    assert asked == [tmp_path]
