"""`task=predict`: writes a finished run's predictions for a data set to a table with one row per sample."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labrun.data import reader
from labrun.data.arrays import Arrays
from labrun.data.digests import manifest_digest
from labrun.data.mount import mount
from labrun.data.readers.table_form import OF_FILE, TableForm
from labrun.data.readers.user_arrays import place_of
from labrun.errors import BY_OVERRIDE, UnfitError
from labrun.runs import seals, store
from labrun.runs.cards import Card
from labrun.runs.groups import DataEntry
from labrun.runs.record import RunPaths, read_record
from labrun.tasks import evaluating, outputs, reading, resume_checks, sample_files, saved, summary
from labrun.tasks.base import Run
from labrun.tasks.networks import own_loaders
from labrun.tasks.saved import Saved
from labrun.tasks.task import load_card

if TYPE_CHECKING:
    import pandas as pd

    from labrun.config.instantiate import Node
    from labrun.tasks.networks.batch_sources import ModuleBatches
    from labrun.tasks.networks.lightning import NetworkTask

log = logging.getLogger(__name__)

NAME = "predictions"
FILES = frozenset({"labrun.data.readers.Csv", "labrun.data.readers.Npz"})
"""Readers of a single file, which is predicted as a whole and needs no target."""
PLAIN = (bool, int, float, str, list, dict, type(None), np.bool_, np.integer, np.floating, np.str_)
"""Types that a cell of the table may hold."""


def predict(run: Run) -> None:
    """Write the predictions of the model of run `from` for the data."""
    if run.config.has_loaders:
        _predict_with_loaders(run)
        return
    config, dataset, source = run.config, run.config.dataset, run.config.scored
    settings = config.dataset_settings
    mounted = mount(config.datastore, dataset, made := reader.make_reader(dataset))
    folder, title = RunPaths(source.run_dir), f"the model of run {source.id}"
    is_foreign = read_record(folder.root).imported is not None
    why = functools.partial(seals.refusal, store.workspace(), run_id=source.id, imported=is_foreign)
    model = saved.load(folder.outputs, title, config.trusted, why=why, way=BY_OVERRIDE)
    began, taken = time.monotonic(), reading.taken(config)
    if dataset["_target_"] in FILES:
        files = [file_of(dataset, mounted.path)]
        rule = reader.reading(made, settings.in_memory, mounted.path, taken["limit"])
        table = of_file(model, dataset, mounted.path, streams=rule is not None and not rule.in_memory)
        entry = DataEntry(name=settings.name, digest=manifest_digest(reader.manifest(files)))
    else:
        arrays = reader.read(dataset, mounted.path, **taken, known=reading.known_table(config))
        table, entry = of_arrays(model, arrays), reading.described(arrays)
    run.note_data(mounted.described(entry))
    _finish(run, table, f"{settings.name} ({type(made).__name__})", began)


def _predict_with_loaders(run: Run) -> None:
    config, source = run.config, run.config.scored
    batches = own_loaders.batches_of_run(run)
    began = time.monotonic()
    resume_checks.check_scoring(config, run.record, is_split=False)
    work = own_loaders.wrap(evaluating.saved_model(config), config, batches)
    run.recording.leave_if_forked()
    card = load_card(RunPaths(source.run_dir), source.id)
    _finish(run, of_loaders(work, batches, card, run.paths), batches.description, began)


def _finish(run: Run, table: Any, data: str, began: float) -> None:
    """Write the predictions, and report their number and location."""
    path = write(table, run.paths.outputs, run.config.predictions)
    where = f"{len(table):,} in {path.relative_to(run.paths.root)}"
    summary.print_result(run.record, data, time.monotonic() - began, run.paths, where)


def file_of(dataset: Node, root: Path) -> Path:
    """Return the path of the file of a single-file data set."""
    return place_of(root, str(dataset["path"]))


def of_file(model: Saved, dataset: Node, root: Path, streams: bool = False) -> pd.DataFrame:
    """Predict all rows of a table, or all samples of an `.npz`; the target may be missing.

    Args:
        model: the saved model.
        dataset: the config's `dataset`, resolved.
        root: the mounted folder.
        streams: read the samples in blocks.

    Returns:
        A row per sample: the table's ID columns (or `row` if there are none), `prediction`, and `probability_<class>`
        if the model has probabilities.

    Raises:
        DataError: the file cannot be read, or holds nothing that the model takes.
    """
    import pandas as pd

    table_notes: list[str] = []
    model.on_note = table_notes.append
    if dataset.get("decimal"):
        model.decimal = str(dataset["decimal"])
    about: dict[str, Any] = {name: dataset.get(name) for name in OF_FILE}
    path = file_of(dataset, root)
    tables, notes = [], list[str]()
    for fed in sample_files.blocks(path, model) if streams else [sample_files.read(path, model, TableForm(**about))]:
        one = saved.answers(model, fed.samples)
        names = fed.identifiers(model)
        for place, name in enumerate(names):
            one.insert(place, name if name not in one.columns else f"input_{name}", fed.inputs[name].to_numpy())
        tables.append(one)
        notes += fed.notes
    table = pd.concat(tables, ignore_index=True) if streams else tables[0]
    if not names:
        table.insert(0, "row", np.arange(len(table)))
    for note in dict.fromkeys([*notes, *table_notes]):
        log.info("Data: %s", note)
    return table


def of_arrays(model: Saved, arrays: Arrays) -> pd.DataFrame:
    """Predict every sample of a data set, next to its target.

    Returns:
        A row per sample: `part`, `row` (its position in that split), `target`, `prediction`, `probability_<class>`.

    Raises:
        UnfitError: the samples do not fit the model.
    """
    import pandas as pd

    parts = {"train": arrays.train, "validation": arrays.validation, "test": arrays.test}
    found = []
    for name, part in parts.items():
        if part is None or not len(part):
            continue
        x: Any = part.x
        blocks = x.blocks(saved.BATCH) if arrays.are_streamed else [x]
        tables = [saved.answers(model, _scaled_alike(model, arrays, block)) for block in blocks]
        table = pd.concat(tables, ignore_index=True)
        target = part.y if not arrays.class_names else np.array(arrays.class_names)[part.y]
        for place, (column, values) in enumerate((("part", name), ("row", np.arange(len(part))), ("target", target))):
            table.insert(place, column, values)
        found.append(table)
    return pd.concat(found, ignore_index=True)


def _scaled_alike(model: Saved, arrays: Arrays, x: Any) -> Any:
    """Scale samples to the range of stored values in the model's training data."""
    wanted = arrays.scaling.scale if model.card.scaling is None else model.card.scaling.scale
    if wanted == arrays.scaling.scale or arrays.is_table or hasattr(x, "toarray"):
        return x
    return x.astype(np.float32) * np.float32(wanted / arrays.scaling.scale)


