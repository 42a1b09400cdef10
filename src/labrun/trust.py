"""What may be built because a file says so that others may have written: classes of models, and nothing else.

A model's card and a run's record name what is to be built, by `_target_`. Both travel: in archives, in shared folders.
So a name is resolved first, and the object decides: a class of a network or of an estimator whose own module and name
are labrun's, scikit-learn's or torch's. No function is called, whatever its name begins with, and the same holds for
each node among the arguments. What else is to be built the user has to name (`trusted`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from labrun import building, targets
from labrun.errors import ConfigError, LabrunError, UntrustedError

MODEL_PACKAGES = ("labrun.models", "sklearn", "torch.nn", "torchvision.models")
"""Where classes of models lie that may be built unasked."""
DEEPEST = 50
"""Levels of nodes within nodes: no model has as many."""


def named_targets(node: Any, key: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every `_target_` in a node, at any depth, with the key of the node that has it.

    Raises:
        ConfigError: one is not text, or the node is too deep.
    """
    if depth > DEEPEST:
        raise ConfigError(f"{key}: its values lie more than {DEEPEST} levels deep, and no model's do")
    if isinstance(node, Mapping):
        if "_target_" in node:
            if not isinstance(node["_target_"], str):
                raise ConfigError(f"{key}._target_={node['_target_']!r:.80}: it names a class, so it is text")
            yield key, node["_target_"]
        for name, value in node.items():
            yield from named_targets(value, f"{key}.{name}", depth + 1)
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from named_targets(value, f"{key}[{place}]", depth + 1)


def check_model(node: Mapping[str, Any], key: str, trusted: Sequence[str], may_import: bool = True) -> None:
    """Whether a saved model's node may be built: every target in it is a model's class, or one that the user names.

    Args:
        node: `_target_` and its arguments.
        key: where it stands, for messages.
        trusted: targets that the user names, as the node spells them.
        may_import: look at the objects themselves; else only at the names, as far as those tell.

    Raises:
        UntrustedError: it may not; the message names every target that is in the way, and what each is.
    """
    unknown = {
        target: why
        for _, target in named_targets(node, key)
        if target not in trusted and (why := refusal(target, may_import))
    }
    if unknown:
        told = "; ".join(
            f"the model is a {target}, which is not labrun's own ({why})" for target, why in unknown.items()
        )
        raise UntrustedError(
            f"{told}. Building it would run code that the file names", [*dict.fromkeys([*trusted, *unknown])]
        )


def refusal(target: str, may_import: bool = True) -> str:
    """Why a target is not a class of a model that may be built unasked; empty where it is one.

    Args:
        target: dotted.
        may_import: import it to decide; otherwise allow what cannot be decided without.
    """
    if not _is_in(target, MODEL_PACKAGES):
        return f"no class of {', '.join(MODEL_PACKAGES)}"
    if not may_import:
        try:
            is_plain = len(targets.locate(target).names) == 1
        except (ImportError, ValueError, AttributeError):
            return "it cannot be found"
        if is_plain:
            return ""
    try:
        found = _resolved(target)
    except LabrunError as error:
        return str(error)
    if _is_builder(found):
        return ""
    if not isinstance(found, type):
        return f"it is the {type(found).__name__} {_own_name(found)}, and no class"
    if not _is_in(_own_name(found), MODEL_PACKAGES):
        return f"it is {_own_name(found)}, no class of {', '.join(MODEL_PACKAGES)}"
    return "" if _is_model(found) else f"{_own_name(found)} is not a class of a network or an estimator"


