"""Quality of the model found by `sweep=automl`, compared with FLAML in the same wall time.

    uv run --group bench python benchmarks/automl.py --save

For each data set and seed, a quarter is held out (stratified). Both sides get the other three quarters, all cores of
this machine, and accuracy as the metric. labrun runs as a complete command with a time limit for the search; its result
is the ensemble if that is better in cross-validation, else the best pipeline. FLAML gets as many seconds as the whole
command took. Each side runs in a separate process, one after the other.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np

SETS = ("digits", "breast cancer", "wine", "iris", "made, 10,000 x 50")
FLAML_SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from flaml import AutoML
data = np.load(sys.argv[1])
seconds, seed = float(sys.argv[2]), int(sys.argv[3])
automl = AutoML()
automl.fit(data["X_train"], data["y_train"], task="classification", metric="accuracy", time_budget=seconds, seed=seed,
           verbose=0, log_file_name="", eval_method="auto")
predicted = automl.predict(data["X_test"])
print(json.dumps({"accuracy": float((predicted == data["y_test"]).mean()), "what": str(automl.best_estimator)}))
"""


@dataclass(frozen=True)
class Outcome:
    """Result of one side for one data set and seed."""

    accuracy: float
    seconds: float
    what: str
    trials: int = 0


def arrays(name: str) -> tuple[Any, Any]:
    """Return all samples of a data set."""
    from sklearn import datasets

    if name.startswith("made"):
        made = datasets.make_classification(
            10000, 50, n_informative=12, n_classes=3, flip_y=0.05, class_sep=0.8, random_state=0
        )
        return made[0], made[1]
    load: dict[str, Callable[..., Any]] = {
        "digits": datasets.load_digits,
        "breast cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
        "iris": datasets.load_iris,
    }
    x, y = load[name](return_X_y=True)
    return x, y


def write_split(name: str, seed: int, path: Path) -> None:
    """Write the splits of a data set to a file that both sides read."""
    from sklearn.model_selection import train_test_split

    x, y = arrays(name)
    parts = train_test_split(x, y, test_size=0.25, stratify=y, random_state=seed)
    np.savez(path, **dict(zip(("X_train", "X_test", "y_train", "y_test"), parts, strict=True)))


def labrun(path: Path, seconds: float, seed: int, folder: Path) -> Outcome:
    """Run the complete `labrun` command."""
    command = [
        sys.executable,
        "-m",
        "labrun",
        "-m",
        "dataset=npz",
        f"dataset.path={path}",
        "model=pipeline",
        "sweep=automl",
        "sweep.metric=accuracy",
        "sweep.max_trials=10000",
        f"sweep.timeout_min={seconds / 60}",
        f"sweep.seed={seed}",
        f"seed={seed}",
        "tracking=none",
        "report=none",
    ]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - began
    (sweep,) = (folder / "multirun").glob("*/*")
    kind = "ensemble" if (sweep / "ensemble" / "run.json").exists() else "best"
    record = json.loads((sweep / kind / "run.json").read_text())
    if record["status"] != "completed":
        sys.exit(f"labrun failed: {record['error']}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    with open(sweep / "results.csv", newline="", encoding="utf-8") as file:
        trials = sum(1 for _ in csv.DictReader(file))
    model = record["config"]["model"]
    what = kind
    if kind == "best":
        what = str(model["estimator"]["_target_"]).rpartition(".")[2]
    else:
        what = f"ensemble of {len(model['members'])}"
    return Outcome(float(record["metrics"]["accuracy"]), taken, what, trials)


def flaml(path: Path, seconds: float, seed: int) -> Outcome:
    """Run FLAML with a time budget."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", FLAML_SCRIPT, str(path), str(seconds), str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    taken = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"FLAML failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Outcome(found["accuracy"], taken, found["what"])


def verdict(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> tuple[str, float, float]:
    """Return `better`, `equal` or `worse` by the mean (noting whether a loss is within the spread), and both means."""
    mine, other = ([one.accuracy for one in side] for side in (ours, theirs))
    difference = statistics.mean(mine) - statistics.mean(other)
    spread = max(statistics.stdev(mine), statistics.stdev(other)) if len(mine) > 1 else 0.0
    if abs(difference) < 1e-9:
        word = "equal"
    else:
        word = "better" if difference > 0 else ("worse, within the spread" if -difference <= spread else "worse")
    return word, statistics.mean(mine), statistics.mean(other)


def main() -> None:
    """Measure, and print the table."""
    parser = common.parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of the search; start-up and refit come on top")
    parser.add_argument("--seeds", type=int, default=5, help="splits and searches per data set")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="which of the sets")
    options = parser.parse_args()
    rows, summary, words = [], [], {}
    for name in options.sets:
        ours, theirs = [], []
        for seed in range(options.seeds):
            with TemporaryDirectory() as place:
                path = Path(place, "data.npz")
                write_split(name, seed, path)
                ours.append(labrun(path, options.seconds, seed, Path(place)))
                theirs.append(flaml(path, ours[-1].seconds, seed))
            one, other = ours[-1], theirs[-1]
            common.progress(f"{name} {seed}: {one.accuracy:.4f} ({one.what}) {other.accuracy:.4f} ({other.what})")
            rows.append(
                [
                    name,
                    str(seed),
                    f"{one.accuracy:.4f}",
                    f"{one.seconds:.0f}",
                    str(one.trials),
                    one.what,
                    f"{other.accuracy:.4f}",
                    f"{other.seconds:.0f}",
                    other.what,
                ]
            )
        word, mine, other_mean = verdict(ours, theirs)
        words[name] = word
        spreads = [statistics.stdev([o.accuracy for o in side]) if len(side) > 1 else 0.0 for side in (ours, theirs)]
        summary.append([name, f"{mine:.4f} ± {spreads[0]:.4f}", f"{other_mean:.4f} ± {spreads[1]:.4f}", word])
    good = sum(word in ("better", "equal") for word in words.values())
    strictly = any(words.get(name) == "better" for name in (SETS[0], SETS[-1]))
    holds = all(word != "worse" for word in words.values()) and good >= 4 and strictly
    claim = (
        "Claimed: test accuracy, mean of the seeds, not worse than FLAML's beyond the spread on any set, better or "
        "equal on at least four of the five, strictly better on the digits or the made set. Measured: better or equal "
        f"on {good} of {len(words)}. **{'Holds' if holds else 'Missed'}.**"
    )
    parts = [
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        common.table(["data set", "labrun, accuracy", "FLAML, accuracy", "labrun is"], summary),
        claim,
        common.table(["data set", "seed", "labrun", "s", "trials", "offered", "FLAML", "s", "chosen"], rows),
    ]
    common.report("automl", "AutoML", parts, ["scikit-learn", "optuna", "flaml"], options.save)


if __name__ == "__main__":
    main()
