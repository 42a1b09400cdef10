"""Builds a model from a config, and wraps it in a task."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, cast

from labrun import garbage
from labrun.config import targets, validation
from labrun.config.instantiate import Node, build, locate, parameters
from labrun.config.schema import Config
from labrun.data.arrays import Arrays
from labrun.errors import ConfigError, UnfitError
from labrun.tasks import base
from labrun.tasks.task import (
    QUANTITY,
    ModelTask,
    is_network,
    is_network_class,
    is_pipeline,
    model_name,
    own_arguments,
    seed_everything,
    training_parts,
)

log = logging.getLogger(__name__)


def make(config: Config, arrays: Arrays) -> ModelTask:
    """Build the model of a config for a data set, and return its task.

    Raises:
        ConfigError: the model cannot be built, or is neither a torch module nor a scikit-learn estimator.
        UnfitError: the model does not fit the data.
    """
    node = config.model
    target = locate(str(node["_target_"]), "model")
    own = own_arguments(node, target)
    seed_everything(config.seed)
    _check_fit(target, own, arrays, model_name(node))
    model = build(
        own,
        "model",
        input_shape=arrays.input_shape,
        # A network has one output for regression.
        num_classes=arrays.num_classes or (1 if is_network_class(target) else 0),
        seed=config.seed,
        is_regression=arrays.num_classes == 0,
        is_sparse=hasattr(arrays.train.x, "toarray"),
        columns=_columns(arrays),
        **training_parts(target, config),
    )
    return wrap(model, config, arrays)


def wrap(model: Any, config: Config, arrays: Arrays) -> ModelTask:
    """Return the task for a model that is already built."""
    name = model_name(config.model)
    if is_network(model):
        if "pytorch_lightning" not in sys.modules:
            targets.say("Lightning")
        with garbage.loading():
            from labrun.tasks.networks.batch_sources import ArrayBatches
            from labrun.tasks.networks.lightning import NetworkTask

        return NetworkTask(model, config, ArrayBatches(arrays, config), name)
    if arrays.are_streamed:
        why = "" if arrays.reading is None else f" ({arrays.reading.why})"
        raise ConfigError(f"{validation.IN_MEMORY_ALONE.format(name)}{why}")
    _refuse_learning(config.model, name)
    if base.of(config).trains:
        _weigh_classes(model, config.model, arrays, name)
    if arrays.num_classes:
        reason = _not_a_classifier(model)
        if reason:
            raise ConfigError(f"model '{name}' is {reason}, but data set '{arrays.name}' has classes")
    elif _is_a_classifier(model):
        raise UnfitError(
            f"model '{name}' is a classifier, but data set '{arrays.name}' has a numeric target; {QUANTITY}"
        )
    if is_pipeline(config.model):
        from labrun.tasks.pipeline import PipelineTask

        return PipelineTask(model, config, name, arrays)
    if callable(getattr(model, "fit", None)) and callable(getattr(model, "predict", None)):
        from labrun.tasks.estimator import EstimatorTask

        return EstimatorTask(model, config, name, arrays)
    raise ConfigError(
        f"model._target_={config.model['_target_']!r} gave a {type(model).__name__}; labrun trains torch modules "
        "(torch.nn.Module, LightningModule) and scikit-learn estimators (fit and predict)"
    )


def _refuse_learning(node: Node, name: str) -> None:
    """Check that the config of a model other than a network has no keys about a network's learning.

    Raises:
        ConfigError: it has one.
    """
    known = parameters(locate(str(node["_target_"]), "model"))
    of_networks = [key for key in validation.LEARNING if key != "class_weight"]
    idle = [key for key in of_networks if node.get(key) is not None and key not in known]
    if idle:
        raise ConfigError(
            f"{', '.join(f'model.{key}' for key in idle)}: only networks have that, and {name} takes no such argument"
        )


def _weigh_classes(model: Any, node: Node, arrays: Arrays, name: str) -> None:
    """Set `class_weight` on every part of an estimator that accepts it, if the config requests it.

    Raises:
        UnfitError: there are no classes, no part accepts it, or the number of weights is wrong.
    """
    wanted = node.get("class_weight")
    own = parameters(locate(str(node["_target_"]), "model"))
    if wanted is None or "class_weight" in own:
        return
    if not arrays.num_classes:
        raise UnfitError(
            f"model.class_weight: data set '{arrays.name}' has a numeric target, so there are no classes to weight"
        )
    if isinstance(wanted, list) and len(wanted) != arrays.num_classes:
        raise UnfitError(f"model.class_weight has {len(wanted)} weights, but there are {arrays.num_classes} classes")
    params = model.get_params(deep=True) if hasattr(model, "get_params") else {}
    places = [key for key in params if key.rpartition("__")[2] == "class_weight"]
    if not places:
        raise UnfitError(f"model.class_weight: {name} ({type(model).__name__}) does not support class weights")
    value = wanted if wanted == "balanced" else dict(enumerate(wanted))
    model.set_params(**dict.fromkeys(places, value))


def _check_fit(target: Any, own: Mapping[str, Any], arrays: Arrays, name: str) -> None:
    module = sys.modules.get("labrun.models.network")
    if module is None or not (isinstance(target, type) and issubclass(target, module.Network)):
        return
    check = cast(Any, target).check
    given = {key: value for key, value in own.items() if key in parameters(check)}
    reason = check(input_shape=arrays.input_shape, num_classes=arrays.num_classes, **given)
    if reason:
        raise UnfitError(f"model '{name}' does not fit data set '{arrays.name}': {reason}")


def _columns(arrays: Arrays) -> dict[str, list[str]] | None:
    if not arrays.is_table:
        return None
    from labrun.models.pipeline import columns_of

    return columns_of(arrays.train.x)


def _not_a_classifier(model: Any) -> str | None:
    base = sys.modules.get("sklearn.base")
    if base is None or not isinstance(model, base.BaseEstimator):
        return None  # a custom class with fit and predict: its predictions are checked against the classes later
    return "a regressor" if base.is_regressor(model) else "a clusterer" if base.is_clusterer(model) else None


def _is_a_classifier(model: Any) -> bool:
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(model, base.BaseEstimator) and bool(base.is_classifier(model))
