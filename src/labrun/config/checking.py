"""Checks of plain values against a class: types, ranges, unknown keys. Each mistake is reported as a sentence."""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeGuard

from labrun.messages import suggest


@dataclass(frozen=True)
class Range:
    """Bounds of a number; `above` and `below` exclude the bound itself."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is within the bounds (NaN and infinities never are)."""
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least:.12g} to {self.at_most:.12g}"
        words = {"of at least": self.at_least, "above": self.above, "of at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {bound:.12g}" for word, bound in words.items() if bound is not None)


@dataclass(frozen=True)
class SecretMark:
    """Marks a field whose value must not appear in messages."""


SECRET = re.compile(
    r"key|secret|token|passw|passphrase|pwd|credential|conn(ect(ion)?)?_?str|sas|auth|bearer|signature|(^|_)pat($|_)",
    re.I,
)
NOT_SECRET = ("_filename", "_file", "_path", "_policy", "_id", "_type", "_url", "_host")
ADDRESS = re.compile(r"://[^/\s]*@|[?&][\w-]+=")
"""Finds a user name or password in a URL, or query parameters, which may hold a shared access signature."""
REFERENCE = re.compile(r"\$\{oc\.env:\s*[A-Za-z_][A-Za-z0-9_]*\s*(,\s*(null|''|\"\")?\s*)?\}")


def is_secret(key: str) -> bool:
    """Whether an argument holds a secret, judging by its name."""
    return SECRET.search(key) is not None and not key.lower().endswith(NOT_SECRET)


def masked_word(word: str) -> str:
    """Mask the value in an argument whose key is named like a secret."""
    key, equals, value = word.partition("=")
    hides = equals and value and not value.startswith("${") and is_secret(key.rpartition(".")[2])
    return f"{key}=***" if hides else word


def literal_secrets(node: Mapping[str, Any], cls: type | None, path: str) -> Iterator[str]:
    """Yield a message for each secret that is written out instead of referring to an environment variable.

    Args:
        node: the keys and their values, with references unresolved.
        cls: the class that marks the secret keys; None: recognize them by name, at any depth.
        path: the dotted key of the group.
    """
    hints = {} if cls is None else typing.get_type_hints(cls, include_extras=True)
    for key, value in node.items():
        marked = "SecretMark" in repr(hints[key]) if key in hints else cls is None and is_secret(str(key))
        yield from _literal(value, f"{path}.{key}", marked)


