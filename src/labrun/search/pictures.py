"""The report of a search: one self-contained HTML file with embedded plots, which needs no network.

The plots are labrun's own: those of `optuna.visualization` show neither stopped trials, nor several seeds of a trial,
nor the goals of several objectives.
"""

from __future__ import annotations

import base64
import importlib
import io
import logging
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from labrun.config.checking import is_number
from labrun.control.objective import Objective
from labrun.report.formatting import number, parameter
from labrun.runs.groups import DataEntry
from labrun.runs.record import STOPPED, Record
from labrun.terminal import plain

if TYPE_CHECKING:
    from labrun.search.trial_result import TrialResult

log = logging.getLogger(__name__)

DPI = 110
SLICES = 12
"""Maximum number of parameters with a slice plot."""
LINES = 8
"""Maximum number of parameters in the parallel coordinates."""
TRACE = 0.005
"""Smallest importance that is shown."""
ENOUGH = 4
"""Minimum number of trials for parallel coordinates and importances to be meaningful."""
FEW = 8
"""Up to this many trials, the history plot is smaller."""
MARKS = 20
"""Maximum number of tick labels on a categorical axis."""
PAPER = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6}
"""Background of a label, so that it stays readable over lines."""
BLUE, RED, GREY = "#1f5fa8", "#c0392b", "#9aa0a6"


PARTS = {"train": "training", "validation": "validation", "test": "test"}
"""Name of each split in a record, and in the report."""


def write_report(
    study: optuna.Study, objectives: Sequence[Objective], tried: Sequence[TrialResult], folder: Path
) -> Path:
    """Write `report.html`.

    Args:
        study: Optuna's view of the search.
        objectives: its metrics.
        tried: the trials, best first.
        folder: the sweep's folder.
    """
    done = [one for one in tried if one.values is not None and math.isfinite(one.values[0])]
    sections = [("Trials in order, and the best so far", _history(objectives, tried))]
    if len(objectives) > 1 and len(done) > 1:
        sections.append(("Trials that no other beats in all metrics (Pareto front)", _front(objectives, done)))
    names = [name for name in dict.fromkeys(name for one in done for name in one.parameters) if _varies(name, done)]
    if names and len(done) > 1:
        scales = scales_of(study, done)
        weights = importance(study, objectives) if len(names) > 1 and len(done) >= ENOUGH else {}
        if weights:
            sections.append(
                (
                    f"Parameter importance for {objectives[0].metric}",
                    _importance(weights),
                )
            )
        order = sorted(names, key=lambda name: -weights.get(name, 0.0))
        if len(names) > 1 and len(done) >= ENOUGH:
            title = "Parallel coordinates: a line is a trial, red is best"
            sections.append((title, _parallel(objectives[0], done, order, scales)))
        sections.append((f"{objectives[0].metric} over each parameter", _slices(objectives[0], done, order, scales)))
    path = folder / "report.html"
    path.write_text(_page(folder.parent.name, objectives, tried, sections, folder), encoding="utf-8")
    return path


def _varies(name: str, done: Sequence[TrialResult]) -> bool:
    """Return whether trials differ in a parameter, or in whether they have it."""
    values = {str(one.parameters.get(name, _varies)) for one in done}
    return len(values) > 1


def scales_of(study: optuna.Study, done: Sequence[TrialResult]) -> dict[str, bool]:
    """Return whether each parameter's axis is logarithmic: as in the search; for a list of numbers, by their range."""
    searched: dict[str, bool] = {}
    for trial in study.trials:
        for name, space in trial.distributions.items():
            if not isinstance(space, optuna.distributions.CategoricalDistribution):
                searched[name] = bool(getattr(space, "log", False))
    found = {}
    for name in dict.fromkeys(name for one in done for name in one.parameters):
        values = [one.parameters[name] for one in done if name in one.parameters]
        numbers = [float(v) for v in values if is_number(v)]
        positive = len(numbers) == len(values) and min(numbers) > 0
        wide = positive and max(numbers) / min(numbers) > 50
        found[name] = positive and searched.get(name, wide)
    return found


