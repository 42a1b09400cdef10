"""The data of a run that are read into arrays, and what its record says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import schema, summary
from labrun.data import memory, reader, shared_cache
from labrun.data.arrays import Arrays
from labrun.data.mount import mount
from labrun.runs import cards
from labrun.runs.record import RunPaths
from labrun.tasks import base
from labrun.tasks import task as tasks

NAMED = 1000
"""The record names at most this many classes."""


def arrays_of_run(run: base.Run) -> Arrays:
    """Mount and read the data of a run, and say so in its record and in its log."""
    config = run.config
    mounted = mount(config["datastore"], config["dataset"], reader.make_reader(config["dataset"]))
    arrays, manifest = shared_cache.read(config["dataset"], mounted.path, known=known_table(config), **taken(config))
    summary.tell_data(arrays)
    run.note_data({**_description(arrays, manifest), **mounted.described()})
    return arrays


def arrays_of(config: Mapping[str, Any]) -> Arrays:
    """The data of a config in which nothing is left to resolve."""
    mounted = mount(config["datastore"], config["dataset"], reader.make_reader(config["dataset"]))
    return reader.read(config["dataset"], mounted.path, **taken(config))


def taken(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's model takes beside arrays of numbers in memory: tables, sparse matrices, samples on the disk."""
    model = config.get("model") or {}  # whoever only looks at the data has none
    own = tasks.is_pipeline(model)
    streams = bool(model) and not schema.is_estimator(str(model.get("_target_")))
    limit = memory.limit(schema.Compute.of(config["compute"])) if streams else None
    return {"tables": own and bool(model.get("preprocess")), "sparse": own, "limit": limit}


def known_table(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a model that is to be scored: how its table was read, and its classes; None where it is none of a table."""
    if not base.of(config).scores:
        return None
    source = config["from"]
    card = cards.read(RunPaths(Path(source["path"])).outputs, f"run {source['id']}")  # `scored` checks its file
    return {**card["table"], "classes": card["class_names"]} if card.get("table") else None


def described(arrays: Arrays) -> dict[str, Any]:
    """What the record says of a data set: its parts, and a digest over its files."""
    return _description(arrays, reader.manifest(arrays.files))


def _description(arrays: Arrays, manifest: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": arrays.name,
        "digest": reader.manifest_digest(manifest),
        "files": len(manifest),
        "bytes": sum(entry["size"] for entry in manifest),
        "input_shape": list(arrays.input_shape),
        "classes": arrays.num_classes,
        "train": len(arrays.train),
        "validation": 0 if arrays.validation is None else len(arrays.validation),
        "test": len(arrays.test),
        **({"class_names": list(arrays.class_names[:NAMED])} if arrays.class_names else {}),
        **({"table": dict(arrays.table)} if arrays.table is not None else {}),
        **({"notes": list(arrays.notes)} if arrays.notes else {}),
        **({"content": arrays.content} if arrays.content else {}),
        **({"reading": arrays.reading.recorded()} if arrays.reading is not None else {}),
        "own_test": not arrays.is_split,
    }
