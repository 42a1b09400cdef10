"""The command `labrun new FOLDER`: it writes a small working project as a starting point for the user's own.

The templates are in `project/`, next to this module, with placeholders such as `@NAME@`. Standard library only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import keyword
import math
import os
import random
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from labrun import terminal
from labrun.errors import ConfigError

WORD = "new"
TEMPLATES = Path(__file__).parent / "project"
FILES = {
    "README.md": "README.md.txt",
    "pyproject.toml": "pyproject.toml.txt",
    ".gitignore": "gitignore.txt",
    "conf/experiment/first.yaml": "experiment.yaml.txt",
    "conf/dataset/moons.yaml": "dataset.yaml.txt",
    "conf/model/small_net.yaml": "model.yaml.txt",
    "@PACKAGE@/__init__.py": "init.py.txt",
    "@PACKAGE@/model.py": "model.py.txt",
    "tests/test_project.py": "test_project.py.txt",
}
"""Files of a project, each with its template."""
TABLE = "data/moons.csv"
ROWS = 400
NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
LONGEST = 60
RESERVED = frozenset({"conf", "data", "outputs", "multirun", "tests", "test", "site", "con", "nul", "aux", "prn"})
"""Names that a package must not have: other folders of a project, and names reserved by an operating system."""
USER_ERROR = 2


def is_asked(arguments: list[str]) -> bool:
    """Whether a `labrun` command line is `labrun new`."""
    return arguments[1:2] == [WORD]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            f"labrun new takes one folder: labrun new my_project ({message}; labrun new --help says more)"
        )


def main() -> None:
    """Run the command `labrun new`."""
    parser = _Parser(
        prog="labrun new",
        description="Write a small project that runs right away: a data set, a model, an experiment, a test.",
        epilog="The folder's name is the project's: letters, digits, - and _. Nothing is installed.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="new or empty folder for the project")
    try:
        folder = parser.parse_args(sys.argv[2:]).folder
        print(make(folder))
    except ConfigError as error:
        sys.stderr.write(f"labrun: {terminal.lines(str(error))}\n")
        sys.exit(USER_ERROR)


def make(folder: str) -> str:
    """Write a new project.

    Args:
        folder: its folder, as the user typed it.

    Returns:
        A text that lists the files and the next commands to type.

    Raises:
        ConfigError: the folder is not empty, its name is invalid, or it cannot be written.
    """
    if not folder.strip() or "\0" in folder:
        raise ConfigError("labrun new takes one folder: labrun new my_project")
    place = Path(os.path.abspath(Path(folder).expanduser()))
    name = place.name
    package = _package(name, folder, place)
    _check_empty(place, folder)
    words = {"@NAME@": name, "@PACKAGE@": package, "@SOURCE@": _source()}
    texts = {
        _filled(path, words): _filled((TEMPLATES / file).read_text(encoding="utf-8"), words)
        for path, file in FILES.items()
    }
    _write(place, {**texts, TABLE: table()})
    files = "\n".join(f"  {path}" for path in sorted([*texts, TABLE]))
    here = [] if place == Path.cwd() else [f"  cd {shlex.quote(folder)}"]
    steps = [*here, "  labrun experiment=first", "  labrun -m experiment=first model.width=4,16,64", "  lab runs"]
    return f"{folder}: a ready-to-run project\n{files}\n\nNext steps (README.md says more):\n" + "\n".join(steps)


def _filled(text: str, words: dict[str, str]) -> str:
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text


def _package(name: str, folder: str, place: Path) -> str:
    """Return the package name of a project.

    Raises:
        ConfigError: the name is invalid, or already taken, for example by an installed package.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        near = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()[:LONGEST].strip("_")
        near = near if NAME.fullmatch(near) else "my_project"
        raise ConfigError(
            f"{folder!r}: the folder's name is the project's and its package's, so it contains only letters, digits, "
            f"- and _, begins with a letter, and has at most {LONGEST} characters: "
            f"labrun new {shlex.quote(str(place.parent / near))}"
            if os.path.dirname(folder)
            else f"{folder!r}: the folder's name is the project's and its package's, so it contains only letters, "
            f"digits, - and _, begins with a letter, and has at most {LONGEST} characters: labrun new {near}"
        )
    package = name.lower().replace("-", "_")
    reason = _taken(package, place)
    if reason:
        raise ConfigError(
            f"{folder!r}: the project's package would be called '{package}', and {reason}: choose another name, such "
            f"as my_{package}"
        )
    return package


