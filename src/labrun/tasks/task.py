"""Base class of models that can be fitted to data and scored; the implementations are in the modules next to it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun import messages
from labrun._io import file_sha256
from labrun.config import exact, schema, validation
from labrun.config.instantiate import Node, build, locate, must_be_given, parameters, resolve_references
from labrun.config.schema import Config
from labrun.data.arrays import Arrays, Part, Scaling
from labrun.errors import ConfigError, DataError, UnfitError
from labrun.runs import cards, context, seals
from labrun.runs.cards import Card
from labrun.runs.groups import ThreadUse, Training
from labrun.runs.record import RunPaths

log = logging.getLogger(__name__)

TRAINING_KEYS = frozenset({"name", "optimizer", "scheduler", "search_space"})
"""Keys of a model's config node that configure its training, not the model itself. (`lr`, and the optimizer and
scheduler once built, are passed to the target if it accepts them.)"""

MODEL_CARD = cards.NAME
CARD_FORMAT = 2
"""Format 2 encodes `arguments` with `labrun.config.exact`, including `_args_` and similar keys."""
QUANTITY = "networks, model=pipeline and scikit-learn's regressors predict numbers"


@dataclass(frozen=True)
class Scores:
    """Scores of a model on one split."""

    accuracy: float | None
    """None for regression."""
    loss: float | None
    """Mean cross-entropy, if the model predicts probabilities."""
    confusion: npt.NDArray[np.int64] | None = field(repr=False)
    """(classes, classes): rows are the true classes, columns the predicted ones; None for regression."""
    more: Mapping[str, float] = field(default_factory=dict)
    """Further metrics, by name."""
    predicted: npt.NDArray[Any] | None = field(default=None, repr=False)
    """(N,) predictions of a regression."""
    prefix: str = ""
    """Prefix for `accuracy` where the plain name means something else: the accuracy in cross-validation."""


class ModelTask(ABC):
    """A model, ready to be fitted to a data set and scored on it."""

    is_final = True
    """Whether to test and save the fitted model; a pipeline may only be cross-validated."""

    is_shared = False
    """Whether several processes can train it together."""

    logs_threads = False
    """Whether the log names the number of threads; the record always does."""

    @property
    def threads(self) -> ThreadUse | None:
        """The threads that it uses; None means all that are allowed."""
        return None

    def limited_threads(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which linear algebra uses at most the number of threads in `threads`, for fitting and scoring."""
        return contextlib.nullcontext()

    @property
    def training(self) -> Training | None:
        """How its training went; None for a model without epochs."""
        return None

    @abstractmethod
    def fit(self, arrays: Arrays, paths: RunPaths, resume_from: Path | None) -> None:
        """Train on `arrays.train`, and log metrics to the run's context."""

    @abstractmethod
    def score(self, part: Part, arrays: Arrays) -> Scores:
        """Score the model on a split."""

    tested: Mapping[str, float] = MappingProxyType({})
    """Metrics that the model's own test steps logged."""

    def test(self, arrays: Arrays, paths: RunPaths) -> Scores | None:
        """Run the model's own test steps, if any, and score the test split; None if only these steps can score it."""
        return self.score(arrays.test, arrays)

    def assist_test(self, paths: RunPaths) -> None:  # noqa: B027 - most have none
        """Take part in the test steps as a process other than the first."""

    @abstractmethod
    def save(self, arrays: Arrays, paths: RunPaths) -> dict[str, Any]:
        """Write the model to the run's `outputs/`. Return entries for its card."""

    def weight_images(self) -> npt.NDArray[Any] | None:
        """Return (classes, features) weights to display as images, for linear models."""
        return None


def own_arguments(node: Node, target: Callable[..., Any]) -> dict[str, Any]:
    """Return the part of a model's node that is passed to its class; the rest configures its training."""
    known = parameters(target)
    left = {key for key in ("lr", *validation.LEARNING) if key not in known}
    return {key: value for key, value in node.items() if key not in TRAINING_KEYS and key not in left}


def training_parts(target: Callable[..., Any], config: Config) -> dict[str, Any]:
    """Return the config's optimizer and scheduler for a module that trains itself and accepts them as arguments."""
    known, node = parameters(target), config.model
    parts: dict[str, Any] = {"scheduler": None} if must_be_given(target, "scheduler") else {}
    if "optimizer" in known and is_named(node.get("optimizer")):
        parts["optimizer"] = optimizer_of(node["optimizer"])
    if "scheduler" in known and is_named(node.get("scheduler")):
        parts["scheduler"] = scheduler_of(node["scheduler"], config.trainer.max_epochs)
    return parts


