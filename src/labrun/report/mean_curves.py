"""Averages the curves of runs with the same setting: mean and standard deviation at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labrun.report import aggregation, figures
from labrun.report.aggregation import Setting
from labrun.runs.record import COMPLETED, Record

Line = Mapping[str, Any]
"""A parsed line of `metrics.jsonl`."""
ByStep = dict[int, Line]


def of(
    settings: Sequence[Setting], read: Callable[[Record], Sequence[Line]]
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Average each metric's curve over the completed runs of each setting.

    Args:
        settings: the settings.
        read: returns a run's metrics.

    Returns:
        Lines for `figures.compared_curves`, by the setting's label and `(n=3)`; and notes on what could not be drawn
        and why.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    for one, label in zip(settings, aggregation.labels(settings), strict=True):
        lines, why = _of_one(one, read)
        notes += [f"{label}: {text}" for text in why]
        counts = sorted({line["n"] for line in lines})
        if counts:
            n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            found[f"{label} (n={n})"] = lines
    return found, notes


def _of_one(one: Setting, read: Callable[[Record], Sequence[Line]]) -> tuple[list[dict[str, Any]], list[str]]:
    logged = {record.id: read(record) for record in one.runs if record.status == COMPLETED}
    curves = {run: _by_step(lines) for run, lines in logged.items()}
    found: list[dict[str, Any]] = []
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


def _is_odd(line: Line, name: str) -> bool:
    return bool(line["name"] == name and not math.isfinite(line["value"]))


def _by_step(lines: Sequence[Line]) -> dict[str, ByStep]:
    """Return the finite values by step of each metric that has a curve; the last value at a step counts."""
    return {name: {int(line["step"]): line for line in own} for name, own in figures.curves_of(lines).items()}


def _mean(name: str, runs: Sequence[ByStep]) -> list[dict[str, Any]]:
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
        point: dict[str, Any] = {"name": name, "step": step, "value": own.mean, "n": own.n}
        epochs = {line.get("epoch") for line in at}
        if len(epochs) == 1 and None not in epochs:
            point["epoch"] = epochs.pop()
        found.append(point if own.std is None else {**point, "std": own.std})
    return found
