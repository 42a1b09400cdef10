"""Resumable downloads: when a connection breaks, the received part of a large file is kept, and completed later."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from labrun._io import atomic_write
from labrun.remote.helper import RESUME_MIN_BYTES

FOLDER = ".coming"


class PartialDownloads:
    """The partial files of a folder. Each is locked by the process that downloads it.

    Args:
        folder: the folder that will hold the complete files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._files: dict[str, BinaryIO] = {}
        self.offered: dict[str, list[int]] = {}
        """By name: the remote size, the remote time in nanoseconds, and the number of bytes that are here."""

    def __enter__(self) -> PartialDownloads:
        for note in self._folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                entry = json.loads(note.read_text(encoding="utf-8"))
                file = self._open_locked(note.with_suffix(".part"))
                if file is not None:
                    self._files[entry["name"]] = file
                    self.offered[entry["name"]] = [entry["size"], entry["time"], os.fstat(file.fileno()).st_size]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    @contextlib.contextmanager
    def writing(self, path: Path, name: str, size: int, time: int, start: int) -> Iterator[BinaryIO]:
        """Open a file for the rest of a download; it is moved to its path when it is complete.

        Args:
            path: its final path.
            name: its name in `offered`.
            size: its remote size, in bytes.
            time: its remote modification time, in nanoseconds.
            start: number of bytes that are already here.
        """
        part = self._folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.part"
        if name not in self._files and size >= RESUME_MIN_BYTES:
            file = self._open_locked(part)
            if file is not None:
                self._files[name] = file
        if name not in self._files:  # a small file, or one that another process also downloads
            with atomic_write(path) as whole:
                yield whole
            return
        file = self._files[name]
        file.truncate(start)
        note = part.with_suffix(".json")
        with atomic_write(note) as note_file:
            note_file.write(json.dumps({"name": name, "size": size, "time": time}).encode())
        yield file
        file.flush()
        os.replace(part, path)
        note.unlink(missing_ok=True)

    @staticmethod
    def _open_locked(part: Path) -> BinaryIO | None:
        """Open and lock a partial file; None if another process holds it or has just completed it."""
        with contextlib.ExitStack() as stack:
            try:
                part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = stack.enter_context(open(part, "ab"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_ino != os.stat(part).st_ino:
                    return None
            except OSError:
                return None
            stack.pop_all()
            return file
