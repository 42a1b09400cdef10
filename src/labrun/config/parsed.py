"""Config files parsed once per process, not once per composition.

Hydra reads each file of a composition anew, which is a third of its time. A sweep, a search, a message about a mistake
and a warm interpreter compose the same files many times. A parsed file is used again while its inode, size and times
are the same, and only if its last change was old enough, when it was read, for its times to show the next one.
"""

from __future__ import annotations

import functools
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource

TRUSTED_AGE_NS = 2_000_000_000
"""Age from which a file's times tell any later change, also on file systems that count in seconds."""
Mark = tuple[int, int, int, int, int]
Load = Callable[[Any, str], ConfigResult]
_parsed: dict[tuple[str, str, str], tuple[Mark, bytes]] = {}


def remember() -> None:
    """Have Hydra parse each file once in this process."""
    Plugins.instance()  # this executes the module of the class, even if it was imported before
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    plain = FileConfigSource.__dict__["load_config"]
    if not isinstance(plain, functools.partialmethod):
        FileConfigSource.load_config = functools.partialmethod(_load, plain)  # type: ignore[assignment,method-assign]


def load_all(folder: Path) -> None:
    """Parse the configs of a folder, for the compositions of processes that are forked later.

    Plug-ins are left alone: the user's own are found from the folder of the command.
    """
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    source = FileConfigSource("main", f"file://{folder}")
    for file in sorted(folder.rglob("*.yaml")):
        _load(source, FileConfigSource.load_config, str(file.relative_to(folder)))


def _load(source: ConfigSource, plain: Load, config_path: str) -> ConfigResult:
    file = os.path.realpath(os.path.join(source.path, source._normalize_file_name(config_path)))
    key, mark = (source.provider, source.path, file), _mark(file)
    held = _parsed.get(key)
    if held is not None and held[0] == mark:
        found: ConfigResult = pickle.loads(held[1])  # noqa: S301 - made below, in this process
        return found
    result = plain(source, config_path)
    if mark is not None and mark == _mark(file):
        _parsed[key] = (mark, pickle.dumps(result))
    return result


def _mark(file: str) -> Mark | None:
    """Return what changes with a file; None if it is absent, or too new to tell."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    if time.time_ns() - max(found.st_ctime_ns, found.st_mtime_ns) < TRUSTED_AGE_NS:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
