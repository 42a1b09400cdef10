"""Converts names and texts to forms that MLflow accepts. Does not import MLflow.

MLflow rejects names that are not valid paths or too long. Such a name is replaced by a readable part of it plus a
digest of the whole, so that equal names stay equal in every run and different names stay different. A tag
`labrun.name.<replacement>` holds the original name.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

NAME_LENGTH = 250
KEPT_LENGTH = 150
"""Characters kept of a replaced name: the key of the tag with the original must be short enough, too."""
EXPERIMENT_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
"""Maximum length that every MLflow server accepts."""
ORIGINAL = "labrun.name."
ORIGINAL_EXPERIMENT = "labrun.name"
RESERVED = "labrun."
"""Prefix of labrun's own tags."""
ACCEPTED = re.compile(r"[/\w.\- :]+")
REPLACEMENT = re.compile(r".*--[0-9a-f]{8}", re.S)


def allowed(name: str) -> str:
    """Return a name for a metric, parameter or tag, unchanged if MLflow accepts it."""
    is_path = posixpath.normpath(name) == name and not name.startswith(("..", "/")) and name != "."
    if ACCEPTED.fullmatch(name) and is_path and len(name) <= NAME_LENGTH and not REPLACEMENT.fullmatch(name):
        return name
    return replaced(name)


def replaced(name: str) -> str:
    """Return the replacement for a name that MLflow rejects."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    kept = "/".join(part for part in parts if part not in ("", ".", ".."))[:KEPT_LENGTH].lstrip(".")
    return f"{kept}--{_digest(name)}"


def of_tag(name: str) -> str:
    """Return a name for a user's tag, never one of labrun's own tags, which identify runs."""
    return replaced(name) if name.startswith(RESERVED) else allowed(name)


def experiment(name: str) -> str:
    """Return a valid name for an experiment."""
    if name.strip() and name.isprintable() and len(name) <= EXPERIMENT_LENGTH and not REPLACEMENT.fullmatch(name):
        return name
    kept = "".join(c if c.isprintable() else "_" for c in name)[:KEPT_LENGTH]
    return f"{kept}--{_digest(name)}"


def identity(run_id: str) -> str:
    """Return a run's id in a form that is safe in a search filter."""
    return run_id if re.fullmatch(r"[\w.-]{1,100}", run_id) else f"--{_digest(run_id)}"


def text(value: object, length: int = TAG_LENGTH) -> str:
    """Return a value as text that any database accepts: valid UTF-8, no NUL, truncated if too long."""
    whole = str(value).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return whole if len(whole) <= length else f"{whole[: length - 3]}..."


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
