"""Selection of runs by name and by properties, for the command line and the Python API."""

from __future__ import annotations

import logging
import operator
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrun import messages
from labrun.errors import RecordError
from labrun.runs import context, direction, store
from labrun.runs.attempts import Job
from labrun.runs.record import (
    FINISHED,
    LOST,
    PREEMPTED,
    QUEUED,
    RUNNING,
    UNREACHABLE,
    Record,
    flat_config,
    read_record,
    seconds_between,
    shown_status,
    timestamp,
)
from labrun.runs.status import Status
from labrun.runs.sweep_state import SweepState

log = logging.getLogger(__name__)

Pair = tuple[Path, Record]
CONDITION = re.compile(r"\s*([^<>=!~]+?)\s*(>=|<=|!=|==|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "!=": operator.ne,
    "=": operator.eq,
    "==": operator.eq,
}
FIELDS = ("id", "name", "task", "status", "created", "started", "ended", "duration_s", "age_s", "parent", "notes")


STATUSES = (
    QUEUED,
    RUNNING,
    PREEMPTED,
    *sorted(FINISHED),
    LOST,
    UNREACHABLE,
)
TIMES = ("created", "started", "ended")


@dataclass(frozen=True)
class Condition:
    """`key sign value`, as in `accuracy>0.9`."""

    key: str
    sign: str
    value: str

    def holds(self, found: Any) -> bool:
        """Return whether a value meets the condition; numbers are compared as such, a missing value never meets it.

        Raises:
            RecordError: an order comparison with something that is not a number.
        """
        if found is None:
            return False
        if self.sign == "~":
            return self.value.lower() in str(found).lower()
        left, right = _number(found), _number(self.value)
        if self.sign in (">", "<", ">=", "<=") and self.key not in TIMES:
            if right is None:
                raise RecordError(f"{self.key}{self.sign}{self.value}: {self.value!r} is not a number")
            return left is not None and bool(COMPARED[self.sign](left, right))
        if left is not None and right is not None:
            same = left == right or (left != left and right != right)
            return bool(COMPARED[self.sign](left, right)) if self.sign in (">", "<") else same == (self.sign != "!=")
        return bool(COMPARED[self.sign](_text(found), _text(self.value)))


def condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        RecordError: the text is not a condition.
    """
    match = CONDITION.fullmatch(text)
    if match is None:
        raise RecordError(
            f"{text!r} is not a condition: write KEY SIGN VALUE with one of {', '.join(COMPARED)}, ~ (contains), "
            "as in 'accuracy>0.9'"
        )
    if not match[3] and match[2] not in ("=", "==", "!="):
        raise RecordError(f"{text!r} lacks a value to compare {match[1]} with")
    return Condition(*match.groups())


@dataclass(frozen=True)
class Filters:
    """Filters for the selection of runs, and their order."""

    experiment: str | None = None
    status: Status | None = None
    where: Sequence[Condition] = ()
    tags: Sequence[str] = ()
    """`key` or `key=value`."""
    sort: str | None = None
    """A metric, best first, or a field; None: newest first."""
    n: int | None = None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    """Return a value's text in YAML's spelling, whether Python or the user wrote it."""
    return {"True": "true", "False": "false", "None": "null", "none": "null"}.get(str(value), str(value))


class StatusResolver:
    """Resolves the displayed status of runs; asks a backend at most once per job, and only if necessary."""

    def __init__(self) -> None:
        self._over: dict[tuple[str, str], bool | None] = {}
        self._known: dict[Path, Status] = {}

    def __call__(self, run_dir: Path, record: Record) -> Status:
        return shown_status(run_dir, record, self._is_over)

    def once(self, run_dir: Path, record: Record) -> Status:
        """Return the status that was first resolved for a run."""
        if record.finished:  # true of most runs, and hashing a path takes as long as the rest of a row
            return record.status
        if run_dir not in self._known:
            self._known[run_dir] = self(run_dir, record)
        return self._known[run_dir]

    def _is_over(self, job: Job) -> bool | None:
        from labrun.backends import registry

        key = str(job.cluster), str(job.id)
        if key not in self._over:
            backend = registry.of_job(job)
            self._over[key] = None if backend is None else backend.is_over(key[1])
        return self._over[key]


def named(root: Path, name: str) -> list[Pair]:
    """Return the runs that a name means: a single run, or all runs of a sweep's folder."""

    name = store.resolve_sdk_id(root, name)
    for folder in (Path(name).expanduser(), root / name):
        if os.path.isfile(folder / "run.json"):  # also False for a name that is invalid for a file
            break
        if not os.path.isdir(folder):
            continue
        below = sorted(folder.glob("*/run.json"), key=lambda path: (len(path.parent.name), path.parent.name))
        marks = (SweepState(folder).plan, folder / "results.csv")
        if below and any(map(os.path.isfile, marks)):
            return [(path.parent.resolve(), read_record(path.parent)) for path in below]
    return [store.find(root, name)]


