"""Batches from memory: no sample lost or duplicated, order determined by seed and epoch, exact values."""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from labrun.data.arrays import Part, Scaling
from labrun.data.datasets import Datasets
from labrun.data.loading import BatchLoader, Compose, RandomCrop, RandomFlip

PLAIN = Scaling(1.0)


def numbered(count: int, *shape: int) -> Part:
    """Samples whose label is their position."""
    x = np.random.default_rng(0).integers(0, 256, (count, *(shape or (1, 2, 2))), np.uint8)
    return Part(x, np.arange(count))


def order_of(loader: BatchLoader) -> list[int]:
    return [int(label) for _, y in loader for label in y]


def epoch(number: int, count: int = 50, **options: Any) -> list[int]:
    loader = BatchLoader(numbered(count), PLAIN, 8, shuffle=True, **options)
    loader.set_epoch(number)
    return order_of(loader)


def gather(loader: BatchLoader) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*loader, strict=True)
    return torch.cat(xs), torch.cat(ys)


# 3,000 samples of 28x28 do not fit into one chunk, 50 do.
@pytest.mark.parametrize(("count", "shape"), [(50, (1, 2, 2)), (3_000, (1, 28, 28))])
@pytest.mark.parametrize("batch_size", [1, 7, 10, 64, 5_000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_has_every_sample_once_in_full_batches(
    count: int, shape: tuple[int, ...], batch_size: int, shuffle: bool
) -> None:
    part = numbered(count, *shape)
    loader = BatchLoader(part, PLAIN, batch_size, shuffle=shuffle)
    sizes = [len(y) for _, y in loader]
    assert len(sizes) == len(loader) and sum(sizes) == count
    assert all(size == batch_size for size in sizes[:-1]) and 0 < sizes[-1] <= batch_size
    x, y = gather(loader)
    assert sorted(y.tolist()) == list(range(count))
    assert x.shape == (count, *shape) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert (x.numpy() == part.x[y.numpy()]).all()


def test_without_shuffling_samples_keep_their_order() -> None:
    loader = BatchLoader(numbered(50), PLAIN, 8)
    loader.set_epoch(3)
    assert order_of(loader) == list(range(50))


def test_seed_and_epoch_determine_the_order() -> None:
    assert epoch(3, seed=1) == epoch(3, seed=1)
    orders = [epoch(number, seed=seed) for seed, number in product(range(3), range(4))]
    assert len({tuple(order) for order in orders}) == 12
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_an_epoch_does_not_depend_on_the_epochs_before_it() -> None:
    loader = BatchLoader(numbered(50), PLAIN, 8, shuffle=True, seed=4)
    for number in range(3):
        loader.set_epoch(number)
        walked = order_of(loader)
    assert walked == epoch(2, seed=4)


def test_an_epoch_left_halfway_starts_over() -> None:
    loader = BatchLoader(numbered(50), PLAIN, 8, shuffle=True)
    next(iter(loader))
    assert order_of(loader) == epoch(0)


def test_lightning_reaches_set_epoch_through_the_batch_sampler() -> None:
    loader = BatchLoader(numbered(50), PLAIN, 8, shuffle=True)
    loader.batch_sampler.sampler.set_epoch(5)
    assert order_of(loader) == epoch(5)


@pytest.mark.parametrize("shuffle", [False, True])
def test_values_equal_the_plain_formula_per_channel(shuffle: bool) -> None:
    part, mean, std = numbered(100, 3, 4, 5), np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 2.0])
    scaling = Scaling(255.0, tuple(mean), tuple(std))
    x, y = gather(BatchLoader(part, scaling, 16, shuffle=shuffle))
    plain = (part.x / 255.0 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(x.numpy(), plain[y.numpy()], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaling", [Scaling(16.0), Scaling(16.0, (0.5,)), Scaling(16.0, (0.0,), (0.5,))])
def test_one_mean_and_std_hold_for_all_channels(scaling: Scaling) -> None:
    part = numbered(10, 3, 4, 5)
    x, _ = gather(BatchLoader(part, scaling, 4))
    np.testing.assert_allclose(x.numpy(), (part.x / 16.0 - scaling.mean[0]) / scaling.std[0], rtol=1e-5)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_table_of_floats_is_the_same_in_every_epoch(shuffle: bool) -> None:
    table = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    before = table.copy()
    loader = BatchLoader(Part(table, np.arange(20)), Scaling(2.0, (1.0, 2.0, 3.0), (0.5, 1.0, 4.0)), 8, shuffle=shuffle)
    for _ in range(2):
        x, y = gather(loader)
        plain = (before / 2.0 - [1.0, 2.0, 3.0]) / [0.5, 1.0, 4.0]
        np.testing.assert_allclose(x.numpy(), plain[y.numpy()], rtol=1e-4, atol=1e-6)
    assert (table == before).all()


def test_read_only_samples_are_accepted_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    part = numbered(10)
    part.x.setflags(write=False)
    part.y.setflags(write=False)
    gather(BatchLoader(part, Scaling(255.0, (0.5,)), 4))
    assert not recwarn.list


@pytest.mark.parametrize(("count", "ranks"), [(50, 2), (51, 2), (50, 4), (3, 3), (2, 3), (2, 5)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_all_samples_equally(count: int, ranks: int, shuffle: bool) -> None:
    loaders = [BatchLoader(numbered(count), PLAIN, 8, shuffle=shuffle, rank=rank, ranks=ranks) for rank in range(ranks)]
    shares = [order_of(loader) for loader in loaders]
    each = -(-count // ranks)
    assert [len(share) for share in shares] == [each] * ranks
    assert {label for share in shares for label in share} == set(range(count))
    assert [len(loader) for loader in loaders] == [len(list(loader)) for loader in loaders]


def images(count: int = 200, channels: int = 3, height: int = 6, width: int = 7) -> Tensor:
    return torch.rand((count, channels, height, width), generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_flip_gives_each_image_or_its_mirror() -> None:
    x = images()
    out = RandomFlip()(x, seeded())
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert out.shape == x.shape and bool((same ^ mirrored).all())
    assert 60 < int(mirrored.sum()) < 140


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flips_occur_with_their_probability(probability: float) -> None:
    x = images()
    assert torch.equal(RandomFlip(probability)(x, seeded()), x.flip(-1) if probability else x)


def test_a_crop_gives_each_image_shifted_with_its_own_edge_mirrored() -> None:
    x, padding = images(), 2
    out = RandomCrop(padding)(x, seeded())
    assert out.shape == x.shape
    shifts = set()
    for image, cropped in zip(x.numpy(), out.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        windows = {(top, left): padded[:, top : top + 6, left : left + 7] for top, left in product(range(5), repeat=2)}
        found = [shift for shift, window in windows.items() if (window == cropped).all()]
        assert len(found) == 1
        shifts.update(found)
    assert len(shifts) == 25


def test_a_crop_without_padding_changes_nothing() -> None:
    x = images()
    assert torch.equal(RandomCrop(0)(x, seeded()), x)


def test_composed_steps_run_in_order_and_skip_null() -> None:
    x = images()
    composed = Compose(crop=RandomCrop(2), none=None, flip=RandomFlip())
    generator = seeded()
    expected = RandomFlip()(RandomCrop(2)(x, generator), generator)
    assert len(composed.steps) == 2
    assert torch.equal(composed(x, seeded()), expected)
    assert torch.equal(Compose()(x, seeded()), x)


def test_augmentation_is_reproducible_and_keeps_the_samples() -> None:
    part = numbered(100, 3, 8, 8)
    before = part.x.copy()
    augmentation = Compose(crop=RandomCrop(2), flip=RandomFlip())
    loader = BatchLoader(part, Scaling(255.0), 16, shuffle=True, seed=1, augmentation=augmentation)
    first, again = gather(loader)[0], gather(loader)[0]
    loader.set_epoch(1)
    _, labels = gather(loader)
    assert torch.equal(first, again)
    assert sorted(labels.tolist()) == list(range(100))
    assert not torch.equal(first, gather(loader)[0])
    assert (part.x == before).all()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's processes can be forked safely")
def test_loaders_of_named_data_sets_fork_their_processes_whatever_pythons_default() -> None:
    samples = {"_target_": "torch.utils.data.TensorDataset", "_args_": [[1]]}
    for workers in (0, 2):
        made = Datasets(train=samples, num_workers=workers)._common["multiprocessing_context"]
        assert made == ("fork" if workers else None)
