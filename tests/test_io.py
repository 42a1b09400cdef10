"""Atomic file writes, and lines appended in a single write."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest

from labrun import _io


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content, to_disk in ((b"one", False), (b"two", True)):
        before = path.read_bytes() if path.exists() else None
        with _io.atomic_write(path, to_disk) as file:
            file.write(content)
            file.flush()
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_only_the_previous_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), _io.atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_only_new_does_not_replace_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with _io.atomic_write(path, only_new=True, mode=0o600) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), _io.atomic_write(path, only_new=True) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_partial_file_has_the_given_name(tmp_path: Path) -> None:
    path, partial = tmp_path / "file", tmp_path / "file.part"
    with _io.atomic_write(path, partial=partial) as file:
        assert Path(file.name) == partial and list(tmp_path.iterdir()) == [partial]
    assert list(tmp_path.iterdir()) == [path]
    assert len(_io.partial_of(tmp_path / ("x" * 255)).name) < 255


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(content: bytes) -> None:
        for _ in range(50):
            with _io.atomic_write(path) as file:
                file.write(content)

    threads = [threading.Thread(target=write, args=(bytes([number]) * 1000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(path.read_bytes())) == 1 and list(tmp_path.iterdir()) == [path]


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    before = os.umask(0)
    try:
        _io.append_line(path, "one", mode=0o640)
    finally:
        os.umask(before)
    _io.append_line(path, "zwölf")
    assert path.read_text() == "one\nzwölf\n" and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_durable_line_starts_on_a_new_line_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    _io.append_line(path, "one", durable=True)
    with open(path, "a") as file:
        file.write("to")
    _io.append_line(path, "three", durable=True)
    assert path.read_text().splitlines() == ["one", "to", "three"]


def test_a_line_that_does_not_fit_on_the_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_io.os, "write", lambda descriptor, data: len(data) - 1)
    with pytest.raises(OSError, match="No space left"):
        _io.append_line(tmp_path / "lines", "one")


def test_a_digest_depends_on_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1000)
    wanted = hashlib.sha256(b"abc" * 1000).hexdigest()
    with open(path, "rb") as file:
        assert _io.file_sha256(path) == _io.sha256_of(file) == wanted
