"""The command `lab ui`: serve MLflow's pages, updated from the records while the command runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labrun.cli import bars
from labrun.cli.parsing import Parser
from labrun.errors import ConfigError, RecordError
from labrun.runs import store
from labrun.runs.workspace import Workspace
from labrun.tracking import feed
from labrun.tracking.base import Fed
from labrun.tracking.mlflow import client, ui_state
from labrun.tracking.mlflow.tracker import MLflow

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 5000, 100
UP_S, DOWN_S = 120.0, 10.0
FED_S = 5.0
"""Maximum time to wait for the newest run to appear in MLflow before showing the first page, in seconds."""
LAST_S = 5.0
"""Time limit for the last update at exit, in seconds; the next `lab ui` continues from there."""


def fill(command: Parser) -> None:
    """Add the description and options to the parser of the command."""
    command.description = "Show runs and models in the MLflow UI, updated live. Ctrl-C ends it."
    command.add_argument(
        "--port", type=_port, metavar="N", help=f"port of the server (default: the first free one from {FIRST_PORT} on)"
    )
    command.add_argument("--open", action="store_true", help="also open a browser")
    command.set_defaults(act=ui)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 1 to 65535")
    return int(text)


class _EndError(BaseException):
    """The user has asked `lab ui` to end."""


def ui(options: argparse.Namespace) -> int:
    """Serve MLflow until Ctrl-C or SIGTERM."""
    root = store.workspace()
    shown = ui_state.ui_address(root)
    if shown is not None:
        if options.port is not None and not shown.endswith(f":{options.port}"):
            raise RecordError(f"another 'lab ui' shows this workspace at {shown}: end it first")
        print(f"'lab ui' is already running: {_first_page(root, shown)}")
        return 0
    port = _free_port(options.port)
    address = f"http://{HOST}:{port}"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        print(f"starting MLflow for {root} ...", flush=True)
        if not client.database_path(root).exists():
            client.connect(root, client.database_uri(root))
        with _server(root, port) as process, _fed(root):
            _wait_until_up(process, address, root)
            ui_state.publish_address(root, address)
            page = _first_page(root, address)
            print(f"MLflow: {page}\n  (Ctrl-C ends it; a run's own page: lab runs show RUN)", flush=True)
            if options.open:
                import webbrowser

                webbrowser.open(page)
            try:
                code = process.wait()
            finally:
                ui_state.withdraw(root)
            raise RecordError(f"MLflow's server has stopped (exit code {code}): see {_log(root)}")
    except _EndError:
        print("\nended", flush=True)
        return 0


def _first_page(root: Path, address: str) -> str:
    """Return the page of the newest run's experiment; the start page if the run does not appear in MLflow in time."""
    newest = max(store.listing(root).runs, key=lambda pair: pair[1].created, default=None)
    run_dir = None if newest is None else newest[0]
    end = time.monotonic() + FED_S
    while run_dir is not None and ui_state.mlflow_id(root, run_dir) is None and time.monotonic() < end:
        threading.Event().wait(0.2)
    return ui_state.first_page(root, address, run_dir)


def _end(number: int, frame: Any) -> None:
    # Ignore further signals: a second Ctrl-C must not interrupt the shutdown.
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    raise _EndError


def _free_port(wanted: int | None) -> int:
    """Return the requested port, or the first free one.

    Raises:
        ConfigError: the requested port is taken, or no port is free.
    """
    if wanted is not None:
        if not _is_free(wanted):
            raise ConfigError(f"--port {wanted} is taken or not allowed here: choose another, or leave --port out")
        return wanted
    first_free = next((port for port in range(FIRST_PORT, FIRST_PORT + PORTS) if _is_free(port)), None)
    if first_free is None:
        raise ConfigError(f"the ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all taken: use --port N")
    return first_free


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _fed(root: Path) -> Iterator[None]:
    """Feed MLflow from a thread during the context, and update it once more afterwards."""
    ended = threading.Event()
    reported: set[str] = set()

    def report(text: str) -> None:
        if text not in reported:  # failures are retried, but reported only once
            reported.add(text)
            sys.stderr.write(f"lab: {text}\n")

    def done(fed: Fed) -> None:
        bar.end()
        for line in fed.left_out:
            report(f"left out: {line}")

    def work() -> None:
        try:
            feed.feed(
                root,
                MLflow(),
                client.database_uri(root),
                ended,
                failed=lambda error: report(str(error)),
                progress=bar.update,
                done=done,
                last_s=LAST_S,
            )
        except Exception as error:  # noqa: BLE001 - reported; the pages stay as they are
            report(str(error))

    with bars.Bar("runs") as bar:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(DOWN_S)


def _log(root: Path) -> Path:
    return Workspace(root).ui_log


@contextlib.contextmanager
def _server(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server in a separate process group, which ends with the context or with this process."""
    artifacts = Workspace(root).mlruns.as_uri()
    command = [
        sys.executable,
        "-c",
        GUARDED,
        sys.executable,
        "-c",
        MLFLOW,
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        client.database_uri(root),
        "--default-artifact-root",
        artifacts,
        "--no-serve-artifacts",
    ]
    environment = {**os.environ, **client.ENVIRONMENT, "MLFLOW_TRACKING_URI": ""}
    with open(_log(root), "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            cwd=Workspace(root).state,
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(DOWN_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


MLFLOW = """
import os
from uvicorn.main import main
from mlflow import server
from mlflow.cli import cli
start = server._exec_cmd

def run_here(command, extra_env=None, **options):
    extra_env = extra_env or {}
    if command[1:3] != ["-m", "uvicorn"] or {"_MLFLOW_STATIC_PREFIX", "prometheus_multiproc_dir"} & set(extra_env):
        return start(command, extra_env=extra_env, **options)
    os.environ.update(extra_env)
    main(args=command[3:])

server._exec_cmd = run_here
cli()
"""
"""Program with the arguments of `mlflow` that runs its server in its own interpreter, which halves the imports. No
public call does; if MLflow starts the server in another way, it is a second process as usual. That is also so with the
variables that MLflow's server reads on import; uvicorn comes first, because only then does the server check `Host`."""


GUARDED = """
import os, signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def watch():
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        pass
    os.killpg(0, signal.SIGKILL)
signal.signal(signal.SIGTERM, lambda number, frame: None)
threading.Thread(target=watch, daemon=True).start()
code = server.wait()
os.killpg(0, signal.SIGTERM)
sys.exit(code if code >= 0 else 1)
"""
"""Program that starts the server, and ends its process group when standard input closes, even if `lab ui` is killed."""


def _wait_until_up(process: subprocess.Popen[bytes], address: str, root: Path) -> None:
    end = time.monotonic() + UP_S
    while time.monotonic() < end:
        if process.poll() is not None:
            last = _log(root).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise RecordError(f"MLflow's server did not start: {''.join(last)} (all of it: {_log(root)})")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            threading.Event().wait(0.2)
    raise RecordError(f"MLflow's server did not answer within {UP_S:.0f} s: see {_log(root)}")
