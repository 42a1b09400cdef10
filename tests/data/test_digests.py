"""Cached digests of local files: used only while a file's content must be the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from labrun import _io
from labrun.data import digests

pytestmark = pytest.mark.usefixtures("workspace")


def cached(workspace: Path) -> dict[str, list[int | str]]:
    entries: dict[str, list[int | str]] = {}
    for file in (workspace / "outputs" / ".labrun" / "digests").glob("*.json"):
        entries.update(json.loads(file.read_text())["entries"])
    return entries


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_digests_of_recently_changed_files_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, (1e9, 1e9))  # as a copy keeps it: only the ctime shows that the file is new
    assert digests.of([path]) == [digest(b"one")] and not cached(tmp_path)
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)
    assert digests.of([path]) == [digest(b"one")] and list(cached(tmp_path)) == [str(path)]
    path.write_bytes(b"two")
    os.utime(path, (1e9, 1e9))
    assert digests.of([path]) == [digest(b"two")]


def test_a_cached_digest_is_used_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    digests.of([path])
    (memory,) = (tmp_path / "outputs" / ".labrun" / "digests").glob("*.json")
    status = path.stat()
    times = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    def write(*stamp: int) -> None:
        memory.write_text(json.dumps({"version": digests.FORMAT, "entries": {str(path): [*stamp, "cached"]}}))

    write(*times)
    assert digests.of([path]) == ["cached"]
    assert digests.of([path], afresh=True) == [digest(b"one")]
    write(*times[:3], status.st_ino + 1)
    assert digests.of([path]) == [digest(b"one")]
