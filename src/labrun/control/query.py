"""Which runs: by name, and by what they are. The same for the command line and for Python."""

from __future__ import annotations

import logging
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrun import checking, direction
from labrun.errors import RecordError
from labrun.runs import context, store
from labrun.runs import record as records
from labrun.runs.record import Record, flat_config
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
    records.QUEUED,
    records.RUNNING,
    records.PREEMPTED,
    *sorted(records.FINISHED),
    records.LOST,
    records.UNREACHABLE,
)
TIMES = ("created", "started", "ended")


@dataclass(frozen=True)
class Condition:
    """`key sign value`, as in `accuracy>0.9`."""

    key: str
    sign: str
    value: str

    def holds(self, found: Any) -> bool:
        """Whether a value is like that: as numbers where both are, else as text; what is missing never is.

        Raises:
            RecordError: more or less than something that is not a number.
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
    """A condition, from its text.

    Raises:
        RecordError: it is none.
    """
    match = CONDITION.fullmatch(text)
    if match is None:
        raise RecordError(
            f"{text!r} is not a condition: say KEY SIGN VALUE with one of {', '.join(COMPARED)}, ~ (contains), "
            "as in 'accuracy>0.9'"
        )
    if not match[3] and match[2] not in ("=", "==", "!="):
        raise RecordError(f"{text!r} lacks a value: what is {match[1]} to be compared with?")
    return Condition(*match.groups())


@dataclass(frozen=True)
class Filters:
    """What the runs that are meant have in common, and their order."""

    experiment: str | None = None
    status: str | None = None
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
    """As YAML has it, whether Python or the user wrote it."""
    return {"True": "true", "False": "false", "None": "null", "none": "null"}.get(str(value), str(value))


class StatusResolver:
    """Statuses as readers show them; a backend is asked once for each job, and only if a run needs it."""

    def __init__(self) -> None:
        self._over: dict[tuple[str, str], bool | None] = {}
        self._known: dict[Path, str] = {}

    def __call__(self, run_dir: Path, record: Record) -> str:
        return records.shown_status(run_dir, record, self._is_over)

    def once(self, run_dir: Path, record: Record) -> str:
        """The status as it was shown first."""
        if record.finished:  # most are, and a path's own hash takes as long as the rest of a row
            return record.status
        if run_dir not in self._known:
            self._known[run_dir] = self(run_dir, record)
        return self._known[run_dir]

    def _is_over(self, job: Mapping[str, Any]) -> bool | None:
        from labrun.backends import registry

        key = str(job.get("cluster")), str(job.get("id"))
        if key not in self._over:
            backend = registry.of_job(job)
            self._over[key] = None if backend is None else backend.is_over(key[1])
        return self._over[key]


def named(root: Path, name: str) -> list[Pair]:
    """The runs that one name means: one, or all of a sweep's folder."""

    name = store.spelled_out(root, name)
    for folder in (Path(name).expanduser(), root / name):
        if os.path.isfile(folder / "run.json"):  # False too of a name that no file can have
            break
        if not os.path.isdir(folder):
            continue
        below = sorted(folder.glob("*/run.json"), key=lambda path: (len(path.parent.name), path.parent.name))
        marks = (SweepState(folder).plan, folder / "results.csv")
        if below and any(map(os.path.isfile, marks)):
            return [(path.parent.resolve(), records.read(path.parent)) for path in below]
    return [store.find(root, name)]


def filtered(found: Sequence[Pair], filters: Filters, shown: StatusResolver, in_order: bool = False) -> list[Pair]:
    """Those of the runs that every filter leaves, in the order that was asked for: newest first by itself.

    Args:
        found: the runs.
        filters: what they are to be like.
        shown: tells their statuses.
        in_order: they are in the order that somebody named them in, and stay so unless another is asked for.

    Raises:
        RecordError: a condition or the order names what no run has.
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
    """What stands at a key of the runs' configs; None where one has no such key.

    Raises:
        RecordError: none has.
    """

    configs = [dict(flat_config(records.read(run_dir).config)) for run_dir, _ in chosen]
    values = [config.get(key) for config in configs]
    if all(found is None for found in values):
        raise RecordError(_no_such(key, chosen, sorted({name for config in configs for name in config})))
    return values


def _is_known(key: str, found: Iterable[Pair]) -> bool:
    return key in FIELDS or key.startswith("tags.") or any(key in record.metrics for _, record in found)


def _no_such(key: str, chosen: Sequence[Pair], more: Sequence[str] = ()) -> str:
    metrics = sorted({name for _, record in chosen for name in record.metrics})
    return (
        f"{key}: no metric, field or key of these runs.{checking.suggest(key, [*metrics, *FIELDS, *more])} "
        f"Metrics: {', '.join(metrics) or 'none'}; fields: {', '.join(FIELDS)}, tags.NAME; keys of the config as in "
        "model.name"
    )


def metric_of(pair: Pair, name: str) -> Any:
    """A metric of a run, or None; what its supervisor measured (`system/memory_gb`) at its largest."""
    run_dir, record = pair
    if name in record.metrics or not context.is_system_name(name):
        return record.metrics.get(name)
    values = context.system_values(run_dir).get(name)
    return None if values is None else context.system_extreme(name, values)


def value(pair: Pair, key: str, shown: StatusResolver) -> Any:
    """A metric or a field of a run, or None."""
    run_dir, record = pair
    if key in record.metrics or context.is_system_name(key):
        return metric_of(pair, key)
    if key == "status":
        return shown.once(run_dir, record)
    if key == "age_s":
        return records.seconds_between(record.created, records.now())
    if key in FIELDS:
        return getattr(record, key)
    return record.tags.get(key.removeprefix("tags.")) if key.startswith("tags.") else None


def ordered(chosen: list[Pair], key: str, shown: StatusResolver) -> list[Pair]:
    """By a metric the best first, by a time the newest, by what was measured the largest, by other fields and keys of
    the config from small to large.

    Raises:
        RecordError: no run has such a thing.
    """
    metric, wanted = store.asked(key, [record for _, record in chosen])
    if any(metric in record.metrics for _, record in chosen):
        if wanted is None:
            log.warning("%s: the name does not tell which values are good: largest first (%s:min turns it)", key, key)
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
    having.sort(key=lambda entry: entry[0], reverse=largest_first)  # each key's values are of one kind
    return [pair for _, pair in having] + [pair for found, pair in values if found is None]
