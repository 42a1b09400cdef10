"""Decides what is comparable between runs: keys of their configs, and values of a metric."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from labrun.runs.record import COMPLETED, Record

MAX_LISTED = 3
PARTS = ("test_", "val_", "train_")
"""Prefixes of metrics whose names say what split they were measured on."""


NOT_COMPARED = frozenset(
    {
        "name",
        "tags",
        "notes",
        "compute",
        "sweep",
        "tracking",
        "logger",
        "report",
        "datastore",
        "export",
        "trusted",
    }
)
"""Config nodes about where a run executes and how it is named and shown, not about the experiment."""
DERIVED = re.compile(
    r"(.*\.)?(from|resume|script)\.(path|source|python)|script\.(source|python|environment)|.*\.dirpath"
)
"""Keys that labrun fills in: locations of things that other keys refer to."""


def is_compared(key: str) -> bool:
    """Return whether a config key is part of the experiment."""
    return key.partition(".")[0] not in NOT_COMPARED and (key == "script.path" or not DERIVED.fullmatch(key))


def mixture(found: Sequence[Record], metric: str) -> str | None:
    """Return why the runs' values of a metric are not comparable, or None if they are, according to the records."""
    why = reason(found, metric)
    return f"{metric} is not comparable between these runs: {why}" if why else None


def reason(found: Sequence[Record], metric: str) -> str:
    """Return the reason of `mixture` without the metric's name, or "" if the values are comparable."""
    having = [record for record in found if record.status == COMPLETED and metric in record.metrics]
    return "; and ".join([*_several_data(having, metric), *_several_ways(having, metric)])


def _several_data(found: Sequence[Record], metric: str) -> list[str]:
    having = [record for record in found if record.data]
    # Records of older versions lack `own_test`, and the content digest of what the user's own code returned.
    whole = {_files(record) for record in having if record.data[0].own_test}
    without_content = {record.data[0].name for record in having if not record.data[0].content}
    runs: dict[str, list[Record]] = {}
    for record in having:
        is_split, has_content = _files(record) not in whole, record.data[0].name not in without_content
        runs.setdefault(_scored_on(record, metric, is_split, has_content), []).append(record)
    if len(runs) < 2:
        return []
    kinds = list(runs.values())
    names = [str(records[0].data[0].name) for records in kinds]
    is_one = len(set(names)) == 1
    described = [_as_in(records, "" if is_one else f"{name}: ") for name, records in zip(names, kinds, strict=True)]
    listed = ", ".join([*described[:MAX_LISTED], *(["..."] if described[MAX_LISTED:] else [])])
    if is_one:
        return [f"{names[0]} was not the same in all of them, or was split differently ({listed})"]
    return [f"they read different data ({listed})"]


def _as_in(found: Sequence[Record], before: str) -> str:
    return f"{before}{found[0].id}{f' and {len(found) - 1} more' if found[1:] else ''}"


UNSCORED = frozenset(
    {"name", "download", "verify", "in_memory", "num_workers", "asset", "version", "path", "test_path", "script"}
) | {
    "scale",
    "mean",
    "std",
    "augmentation",
    "search_space",
}
"""Keys of a data set that do not affect the scored samples, or whose effect a digest covers."""
NOTHING: tuple[object, ...] = (None, [], {})
OF_A_SPLIT = frozenset({"split_seed", "test_size", "validation_size"})


def _files(record: Record) -> tuple[str, str]:
    return str(record.data[0].name), str(record.data[0].digest)


def _scored_on(record: Record, metric: str, is_split: bool, has_content: bool) -> str:
    """Return a key for what a run's metric was measured on: the data and the split.

    Args:
        record: the run's record.
        metric: the metric's name.
        is_split: whether labrun held out the test split.
        has_content: whether all runs on data of that name recorded the content digest of what the user's code returned.
    """
    config, entry = record.config.get("dataset"), record.data[0]
    if entry.signed_by:  # the data has its own loaders, and its digest covers all that they read
        return repr((entry.name, entry.digest))
    dataset = {str(key): value for key, value in config.items()} if isinstance(config, Mapping) else {}
    unlike = set(UNSCORED)
    is_of_training = metric.startswith("val_") or (not metric.startswith(PARTS) and _folds(record))
    if not is_of_training:
        unlike |= {"validation_size"} if is_split else OF_A_SPLIT
    kept = sorted((key, repr(value)) for key, value in dataset.items() if key not in unlike and value not in NOTHING)
    return repr((entry.name, entry.content if has_content else entry.digest, kept))


def _several_ways(found: Sequence[Record], metric: str) -> list[str]:
    if metric.startswith(PARTS):
        return []
    ways: dict[int, list[Record]] = {}
    for record in found:
        ways.setdefault(_folds(record), []).append(record)
    if len(ways) < 2:
        return []
    counted = [f"{_way(folds)} in {len(ways[folds])} of them (such as {ways[folds][0].id})" for folds in sorted(ways)]
    return [f"it is {', and '.join(counted)}. Give all of them the same model.folds"]


def _way(folds: int) -> str:
    return ("of the test split", "of the validation split")[folds] if folds < 2 else f"the mean of {folds} folds"


def _folds(record: Record) -> int:
    """Return the number of folds that metrics without a prefix average over; 1: validation split; 0: test split."""
    model = record.config.get("model")
    folds = model.get("folds") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(folds, int):
        return 0
    # A user's own model may have `folds`, too. A search tests only its best pipeline.
    is_pipeline = str(model.get("_target_")).startswith("labrun.models.pipeline.")
    return folds if is_pipeline or any(name.startswith("test_") for name in record.metrics) else 0
