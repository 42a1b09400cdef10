"""Real servers on this machine, each on a free port: Azurite, S3 (moto), openssh's sftp, a web server."""

from __future__ import annotations

import contextlib
import functools
import getpass
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrun.cli.ui import MLFLOW

AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's well-known default key, which is not a secret."""


@dataclass
class Server:
    """The config node of a datastore, and the environment variables that it refers to."""

    kind: str
    node: dict[str, Any]
    environment: dict[str, str]
    served: Path | None = None
    """The local folder that it serves, if it serves one."""
    overrides: list[str] = field(default_factory=list)
    """Command-line overrides that point a datastore of this type to the server."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_open(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} does not answer")


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, stdin=subprocess.DEVNULL)
    try:
        wait_until_open(port, process)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def azurite_command() -> str | None:
    """Find the emulator on PATH, or in the folder of `tests/storage/install`."""
    own = Path(__file__).parent / "storage" / "node_modules" / ".bin" / "azurite-blob"
    return str(own) if own.exists() else shutil.which("azurite-blob")


def sshd_command() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[Server]:
    port, command = free_port(), azurite_command()
    assert command is not None
    arguments = [
        "--silent",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--inMemoryPersistence",  # on disk, it would take 20 ms of CPU time in each second of the session
        "--blobPort",
        str(port),
    ]
    with running([command, *arguments], port, folder):
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
        )
        node = {
            "_target_": "adlfs.AzureBlobFileSystem",
            "name": "azure_blob",
            "root": "data",
            "connection_string": connection,
        }
        yield Server("azure_blob", node, {"AZURE_STORAGE_CONNECTION_STRING": connection})


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Server]:
    port = free_port()
    with running([sys.executable, "-m", "moto.server", "-p", str(port), "-H", "127.0.0.1"], port, folder):
        address = f"http://127.0.0.1:{port}"
        node = {
            "_target_": "s3fs.S3FileSystem",
            "name": "s3",
            "root": "data",
            "endpoint_url": address,
            "key": "tester",
            "secret": "tester-secret",
            "region": "us-east-1",
        }
        environment = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "tester-secret",
            "AWS_REGION": "us-east-1",
        }
        yield Server("s3", node, environment)


@contextlib.contextmanager
def sftp(folder: Path) -> Iterator[Server]:
    port, command = free_port(), sshd_command()
    assert command is not None
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    served = folder / "served"
    served.mkdir()
    with running([command, "-D", "-e", "-f", str(folder / "config")], port, folder):
        node = {
            "_target_": "fsspec.implementations.sftp.SFTPFileSystem",
            "name": "sftp",
            "root": str(served),
            "host": "127.0.0.1",
            "port": port,
            "username": getpass.getuser(),
            "key_filename": str(folder / "user"),
            "host_key_policy": "auto_add",
            "timeout": 30,
        }
        overrides = [f"{key}={node[key]}" for key in ("root", "host", "port", "username", "key_filename")]
        yield Server("sftp", node, {}, served, overrides)


@contextlib.contextmanager
def web(folder: Path) -> Iterator[Server]:
    """Serve a folder over HTTP, with directory listings."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        node = {"_target_": "fsspec.implementations.http.HTTPFileSystem", "name": "http", "root": address}
        yield Server("http", node, {}, folder, [f"root={address}"])
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def mlflow(database: Path) -> Iterator[str]:
    """Run an MLflow server over a database, and yield its address."""
    place, port = database.parent, free_port()
    command = [
        sys.executable,
        "-c",
        MLFLOW,
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{database}",
        "--artifacts-destination",
        str(place / "artifacts"),
    ]
    with open(place / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=place, start_new_session=True)
    try:
        wait_until_open(port, process, 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
