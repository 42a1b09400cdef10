"""The files of a run: which there are, and copies of them."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from labrun._io import file_sha256
from labrun.checking import suggest
from labrun.errors import RecordError
from labrun.runs import store
from labrun.runs.custom_locations import LAUNCH
from labrun.runs.record import Record

EMPTY = hashlib.sha256().hexdigest()
"""Of a folder without files."""
COMPILED = "__pycache__"
"""The folder where Python keeps what it has compiled."""
OURS = frozenset({"attempts", "requests", "heartbeat", ".hydra", LAUNCH, "work"})
"""What is kept for labrun's own sake, and a script's working folder: none of what the run was to make."""


def of(run_dir: Path) -> dict[str, int]:
    """Every file that a run left, relative to its folder, with its size in bytes; links are not followed."""
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
    """The files that names, folders or patterns mean; all of them where nothing is said.

    Raises:
        RecordError: one of them means no file.
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
    """Copy files of a run into a folder, below it as they lie in the run's.

    Args:
        run_dir: the run.
        record: its record.
        patterns: see `chosen`.
        target: the folder.
        force: overwrite what is there.

    Raises:
        RecordError: no such file, something is there already, or the folder cannot be written.
    """
    names = chosen(run_dir, record, patterns)
    there = [target / name for name in names if os.path.lexists(target / name)]
    if there and not force:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise RecordError(f"{there[0]} is there already{more}: choose another folder with -o, or say --force")
    try:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run_dir / name, target / name)
    except OSError as error:
        raise RecordError(f"cannot write to {target}: {error.strerror or error}") from error
    return [target / name for name in names]


def tree_digest(base: Path, names: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of a folder's files.

    Args:
        base: the folder.
        names: the files, relative to it, in the order that counts.
    """
    total = hashlib.sha256()
    for name in names:
        total.update(os.fsencode(f"{name.as_posix()}\0{file_sha256(base / name)}\n"))
    return total.hexdigest()


def is_tree(folder: Path, digest: str) -> bool:
    """Whether a folder holds what a digest of `tree_digest` says; what Python compiled since is not part of it."""
    try:
        names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        own = [name for name in names if COMPILED not in name.parts]
        return tree_digest(folder, names) == digest or (own != names and tree_digest(folder, own) == digest)
    except OSError:
        return False


def drop_compiled(folder: Path, digest: str) -> None:
    """Take away what Python has compiled in a folder since it had a digest: it would be run in the sources' place."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    if any(COMPILED in name.parts for name in names) and tree_digest(folder, names) != digest:
        for path in [path for path in folder.rglob(COMPILED) if path.is_dir()]:
            shutil.rmtree(path, ignore_errors=True)


def pictures(root: Path) -> Path:
    """Where pictures of several runs go that were given no other place."""
    return store.state_folder(root) / "pictures"


def ready(path: Path) -> Path:
    """A file whose folder is there.

    Raises:
        RecordError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    return path
