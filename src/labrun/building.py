"""Building what a config names: the one place where a `_target_` becomes an object."""

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

from labrun import exact, masking
from labrun.checking import suggest
from labrun.errors import ConfigError, LabrunError

RESOLVERS = frozenset(
    {"oc.env", "oc.decode", "oc.select", "oc.create", "oc.deprecated", "oc.dict.keys", "oc.dict.values", "mount"}
)
"""What a frozen config may refer to. The user's code may make others known (`eval` is a popular one), and a config that
somebody else wrote must not call them."""
_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\$\{([^:}]*)(:?)")
KNOWN_PACKAGES = ("labrun.", "torch.", "torchvision.", "sklearn.", "pytorch_lightning.", "lightning.")


def looked_up(node: Mapping[str, Any]) -> dict[str, Any]:
    """A config in which what refers to something else, such as a variable of the environment, has its value here.

    Raises:
        ConfigError: a variable is not set here.
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
        raise ConfigError(masking.masked(str(error).splitlines()[0])) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_references(value: Any) -> None:
    """Whether a config refers to nothing but the environment and mounts.

    Raises:
        ConfigError: it refers to something else.
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
                    f"{value!r:.200} refers to something else than the environment (${{oc.env:NAME}}) and mounts: that "
                    "is carried out when a run is submitted, and never for a config that was frozen"
                )


def locate(target: str, key: str) -> Callable[..., Any]:
    """The object that a `_target_` names.

    Raises:
        ConfigError: it cannot be imported; the message says which part is missing.
    """
    from hydra.utils import get_object

    logging.getLogger("hydra._internal.utils").setLevel(logging.CRITICAL)
    try:
        found = get_object(target)
    except Exception as error:  # importing the user's module can raise anything
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        how = ""
        if isinstance(cause, ModuleNotFoundError) and cause.name == "lightning":
            how = " The package lightning is not installed; pytorch_lightning has the same classes, and is."
        if target.startswith("labrun.sweep."):
            how = (
                f" What was labrun.sweep is labrun.search now: {target.replace('labrun.sweep.', 'labrun.search.', 1)}."
            )
        raise ConfigError(
            f"{key}._target_={target!r} cannot be imported ({reason}). It is looked for in the installed "
            f"packages and in the folder where the command was started.{how}"
        ) from error
    if not callable(found):
        raise ConfigError(f"{key}._target_={target!r} is not a class or a function, so nothing can be built from it")
    return typing.cast(Callable[..., Any], found)


def signature(target: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of a target; None where Python cannot tell (some C code).

    Kept: where Python has to parse it, it touches every loaded module, and a forked process then copies their pages.
    """
    try:
        return _signature(target)
    except TypeError:  # it cannot be hashed
        return _signature.__wrapped__(target)


@functools.cache
def _signature(target: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a target, by name; empty where Python cannot tell."""
    found = signature(target)
    return {} if found is None else found.parameters


def must_be_given(target: Callable[..., Any], name: str) -> bool:
    """Whether a target has a parameter of that name, without a default."""
    found = parameters(target).get(name)
    return found is not None and found.default is inspect.Parameter.empty


def build(node: Mapping[str, Any], key: str, *args: Any, **offered: Any) -> Any:
    """Build what a node names. The only place where a config becomes an object.

    It is given what Hydra's `instantiate` would give it, with `_convert_: all` unless the node says otherwise: plain
    dicts and lists.

    Args:
        node: `_target_` and its arguments (plain, resolved values).
        key: where the node stands in the config, for messages.
        args: positional arguments, before the node's own.
        offered: arguments that are passed only if the target has a parameter of that name and the node does not
            give it (or gives null): `input_shape`, `num_classes`, `seed`.

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
    positional = args or tuple(node.get("_args_") or ())  # Hydra, too, has those of a call come first
    _bind(target, positional, given, key, partial=bool(node.get("_partial_")))
    reserved = {name: value for name, value in node.items() if str(name).startswith("_")}
    plain = {name: value for name, value in given.items() if _is_plain(value)}
    live = {name: value for name, value in given.items() if not _is_plain(value)}
    nested = "_target_" in repr(list(plain.values()))
    try:
        if nested or set(reserved) - {"_target_", "_partial_"}:
            # It resolves what it is given, and what comes of that once more: a text with `${` in it is to stay one.
            escaped = exact.escaped(exact.escaped({**reserved, **plain}))
            return instantiate({"_convert_": "all", **escaped}, *args, **live)
        # What `instantiate` comes to where nothing is nested, without making an OmegaConf of it first.
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
