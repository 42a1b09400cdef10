"""What runs take over from other runs: the model that is scored, the checkpoint that a training goes on from.

It lies in a run's folder on this machine, and is sent by digest, as a folder that never changes there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import exact
from labrun.data import digests
from labrun.remote import data, packed
from labrun.remote.channel import Channel
from labrun.remote.link import Link
from labrun.runs import cards, seals, store
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths


def of(config: Mapping[str, Any]) -> dict[Path, str]:
    """The runs that a run's config takes something over from, and the folder of theirs that it needs."""
    found = {}
    if isinstance(source := config.get("from"), Mapping):
        found[Path(source["path"])] = "outputs"
    if isinstance(resume := config["trainer"].get("resume"), Mapping):
        found[Path(resume["path"]).parents[1]] = "checkpoints"
    return found


def send(channel: Channel, folder: Path, link: Link, found: Sequence[Record]) -> None:
    """Have there what runs take over.

    Args:
        channel: to the machine.
        folder: the runs'.
        link: the folder's; is told where other runs' folders lie there. Data must have been sent.
        found: the runs' records.
    """
    for run_dir, part in sorted({pair for record in found for pair in of(record.config).items()}):
        files = [path for name, path in packed.folder(run_dir / part).items() if not name.startswith("before-")]
        sums = dict(zip(files, digests.of(files), strict=True))
        source = records.read(run_dir)
        source.config = link.config_there(source.config, folder, data.settled(data.read_of(source)))
        content = records.text(source).encode()
        wanted = {path.relative_to(run_dir).as_posix(): digest for path, digest in sums.items()}
        wanted["run.json"] = hashlib.sha256(content).hexdigest()
        name = f"inherited/{hashlib.sha256(exact.canonical(wanted).encode()).hexdigest()[:16]}"
        if not channel.call("have", paths=[name])["have"]:
            data.send_missing(channel, link.remote, {digest: path for path, digest in sums.items()})
            with io.BytesIO(content) as file:
                channel.send("store", file, len(content), store=data.STORE, digest=wanted["run.json"])
            channel.call("link", store=data.STORE, to=name, files=wanted)
        link.inherited[str(run_dir)] = name


def trusted_there(record: Record) -> list[str]:
    """The classes of a run's own that may be built there: this user has trained them here, which is proven here alone.

    Args:
        record: of the run that is carried.
    """
    source, found = record.config.get("from"), list(record.config.get("trusted") or ())
    if not isinstance(source, Mapping):
        return found
    paths = RunPaths(Path(source["path"]))
    card = cards.read(paths.outputs, f"run {source['id']}")
    if seals.refusal(store.workspace(), card, source["id"], bool(records.read(paths.root).imported)):
        return found
    return sorted({*found, *seals.needed(paths.outputs, card)})
