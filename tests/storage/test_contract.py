"""The contract of every type of datastore, on real servers."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest

from labrun.data import assets, stores, transfer
from labrun.data.progress import Quiet
from labrun.data.stores import azure, base
from labrun.data.stores.base import Datastore
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError
from servers import Server

ODD = [
    "with space.txt",
    "hash#1.txt",
    "per%20cent.txt",
    "brackets[1].txt",
    "what?.txt",
    "über/ä ö.txt",
    "a+b&c=d.txt",
    "deep/er/and/deeper.bin",
    'quote\'d "name".txt',
    "star*.txt",
    "semi;colon.txt",
]


@pytest.fixture
def store(server: Server) -> Datastore:
    return stores.make(server.node)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(3):
        (folder / "sub").mkdir(parents=True, exist_ok=True)
        (folder / "sub" / f"{number}.bin").write_bytes(os.urandom(1000 + number))
    (folder / "empty").write_bytes(b"")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def send(store: Datastore, source: Path, target: str = "set", overwrite: bool = False) -> tuple[Quiet, int]:
    view = Quiet()
    _, _, there = transfer.upload(store, source, target, overwrite, view)
    return view, there


def fetch(store: Datastore, target: Path, folder: str = "set") -> dict[str, bytes]:
    items = [transfer.Item(n, target / n.removeprefix(f"{folder}/"), f.size) for n, f in store.files(folder).items()]
    transfer.download(store, items, False, Quiet())
    return content(target)


def test_an_empty_datastore_has_no_files(store: Datastore) -> None:
    assert store.files() == {} and store.folders() == [] and store.find("x") is None and assets.names(store) == []
    store.remove("not there")
    with pytest.raises(MissingDataError):
        store.read("not there")
    with pytest.raises(MissingDataError):
        store.fetch("not there", io.BytesIO() if store.is_local else open(os.devnull, "wb"), lambda count: None)  # noqa: SIM115


def test_sent_files_are_fetched_unchanged(store: Datastore, source: Path, tmp_path: Path) -> None:
    view, there = send(store, source)
    assert (view.files, there) == (4, 0)
    assert {name: found.size for name, found in store.files("set").items()} == {
        "set/empty": 0,
        "set/sub/0.bin": 1000,
        "set/sub/1.bin": 1001,
        "set/sub/2.bin": 1002,
    }
    assert store.folders() == ["set/"] and store.folders("set") == ["empty", "sub/"]
    assert fetch(store, tmp_path / "back") == content(source)
    assert store.read("set/sub/0.bin") == (source / "sub/0.bin").read_bytes()


def test_odd_names_are_kept(store: Datastore, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    for name in ODD:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    send(store, folder)
    assert sorted(store.files("set")) == sorted(f"set/{name}" for name in ODD)
    assert fetch(store, tmp_path / "back") == content(folder)
    asset, _ = assets.register(store, "odd", "set", *transfer.upload(store, folder, "set", False, Quiet())[:2])
    assert [entry.path for entry in assets.manifest(store, asset)] == sorted(ODD)
    for name in ODD:
        store.remove(f"set/{name}")
    assert store.files("set") == {}


def test_a_single_file_is_sent(store: Datastore, source: Path) -> None:
    send(store, source / "sub/1.bin", "")
    assert list(store.files()) == ["1.bin"] and store.find("1.bin") is not None and store.find("1") is None


def test_identical_files_are_skipped_and_changed_ones_refused(store: Datastore, source: Path) -> None:
    send(store, source)
    view, there = send(store, source)
    assert (view.files, there) == (0, 4)
    before = {name: store.read(name) for name in store.files()}
    (source / "sub/1.bin").write_bytes(os.urandom(1001))
    (source / "new").write_text("new")
    with pytest.raises(DataError, match=r"1 file with different content.*set/sub/1\.bin.*Nothing was sent"):
        send(store, source)
    assert {name: store.read(name) for name in store.files()} == before, "nothing was sent, not even the new file"
    view, there = send(store, source, overwrite=True)
    assert (view.files, there) == (2, 3)
    assert store.read("set/sub/1.bin") == (source / "sub/1.bin").read_bytes() and store.read("set/new") == b"new"


def test_uploading_twice_creates_no_nested_folder(store: Datastore, source: Path) -> None:
    send(store, source)
    (source / "later").write_text("x")
    send(store, source)
    assert len(store.files()) == 5 and not any("source" in name for name in store.files())


def test_a_listing_is_never_stale(server: Server, store: Datastore, source: Path) -> None:
    send(store, source)
    assert len(store.files("set")) == 4 and store.folders("set")
    other = stores.make(server.node)
    other.write("set/from elsewhere", b"1")
    other.remove("set/empty")
    assert "set/from elsewhere" in store.files("set") and "set/empty" not in store.files("set")
    assert store.find("set/empty") is None and "from elsewhere" in store.folders("set")
    other.write("set/from elsewhere", b"22")
    found = store.find("set/from elsewhere")
    assert found is not None and found.size == 2 and store.files("set")["set/from elsewhere"].size == 2


def test_a_token_changes_with_the_content(store: Datastore) -> None:
    store.write("a", b"1" * 10)
    first = store.files()["a"]
    assert first == store.find("a") and first.token
    store.write("a", b"2" * 11)
    assert store.files()["a"] != first


def test_a_small_file_is_not_overwritten_with_only_new(store: Datastore) -> None:
    assert store.write("deep/er/x", b"one", only_new=True)
    assert not store.write("deep/er/x", b"two", only_new=True) and store.read("deep/er/x") == b"one"
    assert store.write("deep/er/x", b"three") and store.read("deep/er/x") == b"three"


def test_an_interrupted_transfer_leaves_no_file(
    server: Server, store: Datastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the network or Ctrl-C, within a file of several chunks; in Azure, also of several ranges."""
    chunk = (5 if server.kind == "s3" else 1) * 2**20  # S3 takes no smaller parts
    for module in (base, sys.modules[type(store).__module__]):
        monkeypatch.setattr(module, "CHUNK_BYTES", chunk, raising=False)
    monkeypatch.setattr(azure, "RANGE_BYTES", 2 * chunk)
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(5 * chunk // 2))

    def stop(count: int) -> None:
        raise InterruptedError

    with contextlib.suppress(DataError, InterruptedError):
        store.send(big, "set/big.bin", stop)
    assert store.find("set/big.bin") in (None, store.find("set/big.bin")) and (
        store.files("set") == {} or store.read("set/big.bin") == big.read_bytes()
    )
    store.send(big, "set/big.bin", lambda count: None)
    assert store.read("set/big.bin") == big.read_bytes() and list(store.files("set")) == ["set/big.bin"]
    target = tmp_path / "back" / "big.bin"
    with contextlib.suppress(DataError, InterruptedError):
        target.parent.mkdir()
        with transfer.arriving(target) as file:
            store.fetch("set/big.bin", file, stop)
            raise InterruptedError
    assert list(target.parent.iterdir()) == []


def test_names_cannot_leave_the_root(store: Datastore) -> None:
    for name in ("../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(ConfigError, match="not a name inside a datastore"):
            store.read(name)


def test_an_asset_has_versions_by_content(store: Datastore, source: Path) -> None:
    entries, tokens, _ = transfer.upload(store, source, "set", False, Quiet())
    first, new = assets.register(store, "mine", "set", entries, tokens)
    again, new_again = assets.register(store, "mine", "set", entries, tokens)
    assert (first.number, new, again.number, new_again) == (1, True, 1, False) and first == again
    (source / "sub/0.bin").write_bytes(b"other")
    entries, tokens, _ = transfer.upload(store, source, "set2", False, Quiet())
    second, _ = assets.register(store, "mine", "set2", entries, tokens)
    assert second.number == 2 and second.version != first.version
    assert assets.names(store) == ["mine"] and assets.find(store, "mine") == second
    assert assets.find(store, "mine", 1) == first == assets.find(store, "mine", first.version[:8])
    assert assets.manifest(store, first) == sorted(assets.manifest(store, first), key=lambda entry: entry.path)
    assert assets.seen(store, second) == {
        name.removeprefix("set2/"): f.token for name, f in store.files("set2").items()
    }
    with pytest.raises(MissingDataError, match=r"has no version 7\. It has: 1 .*, 2 "):
        assets.get(store, "mine", 7)
    with pytest.raises(MissingDataError, match=r"no asset 'mime'.*Did you mean 'mine'"):
        assets.get(store, "mime")
    assert not any(name.startswith(".labrun") for name in store.files()) and ".labrun/" not in store.folders()
    assets.unregister(store, first)
    assert assets.versions(store, "mine") == [second]
    store.write(
        f".labrun/manifests/{second.version}.json", b'[{"path": "../x", "size": 1, "sha256": "' + b"0" * 64 + b'"}]'
    )
    with pytest.raises((CorruptDataError, ConfigError)):
        assets.manifest(store, second)


def test_equal_content_elsewhere_is_the_same_version(store: Datastore, source: Path) -> None:
    for target in ("one", "two"):
        entries, tokens, _ = transfer.upload(store, source, target, False, Quiet())
        asset, new = assets.register(store, "mine", target, entries, tokens)
        assert asset.number == 1 and new == (target == "one")
    assert assets.get(store, "mine").path == "two"
