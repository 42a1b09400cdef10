"""The files of a run: uploading, listing and downloading by its script."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from labrun._io import atomic_write
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.notice import notify_once
from labrun.runs import context

OWN = {
    context.HYDRA,
    "attempts",
    "requests",
    "work",
    "run.json",
    "metrics.jsonl",
    "annotations.jsonl",
    "heartbeat",
    "driver.log",
}
"""labrun's own files in a run's folder, which scripts must not write."""

LOG = "driver.log"
LOGS = re.compile(r"(?:azureml-logs/(?:\d+_)?driver_log|user_logs/std_log)(?:_(\d+))?\.txt")
"""The SDK's names for a run's log over the years, with an optional process rank at the end."""
LOG_FOLDERS = {"azureml-logs": "azureml-logs/70_driver_log.txt", "user_logs": "user_logs/std_log.txt"}


def upload(run_dir: Path, name: str, source: Any) -> None:
    """Copy a file or a stream's content into the run's folder.

    Args:
        run_dir: the run's folder.
        name: the target path relative to it, such as `outputs/model.pkl`.
        source: a path, or an object with `read`.

    Raises:
        UserErrorException: the name leads outside the run's folder, is reserved for labrun or is taken, or there is no
            such source file.
    """
    target = _target(run_dir, name)
    if not hasattr(source, "read"):
        source = Path(os.fsdecode(source))
        if not source.is_file():
            raise UserErrorException(f"upload_file({name!r}): there is no file {source} (working folder: {Path.cwd()})")
        if target.exists() and target.samefile(source):
            return
    if target.exists():
        raise UserErrorException(f"upload_file({name!r}): the run already has a file of this name: {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Write atomically, so that no reader sees a partial file.
    with atomic_write(target) as file:
        if isinstance(source, Path):
            with open(source, "rb") as content:
                _copy(content, file)
        else:
            _copy(source, file)


def tell_datastore(call: str, datastore_name: Any) -> None:
    """Print a notice, once, if a file of a run is to go to a datastore."""
    if datastore_name is not None:
        notify_once(
            f"{call}(datastore_name={datastore_name!r}): the name is not used: a run's files are in its folder; "
            "Datastore.upload_files() copies files to a datastore"
        )


def pairs(names: Any, paths: Any) -> list[tuple[Any, Any]]:
    """Return the names of several files with their paths.

    Raises:
        TypeError: there are more names than paths, or fewer.
    """
    names, paths = list(names), list(paths)
    if len(names) != len(paths):
        message = "upload_files: names and paths must have the same length: {} names, {} paths"
        raise TypeError(message.format(len(names), len(paths)))
    return list(zip(names, paths))  # noqa: B905 (Python 3.6)


def _copy(source: Any, target: BinaryIO) -> None:
    while True:
        chunk = source.read(1 << 20)
        if not chunk:
            return
        target.write(chunk.encode() if isinstance(chunk, str) else chunk)


def upload_folder(run_dir: Path, name: str, folder: Any) -> None:
    """Copy all files of a folder and its subfolders.

    Raises:
        UserErrorException: there is no such folder; see also `upload`.
    """
    root = Path(os.fsdecode(folder))
    if not root.is_dir():
        raise UserErrorException(f"upload_folder({name!r}): there is no folder {root} (working folder: {Path.cwd()})")
    # List the files before the first copy: the run's folder may be inside the copied one.
    for path in [path for path in sorted(root.rglob("*")) if path.is_file()]:
        upload(run_dir, "/".join([name, *path.relative_to(root).parts]), path)


def _target(run_dir: Path, name: str) -> Path:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise UserErrorException(f"{name!r} must be a path below the run's folder, such as outputs/model.pkl")
    if parts[0] in OWN or parts[0].startswith("driver."):
        raise UserErrorException(f"{parts[0]} in a run's folder is reserved for labrun: use outputs/{name} instead")
    target = run_dir.joinpath(*parts)
    inside = Path(os.path.realpath(str(run_dir)))
    if inside not in Path(os.path.realpath(str(target))).parents:
        raise UserErrorException(f"{name!r} leads outside the run's folder, through a link")
    return target


def listing(run_dir: Path) -> list[str]:
    """Return the paths, relative to the run's folder, of the files that the run wrote and of its log."""
    found = []
    for path in sorted(run_dir.rglob("*")):
        parts = path.relative_to(run_dir).parts
        ours = parts[0] in OWN or parts[0].startswith(".") or parts[:2] == ("logs", "azureml")
        if path.is_file() and (not ours or parts[0] == LOG):
            found.append("/".join(parts))
    return found


def named(run_dir: Path, name: str) -> Any:
    """Return the name if a file or folder of the run has it, else None: the SDK uses a model's name as default path."""
    return name if any(f"{one}/".startswith(f"{name}/") for one in listing(run_dir)) else None


def own_name(name: str) -> str:
    """Convert the SDK's names for the log to labrun's; return any other name unchanged."""
    found = LOGS.fullmatch(name)
    if found is None:
        return name
    return f"driver.{found[1]}.log" if int(found[1] or 0) else LOG


def stored_name(run_dir: Path, name: str) -> str:
    """Return a name, below `outputs/` if it is found only there: labrun stores MLflow's `model` in `outputs/model`."""
    return name if (run_dir / name).exists() or not (run_dir / "outputs" / name).exists() else f"outputs/{name}"


def beginning_with(run_dir: Path, prefix: str | None) -> list[str]:
    """Return the files whose names begin with a prefix. The SDK's log folders contain labrun's log."""
    log = LOG_FOLDERS.get((prefix or "").partition("/")[0])
    if log is not None and log.startswith(prefix or "") and LOG in listing(run_dir):
        return [log]
    return [name for name in listing(run_dir) if name.startswith(prefix or "")]


class LogFiles(dict):  # type: ignore[type-arg]
    """Paths or contents of log files by name; the SDK's names for them work too."""

    def __missing__(self, name: str) -> Any:
        if own_name(name) not in self:
            raise KeyError(name)
        return self[own_name(name)]


def download(run_dir: Path, name: str, target: Any = None) -> None:
    """Copy one of the run's files to a target path.

    Args:
        run_dir: the run's folder.
        name: the file's name, as returned by `listing`.
        target: a file or folder; None: the same file name in the working folder.

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
