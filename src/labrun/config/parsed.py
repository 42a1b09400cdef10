"""Config files parsed once per process, not once per composition.

Hydra reads each file of a composition anew, which is a third of its time. A sweep, a search, a message about a mistake
and a warm interpreter compose the same files many times. A parsed file is used again while its stamp is the same, and
only if that was old enough when the file was read (see `FileStamp`).
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource

from labrun._io import FileStamp

Load = Callable[[Any, str], ConfigResult]
_parsed: dict[tuple[str, str, str], tuple[FileStamp, bytes]] = {}


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
    key, stamp = (source.provider, source.path, file), _reliable_stamp(file)
    held = _parsed.get(key)
    if held is not None and held[0] == stamp:
        unpickled: ConfigResult = pickle.loads(held[1])  # noqa: S301 - made below, in this process
        return unpickled
    result = plain(source, config_path)
    if stamp is not None and stamp == _reliable_stamp(file):
        _parsed[key] = (stamp, pickle.dumps(result))
    return result


def _reliable_stamp(file: str) -> FileStamp | None:
    """Return the stamp of a file; None if it is absent, or has changed too recently."""
    try:
        stamp = FileStamp.of(file)
    except OSError:
        return None
    return stamp if stamp.is_old_enough() else None
