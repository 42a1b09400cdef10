"""A content-addressed cache of remote files, filled once and shared by all processes that can access its folder.

    objects/<2 digits>/<sha256>     a file's content, read-only; its name is its digest, verified on arrival
    views/<key>/                    one asset as a folder: links to objects
    views/<key>.json                the view's contents; its modification time is the time of last use
    uses/<key>.<...>.json           marks a process that uses a view or is filling it
    locks/                          lock files of the writers

An object is written under a temporary name, verified and renamed. A view is built in a temporary folder and renamed as
a whole. Kill -9 at any moment leaves nothing that could be mistaken for data.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrun._io import file_sha256
from labrun.config.checking import is_sha256
from labrun.data import digests, transfer
from labrun.data.progress import Quiet
from labrun.data.stores.base import Datastore, ProgressCallback, is_inside
from labrun.errors import CorruptDataError, DataError
from labrun.messages import size_text
from labrun.runs.attempts import Process
from labrun.runs.record import process_identity, process_lives, replace_text

STILL = 946684800
"""Modification time of every object (the year 2000), so that a later change is detectable."""
MANY_USES = 200
"""Number of usage marks at which those of dead processes are removed."""
FOREIGN_USE_S = 14 * 24 * 3600
"""How long a usage mark from another host counts, since we cannot check whether its process is alive."""


@dataclass(frozen=True)
class Wanted:
    """A file requested for a view."""

    path: str
    """Path within the view."""
    source: str
    """Name in the datastore."""
    size: int
    sha256: str
    """Empty if it is unknown before the download."""
    token: str = ""
    """The datastore's token for the file, used while its digest is unknown."""


