"""Image folders: all supported layouts, and mixtures that are refused until the config resolves them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Runner
from labrun.data import reader
from labrun.data.arrays import Arrays
from labrun.data.readers import ImageFolder
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError


def write(path: Path, value: int = 0, mode: str = "L", size: tuple[int, int] = (6, 4)) -> Path:
    """An image of one colour; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size, value)
    image.convert(mode).save(path)
    return path


def write_classes(folder: Path, mode: str = "L", first: int = 0, **counts: int) -> Path:
    """A folder per class; the images are numbered through by their value."""
    for name, count in counts.items():
        for number in range(count):
            write(folder / name / f"{number:03}.png", first, mode)
            first += 1
    return folder


def write_png(path: Path, width: int, height: int, depth: int, colour: int, rows: bytes) -> Path:
    """A PNG of a kind that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    return path


def read_split(root: Path, **config: Any) -> Arrays:
    return reader.read({"_target_": "labrun.data.readers.ImageFolder", "name": "own", **config}, root)


def values(x: np.ndarray) -> list[int]:
    return [int(sample.flat[0]) for sample in x]


def test_train_and_test_folders_are_read_with_the_classes_in_order(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", dog=2, cat=3)
    write_classes(tmp_path / "test", first=100, dog=1, cat=1)
    raw = ImageFolder().read(tmp_path)
    assert raw.test is not None and raw.validation is None
    assert raw.class_names == ("cat", "dog")
    assert raw.train.y.tolist() == [0, 0, 0, 1, 1] and values(raw.train.x) == [2, 3, 4, 0, 1]
    assert raw.test.y.tolist() == [0, 1] and values(raw.test.x) == [101, 100]
    assert raw.train.x.shape == (5, 1, 4, 6) and raw.train.x.dtype == np.uint8 and raw.train.y.dtype == np.int64
    assert len(raw.files) == 7 and raw.notes == ("7 images, 4x6, grey",)


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        ("Training", "Testing", "splits: Training (train), Testing (test)"),
        ("Train", "Test", "splits: Train (train), Test (test)"),
        ("TRAIN", "TEST", "splits: TRAIN (train), TEST (test)"),
        ("training_set", "test_set", "splits: training_set (train), test_set (test)"),
        ("seg_train/seg_train", "seg_test/seg_test", "splits: seg_train/seg_train (train), seg_test/seg_test (test)"),
        ("archive/train", "archive/test", "read below archive"),
        ("training", "evaluation", "splits: training (train), evaluation (test)"),
        ("train/train", "test", "splits: train/train (train), test (test)"),
    ],
)
def test_splits_with_other_names_and_in_subfolders_are_found(tmp_path: Path, train: str, test: str, told: str) -> None:
    write_classes(tmp_path / train, dog=2, cat=3)
    write_classes(tmp_path / test, first=100, dog=1, cat=1)
    write(tmp_path / "__MACOSX" / "train" / "x.png")
    raw = ImageFolder().read(tmp_path)
    assert raw.test is not None and raw.class_names == ("cat", "dog") and told in raw.notes
    assert values(raw.train.x) == [2, 3, 4, 0, 1] and values(raw.test.x) == [101, 100]


def test_folders_that_are_not_splits_are_left_out_and_reported(tmp_path: Path) -> None:
    write_classes(tmp_path / "seg_train" / "seg_train", cat=2, dog=2)
    write_classes(tmp_path / "seg_test", first=100, cat=1, dog=1)
    write(tmp_path / "seg_pred" / "seg_pred" / "a.png")
    write(tmp_path / "loose.png")
    write(tmp_path / "seg_test" / "loose.png")
    raw = ImageFolder().read(tmp_path)
    assert len(raw.train) == 4 and raw.test is not None and len(raw.test) == 2
    assert "left out: seg_pred, which do not have one folder per class" in raw.notes
    assert any("left out: 1 image directly in seg_test" in note for note in raw.notes)


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    write_classes(tmp_path, train=3, car=3, test=2)
    assert ImageFolder().read(tmp_path).class_names == ("car", "test", "train")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"A": "cd", "B": "cd"}, r"A, B hold no images themselves.*\(c, d\).*dataset.parts={train: A, test: B}"),
        ({"test": "cd", "valid": "cd"}, "dataset.parts={train: "),
        ({"train": "cd", "Training": "cd"}, "may each be the same split"),
        (
            {"train": "cd", "car": ""},
            r"train holds folders of images, and car images, too.*dataset.parts={train: train}",
        ),
        ({"X_test": "cd", "X_train": "cd"}, "dataset.parts={train: X_train, test: X_test}"),
        ({"train": "", "test": ""}, "test, train hold images, but no folder per class"),
        ({"Training": "", "valid": "", "testing": ""}, "hold images, but no folder per class"),
        ({"fold1": "cd", "fold2": "cde", "fold3": "cd"}, "fold1, fold2, fold3 hold no images themselves"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_refused(tmp_path: Path, folders: dict[str, str], words: str) -> None:
    for folder, classes in folders.items():
        for name in classes:
            write(tmp_path / folder / name / "0.png")
        if not classes:
            write(tmp_path / folder / "0.png")
    with pytest.raises(DataError, match=words) as caught:
        ImageFolder().read(tmp_path)
    assert "dataset.parts=false" in str(caught.value)
    raw = ImageFolder(parts=False).read(tmp_path)
    assert raw.class_names == tuple(sorted(folders)) and raw.test is None


def test_the_user_can_name_the_splits(tmp_path: Path) -> None:
    write_classes(tmp_path / "A", cat=2, dog=2)
    write_classes(tmp_path / "B", first=100, cat=1, dog=1)
    raw = ImageFolder(parts={"train": "B", "validation": "A"}).read(tmp_path)
    assert values(raw.train.x) == [100, 101] and raw.validation is not None and len(raw.validation) == 4
    with pytest.raises(MissingDataError, match=r"dataset\.parts\.test=C: .* is not a folder; there are A, B"):
        ImageFolder(parts={"train": "A", "test": "C"}).read(tmp_path)
    with pytest.raises(ConfigError, match="must give the folder of train"):
        ImageFolder(parts={"test": "A"}).read(tmp_path)


def test_the_suggested_key_works_as_typed(run_here: Runner, workspace: Path) -> None:
    write_classes(workspace / "p" / "A", cat=12, dog=12)
    write_classes(workspace / "p" / "B", first=100, cat=1, dog=1)
    common = ("dataset=image_folder", f"datastore.root={workspace}/p", "report=none")
    with pytest.raises(DataError, match="dataset.parts"):
        run_here(*common)
    record, _ = run_here(*common, "dataset.parts={train: A, test: B}")
    assert (record.data[0].train, record.data[0].test) == (24, 2)
    record, _ = run_here(*common, "dataset.parts=false")
    assert record.data[0].class_names == ["A", "B"]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_not_split_further(tmp_path: Path, name: str) -> None:
    write_classes(tmp_path / "train", cat=3, dog=3)
    write_classes(tmp_path / name, first=50, cat=1, dog=1)
    write_classes(tmp_path / "test", first=100, cat=1, dog=1)
    arrays = read_split(tmp_path, validation_size=0.5)
    assert arrays.validation is not None and values(arrays.validation.x) == [50, 51]
    assert len(arrays.train) == 6 and values(arrays.test.x) == [100, 101]


def test_train_without_test_is_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", cat=10, dog=10)
    arrays = read_split(tmp_path, test_size=0.2)
    assert len(arrays.train) == 16 and np.bincount(arrays.test.y).tolist() == [2, 2]


def test_classes_alone_are_split_by_the_seed_in_proportion(tmp_path: Path) -> None:
    write_classes(tmp_path, cat=40, dog=20)
    first, again, other = (
        read_split(tmp_path, test_size=0.25, validation_size=0.2, split_seed=seed) for seed in (3, 3, 4)
    )
    assert first.validation is not None
    assert np.bincount(first.test.y).tolist() == [10, 5]
    assert np.bincount(first.validation.y).tolist() == [6, 3] and np.bincount(first.train.y).tolist() == [24, 12]
    parts = values(first.train.x) + values(first.validation.x) + values(first.test.x)
    assert sorted(parts) == list(range(60))
    assert values(first.test.x) == values(again.test.x) and values(first.train.x) == values(again.train.x)
    assert values(first.test.x) != values(other.test.x)


def test_a_path_gives_the_folder(tmp_path: Path) -> None:
    write_classes(tmp_path / "pets" / "small", cat=1, dog=1)
    for path in ("pets/small", str(tmp_path / "pets" / "small")):
        assert ImageFolder(path=path).find(tmp_path)
        assert len(ImageFolder(path=path).read(tmp_path).train) == 2


def test_colour_images_keep_their_channels(tmp_path: Path) -> None:
    write_classes(tmp_path, mode="RGB", cat=1, dog=1)
    Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "dog" / "000.png")
    raw = ImageFolder().read(tmp_path)
    assert raw.train.x.shape == (2, 3, 4, 6) and raw.notes == ("2 images, 4x6, colour",)
    assert raw.train.x[1, :, 3, 5].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"])
def test_each_kind_of_file_is_read(tmp_path: Path, suffix: str) -> None:
    write_classes(tmp_path, cat=1)
    write(tmp_path / "dog" / f"a.{suffix}", 200)
    raw = ImageFolder(channels=1).read(tmp_path)
    assert len(raw.train) == 2 and abs(int(raw.train.x[1].mean()) - 200) <= 2


def test_mixed_sizes_are_refused_with_counts_and_an_example_then_resized(tmp_path: Path) -> None:
    write_classes(tmp_path, cat=2, dog=2)
    large = write(tmp_path / "dog" / "large.png", 9, size=(30, 20))
    with pytest.raises(DataError, match=r"4x6: 4 files, such as .*; 20x30: 1 file, such as .*large\.png") as caught:
        ImageFolder().read(tmp_path)
    assert str(large) in str(caught.value) and "dataset.image_size=" in str(caught.value)
    for size, shape in ((8, (5, 1, 8, 8)), ([4, 6], (5, 1, 4, 6))):
        raw = ImageFolder(image_size=size).read(tmp_path)
        assert raw.train.x.shape == shape and (raw.train.x[4] == 9).all()
        assert f"resized: {5 if size == 8 else 1} images" in raw.notes


def test_grey_mixed_with_colour_is_refused_with_counts_then_converted(tmp_path: Path) -> None:
    write_classes(tmp_path, cat=2, dog=1)
    colour = write(tmp_path / "dog" / "colour.png", 50, "RGB")
    with pytest.raises(DataError, match="3 of 4 images are grey and 1 are in colour") as caught:
        ImageFolder().read(tmp_path)
    assert str(colour) in str(caught.value)
    assert "dataset.channels=1 or dataset.channels=3" in str(caught.value)
    for channels, note in ((1, "converted to L: 1 RGB"), (3, "converted to RGB: 3 L")):
        raw = ImageFolder(channels=channels).read(tmp_path)
        assert raw.train.x.shape == (4, channels, 4, 6) and (raw.train.x[3] == 50).all()
        assert note in raw.notes


def test_other_colour_modes_are_converted_and_reported(tmp_path: Path) -> None:
    write_classes(tmp_path, mode="RGBA", cat=2)
    write_classes(tmp_path, mode="P", first=90, dog=1)
    raw = ImageFolder().read(tmp_path)
    assert raw.train.x.shape == (3, 3, 4, 6) and values(raw.train.x) == [0, 1, 90]
    assert raw.notes[1] == "converted to RGB: 2 RGBA, 1 P"


@pytest.mark.parametrize("mode", ["1", "LA"])
def test_other_grey_modes_are_converted_and_reported(tmp_path: Path, mode: str) -> None:
    write_classes(tmp_path, mode=mode, first=255, cat=1)
    write_classes(tmp_path, dog=1)
    raw = ImageFolder().read(tmp_path)
    assert values(raw.train.x) == [255, 0] and raw.notes[1] == f"converted to L: 1 {mode}"


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_part_with_other_classes_is_refused_with_their_names(tmp_path: Path, part: str) -> None:
    write_classes(tmp_path / "train", cat=1, dog=1)
    write_classes(tmp_path / part, cat=1, cow=1)
    with pytest.raises(DataError, match=rf"{part} are not .* missing \['dog'\], unknown \['cow'\]"):
        ImageFolder().read(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, cat=1, dog=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=f"{tmp_path / 'empty'} holds no image"):
        ImageFolder().read(tmp_path)


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 0 class folders; a classifier needs at least two"):
        ImageFolder().read(tmp_path)
    write_classes(tmp_path, cat=2)
    with pytest.raises(DataError, match="holds 1 class folder: cat; a classifier needs at least two"):
        ImageFolder().read(tmp_path)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "pixels altered", "impossible size"])
def test_a_corrupt_image_is_named(tmp_path: Path, damage: str) -> None:
    path = write_classes(tmp_path, cat=2, dog=2) / "dog" / "001.png"
    noise = np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    start = content.index(b"IDAT") + 8
    altered = content[:start] + b"\xff" * 8 + content[start + 8 :]
    path.write_bytes({"text": b"no image", "cut": content[:start], "pixels altered": altered}.get(damage, b""))
    if damage == "impossible size":
        write_png(path, 100_000, 100_000, depth=8, colour=0, rows=b"")
    with pytest.raises(CorruptDataError, match=f"{path} cannot be read as an image"):
        ImageFolder(image_size=4).read(tmp_path)


@pytest.mark.parametrize(("kind", "colour", "samples"), [("grey", 0, 1), ("colour", 2, 3)])
def test_a_png_of_16_bits_is_refused(tmp_path: Path, kind: str, colour: int, samples: int) -> None:
    write_classes(tmp_path, cat=1, dog=1)
    row = b"\0" + struct.pack(">H", 0x1234) * 6 * samples
    path = write_png(tmp_path / "dog" / f"{kind}.png", 6, 4, depth=16, colour=colour, rows=row * 4)
    with pytest.raises(DataError, match=f"{path} has .* pixels; labrun reads 8-bit"):
        ImageFolder(channels=1).read(tmp_path)


def test_hidden_and_foreign_files_and_folders_are_ignored(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", cat=1, dog=1)
    for name in (".cache", "__pycache__", "__MACOSX"):
        write(tmp_path / "train" / name / "a.png")
    write(tmp_path / "train" / "loose.png", size=(99, 99))
    (tmp_path / "train" / "cat" / "README.md").write_text("cats")
    (tmp_path / "train" / "cat" / "boxes.json").write_text("{}")
    raw = ImageFolder().read(tmp_path)
    assert raw.class_names == ("cat", "dog") and len(raw.train) == 2


def test_hidden_files_and_folders_within_a_class_are_ignored(tmp_path: Path) -> None:
    write_classes(tmp_path, cat=1, dog=1)
    write(tmp_path / "dog" / ".ipynb_checkpoints" / "000-checkpoint.png")
    (tmp_path / "dog" / "._000.png").write_bytes(b"\0\x05\x16\x07 what macOS leaves on foreign disks")
    assert len(ImageFolder().read(tmp_path).train) == 2


def test_images_in_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    write_classes(tmp_path, cat=1, dog=1)
    write(tmp_path / "dog" / "small" / "brown" / "a.png")
    assert ImageFolder().read(tmp_path).train.y.tolist() == [0, 1, 1]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder = ImageFolder(path="pets")
    assert not folder.find(tmp_path)
    with pytest.raises(MissingDataError, match=rf"{tmp_path / 'pets'} is not a folder.*dataset\.path"):
        folder.read(tmp_path)


def test_an_image_size_of_three_numbers_is_refused() -> None:
    with pytest.raises(DataError, match="expected a number, or two"):
        ImageFolder(image_size=[1, 2, 3])


def test_a_class_folder_with_a_name_outside_utf8_is_read(tmp_path: Path, run_here: Runner) -> None:
    """Its name is written with an escape: records and models hold Unicode alone."""
    strange = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_classes(tmp_path / "images", dog=5, **{strange: 5})
    record, _ = run_here("dataset=image_folder", "dataset.path=images", "datastore.root=.", "dataset.test_size=0.4")
    assert record.status == "completed"
    assert record.data[0].class_names == ["caf\\udce9", "dog"]
