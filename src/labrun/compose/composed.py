"""Conversion of a composed config to plain values: fully resolved for a run, or as stored in a record.

A record has all interpolations resolved except two kinds: references to environment variables (`${oc.env:...}`), which
may be secrets, and mounts, which are made on the machine that executes the run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, UnsupportedInterpolationType
from omegaconf.resolvers import oc

from labrun.compose.hydra_files import quoted
from labrun.config import exact, hydra_versions, masking, schema, validation
from labrun.config.references import keep_mounts
from labrun.config.schema import Config
from labrun.errors import ConfigError


def resolved(config: DictConfig, keep_environment: bool) -> dict[str, Any]:
    """Return a config as plain dicts and lists, with interpolations resolved.

    Args:
        config: the config that Hydra composed; its `hydra` node is left out.
        keep_environment: leave `${oc.env:...}` as text, for records.

    Raises:
        ConfigError: an interpolation cannot be resolved, a value is missing (`???`), or no record can hold it.
    """
    left_out = {"hydra", *own_nodes(config)}
    with _resolving(keep_environment):
        found = {
            str(key): without_spaces(OmegaConf.to_container(value, resolve=True, throw_on_missing=True))
            if OmegaConf.is_config(value := config[key])
            else value
            for key in config
            if key not in left_out
        }
    problems = [
        f"{where}, which no record can hold: give text, a number, true, false, null, or a list or mapping of those"
        for key, value in found.items()
        for where in exact.unfit(value, key)
    ]
    if problems:
        raise ConfigError(problems)
    return {key: _as_text(value) for key, value in found.items()} if keep_environment else found


def own_nodes(config: DictConfig) -> set[str]:
    """Return the user's own top-level keys: `vars`, and any unknown key that another value refers to.

    They hold values for interpolation, so records do not need them. Other unknown keys are mistakes.
    """
    unknown = {str(key) for key in config} - schema.KEYS - {"hydra"}
    if not unknown:
        return set()
    from hydra.core.hydra_config import HydraConfig

    texts = list(interpolated_texts(OmegaConf.to_container(config, resolve=False)))
    if "hydra" not in config and HydraConfig.initialized():
        texts += interpolated_texts(OmegaConf.to_container(HydraConfig.get(), resolve=False))
    found = {key for key in unknown if key == schema.OPEN}
    for key in unknown - found:
        refers = re.compile(rf"\$\{{(?:\.*|[^{{}}]*[^\w.{{}}]){re.escape(key)}(?!\w)")
        found |= {key} if any(map(refers.search, texts)) else set()
    return found


def interpolated_texts(value: Any) -> Iterator[str]:
    """Yield every text in a config that contains an interpolation."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from interpolated_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from interpolated_texts(item)
    elif isinstance(value, str) and "${" in value:
        yield value


@contextlib.contextmanager
def _resolving(keep_environment: bool) -> Iterator[None]:
    """Register the resolvers for the context, and turn interpolation errors into `ConfigError`s."""
    keep_mounts()
    masking.register()
    if keep_environment:
        hydra_versions.register_resolver("mount", _mount_reference)
        hydra_versions.register_resolver("oc.env", _env_reference)
        hydra_versions.register_resolver("oc.decode", _decode_unless_reference)
    try:
        yield
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value yet: set {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        reason = masking.reason(error)
        # an InterpolationKeyError's attributes name the key that refers; only its text names the key that is missing
        if unknown := re.fullmatch(r"Interpolation key '(.+)' not found", reason):
            name = unknown[1]
            also = f"; a variable of the environment is ${{oc.env:{name}}}" if re.fullmatch(r"\w+", name) else ""
            reason = f"${{{name}}} refers to the key {name} of the config, which does not exist{also}"
        if isinstance(error, UnsupportedInterpolationType):
            name = reason.rpartition(" ")[2]  # the error has no attribute with it
            reason = f"${{{name}:...}}: there is no resolver {name}; ${{oc.env:NAME}} is a variable of the environment"
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'the configuration'}: {reason}") from error
    finally:
        if keep_environment:
            keep_mounts()
            masking.register()
            hydra_versions.register_resolver("oc.decode", oc.decode)


