"""The report of a search: one HTML file with its pictures inside, which a browser opens without any network."""

from __future__ import annotations

import base64
import html
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from labrun.launch.objective import Objective
from labrun.runs import record as records
from labrun.runs.report import number

if TYPE_CHECKING:
    from labrun.sweep.ending import Tried

log = logging.getLogger(__name__)

DPI = 110
SLICES = 12
"""Parameters that get a slice of their own."""
LINES = 8
"""Parameters that the parallel coordinates show."""
TRACE = 0.005
"""The least importance that is shown."""
BLUE, RED, GREY = "#1f5fa8", "#c0392b", "#9aa0a6"


def write_report(study: optuna.Study, objectives: Sequence[Objective], tried: Sequence[Tried], folder: Path) -> Path:
    """Write `report.html`.

    Args:
        study: Optuna's view of the search.
        objectives: its metrics.
        tried: the trials, best first.
        folder: the sweep's.
    """
    done = [one for one in tried if one.values is not None]
    sections = [("Trials in their order, and the best so far", _history(objectives, tried))]
    if len(objectives) > 1:
        sections.append(("What no other trial beats in all metrics (Pareto front)", _front(objectives, done)))
    names = list(dict.fromkeys(name for one in done for name in one.parameters))
    if names and len(done) > 1:
        weights = importance(study, objectives)
        if weights:
            sections.append((f"How much of the differences in {objectives[0].metric} each parameter explains",
                             _importance(weights)))  # fmt: skip
        order = sorted(names, key=lambda name: -weights.get(name, 0.0))
        sections.append(("Parallel coordinates: a line is a trial, red is best", _parallel(objectives[0], done, order)))
        sections.append((f"{objectives[0].metric} over each parameter", _slices(objectives[0], done, order)))
    path = folder / "report.html"
    path.write_text(_page(folder.parent.name, objectives, tried, sections, folder), encoding="utf-8")
    return path


def importance(study: optuna.Study, objectives: Sequence[Objective]) -> dict[str, float]:
    """How much each parameter matters to the first metric (PED-ANOVA); of those that every trial has. May be empty.

    Source: S. Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces",
    IJCAI 2023.
    """
    several = len(objectives) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(
                optuna.importance.get_param_importances(study, target=(lambda t: t.values[0]) if several else None)
            )
        except (ValueError, RuntimeError) as error:
            log.debug("no importances: %s", error)
            return {}


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _image(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return base64.b64encode(buffer.getvalue()).decode()


def _text(value: object) -> str:
    """Text for matplotlib, which reads `$` as the beginning of a formula."""
    text = str(value).replace("$", r"\$")
    return text if len(text) <= 40 else text[:37] + "..."


def _history(objectives: Sequence[Objective], tried: Sequence[Tried]) -> str:
    figure = _figure(8.5, 3.2 * len(objectives))
    ordered = sorted(tried, key=lambda one: int(one.run))
    for place, one in enumerate(objectives):
        axes = figure.add_subplot(len(objectives), 1, place + 1)
        done = [(int(t.run), t.values[place]) for t in ordered if t.values is not None]
        early = [
            (int(t.run), float(t.record.metrics[one.metric]))
            for t in ordered
            if t.record.status == records.STOPPED and isinstance(t.record.metrics.get(one.metric), int | float)
        ]
        if early:
            axes.scatter(*zip(*early, strict=True), s=18, color=GREY, marker="x", label="stopped early")
        if done:
            x, y = zip(*done, strict=True)
            best = np.maximum.accumulate(y) if one.maximize else np.minimum.accumulate(y)
            axes.scatter(x, y, s=22, color=BLUE, label="completed")
            axes.step(x, best, where="post", color=RED, label="best so far")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("run")
        axes.set_ylabel(_text(one.metric))
        axes.legend(fontsize=8, frameon=False)
        axes.grid(alpha=0.25)
    return _image(figure)


def _front(objectives: Sequence[Objective], done: Sequence[Tried]) -> str:
    pairs = [(i, j) for i in range(len(objectives)) for j in range(i + 1, len(objectives))]
    figure = _figure(8.5, 4.0 * len(pairs))
    for place, (i, j) in enumerate(pairs):
        axes = figure.add_subplot(len(pairs), 1, place + 1)
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
    # What explains nothing is left out, as far as something explains anything.
    names = sorted((name for name in weights if weights[name] >= TRACE), key=lambda name: weights[name])[-LINES - 4 :]
    names = names or sorted(weights)[:LINES]
    figure = _figure(8.5, 0.6 + 0.32 * len(names))
    axes = figure.add_subplot()
    bars = axes.barh([_text(name) for name in names], [weights[name] for name in names], color=BLUE)
    axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=3)
    axes.set_xlim(0, 1.1 * max(1e-9, *weights.values()))
    return _image(figure)


