"""Checks of a resolved config against the schema; `validate` reports all mistakes at once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import fields
from typing import Any

from labrun.config import targets
from labrun.config.checking import check_fields, fits, literal_secrets, names_a_folder
from labrun.config.instantiate import Node
from labrun.config.schema import (
    DATASETS,
    DATASTORES,
    TARGETS,
    Config,
    DataModule,
    Dataset,
    DatasetSettings,
    Ensemble,
    GeneralSettings,
    LearningSettings,
    LogisticRegression,
    Model,
    Pipeline,
    PipelineSettings,
    Positive,
    RemoteDatastore,
    Root,
    TorchDatasets,
    datastore_target,
    has_loaders,
    is_estimator,
)
from labrun.errors import ConfigError
from labrun.plugins import TASKS

VALIDATED = ("labrun.data.readers.GetData", "labrun.data.readers.Npz")
"""Readers whose data may include a validation split."""


DEFAULTS = {"dataset": "digits", "model": "logistic_regression"}
OWN_VALUES = "Put your own values, for '${vars.NAME}', below vars"
OWN_VALUES_OF_DATA = "Put your own values below dataset.vars, and refer to them as ${dataset.vars.NAME}"


def validate(config: Node) -> Config:
    """Check a resolved config (plain dicts and lists) against the schema.

    Returns:
        The config with typed parts.

    Raises:
        ConfigError: lists every mistake: the key, the value given, the values allowed.
    """
    problems = list(check_fields(config, Root, "", own_values=OWN_VALUES))
    task = TASKS.find(config.get("task", "fit"))
    if task is not None:
        problems += task.problems(config)
    if config.get("script") and (task is None or task.reads):
        problems.append("script: only task=script runs a script; use experiment=script")
    if task is None or task.reads:
        problems += _check_component("dataset", config.get("dataset"), _check_dataset)
        problems += _check_component("model", config.get("model"), _check_model)
    problems += list(check_datastore(config.get("datastore")))
    name = config.get("name")
    if isinstance(name, str) and not names_a_folder(name):
        problems.append(
            f"name={name!r}: it names a folder, so it must not be empty, contain a slash or begin with a dot"
        )
    trainer, callbacks = config.get("trainer"), config.get("callbacks")
    if isinstance(trainer, Mapping) and trainer.get("evaluate") == "best" and not callbacks:
        problems.append("trainer.evaluate=best needs a checkpoint of the best epoch, but callbacks=none keeps none")
    problems += list(_check_threads(config))
    dataset, model = config.get("dataset"), config.get("model")
    if isinstance(model, Mapping):
        problems += _check_folds(model, dataset if isinstance(dataset, Mapping) else {})
    problems += _check_parts(dataset, None if task is None else task.part)
    if isinstance(model, Mapping):
        problems += _check_learning(model)
    if problems:
        raise ConfigError(problems)
    return Config(config)


def _check_component(group: str, node: Any, check: Callable[[Node], Iterator[str]]) -> Iterator[str]:
    """Yield the mistakes in the node of a group that the task needs; `check` finds those in its keys."""
    if node is None:
        yield f"{group} is missing: choose one, as in {group}={DEFAULTS[group]}"
    elif isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
        yield from check(node)
    elif isinstance(node, Mapping):
        yield f"{group}._target_ is missing: it names the Python class or function to use"


def _check_dataset(node: Node) -> Iterator[str]:
    known = TARGETS.get(node["_target_"])
    if known is not None:
        own_values = OWN_VALUES_OF_DATA if known is TorchDatasets else ""
        yield from check_fields(node, known, "dataset", own_values=own_values)
    elif has_loaders(node):
        yield from check_fields(node, DataModule, "dataset", open_ended=True)
    else:
        if "name" not in node:  # perhaps it was to be a data module, which needs none
            yield from _not_there(node["_target_"])
        yield from _check_settings(node)
        yield from check_fields(node, Dataset, "dataset", open_ended=True)


def _check_model(node: Node) -> Iterator[str]:
    known = TARGETS.get(node["_target_"])
    yield from check_fields(node, known or Model, "model", open_ended=known is None)


def _check_folds(model: Node, dataset: Node) -> Iterator[str]:
    """Yield the mistakes in the cross-validation of a pipeline."""
    if TARGETS.get(str(model.get("_target_"))) not in (Pipeline, Ensemble):
        return
    settings = PipelineSettings.of(model)
    if settings.folds == 1 and not dataset.get("validation_size") and dataset.get("_target_") not in VALIDATED:
        yield (
            "model.folds=1 compares pipelines on the validation split, but there is none: set "
            "dataset.validation_size=0.2. A cross-validation has at least 2 folds; 0 leaves it out"
        )
    if not settings.folds and not settings.refit:
        yield "model.folds=0 model.refit=false: nothing would be fitted; leave one of the two out"


def _not_there(target: str) -> Iterator[str]:
    try:
        targets.check(target, "dataset")
    except ConfigError as error:
        yield str(error)


def check_pair(dataset: Node, model: Node) -> Iterator[str]:
    """Yield the reasons why an estimator cannot use a data set: estimators take only arrays in memory."""
    target = str(model.get("_target_"))
    if has_loaders(dataset):
        if TARGETS.get(target) in (LogisticRegression, Pipeline, Ensemble):
            yield (
                f"dataset={dataset.get('name') or dataset['_target_']} has its own loaders, which only torch "
                "modules accept: choose a network, or a data set that is read into arrays"
            )
    elif dataset.get("in_memory") is False and is_estimator(target):
        yield IN_MEMORY_ALONE.format(model.get("name") or target.rpartition(".")[2])


IN_MEMORY_ALONE = (
    "dataset.in_memory=false: {} takes arrays in memory, and only networks take samples from the disk. Choose a "
    "network, set dataset.in_memory=true, or take fewer samples (dataset.max_samples)"
)


def _check_parts(node: Any, wanted: str | None) -> Iterator[str]:
    """Yield the mistakes in the splits and samplers of a `TorchDatasets` node.

    Args:
        node: the `dataset` node.
        wanted: the split that the task needs, if any.
    """
    if not isinstance(node, Mapping) or node.get("_target_") != DATASETS:
        return
    for part in ("train", "validation", "test", "predict", "sampler", "batch_sampler"):
        given = node.get(part)
        if given and not isinstance(given.get("_target_"), str):
            yield f"dataset.{part} names no class: set dataset.{part}._target_=my_data.MyDataset"
        elif not given and part == wanted:
            yield f"dataset.{part} is missing: set dataset.{part}._target_=my_data.MyDataset"


def _check_settings(node: Node) -> Iterator[str]:
    """Check what labrun does with the samples of a user's own reader, except for keys that the reader takes itself."""
    general = {f.name for f in fields(GeneralSettings)}
    given = {f.name for f in fields(DatasetSettings)} - general
    found = {key: node[key] for key in given if key in node and not targets.takes(node["_target_"], key)}
    yield from check_fields({"name": "", **found}, DatasetSettings, "dataset")


