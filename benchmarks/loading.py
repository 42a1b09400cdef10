"""Image loading speed from memory, streamed from a folder, and with a hand-written DataLoader; and peak memory.

The images of CIFAR-10 are first written as PNG files. Each side yields shuffled, normalised batches for one pass,
without training, in a separate process, alternating between the sides. The clock runs from the start of the loader to
its last batch. The second part trains on a data set four times as large as the memory limit of the process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import psutil

MEMORY, STREAMED, WRITTEN = "labrun, in memory", "labrun, streamed", "hand-written DataLoader"
BATCH_SIZES = (32, 256)
IMAGES = 20_000
WORKERS = 2
SHARE = 0.8
"""Claimed minimum speed of streaming, as a share of a hand-written DataLoader's images per second."""
LIMIT_MB = 1536
"""Memory limit in MB. The libraries of PyTorch and Lightning alone map about 950 MB of writable memory."""
TIMES = 4
SIZE, DISTINCT = 256, 1000
"""For the second part: height and width of an image, and number of distinct images; the others are links to them."""
MEAN = 0.5


@dataclass(frozen=True)
class Loading:
    """Result of one measurement."""

    time: common.Time
    images: int

    @property
    def speed(self) -> float:
        """Images per second."""
        return self.images / self.time.seconds


