"""One run, from top to bottom: frozen config -> mount -> arrays -> task -> closed record.

Everything a run needs is in its directory, so an executor passes nothing but the path; the same function serves the
user's own process, a pool's child and a Slurm job.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from labrun import continuing, exact, schema, summary, targets
from labrun.building import looked_up
from labrun.data import shared_cache
from labrun.data.mount import guarded, local_root, mount_reference, references, resolved
from labrun.errors import DataError
from labrun.runs import record as records
from labrun.runs.pictures import Pictures
from labrun.runs.record import Record, RunPaths
from labrun.runs.recording import Recording
from labrun.tasks import base, evaluating, reading

log = logging.getLogger(__name__)

SIGNED = ("dataset", "model", "trainer", "callbacks", "script", "seed")
"""What a run's signature covers: all that its task reads."""


UNSIGNED_TRAINER = ("resume", "resume_code", "threads")
"""Of a trainer's node, what changes no result but by the rounding of sums."""
UNSIGNED_DATASET = ("asset", "version", "in_memory", "num_workers")
"""Which version of an asset it was, and where it lay, is in the data's digest. How it is read changes no sample."""
LATER = ("numbers", "categories", "dates", "decimal", "encoding", "header", "sheet", "skip_rows", "parts")
"""Keys of data sets that came later: where they say nothing, what was signed before them stays valid."""
UNSIGNED = ("source", "python", "requirements")
"""Of a script's node: where things lie. What is in them is in digests."""
LATER_OF_SCRIPTS = ("command", "inputs", "processes", "tables")
"""Keys of scripts that came later, as `LATER`."""


Around = Callable[[Record, Path], AbstractContextManager[None]]
"""What a run's record and folder go through before its work, and after it."""


def _nothing(record: Record, run_dir: Path) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def execute(
    run_dir: Path, capture: bool = True, pictures: bool = True, to_disk: bool = True, around: Around = _nothing
) -> Record:
    """Carry out a submitted run.

    Args:
        run_dir: its directory, with the record that the submitter wrote.
        capture: copy what is printed to `driver.log` (see `Recording`).
        pictures: draw the report at the end, unless the config says otherwise.
        to_disk: see `Recording`.
        around: what stands around its work; an error of it is the run's.

    Returns:
        The closed record.

    Raises:
        Whatever the run raised; the record holds it too.
    """
    with Recording(run_dir, capture, announced=False, to_disk=to_disk) as recording:
        _carry_out(recording, pictures, around)
    return recording.record


def _carry_out(recording: Recording, pictures: bool, around: Around) -> None:
    record = recording.record
    with around(record, recording.paths.root):
        log.info("Run %s (%s), %s", record.id, record.name, "again" if recording.attempt > 1 else "first attempt")
        signed = here(record.config)
        if record.settings is not None and record.settings != settings_digest(record.config):
            log.warning("The environment gives other values now than when this run was submitted")
        if not _is_at_hand(signed):
            recording.write()
        config, inputs = mount_inputs(signed)
        if config.get("dataset"):
            targets.announce(*(str(node["_target_"]) for node in (config["dataset"], config["model"]) if node))
        sign = functools.partial(signature, signed, code=record.code)
        base.of(config).run(base.Run(recording, signed, config, inputs, pictures, sign))


def _is_at_hand(config: Mapping[str, Any]) -> bool:
    """Whether all that a run reads is in memory: one writing of its record, a moment later, will do then."""
    if not base.of(config).reads or shared_cache.is_empty() or any(references(config)):
        return False
    root = local_root(config["datastore"], config["dataset"])
    return root is not None and shared_cache.is_held(config["dataset"], root)


def keep_mounts() -> None:
    """Have OmegaConf leave `${mount:...}` as it stands: it is carried out where the run is."""
    OmegaConf.register_new_resolver(
        "mount", lambda *parts: "${mount:" + ",".join(str(part) for part in parts) + "}", replace=True
    )


