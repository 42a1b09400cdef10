"""Averages the curves of runs with the same setting: mean and standard deviation at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from labrun.report import aggregation, figures
from labrun.report.aggregation import Setting
from labrun.runs.metric_line import Point
from labrun.runs.record import COMPLETED, Record

ByStep = dict[int, Point]


def of(
    settings: Sequence[Setting], read: Callable[[Record], Sequence[Point]]
) -> tuple[dict[str, list[Point]], list[str]]:
    """Average each metric's curve over the completed runs of each setting.

    Args:
        settings: the settings.
        read: returns a run's metrics.

    Returns:
        Lines for `figures.compared_curves`, by the setting's label and `(n=3)`; and notes on what could not be drawn
        and why.
    """
    found: dict[str, list[Point]] = {}
    notes: list[str] = []
    for one, label in zip(settings, aggregation.labels(settings), strict=True):
        lines, why = _of_one(one, read)
        notes += [f"{label}: {text}" for text in why]
        counts = sorted({line["n"] for line in lines})
        if counts:
            n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            found[f"{label} (n={n})"] = lines
    return found, notes


def _of_one(one: Setting, read: Callable[[Record], Sequence[Point]]) -> tuple[list[Point], list[str]]:
    logged = {record.id: read(record) for record in one.runs if record.status == COMPLETED}
    curves = {run: _by_step(lines) for run, lines in logged.items()}
    found: list[Point] = []
    notes = []
    for name in dict.fromkeys(name for own in curves.values() for name in own):
        odd = [run for run, lines in logged.items() if any(_is_odd(line, name) for line in lines)]
        if odd:
            notes.append(f"{name} is not finite at some steps of {', '.join(odd)}: no mean is drawn there")
        if one.summary(name).mixture:
            continue
        runs = [own[name] for own in curves.values() if name in own]
        mean = _mean(name, runs)
        found += mean
        if not mean:
            notes.append(f"no curve of {name}: its {len(runs)} runs have less than two steps in common")
    return found, notes


def _is_odd(line: Point, name: str) -> bool:
    return bool(line["name"] == name and not math.isfinite(line["value"]))


def _by_step(lines: Sequence[Point]) -> dict[str, ByStep]:
    """Return the finite values by step of each metric that has a curve; the last value at a step counts."""
    return {name: {int(line["step"]): line for line in own} for name, own in figures.curves_of(lines).items()}


def _mean(name: str, runs: Sequence[ByStep]) -> list[Point]:
    """Return the mean at the steps that all runs share; empty if these are fewer than two.

    At other steps the mean would be over a different set of runs, and jump.
    """
    shared = sorted(set.intersection(*(set(run) for run in runs)))
    if len(shared) < 2:
        return []
    found = []
    for step in shared:
        at = [run[step] for run in runs]
        own = aggregation.Summary(tuple(line["value"] for line in at), len(runs), {}, "")
        assert own.mean is not None
        point: Point = {"name": name, "step": step, "value": own.mean, "n": own.n}
        epoch, *others = {line.get("epoch") for line in at}
        if epoch is not None and not others:
            point["epoch"] = epoch
        if own.std is not None:
            point["std"] = own.std
        found.append(point)
    return found
