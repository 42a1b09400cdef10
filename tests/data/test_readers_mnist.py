"""MNIST and Fashion-MNIST: all locations and names of the files, and all kinds of damage."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labrun.data.readers import FashionMnist, Mnist
from labrun.data.readers.idx import FASHION_GZ, FILES, MNIST_GZ, MNIST_RAW
from labrun.errors import CorruptDataError, MissingDataError

IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = FILES


def link(source: Path, target: Path, names: Iterable[str]) -> Path:
    """A folder with links to some files of another."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / name).symlink_to(source / name)
    return target


def replace(path: Path, content: bytes) -> bytes:
    """Replace a link by a file, without touching the link's target."""
    path.unlink()
    path.write_bytes(content)
    return content


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def flip_byte(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def idx(values: Any) -> bytes:
    """The bytes of an idx file."""
    array = np.asarray(values, np.uint8)
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_own_set(folder: Path, **replaced: bytes) -> Path:
    """Six training and four test images of 5x7 pixels; keywords replace a part, such as `train_labels`."""
    images = np.arange(10 * 35).reshape(10, 5, 7) % 256
    parts = {
        "train_images": idx(images[:6]),
        "train_labels": idx([0, 1, 2, 3, 4, 5]),
        "t10k_images": idx(images[6:]),
        "t10k_labels": idx([9, 8, 7, 6]),
    } | replaced
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(FILES, ("train_images", "train_labels", "t10k_images", "t10k_labels"), strict=True):
        (folder / name).write_bytes(parts[part])
    return folder


@pytest.fixture(scope="module")
def packed(real_data: Path) -> Path:
    return real_data / "mnist"


@pytest.fixture(scope="module")
def unpacked(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnist_raw")
    for name in FILES:
        (folder / name).write_bytes(gzip.decompress((packed / f"{name}.gz").read_bytes()))
    return folder


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as Fashion-MNIST's are, unpacked, with other pixels."""
    folder, rng = tmp_path_factory.mktemp("clothes"), np.random.default_rng(0)
    for images, labels, count in ((IMAGES, LABELS, 60_000), (TEST_IMAGES, TEST_LABELS, 10_000)):
        (folder / images).write_bytes(idx(rng.integers(0, 256, (count, 28, 28), np.uint8)))
        (folder / labels).write_bytes(idx(np.arange(count) % 10))
    return folder


def check_is_mnist(root: Path, reader: Mnist | None = None) -> None:
    reader = reader or Mnist()
    assert reader.find(root)
    raw = reader.read(root)
    assert raw.test is not None
    assert raw.train.x.shape == (60_000, 1, 28, 28) and raw.test.x.shape == (10_000, 1, 28, 28)
    assert raw.train.x.dtype == np.uint8 and raw.train.y.dtype == np.int64
    assert np.bincount(raw.train.y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(raw.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert md5(idx(raw.train.x[:, 0])) == MNIST_RAW[IMAGES] and md5(idx(raw.test.y)) == MNIST_RAW[TEST_LABELS]
    assert raw.class_names == tuple("0123456789") and len(raw.files) == 4 and raw.notes == ()


PLACES = (".", "mnist", "MNIST/raw")


@pytest.mark.parametrize("form", ["packed", "unpacked"])
def test_mnist_is_found_in_each_place(packed: Path, unpacked: Path, tmp_path: Path, form: str) -> None:
    """The real files in one place; in the others, small ones, of which only the place and the form matter."""
    if form == "packed":
        link(packed, tmp_path / "real" / "mnist", [f"{name}.gz" for name in FILES])
    else:
        link(unpacked, tmp_path / "real" / "mnist", FILES)
    check_is_mnist(tmp_path / "real")
    for number, place in enumerate(PLACES):
        folder = write_own_set(tmp_path / str(number) / place)
        for name in FILES if form == "packed" else ():
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
        assert Mnist().find(tmp_path / str(number))
        raw = Mnist(verify=False).read(tmp_path / str(number))
        assert raw.train.x.shape == (6, 1, 5, 7) and {path.parent for path in raw.files} == {folder}


def test_packed_and_unpacked_files_of_other_names_may_be_mixed(packed: Path, unpacked: Path, tmp_path: Path) -> None:
    for name in ("train-images", "train-images.idx3-ubyte"):
        folder = link(unpacked, tmp_path / name, [LABELS, TEST_LABELS])
        (folder / f"{name}.gz").symlink_to(packed / f"{IMAGES}.gz")
        (folder / name.replace("train", "t10k")).symlink_to(unpacked / TEST_IMAGES)
        assert Mnist().find(folder)
    check_is_mnist(folder)
    own = write_own_set(tmp_path / "own")
    (own / "train-images.gz").write_bytes(gzip.compress((own / IMAGES).read_bytes()))
    (own / IMAGES).unlink()
    (own / TEST_IMAGES).rename(own / "t10k-images")
    raw = Mnist(verify=False).read(own)
    assert raw.test is not None and raw.train.x.shape == (6, 1, 5, 7) and raw.test.x.shape == (4, 1, 5, 7)


def test_packed_files_with_short_names_are_found(tmp_path: Path) -> None:
    for name in FILES:
        path = write_own_set(tmp_path / "own") / name
        (tmp_path / f"{name.split('-idx')[0]}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert Mnist().find(tmp_path)
    raw = Mnist(verify=False).read(tmp_path)
    assert raw.test is not None and raw.train.x.shape == (6, 1, 5, 7) and raw.test.y.tolist() == [9, 8, 7, 6]


def test_recompressed_files_are_accepted_by_their_content(unpacked: Path, tmp_path: Path) -> None:
    link(unpacked, tmp_path, [IMAGES])  # packing the largest file again takes long and tells no more
    for name in FILES[1:]:
        content = gzip.compress((unpacked / name).read_bytes(), compresslevel=0)
        assert md5(content) != MNIST_GZ[name]
        (tmp_path / f"{name}.gz").write_bytes(content)
    check_is_mnist(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "altered", "other content"])
def test_a_damaged_packed_file_is_named_with_both_checksums(packed: Path, tmp_path: Path, damage: str) -> None:
    folder = link(packed, tmp_path / "mnist", [f"{name}.gz" for name in FILES])
    name = TEST_IMAGES if damage == "altered" else IMAGES
    path = folder / f"{name}.gz"
    content = path.read_bytes()
    if damage == "other content":
        content = gzip.compress(idx(np.zeros((10, 28, 28))), compresslevel=1)
    else:
        content = content[:1_000_000] if damage == "cut" else flip_byte(content, 1_000_000)
    replace(path, content)
    with pytest.raises(CorruptDataError) as caught:
        Mnist().read(tmp_path)
    message = str(caught.value)
    assert str(path) in message and f"expected MD5 {MNIST_GZ[name]}" in message
    assert f"found {md5(content)}" in message and f"{len(content):,} bytes" in message


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_a_damaged_unpacked_file_is_named_with_both_checksums(unpacked: Path, tmp_path: Path, damage: str) -> None:
    path = link(unpacked, tmp_path, FILES) / TEST_IMAGES
    content = path.read_bytes()
    content = replace(path, content[:-1] if damage == "cut" else flip_byte(content, 5_000_000))
    with pytest.raises(CorruptDataError) as caught:
        Mnist().read(tmp_path)
    assert str(path) in str(caught.value)
    assert f"expected MD5 {MNIST_RAW[TEST_IMAGES]}, found {md5(content)}" in str(caught.value)


def test_an_empty_packed_file_is_named(packed: Path, tmp_path: Path) -> None:
    path = link(packed, tmp_path, [f"{name}.gz" for name in FILES]) / f"{LABELS}.gz"
    replace(path, b"")
    with pytest.raises(CorruptDataError, match=f"{LABELS}.*expected MD5 {MNIST_GZ[LABELS]}"):
        Mnist().read(tmp_path)


@pytest.mark.parametrize("form", ["packed", "unpacked", "packed again"])
def test_mnist_given_as_fashion_mnist_is_recognised(packed: Path, unpacked: Path, tmp_path: Path, form: str) -> None:
    if form == "unpacked":
        link(unpacked, tmp_path, FILES)
    else:
        link(packed, tmp_path, [f"{name}.gz" for name in FILES])
    if form == "packed again":
        replace(tmp_path / f"{IMAGES}.gz", gzip.compress((unpacked / IMAGES).read_bytes(), compresslevel=0))
    with pytest.raises(CorruptDataError, match=rf"{IMAGES}.* is a file of MNIST, not of Fashion-MNIST") as caught:
        FashionMnist().read(tmp_path)
    assert "dataset=mnist" in str(caught.value)


def test_unpacked_fashion_mnist_is_read_and_reported_as_unchecked(clothes: Path, tmp_path: Path) -> None:
    for number, place in enumerate((".", "fashion_mnist", "FashionMNIST/raw")):
        link(clothes, tmp_path / str(number) / place, FILES)
        assert FashionMnist().find(tmp_path / str(number))
        assert {path.parent for path in FashionMnist().files(tmp_path / str(number))} == {
            tmp_path / str(number) / place
        }
    raw = FashionMnist().read(tmp_path / str(number))
    assert raw.test is not None and len(raw.train) == 60_000 and len(raw.test) == 10_000
    assert raw.class_names[9] == "Ankle boot" and raw.train.y[:3].tolist() == [0, 1, 2]
    assert len(raw.notes) == 4 and "no checksum is published" in raw.notes[0] and IMAGES in raw.notes[0]


def test_truncated_files_of_fashion_mnist_are_named(clothes: Path, tmp_path: Path) -> None:
    path = link(clothes, tmp_path, FILES) / TEST_IMAGES
    replace(path, path.read_bytes()[:-10])
    with pytest.raises(CorruptDataError, match=r"t10k-images.* declares 7,840,000 values .* but 7,839,990 follow"):
        FashionMnist().read(tmp_path)


def test_a_packed_fashion_mnist_of_other_content_is_refused(clothes: Path, tmp_path: Path) -> None:
    path = link(clothes, tmp_path, [name for name in FILES if name != LABELS]) / f"{LABELS}.gz"
    path.write_bytes(gzip.compress((clothes / LABELS).read_bytes()))
    with pytest.raises(CorruptDataError, match=f"{path.name}.*expected MD5 {FASHION_GZ[LABELS]}"):
        FashionMnist().read(tmp_path)


@pytest.mark.parametrize("absent", FILES)
def test_an_incomplete_mnist_is_not_found_and_its_missing_file_named(tmp_path: Path, absent: str) -> None:
    write_own_set(tmp_path / "mnist")
    (tmp_path / "mnist" / absent).unlink()
    assert not Mnist().find(tmp_path)
    with pytest.raises(MissingDataError, match=f"only a part of MNIST; missing: {absent} ") as caught:
        Mnist().read(tmp_path)
    assert str(tmp_path / "mnist") in str(caught.value)


def test_an_empty_folder_is_not_found_and_the_needed_files_are_named(tmp_path: Path) -> None:
    assert not Mnist().find(tmp_path)
    with pytest.raises(MissingDataError, match=f"MNIST is not in {tmp_path}") as caught:
        Mnist().read(tmp_path)
    assert all(str(tmp_path / "mnist" / f"{name}.gz") in str(caught.value) for name in FILES)


def test_a_users_own_files_are_read_only_without_verify(tmp_path: Path) -> None:
    raw = Mnist(verify=False).read(write_own_set(tmp_path))
    assert raw.test is not None and raw.train.x.shape == (6, 1, 5, 7) and raw.test.y.tolist() == [9, 8, 7, 6]
    assert raw.train.x[1, 0, 0].tolist() == list(range(35, 42))
    with pytest.raises(CorruptDataError, match=r"dataset\.verify=false"):
        Mnist().read(tmp_path)
    with pytest.raises(CorruptDataError, match=r"expected 60,000 images of 28x28, found \(6, 1, 5, 7\)"):
        FashionMnist().read(tmp_path)


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("train_labels", idx([0, 1]), "holds 6 images, and its labels file 2 labels"),
        ("train_labels", idx([0, 1, 2, 3, 4, 10]), "holds class 10; allowed are 0 to 9"),
        ("t10k_images", idx(np.zeros((4, 35))), "t10k-images.* not an idx file of uint8 with 3 dimension"),
        ("t10k_images", b"\0\0\x08", "t10k-images.* not an idx file"),
        ("train_images", idx(np.zeros((6, 5, 7))) + b"!", "train-images.* declares 210 values .* but 211 follow"),
    ],
)
def test_malformed_files_are_named_even_without_verify(tmp_path: Path, part: str, content: bytes, message: str) -> None:
    write_own_set(tmp_path, **{part: content})
    with pytest.raises(CorruptDataError, match=message):
        Mnist(verify=False).read(tmp_path)
