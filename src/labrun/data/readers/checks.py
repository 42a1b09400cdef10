"""Checksums of published files, and the error for a mismatch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from labrun.errors import CorruptDataError


def md5(path: Path) -> str:
    """Return the MD5 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def mismatch(path: Path, data_set: str, expected: str, found: str, hint: str = "") -> CorruptDataError:
    """Return the error for a file whose checksum is not the published one."""
    return CorruptDataError(
        f"{path} is not {data_set}'s file: expected MD5 {expected}, found {found} ({path.stat().st_size:,} bytes). "
        + (
            hint
            or "It was truncated or altered: delete it, and it is downloaded again. If these are your own files in the "
            "same format, set dataset.verify=false"
        )
    )


def is_absolute(path: str | None) -> bool:
    """Return whether a path does not depend on the datastore: it is absolute or a `${mount:...}`."""
    return path is not None and (path.startswith("${mount:") or Path(path).expanduser().is_absolute())
