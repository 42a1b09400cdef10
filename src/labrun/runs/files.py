"""Lists, copies and digests the files of a run."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from labrun._io import file_sha256
from labrun.errors import RecordError
from labrun.messages import suggest
from labrun.runs import context
from labrun.runs.record import Record
from labrun.runs.workspace import Workspace

EMPTY = hashlib.sha256().hexdigest()
"""Digest of a folder without files."""
COMPILED = "__pycache__"
"""Folder of Python's compiled bytecode."""
OURS = frozenset({"attempts", "requests", "heartbeat", context.HYDRA, context.LAUNCH, "work"})
"""labrun's internal entries and a script's working folder, which are not results of the run."""


def of(run_dir: Path) -> dict[str, int]:
    """Return a run's files, relative to its folder, with their sizes in bytes; links are not followed."""
    found: dict[str, int] = {}
    for folder, names, files in os.walk(run_dir):
        if Path(folder) == run_dir:
            names[:] = [name for name in names if name not in OURS]
            files = [name for name in files if name not in OURS and not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                found[path.relative_to(run_dir).as_posix()] = path.stat().st_size
    return dict(sorted(found.items()))


def chosen(run_dir: Path, record: Record, patterns: Sequence[str]) -> list[str]:
    """Return the files that match names, folders or patterns; all files if there are no patterns.

    Raises:
        RecordError: a pattern matches no file.
    """
    there = list(of(run_dir))
    if not patterns:
        return there
    found: list[str] = []
    for pattern in patterns:
        plain = pattern.rstrip("/").removeprefix("./")
        matches = [n for n in there if n == plain or n.startswith(f"{plain}/") or fnmatch.fnmatchcase(n, plain)]
        if not matches:
            raise RecordError(
                f"run {record.id} has no file {pattern!r}.{suggest(pattern, there)} Its files: "
                f"{', '.join(there[:20])}{', ...' if len(there) > 20 else ''}"
            )
        found += matches
    return list(dict.fromkeys(found))


def copy(run_dir: Path, record: Record, patterns: Sequence[str], target: Path, force: bool = False) -> list[Path]:
    """Copy files of a run into a folder under the same relative paths.

    Args:
        run_dir: the run's directory.
        record: its record.
        patterns: see `chosen`.
        target: the folder.
        force: overwrite existing files.

    Raises:
        RecordError: a pattern matches no file, a target file exists, or the folder is not writable.
    """
    names = chosen(run_dir, record, patterns)
    there = [target / name for name in names if os.path.lexists(target / name)]
    if there and not force:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise RecordError(f"{there[0]} already exists{more}: choose another folder with -o, or add --force")
    try:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run_dir / name, target / name)
    except OSError as error:
        raise RecordError(f"cannot write to {target}: {error.strerror or error}") from error
    return [target / name for name in names]


def tree_digest(base: Path, names: Sequence[Path]) -> str:
    """Return the SHA-256 of the names and contents of a folder's files.

    Args:
        base: the folder.
        names: the files, relative to `base`; their order affects the digest.
    """
    total = hashlib.sha256()
    for name in names:
        total.update(os.fsencode(f"{name.as_posix()}\0{file_sha256(base / name)}\n"))
    return total.hexdigest()


def is_tree(folder: Path, digest: str) -> bool:
    """Return whether a folder matches a digest of `tree_digest`, ignoring bytecode that Python has since written."""
    try:
        names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        own = [name for name in names if COMPILED not in name.parts]
        return tree_digest(folder, names) == digest or (own != names and tree_digest(folder, own) == digest)
    except OSError:
        return False


def drop_compiled(folder: Path, digest: str) -> None:
    """Remove bytecode that is not part of a folder's digest, since Python would run it instead of the sources."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    if any(COMPILED in name.parts for name in names) and tree_digest(folder, names) != digest:
        for path in [path for path in folder.rglob(COMPILED) if path.is_dir()]:
            shutil.rmtree(path, ignore_errors=True)


def pictures(root: Path) -> Path:
    """Return the default folder for pictures of several runs."""
    return Workspace(root).pictures


def ready(path: Path) -> Path:
    """Create a file's folder if necessary and return the file's path.

    Raises:
        RecordError: the folder cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    return path
