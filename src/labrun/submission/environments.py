"""Environments of scripts: built once for each requirements file's content, before any run begins."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun.errors import ConfigError
from labrun.runs import store

log = logging.getLogger(__name__)

COMPLETE = ".complete"


def digest_of(requirements: Path) -> str:
    """What an environment is called: SHA-256 over the file, what it includes, and the interpreter it is built for."""
    total = hashlib.sha256(f"{platform.python_implementation()} {platform.python_version()}\n".encode())
    for path in _included(requirements.resolve(), []):
        total.update(path.read_bytes())
    return total.hexdigest()


def _included(file: Path, known: list[Path]) -> list[Path]:
    """A requirements file, and those that it includes by `-r` and `-c`."""
    if file in known or not file.is_file():
        return known
    known.append(file)
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split("#")[0].replace("=", " ").split()
        if len(words) > 1 and words[0] in ("-r", "-c", "--requirement", "--constraint"):
            _included((file.parent / words[1]).resolve(), known)
    return known


def prepare(script: Mapping[str, Any]) -> None:
    """Build the environment that a script asks for, unless it is there; and see whether its interpreter starts.

    Raises:
        ConfigError: it cannot be built; the message says why, and where the log is.
    """
    if script.get("python"):
        check_interpreter(interpreter(str(script["python"])) or str(script["python"]))
    if not script.get("requirements"):
        return
    from filelock import FileLock

    file = Path(str(script["requirements"])).expanduser().resolve()
    digest = digest_of(file)
    target = store.environment_folder(digest)
    output = target.with_suffix(".log")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (target / COMPLETE).exists():
            os.utime(target)  # in use: a clean-up leaves it alone
            return
        log.info("Building the environment of %s, once: %s", file, output)
        shutil.rmtree(target, ignore_errors=True)
        _build(file, target, output)
        (target / COMPLETE).touch()


def _build(requirements: Path, target: Path, output: Path) -> None:
    python = str(target / "bin" / "python")
    uv = shutil.which("uv")
    if uv is not None:
        steps = [
            [uv, "venv", "--python", sys.executable, str(target)],
            [uv, "pip", "install", "--python", python, "-r", str(requirements)],
        ]
    else:
        steps = [[sys.executable, "-m", "venv", str(target)], [python, "-m", "pip", "install", "-r", str(requirements)]]
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONSAFEPATH")}
    with open(output, "wb") as file:
        for step in steps:
            try:
                done = subprocess.run(
                    step, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=requirements.parent, check=False
                )
            except OSError as error:
                raise ConfigError(f"script.requirements={requirements}: {step[0]} does not start: {error}") from error
            if done.returncode:
                shutil.rmtree(target, ignore_errors=True)
                lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise ConfigError(
                    f"script.requirements={requirements}: its environment could not be built. The last lines of "
                    f"{output}:\n" + "\n".join(f"  {line}" for line in lines[-6:])
                )


def interpreter(name: str) -> str | None:
    """The interpreter that a path, a folder or a command's name means; None if it is none."""
    place = Path(name).expanduser()
    for path in (place / "bin" / "python", place):
        if path.is_file() and os.access(path, os.X_OK):
            return os.path.abspath(path)  # not resolved: a virtual environment's is a link to another
    return shutil.which(name) if os.sep not in name else None


def check_interpreter(python: str) -> None:
    """Whether an interpreter starts.

    Raises:
        ConfigError: it does not.
    """
    try:
        answer = subprocess.run([python, "-c", "import sys"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"script.python={python} does not start: {error}") from error
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"script.python={python} is no Python interpreter: {last}")