LEARNING = tuple(f.name for f in fields(LearningSettings))
"""Keys of a model node that configure the training of a plain network. A class with such parameters receives them."""


def _check_learning(node: Node) -> Iterator[str]:
    """Yield the mistakes in the `LEARNING` keys. Keys that the class itself takes are not checked."""
    if all(node.get(key) is None for key in LEARNING):
        return
    target = str(node.get("_target_"))
    is_torchs = target in TARGETS or any(
        name.partition(".")[0] in targets.PYTORCH for name in targets.ancestors(target)
    )
    if not is_torchs:
        return  # for example, an estimator with its own `loss` and `class_weight`: checked when it is built
    idle = [key for key in LEARNING if node.get(key) is not None and key != "class_weight"]
    if idle and TARGETS.get(target) in (LogisticRegression, Pipeline, Ensemble):
        yield f"{', '.join(f'model.{key}' for key in idle)}: only networks have that, and this model is not one"
        return
    yield from learning_mistakes(node, [key for key in LEARNING if targets.takes(target, key)])


def learning_mistakes(node: Node, own: Container[str]) -> Iterator[str]:
    """Yield the mistakes in a plain network's `LEARNING` keys, except those that are its own arguments."""
    given = {key: node.get(key) for key in LEARNING if key not in own}
    parts, metrics = {"model.loss": given.get("loss")}, given.get("metrics")
    if metrics is not None and not isinstance(metrics, Mapping):
        yield "model.metrics: name each, as in model.metrics.f1._target_=torchmetrics.classification.MulticlassF1Score"
    elif metrics is not None:
        parts |= {f"model.metrics.{name}": one for name, one in metrics.items()}
    for key, one in parts.items():
        if one is not None and not (isinstance(one, Mapping) and isinstance(one.get("_target_"), str)):
            yield f"{key}={one}: say which class it is, as in {key}._target_=torch.nn.MSELoss"
    weights = given.get("class_weight")
    if not (weights in (None, "balanced") or (isinstance(weights, list) and fits(weights, list[Positive]))):
        yield f"model.class_weight={weights}: expected balanced, or a list with a weight above 0 for each class"
    if given.get("target") not in (None, "data", "input"):
        yield f"model.target={given['target']}: expected data, or input for a network that reproduces its input"


def _check_threads(config: Node) -> Iterator[str]:
    trainer, compute = config.get("trainer"), config.get("compute")
    if not (isinstance(trainer, Mapping) and isinstance(compute, Mapping)):
        return
    wanted, allowed = trainer.get("threads"), compute.get("cpus_per_run")
    if isinstance(wanted, int) and isinstance(allowed, int) and wanted > allowed:
        yield (
            f"trainer.threads={wanted}: compute.cpus_per_run={allowed} allows no more. Set "
            f"compute.cpus_per_run={wanted}, or trainer.threads=auto"
        )


def check_datastore(node: Any) -> Iterator[str]:
    """Yield the mistakes in a resolved `datastore` node."""
    if not isinstance(node, Mapping):
        return
    known = DATASTORES.get(datastore_target(node))
    yield from check_fields(node, known or RemoteDatastore, "datastore", open_ended=known is None)


def check_secrets(node: Node, path: str = "datastore") -> None:
    """Check that an unresolved `datastore` node takes all its secrets from environment variables.

    Raises:
        ConfigError: a secret is written out, or is the default of a reference. The message does not contain it.
    """
    known = DATASTORES.get(datastore_target(node))
    problems = list(literal_secrets(node, known, path))
    if problems:
        raise ConfigError(problems)
