"""File transfers: a few files at a time, in chunks, each complete or absent under its final name."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from labrun._io import FileStamp, append_line, atomic_write, file_sha256, partial_of
from labrun.config.schema import DatastoreSettings
from labrun.data import digests
from labrun.data.digests import Entry
from labrun.data.progress import TransferView
from labrun.data.stores.base import PARTIAL, STATE, Datastore, FileInfo, ProgressCallback
from labrun.errors import CorruptDataError, DataError, MissingDataError
from labrun.messages import counted, size_text
from labrun.runs.record import process_start
from labrun.runs.store import workspace
from labrun.runs.workspace import Workspace

LEFT_S = 60
"""Age from which an unchanged partial file counts as abandoned."""
CHUNKS = 8
"""Maximum number of chunks in memory, over all files."""
MAX_LISTED = 10
"""File names listed in a message."""


@dataclass(frozen=True)
class Item:
    """A file to transfer."""

    name: str
    """Name in the datastore."""
    local: Path
    size: int
    sha256: str = ""


class DigestCache:
    """SHA-256 of datastore files that this workspace has sent or read; an entry is valid while the file's token is.

    A line is appended for each file once it has been sent. A `JsonCache` is written as a whole: concurrent processes
    would lose each other's entries, and a killed upload all of its own: the next one would read its files back.

    Args:
        store: the datastore.
    """

    def __init__(self, store: Datastore) -> None:
        key = hashlib.sha256(store.identity.encode()).hexdigest()[:24]
        self._path = Workspace(workspace()).transfers / f"{key}.jsonl"
        self._known: dict[tuple[str, str, int], str] = {}
        with contextlib.suppress(OSError):
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # a line truncated by a kill
                    name, token, size, sha256 = json.loads(line)
                    self._known[name, token, size] = sha256

    def known(self, name: str, found: FileInfo) -> str | None:
        """Return the SHA-256 of the file's current content, if known."""
        return self._known.get((name, found.token, found.size)) if found.token else None

    def note(self, name: str, found: FileInfo, sha256: str) -> None:
        """Save the digest, for other processes too."""
        if not found.token or self.known(name, found) == sha256:
            return
        self._known[name, found.token, found.size] = sha256
        with contextlib.suppress(OSError):  # the file is then read again next time
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self._path, json.dumps([name, found.token, found.size, sha256]), mode=0o666)


class _Over(Exception):  # noqa: N818 - not an error: another transfer failed, or the user interrupted
    """Aborts the remaining transfers."""


