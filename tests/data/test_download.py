"""Download of MNIST from a local HTTP server: once, and completely or not at all."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets
from filelock import FileLock

from labrun.data import download, reader
from labrun.data.readers import Mnist
from labrun.data.readers.idx import FILES
from labrun.errors import MissingDataError

FINAL = Path("MNIST") / "raw"
PACKED = sorted(f"{name}.gz" for name in FILES)
BROKEN_REPLIES = {
    "closed at once": b"",
    "not HTTP": b"hello\r\n\r\n",
    "broken off": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n",
}


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder slowly, and records the requests."""

    def __init__(self, *args: Any, asked: list[str], delay: float, **options: Any) -> None:
        self.asked, self.delay = asked, delay
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        if self.headers["Method"] == "HEAD":  # so torchvision asks first, to follow redirects
            return self.do_HEAD()
        self.asked.append(self.path.strip("/"))
        time.sleep(self.delay)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Not to the terminal."""


class Server:
    """A folder, served; `asked` holds the names of the files that were fetched."""

    def __init__(self, folder: Path, delay: float = 0) -> None:
        self.asked: list[str] = []
        handler = partial(Handler, directory=str(folder), asked=self.asked, delay=delay)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server, and make it the only one that torchvision knows."""
    started: list[Server] = []

    def start(folder: Path, delay: float = 0) -> Server:
        started.append(Server(folder, delay))
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [started[-1].url])
        return started[-1]

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield start
    for server in started:
        server.http.shutdown()
        server.http.server_close()


def files_below(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def check_all_in_place(root: Path) -> None:
    expected = {FINAL / f"{name}{suffix}" for name in FILES for suffix in ("", ".gz")}
    assert files_below(root) - {Path(".MNIST.lock")} == expected
    assert not (root / ".MNIST.partial").exists()
    assert Mnist().find(root)


def fetch_alone(root: Path) -> None:
    torch.set_num_threads(1)  # what OpenMP's threads held is lost in a fork; PyTorch's own worker processes do the same
    Mnist().fetch(root)


def fetch_in_process(root: Path) -> BaseProcess:
    """A fork, which knows the test's server."""
    process = multiprocessing.get_context("fork").Process(target=fetch_alone, args=(root,), daemon=True)
    process.start()
    return process


def fetch_in_thread(root: Path, outcome: list[Any]) -> threading.Thread:
    def work() -> None:
        try:
            Mnist().fetch(root)
            outcome.append(None)
        except MissingDataError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_files_are_downloaded_once(real_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(real_data / "mnist")
    root = tmp_path / "new" / "folder"
    for _ in range(2):  # the second time nothing is left to ask for
        Mnist().fetch(root)
        check_all_in_place(root)
        assert sorted(server.asked) == PACKED
    assert len(Mnist().read(root).train) == 60_000


def test_prepare_fetches_only_what_is_absent_and_allowed(real_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(real_data / "mnist")
    config = {"_target_": "labrun.data.readers.Mnist", "name": "mnist"}
    with pytest.raises(MissingDataError, match=r"dataset\.download=true"):
        reader.prepare({**config, "download": False}, tmp_path)
    reader.prepare({**config, "download": True}, real_data)
    assert not server.asked and not files_below(tmp_path)
    reader.prepare({**config, "download": True}, tmp_path)
    check_all_in_place(tmp_path)


def test_existing_files_are_not_replaced(real_data: Path, tmp_path: Path, serve: Serve) -> None:
    serve(real_data / "mnist")
    own = tmp_path / FINAL / FILES[0]
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a person's own")
    Mnist().fetch(tmp_path)
    check_all_in_place(tmp_path)
    assert own.read_bytes() == b"a person's own"


def test_concurrent_threads_download_once(real_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(real_data / "mnist", delay=0.1)
    outcome: list[Any] = []
    for thread in [fetch_in_thread(tmp_path, outcome) for _ in range(3)]:
        thread.join()
    assert outcome == [None] * 3 and sorted(server.asked) == PACKED
    check_all_in_place(tmp_path)


def test_concurrent_processes_download_once(real_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(real_data / "mnist", delay=0.2)
    running = [fetch_in_process(tmp_path) for _ in range(3)]
    for process in running:
        process.join(20)
    assert [process.exitcode for process in running] == [0] * 3
    assert sorted(server.asked) == PACKED
    check_all_in_place(tmp_path)


def test_a_killed_fetch_leaves_nothing_under_the_final_name(real_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(real_data / "mnist", delay=0.3)
    process = fetch_in_process(tmp_path)
    deadline = time.monotonic() + 60
    while len(server.asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert len(server.asked) == 3 and not (tmp_path / "MNIST").exists()
    Mnist().fetch(tmp_path)
    check_all_in_place(tmp_path)


def truncated(source: Path, target: Path) -> Path:
    target.mkdir()
    for name in FILES:
        (target / f"{name}.gz").write_bytes((source / f"{name}.gz").read_bytes()[:1000])
    return target


def check_refused(root: Path, *reasons: str) -> None:
    with pytest.raises(MissingDataError) as caught:
        Mnist().fetch(root)
    message = str(caught.value)
    assert all(str(root / FINAL / name) in message for name in FILES)
    assert "Copy the files there" in message and f"MNIST is not in {root}" in message
    assert "datastore.root=" in message and all(reason in message for reason in reasons)
    assert files_below(root) <= {Path(".MNIST.lock")} and not (root / ".MNIST.partial").exists()


def test_truncated_downloads_are_refused_and_leave_nothing(real_data: Path, tmp_path: Path, serve: Serve) -> None:
    serve(truncated(real_data / "mnist", tmp_path / "served"))
    check_refused(tmp_path / "data", f"{FILES[0]}.gz", "File not found or corrupted")


def test_without_a_server_the_error_says_how_to_provide_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_again:
        free_port = closed_again.getsockname()[1]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{free_port}/"])
    check_refused(tmp_path / "data", "could not be fetched", "Connection refused")


def answer_all(listener: socket.socket, reply: bytes) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(reply)


@pytest.mark.parametrize("reply", BROKEN_REPLIES.values(), ids=BROKEN_REPLIES)
def test_a_broken_reply_is_a_failed_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_all, args=(listener, reply), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        check_refused(tmp_path / "data", "could not be fetched")
        listener.shutdown(socket.SHUT_RDWR)


def test_a_root_that_cannot_be_a_folder_is_a_failed_fetch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingDataError, match="could not be fetched .*Not a directory"):
        Mnist().fetch(tmp_path / "file" / "data")


def test_giving_up_waiting_does_not_stop_the_other_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAIT_S", 0.2)
    arriving = tmp_path / ".MNIST.partial" / "half.gz"
    arriving.parent.mkdir()
    arriving.write_bytes(b"half")
    outcome: list[Any] = []
    with FileLock(tmp_path / ".MNIST.lock"):
        fetch_in_thread(tmp_path, outcome).join()
    assert isinstance(outcome[0], MissingDataError)
    assert arriving.exists()
