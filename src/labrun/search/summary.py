"""Results of a finished search: the table, `results.csv`, a config file of the best run, and the report."""

from __future__ import annotations

import csv
import logging
import math
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from labrun.compose import hydra_files
from labrun.control import results
from labrun.report import formatting
from labrun.runs import comparable
from labrun.runs.record import Record, read_record
from labrun.search.space import Space, plain_key
from labrun.search.study import LABELS, RUN, WHY
from labrun.search.trial_result import TrialResult

if TYPE_CHECKING:
    from labrun.search.search import Search
    from labrun.search.trials import Trials

log = logging.getLogger(__name__)

MAX_LISTED = 20
"""Maximum number of trials in the table."""


def gather(search: Search) -> list[TrialResult]:
    """Return every trial that has a run, best first."""
    study = search.study
    front = {trial.number for trial in study.optuna.best_trials} if _is_any_complete(search) else set()
    several = len(search.objectives) > 1
    found = []
    for trial in study.trials():
        folder = search.trials.folder / trial.user_attrs[RUN]
        if not (folder / "run.json").exists():
            continue
        record = read_record(folder)
        why = trial.user_attrs.get(WHY) or record.reason
        values = list(trial.values) if trial.state == TrialState.COMPLETE and trial.values else None
        labels = dict(trial.user_attrs.get(LABELS, {}))
        on_front = several and trial.number in front
        found.append(TrialResult(trial.user_attrs[RUN], record, labels, values, why, on_front))
    first = search.objectives[0]
    return sorted(
        found,
        key=lambda one: (not one.on_front, -first.score(one.values[0]) if one.values else math.inf, _tie_breaker(one)),
    )


def _tie_breaker(one: TrialResult) -> float:
    """Tie-breaker between equally good trials: lower log loss."""
    loss = _last(one, "log_loss")
    return loss if loss is not None and math.isfinite(loss) else math.inf


def _is_any_complete(search: Search) -> bool:
    return any(trial.state == TrialState.COMPLETE for trial in search.study.trials())


def print_summary(search: Search, folder: Path, draw: Callable[[Path], object], printed: Collection[str] = ()) -> None:
    """Print the table, write the files, draw the plots.

    Args:
        search: the finished search.
        folder: the sweep's folder.
        draw: draws the plots of one run.
        printed: runs whose results have been printed; if that is all of them, the table is skipped.
    """
    tried = gather(search)
    if not tried:
        results.say("no trial was run")
        return
    if len(search.objectives) > 1 or not {one.run for one in tried} <= set(printed):
        results.say(_table(search, tried))
    best = tried[0] if tried[0].values is not None else None
    try:
        write_csv(search, tried, folder / "results.csv")
        if best is not None and not unwritable(best, search.trials):
            write_best(best, folder, search.trials)
    except OSError as error:
        log.warning("results.csv and best.yaml cannot be written: %s", error)
    if best is None:
        results.say(f"no trial has a result; results.csv says why\nfolder: {folder}")
        return
    if (mixture := comparable.mixture([one.record for one in tried], search.objectives[0].metric)) is not None:
        log.warning("%s", mixture)
    over_seed = results.print_over_seed([one.record for one in tried], search.objectives[0], folder)
    _report(search, tried, folder)
    if best.record.typed.report == "auto" and (folder / best.run / "outputs" / "model.json").exists():
        results.draw_best(folder / best.run, draw)
    several = " (the first of the Pareto front)" if len(search.objectives) > 1 else ""
    value = "" if best.values is None else f", {search.objectives[0].metric} {formatting.number(best.values[0])}"
    results.say(f"best{several}: run {best.run}{value}\n  {best.record.command}")
    has_file = not unwritable(best, search.trials)
    if has_file:
        results.say(f"  the same from a file: {file_command(folder, 'best', search.trials)}")
    else:
        why = (
            "the config sets hydra.searchpath itself"
            if search.trials.origin.is_closed
            else "an override deletes a key (~)"
        )
        results.say(f"  no config file can express it: {why}")
    results.say(f"folder: {folder}   (results.csv{over_seed}, report.html{', best.yaml' if has_file else ''})")


def file_command(folder: Path, name: str, trials: Trials) -> str:
    """Return the command that runs a config file of a sweep's folder."""
    main = [] if trials.origin.main is None else ["--config-path", trials.origin.main]
    return shlex.join(["labrun", *main, "--config-dir", str(folder), "--config-name", name])


def unwritable(best: TrialResult, trials: Trials) -> bool:
    """Return whether no config file can express the best run: an override deletes a key, or the origin is closed."""
    typed = (*trials.origin.overrides, *best.record.overrides)
    return trials.origin.is_closed or any(override.startswith("~") for override in typed)


