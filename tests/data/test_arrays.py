"""Splits and scaling, compared with plain formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labrun.data.arrays import Arrays, Part, Scaling, float_rows, stratified_split
from labrun.data.readers.digits import Digits
from labrun.errors import DataError


def labels_of(*counts: int) -> np.ndarray:
    """So many labels of class 0, of class 1 and so on, shuffled."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


@pytest.mark.parametrize(
    ("total", "size", "held_out"),
    [(100, 0.2, 20), (101, 0.2, 20), (99, 0.5, 50), (7, 0.3, 2), (100, 1, 1), (100, 30, 30), (100, 99.0, 99)],
)
def test_the_held_out_part_has_the_exact_size(total: int, size: float, held_out: int) -> None:
    labels = labels_of(total // 2, total // 3, total - total // 2 - total // 3)
    kept, held = stratified_split(labels, size, seed=0)
    assert len(held) == held_out and len(kept) == total - held_out


@pytest.mark.parametrize("seed", range(5))
def test_both_parts_are_sorted_and_together_hold_all_samples(seed: int) -> None:
    kept, held = stratified_split(labels_of(40, 7, 13), 0.3, seed)
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    assert sorted([*kept, *held]) == list(range(60))


@pytest.mark.parametrize("counts", [(50, 50), (600, 300, 100), (5, 500), (3, 3, 3, 3, 3, 3, 3), (17, 29, 31, 1)])
@pytest.mark.parametrize("size", [0.1, 0.25, 0.5, 0.8])
def test_every_class_is_held_out_in_proportion(counts: tuple[int, ...], size: float) -> None:
    labels = labels_of(*counts)
    _, held = stratified_split(labels, size, seed=1)
    found = np.bincount(labels[held], minlength=len(counts))
    exact = np.array(counts) * len(held) / len(labels)
    assert (np.abs(found - exact) < 1).all()


def test_whole_proportions_are_met_exactly() -> None:
    labels = labels_of(600, 300, 100)
    kept, held = stratified_split(labels, 100, seed=3)
    assert np.bincount(labels[held]).tolist() == [60, 30, 10]
    assert np.bincount(labels[kept]).tolist() == [540, 270, 90]


def test_labels_need_not_be_numbered_from_zero() -> None:
    labels = np.array([3, 9] * 10)
    _, held = stratified_split(labels, 4, seed=0)
    assert sorted(labels[held]) == [3, 3, 9, 9]


def test_the_seed_determines_the_split() -> None:
    labels = labels_of(100, 100)
    first, again, other = (stratified_split(labels, 0.2, seed)[1] for seed in (5, 5, 6))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_the_split_does_not_take_the_first_samples_of_each_class() -> None:
    labels = np.repeat([0, 1], 100)
    _, held = stratified_split(labels, 0.1, seed=0)
    assert held.tolist() != [*range(10), *range(100, 110)]


@pytest.mark.parametrize("size", [0.001, 10, 11, 0.99, 0, -1, -0.5])
def test_a_split_that_leaves_nothing_is_refused(size: float) -> None:
    with pytest.raises(DataError, match="of 10 samples: at least one must be left on each side"):
        stratified_split(labels_of(5, 5), size, seed=0)


def test_no_samples_cannot_be_split() -> None:
    with pytest.raises(DataError, match="of 0 samples"):
        stratified_split(np.empty(0, np.int64), 0.5, seed=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_images_equal_the_plain_formula_per_channel(channels: int) -> None:
    mean, std = (0.1, 0.2, 0.3)[:channels], (0.5, 0.25, 2.0)[:channels]
    x = np.random.default_rng(0).integers(0, 256, (20, channels, 5, 7), np.uint8)
    rows = float_rows(x, Scaling(255.0, mean, std))
    plain = np.stack([(x[:, c] / 255.0 - mean[c]) / std[c] for c in range(channels)], axis=1).reshape(20, -1)
    assert rows.shape == (20, channels * 35) and rows.dtype == np.float32
    np.testing.assert_allclose(rows, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaling", [Scaling(16.0), Scaling(16.0, (0.5,)), Scaling(16.0, (0.0,), (0.5,))])
def test_one_mean_and_std_hold_for_all_channels(scaling: Scaling) -> None:
    x = np.random.default_rng(0).integers(0, 17, (4, 3, 2, 2), np.uint8)
    plain = ((x / 16.0 - scaling.mean[0]) / scaling.std[0]).reshape(4, -1)
    np.testing.assert_allclose(float_rows(x, scaling), plain, rtol=1e-6)


def test_rows_of_a_table_are_scaled_per_column() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    rows = float_rows(x, Scaling(2.0, (1.0, -1.0), (0.5, 4.0)))
    np.testing.assert_allclose(rows, (x / 2.0 - [1.0, -1.0]) / [0.5, 4.0], rtol=1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_scaling_does_not_change_the_stored_values(kind: type) -> None:
    x: np.ndarray = np.arange(12).reshape(3, 4).astype(kind)
    before = x.copy()
    float_rows(x, Scaling(2.0, (1.0,), (3.0,)))
    assert (x == before).all()


def test_a_part_is_cut_by_positions() -> None:
    part = Part(np.arange(10).reshape(5, 2), np.array([0, 1, 2, 3, 4]))
    cut = part.take(np.array([4, 0]))
    assert len(part) == 5 and len(cut) == 2
    assert cut.y.tolist() == [4, 0] and cut.x.tolist() == [[8, 9], [0, 1]]


def test_arrays_have_their_shape_and_classes() -> None:
    part = Part(np.zeros((2, 3, 8, 9), np.uint8), np.array([0, 1]))
    arrays = Arrays("own", part, None, part, ("cat", "dog"), Scaling())
    assert arrays.input_shape == (3, 8, 9) and arrays.num_classes == 2


def test_the_digits_equal_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    raw, bunch = Digits().read(Path()), load_digits()
    assert raw.train.x.dtype == np.uint8 and np.array_equal(raw.train.x[:, 0], bunch.images)
    assert np.array_equal(raw.train.y, bunch.target) and [*map(int, raw.class_names)] == bunch.target_names.tolist()
