"""Aggregation of runs that repeat a setting, for example with different seeds: mean, standard deviation and number.

A setting is everything that a run was given except the keys to average over. Within a sweep, the overrides define it.
Across commands the config does, because a config file may have changed between two commands with the same overrides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labrun import messages
from labrun.errors import RecordError
from labrun.report import formatting
from labrun.runs import comparable
from labrun.runs.groups import Code
from labrun.runs.record import COMPLETED, Record, flat_config

SEED = "seed"
"""The key to average over by default in a sweep."""
NAMED = 5
"""Maximum runs listed in a note."""


@dataclass(frozen=True)
class Summary:
    """A metric's values in the runs of a setting."""

    values: tuple[float, ...]
    """The values in the mean: the finite ones of completed runs."""
    of: int
    """Number of runs of the setting."""
    not_finite: Mapping[str, str]
    """The other values of completed runs, by run ID: `NaN`, `Infinity`."""
    mixture: str
    """Why the values are not comparable, so that there is no mean; "" if they are."""

    @property
    def n(self) -> int:
        """Number of runs in the mean."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return _bounded(statistics.mean, self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); None for fewer than two values."""
        return _bounded(statistics.stdev, self.values) if self.n > 1 else None

    @property
    def count(self) -> str:
        """`3`, or `2 of 3` if some runs are not in the mean."""
        return str(self.n) if self.n == self.of else f"{self.n} of {self.of}"


def _bounded(of: Any, values: Sequence[float]) -> float:
    try:
        return float(of(values))
    except OverflowError:  # others may have written the record
        return math.inf


@dataclass(frozen=True)
class Setting:
    """Runs with the same setting."""

    runs: tuple[Record, ...]
    """One run for each value of the keys to average over."""
    doubles: tuple[Record, ...]
    """Further runs with the same values, which do not count because they would lower the standard deviation."""
    overrides: tuple[str, ...]
    """Overrides of the first run, without the keys to average over."""
    config: Mapping[str, str]
    """Config by dotted key, without the keys to average over, keys that follow them, and keys that are not compared."""

    @cached_property
    def metrics(self) -> list[str]:
        """Names of the metrics of completed runs."""
        return list(dict.fromkeys(name for one in self.runs if one.status == COMPLETED for name in one.metrics))

    def summary(self, metric: str) -> Summary:
        """Summarize a metric over the runs."""
        recorded = {one.id: number(one.metrics.get(metric)) for one in self.runs if one.status == COMPLETED}
        numbers = {run: value for run, value in recorded.items() if value is not None}
        finite = tuple(value for value in numbers.values() if math.isfinite(value))
        odd = {run: _spelled(value) for run, value in numbers.items() if not math.isfinite(value)}
        mixture = comparable.reason(self.runs, metric) if len(finite) > 1 else ""
        return Summary(() if mixture else finite, len(self.runs), odd, mixture)


