"""Runs that repeat one setting, with other seeds say: their mean, their standard deviation, and how many they are.

A setting is all that a run was given, without the keys that the mean is taken over. Within one sweep the overrides tell
it. Elsewhere the config does: what was typed may be the same, and a file have changed between two commands.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labrun import checking
from labrun.errors import RecordError
from labrun.runs import comparable, report
from labrun.runs.record import COMPLETED, Record, flat_config

SEED = "seed"
"""What a sweep's runs are repeated over, where nobody says otherwise."""
NAMED = 5
"""Runs that a note names."""


@dataclass(frozen=True)
class Summary:
    """What the runs of a setting have of one metric."""

    values: tuple[float, ...]
    """Those in the mean: finite ones, of completed runs."""
    of: int
    """Runs of the setting."""
    not_finite: Mapping[str, str]
    """What else completed runs have, by their ids: `NaN`, `Infinity`."""
    mixture: str
    """Why the values do not compare, where they do not: there is no mean then."""

    @property
    def n(self) -> int:
        """Runs in the mean."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return _bounded(statistics.mean, self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Of the sample (n - 1); None of a single value."""
        return _bounded(statistics.stdev, self.values) if self.n > 1 else None

    @property
    def count(self) -> str:
        """`3`, or `2 of 3` where some are not in the mean."""
        return str(self.n) if self.n == self.of else f"{self.n} of {self.of}"


def _bounded(of: Any, values: Sequence[float]) -> float:
    try:
        return float(of(values))
    except OverflowError:  # a record may be anybody's
        return math.inf


@dataclass(frozen=True)
class Setting:
    """Runs with the same setting."""

    runs: tuple[Record, ...]
    """One for each value of the keys that the mean is taken over."""
    doubles: tuple[Record, ...]
    """Others with the same values, which do not count: they would make the deviation smaller than it is."""
    overrides: tuple[str, ...]
    """Of the first run, without those keys."""
    config: Mapping[str, str]
    """By dotted keys; without those keys, what follows them, and what says only where a run goes."""

    @cached_property
    def metrics(self) -> list[str]:
        """Names, of completed runs."""
        return list(dict.fromkeys(name for one in self.runs if one.status == COMPLETED for name in one.metrics))

    def summary(self, metric: str) -> Summary:
        """What its runs have of a metric."""
        found = {one.id: number(one.metrics.get(metric)) for one in self.runs if one.status == COMPLETED}
        there = {run: value for run, value in found.items() if value is not None}
        finite = tuple(value for value in there.values() if math.isfinite(value))
        odd = {run: _spelled(value) for run, value in there.items() if not math.isfinite(value)}
        mixture = comparable.reason(self.runs, metric) if len(finite) > 1 else ""
        return Summary(() if mixture else finite, len(self.runs), odd, mixture)


