"""Execution of one run, from top to bottom: frozen config -> mount -> arrays -> task -> finished record.

A run directory holds everything that the run needs, so an executor passes only its path. The same function is used in
the user's own process, in a worker of the pool and in a Slurm job.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from labrun import refusal
from labrun.config import exact, targets
from labrun.config.references import references, resolve_environment, resolved
from labrun.config.schema import Config
from labrun.data import shared_cache
from labrun.data.mount import local_root, mount_reference
from labrun.errors import DataError
from labrun.runs.groups import Code, DataEntry
from labrun.runs.record import Record, RunPaths, read_record
from labrun.runs.recording import Recording
from labrun.tasks import base, deferral

if TYPE_CHECKING:
    from labrun.report.pictures import Pictures

log = logging.getLogger(__name__)

SIGNED = ("dataset", "model", "trainer", "callbacks", "script", "seed")
"""Config keys covered by a run's signature: everything that its task reads."""


UNSIGNED_TRAINER = ("resume", "resume_code", "threads")
"""Keys of the `trainer` node that do not change the result, except for rounding."""
UNSIGNED_DATASET = ("asset", "version", "in_memory", "num_workers")
"""Keys of the `dataset` node that are not signed: the data digest covers the asset's content, and the way the data are
read changes no sample."""
LATER = ("numbers", "categories", "dates", "decimal", "encoding", "header", "sheet", "skip_rows", "parts")
"""`dataset` keys that older records lack. They are signed only if set, so that the signatures of those stay valid."""
UNSIGNED = ("source", "python", "requirements")
"""Keys of the `script` node that hold paths. Digests cover the content of those files."""
LATER_OF_SCRIPTS = ("command", "inputs", "processes", "tables")
"""`script` keys that older records lack; see `LATER`."""


Around = Callable[[Record, Path], AbstractContextManager[None]]
"""Returns a context manager that is active during the work of a run, given the run's record and directory."""


def _nothing(record: Record, run_dir: Path) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def execute(
    run_dir: Path, capture: bool = True, pictures: bool = True, to_disk: bool = True, around: Around = _nothing
) -> Record:
    """Execute a submitted run.

    Args:
        run_dir: the run directory, with the record that the submitter wrote.
        capture: copy the printed output to `driver.log` (see `Recording`).
        pictures: draw the report when the run ends, unless the config says otherwise.
        to_disk: see `Recording`.
        around: context in which the work is done; an error it raises fails the run.

    Returns:
        The finished record.

    Raises:
        BaseException: the error of the run; it is also in the record.
    """
    with Recording(run_dir, capture, writes_on_entry=False, to_disk=to_disk) as recording:
        _execute_task(recording, pictures, around)
    return recording.record


def _execute_task(recording: Recording, pictures: bool, around: Around) -> None:
    record = recording.record
    refusal.forget()
    with around(record, recording.paths.root):
        attempt = f"attempt {recording.attempt}" if recording.attempt > 1 else "first attempt"
        log.info("Run %s (%s), %s", record.id, record.name, attempt)
        signed = Config(resolve_environment(record.config))
        if record.settings is not None and record.settings != settings_digest(record.typed):
            log.warning("Environment variables have other values now than when this run was submitted")
        if not _is_cached(signed):
            recording.write()
        config, inputs = mount_inputs(signed)
        deferral.install()
        if config.dataset:
            targets.report_loading(*(str(node["_target_"]) for node in (config.dataset, config.model) if node))
        sign = functools.partial(signature, signed, code=record.code)
        base.of(config).run(base.Run(recording, signed, config, inputs, pictures, sign))


def _is_cached(config: Config) -> bool:
    """Whether all that a run reads is in memory. Then its record need not be written before the data are read."""
    if not base.of(config).reads or shared_cache.is_empty() or any(references(config.raw)):
        return False
    root = local_root(config.datastore, config.dataset)
    return root is not None and shared_cache.is_held(config.dataset, root)


