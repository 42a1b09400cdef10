"""Upload and download speed of a datastore: `lab data` against the vendor's own library with as many workers.

The servers run on this machine: Azurite for Azure Blob, moto for S3. Both sides are separate processes, timed once
their libraries are imported. Each transfers the same files, hashes them all, and reports its peak memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import servers

FASTER, PEAK_MB = 0.8, 200
MB = 2**20
OWN = """
import json, os, sys, time
from pathlib import Path
kind, verb, folder, root, workers = sys.argv[1:]
from labrun.data import assets, stores, transfer
from labrun.data.progress import Quiet
from labrun.submission import inputs
store = stores.make(inputs.load(kind, changes=(f"root={root}",)))
store.find("x")  # imports and opens
began = time.perf_counter()
if verb == "upload":
    entries, tokens, _ = transfer.upload(store, Path(folder), "set", False, Quiet(), int(workers))
    assets.register(store, "set", "set", entries, tokens)
else:
    found = assets.get(store, "set")
    listed = assets.manifest(store, found)
    items = [transfer.Item(f"set/{e.path}", Path(folder, e.path), e.size, e.sha256) for e in listed]
    transfer.download(store, items, False, Quiet(), int(workers))
print("SECONDS", time.perf_counter() - began)
print("PEAK", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""Transfers as in `lab data`. The memory reported by getrusage starts with that of the parent process."""
THEIRS = """
import hashlib, json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
kind, verb, folder, root, workers = sys.argv[1:]
container, prefix = root.split("/", 1)
if kind == "azure_blob":
    from azure.storage.blob import BlobServiceClient
    began = time.perf_counter()
    client = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])
    holder = client.get_container_client(container)
    if not holder.exists():
        holder.create_container()
    def send(name):
        with open(Path(folder, name), "rb") as file:
            holder.upload_blob(f"{prefix}/{name}", file, overwrite=True)
    def fetch(name):
        with open(Path(folder, name), "wb") as file:
            holder.download_blob(f"{prefix}/{name}").readinto(file)
else:
    import boto3
    began = time.perf_counter()
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    if container not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=container)
    def send(name):
        client.upload_file(str(Path(folder, name)), container, f"{prefix}/{name}")
    def fetch(name):
        client.download_file(container, f"{prefix}/{name}", str(Path(folder, name)))
sums = json.loads(Path(os.environ["SUMS"]).read_text())
def check(name):
    with open(Path(folder, name), "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sums[name], name
def one(name):
    if verb == "upload":
        check(name)
        send(name)
    else:
        fetch(name)
        check(name)
Path(folder).mkdir(exist_ok=True)
with ThreadPoolExecutor(int(workers)) as pool:
    list(pool.map(one, sums))
print("SECONDS", time.perf_counter() - began)
print("PEAK", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


class Measured:
    """Transfers of one side."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peak_mb = 0.0
        self.others = 0.0

    def run(self, label: str, command: list[str | Path], cwd: Path, environment: dict[str, str]) -> None:
        """Run a command, and add its result."""
        done = common.run_command(label, command, cwd, environment)
        _, found = done.find(r"^PEAK (\d+)")
        self.seconds.append(float(done.find(r"^SECONDS ([\d.]+)")[1][1]))
        self.peak_mb = max(self.peak_mb, int(found[1]) / 1024)
        self.others = max(self.others, done.time.others)


def part(server: servers.Server, options: Any, folder: Path) -> list[str]:
    """Return table and verdicts of one type of datastore."""
    environment = {**server.environment, "SUMS": str(folder / "sums.json"), "LABRUN_ROOT": str(folder)}
    sides = {(side, verb): Measured() for side in ("labrun", "theirs") for verb in ("upload", "download")}
    for turn in range(options.repeats):
        for side in ("labrun", "theirs"):
            root = f"{side}{turn}/files"
            # A new workspace each time, so that no cache knows of earlier transfers.
            place = folder / f"{side}{turn}"
            place.mkdir()
            for verb in ("upload", "download"):
                target = folder / "files" if verb == "upload" else place / "back"
                script = OWN if side == "labrun" else THEIRS
                command: list[str | Path] = [
                    sys.executable,
                    "-c",
                    script,
                    server.kind,
                    verb,
                    target,
                    root,
                    str(options.workers),
                ]
                label = f"{server.kind}, {verb}, {side}"
                sides[side, verb].run(label, command, place, {**environment, "LABRUN_ROOT": str(place)})
            shutil.rmtree(place)
    size = options.files * options.size_mb
    rows, said = [], []
    for verb in ("upload", "download"):
        own_side, their_side = sides["labrun", verb], sides["theirs", verb]
        for name, one in (("labrun", own_side), ("the vendor's library", their_side)):
            middle = statistics.median(one.seconds)
            rows.append(
                [verb, name, f"{middle:.2f}", f"{size / middle:.0f}", f"{one.peak_mb:.0f}", f"{one.others:.0%}"]
            )
        ratio = statistics.median(their_side.seconds) / statistics.median(own_side.seconds)
        said.append(
            f"{server.kind}, {verb}: {ratio:.2f} of the vendor's throughput, peak {own_side.peak_mb:.0f} MB. "
            f"{common_verdict(ratio >= FASTER and own_side.peak_mb < PEAK_MB)}"
        )
    header = ["", "", "seconds, median", "MB/s", "peak memory, MB", "others"]
    return [f"## {server.kind}", common.table(header, rows), "\n\n".join(said)]


def common_verdict(holds: bool) -> str:
    """Return the last word of a verdict."""
    return f"**{'Holds' if holds else 'Missed'}.**"


def main() -> None:
    """Measure, and print the tables."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=9)
    parser.add_argument("--size-mb", type=int, default=31)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--servers", nargs="+", default=["azurite", "moto"], help="which of them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        sums = {}
        for number in range(options.files):
            content = os.urandom(options.size_mb * MB)
            (folder / "files" / f"{number}.bin").write_bytes(content)
            sums[f"{number}.bin"] = hashlib.sha256(content).hexdigest()
        (folder / "sums.json").write_text(json.dumps(sums))
        parts = [
            f"{options.files} files of {options.size_mb} MB of random bytes, {options.workers} workers on both sides, "
            f"{options.repeats} times in turn. Both sides hash every file; labrun also registers the asset. "
            f"Start-up and imports are not counted. Bar: at least {FASTER} of the vendor's throughput, peak memory "
            f"under {PEAK_MB} MB."
        ]
        for kind in [getattr(servers, name) for name in options.servers]:
            home = folder / kind.__name__
            home.mkdir()
            with kind(home) as server:
                parts += part(server, options, folder)
        common.report(
            "transfer",
            "Moving files to a datastore and back",
            parts,
            ["fsspec", "adlfs", "s3fs", "azure-storage-blob", "boto3"],
            options.save,
        )


if __name__ == "__main__":
    main()
