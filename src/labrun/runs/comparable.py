"""What of two runs compares: which keys of their configs, and whether their values of one metric do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from labrun.runs.record import COMPLETED, Record

SHOWN = 3
PARTS = ("test_", "val_", "train_")
"""How metrics begin whose names say what they were measured on."""


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
"""Nodes of a config that say where a run goes, how it is called and shown, and not what is tried in it."""
DERIVED = re.compile(
    r"(.*\.)?(from|resume|script)\.(path|source|python)|script\.(source|python|environment)|.*\.dirpath"
)
"""Keys that labrun fills in: where things lie that other keys name."""


def is_compared(key: str) -> bool:
    """Whether a key of the config is an experiment's own."""
    return key.partition(".")[0] not in NOT_COMPARED and (key == "script.path" or not DERIVED.fullmatch(key))


def mixture(found: Sequence[Record], metric: str) -> str | None:
    """Why the values that runs have of a metric do not compare; None where they do, as far as the records tell."""
    told = reason(found, metric)
    return f"{metric} does not compare between these runs: {told}" if told else None


def reason(found: Sequence[Record], metric: str) -> str:
    """As `mixture`, without the metric's name; nothing where the values compare."""
    having = [record for record in found if record.status == COMPLETED and metric in record.metrics]
    return "; and ".join([*_several_data(having, metric), *_several_ways(having, metric)])


def _several_data(found: Sequence[Record], metric: str) -> list[str]:
    having = [record for record in found if record.data]
    # Records of older versions do not tell of their test part, nor what the user's own code gave.
    whole = {_files(record) for record in having if record.data[0].get("own_test")}
    untold = {record.data[0].get("name") for record in having if not record.data[0].get("content")}
    runs: dict[str, list[Record]] = {}
    for record in having:
        is_split, is_told = _files(record) not in whole, record.data[0].get("name") not in untold
        runs.setdefault(_scored_on(record, metric, is_split, is_told), []).append(record)
    if len(runs) < 2:
        return []
    kinds = list(runs.values())
    names = [str(records[0].data[0].get("name")) for records in kinds]
    is_one = len(set(names)) == 1
    told = [_as_in(records, "" if is_one else f"{name}: ") for name, records in zip(names, kinds, strict=True)]
    listed = ", ".join([*told[:SHOWN], *(["..."] if told[SHOWN:] else [])])
    if is_one:
        return [f"{names[0]} was not the same in all of them, or was split otherwise ({listed})"]
    return [f"they read other data ({listed})"]


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
"""Keys of a data set that leave the samples which are scored as they are, or whose effect a digest tells."""
NOTHING: tuple[object, ...] = (None, [], {})
OF_A_SPLIT = frozenset({"split_seed", "test_size", "validation_size"})


def _files(record: Record) -> tuple[str, str]:
    return str(record.data[0].get("name")), str(record.data[0].get("digest"))


def _scored_on(record: Record, metric: str, is_split: bool, is_told: bool) -> str:
    """What a metric of a run was measured on: the data, and which part of them.

    Args:
        record: the run's.
        metric: its name.
        is_split: whether labrun took the test part off the data.
        is_told: whether all runs on data of that name tell what the user's own code returned.
    """
    if record.data[0].get("signed_by"):  # it brings its own loaders, and its digest is of all that it reads
        return repr((record.data[0].get("name"), record.data[0].get("digest")))
    config, entry = record.config.get("dataset"), record.data[0]
    dataset = {str(key): value for key, value in config.items()} if isinstance(config, Mapping) else {}
    unlike = set(UNSCORED)
    is_of_training = metric.startswith("val_") or (not metric.startswith(PARTS) and _folds(record))
    if not is_of_training:
        unlike |= {"validation_size"} if is_split else OF_A_SPLIT
    kept = sorted((key, repr(value)) for key, value in dataset.items() if key not in unlike and value not in NOTHING)
    return repr((entry.get("name"), entry.get("content") if is_told else entry.get("digest"), kept))


def _several_ways(found: Sequence[Record], metric: str) -> list[str]:
    if metric.startswith(PARTS):
        return []
    ways: dict[int, list[Record]] = {}
    for record in found:
        ways.setdefault(_folds(record), []).append(record)
    if len(ways) < 2:
        return []
    told = [f"{_way(folds)} in {len(ways[folds])} of them ({ways[folds][0].id}, for one)" for folds in sorted(ways)]
    return [f"it is {', and '.join(told)}. Give all of them the same model.folds"]


def _way(folds: int) -> str:
    return ("of the test part", "of the validation part")[folds] if folds < 2 else f"the mean of {folds} folds"


def _folds(record: Record) -> int:
    """The folds whose mean the plain names of its metrics stand for; 1: the validation part; 0: the test part."""
    model = record.config.get("model")
    folds = model.get("folds") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(folds, int):
        return 0
    # A model of the user's own may have `folds`, too. A search tests its best pipeline alone.
    is_pipeline = str(model.get("_target_")).startswith("labrun.models.pipeline.")
    return folds if is_pipeline or any(name.startswith("test_") for name in record.metrics) else 0