def _axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]], bool]:
    """Values as places from 0 to 1, the marks for them, and whether they lie on a logarithmic scale."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        labels = sorted({str(value) for value in values})
        step = 1 / max(1, len(labels) - 1)
        return (
            [labels.index(str(value)) * step if len(labels) > 1 else 0.5 for value in values],
            [(index * step if len(labels) > 1 else 0.5, label) for index, label in enumerate(labels)],
            False,
        )
    low, high = min(numbers), max(numbers)
    is_log = low > 0 and high / low > 50
    scaled = np.log(numbers) if is_log else np.asarray(numbers)
    span = float(scaled.max() - scaled.min()) or 1.0
    places = [float(p) for p in (scaled - scaled.min()) / span] if high > low else [0.5] * len(numbers)
    return places, [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")] if high > low else [(0.5, f"{low:.4g}")], is_log


def _parallel(objective: Objective, done: Sequence[Tried], order: Sequence[str]) -> str:
    from matplotlib import colormaps

    names = list(order[:LINES])
    scores = [objective.score(one.values[0]) for one in done if one.values]
    axes_of = []
    for name in names:
        having = [one for one in done if name in one.parameters]
        places, marks, _ = _axis([one.parameters[name] for one in having])
        axes_of.append(({one.run: place for one, place in zip(having, places, strict=True)}, marks))
    places, marks, _ = _axis([one.values[0] for one in done if one.values])
    axes_of.append(({one.run: place for one, place in zip(done, places, strict=True)}, marks))
    figure = _figure(8.5, 4.2)
    axes = figure.add_subplot()
    colors = colormaps["coolwarm"]
    ranked = {run: i / max(1, len(done) - 1) for i, run in enumerate(
        run for _, run in sorted(zip(scores, (one.run for one in done), strict=True)))}  # fmt: skip
    for one in reversed(done):
        points = [(x, known[one.run]) for x, (known, _) in enumerate(axes_of) if one.run in known]
        axes.plot(*zip(*points, strict=True), color=colors(ranked[one.run]), alpha=0.75, linewidth=1.2, marker=".")
    for x, (_, marks_) in enumerate(axes_of):
        axes.axvline(x, color="black", linewidth=0.8)
        for place, label in marks_ if len(marks_) <= 12 else [marks_[0], marks_[-1]]:
            axes.text(x + 0.02, place, _text(label), fontsize=7, va="center")
    axes.set_xticks(range(len(axes_of)), [_text(name) for name in [*names, objective.metric]], rotation=20, fontsize=8,
                    ha="right")  # fmt: skip
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(axes_of) - 0.6)
    return _image(figure)


def _slices(objective: Objective, done: Sequence[Tried], order: Sequence[str]) -> str:
    names = list(order[:SLICES])
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(2.85 * columns, 2.5 * rows)
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        having = [one for one in done if name in one.parameters and one.values]
        values = [one.parameters[name] for one in having]
        heights = [one.values[0] for one in having if one.values]
        places, marks, is_log = _axis(values)
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            axes.scatter(values, heights, s=16, color=BLUE)
            if is_log:
                axes.set_xscale("log")
        else:
            axes.scatter(places, heights, s=16, color=BLUE)
            axes.set_xticks(
                [p for p, _ in marks], [_text(label) for _, label in marks], rotation=30, fontsize=7, ha="right"
            )
        axes.set_title(_text(name), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    return _image(figure)


def _page(
    title: str,
    objectives: Sequence[Objective],
    tried: Sequence[Tried],
    sections: Sequence[tuple[str, str]],
    folder: Path,
) -> str:
    say = html.escape
    metrics = [one.metric for one in objectives]
    goals = ", ".join(f"{o.metric} ({'to be large' if o.maximize else 'to be small'})" for o in objectives)
    names = list(dict.fromkeys(name for one in tried for name in one.parameters))
    counts: dict[str, int] = {}
    for one in tried:
        counts[one.record.status] = counts.get(one.record.status, 0) + 1
    head = "".join(f"<th>{say(cell)}</th>" for cell in ["run", "status", "seconds", *metrics, *names, ""])
    body = []
    for one in tried:
        values: list[Any] = [*one.values] if one.values else [one.record.metrics.get(metric) for metric in metrics]
        cells = [one.run, one.record.status, "" if one.record.duration_s is None else f"{one.record.duration_s:.1f}"]
        cells += [number(float(value)) if isinstance(value, int | float) else "" for value in values]
        cells += [_cell(one.parameters.get(name, "")) for name in names] + [one.why]
        mark = ' class="front"' if one.on_front or one is tried[0] else ""
        body.append(f"<tr{mark}>" + "".join(f"<td>{say(str(cell))}</td>" for cell in cells) + "</tr>")
    pictures = "".join(
        f'<h2>{say(name)}</h2>\n<img alt="{say(name)}" src="data:image/png;base64,{data}">\n' for name, data in sections
    )
    best = tried[0]
    counted = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{say(title)}: search</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #202124; }}
h1 {{ font-size: 1.5em; }} h2 {{ font-size: 1.1em; margin-top: 2em; }}
img {{ max-width: 100%; }} code {{ background: #f1f3f4; padding: .15em .35em; word-break: break-all; }}
.scroll {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .85em; }}
th, td {{ text-align: left; padding: .25em .7em; border-bottom: 1px solid #e0e0e0; white-space: nowrap; }}
tr.front {{ background: #fdecea; }}
</style></head><body>
<h1>{say(title)}</h1>
<p>{len(tried)} trials ({say(counted)}); searched for {say(goals)}.<br>Folder: <code>{say(str(folder))}</code></p>
<p>Best: run {say(best.run)}<br><code>{say(best.record.command)}</code></p>
{pictures}
<h2>All trials, best first</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>
{chr(10).join(body)}
</tbody></table></div>
</body></html>
"""


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
