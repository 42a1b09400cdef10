"""Duration of a logistic regression on MNIST: scikit-learn as in tutorials, against labrun.

Every fit runs in a separate process, alternating between the sides. For scikit-learn, only `fit` is timed; for labrun,
all of `Task.fit`, including the conversion of the pixels.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import common

REGULARIZATION = 0.8
EXPERIMENT = ("experiment=mnist_logreg", f"model.regularization={REGULARIZATION}")
PLAIN, LABRUN, INTELEX = "scikit-learn, float64", "labrun", "labrun, backend=intelex"
SPEEDUP, TOLERANCE = 5.0, 0.001
"""Claimed minimum speedup, and maximum difference in test accuracy."""


@dataclass(frozen=True)
class Fit:
    """Result of one fit."""

    time: common.Time
    accuracy: float
    iterations: int


def plain(data: str) -> Fit:
    """Fit as tutorials do: pixels divided by 255, which makes them float64."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore", ConvergenceWarning)
    arrays = common.labrun_arrays(common.labrun_config(data, EXPERIMENT))
    train, test = (part.x.reshape(len(part), -1) / 255.0 for part in (arrays.train, arrays.test))
    model = LogisticRegression(C=1 / REGULARIZATION, random_state=42, max_iter=100)
    with common.stopwatch() as time:
        model.fit(train, arrays.train.y)
    return Fit(time, float((model.predict(test) == arrays.test.y).mean()), int(model.n_iter_.max()))


def labrun(data: str, backend: str = "sklearn") -> Fit:
    """Fit as `labrun experiment=mnist_logreg model.regularization=0.8` does."""
    from labrun.tasks import model_builder

    config = common.labrun_config(data, [*EXPERIMENT, f"model.backend={backend}"])
    arrays = common.labrun_arrays(config)
    with common.run_folder() as paths:
        work = model_builder.make(config, arrays)
        with common.stopwatch() as time:
            work.fit(arrays, paths, None)
    model = work.model  # type: ignore[attr-defined]
    return Fit(time, work.score(arrays.test, arrays).accuracy or 0.0, int(max(model.n_iter_)))


def measure(measurer: common.Measurer, data: str, pairs: int, intelex: bool) -> dict[str, list[Fit]]:
    """Run all fits, alternating between the sides."""
    sides: dict[str, tuple[Any, ...]] = {
        PLAIN: (plain, data),
        LABRUN: (labrun, data),
        INTELEX: (labrun, data, "intelex"),
    }
    if not intelex:
        del sides[INTELEX]
    fits: dict[str, list[Fit]] = {name: [] for name in sides}
    for number in range(1, pairs + 1):
        for name, (function, *args) in sides.items():
            fits[name].append(measurer(f"{number}/{pairs} {name}", function, *args))
    return fits


def speedups(fits: dict[str, list[Fit]], name: str) -> list[float]:
    """Return a side's speedup over scikit-learn, for each pair."""
    return [base.time.seconds / fit.time.seconds for base, fit in zip(fits[PLAIN], fits[name], strict=True)]


def accuracy_gap(fits: dict[str, list[Fit]], name: str) -> float:
    """Return the largest difference between a side's test accuracy and scikit-learn's, over all pairs."""
    return max((f.accuracy - b.accuracy for b, f in zip(fits[PLAIN], fits[name], strict=True)), key=abs)


def row(fits: dict[str, list[Fit]], name: str) -> list[str]:
    """Return the table row of one side."""
    own = fits[name]
    return [
        name,
        common.middle_and_range([fit.time.seconds for fit in own], 2),
        common.middle_and_range(speedups(fits, name)) if name != PLAIN else "1",
        str(own[-1].iterations),
        f"{own[-1].accuracy:.4f}",
        f"{accuracy_gap(fits, name):+.4f}" if name != PLAIN else "",
    ]


def verdict(fits: dict[str, list[Fit]]) -> str:
    """Return a sentence on whether the claim holds."""
    ratio, gap = statistics.median(speedups(fits, LABRUN)), abs(accuracy_gap(fits, LABRUN))
    holds = ratio >= SPEEDUP and gap <= TOLERANCE
    return (
        f"Claim: at least {SPEEDUP:g} times faster, test accuracy within {TOLERANCE:g}. "
        f"Measured: {ratio:.1f} times, {gap:.4f} apart. **{'Holds' if holds else 'Missed'}.**"
    )


def main() -> None:
    """Measure, and print the table."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="fits per side, the sides in turn")
    parser.add_argument("--intelex", action="store_true", help="a third side: backend=intelex")
    options = parser.parse_args()
    measurer = common.Measurer()
    fits = measure(measurer, options.data, options.pairs, options.intelex)
    header = ["", "seconds per fit", "times faster", "iterations", "test accuracy", "difference"]
    what = (
        f"MNIST, 60,000 x 784, C = 1/{REGULARIZATION}, lbfgs, at most 100 iterations. Median (lowest - highest) of "
        f"{options.pairs} fits per side, taken in turn, each in a fresh process; without imports and reading."
    )
    parts = [what, common.table(header, [row(fits, name) for name in fits]), verdict(fits), measurer.note()]
    packages = ["numpy", "scipy", "scikit-learn", *(["scikit-learn-intelex"] if options.intelex else [])]
    common.report("logistic_regression", "Logistic regression on MNIST", parts, packages, options.save)


if __name__ == "__main__":
    main()