def refuse_ranks(compute: schema.Compute, what: str) -> None:
    """Check that a run that can use only one process does not request several.

    Args:
        compute: the run's `compute`.
        what: description of the run's work, for the message.

    Raises:
        ConfigError: it requests several.
    """
    if compute.ranks > 1:
        raise ConfigError(
            f"compute.nodes={compute.nodes}, compute.tasks_per_node={compute.tasks_per_node}: only the training "
            f"of a network can use several processes, and this is {what}"
        )


def is_named(node: Any) -> bool:
    """Return whether a config node has a `_target_` to build."""
    return isinstance(node, Mapping) and bool(node.get("_target_"))


def optimizer_of(node: Node) -> Any:
    """Return a factory that builds the optimizer from the parameters to optimize."""
    return build({"_partial_": True, **node}, "model.optimizer")


def scheduler_of(node: Node | None, max_epochs: int) -> Any:
    """Return a factory that builds the scheduler from its optimizer; None for a constant learning rate."""
    if not is_named(node):
        return None
    own = {key: value for key, value in (node or {}).items() if key != "interval"}
    return build({"_partial_": True, **own}, "model.scheduler", T_max=max_epochs)


def is_pipeline(node: Node) -> bool:
    """Return whether a model's node is one of labrun's pipelines, which are cross-validated and take tables."""
    return str(node.get("_target_", "")).startswith("labrun.models.pipeline.")


def is_network_class(target: Callable[..., Any]) -> bool:
    """Return whether a target is a subclass of `torch.nn.Module`, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(target, type) and issubclass(target, torch.nn.Module)


def is_network(model: Any) -> bool:
    """Return whether a model is a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def model_name(node: Node) -> str:
    """Return the model's name for messages and tables."""
    return str(node.get("name") or str(node["_target_"]).rsplit(".", 1)[-1])


def seed_everything(seed: int) -> None:
    """Seed the random number generators of Python, NumPy and, if it is imported, torch."""
    import random

    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def log_scores(scores: Scores, tested: Collection[str] = ()) -> None:
    """Log test scores: every classifier has an `accuracy`, every regressor an `r2`.

    Args:
        scores: the scores on the test split.
        tested: metrics that the model's own test steps logged, which are not overwritten.
    """
    found: dict[str, float] = {}
    if scores.accuracy is not None:
        found[f"{scores.prefix}accuracy"] = scores.accuracy
    if scores.loss is not None:
        found["test_loss"] = scores.loss
    found |= scores.more
    found = {name: value for name, value in found.items() if name not in tested}
    run = context.current()
    shared = [name for name in found if run is not None and run.has_logged(name)]
    if shared:
        log.warning(
            "The model's own code has logged %s, which is labrun's name for the score of the test split: its last "
            "value in the record is that score. Give the model's metric another name",
            " and ".join(shared),
        )
    for name, value in found.items():
        context.log(name, value)