def mount_inputs(config: Config) -> tuple[Config, list[DataEntry]]:
    """Mount every `${mount:...}` in a config.

    Returns:
        The config with paths instead of the references, and an entry per mount for the record.

    Raises:
        DataError: see `labrun.data.mount`.
    """
    named = dict.fromkeys(references(config.raw))
    found = {text: mount_reference(text, config.datastore, config.datastores) for text in named}
    entries = [one.described(DataEntry(input=text, path=str(one.path))) for text, one in found.items()]
    return Config(resolved(config.raw, lambda text: str(found[text].path))), entries


def assist(run_dir: Path) -> None:
    """Execute a run as a rank other than 0: take part in the training, and record nothing."""
    record = read_record(run_dir)
    config, inputs = mount_inputs(Config(resolve_environment(record.config)))
    base.of(config).assist(RunPaths(run_dir), record, config, inputs)


def redraw(run_dir: Path) -> None:
    """Draw the pictures of a finished run from its record, its saved model and its data.

    Raises:
        DataError, ConfigError: see `pictures_of`.
    """
    pictures_of(run_dir).draw(run_dir)


def pictures_of(run_dir: Path) -> Pictures:
    """Collect the content of a finished run's pictures from its record, its saved model and its data.

    Raises:
        DataError, ConfigError: the data or the model can no longer be loaded.
    """
    from labrun.report.pictures import Pictures
    from labrun.tasks import summary

    record = read_record(run_dir)
    if not record.typed.dataset or record.typed.has_loaders:
        return Pictures(summary.title(record))
    if record.imported is not None:
        raise DataError(f"run {record.id} came from an archive: classes named in its record are not built for pictures")
    from labrun.tasks import evaluating, reading, resume_checks

    config, _ = mount_inputs(Config(resolve_environment(record.config)))
    arrays = reading.arrays_of(config)
    if record.data and (differing := resume_checks.what_differs(record.data[:1], [reading.described(arrays)])):
        raise DataError(f"the data of run {record.id} have changed since ({differing})")
    config = Config({**config.raw, "from": {"id": record.id, "path": str(run_dir)}})
    work, arrays = evaluating.around_saved(config, arrays, own_file=True)
    return summary.gather(work, work.score(arrays.test, arrays), arrays, record)


def signature(config: Config, data: list[DataEntry], code: Code | None) -> str:
    """Return the SHA-256 of the task's settings, its data and its code.

    All settings count, not only those that differ from the defaults.
    """
    raw = config.raw  # not the typed parts: their defaults may change
    signed = {key: raw.get(key) for key in SIGNED}
    signed["trainer"] = {key: value for key, value in raw["trainer"].items() if key not in UNSIGNED_TRAINER}
    signed["model"] = {key: value for key, value in config.model.items() if key != "search_space"}
    # The arguments of a data set with its own loaders are all signed: labrun does not know their meaning.
    unsigned = () if config.has_loaders else UNSIGNED_DATASET
    signed["dataset"] = {
        key: value
        for key, value in config.dataset.items()
        if key not in unsigned and not (key in LATER and value in (None, [], {}))
    }
    signed["data"] = [entry.content or entry.digest for entry in data if entry.digest is not None]
    signed["code"] = None if code is None else code.sources
    if raw.get("script"):  # its code is its folder alone
        signed["script"] = {
            key: value
            for key, value in raw["script"].items()
            if key not in UNSIGNED and not (key in LATER_OF_SCRIPTS and value in (None, 1, {}))
        }
        signed["code"] = None if code is None or code.script is None else code.script.digest
        signed["trainer"] = {}
    signed["ranks"] = config.compute.ranks
    return hashlib.sha256(exact.canonical(signed).encode()).hexdigest()


def settings_digest(config: Config) -> str | None:
    """Return the SHA-256 of the settings that a task reads, without data and code, environment references resolved.

    Returns:
        The digest in hex; None if the settings hold no such reference, so that the config alone determines them.

    Raises:
        ConfigError: a referenced environment variable is not set on this machine.
    """
    signed = {key: config.raw.get(key) for key in SIGNED}
    if "${oc." not in exact.canonical(signed):
        return None
    return signature(Config(resolve_environment(config.raw)), [], None)
