"""One run, from top to bottom: frozen config -> mount -> arrays -> task -> closed record.

Everything a run needs is in its directory, so an executor passes nothing but the path; the same function serves the
user's own process, a pool's child and a Slurm job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from labrun import continuing, exact, schema, summary, targets
from labrun.building import looked_up
from labrun.data import memory, reader, shared_cache
from labrun.data.arrays import Arrays
from labrun.data.mount import guarded, local_root, mount, mount_reference, references, resolved
from labrun.errors import BY_OVERRIDE, DataError, UnfitError
from labrun.runs import cards, children, seals, store
from labrun.runs import record as records
from labrun.runs.pictures import Pictures
from labrun.runs.record import Record, RunPaths
from labrun.runs.recording import Recording
from labrun.tasks import loaded, loading, registering, script, threads
from labrun.tasks import task as tasks
from labrun.tasks.task import Task

log = logging.getLogger(__name__)

SIGNED = ("dataset", "model", "trainer", "callbacks", "script", "seed")
"""What a run's signature covers: all that its task reads."""


UNSIGNED_TRAINER = ("resume", "resume_code", "threads")
"""Of a trainer's node, what changes no result but by the rounding of sums."""
UNSIGNED_DATASET = ("asset", "version", "in_memory", "num_workers")
"""Which version of an asset it was, and where it lay, is in the data's digest. How it is read changes no sample."""
LATER = ("numbers", "categories", "dates", "decimal", "encoding", "header", "sheet", "skip_rows", "parts")
"""Keys of data sets that came later: where they say nothing, what was signed before them stays valid."""
NAMED = 1000
"""The record names at most this many classes."""
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
        record, paths = recording.record, recording.paths
        _carry_out(recording, record, paths, pictures, around)
    return recording.record


def _carry_out(recording: Recording, record: Record, paths: RunPaths, pictures: bool, around: Around) -> None:
    with around(record, paths.root):
        log.info("Run %s (%s), %s", record.id, record.name, "again" if recording.attempt > 1 else "first attempt")
        signed = here(record.config)
        if record.settings is not None and record.settings != settings_digest(record.config):
            log.warning("The environment gives other values now than when this run was submitted")
        if not _is_at_hand(signed):
            recording.write()
        config, inputs = mount_inputs(signed)
        if config["task"] == "script":
            record.data = inputs
            record.signature = signature(signed, record.data, record.code)
            recording.write()
            with _with_children(paths):
                script.run(config, inputs, record, paths)
            recording.leave_if_forked()
            registering.of_script(record, paths, recording.attempt)
            summary.finish_script(record, paths, pictures)
            return
        targets.announce(*(str(node["_target_"]) for node in (config["dataset"], config["model"]) if node))
        if schema.has_loaders(config["dataset"]):
            _with_loaders(recording, signed, config, inputs, pictures)
            return
        if config["task"] == "predict":
            _predict(recording, signed, config, inputs)
            return
        mounted = mount(config["datastore"], config["dataset"], reader.make_reader(config["dataset"]))
        arrays, manifest = shared_cache.read(
            config["dataset"], mounted.path, known=_known_table(config), **taken(config)
        )
        summary.tell_data(arrays)
        record.data = [{**describe_data(arrays, manifest), **mounted.described()}, *inputs]
        record.signature = signature(signed, record.data, record.code)
        recording.write()

        began = time.monotonic()
        if config["task"] == "evaluate":
            continuing.check_scoring(config, record, arrays.is_split)
            work, arrays = _evaluate(config, arrays)
        else:
            work = _make(config, arrays)
        if work.threads is not None:
            record.threads = work.threads
            log.info("Threads: %s", threads.describe(record.threads))
            recording.write()
        proof = None
        if config["task"] == "fit":
            proof = seals.Proof(store.workspace(), record.id, record.config)
            continuing.begin(config, record, proof.code, paths)
            recording.write()
            _fit(work, config, arrays, paths)
            record.training = work.training
        recording.leave_if_forked()
        if work.is_final:
            scores = work.test(arrays, paths)
            if scores is not None:
                tasks.log_scores(scores, work.tested)
            if config["task"] == "fit":
                paths.outputs.mkdir(parents=True, exist_ok=True)
                saved, about = work.save(arrays, paths), tasks.taken_by(arrays)
                record.model = tasks.write_card(paths, saved, config, about, record.config["model"], proof)
            if scores is not None:
                summary.write_confusion(scores, arrays, paths)
            if summary.draws(config, pictures):
                summary.gather(work, scores, arrays, record).draw(paths.root)
        summary.tell_result(record, summary.data_line(arrays), time.monotonic() - began, paths)