def confusion(y_true: npt.NDArray[Any], y_pred: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Return the confusion matrix: counts of (true, predicted) pairs.

    Shapes:
        y_true, y_pred: (N,) class indices.
        returns: (classes, classes).
    """
    pairs = y_true.astype(np.int64) * classes + y_pred.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def quantities(y: npt.NDArray[Any], predicted: npt.NDArray[Any], name: str) -> Scores:
    """Score a regression by `r2`, `rmse` and `mae`.

    Shapes:
        y, predicted: (N,).

    Raises:
        UnfitError: the predictions are not one finite number per sample.
    """
    if predicted.shape != y.shape or predicted.dtype.kind not in "biuf" or not np.isfinite(predicted).all():
        raise UnfitError(
            f"model '{name}' does not predict one number per sample, but values of the shape {predicted.shape}"
        )
    errors = predicted - y
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float((errors**2).sum()) / spread if spread else 0.0
    more = {"r2": r2, "rmse": float(np.sqrt((errors**2).mean())), "mae": float(np.abs(errors).mean())}
    return Scores(None, None, None, more, predicted)


def write_card(
    paths: RunPaths,
    saved: Mapping[str, Any],
    config: Config,
    about: Mapping[str, Any],
    kept: Node,
    proof: seals.Proof | None = None,
) -> dict[str, Any]:
    """Write a saved model's card, which tells how to load the model and what input it takes.

    Args:
        paths: the run's paths.
        saved: the card's entries that `ModelTask.save` returned.
        config: the run's fully resolved config.
        about: the card's entries on the model's input (`taken_by`).
        kept: the record's `model`, whose references to the environment stay unresolved.
        proof: seals the card, if given.

    Returns:
        The card's content, without its seal.
    """
    node = config.model
    own = own_arguments(node, locate(str(node["_target_"]), "model"))
    content = {
        "format": CARD_FORMAT,
        "name": model_name(node),
        **saved,
        "sha256": file_sha256(paths.outputs / saved["file"]),
        "target": node["_target_"],
        "arguments": exact.encoded(
            {
                key: kept[key] if "${oc." in repr(kept.get(key)) else exact.escaped(value)
                for key, value in own.items()
                if key != "_target_"
            }
        ),
        **about,
    }
    seal = None if proof is None else proof.seal(content)
    sealed = content if seal is None else {**content, seals.FIELD: seal}
    (paths.outputs / MODEL_CARD).write_text(json.dumps(sealed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return content


def taken_by(arrays: Arrays) -> dict[str, Any]:
    """Return a card's entries on the samples that a model takes."""
    return {
        "input_shape": list(arrays.input_shape),
        "class_names": list(arrays.class_names),
        "scaling": {
            "scale": arrays.scaling.scale,
            "mean": list(arrays.scaling.mean),
            "std": list(arrays.scaling.std),
        },
        "data": arrays.name,
        **({"table": arrays.table.content()} if arrays.table is not None else {}),
    }


def check_card(card: Card, arrays: Arrays, run_id: str) -> Arrays:
    """Return a data set with its classes numbered as in a saved model, matched by name if the names overlap.

    Raises:
        UnfitError: the shapes or the numbers of classes differ, or the model does not know some of the classes.
    """
    names, own = card.class_names, arrays.class_names
    strange = sorted(set(own) - set(names))
    shape = card.input_shape or ()
    if shape != arrays.input_shape or bool(names) != bool(own) or (strange and len(own) != len(names)):
        raise UnfitError(
            f"model '{card.name}' of run {run_id} was trained on {messages.shape_text(shape)} {_kinds(names)}, "
            f"but data set '{arrays.name}' has {messages.shape_text(arrays.input_shape)} {_kinds(own)}"
        )
    if own == names:
        return arrays
    if strange and len(strange) < len(own):
        raise UnfitError(
            f"model '{card.name}' of run {run_id} knows the classes {', '.join(names[:10])}, but data set "
            f"'{arrays.name}' also has {', '.join(strange[:10])}"
        )
    if strange:
        log.warning("the classes have different names than in training: %s", ", ".join(own))
        return arrays
    place = np.array([names.index(name) for name in own], np.int64)

    def counted(part: Part | None) -> Any:
        return None if part is None else Part(part.x, place[part.y])

    return dataclasses.replace(
        arrays,
        class_names=names,
        train=counted(arrays.train),
        validation=counted(arrays.validation),
        test=counted(arrays.test),
    )


def _kinds(names: Sequence[str]) -> str:
    return f"in {len(names)} classes" if names else "with a numeric target"


def card_scaling(card: Card, own: Scaling) -> Scaling:
    """Return the scaling for a saved model: the data set's range of stored values, and the model's mean and std."""
    assert card.scaling is not None  # `load_card` refuses such cards
    return Scaling(own.scale, card.scaling.mean, card.scaling.std)


def network_node(card: Card) -> dict[str, Any]:
    """Return a node with a network's class and arguments, with references to the environment resolved on this machine.

    Raises:
        ConfigError: an environment variable is not set.
        DataError: the card is damaged, or has no class.
    """
    try:
        kept = exact.decoded(card.arguments) if card.format >= 2 else exact.escaped_before(card.arguments)
    except ValueError as error:
        raise DataError(f"the model's arguments are damaged: {error}") from error
    try:
        arguments = resolve_references(kept)
    except ConfigError as error:
        raise ConfigError(f"the model's arguments: {error}") from error
    if card.target is None:
        raise DataError("the model's card does not name the model's class")
    return {**arguments, "_target_": card.target}


def load_card(paths: RunPaths, run_id: str) -> Card:
    """Read a finished run's model card, and check the digest of the model's file.

    Raises:
        DataError: the run has saved no model, or the file has changed since.
    """
    title = f"run {run_id}"
    card = cards.read(paths.outputs, title)
    card.verified_file(paths.outputs, title)
    if not card.takes_batches and (card.scaling is None or card.input_shape is None):
        raise DataError(f"{title} holds no model that can be loaded: its card does not say what the model takes")
    return card
