"""Checksums of published files, and the sentence for one that does not match."""

from __future__ import annotations

import hashlib
from pathlib import Path

from labrun.errors import CorruptDataError


def md5(path: Path) -> str:
    """The MD5 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def mismatch(path: Path, data_set: str, expected: str, found: str, hint: str = "") -> CorruptDataError:
    """The error for a file whose checksum is not the published one."""
    return CorruptDataError(
        f"{path} is not {data_set}'s file: expected MD5 {expected}, found {found} ({path.stat().st_size:,} bytes). "
        + (
            hint
            or "It was truncated or altered: delete it, and it is fetched anew. If these are files of your own in "
            "the same format, say dataset.verify=false"
        )
    )


def is_absolute(path: str | None) -> bool:
    """Whether a path says all by itself where a file lies."""
    return path is not None and (path.startswith("${mount:") or Path(path).expanduser().is_absolute())
