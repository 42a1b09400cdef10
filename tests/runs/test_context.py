"""Metrics: one complete line each, always valid JSON, lines of a superseded attempt ignored."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from labrun.runs import context
from labrun.runs.context import RunContext


def test_steps_count_up_by_themselves(tmp_path: Path) -> None:
    run = RunContext(tmp_path)
    for value in (3, 2, 1):
        run.log("loss", value)
    run.log("loss", 0.5, step=10)
    run.log("loss", 0.4)
    assert [line["step"] for line in context.read_metrics(tmp_path)] == [0, 1, 2, 10, 11]


def test_values_that_are_not_finite_are_read_back_as_numbers(tmp_path: Path) -> None:
    run = RunContext(tmp_path)
    for value in (math.nan, math.inf, -math.inf, np.float32(1.5)):
        run.log("loss", value)
    raw = [json.loads(line)["value"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert raw == ["NaN", "Infinity", "-Infinity", 1.5]
    values = [line["value"] for line in context.read_metrics(tmp_path)]
    assert math.isnan(values[0]) and values[1:] == [math.inf, -math.inf, 1.5]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", 3])
def test_a_metric_name_must_be_printable(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match="printable"):
        RunContext(tmp_path).log(name, 1)  # type: ignore[arg-type]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    RunContext(tmp_path).log("loss", 1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"time": 1, "step": 1, "na')
    assert len(context.read_metrics(tmp_path)) == 1


def test_values_of_an_attempt_end_where_the_next_one_resumed(tmp_path: Path) -> None:
    first, second = RunContext(tmp_path, attempt=1), RunContext(tmp_path, attempt=2)
    for step in (1, 2, 3):
        first.log("loss", 10 + step, step=step)
    for step in (3, 4):
        second.log("loss", 20 + step, step=step)
    assert [line["value"] for line in context.read_metrics(tmp_path)] == [11, 12, 23, 24]


def _write_many(folder: Path, name: str) -> None:
    run = RunContext(folder)
    for value in range(500):
        run.log(name, value)


def test_lines_of_many_processes_never_mix(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_write_many, args=(tmp_path, f"m{number}")) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(context.read_metrics(tmp_path)) == 2000


def test_log_prints_outside_a_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(context.RUN_DIR_VARIABLE, raising=False)
    context.log("loss", 0.25, step=3)
    assert capsys.readouterr().out == "loss: 0.25 (step 3)\n"


def test_a_run_is_found_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(context.RUN_DIR_VARIABLE, str(tmp_path))
    monkeypatch.setenv(context.ATTEMPT_VARIABLE, "3")
    context.log("loss", 1)
    assert context.read_metrics(tmp_path)[0]["attempt"] == 3
