"""Checks that data and code are unchanged when training resumes, and data when a model is scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from labrun.config import exact
from labrun.config.instantiate import Node
from labrun.config.schema import Config
from labrun.errors import ConfigError
from labrun.runs import seals
from labrun.runs.groups import DataEntry
from labrun.runs.record import Record, RunPaths, read_record

log = logging.getLogger(__name__)


NOTED = ("name", "digest", "content", "train", "validation", "test")
"""Keys of a data entry that an attempt records for the data it trains on."""
READ_FROM = {"fingerprint()": "the fingerprint", "config and code": "config or code"}
"""Sources of the digest of a data set with its own loaders, if not its files, as shown in messages."""
NOT_READ = frozenset(
    {"name", "download", "verify", "in_memory", "num_workers", "validation_size", "max_samples", "scale", "mean", "std"}
) | {
    "augmentation",
    "search_space",
}
"""`dataset` keys that affect neither the samples nor the choice of the test split."""


def begin(config: Config, record: Record, code: Mapping[str, str] | None, paths: RunPaths) -> None:
    """Check the data and the model code of this attempt (`check_training`), then record them.

    Args:
        config: the resolved config.
        record: the run's record, with the data that this attempt has read; updated in place.
        code: SHA-256 of each module of the model; None if unknown.
        paths: paths of the run.

    Raises:
        ConfigError: see `check_training`.
    """
    check_training(config, record, code, paths)
    # Recorded only after the check: a refused attempt has not trained on anything.
    read = [{key: value for key in NOTED if (value := getattr(entry, key)) is not None} for entry in record.data]
    record.attempts[-1].model_code, record.attempts[-1].read = (None if code is None else dict(code)), read


def _entries(found: Any) -> list[DataEntry]:
    return [DataEntry.of(entry) for entry in found if isinstance(entry, Mapping)]


def check_training(config: Config, record: Record, code: Mapping[str, str] | None, paths: RunPaths) -> None:
    """Check that training resumes only with the data and the model code that it started with.

    If they have changed since the last attempt, the run's own checkpoints are moved aside, so that training starts
    over. If they differ from those of the run in `trainer.resume`, resuming is refused.

    Args:
        config: the resolved config.
        record: the run's record; its earlier attempts hold the data and code that each trained with.
        code: SHA-256 of each module of the model as it is now; None if unknown.
        paths: paths of the run.

    Raises:
        ConfigError: the run in `trainer.resume` read other data, or a run of several processes would have to start
            over.
    """
    own = paths.checkpoints / "last.ckpt"
    if own.is_file():
        read = next((one.read for one in reversed(record.attempts[:-1]) if isinstance(one.read, list)), None)
        differing = what_differs(_entries(read), record.data) if read else ""
        then = seals.noted(record.attempts[:-1])
        edited = [] if then is None or code is None else seals.changed(then, code)
        if edited:
            differing = ", ".join([f"the model's code: {', '.join(edited)}", *([differing] if differing else [])])
        if differing and config.compute.ranks > 1:
            raise ConfigError(f"the data or the code has changed since the last attempt ({differing}): start a new run")
        if not differing:
            return
        aside = paths.checkpoints / f"before-{record.attempts[-1].number}"
        log.warning(
            "Starting over: the data or the code has changed since the last attempt (%s); its checkpoints are in %s",
            differing,
            aside,
        )
        aside.mkdir(exist_ok=True)
        for file in sorted(paths.checkpoints.glob("*.ckpt"), key=lambda file: file != own):
            file.rename(aside / file.name)
    resumed = config.resumed
    then_read = [] if resumed is None else read_record(resumed.run_dir).data
    if resumed is not None and then_read and (differing := what_differs(then_read, record.data)):
        raise ConfigError(
            f"trainer.resume={resumed.id}: the data have changed since that run read them ({differing}). Training "
            "resumes only with the data it started with: restore them, or start a new run (leave trainer.resume out)"
        )


def check_scoring(config: Config, record: Record, is_split: bool) -> None:
    """Check that the test split still holds only samples that the model was not trained on.

    Args:
        config: the resolved config.
        record: record of the scoring run, with the data that it has read.
        is_split: whether labrun holds out the test split.

    Raises:
        ConfigError: the data have changed, so labrun would split them differently than for training.
    """
    source = config.scored
    trained = read_record(source.run_dir)
    if _source(trained.typed.dataset) != _source(record.typed.dataset):
        return  # the user chose other data
    differing = what_differs(trained.data, record.data) if trained.data else ""
    is_same_place = _place(trained.typed.datastore) == _place(record.typed.datastore)
    if differing and is_split and is_same_place:
        raise ConfigError(
            f"task=evaluate: the data have changed since run {source.id} was trained ({differing}), and labrun "
            "holds out the test split of them: it would contain samples that the model was trained on. Restore the "
            "data, or score it on a data set of samples that it has not seen (dataset=...)"
        )
    if differing:
        log.warning("The data have changed since run %s was trained: %s", source.id, differing)


def _source(dataset: Node) -> str:
    # Keys added in later versions have empty defaults; ignoring those keeps old records comparable.
    kept = {key: value for key, value in dataset.items() if key not in NOT_READ and value not in (None, [], {})}
    return exact.canonical(kept)


def _place(datastore: Node) -> str:
    return exact.canonical({key: value for key, value in datastore.items() if not str(key).startswith("cache")})


def what_differs(then: Sequence[DataEntry], now: Sequence[DataEntry]) -> str:
    """Describe how the data of two runs differ; empty if they are the same.

    For data made by the user's code, the resulting arrays are compared if both records have their digest (older
    records do not), otherwise the files.
    """
    for old, new in zip(then, now, strict=False):
        sizes = [
            f"{part} {before}, now {after}"
            for part, before, after in (
                ("train", old.train, new.train),
                ("validation", old.validation, new.validation),
                ("test", old.test, new.test),
            )
            if before != after
        ]
        if old.content and new.content:
            if old.content != new.content:
                return "; ".join([f"{new.name} gives other arrays", *sizes])
        elif old.digest != new.digest:
            return "; ".join([f"{READ_FROM.get(str(new.signed_by), 'files')} of {new.name}", *sizes])
    return "" if len(then) == len(now) else "their number"
