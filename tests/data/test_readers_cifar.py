"""CIFAR-10: the real files, damaged ones, the user's own, and malicious pickles."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labrun.data.readers import Cifar10
from labrun.data.readers.cifar import CHECKSUMS, FOLDER
from labrun.errors import CorruptDataError, MissingDataError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Call:
    """Pickles as a call: whoever unpickles it without care makes the call, and gives the result a state."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args, self.state


def link_all(source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in CHECKSUMS:
        (folder / name).symlink_to(source / name)
    return folder


def own_batch(count: int = 2, labels: list[int] | None = None) -> dict[str, Any]:
    pixels = np.arange(count * 3072, dtype=np.uint32).reshape(count, 3072) % 251
    return {"data": pixels.astype(np.uint8), "labels": labels or list(range(count))}


def write_own_set(folder: Path, protocol: int = 4, **replaced: Any) -> Path:
    """Small batches in CIFAR's format; keywords replace a file's content, such as `data_batch_2` or `meta`."""
    folder.mkdir(parents=True)
    for name in CHECKSUMS:
        content: Any = {"label_names": NAMES} if name == "batches.meta" else own_batch()
        content = replaced.get(name.removeprefix("batches."), content)
        (folder / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return folder


@pytest.fixture(scope="module")
def batches(real_data: Path) -> Path:
    return real_data / FOLDER


def test_the_real_files_are_read(real_data: Path) -> None:
    reader = Cifar10()
    assert reader.find(real_data)
    raw = reader.read(real_data)
    assert raw.test is not None
    assert raw.train.x.shape == (50_000, 3, 32, 32) and raw.test.x.shape == (10_000, 3, 32, 32)
    assert raw.train.x.dtype == np.uint8 and raw.train.y.dtype == np.int64
    assert np.bincount(raw.train.y).tolist() == [5_000] * 10
    assert np.bincount(raw.test.y).tolist() == [1_000] * 10
    assert raw.class_names == tuple(NAMES)
    assert {path.name for path in raw.files} == set(CHECKSUMS)


def test_channels_and_rows_have_the_published_layout(batches: Path) -> None:
    raw = Cifar10().read(batches)
    with open(batches / "data_batch_2", "rb") as file:
        published = pickle.load(file, encoding="latin1")
    row = published["data"][7]
    assert raw.train.y[10_007] == published["labels"][7]
    assert raw.train.x[10_007, 0].ravel().tolist() == row[:1024].tolist()
    assert raw.train.x[10_007, 2, 5].tolist() == row[2048 + 5 * 32 : 2048 + 6 * 32].tolist()


@pytest.mark.parametrize("place", [".", FOLDER, "cifar10", f"cifar10/{FOLDER}"])
def test_the_batches_are_found_in_each_place(tmp_path: Path, place: str) -> None:
    write_own_set(tmp_path / "data" / place)
    assert Cifar10().find(tmp_path / "data")
    assert len(Cifar10(verify=False).read(tmp_path / "data").train) == 10


def test_an_altered_batch_is_named_with_both_checksums(batches: Path, tmp_path: Path) -> None:
    path = link_all(batches, tmp_path / FOLDER) / "data_batch_3"
    content = bytearray(path.read_bytes())
    content[20_000_000] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(CorruptDataError) as caught:
        Cifar10().read(tmp_path)
    found = hashlib.md5(content).hexdigest()
    assert f"{path} is not CIFAR-10's file" in str(caught.value)
    assert f"expected MD5 {CHECKSUMS['data_batch_3']}, found {found}" in str(caught.value)


def test_a_truncated_batch_is_named_even_without_verify(batches: Path, tmp_path: Path) -> None:
    path = link_all(batches, tmp_path / FOLDER) / "data_batch_1"
    with open(path, "rb") as file:
        head = file.read(100_000)
    path.unlink()
    path.write_bytes(head)
    for verify in (True, False):
        with pytest.raises(CorruptDataError, match=str(path)):
            Cifar10(verify=verify).read(tmp_path)


@pytest.mark.parametrize("absent", list(CHECKSUMS))
def test_an_incomplete_cifar_is_not_found_and_its_missing_batch_named(tmp_path: Path, absent: str) -> None:
    folder = write_own_set(tmp_path / FOLDER)
    (folder / absent).unlink()
    assert not Cifar10().find(tmp_path)
    with pytest.raises(MissingDataError, match=f"{folder} holds only a part of CIFAR-10; missing: {absent}$"):
        Cifar10().read(tmp_path)


def test_an_empty_folder_gives_advice_on_its_files(tmp_path: Path) -> None:
    assert not Cifar10().find(tmp_path)
    with pytest.raises(MissingDataError) as caught:
        Cifar10().read(tmp_path)
    assert all(str(tmp_path / FOLDER / name) in str(caught.value) for name in CHECKSUMS)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_users_own_files_are_read_without_verify(tmp_path: Path, protocol: int) -> None:
    raw = Cifar10(verify=False).read(write_own_set(tmp_path / FOLDER, protocol).parent)
    assert raw.test is not None and raw.train.x.shape == (10, 3, 32, 32)
    assert raw.test.x[1, 0, 0].tolist() == own_batch()["data"][1][:32].tolist()
    assert raw.test.y.tolist() == [0, 1] and raw.class_names == tuple(NAMES)


def test_a_users_own_files_are_refused_by_verify_with_advice(tmp_path: Path) -> None:
    write_own_set(tmp_path / FOLDER)
    with pytest.raises(CorruptDataError, match=r"data_batch_1 .*dataset\.verify=false"):
        Cifar10().read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data_batch_2", b""),
        ("data_batch_2", b"no pickle at all"),
        ("data_batch_2", [1, 2, 3]),
        ("data_batch_2", {"labels": [1, 2]}),
        ("data_batch_2", {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2, 3]}),
        ("data_batch_2", {"data": Call(np.dtype, "no such type"), "labels": []}),
        ("test_batch", own_batch(labels=[0, 10])),
        ("test_batch", own_batch(labels=[0, -1])),
        ("meta", {"names": NAMES}),
    ],
    ids=[
        "empty",
        "text",
        "list",
        "no data",
        "too many labels",
        "no such dtype",
        "class 10 of 10",
        "negative class",
        "no class names",
    ],
)
def test_malformed_batches_are_named_even_without_verify(tmp_path: Path, file: str, content: Any) -> None:
    write_own_set(tmp_path / FOLDER, **{file: content})
    with pytest.raises(CorruptDataError, match=file):
        Cifar10(verify=False).read(tmp_path)


