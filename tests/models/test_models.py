"""The three models: shapes derived from the data, expected initial weights, Chainer's file layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from labrun.errors import DataError
from labrun.models import chainer_npz
from labrun.models.cifar10_cnn import Cifar10CNN
from labrun.models.mnist_dnn import MnistDNN


def test_the_dnn_matches_chainers() -> None:
    torch.manual_seed(0)
    model = MnistDNN((1, 28, 28), 10)
    assert [tuple(p.shape) for p in model.parameters()] == [(100, 784), (100,), (100, 100), (100,), (10, 100), (10,)]
    assert model.l1.weight.std().item() == pytest.approx(784**-0.5, rel=0.02)
    assert not any(layer.bias.any() for layer in (model.l1, model.l2, model.l3))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (20,)])
def test_dnn_takes_any_shape(shape: tuple[int, ...]) -> None:
    assert MnistDNN(shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


def test_the_cnn_matches_the_tutorials() -> None:
    model = Cifar10CNN((3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 62_006
    assert model.fc1.in_features == 16 * 5 * 5
    assert Cifar10CNN((1, 28, 28), 10)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize(
    ("size", "kernel", "fits"), [(16, 5, True), (15, 5, False), (8, 5, False), (10, 3, True), (9, 3, False)]
)
def test_the_cnn_explains_unsupported_sizes(size: int, kernel: int, fits: bool) -> None:
    reason = Cifar10CNN.check((1, size, size), 10, kernel_size=kernel)
    assert (reason is None) is fits
    if fits:
        assert Cifar10CNN((1, size, size), 10, kernel_size=kernel)(torch.zeros(1, 1, size, size)).shape == (1, 10)


def test_npz_files_have_chainers_layout_and_are_read_back(tmp_path: Path) -> None:
    model, other = MnistDNN((1, 28, 28), 10), MnistDNN((1, 28, 28), 10)
    path = chainer_npz.save(tmp_path / "model.npz", model)
    with np.load(path) as content:
        assert set(content.files) == {f"l{n}/{p}" for n in (1, 2, 3) for p in ("W", "b")}
        assert content["l1/W"].shape == (100, 784) and content["l1/W"].dtype == np.float32
    chainer_npz.load(path, other)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("prefix", ["predictor/", "updater/model:main/predictor/"])
def test_chainer_files_of_classifiers_and_snapshots_are_read(tmp_path: Path, prefix: str) -> None:
    model, other = MnistDNN((1, 8, 8), 10), MnistDNN((1, 8, 8), 10)
    arrays = {prefix + chainer_npz.chainer_name(n): p.detach().numpy() for n, p in model.named_parameters()}
    np.savez(tmp_path / "m.npz", **arrays, iteration=np.array(5))
    chainer_npz.load(tmp_path / "m.npz", other)
    assert torch.equal(model.l3.weight, other.l3.weight)


def test_a_file_of_another_shape_or_kind_is_refused(tmp_path: Path) -> None:
    chainer_npz.save(tmp_path / "m.npz", MnistDNN((1, 8, 8), 10))
    with pytest.raises(DataError, match=r"l1/W has the shape \(100, 64\), but the model's is \(100, 784\)"):
        chainer_npz.load(tmp_path / "m.npz", MnistDNN((1, 28, 28), 10))
    with pytest.raises(DataError, match="the model needs"):
        chainer_npz.load(tmp_path / "m.npz", Cifar10CNN((3, 32, 32), 10))
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be read as an npz file"):
        chainer_npz.read(tmp_path / "junk.npz")
