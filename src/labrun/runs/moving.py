"""Moving runs between machines: an archive of their folders and of their code, each file with its digest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from labrun.errors import RecordError
from labrun.runs import elsewhere, store
from labrun.runs import record as records
from labrun.runs.files import tree_digest
from labrun.runs.record import Record

MANIFEST = "labrun-export.json"
FORMAT = 1
NOT_TAKEN = frozenset({".launch", "heartbeat", "requests"})
"""What says something of the machine that the run was on, and nothing of the run."""
SWEEP_FILES = ("results.csv", "report.html", "best.yaml", "multirun.yaml")
LARGEST_MANIFEST = 2**28


def export(root: Path, chosen: Sequence[tuple[Path, Record]], target: Path) -> int:
    """Write an archive.

    Args:
        root: the workspace.
        chosen: the runs; they have ended.
        target: the archive, `.tar` or `.tar.gz`.

    Returns:
        The number of files.

    Raises:
        RecordError: the archive is there already, or cannot be written.
    """
    if target.exists():
        raise RecordError(f"{target} is there already: choose another file with -o")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    files = dict(_files(root, chosen))
    told: dict[str, Any] = {}
    try:
        with tarfile.open(partial, "w:gz" if target.suffix in (".gz", ".tgz") else "w") as archive:
            for name, path in files.items():
                with open(path, "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    content = _Digested(file)
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mtime, entry.mode = size, int(os.fstat(file.fileno()).st_mtime), 0o644
                    archive.addfile(entry, content)
                    told[name] = {"sha256": content.digest.hexdigest(), "size": size}
            runs = [{"id": r.id, "name": r.name, "folder": _place(root, d, r)} for d, r in chosen]
            text = json.dumps({"format": FORMAT, "runs": runs, "files": told}, indent=1).encode()
            entry = tarfile.TarInfo(MANIFEST)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RecordError(f"cannot write {target}: {error.strerror or error}") from error
    return len(files)


class _Digested:
    """A file whose digest is known once it was read."""

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
        raise RecordError(f"{folder} lies outside of the workspace {root}: give its own with lab --root") from None


def _place(root: Path, run_dir: Path, record: Record) -> str:
    """Where a run lies in an archive: as in the workspace; one in a folder of a person's choice, where runs lie."""
    name = _relative(root, run_dir)
    if elsewhere.is_usual(PurePosixPath(name).parts):
        return name
    if not elsewhere.is_alone(store.state_folder(root), run_dir):
        raise RecordError(f"{run_dir} holds more than run {record.id}: it cannot be told what belongs to the run")
    stamp = datetime.fromisoformat(record.created).strftime("%Y-%m-%d_%H-%M-%S")
    return f"outputs/{record.name}/{stamp}-{record.id}"


def _files(root: Path, chosen: Sequence[tuple[Path, Record]]) -> Iterator[tuple[str, Path]]:
    codes, sweeps = set(), set()
    for run_dir, record in chosen:
        yield from _below(run_dir, _place(root, run_dir, record))
        code = record.code or {}
        codes |= {str(code.get("digest", "")), str((code.get("script") or {}).get("digest", ""))}
        parts = PurePosixPath(_relative(root, run_dir)).parts
        if record.sweep and parts[0] == "multirun" and elsewhere.is_usual(parts):
            sweeps.add(run_dir.parent)
    for sweep in sorted(sweeps):
        for name in SWEEP_FILES:
            if (sweep / name).is_file() and not (sweep / name).is_symlink():
                yield f"{_relative(root, sweep)}/{name}", sweep / name
    for digest in sorted(codes - {""}):
        folder = store.state_folder(root) / "code" / digest
        if folder.is_dir():
            yield from _below(folder, f"code/{digest}")


def _below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for top, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name not in NOT_TAKEN)
        for name in sorted(files):
            path = Path(top, name)
            if name not in NOT_TAKEN and path.is_file() and not path.is_symlink():
                yield f"{prefix}/{path.relative_to(folder).as_posix()}", path


