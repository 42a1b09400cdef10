"""Building objects from config nodes: the only place where a `_target_` becomes an object."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labrun import garbage
from labrun.config import exact, masking
from labrun.errors import ConfigError, LabrunError
from labrun.messages import suggest

Node = Mapping[str, Any]
"""A node of a config: its `_target_` and that target's arguments, which only the target knows; or a part of a config
that holds such nodes. What has keys of labrun's own becomes a dataclass of `schema` instead."""
RESOLVERS = frozenset(
    {"oc.env", "oc.decode", "oc.select", "oc.create", "oc.deprecated", "oc.dict.keys", "oc.dict.values", "mount"}
)
"""Resolvers that a frozen config may use. User code may register others (`eval` is a popular one), and a config from
someone else must not call them."""
_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\$\{([^:}]*)(:?)")
KNOWN_PACKAGES = ("labrun.", "torch.", "torchvision.", "sklearn.", "pytorch_lightning.", "lightning.")


def resolve_references(node: Node) -> dict[str, Any]:
    """Return a config with its references, such as environment variables, resolved on this machine.

    Raises:
        ConfigError: a referenced environment variable is not set on this machine.
    """
    if "${" not in repr(node):
        return dict(node)
    check_references(node)
    masking.register()
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        values = OmegaConf.to_container(OmegaConf.create(dict(node)), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(masking.masked(masking.reason(error))) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_references(value: Any) -> None:
    """Check that a config refers only to environment variables and mounts.

    Raises:
        ConfigError: it has another kind of reference.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_references(key)
            check_references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_references(item)
    elif isinstance(value, str) and "${" in value:
        for name, colon in _REFERENCE.findall(value):
            if "$" in name or (colon and name.strip() not in RESOLVERS):
                raise ConfigError(
                    f"{value!r:.200} refers to something other than the environment (${{oc.env:NAME}}) and mounts: "
                    "such references are resolved when a run is submitted, never in a frozen config"
                )


def locate(target: str, key: str) -> Callable[..., Any]:
    """Import the object at a `_target_`.

    Raises:
        ConfigError: it cannot be imported or called; the message says why.
    """
    from hydra.utils import get_object

    logging.getLogger("hydra._internal.utils").setLevel(logging.CRITICAL)
    try:
        with garbage.loading():
            found = get_object(target)
    except Exception as error:  # importing the user's module can raise anything
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        how = ""
        if isinstance(cause, ModuleNotFoundError) and cause.name == "lightning":
            how = " The package lightning is not installed; pytorch_lightning has the same classes, and is installed."
        raise ConfigError(
            f"{key}._target_={target!r} cannot be imported ({reason}). labrun looks in the installed "
            f"packages and in the folder where the command was started.{how}"
        ) from error
    if not callable(found):
        raise ConfigError(f"{key}._target_={target!r} is not a class or a function, so nothing can be built from it")
    return typing.cast(Callable[..., Any], found)


def signature(target: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a target; None if it has none that Python can inspect (some C code).

    Cached, because parsing a signature may touch every loaded module, whose pages a forked process then copies.
    """
    try:
        return _signature(target)
    except TypeError:  # the target is not hashable
        return _signature.__wrapped__(target)


@functools.cache
def _signature(target: Callable[..., Any]) -> inspect.Signature | None:
    if type(target) is type and all(getattr(target, name) is getattr(object, name) for name in ("__init__", "__new__")):
        given: inspect.Signature = getattr(target, "__signature__", inspect.Signature())
        return given  # Python would parse it from a text
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a target by name; empty if Python cannot inspect them."""
    found = signature(target)
    return {} if found is None else found.parameters


def must_be_given(target: Callable[..., Any], name: str) -> bool:
    """Whether a target has a parameter of this name without a default."""
    found = parameters(target).get(name)
    return found is not None and found.default is inspect.Parameter.empty


def build(node: Node, key: str, *args: Any, **offered: Any) -> Any:
    """Build the object that a node describes. This is the only place where a config becomes an object.

    The target receives the same arguments as from Hydra's `instantiate` with `_convert_: all`, that is, plain dicts
    and lists, unless the node sets another `_convert_`.

    Args:
        node: `_target_` and its arguments (plain, resolved values).
        key: config key of the node, for messages.
        args: positional arguments; they replace the node's `_args_`.
        offered: arguments that are passed only if the target has a parameter of that name and the node leaves it out
            or null: `input_shape`, `num_classes`, `seed`.

    Raises:
        ConfigError: the target cannot be imported, or does not take these arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    target = locate(str(node["_target_"]), key)
    known = parameters(target)
    given = {name: value for name, value in node.items() if not str(name).startswith("_")}
    for name, value in offered.items():
        if name in known and given.get(name) is None:
            given[name] = value
    positional = args or tuple(node.get("_args_") or ())  # as in Hydra, those of the call take precedence
    _bind(target, positional, given, key, partial=bool(node.get("_partial_")))
    reserved = {name: value for name, value in node.items() if str(name).startswith("_")}
    plain = {name: value for name, value in given.items() if _is_plain(value)}
    live = {name: value for name, value in given.items() if not _is_plain(value)}
    nested = "_target_" in repr(list(plain.values()))
    try:
        if nested or set(reserved) - {"_target_", "_partial_"}:
            # `instantiate` resolves interpolations twice; escape twice, so that text with `${` in it stays as it is.
            escaped = exact.escaped(exact.escaped({**reserved, **plain}))
            return instantiate({"_convert_": "all", **escaped}, *args, **live)
        # Same as `instantiate` for a node without nested ones, without the detour through OmegaConf.
        own = {name: copy.deepcopy(value) if name in plain else value for name, value in given.items()}
        return functools.partial(target, *args, **own) if node.get("_partial_") else target(*args, **own)
    except Exception as error:
        cause = error.__cause__ or error if isinstance(error, InstantiationException) else error
        if isinstance(cause, LabrunError) and cause is error:
            raise
        if isinstance(cause, LabrunError):
            raise cause from error
        if not str(node["_target_"]).startswith(KNOWN_PACKAGES):
            raise cause from None  # the user's own code: its traceback says where
        reason = " ".join(str(cause).split())
        raise ConfigError(f"{key}: {node['_target_']} could not be built: {type(cause).__name__}: {reason}") from error


def _bind(
    target: Callable[..., Any],
    args: tuple[Any, ...],
    given: Mapping[str, Any],
    key: str,
    partial: bool,
) -> None:
    found = signature(target)
    if found is None:
        return
    known = found.parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    names = [name for name, p in known.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    problems = [
        f"{key}.{name}: {getattr(target, '__name__', target)} takes no such argument."
        f"{suggest(str(name), names)} It takes: {', '.join(names) or 'none'}"
        for name in given
        if name not in known and not takes_any
    ]
    if not partial and not problems:
        try:
            found.bind(*args, **given)
        except TypeError as error:
            problems.append(f"{key}: {getattr(target, '__name__', target)}: {error}")
    if problems:
        raise ConfigError(problems)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool | bytes | Path)
