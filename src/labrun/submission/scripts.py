"""Resolution of a script at submission: its path, its requirements, and a copy of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun.errors import ConfigError
from labrun.submission import environments

NO_SOURCES = frozenset(map(Path, ("/", "/etc", "/home", "/opt", "/root", "/tmp", "/usr", "/usr/bin", "/var", "/bin")))
"""Folders that may contain a script but must not be copied."""


def resolve_paths(kept: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Make the paths in a script's config absolute, and the script's own path relative to its source folder.

    Args:
        kept: the node `script` for the record; changed in place.
        values: the same node, resolved.

    Raises:
        ConfigError: a file is missing or invalid.
    """
    problems = []
    source = Path(values["source"]).expanduser().resolve() if values.get("source") else None
    if values.get("command"):
        source = source or Path.cwd()
        kept["source"] = str(source)
        problems += _problems_of_source(source, values)
    else:
        places = [*([source / values["path"]] if source else []), Path(values["path"]).expanduser()]
        script = next((path.resolve() for path in places if path.is_file()), None)
        if source is not None and not source.is_dir():
            problems += _problems_of_source(source, values)
        elif script is None:
            problems.append(f"script.path={values['path']}: there is no such file below {source or Path.cwd()}")
        else:
            source = source or script.parent
            problems += _problems_of_source(source, values)
            if not script.is_relative_to(source):
                problems.append(f"script.path={values['path']} is not in script.source={source}")
            else:
                kept["path"], kept["source"] = script.relative_to(source).as_posix(), str(source)
    if values.get("python"):
        python = environments.interpreter(str(values["python"]))
        if python is None:
            problems.append(
                f"script.python={values['python']}: neither an interpreter nor the folder of a virtual environment"
            )
        kept["python"] = python
    if values.get("requirements"):
        file = Path(values["requirements"]).expanduser()
        if not file.is_file():
            problems.append(f"script.requirements={values['requirements']}: there is no such file")
        else:
            kept["requirements"] = str(file.resolve())
            kept["environment"] = environments.digest_of(file, bool(values.get("azureml")))
    kept["inputs"] = {name: _mounted(text) for name, text in (kept.get("inputs") or {}).items()}
    for name, value in {**(values.get("arguments") or {})}.items():
        if not str(name).strip() or any(c.isspace() or c == "\0" for c in str(name)):
            problems.append(f"script.arguments: {name!r} is not an argument name")
        if any("\0" in str(word) for word in (value if isinstance(value, list) else [value])):
            problems.append(f"script.arguments.{name}: a command line cannot hold a null character")
    if problems:
        raise ConfigError(problems)


def _problems_of_source(source: Path, values: Mapping[str, Any]) -> list[str]:
    """Return why a folder cannot be the source folder, of which each run gets a copy; empty if it can."""
    if not source.is_dir():
        return [f"script.source={values['source']}: there is no such folder"]
    if source in NO_SOURCES or source == Path.home():
        return [
            f"script.source={source} is not a source folder: each run gets a copy of it. Put the script in a "
            "separate folder, or name one with script.source"
        ]
    return []


def _mounted(text: Any) -> str:
    """Return an input's value; a bare name becomes a mount of an asset or folder of the datastore."""
    plain = str(text)
    return plain if "${" in plain or plain.startswith("/") else f"${{mount:{plain}}}"