def of_loaders(work: NetworkTask, batches: ModuleBatches, card: Card, paths: RunPaths) -> pd.DataFrame:
    """Predict the batches of a data module with the model's own `predict_step`.

    Args:
        work: the task with the model.
        batches: the data module.
        card: the model's card.
        paths: the paths of the predicting run.

    Returns:
        A row per sample: `row` (and `loader` if there are several), and the output for the sample: `prediction`; for
        class scores, also `probability_<class>`; for a dict, its keys.

    Raises:
        UnfitError: there are neither predict nor test batches, or an output does not have a row per sample.
    """
    import pandas as pd

    part = "predict" if batches.has("predict") else "test"
    if not batches.has(part):
        raise UnfitError(f"dataset={batches.name} has neither a predict_dataloader nor a test_dataloader")
    if part == "test":
        log.info("Data: %s has no predict_dataloader: predicting for the test split", batches.name)
        batches.module.setup("test")  # Lightning itself only calls setup("predict")
        batches.module.predict_dataloader = batches.module.test_dataloader
    tables = []
    for answers, count in work.predict_steps(paths):
        if answers:
            tables.append(pd.concat([pd.DataFrame(_columns(one, card)) for one in answers], ignore_index=True))
            if count not in (None, len(tables[-1])):
                log.warning(
                    "predict_step returns %d rows for %d samples: `row` counts its rows, not the samples",
                    len(tables[-1]),
                    count,
                )
    for number, table in enumerate(tables):
        if "row" not in table:
            table.insert(0, "row", np.arange(len(table)))
        if len(tables) > 1 and "loader" not in table:
            table.insert(0, "loader", number)
    if not tables:
        raise UnfitError("predict_step returns nothing")
    return pd.concat(tables, ignore_index=True)