def _taken(package: str, place: Path) -> str:
    """Return why a package cannot have this name; empty if it can."""
    if keyword.iskeyword(package) or keyword.issoftkeyword(package) or package in ("true", "false", "none"):
        return "that is a Python keyword"
    if package in sys.stdlib_module_names:
        return f"that would hide Python's own module '{package}'"
    if package in RESERVED:
        return "a folder of that name means something else in a project"
    distributions = {_plain(str(one.metadata["Name"])) for one in metadata.distributions()}
    if _plain(package) in distributions or _is_importable(package, place):
        return f"that would hide the installed package '{package}'"
    return ""


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_importable(package: str, place: Path) -> bool:
    """Whether a module of this name can be imported, other than from the working folder or next to the new project."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None:
        return False
    near = {Path.cwd(), place, place.parent}
    where = [Path(spec.origin)] if spec.origin else [Path(one) for one in spec.submodule_search_locations or ()]
    return any(not near & {path, path.parent, path.parent.parent} for path in where)


def _check_empty(place: Path, folder: str) -> None:
    """Check that a folder is new, or empty except for `.git`.

    Raises:
        ConfigError: it is not.
    """
    if place.is_dir():
        try:
            there = sorted(entry.name for entry in place.iterdir() if entry.name != ".git")
        except OSError as error:
            raise _cannot(place, error) from error
        if there:
            more = f", ... ({len(there)} in all)" if len(there) > 3 else ""
            raise ConfigError(
                f"{folder!r} already contains files ({', '.join(there[:3])}{more}): name a new or empty folder"
            )
    elif os.path.lexists(place):
        raise ConfigError(f"{folder!r} already exists and is not a folder: name a new or empty one")


def _write(place: Path, texts: dict[str, str]) -> None:
    """Write all files; on failure, remove those already written.

    Raises:
        ConfigError: a file cannot be written.
    """
    made: list[Path] = []
    try:
        for name, text in texts.items():
            path = place / name
            missing = [one for one in (path.parent, *path.parents) if not one.exists()]
            for one in sorted(set(missing)):
                one.mkdir()
                made.append(one)
            with open(path, "x", encoding="utf-8", newline="\n") as file:
                made.append(path)
                file.write(text)
    except OSError as error:
        for path in reversed(made):
            try:
                path.rmdir() if path.is_dir() else path.unlink()
            except OSError:
                continue
        raise _cannot(place, error) from error


def _cannot(place: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{place} cannot be written: {error.strerror or error}. Nothing was written")


def table() -> str:
    """Return points of two half moons as CSV; always the same ones."""
    draw = random.Random(0)
    lines = ["east,north,moon"]
    for row in range(ROWS):
        angle, is_upper = math.pi * draw.random(), row % 2 == 0
        x, y = math.cos(angle), math.sin(angle)
        x, y = (x, y) if is_upper else (1 - x, 0.5 - y)
        lines.append(f"{x + draw.gauss(0, 0.15):.3f},{y + draw.gauss(0, 0.15):.3f},{'upper' if is_upper else 'lower'}")
    return "\n".join(lines) + "\n"


def _source() -> str:
    """Return the uv source of the installed labrun, as TOML; empty if it came from a package index."""
    try:
        direct_url = json.loads(metadata.distribution("labrun").read_text("direct_url.json") or "{}")
        address = str(direct_url.get("url") or "")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return ""
    if not address:
        return ""
    keys: dict[str, Any] = {}
    local = urlsplit(address)
    if direct_url.get("vcs_info"):
        keys = {"git": _without_password(address), "rev": direct_url["vcs_info"].get("commit_id")}
    elif local.scheme == "file":
        from urllib.request import url2pathname

        keys = {
            "path": url2pathname(local.path),
            "editable": (direct_url.get("dir_info") or {}).get("editable") or None,
        }
    else:
        keys = {"url": _without_password(address)}
    keys["subdirectory"] = direct_url.get("subdirectory")
    values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items() if value)
    return f"\n[tool.uv.sources]\nlabrun = {{ {values} }}  # the labrun that wrote this file\n"


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    user = "git@" if parts.scheme.endswith("ssh") and "@" in parts.netloc else ""
    return parts._replace(netloc=user + host, query="", fragment="").geturl()