def _report(search: Search, tried: Sequence[TrialResult], folder: Path) -> None:
    from labrun.search import pictures

    try:
        pictures.write_report(search.study.optuna, search.objectives, tried, folder)
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("report.html could not be written: %s", error)


def _table(search: Search, tried: Sequence[TrialResult]) -> str:
    metrics = [one.metric for one in search.objectives]
    widths = [max(10, len(metric) + 2) for metric in metrics]
    head = "".join(f"{metric:<{width}}" for metric, width in zip(metrics, widths, strict=True))
    several = len(metrics) > 1
    rows = [("run", f"{'status':<10}  {head}{'front  ' if several else ''}parameters")]
    for one in tried[:MAX_LISTED]:
        values: list[float | None] = [*one.values] if one.values else [_last(one, metric) for metric in metrics]
        numbers = ["-" if value is None else formatting.number(value) for value in values]
        cells = "".join(f"{text:<{width}}" for text, width in zip(numbers, widths, strict=True))
        mark = f"{'*' if one.on_front else '':<7}" if several else ""
        why = "" if one.values is not None else f"   ({one.why})"
        listed = " ".join(f"{name}={formatting.parameter(value)}" for name, value in one.parameters.items())
        rows.append((one.run, f"{one.record.status:<10}  {cells}{mark}{listed}{why}"))
    if len(tried) > MAX_LISTED:
        rows.append(("...", f"{len(tried) - MAX_LISTED} more in results.csv"))
    return formatting.table(rows)


def _last(one: TrialResult, metric: str) -> float | None:
    value = one.record.metrics.get(metric)
    return float(value) if isinstance(value, int | float) else None


def varied(record: Record, space: Space) -> list[str]:
    """Return a run's overrides that differ between the trials."""
    fixed = {plain_key(text.partition("=")[0]) for text in space.fixed}
    return [_short(text) for text in record.overrides if plain_key(text.partition("=")[0]) not in fixed]


def _short(override: str) -> str:
    key, _, value = override.partition("=")
    try:
        value = f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        pass
    return f"{key}={value}"


def write_csv(search: Search, tried: Sequence[TrialResult], path: Path) -> None:
    """Write a line per trial, best first: its metrics, its parameters, and why it did not complete."""
    metrics = sorted({name for one in tried for name in one.record.metrics})
    parameters = list(dict.fromkeys(name for one in tried for name in one.parameters))
    front = ["pareto"] if len(search.objectives) > 1 else []
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "id", "status", "duration_s", *front, *metrics, *parameters, "why", "overrides"])
        for one in tried:
            record = one.record
            cells: list[Any] = [one.run, record.id, record.status, record.duration_s]
            cells += [int(one.on_front)] if front else []
            cells += [record.metrics.get(name, "") for name in metrics]
            cells += [one.parameters.get(name, "") for name in parameters]
            writer.writerow([*cells, one.why, " ".join(record.overrides)])


def write_best(best: TrialResult, folder: Path, trials: Trials) -> None:
    """Write the best configuration as a config file equivalent to the whole command.

    `labrun --config-dir FOLDER --config-name best` composes labrun's own `config` with it. Group choices go into the
    defaults list, values below it.
    """
    lines = [
        "# @package _global_",
        f"# The best of {folder}: run {best.run}.",
        f"#   {best.record.command}",
        f"#   {file_command(folder, 'best', trials)}",
        "defaults:",
        f"  - {trials.origin.primary}",
    ]
    values: dict[str, Any] = {}
    chosen: list[str] = []
    for override in hydra_files.by_reference([*trials.origin.overrides, *best.record.overrides]):
        key, equals, text = override.partition("=")
        name = key.lstrip("+")
        if equals and trials.is_group(name):
            chosen.append(
                f"  - override {'/' if '/' in name else ''}{name}: {text}"
                if not key.startswith("+")
                else f"  - {name}: {text}"
            )
        elif equals:
            _put(values, name.split("."), _value(text))
    if best.record.command.endswith(" hydra.mode=RUN"):
        _put(values, ["hydra", "mode"], "RUN")
    if trials.origin.searchpath:
        _put(values, ["hydra", "searchpath"], list(trials.origin.searchpath))
    lines += [*chosen, "  - _self_"]
    body = hydra_files.as_yaml(values) if values else ""
    (folder / "best.yaml").write_text("\n".join(lines) + "\n" + body, encoding="utf-8")


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value


def _value(text: str) -> Any:
    """Parse an override's value with Hydra's own parser, so that quotes and lists keep their meaning."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(f"x={text}").value()