@contextlib.contextmanager
def _with_children(paths: RunPaths) -> Iterator[None]:
    """The runs that a script begins below its own end when it does."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as ending:
        error = ending
        raise
    finally:
        children.end_open(store.workspace(), paths.root, error)


def _with_loaders(
    recording: Recording,
    signed: Mapping[str, Any],
    config: Mapping[str, Any],
    inputs: list[dict[str, Any]],
    pictures: bool,
) -> None:
    """The rest of a run whose data set brings its own loaders: Lightning carries out the module's own steps."""
    record, paths = recording.record, recording.paths
    feed = loaded.make_feed(config, paths.root)
    record.data = [loaded.described(signed, feed, inputs), *inputs]
    record.signature = signature(signed, record.data, record.code)
    recording.write()

    began = time.monotonic()
    if config["task"] == "fit":
        work, offered = loaded.make(config, feed)
        proof = seals.Proof(store.workspace(), record.id, record.config)
        continuing.begin(config, record, proof.code, paths)
        recording.write()
        work.train(paths, _resumed(config, paths))
        record.training, record.threads = work.training, work.threads  # which the first batch decides
        log.info("Threads: %s", threads.describe(work.threads))
    else:
        continuing.check_scoring(config, record, is_split=False)
        work = loaded.wrap(_saved_model(config), config, feed)
    recording.leave_if_forked()
    if config["task"] == "predict":
        from labrun.tasks import predicting

        card = tasks.load_card(RunPaths(Path(config["from"]["path"])), config["from"]["id"])
        table = predicting.of_loaders(work, feed, card, paths)
        summary.tell_result(record, feed.told, time.monotonic() - began, paths, _written(table, config, paths))
        return
    work.test_steps(paths)
    if config["task"] == "fit":
        paths.outputs.mkdir(parents=True, exist_ok=True)
        saved, about = work.save_network(paths), loaded.taken_by(feed, offered)
        record.model = tasks.write_card(paths, saved, config, about, record.config["model"], proof)
    if summary.draws(config, pictures):
        Pictures(summary.title(record)).draw(paths.root)
    summary.tell_result(record, feed.told, time.monotonic() - began, paths)


def _predict(
    recording: Recording, signed: Mapping[str, Any], config: Mapping[str, Any], inputs: list[dict[str, Any]]
) -> None:
    """The rest of a run that writes what a finished run's model says of a data set which is read into arrays."""
    from labrun.tasks import predicting, saved  # which the other tasks need not wait for

    record, paths, dataset = recording.record, recording.paths, config["dataset"]
    mounted = mount(config["datastore"], dataset, made := reader.make_reader(dataset))
    source = config["from"]
    folder, title = RunPaths(Path(source["path"])), f"the model of run {source['id']}"
    is_foreign = bool(records.read(folder.root).imported)
    why = functools.partial(seals.refusal, store.workspace(), run_id=source["id"], imported=is_foreign)
    model = saved.load(folder.outputs, title, config["trusted"], why=why, way=BY_OVERRIDE)
    began = time.monotonic()
    if dataset["_target_"] in predicting.FILES:
        files = [predicting.file_of(dataset, mounted.path)]
        reading = reader.reading(made, dataset, mounted.path, taken(config)["limit"])
        streams = reading is not None and not reading.in_memory
        table = predicting.of_file(model, dataset, mounted.path, streams)
        entry: dict[str, Any] = {"name": dataset["name"], "digest": reader.manifest_digest(reader.manifest(files))}
    else:
        arrays = reader.read(dataset, mounted.path, **taken(config), known=_known_table(config))
        table, entry = predicting.of_arrays(model, arrays), _described(arrays)
    record.data = [{**entry, **mounted.described()}, *inputs]
    record.signature = signature(signed, record.data, record.code)
    recording.write()
    what = f"{dataset['name']} ({type(made).__name__})"
    summary.tell_result(record, what, time.monotonic() - began, paths, _written(table, config, paths))


def _written(table: Any, config: Mapping[str, Any], paths: RunPaths) -> str:
    """The predictions as a file; how many there are, and where."""
    from labrun.tasks import predicting

    path = predicting.write(table, paths.outputs, config["predictions"])
    return f"{len(table):,} in {path.relative_to(paths.root)}"


