"""Values of the environment that a config refers to, and texts without them.

A secret reaches a run by a reference, `${oc.env:NAME}`, and records keep the reference. An error's message may hold the
value all the same: whoever was given it repeats it. So each value that was looked up in this process is noted, and
`masked` puts `***` in its place before a text goes into a record, a log of labrun's own, or on the screen.

Not every value can be masked, or a text would be all stars: see `is_masked`. What the user's code prints itself is
none of labrun's, and stays as it is.
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

STARS = "***"
SHORTEST = 4
"""Characters: a shorter value is part of too many words."""
WHOLE = 8
"""Characters: a shorter value is masked only where it stands by itself, and is not part of a word."""
DIGITS = 6
"""A number with fewer digits is a setting, as most are."""
WORDS = frozenset(
    {"true", "false", "null", "none", "auto", "default", "debug", "info", "warning", "error", "cuda", "test", "train"}
    | {"main", "latest", "localhost", "production", "development", "utf-8"}
)
"""Settings, which are not secrets."""
OPEN = frozenset(
    {"HOME", "USER", "LOGNAME", "HOSTNAME", "HOST", "SHELL", "PWD", "OLDPWD", "PATH", "LANG", "TERM", "TMPDIR", "TZ"}
    | {"EDITOR", "DISPLAY", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"}
)
"""Variables that say who and where one is."""
LINE = 8
"""Characters of a line that is masked by itself, of a value of several lines."""
REFERENCE = re.compile(r"oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)")

_noted: dict[str, re.Pattern[str]] = {}
"""By the value: what finds it."""
_lock = threading.Lock()


def is_masked(name: str, value: str) -> bool:
    """Whether a variable's value is masked.

    Not those of fewer than four characters, numbers of fewer than six digits, words such as `true` and `auto`, paths
    that exist on this machine, and variables such as HOME and USER.
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
    """Note a variable's value: from now on texts are without it, if it is one that `is_masked`."""
    text = str(value)
    if text in _noted or not is_masked(name, text):
        return
    with _lock:
        for one in dict.fromkeys(_spellings(text.strip())):
            if len(one) >= SHORTEST:
                _noted.setdefault(one, _pattern(one))
        _noted.setdefault(text, _pattern(text.strip()))


def note_config(config: Mapping[str, Any]) -> None:
    """Note every variable that a config refers to, and every one that it gives to its runs, as it is here and now."""
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
    """What of a value is masked by itself: all of it, the password of an address, each line."""
    yield value
    with contextlib.suppress(ValueError):
        password = urllib.parse.urlsplit(value).password if "://" in value else None
        yield from (password, urllib.parse.unquote(password)) if password else ()
    several = value.splitlines()
    yield from (line.strip() for line in several if len(several) > 1 and len(line.strip()) >= LINE)


def _pattern(value: str) -> re.Pattern[str]:
    """What finds a value, however each of its characters is written."""
    text = "".join(map(_written, re.findall(r"\\+|.", value, re.DOTALL)))
    if len(value) >= WHOLE:
        return re.compile(text)
    before, after = (r"(?<![A-Za-z0-9])" if c.isalnum() else "" for c in (value[0], value[-1]))
    return re.compile(before + text + after.replace("?<!", "?!"))


NAMED = {"\n": "n", "\r": "r", "\t": "t", "\f": "f", "\b": "b", "\a": "a", "\v": "v", "\0": "0", "\x1b": "e"}
"""What follows a backslash, in Python, JSON or YAML."""
ENTITIES = {'"': "quot", "&": "amp", "<": "lt", ">": "gt", "'": "apos"}


@functools.cache
def _written(sign: str) -> str:
    """A pattern for a character: itself, or as Python, JSON (in JSON), YAML, HTML, a shell or an address write it.

    Several backslashes are taken together; repetitions have an end: no text takes long.
    """
    if sign.startswith("\\") and len(sign) > 1:
        return rf"(?:\\{{{len(sign)},{16 * len(sign)}}}+|(?:%(?:25){{0,3}}5(?i:c)){{{len(sign)}}})"
    if sign.isascii() and (sign.isalnum() or sign in "_-.~"):
        return re.escape(sign)
    data, code = sign.encode("utf-8", "surrogatepass"), ord(sign)
    coded = [f"u{code:04x}", f"U{code:08x}", r"\\{1,16}+".join(f"x{byte:02x}" for byte in data)]
    coded += [f"x{code:02x}"] if code < 256 else []
    if code > 0xFFFF:  # as JSON has it
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
    """A text with stars in the place of every value that was noted."""
    for _, pattern in sorted(_noted.items(), key=lambda item: -len(item[0])):
        text = pattern.sub(STARS, text)
    return text


@contextlib.contextmanager
def in_logs() -> Iterator[None]:
    """Inside, what labrun logs is masked, and is nothing that a terminal obeys."""
    before = logging.getLogRecordFactory()

    def make(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = before(*arguments, **more)
        if record.name.partition(".")[0] == "labrun":
            with contextlib.suppress(TypeError, ValueError):  # whoever shows it says what is wrong with it
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
    """Have OmegaConf's references to the environment noted, in this process."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("oc.env", env, replace=True)


def forget() -> None:
    """Forget what was noted: for tests, and for a process that goes on to other work."""
    _noted.clear()


def env(key: str, *default: Any) -> Any:
    """OmegaConf's resolver `oc.env`, which notes what it gives."""
    from omegaconf.resolvers import oc

    found = oc.env(key, *default)
    if key in os.environ and found is not None:
        note(key, found)
    return found