def number(value: object) -> float | None:
    """Convert a metric's value from a record, where non-finite values are text; None if it is not a number."""
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _spelled(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain_key(text: str) -> str:
    """Return the config key of an override: `model.optimizer` for `model/optimizer`."""
    key, _, package = text.partition("=")[0].lstrip("+~").partition("@")
    return (package or key).replace("/", ".")


def of_seeds(run_records: Sequence[Record]) -> list[Setting]:
    """Return the settings of a sweep if it repeats any of them with several seeds, else an empty list."""
    if len({_at(one, SEED) for one in run_records}) < 2:
        return []
    settings = group(run_records, [SEED])
    return settings if any(len(one.runs) > 1 for one in settings) else []


def group(run_records: Sequence[Record], over: Sequence[str]) -> list[Setting]:
    """Group runs by setting, in order of first appearance.

    Args:
        run_records: records with their configs.
        over: keys to average over.

    Raises:
        RecordError: none of the runs has one of the keys.
    """
    keys = [plain_key(key) for key in over]
    for key in over:
        _check(run_records, key)
    by_setting: dict[Hashable, tuple[list[Record], Mapping[str, str]]] = {}
    for record, config in zip(run_records, _configs(run_records, keys), strict=True):
        by_setting.setdefault(frozenset(config.items()), ([], config))[0].append(record)
    return [_setting(members, keys, config) for members, config in by_setting.values()]


def _check(run_records: Sequence[Record], key: str) -> None:
    if any(_at(record, plain_key(key)) is not None for record in run_records):
        return
    typed = dict.fromkeys(plain_key(text) for record in run_records for text in record.overrides)
    keys = [*typed, *dict.fromkeys(name for record in run_records for name, _ in flat_config(record.config))]
    overrides_text = f" They were given {', '.join(typed)}" if typed else ""
    raise RecordError(
        f"no mean over {key}: none of these runs has that key.{messages.suggest(key, keys)}{overrides_text}"
    )


def values(setting: Setting, key: str) -> list[str]:
    """Return the distinct values of a key in a setting's runs, in order."""
    return list(dict.fromkeys(str(_at(record, plain_key(key))) for record in setting.runs))


def _setting(members: Sequence[Record], keys: Sequence[str], config: Mapping[str, str]) -> Setting:
    counted: dict[tuple[str | None, ...], Record] = {}
    for record in members:
        values = tuple(_at(record, key) for key in keys)
        counted[values] = max(counted.get(values, record), record, key=_counts)
    kept = {id(record) for record in counted.values()}
    runs = tuple(record for record in members if id(record) in kept)
    doubles = tuple(record for record in members if id(record) not in kept)
    return Setting(runs, doubles, tuple(_without(members[0].overrides, keys)), config)


def _counts(record: Record) -> tuple[bool, str]:
    """Return the sort key of a run among those with the same values: a completed one counts, then the newest."""
    return record.status == COMPLETED, record.created


def _without(overrides: Sequence[str], keys: Sequence[str]) -> list[str]:
    return [text for text in overrides if plain_key(text) not in keys]


def _belongs(key: str, keys: Sequence[str], typed: set[str]) -> bool:
    """Return whether a key is one of `keys` or inside one, with no typed key in between."""
    above = [one for one in {*keys, *typed} if key == one or key.startswith(f"{one}.")]
    return bool(above) and max(above, key=len) in keys


def _at(record: Record, key: str) -> str | None:
    """Return a run's value of a key as text: as typed, else from its config; None if it has none."""
    typed = [text.partition("=")[2] for text in record.overrides if plain_key(text) == key]
    if typed:
        return typed[-1]
    node: Any = record.config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return str(node)


def _configs(run_records: Sequence[Record], keys: Sequence[str]) -> list[Mapping[str, str]]:
    """Return the config of each run's setting; runs of a sweep that differ only in `keys` share that of the first.

    Keys that follow `keys` (`dataset.split_seed: ${seed}`) are not part of a setting. Within a sweep, neither are
    values derived from them (`run-${seed}`).
    """
    configs = [
        {key: value for key, value in flat_config(record.config) if comparable.is_compared(key)}
        for record in run_records
    ]
    typed = {plain_key(text) for record in run_records for text in record.overrides}
    unset = {key for key in {key for config in configs for key in config} if _belongs(key, keys, typed)}
    unset |= _following(configs, [[_at(record, key) for record in run_records] for key in keys], typed)
    swept = _swept_beside(run_records)
    first: dict[Hashable, Mapping[str, str]] = {}
    setting_configs = []
    for record, config in zip(run_records, configs, strict=True):
        folder = None if record.sweep is None else record.sweep.folder
        identity = (str(folder), tuple(sorted(_without(record.overrides, keys)))) if folder else record.id
        beside = [text for text in _without(record.overrides, keys) if (str(folder), text) in swept]
        setting_config = {key: value for key, value in config.items() if key not in unset}
        setting_config |= {plain_key(text): text.partition("=")[2] for text in beside}
        setting_configs.append(first.setdefault(identity, setting_config))
    return setting_configs


def _swept_beside(run_records: Sequence[Record]) -> set[tuple[str, str]]:
    """Return overrides of keys outside the experiment (`compute.cpus_per_run`) that only some runs of a sweep have.

    The user swept over them, so they distinguish settings.
    """
    by_folder: dict[str, list[list[str]]] = {}
    for record in run_records:
        if record.sweep is not None:
            by_folder.setdefault(str(record.sweep.folder), []).append(record.overrides)
    return {
        (folder, text)
        for folder, overrides in by_folder.items()
        for distinguishing in formatting.differing(overrides)[0]
        for text in distinguishing
        if len(overrides) > 1 and not comparable.is_compared(plain_key(text))
    }


def _following(configs: Sequence[Mapping[str, str]], rows: Sequence[list[str | None]], typed: set[str]) -> set[str]:
    """Return the keys that were not typed and whose values equal one of the rows in every run."""
    varied = [row for row in rows if len(set(row)) > 1]
    names = {key for config in configs for key in config} - typed if varied else set()
    return {key for key in names if [config.get(key) for config in configs] in varied}


def labels(settings: Sequence[Setting]) -> list[str]:
    """Return a unique label for each setting, from the overrides that distinguish it."""
    distinguishing, _ = (
        formatting.differing([list(one.overrides) for one in settings]) if len(settings) > 1 else ([[]], [])
    )
    names = {one.runs[0].name for one in settings}
    texts = [
        " ".join([*([one.runs[0].name] if len(names) > 1 else []), *words]) or one.runs[0].name
        for one, words in zip(settings, distinguishing, strict=True)
    ]
    return [
        text if texts.count(text) == 1 else f"{text} {one.runs[0].id}"
        for text, one in zip(texts, settings, strict=True)
    ]


def table(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Return `rows` as dicts that also hold the overrides of each setting, under their keys as typed."""
    names, cells = rows(settings)
    typed = [dict(text.lstrip("+").partition("=")[::2] for text in one.overrides) for one in settings]
    return [{**overrides, **dict(zip(names, row, strict=True))} for overrides, row in zip(typed, cells, strict=True)]


def rows(settings: Sequence[Setting]) -> tuple[list[str], list[list[float | int | None]]]:
    """Return a table of all metrics: the column names, and one row per setting with None for missing values."""
    metrics = sorted({name for one in settings for name in one.metrics})
    names = ["runs", *(f"{metric}_{what}" for metric in metrics for what in ("mean", "std", "n"))]
    cells: list[list[float | int | None]] = []
    for one in settings:
        summaries = [one.summary(metric) for metric in metrics]
        cells.append(
            [len(one.runs), *(cell for summary in summaries for cell in (summary.mean, summary.std, summary.n))]
        )
    return names, cells


def notes(settings: Sequence[Setting], metrics: Sequence[str]) -> list[str]:
    """Return notes for the reader of the means: what was left out and why, and whether the code differed."""
    lines: dict[str, None] = {}
    for one, label in zip(settings, labels(settings), strict=True):
        if one.doubles:
            same = "another run has the same values" if len(one.doubles) == 1 else "other runs have the same values"
            lines[f"{label}: not counted, since {same}: {_named(one.doubles)}"] = None
        if len({_code(record) for record in one.runs}) > 1:
            lines[f"{label}: the code was not the same in all runs (lab runs compare shows where)"] = None
        mixed: dict[str, list[str]] = {}
        for metric in metrics:
            summary = one.summary(metric)
            if summary.not_finite:
                listed = ", ".join(f"{value} in run {run}" for run, value in list(summary.not_finite.items())[:NAMED])
                more = f", and in {len(summary.not_finite) - NAMED} more" if len(summary.not_finite) > NAMED else ""
                lines[f"{label}: {metric} is {listed}{more}: left out of the mean"] = None
            if summary.mixture:
                mixed.setdefault(summary.mixture, []).append(metric)
        for why, names in mixed.items():
            lines[f"{label}: no mean of {', '.join(names)}: the values are not comparable: {why}"] = None
    return list(lines)


def _code(record: Record) -> tuple[str, str]:
    code = record.code or Code()
    return str(code.sources), str(None if code.script is None else code.script.digest)


def _named(run_records: Sequence[Record]) -> str:
    more = f" and {len(run_records) - NAMED} more" if len(run_records) > NAMED else ""
    return f"{', '.join(one.id for one in run_records[:NAMED])}{more}"
