"""Local seals of models that this user has trained on a remote machine, with code and settings sent from here.

The remote machine seals a model's card with its own key, which proves nothing locally. The card is therefore sealed
locally, too, if it refers only to what was sent: its classes are in the code that was frozen locally, unchanged, or in
packages that are identical locally.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun._io import atomic_write, file_sha256
from labrun.errors import DataError
from labrun.remote.link import Link
from labrun.runs import cards, seals, store
from labrun.runs.record import Record, RunPaths
from labrun.submission import snapshot


def seal(run_dir: Path, record: Record, link: Link) -> None:
    """Seal the card of a mirrored run's model, if it refers only to what was sent.

    Args:
        run_dir: the run, with its outputs mirrored.
        record: the local record, whose config is the one that was sent.
        link: the link of its folder.
    """
    outputs = RunPaths(run_dir).outputs
    place = outputs / cards.NAME
    if not link.is_own or not place.is_file():
        return
    with contextlib.suppress(DataError, OSError):
        card = cards.read(outputs, f"run {record.id}")
        of_there = card.get(seals.FIELD)
        if isinstance(of_there, Mapping) and _is_ours(outputs, card, of_there, record):
            _replace(place, card, seals.sealed(store.workspace(), record.id, record.typed, card, of_there["code"]))


def _is_ours(outputs: Path, card: Mapping[str, Any], of_there: Mapping[str, Any], record: Record) -> bool:
    """Return whether a card refers only to what was sent from this machine."""
    code = of_there.get("code")
    if not isinstance(code, Mapping) or of_there.get("run") != record.id:
        return False
    wanted = seals.foreign(record.typed.model)
    here = seals.code_of(wanted) or {}  # an optimizer's module is not in frozen code, but is installed locally, too
    is_known = all(here.get(name) == code[name] or _is_frozen(name, code[name], record) for name in code)
    if of_there.get("targets") != wanted or not is_known:
        return False
    if card.get("kind") == "network":
        return set(seals.needed(outputs, card)) <= set(wanted)
    return all(name.rpartition(".")[0] in code for name in seals.needed(outputs, card))


def _is_frozen(module: str, sha256: Any, record: Record) -> bool:
    """Return whether a module equals the one in the code that was sent."""
    name = module.replace(".", "/")
    for top in snapshot.import_path(record.code, own=False):
        for path in (Path(top, f"{name}.py"), Path(top, name, "__init__.py")):
            if path.is_file():
                return bool(file_sha256(path) == sha256)
    return False


def _replace(place: Path, card: Mapping[str, Any], new: Mapping[str, Any] | None) -> None:
    """Replace a seal; keep the file's size and time, so that it is not fetched again."""
    if new is None:
        return
    stat = place.stat()
    with atomic_write(place) as file:
        file.write((json.dumps({**card, seals.FIELD: new}, indent=1, ensure_ascii=False) + "\n").encode())
    os.utime(place, (stat.st_mtime, stat.st_mtime))
