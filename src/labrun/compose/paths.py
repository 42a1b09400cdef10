"""Locations of config files: labrun's and the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from labrun.runs import custom_locations

PREFLIGHT = "labrun.app.Preflight"
"""Target of the callback that distinguishes labrun's configs from those of other applications."""
_home: ContextVar[Path | None] = ContextVar("home", default=None)


def home() -> Path:
    """Return the folder that contains the user's `conf/` and relative datastores: the one of `set_home`, else the
    working folder.
    """
    return _home.get() or Path.cwd()


def set_home(folder: Path | None) -> None:
    """Set the folder that `home` returns, for `lab` in a subfolder of a workspace; None: the working folder."""
    _home.set(folder)


def conf_dir() -> Path:
    """Return the folder of labrun's configs: in the package if installed, else at the top of the clone."""
    shipped = Path(__file__).parents[1] / "conf"
    return shipped if shipped.is_dir() else Path(__file__).parents[3] / "conf"


def user_conf_dir() -> Path | None:
    """Return the user's own `conf/`; None if there is none, or if it is labrun's."""
    own = home() / "conf"
    return own if own.is_dir() and not own.samefile(conf_dir()) else None


def groups(more: Sequence[Path] = ()) -> dict[str, dict[str, str]]:
    """Return each config group with its options and the first comment of each file. The user's files hide labrun's.

    Args:
        more: further folders of configs (`--config-dir`, `hydra.searchpath`).
    """
    found: dict[str, dict[str, str]] = {}
    known = (conf_dir(), user_conf_dir())
    others = [one for one in more if one not in known and one.is_dir() and not custom_locations.is_of_runs(one)]
    for folder in (*others, conf_dir(), user_conf_dir()):
        for path in sorted(folder.rglob("*.yaml")) if folder else []:
            group = path.parent.relative_to(folder).as_posix() if folder else ""
            shown = group not in (".", "local") and not group.startswith("hydra") and not path.stem.startswith("_")
            if shown:
                found.setdefault(group, {})[path.stem] = _first_comment(path)
    return dict(sorted(found.items()))


def is_group(name: str) -> bool:
    """Whether there is a folder of options with this name. Reads no file."""
    return any((folder / name).is_dir() for folder in (conf_dir(), user_conf_dir()) if folder)


def option(group: str, name: str) -> dict[str, Any]:
    """Return the content of a config file, without its defaults; empty if it cannot be read."""
    import yaml

    for folder in (user_conf_dir(), conf_dir()):
        path = folder / group / f"{name}.yaml" if folder else None
        if path is not None and path.is_file():
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except yaml.YAMLError:
                return {}
            return content if isinstance(content, dict) else {}
    return {}


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ")
    return ""
