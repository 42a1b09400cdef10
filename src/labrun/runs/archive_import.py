"""Imports an archive of runs, which may come from an untrusted source. Imports all of it, or nothing.

The archive is unpacked into a new folder, `outputs/.labrun/import-<id>`, where every name and value that the workspace
will rely on is checked. Then the list of moves is written to that folder, and the moves are made. If an import is
killed, the next import or `lab runs gc` removes the folder, after finishing the moves if their list was written.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from labrun import messages
from labrun.config import checking
from labrun.errors import DamagedRecordError, RecordError
from labrun.runs import context, custom_locations, files, store
from labrun.runs.archive_format import FORMAT, MANIFEST, NOT_TAKEN, REPOSITORY, SWEEP_FILES, Limits
from labrun.runs.attempts import Failure
from labrun.runs.groups import Code, Imported, ScriptCode
from labrun.runs.record import FAILED, Record, cannot_write, is_id, read_record, replace_text, timestamp, write_record
from labrun.runs.status import EndReason
from labrun.runs.workspace import Workspace

LARGEST_MANIFEST = 2**28
LARGEST_HEADER = 2**20
"""Maximum bytes of an entry's name and extended headers, which Python reads into memory whole."""
DEEPEST = 64
"""Maximum depth of folders."""
RATIO_FROM = 2**26
"""Unpacked bytes from which the compression ratio is limited."""
ROOM = 2**26
"""Bytes to keep free on the disk."""
MOVES = "moves.json"
COMPRESSIONS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))
"""Magic bytes of a compressed file, and the function that opens it."""


