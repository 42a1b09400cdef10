"""Reader of wandb's offline runs: a log of protobuf messages in LevelDB's framing."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, START = 32768, 7, 7
FULL, FIRST, LAST = 1, 2, 4


def messages(path: Path) -> Iterator[bytes]:
    """Yield the messages of a `.wandb` file."""
    data, at, parts = path.read_bytes(), START, b""
    while at + HEADER <= len(data):
        if (rest := BLOCK - at % BLOCK) < HEADER:
            at += rest
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        piece = data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        parts = piece if kind in (FULL, FIRST) else parts + piece
        if kind in (FULL, LAST):
            yield parts


def read(path: Path) -> dict[str, Any]:
    """Return the content of an offline run: id, project, config, tags, history, summary and exit code."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "code": None}
    for message in messages(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "project": record.run.project, "tags": list(record.run.tags)}
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            found["history"].append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found["summary"] |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "exit":
            found["code"] = record.exit.exit_code
    return found


def _key(item: Any) -> str:
    return ".".join(item.nested_key) or str(item.key)
