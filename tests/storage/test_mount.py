"""Mounts from real servers: correct bytes, a single transfer, no stale data, no eviction of data in use."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from helpers import wait_for
from labrun.data import assets, mount, stores, transfer
from labrun.data.progress import Quiet
from labrun.data.readers.cifar import CHECKSUMS, FOLDER
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError
from mounter import Mounted, Mounting, digest_of
from servers import Server, web


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        (folder / "sub" / f"{number}.bin").write_bytes(os.urandom(2**16 + number))
    (folder / "twice.bin").write_bytes((folder / "sub/0.bin").read_bytes())
    return folder


Send = Callable[..., assets.Asset]


@pytest.fixture
def send(workspace: Path) -> Send:
    """Send a folder and register it."""

    def to(server: Server, folder: Path, name: str = "set") -> assets.Asset:
        store = stores.make(server.node)
        entries, tokens, _ = transfer.upload(store, folder, name, True, Quiet())
        return assets.register(store, name, name, entries, tokens)[0]

    return to


def cached(server: Server, workspace: Path, **more: Any) -> dict[str, Any]:
    return {**server.node, "cache": str(workspace / "cache"), **more}


def test_a_mount_is_complete_and_a_second_one_transfers_nothing(
    server: Server, source: Path, send: Send, workspace: Path
) -> None:
    asset = send(server, source)
    first = mount.mount(server.node, {"name": "set"})
    assert digest_of(first.path) == digest_of(source) and first.asset == asset
    second = mount.mount(server.node, {"name": "set"})
    assert second.moved == 0 and second.path == first.path
    assert first.moved == (0 if server.kind == "local" else sum(p.stat().st_size for p in (source / "sub").iterdir()))


def test_a_local_folder_is_used_in_place_and_left_unchanged(source: Path, workspace: Path) -> None:
    def everything() -> list[Any]:
        return [(str(p), p.stat().st_mode, p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in source.rglob("*")]

    before = everything()
    assert mount.mount({"name": "local", "root": str(source)}, {"name": "set"}).path == source
    assert everything() == before


def test_concurrent_processes_share_one_transfer(azure: Server, source: Path, send: Send, workspace: Path) -> None:
    send(azure, source)
    processes = [Mounting(cached(azure, workspace)) for _ in range(4)]
    answers = [process.mounted() for process in processes]
    assert {answer.digest for answer in answers} == {digest_of(source)}
    assert sum(answer.moved for answer in answers) == sum(p.stat().st_size for p in (source / "sub").iterdir())


def test_a_mount_after_kill_9_is_complete_and_reuses_files(
    azure: Server, tmp_path: Path, send: Send, workspace: Path
) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.bin").write_bytes(os.urandom(2**18))
    send(azure, folder)
    node = cached(azure, workspace, workers=2)
    for _ in range(3):
        before = len(list((workspace / "cache").glob("objects/??/*")))
        process = Mounting(node, pause_s=0.3)
        wait_for(lambda: len(list((workspace / "cache").glob("objects/.*-*"))) > 0 or process.has_ended())  # noqa: B023
        wait_for(lambda: len(list((workspace / "cache").glob("objects/??/*"))) > before or process.has_ended())  # noqa: B023
        process.kill()
    last = Mounting(node).mounted()
    assert last.digest == digest_of(folder) and last.moved < 12 * 2**18, "complete files were not fetched again"


@pytest.mark.parametrize("how", ["same size", "size", "gone"])
def test_a_changed_file_of_a_registered_asset_is_reported(
    server: Server, source: Path, send: Send, workspace: Path, how: str
) -> None:
    send(server, source)
    store = stores.make(server.node)
    mount.mount(server.node, {"name": "set"})
    time.sleep(1.1 if server.kind == "sftp" else 0)  # its times have whole seconds
    size = (source / "sub/3.bin").stat().st_size
    if how == "gone":
        store.remove("set/sub/3.bin")
    else:
        store.write("set/sub/3.bin", os.urandom(size if how == "same size" else 10))
    for _ in range(2):
        with pytest.raises(CorruptDataError, match=r"sub/3\.bin of asset set version 1 .* (has|is gone)"):
            mount.mount(server.node, {"name": "set"})


def test_files_added_after_registration_are_left_out(server: Server, source: Path, send: Send, workspace: Path) -> None:
    send(server, source)
    store = stores.make(server.node)
    for path in (source / "sub/0.bin", source / "twice.bin"):
        store.write(f"set/later/{path.name}", path.read_bytes())
    for _ in range(2):
        found = mount.mount(server.node, {"name": "set"})
        assert digest_of(found.path) == digest_of(source) and found.asset is not None and found.asset.number == 1
    store.remove("set/later/0.bin")
    store.remove("set/later/twice.bin")
    assert digest_of(mount.mount(server.node, {"name": "set"}).path) == digest_of(source)


def test_odd_files_in_a_folder_are_mounted_or_reported(workspace: Path) -> None:
    (workspace / "data").mkdir()
    (workspace / "data/away").symlink_to("/nowhere")
    node = {"name": "local", "root": str(workspace / "data")}
    assert mount.mount(node, {"name": "digits"}).path == workspace / "data"


def test_rewriting_the_same_content_is_not_a_change(azure: Server, source: Path, send: Send, workspace: Path) -> None:
    send(azure, source)
    mount.mount(azure.node, {"name": "set"})
    stores.make(azure.node).write("set/sub/3.bin", (source / "sub/3.bin").read_bytes())
    assert mount.mount(azure.node, {"name": "set"}).moved == 0


def test_a_damaged_cache_is_repaired(azure: Server, source: Path, send: Send, workspace: Path) -> None:
    send(azure, source)
    first = mount.mount(azure.node, {"name": "set"})
    victim = first.path / "sub/2.bin"
    victim.chmod(0o644)
    victim.write_bytes(b"x" * victim.stat().st_size)
    again = mount.mount(azure.node, {"name": "set"})
    assert digest_of(again.path) == digest_of(source) and again.moved == (source / "sub/2.bin").stat().st_size
    (again.path / "sub/4.bin").unlink()
    assert digest_of(mount.mount(azure.node, {"name": "set"}).path) == digest_of(source)


def test_a_mount_has_the_requested_version(azure: Server, source: Path, send: Send, workspace: Path) -> None:
    send(azure, source)
    (source / "sub/0.bin").write_bytes(b"new")
    store = stores.make(azure.node)
    entries, tokens, _ = transfer.upload(store, source, "set-2", False, Quiet())
    assets.register(store, "set", "set-2", entries, tokens)
    newest, first = (mount.mount(azure.node, {"name": "set", "version": v}) for v in (None, 1))
    assert (newest.path / "sub/0.bin").read_bytes() == b"new" and (first.path / "sub/0.bin").stat().st_size == 2**16
    assert newest.asset is not None and newest.asset.number == 2
    with pytest.raises(MissingDataError, match=r"has no version 3\. It has: 1 .*, 2 "):
        mount.mount(azure.node, {"name": "set", "version": 3})


def test_the_cache_evicts_unused_mounts_over_its_limit(
    azure: Server, tmp_path: Path, send: Send, workspace: Path
) -> None:
    """The least recently used mount is evicted first; mounts in use by a live process stay."""
    sums = {}
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.bin").write_bytes(os.urandom(2 * 2**20))
        send(azure, tmp_path / name, name)
        sums[name] = digest_of(tmp_path / name)
    node = cached(azure, workspace, cache_gb=5 / 1024)

    def here(name: str) -> bool:
        answer = Mounting({**node, "cache_gb": None}, name).mounted()
        assert answer.digest == sums[name]
        return answer.moved == 0

    def run(name: str) -> Mounted | str:
        return Mounting(node, name).answer()

    def is_mounted(name: str) -> bool:
        answer = run(name)
        return isinstance(answer, Mounted) and answer.digest == sums[name]

    user = Mounting(node, "a", stay=True)
    assert user.mounted().digest == sums["a"]
    assert is_mounted("b") and is_mounted("c")
    kept = {p.name for p in (workspace / "cache/views").iterdir() if p.is_dir()}
    assert len(kept) == 2, "b was evicted, a is in use"
    again = Mounting(node, "a").mounted()
    assert digest_of(Path(again.path)) == sums["a"] and again.moved == 0
    second = Mounting(node, "c", stay=True)
    second.mounted()
    refused = run("d")
    assert isinstance(refused, str) and "other runs use 4.0 MB of it" in refused and "cache_gb" in refused
    user.kill()
    assert is_mounted("d")
    second.leave()
    with pytest.raises(DataError, match=r"is limited to 1\.0 MB: raise datastore\.cache_gb"):
        mount.mount({**node, "cache_gb": 1 / 1024}, {"name": "b"})
    assert here("d") and not here("a")


def test_leftovers_of_a_killed_process_are_reused_or_evicted(azure: Server, tmp_path: Path, workspace: Path) -> None:
    """Three of four files of a plain folder had arrived: they are reused, or evicted to make room."""
    store = stores.make(azure.node)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.bin").write_bytes(os.urandom(200_000))
        transfer.upload(store, tmp_path / name, name, False, Quiet())
    node = cached(azure, workspace, cache_gb=2**20 / 2**30)
    assert mount.mount_reference("one", node, {}).moved == 800_000
    for left in (workspace / "cache/views").iterdir():  # as it is while the fourth is on its way
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.rmtree(workspace / "cache/uses")
    last = next((workspace / "cache/objects").glob("??/*"))
    last.unlink()
    assert digest_of(mount.mount_reference("one", node, {}).path) == digest_of(tmp_path / "one")
    for left in (workspace / "cache/views").iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.rmtree(workspace / "cache/uses")
    assert digest_of(mount.mount_reference("other", node, {}).path) == digest_of(tmp_path / "other")


def test_sftp_connections_end_with_their_threads_and_their_datastore(sftp_server: Server) -> None:
    """The threads that paramiko starts would keep them open for as long as the process lives."""
    import paramiko

    def connections() -> set[threading.Thread]:
        gc.collect()
        return {one for one in threading.enumerate() if isinstance(one, paramiko.Transport)}

    before = connections()
    datastore = stores.make(sftp_server.node)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: len(list(one.files())), [datastore] * 6))
        assert connections() - before
    wait_for(lambda: not connections() - before)
    list(datastore.files())
    assert connections() - before
    del datastore
    wait_for(lambda: not connections() - before)


@pytest.mark.parametrize("known", ["this key", "another key", "no key"])
def test_sftp_hosts_with_an_unknown_key_are_refused(
    sftp_server: Server, workspace: Path, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    monkeypatch.setenv("HOME", str(workspace))
    (workspace / ".ssh").mkdir()
    assert sftp_server.served is not None
    home = sftp_server.served.parent
    key = (home / ("user.pub" if known == "another key" else "host.pub")).read_text()
    if known != "no key":
        (workspace / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{sftp_server.node['port']} {key}")
    strict = stores.make({**sftp_server.node, "host_key_policy": "reject"})
    if known == "this key":
        strict.files()
        return
    with pytest.raises(DataError):
        strict.files()
    if known == "another key":  # whatever the policy for hosts that are not known
        with pytest.raises(DataError):
            stores.make(sftp_server.node).files()


def test_unregistered_folders_and_files_are_mounted(server: Server, source: Path, workspace: Path) -> None:
    store = stores.make(server.node)
    transfer.upload(store, source, "plain", False, Quiet())
    found = mount.mount_reference("plain", server.node, {})
    assert digest_of(found.path) == digest_of(source) and found.asset is None
    assert mount.mount_reference("plain", server.node, {}).moved == 0
    single = mount.mount_reference("plain/sub/1.bin", server.node, {})
    assert single.path.read_bytes() == (source / "sub/1.bin").read_bytes()
    other = mount.mount_reference(
        f"{server.kind}/plain/sub", {"name": "x", "root": str(workspace)}, {server.kind: server.node}
    )
    assert digest_of(other.path) == digest_of(source / "sub")
    for text in ("absent", "plain/sub/absent.bin", "plain@3"):
        with pytest.raises(MissingDataError):
            mount.mount_reference(text, server.node, {})
    with pytest.raises(ConfigError, match="without '..'"):
        mount.mount_reference("plain/../../etc", server.node, {})


def test_a_mount_from_a_web_server_is_complete(
    source: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without range requests, which identifies files only by date."""
    (source / "large.bin").write_bytes(os.urandom(10 * 2**20))
    asked: list[str] = []
    answer = SimpleHTTPRequestHandler.do_GET
    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", lambda self: (asked.append(self.path), answer(self)))
    folder = tmp_path / "served"
    local = stores.make({"name": "local", "root": str(folder)})
    odd = source / "with space #1.txt"
    odd.write_text("odd")
    entries, tokens, _ = transfer.upload(local, source, "set", False, Quiet())
    with web(folder) as server:
        place = stores.make(server.node)
        assert sorted(place.files("set")) == sorted(f"set/{entry.path}" for entry in entries)
        assert place.folders() == ["set/"] and place.read("set/with space #1.txt") == b"odd"
        assert digest_of(mount.mount_reference("set", server.node, {}).path) == digest_of(source)
        assets.register(local, "set", "set", entries, tokens)
        found = mount.mount(server.node, {"name": "set"})
        assert digest_of(found.path) == digest_of(source) and found.asset is not None
        before = asked.count("/set/large.bin")
        again = mount.mount(server.node, {"name": "set"})
        assert again.moved == 0 and asked.count("/set/large.bin") == before
        with pytest.raises(ConfigError, match="is read-only"):
            place.write("x", b"1")


