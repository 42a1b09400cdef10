"""A task: something that can be fitted to data and scored on them. The idea; its kinds stand beside it."""

from __future__ import annotations

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

from labrun import checking, exact, schema
from labrun._io import file_sha256
from labrun.building import looked_up, must_be_given
from labrun.data.arrays import Arrays, Part, Scaling
from labrun.errors import ConfigError, DataError, UnfitError
from labrun.runs import cards, context, seals
from labrun.runs.record import RunPaths

log = logging.getLogger(__name__)

TRAINING_KEYS = frozenset({"name", "optimizer", "scheduler", "search_space"})
"""Keys of a model's node that say how it is trained, not what it is. (`lr` is passed on if the target takes it; what an
optimizer and a scheduler come to, too.)"""

MODEL_CARD = cards.NAME
CARD_FORMAT = 2
"""Since 2, `arguments` are written as `labrun.exact` says, `_args_` and the like among them."""
QUANTITY = "networks, model=pipeline and scikit-learn's regressors predict quantities"


@dataclass(frozen=True)
class Scores:
    """How a model did on one part of the data."""

    accuracy: float | None
    """None where a quantity is predicted."""
    loss: float | None
    """Mean cross-entropy, where the model gives probabilities."""
    confusion: npt.NDArray[np.int64] | None = field(repr=False)
    """(classes, classes): rows are the true classes, columns the predicted ones; None where there are none."""
    more: Mapping[str, float] = field(default_factory=dict)
    """Further metrics, by name."""
    predicted: npt.NDArray[Any] | None = field(default=None, repr=False)
    """(N,) where a quantity is predicted."""
    prefix: str = ""
    """Put before `accuracy` where that name means something else: the accuracy in cross-validation."""


class Task(ABC):
    """A model, ready to be fitted to one data set and scored on it."""

    is_final = True
    """Whether what is fitted is to be tested and saved; a pipeline may be cross-validated alone."""

    is_shared = False
    """Whether several processes may train it together."""

    @property
    def threads(self) -> dict[str, Any] | None:
        """How many threads it computes with and why, as the record holds it; None: as many as are allowed."""
        return None

    @property
    def training(self) -> dict[str, Any] | None:
        """How the training went, as the record holds it; None where there are no epochs."""
        return None

    @abstractmethod
    def fit(self, arrays: Arrays, paths: RunPaths, resume_from: Path | None) -> None:
        """Train on `arrays.train`; log metrics to the run's context."""

    @abstractmethod
    def score(self, part: Part, arrays: Arrays) -> Scores:
        """Score the model on a part of the data."""

    tested: Mapping[str, float] = MappingProxyType({})
    """What the model's own test steps have logged."""

    def test(self, arrays: Arrays, paths: RunPaths) -> Scores | None:
        """Carry out the model's own test steps, if it has some, and score the test part; None where only they can."""
        return self.score(arrays.test, arrays)

    def assist_test(self, paths: RunPaths) -> None:  # noqa: B027 - most have none
        """Take part in the test steps, as one of several processes that is not the first."""

    @abstractmethod
    def save(self, arrays: Arrays, paths: RunPaths) -> dict[str, Any]:
        """Write the model into the run's `outputs/`; returns what its card says of it."""

    def weight_images(self) -> npt.NDArray[Any] | None:
        """(classes, features) weights that can be looked at as images, for linear models."""
        return None


def own_arguments(node: Mapping[str, Any], target: Callable[..., Any]) -> dict[str, Any]:
    """What of a model's node goes to the class that it names; the rest says how it is trained."""
    known = schema.parameters(target)
    left = {key for key in ("lr", *schema.LEARNING) if key not in known}
    return {key: value for key, value in node.items() if key not in TRAINING_KEYS and key not in left}