def importance(study: optuna.Study, objectives: Sequence[Objective]) -> dict[str, float]:
    """Compute the importance of each parameter that all trials share for the first metric (PED-ANOVA); may be empty.

    Source: S. Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces",
    IJCAI 2023.
    """
    several = len(objectives) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compute = _importances()
            return dict(compute(study, target=(lambda t: t.values[0]) if several else None))
        except (ValueError, RuntimeError) as error:
            log.debug("no importances: %s", error)
            return {}


def _importances() -> Callable[..., dict[str, float]]:
    """Return Optuna's `get_param_importances`, for its default evaluator.

    Other evaluators need scikit-learn, which Optuna imports if it can. That takes over a second, so it finds none, and
    what it has imported without is forgotten.
    """
    if "sklearn.ensemble" in sys.modules or "optuna.importance" in sys.modules:
        return optuna.importance.get_param_importances
    lazy = optuna.importance
    sys.modules["sklearn.ensemble"] = None  # type: ignore[assignment]
    try:
        compute: Callable[..., dict[str, float]] = importlib.import_module("optuna.importance").get_param_importances
        return compute
    finally:
        del sys.modules["sklearn.ensemble"]
        for name in [name for name in sys.modules if name.startswith("optuna.importance")]:
            del sys.modules[name]
        optuna.importance = lazy


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _image(figure: Any) -> str:
    from matplotlib.image import imsave

    # Like `savefig`, but without its dry run, which takes a quarter of the time.
    figure.canvas.draw()
    buffer = io.BytesIO()
    imsave(buffer, figure.canvas.buffer_rgba(), format="png", dpi=DPI, origin="upper")
    return base64.b64encode(buffer.getvalue()).decode()


def _text(value: object, most: int = 40) -> str:
    """Shorten and escape a text for matplotlib, which treats `$` as the start of a formula."""
    text, most = plain(str(value)), max(8, most)
    if len(text) > most:  # names differ at their ends
        text = f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"
    return text.replace("$", r"\$")


def _history(objectives: Sequence[Objective], tried: Sequence[TrialResult]) -> str:
    ordered = sorted(tried, key=lambda one: int(one.run))
    figure = _figure(8.5 if len(ordered) > FEW else 5.5, (3.2 if len(ordered) > FEW else 2.4) * len(objectives))
    for row, one in enumerate(objectives):
        axes = figure.add_subplot(len(objectives), 1, row + 1)
        done = [(int(t.run), t.values[row]) for t in ordered if t.values is not None and math.isfinite(t.values[row])]
        early = [
            (int(t.run), float(t.record.metrics[one.metric]))
            for t in ordered
            if t.record.status == STOPPED and is_number(t.record.metrics.get(one.metric))
        ]
        if early:
            axes.scatter(*zip(*early, strict=True), s=18, color=GREY, marker="x", label="stopped early")
        if done:
            x, y = zip(*done, strict=True)
            best = np.maximum.accumulate(y) if one.maximize else np.minimum.accumulate(y)
            axes.scatter(x, y, s=22, color=BLUE, label="completed")
            axes.step(x, best, where="post", color=RED, label="best so far")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(-0.5, max(int(t.run) for t in ordered) + 0.5)
        axes.set_xlabel("run")
        axes.set_ylabel(_text(one.metric))
        if done or early:
            axes.legend(fontsize=8, frameon=False)
        axes.grid(alpha=0.25)
    return _image(figure)


def _front(objectives: Sequence[Objective], done: Sequence[TrialResult]) -> str:
    pairs = [(i, j) for i in range(len(objectives)) for j in range(i + 1, len(objectives))]
    figure = _figure(8.5, 4.0 * len(pairs))
    for row, (i, j) in enumerate(pairs):
        axes = figure.add_subplot(len(pairs), 1, row + 1)
        for on_front, color, label in ((False, BLUE, "dominated"), (True, RED, "Pareto front")):
            points = sorted((t.values[i], t.values[j], t.run) for t in done if t.values and t.on_front == on_front)
            if points:
                axes.scatter([p[0] for p in points], [p[1] for p in points], s=26, color=color, label=label)
            for point in points if on_front else ():
                axes.annotate(f" {point[2]}", point[:2], fontsize=7)
        axes.set_xlabel(_text(objectives[i].metric))
        axes.set_ylabel(_text(objectives[j].metric))
        axes.legend(fontsize=8, frameon=False)
        axes.grid(alpha=0.25)
    return _image(figure)


