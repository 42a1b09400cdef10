"""Models that a script registers: it notes them, and they are registered when its run completes.

`logs/azureml/models/register.jsonl` has one line per model. A file outside the run's `outputs` and `logs` is copied
next to it at once.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from labrun._io import append_line
from labrun.compat.azureml.exceptions import ModelPathNotFoundException
from labrun.compat.azureml.training import files, registered
from labrun.compat.azureml.training.metrics import FOLDER
from labrun.runs.context import RunContext

NAME = os.path.join("models", "register.jsonl")
"""In a folder of its own: the files of logged values have the metrics' names and could collide."""


def add(run: RunContext, name: str, path: Any, about: dict[str, Any], local: bool) -> tuple[int, Path]:
    """Note a model to be registered when the run completes.

    Args:
        run: the script's run.
        name: the model's name.
        path: the file or folder; None: `outputs`.
        about: its tags, properties and description.
        local: look up relative paths only in the working folder; False: first in the run's folder.

    Returns:
        The expected version number, which changes if another program registers a version first, and the path of the
        file or folder that will be registered.

    Raises:
        ModelNameException: the name is invalid.
        ModelPathNotFoundException: there is no such file or folder.
    """
    registered.check_name(name)
    path = path or files.named(run.run_dir, name) or "outputs"
    given = Path(os.path.expanduser(os.fspath(path)))
    places = [Path.cwd() / given] if local else [run.run_dir / given, Path.cwd() / given]
    there = [one for one in places if one.exists()]
    if not there:
        raise ModelPathNotFoundException(
            f"register {name!r}: there is no file or folder {given} (looked at {places[0]})"
        )
    folder = run.run_dir / FOLDER
    before = [line for line in read(run.run_dir, run.attempt) if line.get("name") == name]
    number = registered.highest(name) + len(before) + 1
    found = Path(os.path.realpath(str(there[0])))
    base = Path(os.path.realpath(str(run.run_dir)))
    if not {base / "outputs", base / "logs"} & {found, *found.parents}:
        found = _copied(found, base / FOLDER / "models" / f"{name}-{number}")
    line = {**about, "name": name, "path": found.relative_to(base).as_posix(), "version": number}
    (folder / NAME).parent.mkdir(parents=True, exist_ok=True)
    append_line(str(folder / NAME), json.dumps({**line, "attempt": run.attempt}))
    sys.stderr.write(f"labrun: the model {name!r} is registered as version {number} when this run completes\n")
    return number, found


def read(run_dir: Path, attempt: int) -> list[dict[str, Any]]:
    """Return the models that an attempt has noted, in order."""
    try:
        text = (run_dir / FOLDER / NAME).read_text(encoding="utf-8")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and content.get("attempt") == attempt:
            found.append(content)
    return found


def _copied(source: Path, folder: Path) -> Path:
    target = folder / source.name
    folder.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        if target.exists():
            shutil.rmtree(str(target))
        shutil.copytree(str(source), str(target))
    else:
        shutil.copyfile(str(source), str(target))
    return target
