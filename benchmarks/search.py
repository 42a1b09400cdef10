"""Benefit of starting trials one by one, and of early termination, in a search.

Uneven trials: 48 trials, 8 at once, sleep for times drawn from a log-normal distribution (sigma 0.8, median 1 s). On
one side, a new trial starts whenever one ends. On the other, the next 8 start when the last of 8 has ended, as with
Hydra's own sweepers. All other code is the same. Reported are trials per minute, from the first start to the last end.

Early termination: the MNIST network (784-100-100-10), 55,000 images to train and 5,000 to validate. The search varies
learning rate, momentum and width. Random search trains 24 trials for 8 epochs each. TPE with successive halving (one of
three trials continues after the first and the third epoch) has up to 60 trials. Reported is the number of epochs that
all its trials have trained until one of them reaches the lowest validation loss of the random search.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common

AT_ONCE, SIGMA, TRIALS = 8, 0.8, 48
FASTER, FEWER = 1.4, 0.5
EPOCHS, RANDOM_TRIALS, TPE_TRIALS = 8, 24, 60
SLEEPER = f"""
import time
import numpy as np
from labrun.runs import context

class Sleeper:
    def __init__(self, number=0, draw=0):
        self.seconds = float(np.exp({SIGMA} * np.random.default_rng([draw, number]).normal()))
    def fit(self, x, y):
        time.sleep(self.seconds)
        context.log("score", 0.0)
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""
BATCHES = """
from labrun.search.search import Search
more = Search.more
Search.more = lambda self: [] if self._trials else more(self)
"""
"""Asks for one trial per slot, and for no more before all of them have ended."""
MAIN = "from labrun.app import main; main()"
SPACE = (
    "model.lr=tag(log,interval(1e-3,1))",
    "model.optimizer.momentum=interval(0,0.98)",
    "model.units=tag(log,int(interval(20,200)))",
)


@dataclass(frozen=True)
class Trial:
    """A trial of a search."""

    record: dict[str, Any]
    losses: list[tuple[float, float]]
    """Reported values of `val_loss`, each with its time."""


def search(folder: Path, arguments: list[str], before: str = "") -> list[Trial]:
    """Run a search to its end."""
    done = subprocess.run(
        [sys.executable, "-c", before + MAIN, "-m", *arguments, "tracking=none", "report=none"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the search failed: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    found = []
    for path in sorted(folder.glob("multirun/*/*/*/run.json")):
        lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        losses = [(line["time"], float(line["value"])) for line in lines if line["name"] == "val_loss"]
        found.append(Trial(json.loads(path.read_text()), losses))
    return found


def per_minute(seed: int, before: str) -> float:
    """Return the trials per minute of uneven trials."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "sleeper.py").write_text(SLEEPER)
        (folder / "conf" / "model").mkdir(parents=True)
        (folder / "conf" / "model" / "sleeper.yaml").write_text("_target_: sleeper.Sleeper\nnumber: 0\ndraw: 0\n")
        arguments = [
            "model=sleeper",
            f"model.number=range({TRIALS})",
            f"model.draw={seed}",
            "sweep.metric=score",
            f"sweep.max_concurrent={AT_ONCE}",
            f"compute.max_parallel={AT_ONCE}",
            "dataset.max_samples=50",
        ]
        trials = search(folder, arguments, before)
    if len(trials) != TRIALS:
        sys.exit(f"{len(trials)} of {TRIALS} trials were run")
    begun = min(datetime.fromisoformat(trial.record["started"]) for trial in trials)
    ended = max(datetime.fromisoformat(trial.record["ended"]) for trial in trials)
    return 60 * TRIALS / (ended - begun).total_seconds()


def network(data: str, seed: int, arguments: list[str]) -> list[Trial]:
    """Run a search with the MNIST network."""
    with TemporaryDirectory() as place:
        general = [
            "experiment=mnist_dnn",
            f"datastore.root={Path(data).resolve()}",
            f"trainer.max_epochs={EPOCHS}",
            "sweep.metric=val_loss",
            f"sweep.seed={seed}",
            *SPACE,
        ]
        return search(Path(place), [*general, *arguments])


def epochs_until(trials: list[Trial], goal: float) -> int | None:
    """Return the epochs trained by all trials until one reached the goal; None if none did."""
    reports = sorted(report for trial in trials for report in trial.losses)
    return next((count for count, (_, loss) in enumerate(reports, start=1) if loss <= goal), None)


def main() -> None:
    """Measure, and print the tables."""
    parser = common.parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    uneven, ratios = [], []
    for seed in range(options.seeds):
        steady, batched = per_minute(seed, ""), per_minute(seed, BATCHES)
        ratios.append(steady / batched)
        uneven.append([str(seed), f"{steady:.0f}", f"{batched:.0f}", f"{ratios[-1]:.2f}"])
        common.progress(f"uneven, seed {seed}: {steady:.0f} and {batched:.0f} trials a minute")
    rows, shares = [], []
    for seed in range(options.seeds):
        random = network(options.data, seed, ["sweep=random", f"sweep.max_trials={RANDOM_TRIALS}"])
        goal = min(loss for trial in random for _, loss in trial.losses)
        used = sum(len(trial.losses) for trial in random)
        learned = network(
            options.data,
            seed,
            [
                "sweep=tpe",
                f"sweep.max_trials={TPE_TRIALS}",
                "sweep/early_termination=halving",
            ],
        )
        needed = epochs_until(learned, goal)
        shares.append(float("inf") if needed is None else needed / used)
        best = min(loss for trial in learned for _, loss in trial.losses)
        total = sum(len(trial.losses) for trial in learned)
        shown = "never" if needed is None else str(needed)
        rows.append([str(seed), f"{goal:.4f}", str(used), shown, f"{shares[-1]:.2f}", f"{best:.4f}", str(total)])
        common.progress(f"early termination, seed {seed}: {shown} of {used} epochs for {goal:.4f}")
    faster, fewer = statistics.median(ratios), statistics.median(shares)
    parts = [
        (__doc__ or "").partition("\n\n")[2].strip(),
        common.table(["seed", "one by one, trials a minute", "in batches", "times"], uneven),
        f"Claimed: at least {FASTER} times, the median of the seeds. Measured: {faster:.2f} times. "
        f"**{'Holds' if faster >= FASTER else 'Missed'}.**",
        common.table(
            ["seed", "random's best loss", "its epochs", "TPE's epochs to it", "share", "TPE's best", "all its epochs"],
            rows,
        ),
        f"Claimed: under half the epochs, the median of the seeds. Measured: {fewer:.2f} of them. "
        f"**{'Holds' if fewer < FEWER else 'Missed'}.**",
    ]
    common.report("search", "Searches", parts, ["optuna", "torch", "pytorch-lightning"], options.save)


if __name__ == "__main__":
    main()