def _columns(answer: Any, card: Card) -> dict[str, Any]:
    """Return the output for one batch by column, with a row per sample."""
    if answer is None:
        raise UnfitError("predict_step returns None for a batch, but must return a row for each sample")
    found: dict[str, Any]
    if isinstance(answer, Mapping):
        found = dict(_named(answer))
    elif isinstance(answer, list) and answer and all(isinstance(one, Mapping) for one in answer):
        names = dict.fromkeys(str(name) for one in answer for name in one)
        rows = [{str(name): value for name, value in one.items()} for one in answer]
        found = {name: [outputs.cell(row.get(name)) for row in rows] for name in names}
    elif isinstance(answer, tuple) and len(answer) > 1 and len({_length(one) for one in answer}) == 1:
        fields = getattr(answer, "_fields", [f"prediction_{place}" for place in range(len(answer))])
        found = dict(_named(dict(zip(fields, answer, strict=True))))
    else:
        values = outputs.plain(answer)
        is_scores = outputs.has_probabilities(card) and isinstance(values, np.ndarray)
        found = _of_scores(values, card) if is_scores else dict(outputs.columns("prediction", answer))
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) != 1:
        raise UnfitError(
            f"predict_step returns columns of different lengths: {lengths}; it must return a row per sample"
        )
    for name, values in found.items():
        odd = next((one for one in values if not isinstance(one, PLAIN)), None)
        if odd is not None:
            raise UnfitError(
                f"predict_step returns a {type(odd).__name__} for {name}; it must return tensors, arrays, numbers, "
                "text, or lists and dicts of these"
            )
    return found


def _named(answer: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the columns of a dict and of nested dicts (`NAME_KEY`)."""
    for name, value in answer.items():
        if isinstance(value, Mapping):
            yield from _named(value, f"{before}{name}_")
        else:
            yield from outputs.columns(f"{before}{name}", value)


def _of_scores(scores: Any, card: Card) -> dict[str, Any]:
    """Return predictions and the probability of each class or label; for sequences and images, only the classes."""
    said, likely = outputs.predicted(scores, card), outputs.probabilities(scores, card)
    if likely.ndim > 2:  # one cell per sample, since the next batch may have longer sequences
        return {"prediction": [one.tolist() for one in said]}
    found = dict(outputs.columns("prediction", said))
    if likely.ndim < 2 or likely.shape[1] == 1:
        return found | {"probability": likely.reshape(-1)}
    names = card.class_names if len(card.class_names) == likely.shape[1] else map(str, range(likely.shape[1]))
    return found | {f"probability_{name}": likely[:, place] for place, name in enumerate(names)}


def _length(value: Any) -> int:
    return len(outputs.plain(value))


def write(table: pd.DataFrame, folder: Path, kind: str) -> Path:
    """Write the table to the run's `outputs/` as `csv` or `parquet`; in a CSV, lists and dicts are JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.{kind}"
    if kind == "parquet":
        table.to_parquet(path, index=False)
        return path
    for name in table.columns:
        if table[name].map(lambda one: isinstance(one, list | dict)).any():
            table[name] = table[name].map(json.dumps)
    table.to_csv(path, index=False)
    return path
