"""Safe building of models from untrusted files: only model classes are built without the user's consent.

A model's card and a run's record contain `_target_`s to build, and both may come from others, in archives or shared
folders. So each name is resolved first, and the object itself is checked: it must be the class of a network or an
estimator whose own module and name belong to labrun, scikit-learn or torch. Functions are not called, whatever their
names begin with, except torchvision's own model builders. The same holds for each node among the arguments. The user
has to name every other target (`trusted`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from labrun.config import instantiate, targets
from labrun.config.instantiate import Node
from labrun.errors import ConfigError, LabrunError, UntrustedError

MODEL_PACKAGES = ("labrun.models", "sklearn", "torch.nn", "torchvision.models")
"""Packages whose model classes are built without the user's consent."""
DEEPEST = 50
"""Maximum nesting depth of a node; no real model reaches it."""


def named_targets(node: Any, key: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield every `_target_` in a node, at any depth, as pairs of the key of its node and the target.

    Raises:
        ConfigError: a target is not text, or the node is nested too deeply.
    """
    if depth > DEEPEST:
        raise ConfigError(f"{key}: its values are nested more than {DEEPEST} levels deep")
    if isinstance(node, Mapping):
        if "_target_" in node:
            if not isinstance(node["_target_"], str):
                raise ConfigError(f"{key}._target_={node['_target_']!r:.80}: it names a class, so it must be text")
            yield key, node["_target_"]
        for name, value in node.items():
            yield from named_targets(value, f"{key}.{name}", depth + 1)
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from named_targets(value, f"{key}[{place}]", depth + 1)


def check_model(node: Node, key: str, trusted: Sequence[str], may_import: bool = True) -> None:
    """Check that a saved model may be built: every target in its node is a model class, or trusted by the user.

    Args:
        node: `_target_` and its arguments.
        key: config key of the node, for messages.
        trusted: targets that the user trusts, spelled as in the node.
        may_import: check the imported objects; False: check only the names, as far as they suffice.

    Raises:
        UntrustedError: it may not; the message names every untrusted target, and the reason for each.
    """
    unknown = {
        target: why
        for _, target in named_targets(node, key)
        if target not in trusted and (why := refusal(target, may_import))
    }
    if unknown:
        reasons = "; ".join(
            f"the model is a {target}, which is not labrun's own ({why})" for target, why in unknown.items()
        )
        raise UntrustedError(
            f"{reasons}. Building it would run code that the file names", [*dict.fromkeys([*trusted, *unknown])]
        )


def refusal(target: str, may_import: bool = True) -> str:
    """Return why a target may not be built without the user's consent; empty if it may.

    Args:
        target: the dotted name.
        may_import: import it to decide; False: allow a target that cannot be checked without importing it.
    """
    if not _is_in(target, MODEL_PACKAGES):
        return f"not a class of {', '.join(MODEL_PACKAGES)}"
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
        return f"it is the {type(found).__name__} {_own_name(found)}, not a class"
    if not _is_in(_own_name(found), MODEL_PACKAGES):
        return f"it is {_own_name(found)}, not a class of {', '.join(MODEL_PACKAGES)}"
    return "" if _is_model(found) else f"{_own_name(found)} is not a class of a network or an estimator"


def _is_in(name: str, packages: Sequence[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)


def _own_name(found: Any) -> str:
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else getattr(found, "__name__", "?")


def _resolved(target: str) -> Any:
    """Resolve a dotted name to an object, without leaving its top-level package.

    Raises:
        ConfigError: there is no such object, or the name leads out of the package.
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
    """Return an attribute that a module loads lazily, or else the submodule of this name."""
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
    """Whether a class is a torch module or a scikit-learn estimator."""
    torch, base = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    kinds = ([] if torch is None else [torch.nn.Module]) + ([] if base is None else [base.BaseEstimator])
    return any(issubclass(found, kind) for kind in kinds)


def _is_builder(found: Any) -> bool:
    """Whether an object is one of torchvision's own model builder functions, such as `resnet18`."""
    module = sys.modules.get("torchvision.models._api")
    known = getattr(module, "BUILTIN_MODELS", {})
    return callable(found) and any(found is one for one in known.values())


def _without_download(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that keep torchvision from downloading weights, which the saved ones replace."""
    wanted = [key for key in ("weights", "weights_backbone") if given.get(key) is not None]
    made: dict[str, Any] = dict.fromkeys(wanted)
    if "weights" in wanted and name in ("googlenet", "inception_v3"):  # with weights, these also transform the input
        made |= {"transform_input": given.get("transform_input", True), "init_weights": False}
    return made


def build_model(node: Node, key: str, trusted: Sequence[str], **offered: Any) -> Any:
    """Build a saved model after `check_model`.

    No interpolation is resolved, and only checked nodes are built.

    Args:
        node: `_target_` and its arguments, plain values.
        key: config key of the node, for messages.
        trusted: see `check_model`.
        offered: arguments that are passed if the target has a parameter of that name and the node has no value for it.

    Raises:
        ConfigError: the model may not be built, or building it fails.
    """
    check_model(node, key, trusted)
    found = _callable(node["_target_"], key)
    known = instantiate.parameters(found)
    missing = {name: value for name, value in offered.items() if name in known and node.get(name) is None}
    return _built(node, key, missing)


def _callable(target: str, key: str) -> Any:
    return _resolved(target) if not refusal(target) else instantiate.locate(target, key)


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
