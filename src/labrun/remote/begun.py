"""Large files that another machine sends: what has come of one when the connection is cut is kept, and added to."""

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
from labrun.remote.helper import WORTH

FOLDER = ".coming"


class Begun:
    """The files of a folder that have come in part. Each is another process's while that brings it.

    Args:
        folder: it is to hold the files once they are whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._files: dict[str, BinaryIO] = {}
        self.offered: dict[str, list[int]] = {}
        """By name: its size and its time in nanoseconds there, and how many bytes are here."""

    def __enter__(self) -> Begun:
        for note in self._folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                told = json.loads(note.read_text(encoding="utf-8"))
                file = self._taken(note.with_suffix(".part"))
                if file is not None:
                    self._files[told["name"]] = file
                    self.offered[told["name"]] = [told["size"], told["time"], os.fstat(file.fileno()).st_size]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    @contextlib.contextmanager
    def writing(self, place: Path, name: str, size: int, time: int, start: int) -> Iterator[BinaryIO]:
        """A file to add what comes to; it takes its place once it is whole.

        Args:
            place: its path.
            name: by which it is offered.
            size: its size there.
            time: of its last change there, in nanoseconds.
            start: so many bytes are here.
        """
        part = self._folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.part"
        if name not in self._files and size >= WORTH:
            file = self._taken(part)
            if file is not None:
                self._files[name] = file
        if name not in self._files:  # a small one, or one that another process brings, too
            with atomic_write(place) as whole:
                yield whole
            return
        file = self._files[name]
        file.truncate(start)
        note = part.with_suffix(".json")
        with atomic_write(note) as told:
            told.write(json.dumps({"name": name, "size": size, "time": time}).encode())
        yield file
        file.flush()
        os.replace(part, place)
        note.unlink(missing_ok=True)

    @staticmethod
    def _taken(part: Path) -> BinaryIO | None:
        """A part, locked; None if another process has it, or has just made it whole."""
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
