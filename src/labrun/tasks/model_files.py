"""Loads model files of each kind. No code in a file is executed unless the user asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

from labrun import garbage
from labrun.config import trust
from labrun.config.instantiate import build, locate, must_be_given, parameters
from labrun.errors import DataError, UntrustedError
from labrun.runs import seals
from labrun.runs.cards import Card, CardKind
from labrun.tasks.task import is_network, network_node

OLD_CODE = "The line 'code' of 'lab runs show RUN' says where the code that trained it is"
PICKLE_VARIABLE = "LABRUN_ALLOW_PICKLE"
"""Set to 1 to allow pickles in `mlflow models serve`, which has no option for it."""


def proven(
    load: Callable[[Sequence[str] | None], Any],
    trusted: Sequence[str],
    why: Callable[[], str],
    title: str,
    warn: Callable[[str], object],
) -> Any:
    """Load a model if its classes are trusted, or if it is proven to be the user's own.

    Args:
        load: loads the model, given the trusted classes; None trusts all.
        trusted: the classes that the user trusts.
        why: returns why the model is not proven to be the user's own (`seals.refusal`); called only if needed.
        title: the model's name.
        warn: called if the user trusts code that differs from the code that trained the model.

    Raises:
        UntrustedError: neither is the case.
    """
    try:
        found = load(list(trusted))
    except UntrustedError as error:
        reason = why()
        if reason:
            raise error.because(reason) from None
        return load(None)
    if trusted and found is not None and (reason := why()).startswith(seals.EDITED):
        warn(f"{title}: {reason}, so old weights run with new code. {OLD_CODE}")
    return found


def load(file: Path, card: Card, title: str, trusted: Sequence[str] | None, allow_pickle: bool = False) -> Any:
    """Load a model's file according to its kind.

    Args:
        file: the file, whose digest the caller has checked.
        card: its card.
        title: the model's name in messages.
        trusted: classes to trust in addition to those of scikit-learn, torch and labrun; None trusts all.
        allow_pickle: whether to load a pickle, which can execute any code.

    Raises:
        UntrustedError: the model has other classes; the message lists them.
        ConfigError: a class cannot be built.
        DataError: the file is damaged, or is of a kind that labrun does not load.
    """
    match card.kind:
        case CardKind.ESTIMATOR:
            from labrun.tasks.estimator import load_estimator

            return load_estimator(file, trusted)
        case CardKind.NETWORK:
            return network(file, card, trusted)
        case CardKind.CHAINER:
            return chainer(file)
        case CardKind.PICKLE:
            return pickled(file, title, allow_pickle)
        case CardKind.TENSORS:
            raise DataError(
                f"{title}: {file.name} holds only weights, and does not say of which network. Train it with labrun, "
                "whose card says so; or read it yourself with torch.load(..., weights_only=True)"
            )
        case CardKind.FILE:
            raise DataError(
                f"{title}: labrun does not load {file.name}, only .skops, .npz as Chainer writes it, .pkl and .joblib "
                "with allow_pickle, and what its own runs save. 'lab models download' gives the file"
            )
        case CardKind.FOLDER:
            raise DataError(
                f"{title} is the folder {file.name}, which labrun does not load: 'lab models download' gives it, and "
                "Model.get_model_path its path in a script"
            )
    assert_never(card.kind)


def network(file: Path, card: Card, trusted: Sequence[str] | None) -> Any:
    """Build the network of a card and load its weights, unpickling only tensors and plain values.

    Args:
        file: the file with the weights.
        card: the card, with the network's class, its arguments and the shape of its samples.
        trusted: see `load`.

    Raises:
        ConfigError: the network's class is not trusted, or cannot be built.
        DataError: the weights are damaged, or do not fit the network.
    """
    with garbage.loading():
        from labrun.tasks.networks.weights import load_weights

    node = network_node(card)
    if trusted is not None:
        trust.check_model(node, "model", trusted)
    target = locate(node["_target_"], "model")
    if "lr" not in parameters(target):
        node.pop("lr", None)
    offered = {
        **_offered(card),
        **{part: None for part in ("optimizer", "scheduler") if must_be_given(target, part)},  # only for training
    }
    if trusted is None:
        network = build(node, "model", **offered)
    else:
        network = trust.build_model(node, "model", trusted, **offered)
    if not is_network(network):
        raise DataError(f"the card's {node['_target_']} gave a {type(network).__name__}, which is not a network")
    load_weights(network, file)
    return network.eval()


def _offered(card: Card) -> dict[str, Any]:
    """Return the arguments that the data supplied to a network in addition to those in its config."""
    if card.takes_batches:
        return {**card.offered}
    return {"input_shape": card.input_shape or (), "num_classes": len(card.class_names) or 1}


def chainer(file: Path) -> Any:
    """Load the perceptron in an `.npz` with Chainer's layout.

    Raises:
        DataError: the file does not have that layout.
    """
    from labrun.models import chainer_npz
    from labrun.models.mnist_dnn import MnistDNN

    arrays = chainer_npz.read(file)
    for prefix in chainer_npz.PREFIXES:
        first, last = arrays.get(f"{prefix}l1/W"), arrays.get(f"{prefix}l3/W")
        if first is not None and last is not None and first.ndim == last.ndim == 2:
            network = MnistDNN((int(first.shape[1]),), int(last.shape[0]), units=int(first.shape[0]))
            return chainer_npz.load(file, network).eval()
    raise DataError(
        f"{file} holds {', '.join(sorted(arrays)[:10]) or 'no arrays'}, and is not a perceptron of Chainer's MNIST "
        "example (l1/W, l1/b, ... l3/b): labrun cannot tell which network that is"
    )


def pickled(file: Path, title: str, allow_pickle: bool) -> Any:
    """Load a pickle if the user allows it.

    Raises:
        DataError: the user does not allow it, it cannot be loaded, or it is not a model.
    """
    if not allow_pickle:
        raise DataError(
            f"{title}: {file.name} is a pickle, and loading one can run arbitrary code. If you trust who made it, set "
            f"allow_pickle=True (lab models predict --allow-pickle; when served: {PICKLE_VARIABLE}=1)"
        )
    import joblib

    try:
        model = joblib.load(file)
    except Exception as error:  # a pickle can raise anything
        raise DataError(f"{title}: {file.name} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(getattr(model, "predict", None)):
        raise DataError(f"{title}: {file.name} holds a {type(model).__name__}, which has no predict")
    return model
