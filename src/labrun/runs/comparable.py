"""Whether values of one metric compare: scores of other data, or scored in another way, do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labrun.runs.record import COMPLETED, Record

SHOWN = 3
PARTS = ("test_", "val_", "train_")
"""How metrics begin whose names say what they were measured on."""


def mixture(found: Sequence[Record], metric: str) -> str | None:
    """Why the values that runs have of a metric do not compare; None where they do, as far as the records tell."""
    having = [record for record in found if record.status == COMPLETED and metric in record.metrics]
    told = [*_several_data(having), *_several_ways(having, metric)]
    return f"{metric} does not compare between these runs: {'; and '.join(told)}" if told else None


def _several_data(found: Sequence[Record]) -> list[str]:
    runs: dict[tuple[Any, ...], list[Record]] = {}
    for record in found:
        if record.data:
            runs.setdefault(_read(record), []).append(record)
    if len(runs) < 2:
        return []
    names = [str(records[0].data[0].get("name")) for records in runs.values()]
    counts = [f"{name} ({len(records)})" for name, records in zip(names, runs.values(), strict=True)]
    listed = ", ".join([*counts[:SHOWN], *(["..."] if len(counts) > SHOWN else [])])
    if len(set(names)) == 1:
        listed = ", ".join(f"{records[0].id} and {len(records) - 1} more" if records[1:] else records[0].id
                           for records in list(runs.values())[:SHOWN])  # fmt: skip
        return [f"{names[0]} was not the same data in all of them, or was split otherwise (as in {listed})"]
    return [f"they read other data ({listed})"]


def _read(record: Record) -> tuple[Any, ...]:
    """What a run was scored on: the files, what they gave, and how the test part was taken."""
    config = record.config.get("dataset")
    dataset: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    split = tuple(repr(dataset.get(key)) for key in ("split_seed", "test_size", "max_samples"))
    entry = record.data[0]
    return (entry.get("name"), entry.get("digest"), entry.get("content"), *split)


def _several_ways(found: Sequence[Record], metric: str) -> list[str]:
    if metric.startswith(PARTS):
        return []
    folded = [record for record in found if _is_cross_validated(record)]
    if not folded or len(folded) == len(found):
        return []
    return [
        f"it is the mean of model.folds in {len(folded)} of them ({folded[0].id}, for one), and of the test part in "
        f"{len(found) - len(folded)}. Say model.folds for all, or for none"
    ]


def _is_cross_validated(record: Record) -> bool:
    model = record.config.get("model")
    folds = model.get("folds") if isinstance(model, Mapping) else None
    return bool(folds) and any(name.startswith("test_") for name in record.metrics)