def number(value: object) -> float | None:
    """A metric's value as records hold it: those that are not finite as text; None where it is not a number."""
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _spelled(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain_key(text: str) -> str:
    """The key of an override as configs have it: `model/optimizer` is `model.optimizer`."""
    key, _, package = text.partition("=")[0].lstrip("+~").partition("@")
    return (package or key).replace("/", ".")


def of_seeds(found: Sequence[Record]) -> list[Setting]:
    """The settings of a sweep whose runs are repeated with several seeds; none where no setting is."""
    if len({_at(one, SEED) for one in found}) < 2:
        return []
    settings = group(found, [SEED])
    return settings if any(len(one.runs) > 1 for one in settings) else []


def group(found: Sequence[Record], over: Sequence[str]) -> list[Setting]:
    """Runs by their settings, in the order of the first ones.

    Args:
        found: with their configs.
        over: keys that do not belong to the setting.

    Raises:
        RecordError: none of the runs has such a key.
    """
    keys = [plain_key(key) for key in over]
    for key in over:
        _check(found, key)
    by_setting: dict[Hashable, tuple[list[Record], Mapping[str, str]]] = {}
    for record, config in zip(found, _configs(found, keys), strict=True):
        by_setting.setdefault(frozenset(config.items()), ([], config))[0].append(record)
    return [_setting(own, keys, config) for own, config in by_setting.values()]


def _check(found: Sequence[Record], key: str) -> None:
    if any(_at(record, plain_key(key)) is not None for record in found):
        return
    typed = dict.fromkeys(plain_key(text) for record in found for text in record.overrides)
    there = [*typed, *dict.fromkeys(name for record in found for name, _ in flat_config(record.config))]
    given = f" They were given {', '.join(typed)}" if typed else ""
    raise RecordError(f"no mean over {key}: none of these runs has that key.{checking.suggest(key, there)}{given}")


def values(setting: Setting, key: str) -> list[str]:
    """The values of a key that a setting's runs have, in their order."""
    return list(dict.fromkeys(str(_at(record, plain_key(key))) for record in setting.runs))


def _setting(own: Sequence[Record], keys: Sequence[str], config: Mapping[str, str]) -> Setting:
    counted: dict[tuple[str | None, ...], Record] = {}
    for record in own:
        values = tuple(_at(record, key) for key in keys)
        counted[values] = max(counted.get(values, record), record, key=_counts)
    kept = {id(record) for record in counted.values()}
    runs = tuple(record for record in own if id(record) in kept)
    doubles = tuple(record for record in own if id(record) not in kept)
    return Setting(runs, doubles, tuple(_without(own[0].overrides, keys)), config)


def _counts(record: Record) -> tuple[bool, str]:
    """Which of two runs with the same values counts: one that is completed, then the newer."""
    return record.status == COMPLETED, record.created


def _without(overrides: Sequence[str], keys: Sequence[str]) -> list[str]:
    return [text for text in overrides if plain_key(text) not in keys]


def _belongs(key: str, keys: Sequence[str], typed: set[str]) -> bool:
    """Whether a key is one of the keys, or lies in a group that is, with no other that was typed in between."""
    above = [one for one in {*keys, *typed} if key == one or key.startswith(f"{one}.")]
    return bool(above) and max(above, key=len) in keys


def _at(record: Record, key: str) -> str | None:
    """A run's value of a key, as text: as it was typed, else as its config has it; None where it has none."""
    typed = [text.partition("=")[2] for text in record.overrides if plain_key(text) == key]
    if typed:
        return typed[-1]
    node: Any = record.config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return str(node)


def _configs(found: Sequence[Record], keys: Sequence[str]) -> list[Mapping[str, str]]:
    """The config of each run's setting: of a sweep's runs that differ in `keys` alone, the first one's.

    A key that follows the others (`dataset.split_seed: ${seed}`) belongs to no setting; nor, within one sweep, does
    what else is made of them (`run-${seed}`).
    """
    configs = [
        {key: value for key, value in flat_config(record.config) if comparable.is_compared(key)} for record in found
    ]
    typed = {plain_key(text) for record in found for text in record.overrides}
    unset = {key for key in {key for config in configs for key in config} if _belongs(key, keys, typed)}
    unset |= _following(configs, [[_at(record, key) for record in found] for key in keys], typed)
    swept = _swept_beside(found)
    first: dict[Hashable, Mapping[str, str]] = {}
    own = []
    for record, config in zip(found, configs, strict=True):
        folder = (record.sweep or {}).get("folder")
        place = (str(folder), tuple(sorted(_without(record.overrides, keys)))) if folder else record.id
        beside = [text for text in _without(record.overrides, keys) if (str(folder), text) in swept]
        told = {key: value for key, value in config.items() if key not in unset}
        told |= {plain_key(text): text.partition("=")[2] for text in beside}
        own.append(first.setdefault(place, told))
    return own


def _swept_beside(found: Sequence[Record]) -> set[tuple[str, str]]:
    """Overrides that only some of a sweep's runs have, of keys outside the experiment (`compute.cpus_per_run`): whoever
    swept over them wants them apart."""
    by_folder: dict[str, list[list[str]]] = {}
    for record in found:
        if record.sweep:
            by_folder.setdefault(str(record.sweep.get("folder")), []).append(record.overrides)
    return {
        (folder, text)
        for folder, overrides in by_folder.items()
        for own in report.differing(overrides)[0]
        for text in own
        if len(overrides) > 1 and not comparable.is_compared(plain_key(text))
    }


def _following(configs: Sequence[Mapping[str, str]], rows: Sequence[list[str | None]], typed: set[str]) -> set[str]:
    """Keys that nobody typed, and that have the values of one of the rows in every run."""
    varied = [row for row in rows if len(set(row)) > 1]
    names = {key for config in configs for key in config} - typed if varied else set()
    return {key for key in names if [config.get(key) for config in configs] in varied}


def labels(settings: Sequence[Setting]) -> list[str]:
    """What each setting is called beside the others: by its overrides; no two alike."""
    own, _ = report.differing([list(one.overrides) for one in settings]) if len(settings) > 1 else ([[]], [])
    names = {one.runs[0].name for one in settings}
    said = [
        " ".join([*([one.runs[0].name] if len(names) > 1 else []), *words]) or one.runs[0].name
        for one, words in zip(settings, own, strict=True)
    ]
    return [
        text if said.count(text) == 1 else f"{text} {one.runs[0].id}" for text, one in zip(said, settings, strict=True)
    ]


def table(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """As `rows`, each with the overrides of its setting, by their keys as they were typed."""
    names, cells = rows(settings)
    given = [dict(text.lstrip("+").partition("=")[::2] for text in one.overrides) for one in settings]
    return [{**own, **dict(zip(names, row, strict=True))} for own, row in zip(given, cells, strict=True)]


def rows(settings: Sequence[Setting]) -> tuple[list[str], list[list[float | int | None]]]:
    """A table of all metrics: the columns' names, and a row for each setting; None where there is no value."""
    metrics = sorted({name for one in settings for name in one.metrics})
    names = ["runs", *(f"{metric}_{what}" for metric in metrics for what in ("mean", "std", "n"))]
    found: list[list[float | int | None]] = []
    for one in settings:
        summaries = [one.summary(metric) for metric in metrics]
        found.append([len(one.runs), *(cell for own in summaries for cell in (own.mean, own.std, own.n))])
    return names, found


def notes(settings: Sequence[Setting], metrics: Sequence[str]) -> list[str]:
    """What whoever reads the means must know: what was left out of them, and why."""
    found: dict[str, None] = {}
    for one, label in zip(settings, labels(settings), strict=True):
        if one.doubles:
            same = "another run has the same values" if len(one.doubles) == 1 else "other runs have the same values"
            found[f"{label}: not counted, since {same}: {_named(one.doubles)}"] = None
        if len({_code(record) for record in one.runs}) > 1:
            found[f"{label}: the code was not the same in all runs (lab runs compare shows where)"] = None
        mixed: dict[str, list[str]] = {}
        for metric in metrics:
            own = one.summary(metric)
            if own.not_finite:
                listed = ", ".join(f"{value} in run {run}" for run, value in list(own.not_finite.items())[:NAMED])
                more = f", and in {len(own.not_finite) - NAMED} more" if len(own.not_finite) > NAMED else ""
                found[f"{label}: {metric} is {listed}{more}: left out of the mean"] = None
            if own.mixture:
                mixed.setdefault(own.mixture, []).append(metric)
        for why, names in mixed.items():
            found[f"{label}: no mean of {', '.join(names)}: the values do not compare: {why}"] = None
    return list(found)


def _code(record: Record) -> tuple[str, str]:
    code = record.code or {}
    script = code.get("script")
    return str(code.get("sources")), str(script.get("digest") if isinstance(script, Mapping) else script)


def _named(found: Sequence[Record]) -> str:
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{', '.join(one.id for one in found[:NAMED])}{more}"