def transfer_all(
    store: Datastore,
    items: Sequence[Item],
    work: Callable[[Item, ProgressCallback], None],
    view: TransferView,
    workers: int = DatastoreSettings.workers,
) -> None:
    """Process the files of a datastore in parallel; the first error aborts the rest and is raised.

    The threads are daemons, so Ctrl-C need not wait for a large file.
    """
    view.begin(len(items), sum(item.size for item in items))
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    finished: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    over = threading.Event()

    def on_progress(count: int) -> None:
        if over.is_set():
            raise _Over
        view.advance(count)

    def carry() -> None:
        try:
            while not over.is_set():
                item = waiting.get_nowait()
                work(item, on_progress)
                view.done(item.name, item.size)
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
            finished.put(error)
            return
        finished.put(None)

    threads = min(max(1, workers), len(items))
    store.streams = max(1, CHUNKS // max(1, threads))
    for number in range(threads):
        threading.Thread(target=carry, name=f"transfer-{number}", daemon=True).start()
    first: BaseException | None = None
    try:
        for _ in range(threads):
            error = finished.get()
            if error is not None and not isinstance(error, _Over):
                first = first or error
                over.set()
    finally:
        over.set()
    if first is not None:
        raise first


def local_files(source: Path) -> dict[str, Path]:
    """Return a folder's files by relative name, or a single file by its own name.

    Raises:
        MissingDataError: the source does not exist or holds no files.
        DataError: a link loops, an entry is no regular file, or a name cannot be stored.
    """
    if source.is_file():
        return {source.name: source}
    if not source.is_dir():
        raise MissingDataError(f"{source} does not exist: give a file or a folder")
    found = {}
    for place, folders, names in os.walk(source, followlinks=True):
        here = os.path.realpath(place)
        if Path(place) != source and any(
            os.path.samefile(place, above) for above in Path(place).parents if above.is_relative_to(source)
        ):
            raise DataError(f"{place} is a link to {here}, one of its own parent folders: remove it")
        folders[:] = sorted(f for f in folders if f != STATE)
        for name in sorted(names):
            path = Path(place) / name
            if not name.endswith(PARTIAL):
                try:
                    name.encode("utf-8")
                except UnicodeEncodeError:
                    raise DataError(f"{path!r}: a name that is not UTF-8 cannot be stored in a datastore") from None
                if not path.is_file():
                    raise DataError(f"{path} is neither a file nor a folder, or a broken link")
                found[path.relative_to(source).as_posix()] = path
    if not found:
        raise MissingDataError(f"{source} holds no files")
    return found


def upload(
    store: Datastore,
    source: Path,
    target: str,
    overwrite: bool,
    view: TransferView,
    workers: int = DatastoreSettings.workers,
    memory: DigestCache | None = None,
) -> tuple[list[Entry], dict[str, str], int]:
    """Upload a folder's files, or a single file.

    Args:
        store: the datastore.
        source: the folder or file.
        target: the folder in the datastore.
        overwrite: replace existing files of different content.
        view: receives progress.
        workers: number of concurrent transfers.
        memory: digests of earlier uploads, so that unchanged remote files need not be read.

    Returns:
        The files, the datastore's token for each, and the number of files that existed already.

    Raises:
        DataError: files of different content exist (raised before anything is sent), or a transfer fails.
    """
    files = local_files(source)
    _check_names(store, files)
    there = store.files(target)
    full = {name: f"{target}/{name}".strip("/") for name in files}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    alike = [name for name in files if (found := there.get(full[name])) is not None and found.size == sizes[name]]
    sums = dict(zip(alike, digests.of([files[name] for name in alike]), strict=True))
    tokens = {
        name: there[full[name]].token
        for name in alike
        if _same(store, full[name], there[full[name]], sums[name], memory)
    }
    items = [Item(full[name], path, sizes[name]) for name, path in files.items() if name not in tokens]
    other = [item.name for item in items if item.name in there]
    if other and not overwrite:
        raise DataError(
            f"datastore '{store.name}' already has {counted(len(other), 'file')} with different content: "
            f"{_few(other)}. Nothing was sent. Use --overwrite to replace them, or another target"
        )
    names = {full[name]: name for name in files}

    def send(item: Item, on_progress: ProgressCallback) -> None:
        before = FileStamp.of(item.local)
        sha256 = digest(item.local)
        found = _sent(store, item, sha256, on_progress, only_new=item.name not in there)
        if found.size != item.size or FileStamp.of(item.local) != before:
            raise DataError(f"{item.local} changed while it was being sent. Try again once nothing writes to it")
        sums[names[item.name]], tokens[names[item.name]] = sha256, found.token
        if memory is not None:
            memory.note(item.name, found, sha256)

    with digests.remembered([item.local for item in items]) as digest:
        transfer_all(store, items, send, view, workers)
    return [Entry(name, sizes[name], sums[name]) for name in files], tokens, len(files) - len(items)


def _sent(store: Datastore, item: Item, sha256: str, on_progress: ProgressCallback, only_new: bool) -> FileInfo:
    """Send a file. With `only_new`, another process may have uploaded it meanwhile, but only the same content."""
    try:
        return store.send(item.local, item.name, on_progress, only_new=only_new)
    except FileExistsError:
        found = store.find(item.name)
        if found is None or found.size != item.size or remote_sha256(store, item.name) != sha256:
            raise DataError(
                f"another process has meanwhile uploaded {item.name} to datastore '{store.name}', with other "
                "content; it was not changed. Use another target, or --overwrite"
            ) from None
        return found


def _check_names(store: Datastore, names: Iterable[str]) -> None:
    """Reject names that some datastore cannot store or would change, before anything is sent."""
    bad = [
        name for name in names if any(not char.isprintable() for char in name) or (not store.is_local and "\\" in name)
    ]
    if bad:
        raise DataError(
            f"not every datastore can store the names of {counted(len(bad), 'file')} (line ends and other control "
            f"characters, backslashes): {_few([repr(name) for name in bad])}. Rename them; nothing was sent"
        )


def download(
    store: Datastore,
    entries: Sequence[Item],
    overwrite: bool,
    view: TransferView,
    workers: int = DatastoreSettings.workers,
) -> int:
    """Download files to the local paths of their items.

    Returns:
        The number of files that existed already with the same content.

    Raises:
        DataError: files of different content exist or the disk lacks space (both raised before anything is fetched),
            or a transfer fails.
    """
    wanted, other = [], []
    for item in entries:
        if item.local.is_dir():
            raise DataError(f"{item.local} is a folder, but a file of that name has to be written")
        if item.local.exists():
            same = item.local.stat().st_size == item.size and (
                digests.of([item.local])[0] == item.sha256 if item.sha256 else False
            )
            if same:
                continue
            other.append(str(item.local))
        wanted.append(item)
    if other and not overwrite:
        raise DataError(
            f"the folder already has {counted(len(other), 'file')} with different content: {_few(other)}. Nothing was "
            "fetched. Use --overwrite to replace them, or another folder"
        )
    needed = sum(item.size for item in wanted)
    if wanted and needed > (free := _free_bytes(wanted[0].local.parent)):
        raise DataError(f"{size_text(needed)} must be downloaded, but only {size_text(free)} are free")

    def fetch(item: Item, on_progress: ProgressCallback) -> None:
        item.local.parent.mkdir(parents=True, exist_ok=True)
        with arriving(item.local) as file:
            store.fetch(item.name, file, on_progress)
            file.flush()
            check(Path(file.name), item, store)

    transfer_all(store, wanted, fetch, view, workers)
    return len(entries) - len(wanted)


@contextlib.contextmanager
def arriving(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its final name only if the block succeeds."""
    drop_left(path)
    try:
        with atomic_write(path, partial=partial_of(path, PARTIAL, prefix="")) as file:
            yield file
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def drop_left(path: Path) -> None:
    """Remove partial files for a path left by killed processes of this machine."""
    for left in path.parent.glob(f"{glob.escape(path.name[:100])}.*-*{PARTIAL}"):
        pid = left.name.removesuffix(PARTIAL).rpartition(".")[2].partition("-")[0]
        with contextlib.suppress(OSError):
            if is_left(left, pid):
                left.unlink()


def is_left(path: Path, pid: str) -> bool:
    """Return whether a partial file is abandoned: its process, on this machine, is gone and it is old enough."""
    return pid.isdecimal() and time.time() - path.stat().st_mtime > LEFT_S and process_start(int(pid)) is None


def check(path: Path, item: Item, store: Datastore) -> str:
    """Verify a downloaded file and return its SHA-256.

    Raises:
        CorruptDataError: its size or digest is not the expected one.
    """
    size, found = path.stat().st_size, file_sha256(path)
    if size != item.size or (item.sha256 and found != item.sha256):
        raise CorruptDataError(
            f"{item.name} in datastore '{store.name}' differs from the registered file: expected {item.size:,} bytes"
            f"{' with SHA-256 ' + item.sha256[:16] if item.sha256 else ''}, found {size:,} with {found[:16]}. Register "
            "it as a new version, or put the old file back"
        )
    return found


def remote_sha256(store: Datastore, name: str, on_progress: ProgressCallback = lambda count: None) -> str:
    """Read a datastore file in full and return its SHA-256."""
    import tempfile

    if store.is_local:
        return file_sha256(Path(store.root) / name)
    with tempfile.NamedTemporaryFile(prefix="labrun-") as file:
        store.fetch(name, file, on_progress)  # type: ignore[arg-type]
        file.flush()
        return file_sha256(Path(file.name))


def _same(store: Datastore, name: str, found: FileInfo, sha256: str, memory: DigestCache | None) -> bool:
    known = memory.known(name, found) if memory is not None else None
    return (known or remote_sha256(store, name)) == sha256


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED])
    return shown + (f", and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def _free_bytes(folder: Path) -> int:
    """Return the free bytes on the file system of a folder, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
