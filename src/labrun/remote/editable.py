"""Packages that are installed as folders of code (`pip install -e`).

Their code is frozen like that of any other folder on the import path. The metadata that `importlib.metadata` looks up
by name (version, entry points) are sent in addition.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

from labrun.errors import ConfigError
from labrun.remote import packed

METADATA_FILES = ("METADATA", "entry_points.txt", "top_level.txt")


def distributions() -> list[metadata.Distribution]:
    """Return the distributions of these packages, except labrun."""
    found = []
    for one in metadata.distributions():
        origin = json.loads(one.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable") and one.metadata["Name"].lower() != "labrun":
            found.append(one)
    return found


def metadata_files() -> packed.Entries:
    """Return their metadata files, laid out as in an installation."""
    files: dict[str, Path | bytes] = {}
    for one in distributions():
        name = one.metadata["Name"].replace("-", "_")
        texts = {file: one.read_text(file) for file in METADATA_FILES}
        files |= {f"{name}-{one.version}.dist-info/{file}": text.encode() for file, text in texts.items() if text}
    return files


def folders() -> list[Path]:
    """Return the folders outside `sys.path` in which setuptools' finders look for them.

    Raises:
        ConfigError: a package has another name than its folder.
    """
    found = []
    for name, module in sys.modules.copy().items():
        if not (name.startswith("__editable__") and name.endswith("_finder")):
            continue
        for package, text in getattr(module, "MAPPING", {}).items():
            parts, folder = package.split("."), Path(text)
            if list(folder.with_suffix("").parts[-len(parts) :]) != parts:
                raise ConfigError(
                    f"the package {package} is installed as the folder {folder}, which has another name: it cannot be "
                    "sent to another machine. Name an interpreter that has it there: lab remote add NAME ADDRESS "
                    "--python PATH"
                )
            found.append(folder.parents[len(parts) - 1])
    return list(dict.fromkeys(found))