def kept(node: Any) -> Any:
    """Return a node of a composed config as stored in records: resolved, except for environment references.

    Raises:
        ConfigError: an interpolation cannot be resolved, a value is missing (`???`), or no record can hold it.
    """
    with _resolving(keep_environment=True):
        found = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    # OmegaConf has no public way to a node's own key
    problems = list(exact.unfit(found, node._get_full_key(None)))
    if problems:
        raise ConfigError([f"{where}, which no record can hold" for where in problems])
    return _as_text(found)


def kept_value(config: DictConfig, key: str) -> Any:
    """Return the value of a dotted key as stored in records.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    with _resolving(keep_environment=True):
        found = OmegaConf.select(config, key)
        found = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    return _as_text(found)


def without_spaces(value: Any) -> Any:
    """Remove every component's `search_space`. It belongs to the sweep, and is neither built nor signed."""
    if isinstance(value, dict):
        return {key: without_spaces(item) for key, item in value.items() if key != "search_space"}
    return value


REFERENCE_BEGINS = "\0reference{"
"""Placeholder for the `${` of a kept reference during resolution, to distinguish it from a literal `${`."""
SIMPLE = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.:@-]*", re.ASCII)
"""Text that OmegaConf's grammar accepts without quotes, except for `WORDS`."""
WORDS = frozenset({"null", "true", "false", "nan", "inf"})


def _env_reference(*arguments: Any) -> str:
    """Return the text that replaces `${oc.env:...}` during resolution, with its default quoted if necessary."""
    return f"{REFERENCE_BEGINS}oc.env:{','.join(map(_argument, arguments))}}}"


def _argument(value: Any) -> str:
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    if value.startswith(REFERENCE_BEGINS) or (SIMPLE.fullmatch(value) and value.lower() not in WORDS):
        return value
    return quoted(value)


def _mount_reference(*parts: Any) -> str:
    return f"{REFERENCE_BEGINS}mount:{','.join(str(part) for part in parts)}}}"


def _decode_unless_reference(text: str | None, *, _parent_: Any, _node_: Any) -> Any:
    if text is not None and text.startswith(f"{REFERENCE_BEGINS}oc.env:"):
        return f"{REFERENCE_BEGINS}oc.decode:{text}}}"
    return oc.decode(text, _parent_, _node_)


def _as_text(value: Any) -> Any:
    """Restore the references in resolved values, and escape every other `${`."""
    if isinstance(value, str):
        if REFERENCE_BEGINS not in value:
            return exact.escaped(value)
        return BEGINNING.sub(lambda found: found[1] * 2 + ("${" if found[2] != "${" else "\\${"), value)
    if isinstance(value, Mapping):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    return value


BEGINNING = re.compile(r"(\\*)(\$\{|" + re.escape(REFERENCE_BEGINS) + ")")


def validated(config: DictConfig) -> Config:
    """Resolve a config completely, and check it against the schema.

    Raises:
        ConfigError: lists every mistake.
    """
    return validation.validate(resolved(config, keep_environment=False))


def validated_and_kept(config: DictConfig) -> tuple[Config, dict[str, Any]]:
    """Return a config as the run will see it, checked against the schema, and as its record stores it."""
    kept = resolved(config, keep_environment=True)
    if "${" in repr(kept):
        return validated(config), kept
    return validation.validate(kept), kept


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a config without its `hydra` node."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    assert isinstance(kept, DictConfig)
    return kept


def task_overrides(hydra_config: Any) -> list[str]:
    """Return the task overrides as typed, with references unresolved.

    Args:
        hydra_config: the `hydra` node.
    """
    typed = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    assert isinstance(typed, list)
    return [str(override) for override in typed]