def write_folder(data: str, folder: Path, count: int, size: int = 32, links: int = 1) -> None:
    """Write images of CIFAR-10 as `train/CLASS/*.png`, and a tenth of them as `test/`.

    Args:
        data: folder of the data sets.
        folder: destination.
        count: number of distinct images.
        size: height and width in pixels.
        links: number of files per image.
    """
    from PIL import Image

    config = common.labrun_config(data, ["dataset=cifar10", "model=cifar10_cnn", f"dataset.max_samples={count}"])
    arrays = common.labrun_arrays(config)
    for part, found, most in (("train", arrays.train, count), ("test", arrays.test, count // 10)):
        for place, (x, y) in enumerate(zip(found.x[:most], found.y[:most], strict=True)):
            own = folder / part / arrays.class_names[int(y)]
            own.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(x.transpose(1, 2, 0))
            first = own / f"{place:05}.png"
            (image if size == 32 else image.resize((size, size))).save(first)
            for number in range(1, links if part == "train" else 1):
                os.link(first, own / f"{place:05}-{number}.png")


def written(folder: str, batch_size: int) -> Loading:
    """Measure a hand-written pipeline: a Dataset of files, torchvision's transforms, a DataLoader with workers."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    class Pictures(Dataset[Any]):
        """Images in one folder per class."""

        def __init__(self, folder: Path) -> None:
            names = sorted(path.name for path in folder.iterdir())
            self.files = [(p, label) for label, name in enumerate(names) for p in sorted((folder / name).glob("*.png"))]
            normalize = transforms.Normalize((MEAN,) * 3, (MEAN,) * 3)
            self.transform = transforms.Compose([transforms.ToTensor(), normalize])

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, place: int) -> tuple[Any, int]:
            path, label = self.files[place]
            with Image.open(path) as image:
                return self.transform(image.convert("RGB")), label

    pictures = Pictures(Path(folder, "train"))
    return passed(lambda: DataLoader(pictures, batch_size=batch_size, shuffle=True, num_workers=WORKERS))


def labrun(folder: str, batch_size: int, in_memory: bool) -> Loading:
    """Measure the loader of `labrun dataset=image_folder dataset.in_memory=...`."""
    from labrun.data import memory, reader
    from labrun.tasks.networks.batch_sources import ArrayBatches

    own = ["dataset=image_folder", "model=cifar10_cnn", f"dataset.mean={MEAN}", f"dataset.std={MEAN}"]
    settings = [f"dataset.in_memory={str(in_memory).lower()}", f"dataset.num_workers={WORKERS}"]
    config = common.labrun_config(folder, [*own, *settings, f"trainer.batch_size={batch_size}"])
    arrays = reader.read(config.dataset, Path(folder), limit=memory.limit(config.compute))
    batches = ArrayBatches(arrays, config)
    return passed(lambda: batches.loader(arrays.train, train=True))


def passed(make: Callable[[], Any]) -> Loading:
    """Measure one pass over the batches of a loader."""
    images = 0
    with common.stopwatch(patient=False) as taken:
        for x, _ in make():
            images += len(x)
    assert images == IMAGES, images
    return Loading(taken, images)


SIDES: dict[str, tuple[Callable[..., Loading], tuple[Any, ...]]] = {
    WRITTEN: (written, ()),
    STREAMED: (labrun, (False,)),
    MEMORY: (labrun, (True,)),
}


def measure(folder: str, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Measure the images per second of each side, alternating."""
    speeds: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(1, rounds + 1):
        for name, (side, more) in SIDES.items():
            found = common.in_fresh_process(side, folder, batch_size, *more)
            common.progress(
                f"{number}/{rounds} batch {batch_size}, {name}: {found.speed:,.0f} images/s, others used "
                f"{found.time.others:.0%} of the machine"
            )
            speeds[name].append(found.speed)
    return speeds


def ratios(speeds: dict[str, list[float]], name: str) -> list[float]:
    """Return a side's speed relative to the hand-written DataLoader, for each round."""
    return [own / base for base, own in zip(speeds[WRITTEN], speeds[name], strict=True)]


@dataclass(frozen=True)
class Height:
    """A training run under a memory limit: how it ended, and its peak memory."""

    status: str
    peak_mb: float
    """Peak private memory of the process and its loader workers together."""
    log: str


def under_limit(folder: Path, in_memory: bool) -> Height:
    """Run `labrun` on a folder of images with limited memory (RLIMIT_DATA: private writable memory of a process)."""
    program = Path(sys.executable).with_name("labrun")
    setting = f"dataset.in_memory={str(in_memory).lower()}"
    words = ["dataset=image_folder", f"datastore.root={folder}", "model=mnist_dnn", "model.units=16", setting]
    more = [
        "trainer.max_epochs=1",
        "trainer.batch_size=32",
        "trainer.eval_batch_size=32",
        "tracking=none",
        "report=none",
        "name=limited",
    ]
    with TemporaryDirectory(prefix="labrun-benchmark-") as workspace:
        process = psutil.Popen(
            [program, *words, *more],
            cwd=workspace,
            env={**os.environ, "LABRUN_WARM": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_MB * 2**20,) * 2),
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, private_mb(process))
            time.sleep(0.5)
        text = process.stdout.read()
        (record,) = Path(workspace).glob("outputs/*/*/run.json")
        return Height(json.loads(record.read_text(encoding="utf-8"))["status"], peak, text)


def private_mb(process: psutil.Process) -> float:
    """Return the private memory of a process and its children, in MB."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 2**20


def memory_part(data: str) -> list[str]:
    """Train on a data set four times as large as the limit, streamed and in memory."""
    with TemporaryDirectory(prefix="labrun-benchmark-") as folder:
        links = -(-TIMES * LIMIT_MB * 2**20 // (SIZE * SIZE * 3 * DISTINCT))
        common.progress(f"writing {DISTINCT * links:,} images of {SIZE}x{SIZE}")
        write_folder(data, Path(folder), DISTINCT, SIZE, links)
        found = {name: under_limit(Path(folder), in_memory) for name, in_memory in ((STREAMED, False), (MEMORY, True))}
    for name, one in found.items():
        common.progress(f"{name}: {one.status}, {one.peak_mb:,.0f} MB\n{one.log[-600:]}")
    amount = DISTINCT * links * SIZE * SIZE * 3 / 2**20
    rows = [[name, one.status, f"{one.peak_mb:,.0f}"] for name, one in found.items()]
    holds = found[STREAMED].status == "completed" and found[MEMORY].status == "failed"
    return [
        f"## A set {TIMES} times the limit\n\n"
        f"{DISTINCT * links:,} images of {SIZE}x{SIZE}: {amount:,.0f} MB of arrays. A process may take {LIMIT_MB:,} MB "
        "(RLIMIT_DATA: private memory that it may write to), of which PyTorch and Lightning take about 950 before "
        "anything is read. `labrun model=mnist_dnn` trains for one epoch in batches of 32. The height is the private "
        "memory of the process and of those that read for it together, looked at twice a second.",
        common.table(["", "ended as", "height, MB"], rows),
        f"Claim: streamed it trains, in memory it cannot. **{'Holds' if holds else 'Missed'}.**",
    ]


def main() -> None:
    """Measure, and print the tables."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements per side and batch size, the sides in turn")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="labrun-benchmark-") as folder:
        write_folder(options.data, Path(folder), IMAGES)
        results = {size: measure(folder, size, options.rounds) for size in BATCH_SIZES}
    header = [
        "batch size",
        *(f"{name}, images/s" for name in SIDES),
        "streamed / hand-written",
        "in memory / hand-written",
    ]
    rows = [
        [
            str(size),
            *(common.middle_and_range(speeds[name], 0) for name in SIDES),
            *(common.middle_and_range(ratios(speeds, name), 2) for name in (STREAMED, MEMORY)),
        ]
        for size, speeds in results.items()
    ]
    middles = {size: statistics.median(ratios(speeds, STREAMED)) for size, speeds in results.items()}
    said = ", ".join(f"{ratio:.2f} at batch {size}" for size, ratio in middles.items())
    holds = all(ratio >= SHARE for ratio in middles.values())
    what = (
        f"{IMAGES:,} pictures of CIFAR-10 as PNG files, {WORKERS} processes that read on each side but that in memory. "
        f"Median (lowest - highest) of {options.rounds} passes per side, taken in turn, each in a fresh process. Other "
        "processes used this machine meanwhile: what counts are the ratios, round by round. The files were in the "
        "system's cache."
    )
    claim = (
        f"Claim: streaming gives at least {SHARE:g} of a hand-written DataLoader's images per second. Measured: "
        f"{said}. **{'Holds' if holds else 'Missed'}.**"
    )
    parts = [what, common.table(header, rows), claim, *memory_part(options.data)]
    packages = ["torch", "torchvision", "pytorch-lightning", "numpy", "pillow"]
    common.report("loading", "Loading images from a folder", parts, packages, options.save)


if __name__ == "__main__":
    main()
