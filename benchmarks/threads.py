"""Check that the rule for the number of threads (`trainer.threads=auto`) is never slower than one thread.

Both of labrun's networks train on random samples of the right shape: with one thread, with one thread per core, and
with the number that the rule chooses; on a quiet machine, and next to a busy Python process. Everything runs in one
process, alternating between the sides. Only times of the same round are compared, which are seconds apart.

The last lines give the amount of work from which one thread per core pays off, and the corresponding PER_THREAD for
src/labrun/tasks/threads.py.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import common
import numpy as np
import psutil

from labrun.config.schema import Config
from labrun.tasks import threads

ONE, ALL, RULE = "one", "all", "auto"
QUIET, BUSY = "quiet", "busy"
SHAPES = {"cifar10_cnn": (3, 32, 32), "mnist_dnn": (1, 28, 28)}
STEPS = {
    "cifar10_cnn": {4: 800, 32: 400, 128: 120, 512: 30},
    "mnist_dnn": {4: 1500, 32: 1300, 128: 1000, 512: 400},
}
"""Steps per measurement, by network and batch size: about a second with one thread."""
SIDES = (ONE, ALL, RULE)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SAMPLES = 2**15
"""Maximum number of distinct samples."""
TOLERANCE = 1.05
"""Claimed maximum training time with the rule, relative to one thread."""
RETRIES = 3
"""Maximum number of repetitions of a disturbed measurement."""


@dataclass
class Cell:
    """One network at one batch size: seconds of each measurement by condition and side, in the order of the rounds."""

    network: str
    batch_size: int
    size: int
    """Multiply-adds of the average layer per batch, on which the rule is based."""
    chosen: int
    """Number of threads chosen by the rule."""
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def ratios(self, condition: str, side: str) -> list[float]:
        """Return the time relative to one thread, for each round."""
        pairs = zip(self.seconds[condition, side], self.seconds[condition, ONE], strict=True)
        return [own / one for own, one in pairs]

    def ratio(self, condition: str, side: str) -> float:
        """Return the median of `ratios`."""
        return statistics.median(self.ratios(condition, side))

    def summary(self) -> str:
        """Return a progress line."""
        one = statistics.median(self.seconds[QUIET, ONE])
        ratios = ", ".join(f"{c} {s} {self.ratio(c, s):.2f}" for c in (QUIET, BUSY) for s in (ALL, RULE))
        return f"{self.network}, batch {self.batch_size}: {one:.2f} s with one thread; times as long: {ratios}"


class Neighbour:
    """A Python process that can be made busy, and ends with this one."""

    CODE = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10**6))"

    def __init__(self) -> None:
        self._process = psutil.Popen([sys.executable, "-c", self.CODE], stdin=subprocess.DEVNULL)
        self._process.suspend()

    @contextmanager
    def computing(self, wanted: bool) -> Iterator[None]:
        """Make the process busy during the context, if `wanted`."""
        if wanted:
            self._process.resume()
        try:
            yield
        finally:
            self._process.suspend()

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Bench:
    """Measures cells one after another.

    Args:
        data: folder of the datastore in the configs; nothing is read from it.
        share: share of `STEPS` to measure.
        patient: wait for a quiet machine, and repeat disturbed measurements.
    """

    def __init__(self, data: str, share: float, patient: bool) -> None:
        self._data, self._share, self._patient = data, share, patient
        self._neighbour = Neighbour()
        self.busiest = 0.0

    def close(self) -> None:
        """End the neighbour."""
        self._neighbour.end()

    def measure(self, network: str, batch_size: int, rounds: int) -> Cell:
        """Measure one network at one batch size, alternating the sides, with another side first in each round."""
        steps = max(2, round(STEPS[network][batch_size] * self._share))
        arrays = random_arrays(SHAPES[network], min(SAMPLES, steps * batch_size))
        overrides = [
            f"model={network}",
            f"trainer.batch_size={batch_size}",
            "callbacks=none",
            "trainer.accelerator=cpu",
            f"trainer.max_epochs={max(1, round(steps * batch_size / len(arrays.train)))}",
            f"compute.cpus_per_run={CORES}",
        ]
        config = common.labrun_config(self._data, overrides)
        cell = Cell(network, batch_size, size_of(config, arrays), chosen(config, arrays))
        fit(config, ALL, arrays)
        with common.stopwatch(patient=self._patient):
            pass
        for number in range(rounds):
            for condition in (QUIET, BUSY):
                for side in [*SIDES, *SIDES][number % 3 :][:3]:
                    taken = self._fit_undisturbed(config, condition, side, arrays)
                    cell.seconds.setdefault((condition, side), []).append(taken.seconds)
        common.progress(cell.summary())
        return cell

    def _fit_undisturbed(self, config: Config, condition: str, side: str, arrays: Any) -> common.Time:
        for attempt in range(1 + RETRIES):
            with self._neighbour.computing(condition == BUSY):
                taken = fit(config, side, arrays)
            if taken.others <= common.BUSY or attempt == RETRIES or not self._patient:
                break
        self.busiest = max(self.busiest, taken.others)
        return taken


def random_arrays(shape: tuple[int, ...], samples: int) -> Any:
    """Return random images of ten classes."""
    from labrun.data.arrays import Arrays, Part, Scaling

    drawn = np.random.default_rng(0)
    part = Part(drawn.integers(0, 256, (samples, *shape), dtype=np.uint8), drawn.integers(0, 10, samples))
    return Arrays("random", part, None, part.take(np.arange(2)), tuple("0123456789"), Scaling())


def task(config: Config, side: str, arrays: Any) -> Any:
    """Return the task that a run on one side trains."""
    from labrun.tasks import model_builder

    wanted = {ONE: 1, ALL: CORES, RULE: "auto"}[side]
    return model_builder.make(Config({**config.raw, "trainer": {**config.raw["trainer"], "threads": wanted}}), arrays)


def chosen(config: Config, arrays: Any) -> int:
    """Return the number of threads chosen by the rule."""
    return int(task(config, RULE, arrays).threads.training.count)


def size_of(config: Config, arrays: Any) -> int:
    """Return the multiply-adds of the average layer for one batch."""
    import torch

    from labrun.tasks.networks.forward_cost import try_out

    work = try_out(task(config, ONE, arrays).network.eval(), torch.zeros(1, *arrays.input_shape))[1]
    assert work is not None
    return work.per_layer * config.trainer.batch_size


def fit(config: Config, side: str, arrays: Any) -> common.Time:
    """Train as a run does, without checkpoints, in a temporary folder."""
    work = task(config, side, arrays)
    with common.run_folder() as paths, common.stopwatch(patient=False) as taken:
        work.fit(arrays, paths, None)
    return taken


def row(cell: Cell) -> list[str]:
    """Return the table row of one cell."""
    ratios = [common.middle_and_range(cell.ratios(c, side), 2) for c in (QUIET, BUSY) for side in (ALL, RULE)]
    one = [f"{statistics.median(cell.seconds[condition, ONE]):.2f}" for condition in (QUIET, BUSY)]
    about = [cell.network, str(cell.batch_size), f"{cell.size / 1e6:.3g}", str(cell.chosen)]
    return [*about, one[0], *ratios[:2], one[1], *ratios[2:]]


def crossover(cells: Sequence[Cell], condition: str) -> float:
    """Return the layer size from which one thread per core is no slower than one thread; infinity if there is none.

    The size is interpolated between the largest at which it is slower and the next one, linearly in the logarithms.

    Args:
        cells: cells of one network.
        condition: quiet or busy.
    """
    points = sorted((cell.size, math.log(cell.ratio(condition, ALL))) for cell in cells)
    slower = [place for place, (_, ratio) in enumerate(points) if ratio > 0]
    if not slower:
        return points[0][0]
    if slower[-1] == len(points) - 1:
        return math.inf
    (low, above), (high, below) = points[slower[-1] : slower[-1] + 2]
    return float(low * (high / low) ** (above / (above - below)))


def crossovers(cells: Sequence[Cell]) -> str:
    """Return the sizes from which one thread per core pays off, and the resulting constant."""
    found = {
        (network, condition): crossover([cell for cell in cells if cell.network == network], condition)
        for network in dict.fromkeys(cell.network for cell in cells)
        for condition in (QUIET, BUSY)
    }
    lines = [
        f"- {network}, {condition}: "
        + ("at no size measured" if math.isinf(size) else f"from {threads.millions(size)} on")
        for (network, condition), size in found.items()
    ]
    largest = max(found.values())
    needed = (
        f"more than {threads.millions(max(cell.size for cell in cells) / CORES)}: one thread at every size measured"
        if math.isinf(largest)
        else f"at least {threads.millions(largest / CORES)}: the largest of these, shared by {CORES} threads"
    )
    return "\n".join(
        [
            f"{CORES} threads take no longer than one, by the multiply-adds of the average layer for a batch:\n",
            *lines,
            f"\n`PER_THREAD` in `src/labrun/tasks/threads.py` is {threads.millions(threads.PER_THREAD)}. "
            f"By this measurement it has to be {needed}.",
        ]
    )


def verdict(cells: Sequence[Cell]) -> str:
    """Return a sentence on whether the claim holds."""
    worst = max(
        ((c.ratio(condition, RULE), c, condition) for c in cells for condition in (QUIET, BUSY)), key=lambda w: w[0]
    )
    best = min(cell.ratio(QUIET, RULE) for cell in cells)
    ratio, cell, condition = worst
    return (
        f"Claim: with the rule a training takes at most {TOLERANCE:g} times as long as with one thread, quiet or busy. "
        f"Measured: {ratio:.2f} at worst ({cell.network}, batch {cell.batch_size}, {condition}), {best:.2f} at best. "
        f"**{'Holds' if ratio <= TOLERANCE else 'Missed'}.**"
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side in each condition")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps: less for a trial")
    parser.add_argument("--now", action="store_true", help="do not wait for a quiet machine: a trial")
    options = parser.parse_args()
    if CORES < 2:
        sys.exit("this process may use one core, and there is nothing to compare: start it where it has two or more")
    for name in common.OWN_SETTINGS:
        os.environ.pop(name, None)
    threads.wait_asleep()
    bench = Bench(options.data, options.share, not options.now)
    try:
        cells = [bench.measure(network, size, options.rounds) for network in STEPS for size in STEPS[network]]
    finally:
        bench.close()
    several = f"{CORES} threads, times as long"
    header = [
        "network",
        "batch size",
        "million multiply-adds per layer",
        "threads by the rule",
        "quiet: one thread, s",
        several,
        "the rule",
        "busy: one thread, s",
        several,
        "the rule",
    ]
    waiting = ", ".join(f"{name}={os.environ[name]}" for name in threads.WAITING if name in os.environ)
    what = (
        f"labrun's two networks on random samples, SGD, on {CORES} cores; quiet, and next to a Python process that "
        f"computes without pause. How many times as long as with one thread it took: median (lowest - highest) of "
        f"{options.rounds} rounds, each side measured once a round, in turn, in one process. Threads wait for one "
        f"another as in runs: {waiting}."
    )
    note = f"Other processes used at most {bench.busiest:.0%} of the machine during any measurement that counts."
    parts = [what, common.table(header, [row(cell) for cell in cells]), crossovers(cells), verdict(cells), note]
    common.report("threads", "Threads", parts, ["torch", "pytorch-lightning", "numpy"], options.save)


if __name__ == "__main__":
    main()
