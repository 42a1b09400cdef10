"""Reads a run's data into arrays, and describes them for its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labrun.config import schema
from labrun.config.schema import Config
from labrun.data import memory, reader, shared_cache
from labrun.data.arrays import Arrays
from labrun.data.digests import Entry, manifest_digest
from labrun.data.mount import mount
from labrun.runs import cards
from labrun.runs.groups import DataEntry
from labrun.runs.record import RunPaths
from labrun.tasks import base, summary
from labrun.tasks.task import is_pipeline

if TYPE_CHECKING:
    from labrun.data.readers.columns import KnownTable

NAMED = 1000
"""Maximum number of class names in the record."""


def arrays_of_run(run: base.Run) -> Arrays:
    """Mount and read the data of a run, and describe them in its record and its log."""
    config = run.config
    mounted = mount(config.datastore, config.dataset, reader.make_reader(config.dataset))
    arrays, manifest = shared_cache.read(config.dataset, mounted.path, known=known_table(config), **taken(config))
    summary.log_data(arrays)
    run.note_data(mounted.described(_description(arrays, manifest)))
    return arrays


def arrays_of(config: Config) -> Arrays:
    """Read the data of a fully resolved config."""
    mounted = mount(config.datastore, config.dataset, reader.make_reader(config.dataset))
    return reader.read(config.dataset, mounted.path, **taken(config))


def taken(config: Config) -> dict[str, Any]:
    """Return which data a run's model takes besides arrays in memory: tables, sparse matrices, samples on disk."""
    model = config.model  # configs that only show the data have none
    own = is_pipeline(model)
    streams = bool(model) and not schema.is_estimator(str(model.get("_target_")))
    limit = memory.limit(config.compute) if streams else None
    return {"tables": own and bool(model.get("preprocess")), "sparse": own, "limit": limit}


def known_table(config: Config) -> KnownTable | None:
    """Return the training table of a model to score; None if there is no such table.

    Raises:
        DataError: its description in the model's card is damaged.
    """
    if not base.of(config).scores or (source := config.source) is None:
        return None
    card = cards.read(RunPaths(source.run_dir).outputs, f"run {source.id}")  # `scored` checks its file
    if not card.table:
        return None
    from labrun.data.readers.columns import KnownTable, TableSchema  # most runs read no table

    return KnownTable(TableSchema.of(card.table), tuple(card.class_names))


def described(arrays: Arrays) -> DataEntry:
    """Return the record's entry on a data set: its splits, and a digest of its files."""
    return _description(arrays, reader.manifest(arrays.files))


def _description(arrays: Arrays, manifest: Sequence[Entry]) -> DataEntry:
    return DataEntry(
        name=arrays.name,
        digest=manifest_digest(manifest),
        files=len(manifest),
        bytes=sum(entry.size for entry in manifest),
        input_shape=list(arrays.input_shape),
        classes=arrays.num_classes,
        train=len(arrays.train),
        validation=0 if arrays.validation is None else len(arrays.validation),
        test=len(arrays.test),
        class_names=list(arrays.class_names[:NAMED]) or None,
        table=None if arrays.table is None else arrays.table.content(),
        notes=list(arrays.notes) or None,
        content=arrays.content or None,
        reading=None if arrays.reading is None else arrays.reading.recorded(),
        own_test=not arrays.is_split,
    )
