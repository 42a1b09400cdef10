"""Whether a training goes on, and a model is scored, with the data and the code that it began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import exact
from labrun.data.arrays import Arrays
from labrun.errors import ConfigError
from labrun.runs import record as records
from labrun.runs import seals
from labrun.runs.record import Record, RunPaths
from labrun.tasks import task as tasks

log = logging.getLogger(__name__)


def check_training(
    config: Mapping[str, Any], record: Record, before: Sequence[Mapping[str, Any]], paths: RunPaths
) -> None:
    """See to it that a training goes on only with the data and the model's code that it began with.

    A run whose last attempt had others begins anew; another run's checkpoint is refused.

    Args:
        config: resolved.
        record: the run's, with what this attempt has read, and its code.
        before: what its last attempt had read; empty in the first.
        paths: the run's.

    Raises:
        ConfigError: it was to go on from a run that read other data, or several processes would have to begin anew.
    """
    own = paths.checkpoints / "last.ckpt"
    if own.is_file():
        differing = what_differs(before, record.data) if before else ""
        then = seals.noted(record.attempts[:-1])
        edited = [] if then is None else seals.changed(then, seals.noted(record.attempts) or {})
        if edited:
            differing = ", ".join([f"the model's code: {', '.join(edited)}", *([differing] if differing else [])])
        if differing and tasks.ranks(config["compute"]) > 1:
            raise ConfigError(f"other data or code than the last attempt had ({differing}): begin a new run")
        if differing:
            log.warning("Beginning anew: the last attempt had other data or code (%s)", differing)
            for file in paths.checkpoints.glob("*.ckpt"):
                file.unlink()
        else:
            return
    resume = config["trainer"].get("resume")
    then_read = records.read(Path(resume["path"]).parents[1]).data if resume else []
    if then_read and (differing := what_differs(then_read, record.data)):
        raise ConfigError(
            f"trainer.resume={resume['id']}: the data have changed since that run read them ({differing}). A training "
            "goes on with the data it began with: bring these back, or start a new run (leave trainer.resume out)"
        )


def check_scoring(config: Mapping[str, Any], record: Record, arrays: Arrays) -> None:
    """Whether the test part of what a model was trained on is still the one that it never saw.

    Raises:
        ConfigError: the data have changed, and labrun would split them anew.
    """
    source = config["from"]
    trained = records.read(Path(source["path"]))
    if exact.canonical(trained.config.get("dataset")) != exact.canonical(record.config["dataset"]):
        return  # the person chose other data
    differing = what_differs(trained.data, record.data) if trained.data else ""
    if differing and arrays.is_split:
        raise ConfigError(
            f"task=evaluate: the data have changed since run {source['id']} was trained ({differing}), and labrun "
            "splits the test part off them: it would hold samples that the model was trained on. Bring the data back, "
            "or score it on samples that it has not seen, under another path (dataset.path=NEW)"
        )
    if differing:
        log.warning("The data have changed since run %s was trained: %s", source["id"], differing)


def what_differs(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """In which way two runs read other data; empty where they read the same.

    Records of older versions know nothing of the content.
    """
    for old, new in zip(then, now, strict=False):
        sizes = [f"{part} {old.get(part)}, now {new.get(part)}" for part in ("train", "validation", "test")
                 if old.get(part) != new.get(part)]  # fmt: skip
        if old.get("digest") != new.get("digest"):
            return "; ".join([f"files of {new.get('name')}", *sizes])
        if old.get("content", new.get("content")) != new.get("content"):
            return "; ".join([f"the same files of {new.get('name')} give other arrays", *sizes])
    return "" if len(then) == len(now) else "their number"
