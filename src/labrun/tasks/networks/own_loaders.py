"""Runs whose data set has its own loaders: building their model, and entries for the record and the card."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun import garbage
from labrun.config import exact, schema, targets
from labrun.config.instantiate import Node, build, locate, must_be_given, parameters
from labrun.config.references import references
from labrun.config.schema import Config
from labrun.data import reader
from labrun.data.digests import manifest_digest
from labrun.errors import ConfigError
from labrun.runs import recording, seals
from labrun.runs.cards import LOADERS
from labrun.runs.groups import DataEntry
from labrun.tasks.task import is_network, model_name, own_arguments, seed_everything, training_parts

if TYPE_CHECKING:
    from labrun.tasks.base import Run
    from labrun.tasks.networks.batch_sources import ModuleBatches
    from labrun.tasks.networks.lightning import NetworkTask

UNSIGNED = frozenset({"name", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "seed"}) | {
    *("batch_size", "eval_batch_size", "shuffle", "drop_last", "sampler", "batch_sampler"),
}
"""Arguments of a data module or its loaders that do not affect the samples."""
READ = ("train", "validation", "test")
"""The splits that training and its test read."""
OFFERED = ("num_classes", "input_shape", "vocab_size", "input_size", "output_size")
"""Arguments of a model that the data's attribute of the same name supplies."""


def make_batches(config: Config, run_dir: Path) -> ModuleBatches:
    """Build the data module of a config and prepare its data.

    Raises:
        ConfigError: it cannot be built.
    """
    if "pytorch_lightning" not in sys.modules:
        targets.say("Lightning")
    from labrun.tasks.networks.batch_sources import ModuleBatches, make_module

    seed_everything(config.seed)
    made = make_module(config.dataset, str(config.model["_target_"]))
    batches = ModuleBatches(made, str(config.dataset["name"]))
    batches.prepared(run_dir, config.dataset)
    return batches


def batches_of_run(run: Run) -> ModuleBatches:
    """Do the same for a run, and describe the data in its record."""
    batches = make_batches(run.config, run.paths.root)
    run.note_data(described(run.signed, batches, run.inputs))
    return batches


def make(config: Config, batches: ModuleBatches) -> tuple[NetworkTask, dict[str, Any]]:
    """Build the model of a config.

    Returns:
        The task, and the arguments that the data's attributes supplied to the model.

    Raises:
        ConfigError: the model cannot be built, or is not a torch module.
    """
    node = config.model
    target = locate(str(node["_target_"]), "model")
    offered = _offered(target, node, batches)
    seed_everything(config.seed)
    model = build(
        own_arguments(node, target),
        "model",
        seed=config.seed,
        **offered,
        **training_parts(target, config),
    )
    return wrap(model, config, batches), offered


def wrap(model: Any, config: Config, batches: ModuleBatches) -> NetworkTask:
    """Return the task for a model that is already built.

    Raises:
        ConfigError: it is not a torch module, or belongs to a different Lightning package than the data module.
    """
    with garbage.loading():
        from labrun.tasks import packages
        from labrun.tasks.networks.lightning import NetworkTask

    name = model_name(config.model)
    if not is_network(model):
        raise ConfigError(
            f"model '{name}' is a {type(model).__name__}, and dataset={batches.name} has its own loaders, which "
            "only torch modules accept: choose a network, or a data set that is read into arrays"
        )
    own, of_data = packages.of(model, name), packages.derived(batches.module, "LightningDataModule")
    if own is not None and of_data is not None and own != of_data:
        raise ConfigError(
            f"model '{name}' is a LightningModule of {own.name}, and dataset={batches.name} a LightningDataModule of "
            f"{of_data.name}: a Trainer takes only those of its own package. Derive both from the same package"
        )
    return NetworkTask(model, config, batches, name)


