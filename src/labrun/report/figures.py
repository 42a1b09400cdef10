"""Drawing of samples, curves, confusion matrices, weights and predictions.

Uses Matplotlib's object interface, so no windows and no global state.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.report.axes import STEP, positions, unit
from labrun.runs.metric_line import Point
from labrun.terminal import plain

if TYPE_CHECKING:  # imported only where used: `lab runs` needs no NumPy to list runs
    import numpy as np
    import numpy.typing as npt

DPI = 110
NAMED_CLASSES = 30
"""Largest number of classes whose names and counts a confusion matrix shows."""
TITLE_INCHES = 0.4
"""Height of a title above a mosaic."""


def sample_grid(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    class_names: Sequence[str],
    scale: float,
    path: Path,
    title: str,
    order: npt.NDArray[np.intp] | slice | None = None,
) -> Path:
    """Draw images with their labels: those at the positions in `order`, by default 30, cycling through the classes.

    Shapes:
        x: (N, C, H, W) stored values, 0 to `scale`; C is 1 or 3.
        y: (N,) class indices.
    """
    import numpy as np

    order = shown_samples(y) if order is None else order
    x, y = x[order], y[order]
    columns = min(10, len(x))
    _, _, height, width = x.shape
    head, gap = _margins(height, width)
    tall = (height + head) / (width + gap)
    figure = _figure(columns * 1.05, math.ceil(len(x) / columns) * 1.05 * tall + TITLE_INCHES, has_layout=False)
    names = [_short(class_names[int(label)], 12) for label in y]
    _mosaic(figure, np.clip(x / scale, 0, 1), columns, names, 8, cmap="gray", vmin=0, vmax=1)
    return _save(figure, path, title)


def shown_samples(y: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the positions of 30 samples, cycling through the classes."""
    return _classes_in_turn(y)[:30]


def warm() -> None:
    """Import what pictures need and load the font, by drawing a picture into memory."""
    import io

    figure = _figure(1.0, 1.0)
    figure.suptitle("0")
    figure.savefig(io.BytesIO(), dpi=DPI)