def import_(root: Path, source: Path) -> tuple[list[str], list[str]]:
    """Take in an archive: all of it, or nothing.

    Args:
        root: the workspace.
        source: the archive.

    Returns:
        The ids of the runs that came in, and of those that were here already and stay as they are.

    Raises:
        RecordError: it is no archive of ours, holds what does not belong there, or is damaged.
    """
    state = store.state_folder(root)
    state.mkdir(parents=True, exist_ok=True)
    here = {record.id for _, record in store.listing(root).runs}
    with tempfile.TemporaryDirectory(prefix="import-", dir=state) as folder:
        place = Path(folder)
        manifest = _unpack(source, place)
        runs = [(str(run["id"]), PurePosixPath(run["folder"])) for run in manifest["runs"]]
        new = [(run_id, path) for run_id, path in runs if run_id not in here]
        for run_id, path in new:
            try:
                record = records.read(place / path)
            except RecordError as error:
                reason = str(error).partition("run.json ")[2]
                raise RecordError(f"{source}: the record {path}/run.json {reason}") from error
            if record.id != run_id:
                raise RecordError(f"{source} is damaged: {path} holds run {record.id}, and should hold {run_id}")
            if not Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root)):
                raise RecordError(f"{root / path} leads out of the workspace through a link")
            if (root / path).exists():
                raise RecordError(f"{root / path} is there already, and is another run")
        for digest in sorted((place / "code").glob("*")):
            target = state / "code" / digest.name
            names = sorted(path.relative_to(digest) for path in digest.rglob("*") if path.is_file())
            if tree_digest(digest, names) != digest.name:
                raise RecordError(f"{source} is damaged: code/{digest.name} is other code than its name says")
            if not target.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                digest.rename(target)
        for _, path in new:
            _settle(root, place / path, root / path)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).rename(root / path)
            for name in SWEEP_FILES if path.parts[0] == "multirun" else ():
                own = (place / path).parent / name
                if own.is_file() and not (root / path).parent.joinpath(name).exists():
                    shutil.move(own, (root / path).parent / name)
    return [run_id for run_id, _ in new], [run_id for run_id, _ in runs if run_id in here]


def _settle(root: Path, run_dir: Path, target: Path) -> None:
    """Paths of this machine in the place of the other's."""
    record = records.read(run_dir)
    if record.code:
        code = store.state_folder(root) / "code"
        record.code = {**record.code, "folder": str(code / str(record.code.get("digest")))}
        if record.code.get("files") == 0:  # an archive has no empty folders
            Path(record.code["folder"]).mkdir(parents=True, exist_ok=True, mode=0o700)
        script = record.code.get("script")
        if script:
            record.code["script"] = {**script, "folder": str(code / str(script.get("digest")))}
    if record.sweep:
        record.sweep = {**record.sweep, "folder": str(target.parent)}
    records.write(run_dir, record)


def _unpack(source: Path, place: Path) -> dict[str, Any]:
    """Every file of an archive, its digest checked; what the manifest does not name is refused, and so are links."""
    digests: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    try:
        with tarfile.open(source, "r:*") as archive:
            for entry in archive:
                name = _safe(entry, source)
                content = archive.extractfile(entry)
                assert content is not None
                if name == MANIFEST:
                    manifest = json.loads(content.read(LARGEST_MANIFEST))
                    continue
                if name in digests:
                    raise RecordError(f"{source} holds {name!r} twice")
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with open(place / name, "xb") as file:
                    while data := content.read(2**20):
                        digest.update(data)
                        file.write(data)
                digests[name] = digest.hexdigest()
    except FileNotFoundError:
        raise RecordError(f"there is no file {source}") from None
    except tarfile.ReadError as error:
        raise RecordError(f"{source} is no tar archive, or is cut off: 'lab runs export' writes such") from error
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise RecordError(f"{source} cannot be read as an archive of 'lab runs export': {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RecordError(f"{source} was not written by 'lab runs export': it holds no {MANIFEST} of format {FORMAT}")
    try:
        expected = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        folders = [PurePosixPath(run["folder"]) for run in manifest["runs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{source}: its {MANIFEST} is damaged") from error
    wrong = sorted(name for name in {*expected, *digests} if expected.get(name) != digests.get(name))
    if wrong:
        raise RecordError(f"{source} is damaged: {wrong[0]} is not what was exported ({len(wrong)} files differ)")
    for folder in folders:
        if not elsewhere.is_usual(folder.parts):
            raise RecordError(f"{source}: {folder} is no place for a run")
    return manifest


def _safe(entry: tarfile.TarInfo, source: Path) -> str:
    """An entry's name, if it is a plain file below the folder.

    Raises:
        RecordError: a link, a device, an absolute path, or one that climbs out.
    """
    name = PurePosixPath(entry.name)
    if not entry.isreg():
        raise RecordError(f"{source} holds {entry.name!r}, which is no plain file (a link?): nothing was taken in")
    if name.is_absolute() or ".." in name.parts or not name.parts or "\\" in entry.name or "\0" in entry.name:
        raise RecordError(f"{source} holds {entry.name!r}, which leads out of the workspace: nothing was taken in")
    if entry.name != MANIFEST and name.parts[0] not in ("outputs", "multirun", "code"):
        raise RecordError(f"{source} holds {entry.name!r}, which is no part of a run: nothing was taken in")
    if name.parts[:2] == ("outputs", ".labrun"):
        raise RecordError(f"{source} holds {entry.name!r}, in labrun's own folder: nothing was taken in")
    return str(name)
