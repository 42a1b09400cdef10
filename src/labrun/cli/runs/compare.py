"""The action `compare`: runs side by side or, with `--over`, settings side by side with the means of their runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun.cli.runs import filters
from labrun.control.query import Pair, StatusResolver
from labrun.errors import RecordError
from labrun.report import aggregation, figures, formatting, mean_curves
from labrun.report.aggregation import Setting
from labrun.runs import comparable, context, files, store
from labrun.runs.groups import Code, DataEntry
from labrun.runs.record import Record, flat_config, read_record


def compare(options: argparse.Namespace) -> int:
    """Compare runs: differences of their configs, their metrics, and their curves in one picture."""
    chosen = [(run_dir, read_record(run_dir)) for run_dir, _ in filters.select(options, default=None)]
    if len(chosen) < 2:
        raise RecordError(f"compare takes two runs or more, but only {chosen[0][1].id} was chosen")
    if options.over:
        return _over(chosen, options)
    head = ("", *(record.id for _, record in chosen))
    shown = StatusResolver()
    about = [
        ("experiment", *(record.name for _, record in chosen)),
        ("status", *(shown(*pair) for pair in chosen)),
        ("duration", *(formatting.duration(record.duration_s or 0) for _, record in chosen)),
    ]
    differing = list(_differences(chosen))
    values = [*_values(chosen), *(_measured(chosen) if options.system else ())]
    if options.json:
        ids = [record.id for _, record in chosen]
        named = {name: dict(zip(ids, row, strict=True)) for name, *row in (*differing, *values)}
        print(
            json.dumps(
                {
                    "runs": ids,
                    "differences": {n[0]: named[n[0]] for n in differing},
                    "metrics": {n[0]: named[n[0]] for n in values},
                }
            )
        )
        return 0
    _side_by_side(head, (("runs", about), ("configuration, where it differs", differing), ("metrics", values)))
    called = _called([record for _, record in chosen])
    curves = {name: context.read_metrics(run_dir) for name, (run_dir, _) in zip(called, chosen, strict=True)}
    drawn = figures.compared_curves(curves, _picture(chosen, options))
    print(f"curves: {drawn}" if drawn else "curves: no metric of these runs has more than one step")
    return 0


def _over(chosen: Sequence[Pair], options: argparse.Namespace) -> int:
    """Compare settings: the means of their runs, and mean curves with a band of one standard deviation."""
    settings = aggregation.group([record for _, record in chosen], options.over)
    firsts = [next(pair for pair in chosen if pair[1] is one.runs[0]) for one in settings]
    differing = list(_differences(firsts, [one.config for one in settings]))
    metrics = list(dict.fromkeys(name for one in settings for name in one.metrics))
    notes = aggregation.notes(settings, metrics)
    if options.json:
        print(json.dumps(_over_as_json(settings, differing, metrics, options.over, notes)))
        return 0
    head = ("", *(str(number) for number in range(1, len(settings) + 1)))
    parts = (
        (f"settings, over {', '.join(options.over)}", list(_about(settings, options.over))),
        ("configuration, where it differs", differing),
        ("metrics", list(_means(settings, metrics))),
    )
    _side_by_side(head, parts)
    folders = {id(record): run_dir for run_dir, record in chosen}
    curves, left_out = mean_curves.of(settings, lambda record: context.read_metrics(folders[id(record)]))
    title = f"{len(settings)} settings, mean and standard deviation over {', '.join(options.over)}"
    drawn = figures.compared_curves(curves, _picture(chosen, options, "over"), title)
    for note in [*notes, *left_out]:
        print(f"note: {note}", file=sys.stderr)
    print(f"curves: {drawn}" if drawn else "curves: no metric of these runs has more than one step")
    return 0


def _about(settings: Sequence[Setting], over: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield "experiment", *(", ".join(dict.fromkeys(record.name for record in one.runs)) for one in settings)
    yield "runs", *(str(len(one.runs)) for one in settings)
    for key in over:
        yield key, *(" ".join(aggregation.values(one, key)) for one in settings)


def _means(settings: Sequence[Setting], metrics: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for name in metrics:
        summaries = [one.summary(name) for one in settings]
        yield f"{name}_mean", *("-" if one.mean is None else formatting.number(one.mean) for one in summaries)
        yield f"{name}_std", *("-" if one.std is None else formatting.number(one.std) for one in summaries)
        yield f"{name}_n", *(one.count for one in summaries)


def _over_as_json(
    settings: Sequence[Setting],
    differing: Sequence[tuple[str, ...]],
    metrics: Sequence[str],
    over: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    rows = []
    for column, one in enumerate(settings, start=1):
        summaries = {name: one.summary(name) for name in metrics}
        rows.append(
            {
                "setting": {row[0]: row[column] for row in differing},
                "runs": [record.id for record in one.runs],
                "metrics": {
                    name: {"mean": s.mean, "std": s.std, "n": s.n, "of": s.of} for name, s in summaries.items()
                },
            }
        )
    return {"over": list(over), "settings": rows, "notes": list(notes)}


def _side_by_side(head: Sequence[str], parts: Iterable[tuple[str, Sequence[Sequence[str]]]]) -> None:
    """Print tables with the same columns, each below its title."""
    for title, rows in parts:
        print(title if rows else f"{title}: nothing")
        cells = [tuple(_short(cell) for cell in row) for row in (head, *rows)]
        print("\n".join(f"  {line}" for line in formatting.columns(cells)) if rows else "", end="\n" if rows else "")


def _picture(chosen: Sequence[Pair], options: argparse.Namespace, kind: str = "compare") -> Path:
    """Return the path for the picture of several runs."""
    ids = "-".join(record.id for _, record in chosen)[:80]
    return files.ready(options.output or files.pictures(store.workspace()) / f"{kind}-{ids}.png")


def _called(compared: Sequence[Record]) -> list[str]:
    """Return a unique label for each run, made of the overrides in which it differs from the others."""
    overrides, _ = formatting.differing([record.overrides for record in compared])
    names = {record.name for record in compared}
    labels = [
        " ".join([*([record.name] if len(names) > 1 else []), *different]) or record.name
        for record, different in zip(compared, overrides, strict=True)
    ]
    return [text if labels.count(text) == 1 else f"{text} {one.id}" for text, one in zip(labels, compared, strict=True)]


def _short(cell: str) -> str:
    return cell if len(cell) <= 60 else cell[:57] + "..."


def _differences(
    chosen: Sequence[Pair], configs: Sequence[Mapping[str, str]] | None = None
) -> Iterator[tuple[str, ...]]:
    """Yield a row for each config key, and for code, data and packages, in which the runs differ.

    Args:
        chosen: the runs.
        configs: configs to compare instead of the runs' own.
    """
    flat_configs = configs or [dict(flat_config(record.config)) for _, record in chosen]
    keys = list(dict.fromkeys(key for config in flat_configs for key in config))
    rows = [(key, *(config.get(key, "-") for config in flat_configs)) for key in keys if comparable.is_compared(key)]
    rows = [row for row in rows if not _repeats(row, rows)]
    codes = [record.code or Code() for _, record in chosen]
    rows.append(("code", *(_prefix(code.sources) for code in codes)))
    rows.append(("script", *(_prefix(None if code.script is None else code.script.digest) for code in codes)))
    rows.append(
        ("git commit", *(_prefix(None if git is None else git.commit) for git in (record.git for _, record in chosen)))
    )
    rows.append(("data", *(" ".join(_read(d) for d in r.data) or "-" for _, r in chosen)))
    packages = [record.packages for _, record in chosen]
    for name in sorted({name for one in packages for name in one}):
        rows.append((f"package {name}", *(one.get(name, "-") for one in packages)))
    yield from (row for row in rows if len(set(row[1:])) > 1)


def _prefix(digest: str | None) -> str:
    """Return the first digits of a digest; `-` for None."""
    return "-" if digest is None else str(digest)[:12]


def _repeats(row: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> bool:
    """Whether a row repeats one of a parent node with the same name: `model.optimizer.lr` takes `model.lr`."""
    above, _, name = row[0].rpartition(".")
    parts = above.split(".")
    others = {".".join([*parts[:depth], name]) for depth in range(1, len(parts))}
    return any(other[0] in others and other[1:] == row[1:] for other in rows)


def _read(entry: DataEntry) -> str:
    """Return the digest of the data that a run read, and of the arrays that code made from them."""
    return "/".join(str(digest)[:12] for digest in (entry.digest, entry.content) if digest)


def _measured(chosen: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each system metric, with its most extreme value in each run."""
    measurements = [context.system_values(run_dir) for run_dir, _ in chosen]
    for name in sorted({name for by_name in measurements for name in by_name}):
        values = [by_name.get(name) for by_name in measurements]
        yield name, *("-" if one is None else formatting.number(context.system_extreme(name, one)) for one in values)


def _values(chosen: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys(name for _, record in chosen for name in record.metrics):
        cells = [record.metrics.get(name) for _, record in chosen]
        yield (
            name,
            *(formatting.number(v) if isinstance(v, int | float) else "-" if v is None else str(v) for v in cells),
        )