def _classes_in_turn(y: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return positions that cycle through the classes; in the original order if the first 30 contain every class."""
    import numpy as np

    if len(np.unique(y[:30])) == len(np.unique(y)):
        return np.arange(len(y))
    rank = np.empty(len(y), dtype=np.int64)
    for label in np.unique(y):
        of_class = np.flatnonzero(y == label)
        rank[of_class] = np.arange(len(of_class))
    return np.lexsort((y, rank))


def learning_curves(metrics: Sequence[Point], path: Path, title: str) -> Path | None:
    """Draw every metric with more than one step; the splits of the same quantity share a panel.

    Args:
        metrics: lines of `metrics.jsonl`.
        path: the picture's file.
        title: the picture's title.

    Returns:
        The file, or None if there is no curve to draw.
    """
    lines: dict[str, list[Point]] = {}
    for line in metrics:
        lines.setdefault(line["name"], []).append(line)
    lines = {name: own for name, own in lines.items() if len({line["step"] for line in own}) > 1}
    frames: dict[tuple[str, str], list[str]] = {}
    for name, own in lines.items():
        frames.setdefault((quantity(name), unit(own)), []).append(name)
    if not frames:
        return None
    frames = dict(list(frames.items())[:FRAMES])
    down = math.ceil(len(frames) / 4)
    across = math.ceil(len(frames) / down)
    figure = _figure(5.2 * across, 3.8 * down)
    for place, ((shown, counted), names) in enumerate(frames.items(), start=1):
        axes = figure.add_subplot(down, across, place)
        for name in names:
            at, values = positions(lines[name], counted), [line["value"] for line in lines[name]]
            axes.plot(at, values, marker="o" if len(at) <= 30 else None, markersize=3, label=_short(name, 32))
        axes.set_xlabel(counted)
        axes.set_ylabel(_short(shown, 32))
        _fit_scale(axes, [line["value"] for name in names for line in lines[name]])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return _save(figure, path, title)


FRAMES = 24
"""Maximum panels in a picture."""
_PART = re.compile(
    r"^(?:train|training|val|valid|validation|test)[_/.-](?=.)|(?<=.)[_/.-](?:train|training|val|valid|validation|test)$"
)


def quantity(name: str) -> str:
    """Strip the split from a metric's name: `loss` for `train_loss`, `val/loss` and `loss/val`."""
    return _PART.sub("", name) or name


def confusion_matrix(counts: npt.NDArray[np.int64], class_names: Sequence[str], path: Path, title: str) -> Path:
    """Draw how often each true class (rows) was predicted as each class (columns).

    Shapes:
        counts: (classes, classes).
    """
    import numpy as np

    classes = len(class_names)
    has_names = classes <= NAMED_CLASSES
    side = min(17.0, max(4.5, 0.5 * classes + 1.5)) if has_names else 8.0
    figure = _figure(side + 0.6, side, has_layout=not has_names)
    axes = figure.add_subplot()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if has_names:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            shown = str(counts[row, column])
            axes.text(column, row, shown, ha="center", va="center", color=colour, fontsize=8, in_layout=False)
        _name_classes(figure, axes, [_short(name, 14) for name in class_names])
    else:
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    return _save(figure, path, title)


def _name_classes(figure: Any, axes: Any, names: Sequence[str]) -> None:
    """Write the names of the classes beside a matrix, and place it so that they fit.

    Ticks and a layout engine would take as long as the rest of the picture.
    """
    axes.set_xticks([])
    axes.set_yticks([])
    beside, below = axes.get_yaxis_text1_transform(4)[0], axes.get_xaxis_text1_transform(4)[0]
    upright: dict[str, Any] = {"ha": "center", "va": "top"}
    slanted: dict[str, Any] = {"ha": "right", "va": "top", "rotation": 45, "rotation_mode": "anchor"}
    style = slanted if max(map(len, names)) > 3 else upright
    rows = [axes.text(0, at, name, transform=beside, ha="right", va="center") for at, name in enumerate(names)]
    columns = [axes.text(at, 0, name, transform=below, **style) for at, name in enumerate(names)]
    wide, high = figure.get_size_inches()
    line, inch = 0.25, figure.dpi
    reach = 0.1 + max(one.get_window_extent().width for one in rows) / inch
    left = line + reach
    slant = [one.get_window_extent() for one in columns]
    if style is slanted:  # the first names reach beyond the matrix
        cell = 0.5 * (high - TITLE_INCHES - line) / len(names)
        left = max(left, *(box.width / inch - at * cell for at, box in enumerate(slant)))
    bottom = line + 0.1 + max(box.height for box in slant) / inch
    side = min(wide - left - 0.1, high - bottom - TITLE_INCHES)
    left += (wide - left - 0.1 - side) / 2
    axes.set_position((left / wide, bottom / high, side / wide, side / high))
    figure.text((left + side / 2) / wide, 0.06 / high, "predicted", ha="center", va="bottom")
    figure.text(
        (left - reach - line / 2) / wide, (bottom + side / 2) / high, "true", ha="center", va="center", rotation=90
    )


def weight_images(
    weights: npt.NDArray[Any], image_shape: Sequence[int], class_names: Sequence[str], path: Path, title: str
) -> Path:
    """Draw one image per class of the weights for it (blue) and against it (red).

    Shapes:
        weights: (classes, H * W), or one row for two classes.
        image_shape: (1, H, W).
    """
    import numpy as np

    count = len(weights)
    columns = min(5, count)
    rows = math.ceil(count / columns)
    names = list(class_names) if count == len(class_names) else [str(class_names[-1])]
    limit = float(np.quantile(np.abs(weights), 0.995)) or 1.0
    figure = _figure(max(6.0, columns * 1.7), max(2.5, rows * 1.9 + TITLE_INCHES), has_layout=False)
    images = weights.reshape(count, 1, *image_shape[1:])
    _mosaic(figure, images, columns, [_short(name, 14) for name in names], 9, cmap="RdBu", vmin=-limit, vmax=limit)
    return _save(figure, path, title)


def _margins(height: int, width: int) -> tuple[int, int]:
    """Return a mosaic's margins above each image, for its name, and to its side, in pixels of the image."""
    return max(2, round(0.3 * height)), max(1, round(0.12 * width))


def _mosaic(
    figure: Any, images: npt.NDArray[Any], columns: int, names: Sequence[str], font: int, **colours: Any
) -> None:
    """Draw a grid of images as a single one: separate axes for each take ten times as long to draw.

    Args:
        figure: the figure to draw into.
        images: (N, C, H, W); C is 1 or 3.
        columns: images per row.
        names: the text above each image.
        font: its size.
        colours: keyword arguments of `imshow`.
    """
    import numpy as np

    count, channels, height, width = images.shape
    head, gap = _margins(height, width)
    cell = (height + head, width + gap)
    mosaic = np.full((math.ceil(count / columns) * cell[0], columns * cell[1], channels), np.nan, np.float32)
    # Nothing stands around it but the title, so it needs no layout, which takes longer than the drawing itself.
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98 - TITLE_INCHES / figure.get_figheight()))
    for place, (image, name) in enumerate(zip(images, names, strict=True)):
        top, left = (place // columns) * cell[0] + head, (place % columns) * cell[1] + gap // 2
        mosaic[top : top + height, left : left + width] = image.transpose(1, 2, 0)
        axes.text(
            left + width / 2 - 0.5,
            top - 0.5 - 0.06 * height,
            name,
            ha="center",
            va="bottom",
            fontsize=font,
            in_layout=False,
        )
    # NaN stays white.
    shown = mosaic.squeeze(-1) if channels == 1 else np.nan_to_num(mosaic, nan=1.0)
    axes.imshow(shown, **colours)
    axes.set_axis_off()


def _figure(width: float, height: float, has_layout: bool = True) -> Any:
    quiet = logging.getLogger("matplotlib")
    if quiet.level == logging.NOTSET:  # with hydra.verbose=true it would log every font on the machine
        quiet.setLevel(logging.INFO)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained" if has_layout else None)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path, title: str) -> Path:
    place = {} if figure.get_layout_engine() else {"y": 1 - 0.08 / figure.get_figheight()}
    figure.suptitle(_label(title), fontsize=10, **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Like `savefig` for a PNG, but without its dry run, which takes as long as the drawing itself.
    figure.canvas.draw()
    from matplotlib.image import imsave

    # A seventh larger than by default, and done in two thirds of the time.
    imsave(path, figure.canvas.buffer_rgba(), dpi=DPI, origin="upper", pil_kwargs={"compress_level": 1})
    return path


def _short(text: str, length: int) -> str:
    return _label(text if len(text) <= length else text[: length - 1] + "…")


def _middle(text: str, length: int) -> str:
    """Shorten a long text in the middle, since names differ at their ends."""
    return _label(text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}")


def _label(text: str) -> str:
    """Escape a text for Matplotlib: no formulas, no characters that fonts lack."""
    return plain(text).replace("$", r"\$")


Curves = dict[str, list[Point]]
"""The lines with finite values of each metric, by step."""


def curves_of(metrics: Sequence[Point]) -> Curves:
    """Return the metrics with finite values at more than one step.

    Args:
        metrics: lines of `metrics.jsonl`.
    """
    found: Curves = {}
    for line in metrics:
        if math.isfinite(line["value"]):
            found.setdefault(line["name"], []).append(line)
    many = {name: own for name, own in found.items() if len({line["step"] for line in own}) > 1}
    return {name: sorted(own, key=lambda line: int(line["step"])) for name, own in many.items()}


def terminal_curves(metrics: Sequence[Point], width: int = 78, height: int = 16) -> str:
    """Draw each curve as text for a terminal; "" if there is none.

    Args:
        metrics: lines of `metrics.jsonl`.
        width: characters.
        height: lines.
    """
    import plotext

    texts = []
    for name, own in curves_of(metrics).items():
        counted = unit(own)
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plotsize(width, height)
        plotext.title(name)
        plotext.xlabel(counted)
        plotext.plot(positions(own, counted), [line["value"] for line in own], marker="braille")
        texts.append(plotext.uncolorize(plotext.build()))
    return "\n\n".join(texts)


COMPARED = 20
"""Maximum entries of a legend."""
LEGEND = 120
"""Maximum characters of an entry."""


def compared_curves(runs: Mapping[str, Sequence[Point]], path: Path, title: str = "") -> Path | None:
    """Draw the curves of several runs: one panel per metric, one line per run.

    Args:
        runs: lines of `metrics.jsonl` by the run's label, or those of a mean (`mean_curves.of`), whose standard
            deviation is drawn as a band.
        path: the picture's file.
        title: the picture's title; by default the number of runs.

    Returns:
        The file, or None if there is no curve to draw.
    """
    from matplotlib import colormaps

    found = {run: curves_of(lines) for run, lines in runs.items()}
    found = {run: curves for run, curves in found.items() if curves}
    names = list(dict.fromkeys(name for curves in found.values() for name in curves))[:FRAMES]
    if not names:
        return None
    down = math.ceil(len(names) / 3)
    across = math.ceil(len(names) / down)
    step = math.ceil(len(found) / COMPARED)
    named = list(found)[::step]
    said = [_middle(run, LEGEND) for run in named]
    each = 0.068 * max(map(len, said)) + 0.6  # width of a legend entry, inches
    width = max(5.2 * across, min(each + 0.2, 10.4))
    beside = max(1, min(len(said), int(width / each)))
    figure = _figure(width, 3.6 * down + 0.7 + 0.2 * math.ceil(len(said) / beside))
    few = len(found) <= 10
    colours = [colormaps["tab10"](i) if few else colormaps["viridis"](i / (len(found) - 1)) for i in range(len(found))]
    drawn: dict[str, Any] = {}
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(down, across, place)
        own = {run: curves[name] for run, curves in found.items() if name in curves}
        units = {unit(lines) for lines in own.values()}
        counted = units.pop() if len(units) == 1 else STEP
        for (run, curves), colour in zip(found.items(), colours, strict=True):
            if name in curves:
                at, values = positions(curves[name], counted), [line["value"] for line in curves[name]]
                marker = "o" if len(at) <= 30 else None
                (line,) = axes.plot(at, values, marker=marker, markersize=3, color=colour, linewidth=1.2)
                drawn.setdefault(run, line)
                _draw_band(axes, at, curves[name], colour)
        axes.set_xlabel(counted)
        axes.set_ylabel(_short(name, 32))
        _fit_scale(axes, [line["value"] for lines in own.values() for line in lines])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    shown = [drawn[run] for run in named]
    figure.legend(shown, said, loc="outside lower center", fontsize=8, ncols=beside, frameon=False)
    some = f", of which {len(named)} are named" if step > 1 else ""
    return _save(figure, path, title or f"{len(runs)} runs{some}")


def _draw_band(axes: Any, at: Sequence[float], lines: Sequence[Point], colour: Any) -> None:
    """Draw a band of one standard deviation around a mean; nothing around a single run's curve."""
    if all("std" in line for line in lines):
        low, high = zip(*((line["value"] - line["std"], line["value"] + line["std"]) for line in lines), strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)


POINTS = 5000
"""Maximum samples in a scatter plot; the choice is deterministic."""


def predictions(true: npt.NDArray[Any], predicted: npt.NDArray[Any], path: Path, title: str, name: str = "") -> Path:
    """Draw a regression's predicted over true values, residuals over predicted values, and histogram of residuals.

    Shapes:
        true, predicted: (N,).

    Args:
        true: the true values; samples with non-finite values are left out.
        predicted: the model's predictions.
        path: the picture's file.
        title: the picture's title.
        name: the name of the target.
    """
    import numpy as np

    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    finite = np.isfinite(true) & np.isfinite(predicted)
    true, predicted = true[finite], predicted[finite]
    residuals = true - predicted
    shown = np.sort(np.random.default_rng(0).permutation(len(true))[:POINTS])
    of = f" {_short(name, 24)}" if name else ""
    figure = _figure(13.0, 4.2)
    axes = figure.add_subplot(1, 3, 1)
    _dots(axes, true[shown], predicted[shown])
    both = np.concatenate([true, predicted]) if len(true) else np.array([0.0, 1.0])
    low, high = float(both.min()), float(both.max())
    axes.plot([low, high], [low, high], color="black", linewidth=0.8, label="perfect prediction")
    axes.set_xlabel(f"true{of}")
    axes.set_ylabel(f"predicted{of}")
    is_wide = _is_wide(true)
    if is_wide and low > 0:
        axes.set_xscale("log")
        axes.set_yscale("log")
    elif is_wide:  # predictions may still be negative
        for set_scale in (axes.set_xscale, axes.set_yscale):
            set_scale("symlog", linthresh=float(true.min()))
    axes.legend(fontsize=8)
    axes = figure.add_subplot(1, 3, 2)
    _dots(axes, predicted[shown], residuals[shown])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"predicted{of}")
    axes.set_ylabel("residual (true - predicted)")
    if _is_wide(predicted):
        axes.set_xscale("log")
    axes = figure.add_subplot(1, 3, 3)
    axes.hist(residuals, bins=int(np.clip(np.sqrt(len(residuals)), 5, 60)))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("residual (true - predicted)")
    axes.set_ylabel("samples")
    axes.yaxis.get_major_locator().set_params(integer=True)
    for axes in figure.axes:
        _style(axes, true)
    return _save(figure, path, title)


def _dots(axes: Any, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    """Draw a scatter plot, with smaller and fainter dots if there are many."""
    is_sparse = len(x) < 500
    axes.scatter(x, y, s=14 if is_sparse else 6, alpha=0.7 if is_sparse else 0.3, linewidths=0)


def _style(axes: Any, true: npt.NDArray[Any]) -> None:
    """Set the ticks and the grid of a plot of predictions; `true`, shape (N,), decides where symlog axes are linear."""
    from matplotlib.ticker import SymmetricalLogLocator

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.get_major_locator().set_params(nbins=6)
            axis.get_major_formatter().set_powerlimits((-3, 4))
        elif axis.get_scale() == "symlog":
            axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=float(true.min())))
            axis.get_major_locator().set_params(numticks=7)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


WIDE = 1000
"""Ratio of the largest to the smallest positive value above which an axis is logarithmic."""


def _is_wide(values: Any) -> bool:
    """Return whether values are positive and span a wide range."""
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) > WIDE


def _fit_scale(axes: Any, values: Sequence[float]) -> None:
    """Use a logarithmic axis for values with a wide range."""
    if _is_wide([value for value in values if math.isfinite(value)]):
        axes.set_yscale("log")