def filtered(found: Sequence[Pair], filters: Filters, shown: StatusResolver, in_order: bool = False) -> list[Pair]:
    """Return the runs that pass every filter, in the requested order; by default newest first.

    Args:
        found: the runs.
        filters: the filters and the order.
        shown: resolves their statuses.
        in_order: keep the given order, in which the user named the runs, unless another one is requested.

    Raises:
        RecordError: no run has the key of a condition or of the order.
    """
    chosen = [pair for pair in found if filters.experiment in (None, pair[1].name)]
    for tag in filters.tags:
        key, equals, wanted = tag.partition("=")
        chosen = [p for p in chosen if key in p[1].tags and (not equals or p[1].tags[key] == wanted)]
    if filters.status is not None:
        chosen = [pair for pair in chosen if shown.once(*pair) == filters.status]
    for one in filters.where:
        chosen = _held(chosen, one, shown, found)
    if filters.sort or not in_order:
        chosen = ordered(chosen, filters.sort or "created", shown)
    return chosen[: filters.n]


def _held(chosen: list[Pair], one: Condition, shown: StatusResolver, all_of_them: Sequence[Pair]) -> list[Pair]:
    values = [value(pair, one.key, shown) for pair in chosen]
    if chosen and all(found is None for found in values) and not _is_known(one.key, all_of_them):
        values = _in_configs(chosen, one.key)
    return [pair for pair, found in zip(chosen, values, strict=True) if one.holds(found)]


def _in_configs(chosen: Sequence[Pair], key: str) -> list[Any]:
    """Return the value of a key in each run's config; None if a config lacks it.

    Raises:
        RecordError: all configs lack it.
    """

    configs = [dict(flat_config(read_record(run_dir).config)) for run_dir, _ in chosen]
    values = [config.get(key) for config in configs]
    if all(found is None for found in values):
        raise RecordError(_no_such(key, chosen, sorted({name for config in configs for name in config})))
    return values


def _is_known(key: str, found: Iterable[Pair]) -> bool:
    return key in FIELDS or key.startswith("tags.") or any(key in record.metrics for _, record in found)


def _no_such(key: str, chosen: Sequence[Pair], more: Sequence[str] = ()) -> str:
    metrics = sorted({name for _, record in chosen for name in record.metrics})
    return (
        f"{key}: no metric, field or key of these runs.{messages.suggest(key, [*metrics, *FIELDS, *more])} "
        f"Metrics: {', '.join(metrics) or 'none'}; fields: {', '.join(FIELDS)}, tags.NAME; keys of the config as in "
        "model.name"
    )


def metric_of(pair: Pair, name: str) -> Any:
    """Return a run's metric, or None; of a system metric (`system/memory_gb`) its extreme value."""
    run_dir, record = pair
    if name in record.metrics or not context.is_system_name(name):
        return record.metrics.get(name)
    values = context.system_values(run_dir).get(name)
    return None if values is None else context.system_extreme(name, values)


def value(pair: Pair, key: str, shown: StatusResolver) -> Any:
    """Return a metric or a field of a run; None if it has none."""
    run_dir, record = pair
    if key in record.metrics or context.is_system_name(key):
        return metric_of(pair, key)
    if key == "status":
        return shown.once(run_dir, record)
    if key == "age_s":
        return seconds_between(record.created, timestamp())
    if key in FIELDS:
        return getattr(record, key)
    return record.tags.get(key.removeprefix("tags.")) if key.startswith("tags.") else None


def ordered(chosen: list[Pair], key: str, shown: StatusResolver) -> list[Pair]:
    """Sort runs by a key.

    A metric puts the best run first, a time the newest, and a system metric the largest. Other fields and keys of the
    config are in ascending order. Runs without a value come last.

    Raises:
        RecordError: no run has the key.
    """
    metric, wanted = store.parse_metric(key, [record for _, record in chosen])
    if any(metric in record.metrics for _, record in chosen):
        if wanted is None:
            log.warning("%s: the name does not say which values are good: largest first (%s:min reverses it)", key, key)
        return sorted(chosen, key=lambda pair: -store.score(pair[1], metric, wanted or direction.MAX))
    if chosen and key not in FIELDS and not key.startswith("tags.") and not context.is_system_name(key):
        found = _in_configs(chosen, key)
        numbers = [None if one is None else _number(one) for one in found]
        are_numbers = all((one is None) == (number is None) for one, number in zip(found, numbers, strict=True))
        values = list(zip(numbers if are_numbers else found, chosen, strict=True))
    else:
        values = [(value(pair, key, shown), pair) for pair in chosen]
    having = [(found, pair) for found, pair in values if found is not None]
    if context.is_system_name(key) and chosen and not having:
        raise RecordError(_no_such(key, chosen))
    largest_first = key in TIMES or context.is_system_name(key)
    having.sort(key=lambda entry: entry[0], reverse=largest_first)  # the values of a key all have one type
    return [pair for _, pair in having] + [pair for found, pair in values if found is None]