def import_(root: Path, source: Path, limits: Limits | None = None) -> tuple[list[str], list[str]]:
    """Import an archive: all of it, or nothing.

    Args:
        root: the workspace.
        source: the archive.
        limits: limits on its content.

    Returns:
        The IDs of the imported runs, and of runs that the workspace already had, which stay unchanged.

    Raises:
        RecordError: it is not an archive of labrun's, has unexpected content, is damaged or too large, or the workspace
            is not writable. Nothing was imported then.
    """
    with _alone(root) as is_alone:
        if not is_alone:
            raise RecordError(f"another import into {root} is in progress: try again when it has finished")
        _finish(root)
        place = Workspace(root).import_folder(uuid.uuid4().hex)
        try:
            place.mkdir(mode=0o700)
            return _Arrival(root, source, place, limits or Limits()).run()
        except OSError as error:
            raise RecordError(cannot_write(root, error)) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Hold the lock that allows one import at a time. Yield whether it was acquired."""
    from filelock import FileLock, Timeout

    try:
        path = Workspace(root).import_lock
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise RecordError(cannot_write(path.parent, error)) from error
    try:
        yield True
    finally:
        lock.release()


def left(root: Path, finish: bool = False) -> list[Path]:
    """Return the folders that killed imports left behind; none while another import is in progress.

    Args:
        root: the workspace.
        finish: first finish the imports whose list of moves was written.
    """
    if not _left(root):
        return []
    with _alone(root) as is_alone:
        if not is_alone:
            return []
        return [path for path in _left(root) if not (finish and _make_moves(root, path))]


def _left(root: Path) -> list[Path]:
    return [path for path in Workspace(root).import_folders() if path.is_dir() and not path.is_symlink()]


def _finish(root: Path) -> None:
    for path in _left(root):
        _make_moves(root, path)
        shutil.rmtree(path, ignore_errors=True)


def _make_moves(root: Path, place: Path) -> bool:
    """Make the remaining moves of an import and remove its folder. Return False if no list of moves was written."""
    try:
        moves = json.loads(context.content(place / MOVES))
        pairs = [(place / str(name), root / str(target)) for name, target in moves]
    except (OSError, ValueError, TypeError):
        return False
    for path, target in pairs:
        if path.exists() and not os.path.lexists(target):
            with contextlib.suppress(OSError):
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
    shutil.rmtree(place, ignore_errors=True)
    return True


class _Arrival:
    """Import of one archive.

    Args:
        root: the workspace.
        source: the archive.
        place: the folder to unpack it to.
        limits: limits on its content.
    """

    def __init__(self, root: Path, source: Path, place: Path, limits: Limits) -> None:
        self._root, self._source, self._place, self._limits = root, source, place, limits
        self._code = Workspace(root).code.relative_to(root)

    def run(self) -> tuple[list[str], list[str]]:
        """Unpack the archive, check it, and move its content into the workspace."""
        here = {record.id for _, record in store.listing(self._root).runs}
        digests, manifest = self._unpack()
        runs = self._checked(digests, manifest)
        new = {run_id: folder for run_id, folder in runs.items() if run_id not in here}
        for run_id, folder in new.items():
            self._adapt_record(run_id, folder)
        moves = [*self._code_moves(), *self._run_moves(new)]
        self._move(moves)
        return list(new), [run_id for run_id in runs if run_id in here]

    def _refused(self, what: str) -> RecordError:
        return RecordError(f"{self._source} {what}: nothing was imported")

    def _unpack(self) -> tuple[dict[str, str], Any]:
        """Unpack every file of the archive. Return the digest of each, and the manifest."""
        digests: dict[str, str] = {}
        manifest: Any = None
        count = 0
        try:
            # Streamed, so that all bytes read count towards the limits and none are read twice.
            with (
                _opened(self._source, self._limits, self._place) as stream,
                tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry, bufsize=2**20) as archive,
            ):
                for entry in archive:
                    count += 1
                    if count > self._limits.files:
                        raise self._refused(f"holds more than {self._limits.files:,} files (--max-files N allows more)")
                    name = self._safe(entry)
                    content = archive.extractfile(entry)
                    assert content is not None
                    if name == MANIFEST:
                        if manifest is not None or entry.size > LARGEST_MANIFEST:
                            raise self._refused(f"holds {MANIFEST} twice, or one that is too large")
                        manifest = json.loads(content.read(LARGEST_MANIFEST))
                        continue
                    if name in digests:
                        raise self._refused(f"holds {name!r} twice")
                    digests[name] = self._put(name, content)
        except (RecordError, _WriteError):
            raise
        except FileNotFoundError:
            raise RecordError(f"there is no file {self._source}") from None
        except tarfile.ReadError as error:
            raise RecordError(
                f"{self._source} is not a tar archive, or is truncated: 'lab runs export' writes archives"
            ) from error
        except Exception as error:  # a damaged archive can raise anything
            reason = " ".join(str(error).split())[:300]
            raise RecordError(
                f"{self._source} cannot be read as an archive of 'lab runs export': {type(error).__name__}: {reason}"
            ) from error
        return digests, manifest

    def _put(self, name: str, content: IO[bytes]) -> str:
        """Write one file and return its digest."""
        digest = hashlib.sha256()
        path = self._place / name
        with _writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = open(path, "xb")  # noqa: SIM115 - closed below
            except FileExistsError:
                raise self._refused(f"holds {name!r} and another name that means the same file here") from None
        with file:
            while data := content.read(2**20):
                digest.update(data)
                with _writing():
                    file.write(data)
        return digest.hexdigest()

    def _safe(self, entry: tarfile.TarInfo) -> str:
        """Return an entry's name if it is a plain file inside the folder.

        Raises:
            RecordError: it is a link, a device, or has a path that is not allowed.
        """
        name = PurePosixPath(entry.name)
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse() or entry.size < 0:
            raise self._refused(f"holds {entry.name!r:.200}, which is not a plain file (a link?)")
        parts = re.split(r"[/\\]", entry.name)
        if name.is_absolute() or ".." in parts or not name.parts or "\0" in entry.name or len(parts) > DEEPEST:
            raise self._refused(f"holds {entry.name!r:.200}, which leads out of the workspace or is nested too deeply")
        top = name.parts[0]
        if entry.name != MANIFEST and (top not in ("outputs", "multirun", "code") or len(name.parts) < 3):
            raise self._refused(f"holds {entry.name!r:.200}, which is not part of a run")
        if any(part.startswith(".") for part in name.parts[: custom_locations.DEPTHS.get(top, 0)]):
            raise self._refused(f"holds {entry.name!r:.200}, in a hidden folder such as labrun's own")
        return str(name)

    def _checked(self, digests: Mapping[str, str], manifest: Any) -> dict[str, PurePosixPath]:
        """Check that the manifest and the files match, and return the folders of the archive's runs by ID.

        Raises:
            RecordError: they do not match.
        """
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise RecordError(
                f"{self._source} was not written by 'lab runs export': it holds no {MANIFEST} of format {FORMAT}"
            )
        try:
            expected = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
            listed = [(run["id"], run["folder"]) for run in manifest["runs"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{self._source}: its {MANIFEST} is damaged") from error
        wrong = sorted(name for name in {*expected, *digests} if expected.get(name) != digests.get(name))
        if wrong:
            raise RecordError(
                f"{self._source} is damaged: {wrong[0]} is not what was exported ({len(wrong)} files differ)"
            )
        runs: dict[str, PurePosixPath] = {}
        for run_id, folder in listed:
            if not is_id(run_id) or run_id in runs:
                raise self._refused(f"holds a run with the id {run_id!r:.100}, which is invalid or used twice")
            if not _is_place(folder) or PurePosixPath(folder) in runs.values():
                raise self._refused(f"holds the folder {folder!r:.200}, which is not a valid folder for a run")
            runs[run_id] = PurePosixPath(folder)
        self._check_names(digests, set(runs.values()))
        return runs

    def _check_names(self, names: Mapping[str, str], folders: set[PurePosixPath]) -> None:
        """Check that every file belongs to a run, to a run's sweep, or to code.

        Raises:
            RecordError: one does not.
        """
        if (name := _repository(names)) is not None:
            raise self._refused(f"holds {name!r:.200}, of a git repository, whose configuration can make git run code")
        sweeps = {folder.parent for folder in folders if folder.parts[0] == "multirun"}
        for name in names:
            path = PurePosixPath(name)
            if path.parts[0] == "code":
                if not checking.is_sha256(path.parts[1]):
                    raise self._refused(f"holds {name!r:.200}: the name of a folder of code must be its digest")
                continue
            if path.parent in sweeps and path.name in SWEEP_FILES:
                continue
            depth = custom_locations.DEPTHS[path.parts[0]]
            if PurePosixPath(*path.parts[:depth]) not in folders or len(path.parts) <= depth:
                raise self._refused(f"holds {name!r:.200}, which belongs to none of its runs")
            if path.parts[depth].casefold() in NOT_TAKEN:
                raise self._refused(f"holds {name!r:.200}, which concerns only the run's machine and is never exported")

    def _adapt_record(self, run_id: str, folder: PurePosixPath) -> None:
        """Check a run's record and adapt it to this workspace.

        Raises:
            RecordError: the record is missing, damaged or invalid, or its run cannot be moved to its folder.
        """
        run_dir, target = self._place / folder, self._root / folder
        try:
            record = read_record(run_dir)
        except DamagedRecordError as error:
            where = f"{self._source}: the record {folder}/run.json"
            raise RecordError(f"{where} is damaged or cannot be read: {error.why}") from error
        except RecordError as error:
            raise RecordError(f"{self._source}: the record {folder}/run.json is missing") from error
        if record.id != run_id:
            raise RecordError(
                f"{self._source} is damaged: {folder} holds run {record.id!r:.60}, but should hold {run_id}"
            )
        if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(self._root)):
            raise RecordError(f"{target} leads out of the workspace through a link")
        if os.path.lexists(target):
            raise RecordError(f"{target} already exists and is another run")
        self._check_record(record, folder)
        code = self._root / self._code
        if record.code is not None:
            record.code.folder = str(code / str(record.code.digest))
            if record.code.script is not None:
                record.code.script.folder = str(code / str(record.code.script.digest))
            if record.code.digest == files.EMPTY:  # an archive has no empty folders
                (self._place / "code" / files.EMPTY).mkdir(parents=True, exist_ok=True)
        if record.sweep is not None:
            record.sweep.folder = str(target.parent)
        if not record.finished:
            record.error = Failure(EndReason.LOST, f"it was {record.status} when it was exported")
            record.status, record.ended = FAILED, record.ended or record.started or record.created
        record.imported = Imported(self._source.name, timestamp())
        write_record(run_dir, record, to_disk=False)

    def _check_record(self, record: Record, folder: PurePosixPath) -> None:
        """Check that the names and digests in a record, which become paths, are valid.

        Raises:
            RecordError: one is not.
        """
        wrong = None if checking.names_a_folder(record.name) else f"the name {record.name!r:.100}"
        code = record.code or Code()
        script = code.script or ScriptCode()
        if damaged := code.more.get("script"):
            wrong = f"code.script={damaged!r:.100}"
        node = record.config.get("script") or {}
        digests = {
            "code.digest": code.digest,
            "code.sources": code.sources,
            "code.environment": code.environment,
            "code.script.digest": script.digest,
            "script.environment": node.get("environment") if isinstance(node, dict) else node,
        }
        for key, digest in digests.items():
            if digest is not None and not checking.is_sha256(digest):
                wrong = f"{key}={digest!r:.100}, but a digest has 64 hexadecimal digits"
        if wrong:
            raise self._refused(f"holds the record {folder}/run.json with {wrong}")

    def _code_moves(self) -> Iterator[tuple[PurePosixPath, Path]]:
        """Yield the moves of code that the workspace lacks, after checking its digest.

        Raises:
            RecordError: the digest differs.
        """
        for folder in sorted((self._place / "code").glob("*")):
            if not files.is_tree(folder, folder.name):
                raise RecordError(
                    f"{self._source} is damaged: code/{folder.name} does not match the digest in its name"
                )
            files.drop_compiled(folder, folder.name)
            if not (self._root / self._code / folder.name).is_dir():
                yield PurePosixPath("code", folder.name), self._code / folder.name

    def _run_moves(self, new: Mapping[str, PurePosixPath]) -> Iterator[tuple[PurePosixPath, Path]]:
        sweeps = {folder.parent for folder in new.values() if folder.parts[0] == "multirun"}
        yield from ((folder, Path(folder)) for folder in new.values())
        for sweep in sorted(sweeps):
            for name in SWEEP_FILES:
                if (self._place / sweep / name).is_file() and not (self._root / sweep / name).exists():
                    yield sweep / name, Path(sweep / name)

    def _move(self, moves: list[tuple[PurePosixPath, Path]]) -> None:
        """Make all moves, or undo them if one fails.

        Raises:
            RecordError: the workspace is not writable.
        """
        if not moves:
            return
        if any(target.parent == self._code for _, target in moves):
            (self._root / self._code).mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps([[str(name), target.as_posix()] for name, target in moves])
        replace_text(self._place / MOVES, text)
        done: list[tuple[Path, Path]] = []
        try:
            for name, relative in moves:
                target = self._root / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(target):  # created in the meantime
                    raise FileExistsError(17, "it already exists", str(target))
                (self._place / name).rename(target)
                done.append((self._place / name, target))
        except OSError as error:
            (self._place / MOVES).unlink(missing_ok=True)
            for name_, target in reversed(done):
                with contextlib.suppress(OSError):
                    target.rename(name_)
                    target.parent.rmdir()  # only if it is empty
            raise RecordError(cannot_write(self._root, error)) from error


def _repository(names: Collection[str]) -> str | None:
    """Return a file that makes its folder a git repository, with or without a working tree; None if there is none."""
    for name in names:
        path = PurePosixPath(name)
        if any(part.casefold() == REPOSITORY for part in path.parts):
            return name
        if path.name == "HEAD" and all(
            any(one.startswith(f"{path.parent}/{below}") for one in names) for below in ("objects/", "refs/")
        ):
            return name
    return None


def _is_place(folder: object) -> bool:
    """Return whether a folder is a standard location for a run, in normalized form."""
    if not isinstance(folder, str) or "\0" in folder:
        return False
    path = PurePosixPath(folder)
    if str(path) != folder or ".." in path.parts or any(part.startswith(".") for part in path.parts):
        return False
    return custom_locations.is_usual(path.parts)


class _WriteError(RecordError):
    """The workspace is not writable."""


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _WriteError(f"cannot unpack the archive here: {error.strerror or error}. Nothing was imported") from error


class _Entry(tarfile.TarInfo):
    """Entry that limits the size of its name, which Python otherwise reads into memory whatever its length.

    There is no public hook to intercept such an entry earlier.
    """

    _NAMES = (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in self._NAMES and not 0 <= self.size <= LARGEST_HEADER:
            raise tarfile.ReadError("an entry's name has more than a million bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Counted:
    """Decompressed stream of an archive that enforces the limits."""

    def __init__(self, stream: IO[bytes], source: Path, size: int, limits: Limits, room: int) -> None:
        self._stream, self._source, self._size, self._limits, self._room = stream, source, size, limits, room
        self._read = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            RecordError: the content exceeds a limit.
        """
        data = self._stream.read(min(size, 2**20))
        while len(data) < size and (more := self._stream.read(min(size - len(data), 2**20))):
            data += more
        self._read += len(data)
        limits, what = self._limits, f"{self._source} holds more than"
        if self._read > limits.gb * 2**30:
            raise RecordError(f"{what} {limits.gb:g} GB (--max-gb N allows more): nothing was imported")
        if self._read > RATIO_FROM and self._read > limits.ratio * self._size:
            raise RecordError(
                f"{what} {limits.ratio:g} times its own size, like an archive made to fill a disk "
                "(--max-ratio N allows more): nothing was imported"
            )
        if self._read > self._room:
            raise RecordError(f"{what} the disk has room for ({messages.size_text(self._room)}): nothing was imported")
        return data


@contextlib.contextmanager
def _opened(source: Path, limits: Limits, place: Path) -> Iterator[Any]:
    """Open an archive as a stream that is decompressed as it is read.

    Args:
        source: the archive.
        limits: limits on its content.
        place: the folder that it is unpacked to.

    Raises:
        RecordError: the archive is not a plain file.
    """
    file = context.opened(source)
    if file is None:
        raise RecordError(f"{source} is not a file, so it is not an archive")
    with file:
        size = os.fstat(file.fileno()).st_size
        begin = file.read(6)
        file.seek(0)
        opener = next((one for mark, one in COMPRESSIONS if begin.startswith(mark)), None)
        room = max(0, shutil.disk_usage(place).free - ROOM)
        with contextlib.ExitStack() as stack:
            stream: Any = file if opener is None else stack.enter_context(opener(file))
            yield _Counted(stream, source, size, limits, room)