ATTACKS: dict[str, Callable[[Path], Call]] = {
    "os.system": lambda target: Call(os.system, f"mkdir '{target}'"),
    "os.mkdir": lambda target: Call(os.mkdir, str(target)),
    "exec": lambda target: Call(exec, f"import os; os.mkdir({str(target)!r})"),
    "eval": lambda target: Call(eval, f"__import__('os').mkdir({str(target)!r})"),
    "subprocess": lambda target: Call(subprocess.call, ["mkdir", str(target)]),
    "numpy.save": lambda target: Call(np.save, str(target), 1),
}


def armed(attack: str, target: Path, protocol: int) -> bytes:
    """A harmful pickle that looks like a batch, proven to do harm where it is simply loaded."""
    proof = target.with_name("proof")
    pickle.loads(pickle.dumps(ATTACKS[attack](proof), protocol))
    assert list(target.parent.glob("proof*"))
    return pickle.dumps({**own_batch(), "batch_label": ATTACKS[attack](target)}, protocol)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("protocol", [0, 4])
def test_a_harmful_pickle_is_named_and_never_runs(tmp_path: Path, attack: str, protocol: int) -> None:
    target = tmp_path / "harm"
    content = armed(attack, target, protocol)
    for number, file in enumerate(["data_batch_1", "test_batch", "meta"]):
        root = tmp_path / f"set{number}"
        write_own_set(root / FOLDER, **{file: content})
        with pytest.raises(CorruptDataError, match=f"{file} cannot be read .* which no batch of CIFAR-10 does"):
            Cifar10(verify=False).read(root)
        with pytest.raises(CorruptDataError, match="expected MD5"):
            Cifar10().read(root)
    assert not list(tmp_path.glob("harm*"))


def test_a_forged_type_never_reaches_into_memory(tmp_path: Path) -> None:
    """A record of objects, said to hold none: NumPy would take any number in the file for an object's address."""
    fields = {"f0": (np.dtype("O"), 0)}
    forged = Call(np.dtype, "V8", state=(3, "|", None, ("f0",), fields, 8, 1, 0))
    rebuild, arguments, _ = np.zeros(1).__reduce__()
    data = Call(rebuild, *arguments, state=(1, (2,), forged, False, b"A" * 16))
    write_own_set(tmp_path / FOLDER, data_batch_1={"data": data, "labels": [0, 1]})
    code = "import pathlib, labrun.data.readers as r; r.Cifar10(verify=False).read(pathlib.Path('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "CorruptDataError" in done.stderr
