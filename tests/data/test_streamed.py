"""Samples streamed from disk: batches identical to those from memory, the same checks, and the automatic choice."""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import spawned
from labrun.config.schema import Compute
from labrun.data import loading, memory, reader, streamed
from labrun.data.arrays import Arrays, Part, Scaling
from labrun.errors import ConfigError, CorruptDataError, DataError

MUCH = memory.Limit(2**40, "the machine's")
READERS = "labrun.data.readers"


def write_classes(folder: Path, mode: str = "L", first: int = 0, **counts: int) -> None:
    """A folder per class; the images, 6 wide and 4 high, are numbered through by their value."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (6, 4), first).convert(mode).save(folder / name / f"{number:03}.png")
            first += 1


def read(kind: str, root: Path, in_memory: bool | str, **config: Any) -> Arrays:
    node = {"_target_": f"{READERS}.{kind}", "name": "own", "in_memory": in_memory, **config}
    return reader.read(node, root, limit=MUCH)


def both(kind: str, root: Path, **config: Any) -> tuple[Arrays, Arrays]:
    return read(kind, root, True, **config), read(kind, root, False, **config)


def assert_alike(held: Arrays, streams: Arrays) -> None:
    assert streams.are_streamed and not held.are_streamed
    assert (streams.class_names, streams.notes, streams.input_shape) == (
        held.class_names,
        held.notes,
        held.input_shape,
    )
    for name in ("train", "validation", "test"):
        one, other = getattr(held, name), getattr(streams, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert other.x.shape == one.x.shape and other.x.dtype == one.x.dtype
            assert np.array_equal(other.x[:], one.x) and np.array_equal(other.y, one.y)


def test_a_folder_is_split_and_limited_as_in_memory(tmp_path: Path) -> None:
    write_classes(tmp_path / "one", cat=30, dog=20)
    assert_alike(*both("ImageFolder", tmp_path / "one", validation_size=0.2, split_seed=3))
    write_classes(tmp_path / "parts" / "train", mode="RGB", cat=12, dog=9)
    write_classes(tmp_path / "parts" / "test", first=100, cat=2, dog=3)
    assert_alike(*both("ImageFolder", tmp_path / "parts", image_size=[5, 7], channels=3, max_samples=10))


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_those_in_memory(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CHUNK_BYTES", 3000)  # several chunks, and several pieces of each
    monkeypatch.setattr(loading, "PIECE_BYTES", 150)
    write_classes(tmp_path, cat=40, dog=33)
    held, streams = both("ImageFolder", tmp_path)
    given: dict[str, Any] = {"shuffle": True, "seed": 7, "augmentation": loading.RandomFlip()}
    scaling = Scaling(255.0, (0.5,), (0.25,))
    one = loading.make_loader(held.train, scaling, 8, **given)
    other = loading.make_loader(streams.train, scaling, 8, workers=workers, **given)
    assert len(one) == len(other) and isinstance(other, loading.StreamedLoader)
    before = torch.get_rng_state()
    for epoch in (0, 1):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        for (x, y), (same_x, same_y) in zip(one, other, strict=True):
            assert torch.equal(x, same_x) and torch.equal(y, same_y)
    assert torch.equal(before, torch.get_rng_state()), "reading does not draw from the training's generator"
    left = iter(other)
    first = [next(left) for _ in range(3)]
    resumed = loading.make_loader(streams.train, scaling, 8, workers=workers, **given)
    resumed.set_epoch(1)
    resumed.load_state_dict(other.state_dict())
    assert torch.equal(next(iter(resumed))[1], list(other)[len(first)][1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((5,), "f8"), ((5,), ">f4"), ((4, 6), "u1"), ((6, 5, 3), "u1"), ((3, 4, 5), "i2")]
)
def test_streamed_arrays_equal_those_in_memory(tmp_path: Path, save: Any, shape: tuple[int, ...], dtype: str) -> None:
    drawn = np.random.default_rng(0).normal(100, 50, (60, *shape)).clip(0, 255)
    labels = np.array(["a", "b", "c"])[np.arange(60) % 3]
    save(
        tmp_path / "d.npz",
        X_train=drawn.astype(dtype),
        y_train=labels,
        X_test=drawn[:9].astype(dtype),
        y_test=labels[:9],
    )
    assert_alike(*both("Npz", tmp_path, path="d.npz", validation_size=0.2))
    assert not list(tmp_path.glob("outputs/.labrun/*")), "unpacked files have no name"


def test_damaged_files_are_reported_as_in_memory(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
    bad = x.copy()
    bad[7, 1] = np.nan
    far = np.column_stack([x, 1.7e9 + np.arange(50)])
    np.savez(tmp_path / "far.npz", X=far, y=y)
    held, streams = both("Npz", tmp_path, path="far.npz")
    assert "hardly tell apart the values" in streams.notes[0] and held.notes == streams.notes
    np.savez(tmp_path / "bad.npz", X=bad, y=y)
    told = []
    for in_memory in (True, False):
        with pytest.raises(DataError) as caught:
            read("Npz", tmp_path, in_memory, path="bad.npz")
        told.append(str(caught.value))
    assert told[0] == told[1] and "NaN or infinity: 1 values, in columns 1" in told[0]
    np.savez(tmp_path / "turned.npz", X=np.asfortranarray(x), y=y)
    with pytest.raises(DataError, match="by columns.*ascontiguousarray"):
        read("Npz", tmp_path, False, path="turned.npz")
    np.savez(tmp_path / "objects.npz", X=x, y=np.array([{}] * 50))
    for in_memory in (True, False):
        with pytest.raises(CorruptDataError, match="holds Python objects"):
            read("Npz", tmp_path, in_memory, path="objects.npz")
    whole = (tmp_path / "far.npz").read_bytes()
    (tmp_path / "hit.npz").write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    with pytest.raises(CorruptDataError, match="not a readable .npz file: Bad CRC-32"):
        read("Npz", tmp_path, False, path="hit.npz")


def assert_same_table(held: Arrays, streams: Arrays) -> None:
    read_as = "read as Parquet"
    assert streams.notes == tuple(note for note in held.notes if not note.startswith(read_as))
    assert streams.table == held.table
    assert_alike(dataclasses.replace(held, notes=()), dataclasses.replace(streams, notes=()))


def test_a_parquet_table_is_read_as_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "patient_id": rng.permutation(300) + 5000,
            "count": rng.integers(0, 9, 300),
            "size": rng.normal(size=300).astype(np.float32),
            "time": 1.7e9 + np.arange(300) / 7,
            "smokes": rng.random(300) < 0.5,
            "always": 1,
            "row": np.arange(300),
            "gone": np.full(300, np.nan),
            "site": ["a", "b", "c"] * 100,
            "label": np.where(np.arange(300) % 50 == 7, None, np.array(["10", "9", "x"])[rng.integers(0, 3, 300)]),
            "dose": np.where(np.arange(300) % 60 == 7, np.nan, rng.normal(size=300)),
        }
    )
    table.to_parquet(tmp_path / "t.parquet", row_group_size=64)
    given = {"path": "t.parquet", "ignore": ["site", "dose"], "target": "label", "validation_size": 0.1}
    held, streams = both("Csv", tmp_path, **given)
    assert_same_table(held, streams)
    assert streams.class_names == ("10", "9", "x") and list(held.table.left_out) == list(streams.table.left_out)
    assert {"looks like an id", "without any value", "ignored"} == set(streams.table.left_out.values())
    quantity = {"path": "t.parquet", "ignore": ["site", "label"], "target": "dose", "regression": True}
    assert_same_table(*both("Csv", tmp_path, **quantity))
    table[:200].to_parquet(tmp_path / "a.parquet")
    table[200:].to_parquet(tmp_path / "b.parquet")
    parts = {**given, "path": "a.parquet", "test_path": "b.parquet"}
    assert_same_table(*both("Csv", tmp_path, **parts))
    whole = {"path": "n.parquet", "target": "count", "ignore": []}
    table[["count", "size"]].to_parquet(tmp_path / "n.parquet")
    assert_same_table(*both("Csv", tmp_path, **whole))


def test_unsupported_content_of_a_streamed_table_is_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": np.arange(30) % 7, "word": ["u", "v", "w"] * 10, "y": ["p", "q"] * 15})
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"the columns word hold text.*dataset.ignore=\[word\]"):
        read("Csv", tmp_path, False, path="t.parquet")
    table["a"] = table["a"].where(table.index != 3)
    table[["a", "y"]].to_parquet(tmp_path / "gap.parquet")
    told = []
    for in_memory in (True, False):
        with pytest.raises(DataError) as caught:
            read("Csv", tmp_path, in_memory, path="gap.parquet")
        told.append(str(caught.value))
    assert told[0] == told[1] and "values are missing in the columns a (1)" in told[0]
    table.drop(columns=["word"]).fillna(0).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"t.csv is not a Parquet file, and any other table is read as a whole"):
        read("Csv", tmp_path, False, path="t.csv")
    with pytest.raises(ConfigError, match="dataset.separator: .* is a Parquet file"):
        read("Csv", tmp_path, False, path="t.parquet", separator=",")
    assert read("Csv", tmp_path, "auto", path="t.csv", target="y").reading is None


def test_a_damaged_image_is_named_in_any_process(tmp_path: Path) -> None:
    write_classes(tmp_path / "p", cat=12, dog=12)
    picture = tmp_path / "p" / "cat" / "005.png"
    picture.write_bytes(picture.read_bytes()[:50])  # its head is whole
    streams = read("ImageFolder", tmp_path / "p", False, test_size=1)
    for workers in (0, 1):
        with pytest.raises(CorruptDataError, match=r"^\S*005.png cannot be read as an image"):
            list(loading.make_loader(streams.train, Scaling(), 8, workers=workers))


def test_the_rule_of_streaming_names_the_limit_it_applies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    compute = Compute("local", cpus_per_run=4)
    whole = memory.limit(compute)
    assert "machine" in whole.why
    assert memory.limit(dataclasses.replace(compute, cpus_per_run=1)).bytes == round(whole.bytes / 4)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "64")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert memory.limit(compute) == memory.Limit(32 * 2**20, "Slurm's limit")
    assert memory.limit(dataclasses.replace(compute, mem_gb=0.01)).why == "compute.mem_gb"
    (tmp_path / "own").write_text("4:memory:/a/b\n0::/c\n")
    (tmp_path / "memory" / "a" / "b").mkdir(parents=True)
    (tmp_path / "memory" / "a" / "memory.limit_in_bytes").write_text("2000000\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "memory.max").write_text("max\n")
    assert memory.limit(compute) == memory.Limit(1_000_000, "its cgroup's limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    (tmp_path / "own").unlink()
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    resource.setrlimit(resource.RLIMIT_DATA, (whole.bytes // 3, hard))
    try:
        assert memory.limit(compute) == memory.Limit(whole.bytes // 3, "ulimit -d")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    assert memory.decide("auto", 50, memory.Limit(100, "x")).in_memory
    assert memory.decide("auto", 51, memory.Limit(100, "x")) == memory.Reading(
        False, "its arrays take 51 bytes, and the limit is 50 bytes, half of the run's memory (x)"
    )


def test_rows_are_selected_without_reading_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", X=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
    rows: Any = read("Npz", tmp_path, False, path="d.npz", test_size=0.5).train.x
    assert isinstance(rows, streamed.Rows) and rows.nbytes == len(rows) * 8
    chosen = rows.pick(np.array([3, 1])).pick(slice(1, None))
    assert np.array_equal(chosen[:], rows[1:2]) and np.array_equal(rows[np.array([2])], rows[2])
    assert np.array_equal(np.concatenate(list(rows.blocks(3))), rows[:])
    assert Part(rows, np.arange(10)).take(np.array([5])).x.shape == (1, 2)


def test_negative_indices_work_and_those_out_of_range_raise(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", X=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
    rows: Any = read("Npz", tmp_path, False, path="d.npz", test_size=0.5).train.x
    for some in (rows, streamed.Rows(rows._source)):  # in an order, and as they lie in the file
        assert np.array_equal(some[-1], some[len(some) - 1])
        with pytest.raises(IndexError):
            some[len(some)]


def test_samples_are_read_in_spawned_processes(tmp_path: Path) -> None:
    """The packed file was unpacked into one that is already deleted, so it has no name."""
    np.savez_compressed(tmp_path / "a.npz", X=np.arange(40, dtype=np.float32).reshape(10, 4), y=np.arange(10) % 2)
    x = read("Npz", tmp_path, False, path="a.npz", test_size=0.2).train.x
    assert isinstance(x, streamed.Rows)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=spawned.read_rows, args=(x, answers))
    process.start()
    found = answers.get(timeout=60)
    process.join()
    assert found == x[[3, 1]].tolist()
