"""Files that runs inherit from other runs: the model to score, or the checkpoint from which a training resumes.

They are in a local run's folder, and are sent by digest as a folder that never changes on the remote machine.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from labrun.config import exact
from labrun.config.schema import Config
from labrun.data import digests
from labrun.remote import data, packed
from labrun.remote.channel import Channel
from labrun.remote.links import Link
from labrun.runs import cards, seals, store
from labrun.runs.record import Record, RunPaths, read_record, record_json


def of(config: Config) -> dict[Path, str]:
    """Return the runs from which a run's config inherits, each with the subfolder that it needs."""
    parts = {}
    if config.source is not None:
        parts[config.source.run_dir] = "outputs"
    if config.resumed is not None:
        parts[config.resumed.run_dir] = "checkpoints"
    return parts


def send(channel: Channel, folder: Path, link: Link, run_records: Sequence[Record]) -> None:
    """Send the files that runs inherit, after their data.

    Args:
        channel: the channel to the machine.
        folder: the folder of the runs.
        link: the folder's link; updated with the remote paths of the other runs.
        run_records: the runs' records.
    """
    for run_dir, part in sorted({pair for record in run_records for pair in of(record.typed).items()}):
        files = [path for name, path in packed.plain_files(run_dir / part).items() if not name.startswith("before-")]
        sums = dict(zip(files, digests.of(files), strict=True))
        source = read_record(run_dir)
        source.config = link.remote_config(source.config, folder, data.resolved_nodes(data.data_nodes(source)))
        content = record_json(source).encode()
        wanted = {path.relative_to(run_dir).as_posix(): digest for path, digest in sums.items()}
        wanted["run.json"] = hashlib.sha256(content).hexdigest()
        name = f"inherited/{hashlib.sha256(exact.canonical(wanted).encode()).hexdigest()[:16]}"
        if not channel.call("have", paths=[name])["have"]:
            data.send_missing(channel, link.remote, {digest: path for path, digest in sums.items()})
            with io.BytesIO(content) as file:
                channel.send("store", file, len(content), store=data.STORE, digest=wanted["run.json"])
            channel.call("link", store=data.STORE, to=name, files=wanted)
        link.inherited[str(run_dir)] = name


def remote_trusted(record: Record) -> list[str]:
    """Return the trusted classes for the remote record: this user has trained them, which only this machine can prove.

    Args:
        record: the record of the run to send.
    """
    source, trusted = record.typed.source, record.typed.trusted
    if source is None:
        return trusted
    paths = RunPaths(source.run_dir)
    card = cards.read(paths.outputs, f"run {source.id}")
    if seals.refusal(store.workspace(), card, source.id, read_record(paths.root).imported is not None):
        return trusted
    return sorted({*trusted, *seals.needed(paths.outputs, card)})