def _importance(weights: dict[str, float]) -> str:
    # Omit parameters that explain nothing, unless none explains anything.
    names = sorted((name for name in weights if weights[name] >= TRACE), key=lambda name: weights[name])[-LINES - 4 :]
    names = names or sorted(weights)[:LINES]
    figure = _figure(8.5, 0.6 + 0.32 * len(names))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(names)), [weights[name] for name in names], color=BLUE)
    axes.set_yticks(range(len(names)), [_text(name) for name in names], fontsize=8)
    axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=3)
    axes.set_xlim(0, 1.1 * max(1e-9, *weights.values()))
    return _image(figure)


def _axis(values: Sequence[Any], is_log: bool = False) -> tuple[list[float], list[tuple[float, str]]]:
    """Map values to positions from 0 to 1, and return them with the tick marks.

    Args:
        values: values of one parameter; a mix of text and numbers is treated as text.
        is_log: whether the axis is logarithmic; the values must then be above 0.
    """
    if not all(map(is_number, values)):
        labels = sorted({str(value) for value in values})
        step = 1 / max(1, len(labels) - 1)
        positions = {label: index * step if len(labels) > 1 else 0.5 for index, label in enumerate(labels)}
        return [positions[str(value)] for value in values], [(position, label) for label, position in positions.items()]
    numbers = np.asarray(values, float)
    low, high = float(numbers.min()), float(numbers.max())
    if high == low:
        return [0.5] * len(numbers), [(0.5, f"{low:.4g}")]
    scaled = np.log(numbers) if is_log else numbers
    span = float(scaled.max() - scaled.min())
    marks = [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
    middle = float(np.exp(scaled.mean())) if is_log else (low + high) / 2
    if is_log:
        middle = math.sqrt(low) * math.sqrt(high)
    marks.insert(1, (0.5, f"{middle:.3g}"))
    return [float(position) for position in (scaled - scaled.min()) / span], marks


def _parallel(
    objective: Objective, done: Sequence[TrialResult], order: Sequence[str], scales: Mapping[str, bool]
) -> str:
    from matplotlib import colormaps

    names = list(order[:LINES])
    scores = [objective.score(one.values[0]) for one in done if one.values]
    axes_of = []
    for name in names:
        having = [one for one in done if name in one.parameters]
        heights, marks = _axis([one.parameters[name] for one in having], scales.get(name, False))
        axes_of.append(({one.run: height for one, height in zip(having, heights, strict=True)}, marks))
    heights, marks = _axis([one.values[0] for one in done if one.values])
    axes_of.append(({one.run: height for one, height in zip(done, heights, strict=True)}, marks))
    most = max(len(marks) for _, marks in axes_of)
    room = 9.6 / len(axes_of) / 0.075  # label length that fits before the next axis, characters
    figure = _figure(9.6, 3.4 if most <= 8 else 4.6)
    axes = figure.add_subplot()
    colors = colormaps["coolwarm"]
    ranked = {
        run: i / max(1, len(done) - 1)
        for i, run in enumerate(run for _, run in sorted(zip(scores, (one.run for one in done), strict=True)))
    }
    for one in reversed(done):
        points = [(x, known[one.run]) for x, (known, _) in enumerate(axes_of) if one.run in known]
        axes.plot(*zip(*points, strict=True), color=colors(ranked[one.run]), alpha=0.75, linewidth=1.2, marker=".")
    for x, (_, marks_) in enumerate(axes_of):
        axes.axvline(x, color="black", linewidth=0.8)
        shown = marks_ if len(marks_) <= MARKS else marks_[:: math.ceil(len(marks_) / MARKS)]
        for height, label in shown:
            axes.text(x + 0.03, height, _text(label, int(room)), fontsize=7, va="center", bbox=PAPER)
    turned = max(map(len, names)) > 12 or len(axes_of) > 6
    axes.set_xticks(
        range(len(axes_of)),
        [_text(name) for name in [*names, objective.metric]],
        fontsize=8,
        rotation=20 if turned else 0,
        ha="right" if turned else "center",
    )
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.1, len(axes_of) - 1 + 0.07 * len(axes_of))
    return _image(figure)


