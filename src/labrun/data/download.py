"""Download public data sets with torchvision's own loaders: once, under a lock, via a temporary folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from labrun.errors import MissingDataError

log = logging.getLogger(__name__)

FOLDERS = {"MNIST": "MNIST", "FashionMNIST": "FashionMNIST", "CIFAR10": "cifar-10-batches-py"}
"""Folder that each torchvision class creates below its root."""

WAIT_S = 3600


def how_to_bring(title: str, root: Path, files: Sequence[str], reason: str = "") -> str:
    """Return the message for missing files: which ones, where, and how to put them in place by hand."""
    listing = "\n".join(f"  {root / name}" for name in files)
    return (
        f"{title} is not in {root}{f' and could not be fetched ({reason})' if reason else ''}. Expected:\n{listing}\n"
        "Copy the files there from a machine that has them, or point datastore.root at the folder that holds them, for "
        "example: datastore.root=/path/to/data" + ("" if reason else ". To download them, set dataset.download=true")
    )


def fetch(name: str, root: Path, files: Sequence[str]) -> None:
    """Download one of torchvision's data sets into a folder.

    The download goes to a temporary folder and is moved into place once it is complete and its checksums match, so a
    kill leaves nothing under the final name. Processes that need the same data set wait for the first one.

    Args:
        name: torchvision's class: `MNIST`, `FashionMNIST`, `CIFAR10`.
        root: the datastore's folder; created if absent.
        files: the files expected afterwards, for the message.

    Raises:
        MissingDataError: no network, no space, no permission.
    """
    from http.client import HTTPException

    from filelock import FileLock, Timeout

    partial = root / f".{name}.partial"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock", timeout=WAIT_S):
            if not all((root / file).is_file() for file in files):
                log.info("Fetching %s into %s ...", name, root)
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    _torchvision_download(name, partial)
                    _move_files(partial / FOLDERS[name], root / FOLDERS[name])
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
                log.info("Fetched %s", name)
    except (OSError, RuntimeError, HTTPException, Timeout) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingDataError(how_to_bring(name, root, files, reason)) from error


def _move_files(source: Path, target: Path) -> None:
    """Move each file into place atomically; existing files stay."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            path.replace(place)


def _torchvision_download(name: str, folder: Path) -> None:
    import torchvision.datasets

    folder.mkdir(parents=True)
    getattr(torchvision.datasets, name)(folder, download=True)
