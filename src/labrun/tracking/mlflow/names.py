"""Names and texts as MLflow takes them. Imports no MLflow.

MLflow refuses names that would not do as paths, and what is too long. Such a name is replaced by one that says as much
of it as can be said, with a digest of the whole: equal names stay equal, in every run, and others stay different.
Which name was meant is in a tag, `labrun.name.<replacement>`.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

NAME_LENGTH = 250
KEPT_LENGTH = 150
"""Of a name that is replaced: the tag with the original must be short enough, too."""
EXPERIMENT_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
"""What every server of MLflow takes."""
ORIGINAL = "labrun.name."
ORIGINAL_EXPERIMENT = "labrun.name"
RESERVED = "labrun."
"""Begins the names of tags that are labrun's own."""
TAKEN = re.compile(r"[/\w.\- :]+")
REPLACEMENT = re.compile(r".*--[0-9a-f]{8}", re.S)


def allowed(name: str) -> str:
    """A name for a metric, a parameter or a tag: as it is where MLflow takes it."""
    is_path = posixpath.normpath(name) == name and not name.startswith(("..", "/")) and name != "."
    if TAKEN.fullmatch(name) and is_path and len(name) <= NAME_LENGTH and not REPLACEMENT.fullmatch(name):
        return name
    return replaced(name)


def replaced(name: str) -> str:
    """A name that stands for one that cannot be used."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    kept = "/".join(part for part in parts if part not in ("", ".", ".."))[:KEPT_LENGTH].lstrip(".")
    return f"{kept}--{_digest(name)}"


def of_tag(name: str) -> str:
    """A name for the user's tag: none of labrun's own, by which a run is found again."""
    return replaced(name) if name.startswith(RESERVED) else allowed(name)


def experiment(name: str) -> str:
    """A name for an experiment."""
    if name.strip() and name.isprintable() and len(name) <= EXPERIMENT_LENGTH and not REPLACEMENT.fullmatch(name):
        return name
    kept = "".join(c if c.isprintable() else "_" for c in name)[:KEPT_LENGTH]
    return f"{kept}--{_digest(name)}"


def identity(run_id: str) -> str:
    """A run's id as it can stand in a search."""
    return run_id if re.fullmatch(r"[\w.-]{1,100}", run_id) else f"--{_digest(run_id)}"


def text(value: object, length: int = TAG_LENGTH) -> str:
    """A value as text that any database takes: cut off where it is too long, without halves of characters."""
    whole = str(value).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return whole if len(whole) <= length else f"{whole[: length - 3]}..."


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