def _slices(objective: Objective, done: Sequence[TrialResult], order: Sequence[str], scales: Mapping[str, bool]) -> str:
    from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator, NullFormatter

    names = list(order[:SLICES])
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(3.1 * columns, 2.5 * rows)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        having = [one for one in done if name in one.parameters and one.values]
        values = [one.parameters[name] for one in having]
        heights = [one.values[0] for one in having if one.values]
        if all(map(is_number, values)):
            axes.scatter(values, heights, s=16, color=BLUE)
            if scales.get(name, False):
                axes.set_xscale("log")
                if max(values) / min(values) >= 10:  # within a decade, log ticks are too few
                    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
                    axes.xaxis.set_minor_formatter(NullFormatter())
                else:
                    axes.xaxis.set_minor_locator(MaxNLocator(3))
                    axes.xaxis.set_major_locator(MaxNLocator(3))
                    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
                    axes.xaxis.set_minor_formatter(NullFormatter())
            else:
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=all(isinstance(v, int) for v in values)))
        else:
            positions, marks = _axis(values)
            axes.scatter(positions, heights, s=16, color=BLUE)
            shown = marks if len(marks) <= MARKS else marks[:: math.ceil(len(marks) / MARKS)]
            turned = sum(len(label) for _, label in shown) > 24
            axes.set_xticks([p for p, _ in shown], [_text(label, 22) for _, label in shown])
            axes.tick_params(axis="x", rotation=(65 if len(shown) > 8 else 35) if turned else 0)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right" if turned else "center")
                label.set_rotation_mode("anchor" if turned else "default")
            axes.set_xlim(-0.12, 1.12)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(_text(name, 34), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    return _image(figure)


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}: search</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #202124; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin-top: 2em; }
img { max-width: 100%; } code { background: #f1f3f4; padding: .15em .35em; word-break: break-all; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85em; }
th, td { text-align: left; padding: .25em .7em; border-bottom: 1px solid #e0e0e0; white-space: nowrap; }
tr.front { background: #fdecea; }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ trials | length }} trials ({{ counts | join(", ") }}); searched for {{ goals | join(", ") }}.<br>
{%- for line in data %}{{ line }}<br>{% endfor %}Folder: <code>{{ folder }}</code></p>
<p>Best: run {{ best.run }}<br><code>{{ best.record.command }}</code></p>
{% for name, image in sections %}
<h2>{{ name }}</h2>
<img alt="{{ name }}" src="data:image/png;base64,{{ image }}">
{% endfor %}
<h2>All trials, best first</h2>
<div class="scroll"><table><thead><tr>{% for name in head %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for is_marked, cells in trials %}
<tr{% if is_marked %} class="front"{% endif %}>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</body></html>
"""


def _page(
    title: str,
    objectives: Sequence[Objective],
    tried: Sequence[TrialResult],
    sections: Sequence[tuple[str, str]],
    folder: Path,
) -> str:
    from jinja2 import Environment, StrictUndefined

    names = list(dict.fromkeys(name for one in tried for name in one.parameters))
    metrics = [one.metric for one in objectives]
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)
    return template.render(
        title=title,
        goals=[f"{o.metric} ({'maximize' if o.maximize else 'minimize'})" for o in objectives],
        counts=[f"{count} {status}" for status, count in Counter(one.record.status for one in tried).items()],
        data=_data(tried[0].record),
        folder=folder,
        best=tried[0],
        sections=sections,
        head=["run", "status", "seconds", *metrics, *names, ""],
        trials=[(one.on_front or one is tried[0], _cells(one, metrics, names)) for one in tried],
    )


def _cells(one: TrialResult, metrics: Sequence[str], names: Sequence[str]) -> list[str]:
    values: list[Any] = [*one.values] if one.values else [one.record.metrics.get(metric) for metric in metrics]
    cells = [one.run, one.record.status, "" if one.record.duration_s is None else f"{one.record.duration_s:.1f}"]
    cells += [number(float(value)) if isinstance(value, int | float) else "" for value in values]
    return cells + [parameter(one.parameters.get(name, "")) for name in names] + [one.why]


def _data(record: Record) -> list[str]:
    """Return a line on the data that a run read; empty if its record does not say."""
    entry = record.data[0] if record.data else DataEntry()
    counts = {word: getattr(entry, part) for part, word in PARTS.items()}
    if any(type(count) is not int for count in counts.values()):
        return []
    return [f"Data: {entry.name} ({', '.join(f'{count:,} {word}' for word, count in counts.items())} samples)"]
