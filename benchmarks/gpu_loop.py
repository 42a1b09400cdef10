"""Training throughput of the CIFAR-10 CNN in images per second: a bare PyTorch loop against labrun, on one device.

Both sides train the same network on the same random images in memory, with SGD. The bare loop converts each batch,
moves it to the device and makes a step; it has no logging, checkpoints or Trainer. Called by `scripts/gpu_check.sh`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common


def images(count: int) -> tuple[Any, Any]:
    """Return random images and labels in the format of CIFAR-10."""
    import numpy as np

    drawn = np.random.default_rng(0)
    return drawn.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), drawn.integers(0, 10, count)


def bare(x: Any, y: Any, batch_size: int, epochs: int, device: str) -> float:
    """Return the images per second of the bare loop, after a warm-up epoch."""
    import torch

    from labrun.models.cifar10_cnn import Cifar10CNN

    torch.manual_seed(42)
    if device == "cpu":
        torch.set_num_threads(1)  # as labrun does for a network of this size
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    classes = torch.from_numpy(y)
    net = Cifar10CNN((3, 32, 32), 10).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

    def epoch() -> None:
        order = torch.randperm(len(pixels))
        for chosen in order.split(batch_size):  # type: ignore[no-untyped-call]
            batch = pixels[chosen].float().div_(255).sub_(0.5).div_(0.5).to(device, non_blocking=True)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(batch), classes[chosen].to(device, non_blocking=True))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    epoch()
    wait()
    begun = time.perf_counter()
    for _ in range(epochs):
        epoch()
    wait()
    return epochs * len(pixels) / (time.perf_counter() - begun)


def labrun(file: Path, batch_size: int, epochs: int, device: str) -> float:
    """Return the images per second of labrun's training, without the start and the first epoch."""
    from labrun.tasks import model_builder

    def seconds(wanted: int) -> float:
        own = ["dataset=npz", f"dataset.path={file}", "model=cifar10_cnn", f"trainer.batch_size={batch_size}"]
        scaling = ["dataset.scale=255", "dataset.mean=0.5", "dataset.std=0.5"]
        where = [f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}", f"trainer.max_epochs={wanted}"]
        config = common.labrun_config(str(file.parent), [*own, *scaling, *where, "dataset.validation_size=0"])
        arrays = common.labrun_arrays(config)
        trained_on.append(len(arrays.train))
        work = model_builder.make(config, arrays)
        with common.run_folder() as paths:
            begun = time.perf_counter()
            work.fit(arrays, paths, None)
            return time.perf_counter() - begun

    trained_on: list[int] = []
    seconds(1)
    rest = seconds(epochs + 1) - seconds(1)
    return epochs * trained_on[0] / rest


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--count", type=int, default=50_000, help="images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2, help="measurements per side, the sides in turn")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 1024], help="batch sizes")
    options = parser.parse_args()
    import numpy as np

    x, y = images(options.count)
    rows = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        np.savez(file, X=x, y=y)
        for size in options.sizes:
            pairs = [
                (
                    bare(x, y, size, options.epochs, options.device),
                    labrun(file, size, options.epochs, options.device),
                )
                for _ in range(options.pairs)
            ]
            loops, owns = zip(*pairs, strict=True)
            ratios = [own / loop for loop, own in pairs]
            middle = statistics.median(ratios)
            rows.append([str(size), *(common.middle_and_range(each, 0) for each in (loops, owns)), f"{middle:.2f}"])
    print(common.table(["batch size", "bare loop, images/s", "labrun, images/s", "labrun to bare loop"], rows))


if __name__ == "__main__":
    main()
