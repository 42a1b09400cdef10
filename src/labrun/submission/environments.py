"""Environments of scripts, built once per content of a requirements file, before any run starts.

A file is either a pip requirements file or a conda file; see `conda`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from labrun.config.schema import Script
from labrun.errors import ConfigError
from labrun.runs import store
from labrun.submission import conda, pythons

log = logging.getLogger(__name__)

COMPLETE = ".complete"


@dataclass(frozen=True)
class EnvironmentPlan:
    """The inputs of an environment.

    Args:
        file: the requirements file.
        python: the interpreter that the environment is built for.
        lines: the requirements; None: the file itself is a pip requirements file.
        notices: warnings about differences from the file.
    """

    file: Path
    python: str
    lines: tuple[str, ...] | None = None
    notices: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The environment's name: a SHA-256 over the requirements, the files they include, and the interpreter."""
        total = hashlib.sha256(f"{_python_name(self.python)}\n".encode())
        if self.lines is None:
            included = _included(self.file.resolve(), [])
        else:
            total.update("\n".join(self.lines).encode())
            included = [
                path
                for line in self.lines
                if line.startswith(("-r ", "-c "))
                for path in _included(Path(line[3:].strip()), [])
            ]
        for path in included:
            total.update(path.read_bytes())
        return total.hexdigest()


def plan(file: Path, azureml: bool = False) -> EnvironmentPlan:
    """Return the plan of the environment for a file.

    Args:
        file: a pip requirements file or a conda file.
        azureml: leave out Azure's own packages, because labrun supplies them.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not conda.is_conda(file) and not (azureml and "azureml" in file.read_text(encoding="utf-8", errors="replace")):
        return EnvironmentPlan(file, sys.executable)
    wanted = conda.read(file, azureml)
    python = pythons.find(wanted.python) if wanted.python else sys.executable
    notices = []
    if python is None:
        minor = ".".join(re.findall(r"\d+", wanted.python or "")[:2])
        notices.append(
            f"python{wanted.python} is not installed, so the environment is built for {platform.python_version()} "
            f"(pyenv install {minor}, or uv python install {minor})"
        )
    if wanted.left_out:
        notices.append(f"left out, because they are not on PyPI: {', '.join(wanted.left_out)}")
    return EnvironmentPlan(file, python or sys.executable, tuple(wanted.lines), tuple(notices))


def _python_name(python: str) -> str:
    if python == sys.executable:
        return f"{platform.python_implementation()} {platform.python_version()}"
    return os.path.realpath(python)


def digest_of(file: Path, azureml: bool = False) -> str:
    """Return the digest that names the environment of a file.

    Raises:
        ConfigError: the file cannot be read.
    """
    return plan(file, azureml).digest


def _included(file: Path, known: list[Path]) -> list[Path]:
    """Return a requirements file and the files that it includes with `-r` and `-c`."""
    if file in known or not file.is_file():
        return known
    known.append(file)
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split("#")[0].replace("=", " ").split()
        if len(words) > 1 and words[0] in ("-r", "-c", "--requirement", "--constraint"):
            _included((file.parent / words[1]).resolve(), known)
    return known


def files(file: Path, azureml: bool = False) -> list[Path]:
    """Return all files that an environment is built from: the given one and those that it includes.

    Raises:
        ConfigError: the file cannot be read.
    """
    lines = plan(file, azureml).lines or ()
    others = [Path(line[3:].strip()) for line in lines if line.startswith(("-r ", "-c "))]
    found = _included(file.resolve(), [])
    for one in others:
        _included(one.resolve(), found)
    return found


LOCAL = re.compile(
    r"(-e|--editable|--find-links|-f)\b.*|(\.|/|~|file:).*|[^#\s]*@\s*file:.*|[^#\s]+\.(whl|tar\.gz|zip)\b.*"
)


def local_lines(file: Path, azureml: bool = False) -> list[str]:
    """Return the requirements that refer to local folders or files.

    Raises:
        ConfigError: the file cannot be read.
    """
    lines = list(plan(file, azureml).lines or ())
    for one in files(file, azureml) if not lines else files(file, azureml)[1:]:
        lines += one.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if LOCAL.fullmatch(line.strip()) and "://" not in line]


def prepare(script: Script) -> None:
    """Build the environment of a script unless it exists, and check that the script's interpreter starts.

    Raises:
        ConfigError: the interpreter does not start, or the build fails; the message has the reason and the log's path.
    """
    if script.python:
        check_interpreter(interpreter(script.python) or script.python)
    if script.requirements:
        build(plan(Path(script.requirements).expanduser().resolve(), script.azureml))


def build(wanted: EnvironmentPlan) -> Path:
    """Build an environment unless it exists. Return its folder.

    Raises:
        ConfigError: the build fails; the message has the reason and the log's path.
    """
    from filelock import FileLock

    target = store.environment_folder(wanted.digest)
    output = target.with_suffix(".log")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (target / COMPLETE).exists():
            os.utime(target)  # mark it as in use, so that a clean-up keeps it
            return target
        for line in wanted.notices:
            log.warning("%s: %s", wanted.file.name, line)
        for_ = "" if wanted.python == sys.executable else f" for {wanted.python}"
        log.info("Building the environment of %s%s, once: %s", wanted.file, for_, output)
        shutil.rmtree(target, ignore_errors=True)
        _build(wanted, target, output)
        (target / COMPLETE).touch()
    return target


def _build(wanted: EnvironmentPlan, target: Path, output: Path) -> None:
    python, requirements = str(target / "bin" / "python"), wanted.file
    if wanted.lines is not None:
        requirements = target.with_suffix(".txt")
        requirements.write_text("".join(f"{line}\n" for line in wanted.lines), encoding="utf-8")
    uv = shutil.which("uv")
    if uv is not None:
        steps = [
            [uv, "venv", "--python", wanted.python, str(target)],
            [uv, "pip", "install", "--python", python, "-r", str(requirements)],
        ]
    else:
        steps = [[wanted.python, "-m", "venv", str(target)], [python, "-m", "pip", "install", "-r", str(requirements)]]
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONSAFEPATH")}
    with open(output, "wb") as file:
        for step in steps:
            try:
                done = subprocess.run(
                    step, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=wanted.file.parent, check=False
                )
            except OSError as error:
                raise ConfigError(f"script.requirements={wanted.file}: {step[0]} does not start: {error}") from error
            if done.returncode:
                shutil.rmtree(target, ignore_errors=True)
                lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise ConfigError(
                    f"script.requirements={wanted.file}: its environment could not be built. The last lines of "
                    f"{output}:\n" + "\n".join(f"  {line}" for line in lines[-6:])
                )


def interpreter(name: str) -> str | None:
    """Return the interpreter for a path, a folder or a command's name; None if there is none."""
    place = Path(name).expanduser()
    for path in (place / "bin" / "python", place):
        if path.is_file() and os.access(path, os.X_OK):
            return os.path.abspath(path)  # not resolved: in a virtual environment it is a link to another interpreter
    return shutil.which(name) if os.sep not in name else None


def check_interpreter(python: str) -> None:
    """Check that an interpreter starts.

    Raises:
        ConfigError: it does not.
    """
    try:
        # -I: this process's PYTHONPATH is for its own Python version.
        answer = subprocess.run(
            [python, "-I", "-c", "import sys"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"script.python={python} does not start: {error}") from error
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"script.python={python} is not a Python interpreter: {last}")