@pytest.fixture
def few_images(real_data: Path, tmp_path: Path) -> Path:
    """A datastore with the first images of CIFAR-10, in its own format."""
    there = real_data / FOLDER
    folder = tmp_path / "few" / FOLDER
    folder.mkdir(parents=True)
    images = pickle.loads((there / "data_batch_1").read_bytes(), encoding="latin1")
    for number, name in enumerate(CHECKSUMS):
        part = slice(280 * number, 280 * (number + 1))
        batch = pickle.dumps({"data": images["data"][part], "labels": images["labels"][part]})
        (folder / name).write_bytes((there / name).read_bytes() if name == "batches.meta" else batch)
    return folder.parent


def test_cifar10_from_azure_gives_the_curve_of_the_local_folder(
    labrun: Command, azure: Server, few_images: Path, workspace: Path, send: Send
) -> None:
    """A network is trained on a few of the real images three times."""
    send(azure, few_images / FOLDER, "cifar10")
    curves, logs, signatures = [], [], []
    for where in (
        [f"datastore.root={few_images}"],
        *[["datastore=azure_blob", f"datastore.root={azure.node['root']}"]] * 2,
    ):
        done = labrun(
            "experiment=cifar10_cnn",
            "trainer.max_epochs=1",
            "trainer.batch_size=64",
            "dataset.verify=false",
            "trainer.log_every_n_batches=2",
            "tracking=none",
            "report=none",
            *where,
        )
        assert done.returncode == 0, done.stderr
        (run,) = set((workspace / "outputs/cifar10_cnn").iterdir()) - {Path(log) for log in logs}
        logs.append(run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curves.append([(line["name"], line["step"], line["value"]) for line in lines])
        record = json.loads((run / "run.json").read_text())
        signatures.append((record["signature"], record["data"][0]["moved_bytes"], record["data"][0].get("number")))
    assert len(curves[0]) > 8 and curves[0] == curves[1] == curves[2]
    (plain, _, no), (first, moved, one), (second, nothing, _) = signatures
    assert plain == first == second and (no, one) == (None, 1) and nothing == 0
    assert moved == sum(path.stat().st_size for path in (few_images / FOLDER).iterdir())
    said = (logs[2] / "driver.log").read_text()
    assert "Mounting input 'cifar10' from datastore 'azure_blob' ... Mounted at" in said and "(0 bytes moved in" in said


def test_any_value_of_a_config_can_hold_a_mount(
    labrun: Command, azure: Server, source: Path, send: Send, workspace: Path
) -> None:
    send(azure, source)
    (workspace / "looks.py").write_text(
        "import os, numpy as np\n"
        "class Looks:\n"
        "    def __init__(self, folder='', both=(), **_):\n        self.folder, self.both = folder, both\n"
        "    def fit(self, x, y):\n"
        "        print('SEEN', sorted(os.listdir(self.folder)), self.both[1][-9:], flush=True)\n        return self\n"
        "    def predict(self, x):\n        return np.zeros(len(x), int)\n"
    )
    done = labrun(
        "model._target_=looks.Looks",
        "+model.folder=${mount:azure_blob/set}",
        "tracking=none",
        "report=none",
        "+model.both=[1, '${mount:azure_blob/set/sub/1.bin}']",
        "dataset.max_samples=50",
    )
    # The datastore as it comes has another container: it is absent, or (other tests make it) lacks the folder.
    assert done.returncode == 2 and "datastore 'azure_blob'" in done.stderr and "Traceback" not in done.stderr
    (workspace / "conf/datastore").mkdir(parents=True)
    (workspace / "conf/datastore/blobs.yaml").write_text(
        f"_target_: adlfs.AzureBlobFileSystem\nname: blobs\nroot: {azure.node['root']}\n"
        "connection_string: ${oc.env:AZURE_STORAGE_CONNECTION_STRING}\n"
    )
    done = labrun(
        "model._target_=looks.Looks",
        "+model.folder=${mount:blobs/set}",
        "tracking=none",
        "report=none",
        "+model.both=[1, '${mount:blobs/set/sub/1.bin}']",
        "dataset.max_samples=50",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "SEEN ['sub', 'twice.bin'] sub/1.bin" in done.stdout
        and "Mounting input 'set' from datastore 'blobs'" in done.stdout
    )
    (run,) = [
        p for p in (workspace / "outputs").glob("*/*/run.json") if json.loads(p.read_text())["status"] == "completed"
    ]
    record = json.loads(run.read_text())
    assert record["config"]["model"]["folder"] == "${mount:blobs/set@1}" and record["data"][1]["number"] == 1


def test_interrupting_a_mount_ends_at_once(azure: Server, tmp_path: Path, send: Send, workspace: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "x.bin").write_bytes(os.urandom(2**20))
    send(azure, folder)
    process = Mounting(cached(azure, workspace), pause_s=600)
    wait_for(lambda: len(list((workspace / "cache").glob("objects/.*-*"))) > 0 or process.has_ended())
    process.interrupt()
    began = time.monotonic()
    assert process.wait(20) != 0 and time.monotonic() - began < 10
    assert not list((workspace / "cache").glob("objects/??/*"))
