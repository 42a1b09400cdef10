"""Masking of environment variables' values in texts.

A secret reaches a run through a reference, `${oc.env:NAME}`, and records keep the reference. An error message may still
contain the value, because the code that received it may repeat it. So this module notes each value that is looked up in
this process, and `masked` replaces it with `***` before a text goes into a record, labrun's own log or to the terminal.

Not every value can be masked, or texts would become unreadable: see `is_masked`. Output of the user's code is not
masked.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from labrun import terminal
from labrun.causes import chain
from labrun.config import hydra_versions
from labrun.errors import ConfigError, LabrunError
from labrun.messages import without_details

STARS = "***"
SHORTEST = 4
"""Minimum length of a masked value, in characters: a shorter one occurs in too many words."""
WHOLE = 8
"""Length below which a value is masked only as a whole word, in characters."""
DIGITS = 6
"""Minimum number of digits of a masked number: shorter ones are most likely settings."""
WORDS = frozenset(
    {"true", "false", "null", "none", "auto", "default", "debug", "info", "warning", "error", "cuda", "test", "train"}
    | {"main", "latest", "localhost", "production", "development", "utf-8"}
)
"""Common settings, which are never masked."""
OPEN = frozenset(
    {"HOME", "USER", "LOGNAME", "HOSTNAME", "HOST", "SHELL", "PWD", "OLDPWD", "PATH", "LANG", "TERM", "TMPDIR", "TZ"}
    | {"EDITOR", "DISPLAY", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"}
)
"""Variables about the user and the machine, which are never masked."""
LINE = 8
"""Minimum length of a line that is masked separately, in a value of several lines."""
REFERENCE = re.compile(r"oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)")

_noted: dict[str, re.Pattern[str]] = {}
"""The noted values, each with the pattern that finds it."""
_lock = threading.Lock()


def is_masked(name: str, value: str) -> bool:
    """Whether the value of an environment variable is masked.

    Values of fewer than four characters, numbers of fewer than six digits, words such as `true` and `auto`, paths that
    exist on this machine, and variables such as HOME and USER are not.
    """
    text = value.strip()
    if len(text) < SHORTEST or text.lower() in WORDS or name in OPEN:
        return False
    if re.fullmatch(r"[-+]?[\d_.,]+([eE][-+]?\d+)?", text) and sum(c.isdigit() for c in text) < DIGITS:
        return False
    try:
        return not (text.startswith(("/", "~/", "./", "../")) and os.path.exists(os.path.expanduser(text)))
    except (OSError, ValueError):
        return True


def note(name: str, value: object) -> None:
    """Note the value of a variable, so that `masked` replaces it from now on if `is_masked` allows."""
    text = str(value)
    if text in _noted or not is_masked(name, text):
        return
    with _lock:
        for one in dict.fromkeys(_spellings(text.strip())):
            if len(one) >= SHORTEST:
                _noted.setdefault(one, _pattern(one))
        _noted.setdefault(text, _pattern(text.strip()))


def note_config(config: Mapping[str, Any]) -> None:
    """Note the current values of all variables that a config refers to or sets for its runs."""
    for name in dict.fromkeys(_names(config)):
        if name in os.environ:
            note(name, os.environ[name])
    given = (config.get("compute") or {}).get("environment") if isinstance(config.get("compute"), Mapping) else None
    for name in given if isinstance(given, Mapping) else ():
        if str(name) in os.environ:
            note(str(name), os.environ[str(name)])


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from REFERENCE.findall(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _names(key)
            yield from _names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)


def _spellings(value: str) -> Iterator[str]:
    """Yield the parts of a value that are masked separately: all of it, the password of a URL, each line."""
    yield value
    with contextlib.suppress(ValueError):
        password = urllib.parse.urlsplit(value).password if "://" in value else None
        yield from (password, urllib.parse.unquote(password)) if password else ()
    several = value.splitlines()
    yield from (line.strip() for line in several if len(several) > 1 and len(line.strip()) >= LINE)


def _pattern(value: str) -> re.Pattern[str]:
    """Return a pattern that finds a value, however its characters are escaped."""
    text = "".join(map(_written, re.findall(r"\\+|.", value, re.DOTALL)))
    if len(value) >= WHOLE:
        return re.compile(text)
    before, after = (r"(?<![A-Za-z0-9])" if c.isalnum() else "" for c in (value[0], value[-1]))
    return re.compile(before + text + after.replace("?<!", "?!"))


NAMED = {"\n": "n", "\r": "r", "\t": "t", "\f": "f", "\b": "b", "\a": "a", "\v": "v", "\0": "0", "\x1b": "e"}
"""Letters of backslash escapes in Python, JSON or YAML."""
ENTITIES = {'"': "quot", "&": "amp", "<": "lt", ">": "gt", "'": "apos"}


@functools.cache
def _written(sign: str) -> str:
    """Return a pattern for a character, plain or as escaped by Python, (nested) JSON, YAML, HTML, a shell or a URL.

    Consecutive backslashes are matched as one unit, and all repetitions are bounded, so that matching stays fast.
    """
    if sign.startswith("\\") and len(sign) > 1:
        return rf"(?:\\{{{len(sign)},{16 * len(sign)}}}+|(?:%(?:25){{0,3}}5(?i:c)){{{len(sign)}}})"
    if sign.isascii() and (sign.isalnum() or sign in "_-.~"):
        return re.escape(sign)
    data, code = sign.encode("utf-8", "surrogatepass"), ord(sign)
    coded = [f"u{code:04x}", f"U{code:08x}", r"\\{1,16}+".join(f"x{byte:02x}" for byte in data)]
    coded += [f"x{code:02x}"] if code < 256 else []
    if code > 0xFFFF:  # a surrogate pair, as in JSON
        pair = sign.encode("utf-16-be")
        coded.append(rf"u{pair[:2].hex()}\\{{1,16}}+u{pair[2:].hex()}")
    forms = [
        rf"\\{{0,16}}+{re.escape(sign)}" if sign != "\\" else r"\\{1,16}+",
        "".join(f"%(?:25){{0,3}}(?i:{byte:02x})" for byte in data),
        rf"\\{{1,16}}+(?i:{'|'.join(coded)})",
        f"&(?:amp;){{0,3}}(?i:#0{{0,6}}{code}|#x0{{0,6}}{code:x}{f'|{ENTITIES[sign]}' if sign in ENTITIES else ''});",
    ]
    forms += [rf"\\{{1,16}}+{NAMED[sign]}"] if sign in NAMED else []
    forms += [r"\+"] if sign == " " else []
    forms += [r"\'\"\'\"\'"] if sign == "'" else []
    return f"(?:{'|'.join(sorted(forms, key=len, reverse=True))})"


def masked(text: str) -> str:
    """Return a text with every noted value replaced by `***`."""
    for _, pattern in sorted(_noted.items(), key=lambda item: -len(item[0])):
        text = pattern.sub(STARS, text)
    return text


@contextlib.contextmanager
def in_logs() -> Iterator[None]:
    """In the context, mask labrun's log messages, and escape control characters in them."""
    before = logging.getLogRecordFactory()

    def make(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = before(*arguments, **more)
        if record.name.partition(".")[0] == "labrun":
            with contextlib.suppress(TypeError, ValueError):  # a bad format: the handler reports it
                text = record.getMessage()
                if (without := terminal.lines(masked(text))) != text:
                    record.msg, record.args = without, ()
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        if logging.getLogRecordFactory() is make:
            logging.setLogRecordFactory(before)


def register() -> None:
    """Replace OmegaConf's `oc.env` resolver with `env`, which notes the values it returns."""
    hydra_versions.register_resolver("oc.env", env)


def forget() -> None:
    """Forget all noted values: for tests, and for a process that starts other work."""
    _noted.clear()


def env(key: str, *default: Any) -> Any:
    """Resolve `oc.env` as OmegaConf does, and note the value.

    Raises:
        ConfigError: the variable is not set, and there is no default. OmegaConf wraps this error: see `reason`.
    """
    from omegaconf.resolvers import oc

    if key not in os.environ and not default:
        raise ConfigError(f"the environment variable {key} is not set on this machine")
    found = oc.env(key, *default)
    if key in os.environ and found is not None:
        note(key, found)
    return found


def reason(error: BaseException) -> str:
    """Return why OmegaConf cannot resolve a reference: labrun's own error if there is one, otherwise OmegaConf's."""
    own = next((one for one in chain(error) if isinstance(one, LabrunError)), None)
    return without_details(error.__cause__ or error).strip("\"'") if own is None else str(own)
