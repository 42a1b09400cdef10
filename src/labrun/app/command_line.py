"""What is looked at before Hydra: standard streams, the words of the command, the config files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun.app.telling import refuse
from labrun.config import paths
from labrun.errors import ConfigError
from labrun.runs import custom_locations, recording, store


def open_standard_streams() -> None:
    """Give standard input, output and error that the caller closed (`>&-`) to nothing: they must not become files."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def config_dir(arguments: Sequence[str]) -> Path | None:
    """The folder that `--config-dir` names, if it does."""
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value if equals else next(iter(arguments[place + 1 :]), ""))
    return None


def check_yaml(arguments: Sequence[str] = ()) -> dict[Path, str]:
    """Whether every config file can be read as YAML: Hydra would answer with a traceback.

    Args:
        arguments: of the command.

    Returns:
        The text of each.

    Raises:
        ConfigError: with the file, the line and what is wrong there.
    """
    import yaml

    texts = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    extra = config_dir(arguments)
    if extra is not None and custom_locations.is_of_runs(extra):  # Hydra reads what is asked for of a run's own
        extra = None
    for folder in (paths.conf_dir(), paths.user_conf_dir(), extra):
        for path in sorted(folder.rglob("*.yaml")) if folder else []:
            try:
                texts[path] = path.read_text(encoding="utf-8")
                content = yaml.load(texts[path], Loader=loader)
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
            if content is not None and not isinstance(content, dict):
                raise ConfigError(f"{path} holds a {type(content).__name__}; a config file holds keys and values")
            if (place := _not_taken(content)) is not None:
                raise ConfigError(
                    f"{path}: {place}: a config's keys are text, numbers, true or false ('null' in quotes is text), "
                    "its values these, lists and groups of keys"
                )
    return texts


def _not_taken(content: Any, place: str = "") -> str | None:
    """Where a YAML file holds what it may, and Hydra takes not; None if nowhere."""
    if isinstance(content, set):
        return f"{place} is a set"
    if isinstance(content, list):
        found = (_not_taken(value, f"{place}[{number}]") for number, value in enumerate(content))
        return next(filter(None, found), None)
    if not isinstance(content, dict):
        return None
    for key, value in content.items():
        if key is None or isinstance(key, tuple):
            return f"{place or 'the top'} has the key {'null' if key is None else key}"
        if (found_below := _not_taken(value, f"{place}.{key}".lstrip("."))) is not None:
            return found_below
    return None


def may_set_mode(arguments: Sequence[str], texts: Mapping[Path, str]) -> bool:
    """Whether the config may say by itself that the command is a sweep (`hydra.mode`).

    Hydra composes it once to find out, and then again to use it, which is a quarter of a warm command's time.

    Args:
        arguments: of the command.
        texts: of the config files.
    """
    everything = [*arguments, *texts.values()]
    if any(word in text for text in everything for word in ("searchpath", "--config", "@hydra")):
        return True
    if any("hydra" in argument or re.match("-[a-z]*c", argument) for argument in arguments):
        return True
    for path, text in texts.items():
        if re.search(r"\bmode\b", text) and ("hydra" in text or path.parent.name == "hydra"):
            others = [*arguments, *(other for place, other in texts.items() if place != path)]
            if any(path.stem in other for other in others):
                return True
    return False


def check_flags(words: Sequence[str]) -> None:
    """Answer what argparse would answer with a list of all options.

    Raises:
        SystemExit: a flag is none, lacks its value, or does not go with another.
    """
    if any(word.startswith("-") for word in words):
        from labrun import mistakes

        found = mistakes.in_words(words)
        if found is not None:
            refuse(found)


def check_encoding() -> None:
    """Answer what no record can hold: words and folders whose names are not UTF-8.

    Raises:
        SystemExit: one of them is not.
    """
    given = [*sys.argv[1:], os.getcwd(), os.environ.get(store.ROOT_VARIABLE, "")]
    for text, what in zip(given, [*[""] * (len(given) - 2), "the working folder ", "the workspace "], strict=True):
        if text != (storable := recording.storable(text)):
            refuse(f"{what}{storable}: this is not UTF-8, and no record can hold it")