def training_parts(target: Callable[..., Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """For a module that trains by itself, and asks for them: the optimizer and the scheduler of its config."""
    known, node = schema.parameters(target), config["model"]
    parts: dict[str, Any] = {"scheduler": None} if must_be_given(target, "scheduler") else {}
    if "optimizer" in known and is_named(node.get("optimizer")):
        parts["optimizer"] = optimizer_of(node["optimizer"])
    if "scheduler" in known and is_named(node.get("scheduler")):
        parts["scheduler"] = scheduler_of(node["scheduler"], schema.Trainer.of(config["trainer"]).max_epochs)
    return parts


def refuse_ranks(compute: schema.Compute, what: str) -> None:
    """Answer a run that asks for several processes and can use but one.

    Args:
        compute: the run's.
        what: what it is.

    Raises:
        ConfigError: it asks for several.
    """
    if compute.ranks > 1:
        raise ConfigError(
            f"compute.nodes={compute.nodes}, compute.tasks_per_node={compute.tasks_per_node}: only the training "
            f"of a network is shared by several processes, and this is {what}"
        )


def is_named(node: Any) -> bool:
    """Whether a node says what is to be built."""
    return isinstance(node, Mapping) and bool(node.get("_target_"))


def optimizer_of(node: Mapping[str, Any]) -> Any:
    """What makes an optimizer, when called with the parameters that it is to change."""
    return schema.build({"_partial_": True, **node}, "model.optimizer")


def scheduler_of(node: Mapping[str, Any] | None, max_epochs: int) -> Any:
    """What makes a scheduler, when called with its optimizer; None where the learning rate stays."""
    if not is_named(node):
        return None
    own = {key: value for key, value in (node or {}).items() if key != "interval"}
    return schema.build({"_partial_": True, **own}, "model.scheduler", T_max=max_epochs)


def is_pipeline(node: Mapping[str, Any]) -> bool:
    """Whether a model's node is of labrun's own pipelines, which are cross-validated and take tables."""
    return str(node.get("_target_", "")).startswith("labrun.models.pipeline.")


def is_network_class(target: Callable[..., Any]) -> bool:
    """Whether a target is a class of torch modules; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(target, type) and issubclass(target, torch.nn.Module)


def is_network(model: Any) -> bool:
    """Whether a model is a torch module; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def model_name(node: Mapping[str, Any]) -> str:
    """The model's name in messages and tables."""
    return str(node.get("name") or str(node["_target_"]).rsplit(".", 1)[-1])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and, where it is loaded, torch's generators."""
    import random

    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def log_scores(scores: Scores, tested: Collection[str] = ()) -> None:
    """Every classifier logs its final test value as `accuracy`, every regressor as `r2`.

    Args:
        scores: of the test part.
        tested: what the model's own test steps have logged under these names stays.
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
            "The model's own code has logged %s, which is what labrun calls the score of the test part: its last value "
            "in the record is that score. Give the model's metric another name",
            " and ".join(shared),
        )
    for name, value in found.items():
        context.log(name, value)


def confusion(y_true: npt.NDArray[Any], y_pred: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Counts of (true, predicted) pairs.

    Shapes:
        y_true, y_pred: (N,) class numbers.
        returns: (classes, classes).
    """
    pairs = y_true.astype(np.int64) * classes + y_pred.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def quantities(y: npt.NDArray[Any], predicted: npt.NDArray[Any], name: str) -> Scores:
    """How well quantities are predicted: `r2`, `rmse` and `mae`.

    Shapes:
        y, predicted: (N,).

    Raises:
        UnfitError: the model does not predict one number per sample.
    """
    if predicted.shape != y.shape or predicted.dtype.kind not in "biuf" or not np.isfinite(predicted).all():
        raise UnfitError(f"model '{name}' does not predict one number per sample, but the shape {predicted.shape}")
    errors = predicted - y
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float((errors**2).sum()) / spread if spread else 0.0
    more = {"r2": r2, "rmse": float(np.sqrt((errors**2).mean())), "mae": float(np.abs(errors).mean())}
    return Scores(None, None, None, more, predicted)


def write_card(
    paths: RunPaths,
    saved: Mapping[str, Any],
    config: Mapping[str, Any],
    about: Mapping[str, Any],
    kept: Mapping[str, Any],
    proof: seals.Proof | None = None,
) -> dict[str, Any]:
    """Write, beside a saved model, the card that tells how to load and feed it.

    Args:
        paths: the run's.
        saved: what saving the model has returned.
        config: the run's, with nothing left to resolve.
        about: what the model takes (`taken_by`).
        kept: the record's `model`, with its references to the environment: those stay what they are.
        proof: seals the card.

    Returns:
        The card, without its seal.
    """
    node = config["model"]
    own = own_arguments(node, schema.locate(str(node["_target_"]), "model"))
    card = {
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
    seal = None if proof is None else proof.seal(card)
    sealed = card if seal is None else {**card, seals.FIELD: seal}
    (paths.outputs / MODEL_CARD).write_text(json.dumps(sealed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def taken_by(arrays: Arrays) -> dict[str, Any]:
    """What a card says of the samples that a model takes."""
    return {
        "input_shape": list(arrays.input_shape),
        "class_names": list(arrays.class_names),
        "scaling": {
            "scale": arrays.scaling.scale,
            "mean": list(arrays.scaling.mean),
            "std": list(arrays.scaling.std),
        },
        "data": arrays.name,
        **({"table": dict(arrays.table)} if arrays.table is not None else {}),
    }


def check_card(card: Mapping[str, Any], arrays: Arrays, run_id: str) -> Arrays:
    """A data set as a saved model counts its classes: by their names, where the two have names in common.

    Raises:
        UnfitError: shapes or numbers of classes differ; it has classes that the model does not know.
    """
    names, own = [str(name) for name in card.get("class_names") or []], list(arrays.class_names)
    strange = sorted(set(own) - set(names))
    shape = tuple(card.get("input_shape") or ())
    if shape != arrays.input_shape or bool(names) != bool(own) or (strange and len(own) != len(names)):
        raise UnfitError(
            f"model '{card.get('name')}' of run {run_id} was trained on {checking.shape_text(shape)} {_kinds(names)}, "
            f"and data set '{arrays.name}' has {checking.shape_text(arrays.input_shape)} {_kinds(own)}"
        )
    if own == names:
        return arrays
    if strange and len(strange) < len(own):
        raise UnfitError(
            f"model '{card.get('name')}' of run {run_id} knows the classes {', '.join(names[:10])}, and data set "
            f"'{arrays.name}' has {', '.join(strange[:10])}, too"
        )
    if strange:
        log.warning("the classes have other names than in training: %s", ", ".join(own))
        return arrays
    place = np.array([names.index(name) for name in own], np.int64)

    def counted(part: Part | None) -> Any:
        return None if part is None else Part(part.x, place[part.y])

    return dataclasses.replace(
        arrays,
        class_names=tuple(names),
        train=counted(arrays.train),
        validation=counted(arrays.validation),
        test=counted(arrays.test),
    )


def _kinds(names: Sequence[str]) -> str:
    return f"in {len(names)} classes" if names else "with a quantity as the target"


def card_scaling(card: Mapping[str, Any], own: Scaling) -> Scaling:
    """How a saved model wants its samples: its own mean and std, after the data set's own range of stored values."""
    saved = card["scaling"]
    return Scaling(own.scale, tuple(map(float, saved["mean"])), tuple(map(float, saved["std"])))


def card_arguments(card: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a card has for its model, references to the environment looked up here.

    Raises:
        ConfigError: a variable is not set here.
        DataError: the card is damaged.
    """
    given = card.get("arguments") or {}
    try:
        kept = exact.decoded(given) if card.get("format", 1) >= 2 else exact.escaped_before(given)
    except ValueError as error:
        raise DataError(f"the model's arguments are damaged: {error}") from error
    try:
        return looked_up(kept)
    except ConfigError as error:
        raise ConfigError(f"the model's arguments: {error}") from error


def load_card(paths: RunPaths, run_id: str) -> dict[str, Any]:
    """A finished run's model card, its file's digest checked.

    Raises:
        DataError: the run has saved no model, or the file was changed since.
    """
    title = f"run {run_id}"
    card = cards.read(paths.outputs, title)
    cards.file(paths.outputs, card, title)
    if card.get("feed") is None and (card.get("scaling") is None or card.get("input_shape") is None):
        raise DataError(f"{title} holds no model that can be loaded: its card does not say what the model takes")
    return card