def _literal(value: Any, path: str, marked: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _literal(item, f"{path}.{key}", marked or is_secret(str(key)))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _literal(item, f"{path}[{place}]", marked)
    elif marked and value not in (None, "") and not isinstance(value, bool):
        if not (isinstance(value, str) and REFERENCE.fullmatch(value.strip())):
            yield (
                f"{path} is a secret in plain text: command lines and files in version control are read by "
                f"others. Put it in a variable, and set {path}='${{oc.env:THE_VARIABLE}}'"
            )
    elif isinstance(value, str) and ADDRESS.search(value) and not REFERENCE.fullmatch(value.strip()):
        yield (
            f"{path} holds a user, a password or a signature in its address: leave that out, and set it by a key of "
            "the datastore that refers to a variable"
        )


def check_fields(
    node: Mapping[str, Any], cls: type, path: str, open_ended: bool = False, own_values: str = ""
) -> Iterator[str]:
    """Yield a message for each mistake in a group of keys.

    Args:
        node: the keys and their values.
        cls: the class whose annotations are the allowed keys, with their values; `from_` stands for the key `from`.
            A key without a default is required.
        path: the dotted key of the group; empty at the top level.
        open_ended: allow keys that the dataclass does not have.
        own_values: for the message about such a key: where the user can put values of their own, as a sentence.
    """
    known, required = _keys(cls)
    for key, value in node.items():
        full_key = f"{path}.{key}" if path else str(key)
        if key in known:
            yield from _check(value, known[key], full_key)
        elif not path and key in ("experiment", "debug", "local"):
            yield f"{key}: the file chosen for it must begin with the line '# @package _global_' and hold keys"
        elif not open_ended:
            if (advice := _trainer_key_advice(full_key)) is not None:
                yield f"{full_key}: {advice}"
                continue
            listed = f"Keys here: {', '.join(sorted(known))}."
            yield f"{full_key}: no such key.{suggest(str(key), known)} {listed} {own_values}".rstrip()
    for key in required:
        if key not in node:
            yield f"{path + '.' if path else ''}{key} is missing"


OF_TRAINER = frozenset(
    (
        *("strategy", "devices", "num_nodes", "fast_dev_run", "min_epochs", "max_steps", "min_steps", "max_time"),
        *("limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval", "plugins"),
        *("check_val_every_n_epoch", "num_sanity_val_steps", "gradient_clip_algorithm", "benchmark", "barebones"),
        *("inference_mode", "use_distributed_sampler", "detect_anomaly", "sync_batchnorm"),
        "reload_dataloaders_every_n_epochs",
    )
)
"""Arguments of Lightning's Trainer without a key of their own in `trainer`."""
_TRAINER_KEYS = {
    "trainer._target_": "labrun makes Lightning's Trainer itself: leave _target_ out",
    "trainer.default_root_dir": "everything goes to the run's folder: leave it out",
    "trainer.logger": "loggers have a group of their own: logger=tensorboard",
    "trainer.callbacks": "callbacks have a group of their own: +callbacks.NAME._target_=...",
    "trainer.log_every_n_steps": "it is called trainer.log_every_n_batches here",
    "trainer.enable_checkpointing": "callbacks=none keeps no checkpoints",
    "trainer.enable_progress_bar": "a line per epoch takes its place: see callbacks.print_report",
    "trainer.enable_model_summary": "+callbacks.summary._target_=pytorch_lightning.callbacks.ModelSummary shows one",
}
"""Advice for keys that `trainer` has in lightning-hydra-template, but not in labrun."""


def _trainer_key_advice(key: str) -> str | None:
    """Return advice on where to put a key of Lightning's Trainer; None if it is not one."""
    name = key.removeprefix("trainer.")
    if key in _TRAINER_KEYS or name == key or name not in OF_TRAINER:
        return _TRAINER_KEYS.get(key)
    return f"Lightning's Trainer takes it, through trainer.options: '+trainer.options.{name}=...', or below options:"


@functools.cache
def _keys(cls: type) -> tuple[dict[str, Any], list[str]]:
    """Return a class's type hints by key, and the required keys. Cached for the many runs of a sweep."""
    hints = typing.get_type_hints(cls, include_extras=True)
    made = {f.name for f in fields(cls) if f.default_factory is not MISSING} if is_dataclass(cls) else set()
    required = [name for name in hints if name not in made and not hasattr(cls, name)]
    return {"from" if name == "from_" else name: hint for name, hint in hints.items()}, required


def _check(value: Any, hint: Any, path: str) -> Iterator[str]:
    if typing.get_origin(hint) is dict and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _check(item, typing.get_args(hint)[1], f"{path}.{key}")
        return
    if not fits(value, hint):
        shown = "***" if "SecretMark" in repr(hint) else _show(value)
        yield f"{path}={shown}: expected {expectation(hint)}{_of_the_shell(value) or _near(value, hint)}"
        return
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if is_dataclass(option) and isinstance(option, type) and value is not None:
            yield from check_fields(value, option, path)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value matches a type hint, including its bounds."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        base, *marks = typing.get_args(hint)
        return fits(value, base) and all(mark.holds(value) for mark in marks if hasattr(mark, "holds"))
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in typing.get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(fits(item, typing.get_args(hint)[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(item, typing.get_args(hint)[1]) for item in value.values())
    if is_dataclass(hint):
        return isinstance(value, Mapping)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def expectation(hint: Any) -> str:
    """Describe the values that a type hint allows, as in `expected a number above 0 or null`."""
    *others, last = dict.fromkeys(_alternatives(hint))
    if others and (typing.get_origin(hint) in (Literal, Annotated)):
        return "one of " + ", ".join([*others, last])
    if "a number" in (*others, last):
        others = [one for one in others if one != "a whole number"]
    return " or ".join([*([", ".join(others)] if others else []), last])


def _alternatives(hint: Any) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    names = {int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            yield from _alternatives(option)
    elif origin is Annotated:
        named = next((mark for mark in arguments[1:] if hasattr(mark, "values")), None)
        ranges = [str(mark) for mark in arguments[1:] if isinstance(mark, Range)]
        yield from (" ".join([one, *ranges]) for one in (named.values() if named else _alternatives(arguments[0])))
    elif origin is Literal:
        yield from (
            one if str(one).isidentifier() or one[-1:].isalnum() else repr(one) for one in map(_yaml, arguments)
        )
    elif hint is bool:
        yield from ("true", "false")
    elif origin is list:
        yield f"a list (each item: {expectation(arguments[0])})"
    else:
        yield "a group of keys" if origin is dict or is_dataclass(hint) else names.get(hint, str(hint))


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_the_shell(value: Any) -> str:
    """Return a hint for a value that looks like an unset or unexpanded shell variable; else an empty string."""
    if value == "":
        return ". There is nothing after the '=': is a shell variable empty?"
    if isinstance(value, str) and (found := re.fullmatch(r"\$\{?(\w+)\}?", value)):
        return f". The shell has not replaced {value}: leave out the quotes, or write ${{oc.env:{found[1]}}}"
    return ""


def _near(value: Any, hint: Any) -> str:
    """Return a sentence that suggests an allowed value, if the value looks like a misspelling of it."""
    words = [one for one in _alternatives(hint) if " " not in one]
    near = suggest(value, words) if isinstance(value, str) else ""
    return near and f".{near}"


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else "null" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def pairs(text: str) -> dict[str, str]:
    """Parse a compact table of synonyms: `"list:ls"` becomes `{"list": "ls"}`."""
    return {word.partition(":")[0]: word.partition(":")[2] for word in text.split()}


def names_a_folder(name: str) -> bool:
    """Whether a run's name can be a folder name: not blank, no slash, no leading dot."""
    return bool(name.strip()) and not name.startswith(".") and not set(name) & set("/\\\0\n")


SHA256 = re.compile(r"[0-9a-f]{64}")


def is_file_name(text: object) -> bool:
    """Whether a value is a plain file name, without any folder."""
    return isinstance(text, str) and text not in ("", ".", "..") and "\0" not in text and PurePath(text).name == text


def is_below(text: object) -> bool:
    """Whether a value is a relative path, with `/` as separator, that stays within its folder."""
    return isinstance(text, str) and bool(text) and all(is_file_name(part) for part in text.split("/"))


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a JSON or YAML file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_sha256(text: object) -> bool:
    """Whether a value is a SHA-256 digest as labrun writes it: 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and SHA256.fullmatch(text) is not None


def dotted(node: Any, prefix: str = "", leaves: bool = False) -> Iterator[str]:
    """Yield the dotted path of every key in nested mappings.

    Args:
        node: the outermost mapping.
        prefix: text before each path.
        leaves: yield only keys whose value is not a mapping.
    """
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if not (leaves and isinstance(value, Mapping)):
            yield f"{prefix}{key}"
        yield from dotted(value, f"{prefix}{key}.", leaves)
