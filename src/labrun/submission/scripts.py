"""Resolution of a script at submission: its path, its requirements, and a copy of its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labrun.config.schema import Script
from labrun.errors import ConfigError
from labrun.submission import environments

NO_SOURCES = frozenset(map(Path, ("/", "/etc", "/home", "/opt", "/root", "/tmp", "/usr", "/usr/bin", "/var", "/bin")))
"""Folders that may contain a script but must not be copied."""


def resolve_paths(kept: dict[str, Any], script: Script) -> None:
    """Make the paths in a script's config absolute, and the script's own path relative to its source folder.

    Args:
        kept: the node `script` for the record; changed in place.
        script: the same, resolved.

    Raises:
        ConfigError: a file is missing or invalid.
    """
    problems = []
    source = Path(script.source).expanduser().resolve() if script.source else None
    if script.command:
        source = source or Path.cwd()
        kept["source"] = str(source)
        problems += _problems_of_source(source, script)
    else:
        assert script.path is not None
        places = [*([source / script.path] if source else []), Path(script.path).expanduser()]
        file = next((path.resolve() for path in places if path.is_file()), None)
        if source is not None and not source.is_dir():
            problems += _problems_of_source(source, script)
        elif file is None:
            problems.append(f"script.path={script.path}: there is no such file below {source or Path.cwd()}")
        else:
            source = source or file.parent
            problems += _problems_of_source(source, script)
            if not file.is_relative_to(source):
                problems.append(f"script.path={script.path} is not in script.source={source}")
            else:
                kept["path"], kept["source"] = file.relative_to(source).as_posix(), str(source)
    if script.python:
        kept["python"] = environments.interpreter(script.python)
        if kept["python"] is None:
            problems.append(
                f"script.python={script.python}: neither an interpreter nor the folder of a virtual environment"
            )
    if script.requirements:
        requirements = Path(script.requirements).expanduser()
        if not requirements.is_file():
            problems.append(f"script.requirements={script.requirements}: there is no such file")
        else:
            kept["requirements"] = str(requirements.resolve())
            kept["environment"] = environments.digest_of(requirements, script.azureml)
    kept["inputs"] = {name: _mounted(text) for name, text in (kept.get("inputs") or {}).items()}
    problems += _problems_of_arguments(script)
    if problems:
        raise ConfigError(problems)


def _problems_of_source(source: Path, script: Script) -> list[str]:
    """Return why a folder cannot be the source folder, of which each run gets a copy; empty if it can."""
    if not source.is_dir():
        return [f"script.source={script.source}: there is no such folder"]
    if source in NO_SOURCES or source == Path.home():
        return [
            f"script.source={source} is not a source folder: each run gets a copy of it. Put the script in a "
            "separate folder, or name one with script.source"
        ]
    return []


def _problems_of_arguments(script: Script) -> Iterator[str]:
    for name, value in script.arguments.items():
        if not str(name).strip() or any(c.isspace() or c == "\0" for c in str(name)):
            yield f"script.arguments: {name!r} is not an argument name"
        if any("\0" in str(word) for word in (value if isinstance(value, list) else [value])):
            yield f"script.arguments.{name}: a command line cannot hold a null character"


def _mounted(text: Any) -> str:
    """Return an input's value; a bare name becomes a mount of an asset or folder of the datastore."""
    plain = str(text)
    return plain if "${" in plain or plain.startswith("/") else f"${{mount:{plain}}}"