def _offered(target: Any, node: Node, batches: ModuleBatches) -> dict[str, Any]:
    wanted = [name for name in OFFERED if name in parameters(target) and node.get(name) is None]
    # The splits of `dataset=torch` are the user's own; the data module around them is labrun's.
    source = batches.module.dataset("train") if wanted and batches.parts else batches.module
    if source is batches.module and any(getattr(source, name, None) is None for name in wanted):
        source.setup("fit")  # some data modules set these attributes only in setup()
    found = {name: getattr(source, name, None) for name in wanted}
    offered = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if isinstance(value, int | tuple | list) and not isinstance(value, bool)
    }
    for name in wanted:
        if name not in offered and must_be_given(target, name):
            raise ConfigError(
                f"model: {model_name(node)} needs {name}, and {type(source).__name__} of dataset={batches.name} "
                f"has no attribute {name} that is a whole number or a tuple: add it, or set "
                f"{'' if name in node else '+'}model.{name}=..."
            )
    return offered


def described(signed: Config, batches: ModuleBatches, inputs: Sequence[DataEntry]) -> DataEntry:
    """Return the record's entry on the data, which includes a digest and its source.

    Args:
        signed: the run's config, with mounts still as references.
        batches: the data module.
        inputs: the record's entries on the mounts.
    """
    node = signed.dataset
    prints = {name: _print(one, name) for name, one in _printed(batches)}
    mounted = [one for one in inputs if one.input in set(references(node))]
    if prints:
        silent = [part for part in READ if batches.parts.get(part) and not prints.keys() & {"", part}]
        others = {part: node[part] for part in silent}
        own = [_content(one) for one in mounted if one.input in set(references(others))]
        signed_by, digest = "fingerprint()", _digest([prints, of_config(others), own] if others else prints)
    elif mounted:
        signed_by, digest = "files", _digest([_content(one) for one in mounted])
    else:
        signed_by, digest = "config and code", of_config(node)
    return DataEntry(name=batches.name, kind=str(node["_target_"]), digest=digest, signed_by=signed_by)


def of_config(node: Node) -> str:
    """Return the SHA-256 of a data set's config and the sources of its classes."""
    # A user's own data module may split its samples by its seed.
    unsigned = UNSIGNED if node.get("_target_") in (None, schema.DATASETS) else UNSIGNED - {"seed"}
    kept = {key: value for key, value in node.items() if key not in unsigned}
    own = [target for target in seals.foreign(node) if not target.startswith("labrun.")]
    return _digest([exact.canonical(kept), seals.code_of(own)])


def _printed(batches: ModuleBatches) -> list[tuple[str, Any]]:
    parts = [(part, batches.module.dataset(part)) for part in READ if batches.parts.get(part)]
    return [(name, one) for name, one in [("", batches.module), *parts] if callable(getattr(one, "fingerprint", None))]


def _print(found: Any, part: str) -> str:
    where = f"dataset.{part}" if part else "dataset"
    try:
        given = found.fingerprint()
    except Exception as error:  # the user's code can raise anything
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{where}: {type(found).__name__}.fingerprint() fails in {last.filename}, line {last.lineno}: "
            f"{type(error).__name__}: {recording.first_line(error)}"
        ) from error
    if given is None:
        raise ConfigError(
            f"{where}: {type(found).__name__}.fingerprint() returns None; it must return text or a number"
        )
    return str(given)


def _content(entry: DataEntry) -> str:
    if entry.version:
        return str(entry.version)
    path = Path(str(entry.path))
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return manifest_digest(reader.manifest(files)) if files else "nothing"


def _digest(value: Any) -> str:
    return hashlib.sha256(exact.canonical(value).encode()).hexdigest()


def taken_by(batches: ModuleBatches, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card's entries on the input that a model takes."""
    names = next((v for v in (getattr(batches.module, name, None) for name in ("class_names", "classes")) if v), ())
    listed = list(names) if isinstance(names, list | tuple) else []
    is_text = all(isinstance(name, str) for name in listed)
    return {
        "feed": LOADERS,
        "offered": dict(offered),
        "class_names": listed if is_text else [],
        "data": batches.name,
    }
