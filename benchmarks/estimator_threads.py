"""Check the rule for an estimator's threads: one for small data, all that are allowed for more.

Estimators are fitted to random samples with one thread and with one thread per core, in turn, on a quiet machine and
next to a busy Python process. Only times of the same round are compared. A ratio above 1 means that one thread is
faster; the rule should choose one thread where the ratio is at least about 1 in both conditions.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import common
import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from threads import CORES, Neighbour

from labrun.tasks.threads import SMALL_ROWS, SMALL_VALUES, for_estimator

ESTIMATORS = {
    "LogisticRegression": lambda: LogisticRegression(max_iter=50),
    "Ridge": lambda: Ridge(solver="cholesky"),
    "MLPClassifier": lambda: MLPClassifier(max_iter=3),
    "KernelRidge": lambda: KernelRidge(kernel="rbf"),
}
SIZES = ((1_438, 64), (5_000, 200), (20_000, 784))
MOST_OF_KERNEL = 5_000
"""Samples up to which the kernel ridge regression is fitted: its time grows with their cube."""
ROUNDS = 3


def main() -> None:
    """Measure every estimator at every size."""
    options = common.parser(str(__doc__)).parse_args()
    if CORES < 2:
        sys.exit("this process may use one core, and there is nothing to compare: start it where it has two or more")
    warnings.filterwarnings("ignore")
    rows, neighbour = [], Neighbour()
    try:
        for name, build in ESTIMATORS.items():
            for samples, columns in SIZES:
                if name == "KernelRidge" and samples > MOST_OF_KERNEL:
                    continue
                chosen = for_estimator("auto", None, CORES, samples, samples * columns).count
                ratios = []
                for is_busy in (False, True):
                    with neighbour.computing(is_busy):
                        ratios.append(common.middle_and_range(_ratios(build, samples, columns), 2))
                rows.append([name, f"{samples:,}", f"{samples * columns:,}", str(chosen), *ratios])
                common.progress(" ".join(rows[-1]))
    finally:
        neighbour.end()
    what = (
        f"Estimators of scikit-learn on random samples of ten classes; quiet, and next to a Python process that "
        f"computes without pause. How many times as long as with one thread it took with {CORES}: median (lowest - "
        f"highest) of {ROUNDS} rounds. The rule gives one thread for at most {SMALL_ROWS:,} samples and "
        f"{SMALL_VALUES:,} values."
    )
    header = ["estimator", "samples", "values", "threads by the rule", "quiet", "busy"]
    parts = [what, common.table(header, rows)]
    common.report("estimator_threads", "Threads of estimators", parts, ["scikit-learn", "numpy"], options.save)


def _ratios(build: Callable[[], Any], samples: int, columns: int) -> list[float]:
    """Return the time with all threads divided by the time with one, for each round."""
    generator = np.random.default_rng(0)
    x, y = generator.random((samples, columns), np.float32), generator.integers(0, 10, samples)
    ratios = []
    for _ in range(ROUNDS):
        seconds = {}
        for count in (1, CORES):
            with threadpool_limits(count):
                began = time.perf_counter()
                build().fit(x, y)
                seconds[count] = time.perf_counter() - began
        ratios.append(seconds[CORES] / seconds[1])
    return ratios


if __name__ == "__main__":
    main()
