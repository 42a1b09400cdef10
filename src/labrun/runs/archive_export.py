"""Exports runs for another machine: an archive of their folders and code, with a digest of each file.

`labrun.runs.archive_import` reads archives, and accepts only names and values that this module would write.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from labrun._io import atomic_write
from labrun.config import checking
from labrun.errors import RecordError
from labrun.runs import custom_locations
from labrun.runs.archive_format import FORMAT, MANIFEST, NOT_TAKEN, REPOSITORY, SWEEP_FILES
from labrun.runs.files import COMPILED, tree_digest
from labrun.runs.groups import Code, ScriptCode
from labrun.runs.record import Record, is_named_safely
from labrun.runs.workspace import Workspace


def export(root: Path, chosen: Sequence[tuple[Path, Record]], target: Path) -> int:
    """Write an archive.

    Args:
        root: the workspace.
        chosen: the runs, which must have ended.
        target: the archive, `.tar` or `.tar.gz`.

    Returns:
        The number of files.

    Raises:
        RecordError: the archive already exists, or cannot be written.
    """
    if target.exists():
        raise RecordError(f"{target} already exists: choose another file with -o")
    files = dict(_files(root, chosen))
    digests: dict[str, Any] = {}
    try:
        mode: Literal["w:gz", "w"] = "w:gz" if target.suffix in (".gz", ".tgz") else "w"
        with atomic_write(target) as output, tarfile.open(fileobj=output, mode=mode) as archive:
            for name, path in files.items():
                with open(path, "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    content = _Digested(file)
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mtime, entry.mode = size, int(os.fstat(file.fileno()).st_mtime), 0o644
                    archive.addfile(entry, content)
                    digests[name] = {"sha256": content.digest.hexdigest(), "size": size}
            runs = [{"id": r.id, "name": r.name, "folder": _place(root, d, r)} for d, r in chosen]
            text = json.dumps({"format": FORMAT, "runs": runs, "files": digests}, indent=1).encode()
            entry = tarfile.TarInfo(MANIFEST)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    except OSError as error:
        raise RecordError(f"cannot write {target}: {error.strerror or error}") from error
    return len(files)


class _Digested:
    """File that computes its digest while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _relative(root: Path, folder: Path) -> str:
    try:
        return folder.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise RecordError(f"{folder} is outside the workspace {root}: choose its own with lab --root") from None


def _place(root: Path, run_dir: Path, record: Record) -> str:
    """Return a run's folder in the archive: as in the workspace, or a standard location for a folder the user chose."""
    if not is_named_safely(record):
        raise RecordError(
            f"{run_dir} holds a run with the id {record.id!r:.60} and the name {record.name!r:.60}, which labrun never "
            "assigns, so it is not exported"
        )
    name = _relative(root, run_dir)
    if custom_locations.is_usual(PurePosixPath(name).parts):
        return name
    if not custom_locations.is_alone(root, run_dir):
        raise RecordError(f"{run_dir} holds more than run {record.id}: labrun cannot tell what belongs to the run")
    stamp = datetime.fromisoformat(record.created).strftime("%Y-%m-%d_%H-%M-%S")
    return f"outputs/{record.name}/{stamp}-{record.id}"


def _files(root: Path, chosen: Sequence[tuple[Path, Record]]) -> Iterator[tuple[str, Path]]:
    codes, sweeps = set(), set()
    for run_dir, record in chosen:
        yield from _below(run_dir, _place(root, run_dir, record), NOT_TAKEN)
        code = record.code or Code()
        codes |= {str(code.digest), str((code.script or ScriptCode()).digest)}
        parts = PurePosixPath(_relative(root, run_dir)).parts
        if record.sweep is not None and parts[0] == "multirun" and custom_locations.is_usual(parts):
            sweeps.add(run_dir.parent)
    for sweep in sorted(sweeps):
        for name in SWEEP_FILES:
            if (sweep / name).is_file() and not (sweep / name).is_symlink():
                yield f"{_relative(root, sweep)}/{name}", sweep / name
    for digest in sorted(filter(checking.is_sha256, codes)):
        folder = Workspace(root).code / digest
        if folder.is_dir() and not folder.is_symlink():
            names = sorted(path.relative_to(folder) for _, path in _below(folder, "", compiled=False))
            yield from _below(folder, f"code/{digest}", compiled=tree_digest(folder, names) != digest)


def _below(
    folder: Path, prefix: str, not_taken: Collection[str] = (), compiled: bool = True
) -> Iterator[tuple[str, Path]]:
    """Yield the archive name and the path of each file in a folder, except links.

    Args:
        folder: the folder.
        prefix: its name in the archive.
        not_taken: names of top-level entries to leave out.
        compiled: include Python's bytecode.
    """
    for top, names, files in os.walk(folder):
        left_out = not_taken if Path(top) == folder else ()
        left_out = (*left_out, REPOSITORY)
        names[:] = sorted(name for name in names if name not in left_out and (compiled or name != COMPILED))
        for name in sorted(files):
            path = Path(top, name)
            if name not in left_out and path.is_file() and not path.is_symlink():
                yield f"{prefix}/{path.relative_to(folder).as_posix()}", path
