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
        entries.update(json.loads(file.read_text()))
    return entries


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_digest_is_cached_only_if_both_times_of_the_file_are_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, (1e9, 1e9))  # as a copy keeps it: only the ctime shows that the file is new
    assert digests.of([path]) == [digest(b"one")] and not cached(tmp_path)
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)
    assert digests.of([path]) == [digest(b"one")] and list(cached(tmp_path)) == [str(path)]
    path.write_bytes(b"two")
    os.utime(path, (1e9, 1e9))
    assert digests.of([path]) == [digest(b"two")]


def test_caches_of_earlier_versions_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    digests.of([path])
    (memory,) = (tmp_path / "outputs" / ".labrun" / "digests").glob("*.json")
    status = path.stat()
    times = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    memory.write_text(json.dumps({str(path): [*times, "cached"]}))
    assert digests.of([path]) == ["cached"]
    assert digests.of([path], afresh=True) == [digest(b"one")]
    memory.write_text(json.dumps({str(path): [*times[:3], status.st_ino + 1, "cached"]}))
    assert digests.of([path]) == [digest(b"one")]