class Cache:
    """The cache in a folder.

    Args:
        root: the folder.
        limit_gb: maximum size in GiB; None: no limit. The least recently used views are evicted first, never those in
            use.
    """

    def __init__(self, root: Path, limit_gb: float | None) -> None:
        self.root, self._limit = root, None if limit_gb is None else round(limit_gb * 2**30)

    def view(self, key: str, files: Sequence[Wanted], store: Datastore, workers: int) -> tuple[Path, int]:
        """Return a folder with the given files. Files that the cache lacks are fetched, each by one process only.

        Args:
            key: key of the view; equal keys mean equal files.
            files: contents of the view.
            store: the datastore that the files come from.
            workers: number of concurrent transfers.

        Returns:
            The folder, and the number of bytes that this process fetched.

        Raises:
            DataError: there is not enough space, or a file cannot be fetched.
            CorruptDataError: a file does not match its digest or size.
        """
        try:
            for name in ("objects", "views", "uses", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with self._lock("room"):  # a concurrent eviction has either seen this mark or is done
                self._use(key, sum(wanted.size for wanted in files))
            folder = self.root / "views" / key
            if self._holds(key):
                self._note(key, None)
                return folder, 0
            self._make_room(key, files)
            try:
                return folder, self._fill(key, files, store, workers)
            except FileNotFoundError:  # an object was evicted with another view before ours linked it
                return folder, self._fill(key, files, store, workers)
        except OSError as error:
            raise DataError(f"cannot use the cache in {self.root}: {error.strerror or error}") from error

    def _fill(self, key: str, files: Sequence[Wanted], store: Datastore, workers: int) -> int:
        found: dict[str, str] = {}
        moved = Quiet()

        def fetch(item: transfer.Item, on_progress: ProgressCallback) -> None:
            wanted = by_name[item.name]
            found[wanted.path], came = self._object(wanted, store, on_progress)
            if came:
                moved.done(wanted.path, wanted.size)

        by_name = {wanted.source: wanted for wanted in files}
        items = [transfer.Item(wanted.source, self.root, wanted.size, wanted.sha256) for wanted in files]
        transfer.transfer_all(store, items, fetch, Quiet(), workers)
        with self._lock(f"view-{key}"):
            if not self._holds(key):
                self._build(key, {wanted.path: found[wanted.path] for wanted in files})
        return moved.bytes

    def _object(self, wanted: Wanted, store: Datastore, on_progress: ProgressCallback) -> tuple[str, bool]:
        """Ensure that a file is in the cache; return its digest, and whether it had to be fetched."""
        index = None if wanted.sha256 else self._index(wanted)
        with self._lock(f"object-{(wanted.sha256 or digest_of(wanted))[:3]}"):
            known = wanted.sha256 or (_text(index) if index is not None and wanted.token else "")
            if known and self._sound(known, wanted.size):
                return known, False
            incoming = self.root / "objects" / f".{os.getpid()}-{os.urandom(4).hex()}-{socket.gethostname()}"
            try:
                with open(incoming, "wb") as file:
                    store.fetch(wanted.source, file, on_progress)
                    file.flush()
                    os.fsync(file.fileno())
                size, sha256 = incoming.stat().st_size, file_sha256(incoming)
                if size != wanted.size or (wanted.sha256 and sha256 != wanted.sha256):
                    raise CorruptDataError(
                        f"{wanted.source} differs from the registered file: expected {wanted.size:,} bytes"
                        f"{' with SHA-256 ' + wanted.sha256[:16] if wanted.sha256 else ''}, found {size:,} with "
                        f"{sha256[:16]}. Register it as a new version, or put the old file back"
                    )
                os.utime(incoming, (STILL, STILL))
                incoming.chmod(0o444)
                self._path(sha256).parent.mkdir(exist_ok=True)
                os.replace(incoming, self._path(sha256))
            finally:
                incoming.unlink(missing_ok=True)
            if index is not None and wanted.token:
                replace_text(index, sha256)
            return sha256, True

    def _sound(self, sha256: str, size: int) -> bool:
        """Return whether an object exists unchanged; remove it if it was changed."""
        path = self._path(sha256)
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        if status.st_size == size and (status.st_mtime == STILL or file_sha256(path) == sha256):
            return True
        path.unlink()
        return False

    def _build(self, key: str, content: dict[str, str]) -> None:
        """Build a view in a temporary folder and rename it into place."""
        folder = self.root / "views" / key
        made = self.root / "views" / f".{key}.{os.getpid()}-{os.urandom(4).hex()}"
        try:
            for name, sha256 in content.items():
                path = made / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._link(sha256, path)
            self._note(key, content)
            if folder.exists():  # but it is damaged
                os.replace(folder, made.with_suffix(".old"))
            made.mkdir(parents=True, exist_ok=True)
            os.replace(made, folder)
        finally:
            for rest in (made, made.with_suffix(".old")):
                shutil.rmtree(rest, ignore_errors=True)

    def _link(self, sha256: str, path: Path) -> None:
        try:
            os.link(self._path(sha256), path)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links, or with too many of one file
            path.symlink_to(self._path(sha256).resolve())

    def _holds(self, key: str) -> bool:
        """Return whether a view is complete and unchanged."""
        content = _content(self._list(key))
        folder = self.root / "views" / key
        if content is None or not folder.is_dir():
            return False
        for name, sha256 in content.items():
            try:
                status = (folder / name).stat()
            except OSError:
                return False
            if status.st_mtime != STILL and digests.of([folder / name])[0] != sha256:
                return False
        return True

    def _note(self, key: str, content: dict[str, str] | None) -> None:
        """Record a view's contents, or, without contents, the time of its last use."""
        path = self._list(key)
        if content is not None:
            replace_text(path, json.dumps({"content": content}))
        else:
            with contextlib.suppress(OSError):
                os.utime(path)

    def _make_room(self, key: str, files: Sequence[Wanted]) -> None:
        """Evict the least recently used views until the files fit.

        Raises:
            DataError: they do not fit, because the views in use take too much space.
        """
        need = sum(wanted.size for wanted in files)
        if self._limit is not None and need > self._limit:
            raise DataError(
                f"mounting needs {size_text(need)}, but the cache in {self.root} is limited to "
                f"{size_text(self._limit)}: raise datastore.cache_gb"
            )
        with self._lock("room"):
            self._clean()
            present, used = self._objects(), self._used()
            digests_of = [w.sha256 or _text(self._index(w)) if w.sha256 or w.token else "" for w in files]
            missing = sum(w.size for w, sha256 in zip(files, digests_of, strict=True) if sha256 not in present)
            if self._limit is not None:
                others = {other: size for other, size in used.items() if other != key}
                self._evict_beyond(self._limit, present, missing, others, key, set(digests_of))
            if all(wanted.sha256 for wanted in files):  # from now on nobody evicts these objects
                self._note(key, {wanted.path: wanted.sha256 for wanted in files})
        free = shutil.disk_usage(self.root).free
        if missing > free:
            raise DataError(
                f"{size_text(missing)} must be downloaded to {self.root}, but only {size_text(free)} are free"
            )

    def _evict_beyond(
        self, limit: int, present: dict[str, int], missing: int, others: Mapping[str, int], key: str, keep: set[str]
    ) -> None:
        """Evict views until the missing bytes fit into the limit.

        Args:
            limit: maximum size of the cache, bytes.
            present: its objects, with their sizes.
            missing: size of the objects that the view `key` lacks.
            others: the other views in use, with their sizes.
            key: the view that needs the room.
            keep: its objects.

        Raises:
            DataError: they do not fit.
        """
        coming = {other: size for other, size in others.items() if not self._list(other).exists()}
        if not coming:
            self._drop_unlisted(present, keep)
        total = sum(present.values()) + missing + sum(coming.values())
        for old in sorted((self.root / "views").glob("*.json"), key=lambda path: path.stat().st_mtime):
            if total <= limit:
                return
            if old.stem not in others and old.stem != key:
                total -= self._evict(old.stem, keep)
        if total > limit:
            raise DataError(
                f"the cache in {self.root} is limited to {size_text(limit)}, and other runs use "
                f"{size_text(sum(others.values()))} of it: no room for {size_text(missing)} more. Raise "
                "datastore.cache_gb, or wait for them"
            )

    def _drop_unlisted(self, present: dict[str, int], keep: set[str]) -> None:
        """Remove objects that belong to no view, left by killed processes. Call only while no view is being filled."""
        lists = (_content(path) or {} for path in (self.root / "views").glob("*.json"))
        listed = {sha256 for content in lists for sha256 in content.values()}
        for sha256 in set(present) - listed - keep:
            self._path(sha256).unlink(missing_ok=True)
            del present[sha256]

    def _index(self, wanted: Wanted) -> Path:
        """Return the path that stores the digest of a file known only by its token."""
        return self.root / "objects" / f"by-token-{digest_of(wanted)}"

    def _evict(self, key: str, keep: set[str]) -> int:
        """Remove a view and the objects that no other view has; return the number of bytes freed."""
        content = set((_content(self._list(key)) or {}).values())
        self._list(key).unlink(missing_ok=True)
        shutil.rmtree(self.root / "views" / key, ignore_errors=True)
        for other in (self.root / "views").glob("*.json"):
            content -= set((_content(other) or {}).values())
        given = 0
        for sha256 in content - keep:
            with contextlib.suppress(FileNotFoundError):
                given += self._path(sha256).stat().st_size
                self._path(sha256).unlink()
        return given

    def _clean(self) -> None:
        """Remove partial downloads left by killed processes of this machine."""
        for left in (self.root / "objects").glob(f".*-*-{glob.escape(socket.gethostname())}"):
            if transfer.is_left(left, left.name[1:].partition("-")[0]):
                left.unlink(missing_ok=True)

    def _objects(self) -> dict[str, int]:
        found = {}
        for path in (self.root / "objects").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.stat().st_size
        return found

    def _use(self, key: str, size: int) -> None:
        """Mark a view as used by this process for as long as the process lives."""
        identity = process_identity()
        path = self.root / "uses" / f"{key}.{identity.host}-{identity.pid}.json"
        if len(os.listdir(path.parent)) > MANY_USES:
            self._used()
        replace_text(path, json.dumps({**identity.as_json(), "size": size}), to_disk=False)

    def _used(self) -> dict[str, int]:
        """Return the views in use by live processes, with their sizes; remove the marks of dead processes."""
        found: dict[str, int] = {}
        for path in (self.root / "uses").glob("*.json"):
            content = _json(path)
            lives = process_lives(Process.of(content))
            if lives is None:
                with contextlib.suppress(OSError):
                    lives = time.time() - path.stat().st_mtime < FOREIGN_USE_S
            if not lives:
                path.unlink(missing_ok=True)
                continue
            key = path.name.partition(".")[0]
            found[key] = max(found.get(key, 0), int(content.get("size", 0)))
        return found

    def _path(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256

    def _list(self, key: str) -> Path:
        return self.root / "views" / f"{key}.json"

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        from filelock import FileLock  # imported late: once loaded, it hooks every fork and every open of the process

        with FileLock(self.root / "locks" / f"{name[:40]}.lock", thread_local=False):
            yield


def digest_of(wanted: Wanted) -> str:
    """Return a digest that identifies a file whose content is not known yet."""
    import hashlib

    return hashlib.sha256(json.dumps([wanted.source, wanted.size, wanted.token]).encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _content(path: Path) -> dict[str, str] | None:
    """Read a view's list, name to digest; None if absent or invalid. Both become paths, so both are validated."""
    found = _json(path).get("content")
    if not isinstance(found, dict):
        return None
    sound = all(is_inside(name) and is_sha256(one) for name, one in found.items())
    return found if sound else None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
