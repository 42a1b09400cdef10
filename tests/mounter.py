"""Mounts in other processes, which are forks of one interpreter that has loaded the libraries: killed, or waiting."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

FORKS = multiprocessing.get_context("forkserver")
LATER = ("hydra", "filelock", "sqlite3", "azure.core.rest._aiohttp", "azure.core.rest._requests_basic")
FORKS.set_forkserver_preload(["adlfs", "labrun.data.mount", "labrun.data.stores.azure", *LATER, __name__])


class Mounted(NamedTuple):
    """What another process has mounted."""

    moved: int
    """Bytes that it moved."""
    digest: str
    """Digest of all files, see `digest_of`."""
    path: str


class Mounting:
    """A process that mounts an asset.

    Args:
        node: the config node of the datastore, with its credentials.
        name: the asset.
        stay: whether the process then lives on and uses the mount, until `leave` or a kill.
        pause_s: how long the transfer of each file sleeps before its end.
    """

    def __init__(self, node: Mapping[str, Any], name: str = "set", stay: bool = False, pause_s: float = 0.0) -> None:
        self._answers, there = FORKS.Pipe()
        self._stays = stay
        self._process = FORKS.Process(target=_mount, args=(there, dict(node), name, stay, pause_s), daemon=True)
        self._process.start()
        there.close()

    def answer(self) -> Mounted | str:
        """Wait for the mount, and for the process's end unless it stays.

        Returns:
            the mount, or the message of its error.

        Raises:
            EOFError: the process died.
        """
        assert self._answers.poll(120), "no answer"
        found = self._answers.recv()
        assert self._stays or self.wait(30) == 0
        return found if isinstance(found, str) else Mounted(*found)

    def mounted(self) -> Mounted:
        """Wait for the mount, which must succeed."""
        found = self.answer()
        assert isinstance(found, Mounted), found
        return found

    def has_ended(self) -> bool:
        return not self._process.is_alive()

    def kill(self) -> None:
        """End the process with kill -9."""
        self._process.kill()
        self._process.join()

    def interrupt(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGINT)

    def leave(self) -> None:
        """Let a process that stays end."""
        self._answers.send(None)
        self.wait(30)

    def wait(self, seconds: float) -> int:
        """Wait for the end, and return the exit code."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, "it did not end"
        return self._process.exitcode


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of the names and the content of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _mount(answers: Connection, node: dict[str, Any], name: str, stay: bool, pause_s: float) -> None:
    from labrun.data import mount
    from labrun.data.stores.azure import AzureBlobDatastore
    from labrun.errors import DataError

    fetch = AzureBlobDatastore._fetch

    def slowly(*arguments: Any) -> None:
        fetch(*arguments)
        time.sleep(pause_s)

    AzureBlobDatastore._fetch = slowly  # type: ignore[method-assign]
    try:
        found = mount.mount(node, {"name": name})
    except DataError as error:
        answers.send(str(error))
        return
    answers.send((found.moved, digest_of(found.path), str(found.path)))
    if stay:
        answers.recv()
