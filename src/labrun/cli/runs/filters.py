"""Selection of runs by reference and by filters, the same for every action of `lab runs`."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from labrun import messages
from labrun.control import query
from labrun.control.query import Pair, StatusResolver
from labrun.errors import RecordError
from labrun.remote import mirror
from labrun.runs import index, store
from labrun.runs.status import Status

NAMES = "'last', 'best:METRIC', the beginning of a run's id, its folder, or a sweep's folder"
FILTERS = ("experiment", "status", "where", "tag", "sort", "n")
AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)")
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_filters(parser: argparse.ArgumentParser, top: bool = False) -> None:
    """Add the filter options to a parser.

    Args:
        parser: the parser of an action, or of `lab runs`.
        top: whether it is the parser of `lab runs`, whose values the defaults of an action must not overwrite.
    """
    default = None if top else argparse.SUPPRESS
    group = parser.add_argument_group("which runs")
    group.add_argument("--experiment", metavar="NAME", default=default, help="only runs of this experiment (name=NAME)")
    group.add_argument(
        "--status",
        choices=query.STATUSES,
        metavar="STATUS",
        default=default,
        help="only runs with this status: %(choices)s",
    )
    group.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        type=condition,
        default=default,
        help="'accuracy>0.9', 'model.name=mnist_dnn', 'duration_s<60', 'tags.team=vision', 'name~mnist' "
        "(metrics, fields of the record, config keys; may be repeated)",
    )
    group.add_argument(
        "--tag", metavar="TAG", action="append", default=default, help="only runs with this tag (k or k=v)"
    )
    group.add_argument(
        "--sort",
        metavar="KEY",
        default=default,
        help="sort by a metric (best first; METRIC:min or :max sets the direction), or a field (created: newest first)",
    )
    group.add_argument("-n", type=count, metavar="N", default=default, help="only the first N")


def age(text: str) -> float:
    """Parse a duration such as 30d or 12h into seconds, for argparse."""
    match = AGE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: use 30d, 12h, 45min, 2w")
    return float(match[1]) * SECONDS[match[2]]


def count(text: str) -> int:
    """Parse a positive integer, for argparse."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def limit(text: str) -> float:
    """Parse a positive number, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def condition(text: str) -> query.Condition:
    """Parse a condition, for argparse."""
    try:
        return query.condition(text)
    except RecordError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def filters(options: argparse.Namespace) -> query.Filters:
    """Return the filters of a command line."""
    values = {name: getattr(options, name, None) for name in FILTERS}
    status = Status(values["status"]) if values["status"] else None
    return query.Filters(
        values["experiment"], status, values["where"] or (), values["tag"] or (), values["sort"], values["n"]
    )


def listed(root: Path) -> index.Listing:
    """Return all runs. Runs with a damaged record are reported and left out."""
    mirror.refresh(root)
    listing = store.listing(root)
    for _, why in listing.damaged:
        sys.stderr.write(f"lab: left out: {why}\n")
    return listing


def is_filtered(options: argparse.Namespace) -> bool:
    """Whether any filter was given."""
    return any(getattr(options, name, None) for name in FILTERS)


def check_metric(metric: str | None, pairs: Sequence[Pair]) -> None:
    """Check that at least one of the runs has the metric of `--metric`, if given.

    Raises:
        RecordError: no run has it.
    """
    names = sorted({name for _, record in pairs for name in record.metrics})
    if metric and metric not in names and all(query.metric_of(pair, metric) is None for pair in pairs):
        near = messages.suggest(metric, names)
        raise RecordError(f"--metric {metric}: none of these runs has it.{near} Metrics: {', '.join(names)}")


def split_words(options: argparse.Namespace) -> tuple[argparse.Namespace, list[str]]:
    """Split the positional arguments into the run, unless filters select the runs, and the rest.

    Returns:
        The options for `select`, and the remaining arguments.
    """
    names = 0 if is_filtered(options) else 1
    return argparse.Namespace(**{**vars(options), "run": options.words[:names]}), options.words[names:]


def select(
    options: argparse.Namespace, default: str | None = "last", shown: StatusResolver | None = None
) -> list[Pair]:
    """Return the runs selected by a command line. Records of runs selected by filters alone have no config.

    Args:
        options: the parsed options, with a list of references in `run`, and the filters.
        default: the reference to use if none and no filter is given; None: one is required.
        shown: resolver that caches the statuses.

    Raises:
        RecordError: a reference is unknown, a required one is missing, or no run matches.
    """
    root, names = store.workspace(), list(getattr(options, "run", None) or [])
    mirror.refresh(root)
    if not names and not is_filtered(options):
        if default is None:
            raise RecordError(f"name the runs: {NAMES}; or use filters (--status, --experiment, --where, --tag)")
        names = [default]
    pairs = [pair for name in names for pair in query.named(root, name)] if names else listed(root).runs
    pairs = list({pair[0]: pair for pair in pairs}.values())
    chosen = query.filtered(pairs, filters(options), shown or StatusResolver(), in_order=bool(names))
    if not chosen:
        raise RecordError(f"no run in {root} matches" if pairs else f"there are no runs in {root} yet")
    return chosen
