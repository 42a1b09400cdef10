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
from labrun.remote.links import Link
from labrun.runs import cards, seals, store
from labrun.runs.cards import Card, CardKind
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
    card_file = outputs / cards.NAME
    if not link.is_own or not card_file.is_file():
        return
    with contextlib.suppress(DataError, OSError):
        card = cards.read(outputs, f"run {record.id}")
        if card.seal is not None and _is_ours(outputs, card, card.seal, record):
            local_seal = seals.sealed(store.workspace(), record.id, record.typed, card, card.seal["code"])
            _replace(card_file, card, local_seal)


def _is_ours(outputs: Path, card: Card, remote_seal: Mapping[str, Any], record: Record) -> bool:
    """Return whether a card refers only to what was sent from this machine."""
    code = remote_seal.get("code")
    if not isinstance(code, Mapping) or remote_seal.get("run") != record.id:
        return False
    wanted = seals.foreign(record.typed.model)
    # An optimizer's module is not in frozen code, but is installed locally, too.
    local_code = seals.code_of(wanted) or {}
    is_known = all(local_code.get(name) == code[name] or _is_frozen(name, code[name], record) for name in code)
    if remote_seal.get("targets") != wanted or not is_known:
        return False
    match card.kind:
        case CardKind.NETWORK:
            return set(seals.needed(outputs, card)) <= set(wanted)
        case CardKind.ESTIMATOR:
            return all(name.rpartition(".")[0] in code for name in seals.needed(outputs, card))
    return False  # a run saves no other kind


def _is_frozen(module: str, sha256: Any, record: Record) -> bool:
    """Return whether a module equals the one in the code that was sent."""
    name = module.replace(".", "/")
    for top in snapshot.import_path(record.code, own=False):
        for path in (Path(top, f"{name}.py"), Path(top, name, "__init__.py")):
            if path.is_file():
                return bool(file_sha256(path) == sha256)
    return False


def _replace(card_file: Path, card: Card, local_seal: Mapping[str, Any] | None) -> None:
    """Replace a seal; keep the file's size and time, so that it is not fetched again."""
    if local_seal is None:
        return
    stat = card_file.stat()
    with atomic_write(card_file) as file:
        file.write(
            (json.dumps({**card.content, seals.FIELD: local_seal}, indent=1, ensure_ascii=False) + "\n").encode()
        )
    os.utime(card_file, (stat.st_mtime, stat.st_mtime))
