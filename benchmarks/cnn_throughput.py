"""Training throughput of the CIFAR-10 CNN in images per second: unmodified PyTorch tutorial against labrun.

Every measurement runs in a separate process, alternating between the sides, after a warm-up. For the tutorial, the
clock starts when its worker processes have delivered the first batches. For labrun, it covers all of `Task.fit`: the
start of Lightning, the training, the log line of the epoch, and the checkpoints.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import common

TUTORIAL, LABRUN = "PyTorch's tutorial", "labrun"
BATCHES = {4: 5_000, 128: 900}
"""Number of measured batches by batch size; an epoch has 12,500 or 391."""
WARM_UP = 50
SPEEDUP = 1.5
"""Claimed minimum speedup at every batch size."""


@dataclass(frozen=True)
class Training:
    """Result of one measurement."""

    time: common.Time
    images: int

    @property
    def speed(self) -> float:
        """Images per second."""
        return self.images / self.time.seconds


def tutorial(data: str, batch_size: int, batches: int) -> Training:
    """Train as in PyTorch's tutorial "Training a Classifier", with its loader, transforms and loop."""
    import torch
    from torch import nn, optim

    from labrun.models.cifar10_cnn import Cifar10CNN

    torch.manual_seed(42)
    loader = tutorial_loader(data, batch_size)
    net = Cifar10CNN((3, 32, 32), 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

    def train(stream: Any) -> int:
        running_loss, images = 0.0, 0
        for inputs, labels in stream:
            optimizer.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            images += len(labels)
        return images

    stream = (batch for _ in range(2 + batches * batch_size // 50_000) for batch in loader)
    train(islice(stream, WARM_UP))
    with common.stopwatch() as time:
        images = train(islice(stream, batches))
    return Training(time, images)


def tutorial_loader(data: str, batch_size: int) -> Any:
    """Return the tutorial's training loader: two worker processes, one PIL image at a time."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    normalize = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transform = transforms.Compose([transforms.ToTensor(), normalize])
    dataset = CIFAR10(root=str(Path(data).expanduser()), train=True, download=False, transform=transform)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=2)


def labrun(data: str, batch_size: int, batches: int) -> Training:
    """Train as `labrun experiment=cifar10_cnn trainer.batch_size=N` does, for a number of batches."""
    from labrun.tasks import model_builder
    from labrun.tasks.threads import wait_asleep

    wait_asleep()
    overrides = ["experiment=cifar10_cnn", f"trainer.batch_size={batch_size}"]
    warm_up = common.labrun_config(data, [*overrides, "trainer.max_epochs=1", f"trainer.limit_train_batches={WARM_UP}"])
    arrays = common.labrun_arrays(warm_up)
    epochs = -(-batches * batch_size // 50_000)
    limits = [f"trainer.max_epochs={epochs}", f"trainer.limit_train_batches={batches // epochs}"]
    config = common.labrun_config(data, [*overrides, *limits])
    fit(model_builder.make(warm_up, arrays), arrays)
    return Training(fit(model_builder.make(config, arrays), arrays), batches // epochs * epochs * batch_size)


def fit(work: Any, arrays: Any) -> common.Time:
    """Train in a temporary run folder."""
    with common.run_folder() as paths, common.stopwatch() as time:
        work.fit(arrays, paths, None)
    return time


def measure(measurer: common.Measurer, data: str, size: int, pairs: int) -> dict[str, list[float]]:
    """Measure the images per second of both sides, alternating, at one batch size."""
    speeds: dict[str, list[float]] = {TUTORIAL: [], LABRUN: []}
    for number in range(1, pairs + 1):
        for name, side in ((TUTORIAL, tutorial), (LABRUN, labrun)):
            label = f"{number}/{pairs} batch {size}, {name}"
            speeds[name].append(measurer(label, side, data, size, BATCHES[size]).speed)
    return speeds


def ratios(speeds: dict[str, list[float]]) -> list[float]:
    """Return labrun's speedup for each pair of measurements."""
    return [own / base for base, own in zip(speeds[TUTORIAL], speeds[LABRUN], strict=True)]


def row(size: int, speeds: dict[str, list[float]]) -> list[str]:
    """Return the table row of one batch size."""
    columns = [common.middle_and_range(speeds[name], 0) for name in (TUTORIAL, LABRUN)]
    return [str(size), *columns, common.middle_and_range(ratios(speeds), 2)]


def verdict(results: dict[int, dict[str, list[float]]]) -> str:
    """Return a sentence on whether the claim holds."""
    found = {size: statistics.median(ratios(speeds)) for size, speeds in results.items()}
    said = ", ".join(f"{ratio:.2f} times at batch {size}" for size, ratio in found.items())
    holds = all(ratio >= SPEEDUP for ratio in found.values())
    return (
        f"Claim: at least {SPEEDUP:g} times faster at every batch size. Measured: {said}. "
        f"**{'Holds' if holds else 'Missed'}.**"
    )


def main() -> None:
    """Measure, and print the table."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="measurements per side and batch size, the sides in turn")
    options = parser.parse_args()
    measurer = common.Measurer()
    results = {size: measure(measurer, options.data, size, options.pairs) for size in BATCHES}
    header = ["batch size", f"{TUTORIAL}, images/s", "labrun, images/s", "times faster"]
    amounts = " and ".join(f"{count:,} batches of {size}" for size, count in BATCHES.items())
    what = (
        f"CIFAR-10, the tutorial's network, SGD 0.001 with momentum 0.9, on the processor: {amounts}. Median (lowest - "
        f"highest) of {options.pairs} measurements per side, taken in turn, each in a fresh process after a warm-up. "
        "labrun trains on the threads that its rule takes (threads.md): one, at both sizes."
    )
    parts = [what, common.table(header, [row(*item) for item in results.items()]), verdict(results), measurer.note()]
    packages = ["torch", "torchvision", "pytorch-lightning", "numpy", "pillow"]
    common.report("cnn_throughput", "Training throughput of the CIFAR-10 CNN", parts, packages, options.save)


if __name__ == "__main__":
    main()
