"""Files that a script adds to its run, lists and takes out again."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from labrun._io import atomic_write
from labrun.compat.azureml.exceptions import UserErrorException

OWN = {
    ".hydra",
    "attempts",
    "requests",
    "work",
    "run.json",
    "metrics.jsonl",
    "annotations.jsonl",
    "heartbeat",
    "driver.log",
}
"""What labrun itself keeps in a run's folder: no script writes there."""

LOG = "driver.log"
LOGS = re.compile(r"(?:azureml-logs/(?:\d+_)?driver_log|user_logs/std_log)(?:_(\d+))?\.txt")
"""What the SDK called a run's log, in turn; at the end the rank of a process."""
LOG_FOLDERS = {"azureml-logs": "azureml-logs/70_driver_log.txt", "user_logs": "user_logs/std_log.txt"}


def upload(run_dir: Path, name: str, source: Any) -> None:
    """Copy a file, or what a stream holds, into the run's folder under a name.

    Args:
        run_dir: the run.
        name: a path below the run's folder, as `outputs/model.pkl`.
        source: a path, or an object with `read`.

    Raises:
        UserErrorException: the name leads out of the run, or is labrun's own, or has a file already; no such source.
    """
    target = _target(run_dir, name)
    if not hasattr(source, "read"):
        source = Path(os.fsdecode(source))
        if not source.is_file():
            raise UserErrorException(f"upload_file({name!r}): there is no file {source} (working folder: {Path.cwd()})")
        if target.exists() and target.samefile(source):
            return
    if target.exists():
        raise UserErrorException(f"upload_file({name!r}): the run has a file of this name already: {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Under a name of its own first: whoever reads the run never sees half a file.
    with atomic_write(target) as file:
        if isinstance(source, Path):
            with open(source, "rb") as content:
                _copy(content, file)
        else:
            _copy(source, file)


def _copy(source: Any, target: BinaryIO) -> None:
    while True:
        chunk = source.read(1 << 20)
        if not chunk:
            return
        target.write(chunk.encode() if isinstance(chunk, str) else chunk)


def upload_folder(run_dir: Path, name: str, folder: Any) -> None:
    """Copy all files of a folder, and of those below it.

    Raises:
        UserErrorException: see `upload`; no such folder.
    """
    root = Path(os.fsdecode(folder))
    if not root.is_dir():
        raise UserErrorException(f"upload_folder({name!r}): there is no folder {root} (working folder: {Path.cwd()})")
    # Listed before the first copy: the run's folder may lie below the one that is copied.
    for path in [path for path in sorted(root.rglob("*")) if path.is_file()]:
        upload(run_dir, "/".join([name, *path.relative_to(root).parts]), path)


def _target(run_dir: Path, name: str) -> Path:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise UserErrorException(f"{name!r} must be a path below the run's folder, such as outputs/model.pkl")
    if parts[0] in OWN or parts[0].startswith("driver."):
        raise UserErrorException(f"{parts[0]} in a run's folder is labrun's own: use another name, outputs/{name}")
    target = run_dir.joinpath(*parts)
    inside = Path(os.path.realpath(str(run_dir)))
    if inside not in Path(os.path.realpath(str(target))).parents:
        raise UserErrorException(f"{name!r} leads out of the run's folder, through a link")
    return target


def listing(run_dir: Path) -> list[str]:
    """The paths of what the run wrote, and of its log, relative to its folder."""
    found = []
    for path in sorted(run_dir.rglob("*")):
        parts = path.relative_to(run_dir).parts
        ours = parts[0] in OWN or parts[0].startswith(".") or parts[:2] == ("logs", "azureml")
        if path.is_file() and (not ours or parts[0] == LOG):
            found.append("/".join(parts))
    return found


def named(run_dir: Path, name: str) -> Any:
    """A model's name where a file or a folder of the run has it, else None: the SDK takes it for the missing path."""
    return name if any(f"{one}/".startswith(f"{name}/") for one in listing(run_dir)) else None


def own_name(name: str) -> str:
    """A name as `listing` has it: the log is found by the SDK's names for it, too."""
    found = LOGS.fullmatch(name)
    if found is None:
        return name
    return f"driver.{found[1]}.log" if int(found[1] or 0) else LOG


def stored_name(run_dir: Path, name: str) -> str:
    """A name as the run has it: what MLflow logs as `model` in Azure lies in `outputs/model` here."""
    return name if (run_dir / name).exists() or not (run_dir / "outputs" / name).exists() else f"outputs/{name}"


def beginning_with(run_dir: Path, prefix: str | None) -> list[str]:
    """The files whose names begin so; below the SDK's folders for logs there is the log."""
    log = LOG_FOLDERS.get((prefix or "").partition("/")[0])
    if log is not None and log.startswith(prefix or "") and LOG in listing(run_dir):
        return [log]
    return [name for name in listing(run_dir) if name.startswith(prefix or "")]


class LogFiles(dict):  # type: ignore[type-arg]
    """Paths, or contents, of logs by their names; also by those that the SDK has for them."""

    def __missing__(self, name: str) -> Any:
        if own_name(name) not in self:
            raise KeyError(name)
        return self[own_name(name)]


def download(run_dir: Path, name: str, target: Any = None) -> None:
    """Copy one of the run's files to where the script wants it.

    Args:
        run_dir: the run.
        name: as `listing` gives it.
        target: a file or a folder; by default the file's own name in the working folder.

    Raises:
        UserErrorException: the run has no such file.
    """
    own = stored_name(run_dir, own_name(name))
    if own not in listing(run_dir):
        known = ", ".join(listing(run_dir)[:20]) or "none"
        raise UserErrorException(f"download_file({name!r}): the run has no such file; it has: {known}")
    path = Path(name).name if target is None else os.fsdecode(target)
    if path.endswith("/") or os.path.isdir(path):
        path = os.path.join(path, Path(name).name)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    shutil.copyfile(str(run_dir / own), path)
