"""Model files of each kind, loaded so that nothing in them runs unless the user asked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import garbage, schema, trust
from labrun.building import must_be_given
from labrun.errors import ConfigError, DataError, LabrunError, UntrustedError
from labrun.runs import cards, seals
from labrun.tasks import task as tasks

OLD_CODE = "The code that trained it lies where the line 'code' of 'lab runs show RUN' says"
PICKLE_VARIABLE = "LABRUN_ALLOW_PICKLE"
"""For `mlflow models serve`, which takes no such option: 1."""


def proven(
    load: Callable[[Sequence[str] | None], Any],
    trusted: Sequence[str],
    why: Callable[[], str],
    title: str,
    warn: Callable[[str], object],
) -> Any:
    """A model, loaded as what is trusted allows, or because it is the user's own.

    Args:
        load: takes what is trusted; None: all.
        trusted: by the user.
        why: gives the reason why it is not the user's own (`seals.refusal`); asked only where it matters.
        title: what the model is called.
        warn: told where the user trusts other code than that which trained the model.

    Raises:
        UntrustedError: neither.
    """
    try:
        found = load(list(trusted))
    except UntrustedError as error:
        reason = why()
        if reason:
            raise error.because(reason) from None
        return load(None)
    if trusted and found is not None and (reason := why()).startswith(seals.EDITED):
        warn(f"{title}: {reason}, and old weights meet new code. {OLD_CODE}")
    return found


def estimator(file: Path, trusted: Sequence[str] | None) -> Any:
    """A model that skops saved: of scikit-learn's own types, ours, and those named; None: of any.

    Raises:
        UntrustedError: it is of other types; the message names them.
        DataError: the file is damaged.
    """
    from labrun.tasks.estimator import load as load_estimator

    try:
        return load_estimator(file, None if trusted is None else list(trusted))
    except ConfigError:
        raise
    except LabrunError as error:
        raise DataError(str(error)) from error


def network(file: Path, card: Mapping[str, Any], trusted: Sequence[str] | None) -> Any:
    """The network that a card describes, with the weights of a file; nothing but tensors is unpickled.

    Args:
        file: the weights.
        card: says which class, with which arguments, for samples of which shape.
        trusted: further classes that may be built; None trusts the card, for one that this command has just written.

    Raises:
        ConfigError: its class is not trusted, or cannot be built.
        DataError: the weights are damaged, or another network's.
    """
    with garbage.loading():
        from labrun.tasks.lightning import load_weights

    node = {**tasks.card_arguments(card), "_target_": cards.target(card)}
    if trusted is not None:
        trust.check_model(node, "model", trusted)
    target = schema.locate(node["_target_"], "model")
    if "lr" not in schema.parameters(target):
        node.pop("lr", None)
    offered = {
        **_offered(card),
        **{part: None for part in ("optimizer", "scheduler") if must_be_given(target, part)},  # for training alone
    }
    if trusted is None:
        network = schema.build(node, "model", **offered)
    else:
        network = trust.build_model(node, "model", trusted, **offered)
    if not tasks.is_network(network):
        raise DataError(f"the card's {node['_target_']} gave a {type(network).__name__}, which is not a network")
    load_weights(network, file)
    return network.eval()


def _offered(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a network was given of its data, beside its own arguments."""
    if card.get("feed") is not None:
        return dict(card.get("offered") or {})
    classes = len(card.get("class_names") or ()) or 1
    return {"input_shape": tuple(card.get("input_shape") or ()), "num_classes": classes}


def chainer(file: Path) -> Any:
    """The perceptron whose sizes an `.npz` in Chainer's layout has.

    Raises:
        DataError: it is no such file.
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
    """What a pickle holds, if the user asked for it.

    Raises:
        DataError: nobody did; it cannot be loaded; it is not a model.
    """
    if not allow_pickle:
        raise DataError(
            f"{title}: {file.name} is a pickle, and loading one can run any code. If you trust who made it, say "
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