def here(config: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve what belongs to the place of execution: references to the environment. Mounts stay references.

    Raises:
        ConfigError: a variable is not set here.
    """
    keep_mounts()
    return looked_up(guarded(config))


def mount_inputs(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Mount what `${mount:...}` names anywhere in a config.

    Returns:
        The config with paths in their place, and what the record says of each.

    Raises:
        DataError: see `labrun.data.mount`.
    """
    others = config.get("datastores") or {}
    found = {text: mount_reference(text, config["datastore"], others) for text in dict.fromkeys(references(config))}
    told = [{"input": text, "path": str(one.path), **one.described()} for text, one in found.items()]
    return resolved(config, lambda text: str(found[text].path)), told


def assist(run_dir: Path) -> None:
    """Take part in a run of several processes, as one that is not the first: train along, and record nothing."""
    record = records.read(run_dir)
    config, inputs = mount_inputs(here(record.config))
    base.of(config).assist(RunPaths(run_dir), record, config, inputs)


def redraw(run_dir: Path) -> None:
    """Draw a finished run's pictures, from its record, its saved model and the data.

    Raises: as `pictures_of`.
    """
    pictures_of(run_dir).draw(run_dir)


def pictures_of(run_dir: Path) -> Pictures:
    """What a finished run's pictures show, from its record, its saved model and the data.

    Raises:
        DataError, ConfigError: the data or the model cannot be loaded any more.
    """
    record = records.read(run_dir)
    if not record.config.get("dataset") or schema.has_loaders(record.config["dataset"]):
        return Pictures(summary.title(record))
    if record.imported:
        raise DataError(f"run {record.id} came from an archive: what its record names is not built for pictures")
    config, _ = mount_inputs(here(record.config))
    arrays = reading.arrays_of(config)
    if record.data and (differing := continuing.what_differs(record.data[:1], [reading.described(arrays)])):
        raise DataError(f"the data of run {record.id} have changed since ({differing})")
    source = {"from": {"id": record.id, "path": str(run_dir)}}
    work, arrays = evaluating.around_saved({**config, **source}, arrays, own_file=True)
    return summary.gather(work, work.score(arrays.test, arrays), arrays, record)


def signature(config: Mapping[str, Any], data: list[dict[str, Any]], code: Mapping[str, Any] | None) -> str:
    """SHA-256 over what the task reads, the data and the code; never over the difference from the defaults."""
    signed = {key: config.get(key) for key in SIGNED}
    signed["trainer"] = {key: value for key, value in config["trainer"].items() if key not in UNSIGNED_TRAINER}
    signed["model"] = {key: value for key, value in (config.get("model") or {}).items() if key != "search_space"}
    # A data set that brings its own loaders: what its arguments mean is its own matter.
    unsigned = () if schema.has_loaders(config.get("dataset")) else UNSIGNED_DATASET
    signed["dataset"] = {
        key: value
        for key, value in (config.get("dataset") or {}).items()
        if key not in unsigned and not (key in LATER and value in (None, [], {}))
    }
    signed["data"] = [entry.get("content") or entry["digest"] for entry in data if "digest" in entry]
    signed["code"] = (code or {}).get("sources")
    if config.get("script"):  # its own folder is all the code there is
        signed["script"] = {
            key: value
            for key, value in config["script"].items()
            if key not in UNSIGNED and not (key in LATER_OF_SCRIPTS and value in (None, 1, {}))
        }
        signed["code"] = ((code or {}).get("script") or {}).get("digest")
        signed["trainer"] = {}
    signed["ranks"] = schema.Compute.of(config["compute"]).ranks
    return hashlib.sha256(exact.canonical(signed).encode()).hexdigest()


def settings_digest(config: Mapping[str, Any]) -> str | None:
    """SHA-256 over what a run's task reads, data and code aside, with the environment's values of now.

    None where it refers to none: its config says it all then.

    Raises:
        ConfigError: a variable is not set here.
    """
    signed = {key: config.get(key) for key in SIGNED}
    if "${oc." not in exact.canonical(signed):
        return None
    return signature(here(config), [], None)
