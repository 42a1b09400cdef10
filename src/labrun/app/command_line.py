"""Checks before Hydra starts: standard streams, command-line arguments and config files."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun._io import FileStamp, read_once
from labrun.compose import paths
from labrun.errors import ConfigError
from labrun.runs import custom_locations, recording, store
from labrun.user_errors import refuse

_checked: dict[str, tuple[FileStamp, str]] = {}
"""Config files found valid, with their texts."""


def open_standard_streams() -> None:
    """Redirect standard streams closed by the caller (`>&-`) to the null device, so that no file gets their number."""
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
    """Return the folder given with `--config-dir`, if any."""
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value if equals else next(iter(arguments[place + 1 :]), ""))
    return None


def check_yaml(arguments: Sequence[str] = ()) -> dict[Path, str]:
    """Check that every config file is valid YAML, because Hydra would fail with a traceback.

    Args:
        arguments: command-line arguments.

    Returns:
        The text of each file.

    Raises:
        ConfigError: names the file, the line and the mistake.
    """
    extra = config_dir(arguments)
    if extra is not None and custom_locations.is_of_runs(
        extra
    ):  # Hydra reads only the selected files of a run's configs
        extra = None
    return {
        path: text
        for folder in (paths.conf_dir(), paths.user_conf_dir(), extra)
        if folder
        for path, text in checked_texts(folder).items()
    }


def checked_texts(folder: Path) -> dict[Path, str]:
    """Return the text of each config file below a folder. A file that has not changed is checked once per process.

    Raises:
        ConfigError: as `check_yaml`.
    """
    return {
        path: read_once(path, _checked, functools.partial(_checked_text, path))
        for path in sorted(folder.rglob("*.yaml"))
    }


def _checked_text(path: Path) -> str:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; a config file holds keys and values")
    if (place := _not_taken(content)) is not None:
        raise ConfigError(
            f"{path}: {place}: a config's keys are text, numbers, true or false ('null' in quotes is text), "
            "its values these, lists and groups of keys"
        )
    return text


def _not_taken(content: Any, place: str = "") -> str | None:
    """Return where a YAML file has content that YAML allows and Hydra does not; None if nowhere."""
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
    """Whether the config itself may make the command a sweep (`hydra.mode`).

    To find out, Hydra composes the config once more than needed, which takes a quarter of a warm command's time.

    Args:
        arguments: command-line arguments.
        texts: texts of the config files.
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
    """Report mistakes in command-line flags, for which argparse would print a list of all options.

    Raises:
        SystemExit: a flag is unknown, lacks its value, or conflicts with another.
    """
    if any(word.startswith("-") for word in words):
        from labrun import mistakes

        found = mistakes.in_words(words)
        if found is not None:
            refuse(found)


def check_encoding() -> None:
    """Check that arguments and folder names are UTF-8, because a record can hold nothing else.

    Raises:
        SystemExit: one of them is not.
    """
    given = [*sys.argv[1:], os.getcwd(), os.environ.get(store.ROOT_VARIABLE, "")]
    for text, what in zip(given, [*[""] * (len(given) - 2), "the working folder ", "the workspace "], strict=True):
        if text != (storable := recording.storable(text)):
            refuse(f"{what}{storable}: this is not UTF-8, and no record can hold it")