def _is_in(name: str, packages: Sequence[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)


def _own_name(found: Any) -> str:
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else getattr(found, "__name__", "?")


def _resolved(target: str) -> Any:
    """The object behind a dotted name, followed without leaving the package that the name begins with.

    Raises:
        ConfigError: there is none, or the name leads out of the package.
    """
    first, *rest = target.split(".")
    found: Any = _module(first, target)
    for part in rest:
        if isinstance(found, ModuleType):
            name = f"{found.__name__}.{part}"
            found = getattr(found, part) if part in vars(found) else _module_or_offered(found, part, name, target)
            if isinstance(found, ModuleType) and found.__name__.partition(".")[0] != first:
                raise ConfigError(f"it leads out of {first}, to {found.__name__}")
        elif isinstance(found, type) and part in vars(found):
            found = vars(found)[part]
        else:
            raise ConfigError(f"there is no {part!r} in {_own_name(found)}")
    return found


def _module_or_offered(module: ModuleType, part: str, name: str, target: str) -> Any:
    """A module below another one, or what a module gives that loads its names when they are asked for."""
    try:
        return getattr(module, part)
    except AttributeError:
        return _module(name, target)


def _module(name: str, target: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except Exception as error:  # importing can raise anything
        raise ConfigError(
            f"{target} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _is_model(found: type) -> bool:
    """Whether a class is one of a network or of an estimator."""
    torch, base = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    kinds = ([] if torch is None else [torch.nn.Module]) + ([] if base is None else [base.BaseEstimator])
    return any(issubclass(found, kind) for kind in kinds)


def _is_builder(found: Any) -> bool:
    """Whether it is one of torchvision's own functions that build its networks, such as `resnet18`."""
    module = sys.modules.get("torchvision.models._api")
    known = getattr(module, "BUILTIN_MODELS", {})
    return callable(found) and any(found is one for one in known.values())


def _without_download(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that keep torchvision from fetching weights: the saved ones take their place."""
    wanted = [key for key in ("weights", "weights_backbone") if given.get(key) is not None]
    made: dict[str, Any] = dict.fromkeys(wanted)
    if "weights" in wanted and name in ("googlenet", "inception_v3"):  # with weights these turn the channels, too
        made |= {"transform_input": given.get("transform_input", True), "init_weights": False}
    return made


def build_model(node: Mapping[str, Any], key: str, trusted: Sequence[str], **offered: Any) -> Any:
    """Build a saved model's node, once `check_model` allows it.

    Nothing in it is interpolated, and nothing is built that was not checked.

    Args:
        node: `_target_` and its arguments, plain values.
        key: where it stands, for messages.
        trusted: see `check_model`.
        offered: arguments that are passed where the target has a parameter of that name and the node has no value.

    Raises:
        ConfigError: it may not be built, or cannot be.
    """
    check_model(node, key, trusted)
    found = _callable(node["_target_"], key)
    known = building.parameters(found)
    missing = {name: value for name, value in offered.items() if name in known and node.get(name) is None}
    return _built(node, key, missing)


def _callable(target: str, key: str) -> Any:
    return _resolved(target) if not refusal(target) else building.locate(target, key)


def _built(node: Any, key: str, more: Mapping[str, Any] | None = None) -> Any:
    if isinstance(node, list | tuple):
        return [_built(value, f"{key}[{place}]") for place, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {name: _built(value, f"{key}.{name}") for name, value in node.items()}
    target = _callable(node["_target_"], key)
    deep = node.get("_recursive_", True)
    given = {name: value for name, value in node.items() if not str(name).startswith("_")}
    places = list(node.get("_args_") or ())
    if deep:
        given = {name: _built(value, f"{key}.{name}") for name, value in given.items()}
        places = [_built(value, f"{key}._args_") for value in places]
    given |= more or {}
    if _is_builder(target):
        given |= _without_download(target.__name__, given)
    try:
        return functools.partial(target, *places, **given) if node.get("_partial_") else target(*places, **given)
    except Exception as error:
        if isinstance(error, LabrunError) or not _is_in(node["_target_"], MODEL_PACKAGES):
            raise  # the user's own code: its traceback says where
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {node['_target_']} could not be built: {type(error).__name__}: {reason}") from error