def _known_table(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a model that is to be scored: how its table was read, and its classes; None where it is none of a table."""
    if config["task"] not in records.SCORING:
        return None
    source = config["from"]
    card = cards.read(RunPaths(Path(source["path"])).outputs, f"run {source['id']}")  # `_evaluate` checks its file
    return {**card["table"], "classes": card["class_names"]} if card.get("table") else None


def _is_at_hand(config: Mapping[str, Any]) -> bool:
    """Whether all that a run reads is in memory: one writing of its record, a moment later, will do then."""
    if config["task"] == "script" or shared_cache.is_empty() or any(references(config)):
        return False
    root = local_root(config["datastore"], config["dataset"])
    return root is not None and shared_cache.is_held(config["dataset"], root)


def taken(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's model takes beside arrays of numbers in memory: tables, sparse matrices, samples on the disk."""
    model = config.get("model") or {}  # whoever only looks at the data has none
    own = tasks.is_pipeline(model)
    streams = bool(model) and not schema.is_estimator(str(model.get("_target_")))
    limit = memory.limit(schema.Compute.of(config["compute"])) if streams else None
    return {"tables": own and bool(model.get("preprocess")), "sparse": own, "limit": limit}


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


def arrays_of(config: Mapping[str, Any]) -> Arrays:
    """The data of a config in which nothing is left to resolve."""
    mounted = mount(config["datastore"], config["dataset"], reader.make_reader(config["dataset"]))
    return reader.read(config["dataset"], mounted.path, **taken(config))


def _make(config: Mapping[str, Any], arrays: Arrays) -> Task:
    work = tasks.make(config, arrays)
    if not work.is_shared:
        tasks.refuse_ranks(schema.Compute.of(config["compute"]), f"model={tasks.model_name(config['model'])}")
    return work


def _fit(work: Task, config: Mapping[str, Any], arrays: Arrays, paths: RunPaths) -> None:
    work.fit(arrays, paths, _resumed(config, paths))


def _resumed(config: Mapping[str, Any], paths: RunPaths) -> Path | None:
    """The checkpoint that a training goes on from; None where it begins."""
    resume = config["trainer"].get("resume")
    # An earlier attempt of this very run comes before the run that it was to go on from.
    own = paths.checkpoints / "last.ckpt"
    return own if own.is_file() else Path(resume["path"]) if resume else None


def assist(run_dir: Path) -> None:
    """Take part in a run of several processes, as one that is not the first: train along, and record nothing."""
    record, paths = records.read(run_dir), RunPaths(run_dir)
    config, inputs = mount_inputs(here(record.config))
    if config["task"] == "script":
        script.assist(config, inputs, record, paths)
        return
    if config["task"] != "fit":
        return
    if schema.has_loaders(config["dataset"]):
        work, _ = loaded.make(config, loaded.make_feed(config, run_dir))
        work.train(paths, _resumed(config, paths))
        work.test_steps(paths)
        return
    arrays = arrays_of(config)
    made = _make(config, arrays)
    _fit(made, config, arrays, paths)
    made.assist_test(paths)


def _evaluate(config: Mapping[str, Any], arrays: Arrays, own_file: bool = False) -> tuple[Task, Arrays]:
    """The task around a finished run's model, and the data scaled as that model was trained; see `_saved_model`."""
    source = config["from"]
    card = tasks.load_card(RunPaths(Path(source["path"])), source["id"])
    if card.get("feed"):
        raise UnfitError(
            f"model '{card.get('name')}' of run {source['id']} takes the batches of a data module, and data set "
            f"'{arrays.name}' is read into arrays: choose a data set with loaders (dataset=...)"
        )
    arrays = tasks.check_card(card, arrays, source["id"])
    arrays = dataclasses.replace(arrays, scaling=tasks.card_scaling(card, arrays.scaling))
    log.info("Scoring %s of run %s on %s test samples", card.get("name"), source["id"], f"{len(arrays.test):,}")
    return tasks.wrap(_saved_model(config, own_file), config, arrays), arrays


def _saved_model(config: Mapping[str, Any], own_file: bool = False) -> Any:
    """A finished run's model, loaded without running anything that its files may carry.

    Args:
        config: the run's; `from` says which other run is meant.
        own_file: this command has just written it.
    """
    source = config["from"]
    paths = RunPaths(Path(source["path"]))
    card = tasks.load_card(paths, source["id"])
    file = paths.outputs / str(card["file"])

    def load(names: Sequence[str] | None) -> Any:
        if card.get("kind") == "estimator":
            from labrun.tasks.estimator import load as load_estimator

            return load_estimator(file, None if names is None else list(names))
        return loading.network(file, card, names)

    def why() -> str:
        return seals.refusal(store.workspace(), card, source["id"], bool(records.read(paths.root).imported))

    if own_file:
        return load(None)
    return loading.proven(load, list(config["trusted"]), why, f"run {source['id']}", log.warning)


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
    if record.task == "script":
        return Pictures(summary.title(record))
    if schema.has_loaders(record.config.get("dataset")):
        return Pictures(summary.title(record))
    if record.imported:
        raise DataError(f"run {record.id} came from an archive: what its record names is not built for pictures")
    config, _ = mount_inputs(here(record.config))
    arrays = arrays_of(config)
    if record.data and (differing := continuing.what_differs(record.data[:1], [_described(arrays)])):
        raise DataError(f"the data of run {record.id} have changed since ({differing})")
    source = {"from": {"id": record.id, "path": str(run_dir)}}
    work, arrays = _evaluate({**config, **source}, arrays, own_file=True)
    return summary.gather(work, work.score(arrays.test, arrays), arrays, record)


def _described(arrays: Arrays) -> dict[str, Any]:
    return describe_data(arrays, reader.manifest(arrays.files))


def describe_data(arrays: Arrays, manifest: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the record says of a data set: its parts, and a digest over its files."""
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
