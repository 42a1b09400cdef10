"""Reports of running trials, read from their folders only."""

from __future__ import annotations

from pathlib import Path

from labrun.control.objective import Objective
from labrun.runs import context
from labrun.search.policies import Curve


class Reports:
    """The reports of one trial's primary metric, read as they arrive.

    Args:
        run_dir: folder of the trial's run.
        number: the trial's number.
        objective: the primary metric.
    """

    def __init__(self, run_dir: Path, number: int, objective: Objective) -> None:
        self.curve = Curve(number)
        self.values: list[float] = []
        self.judged = 0
        """Number of reports that the policy has evaluated."""
        self._path, self._run_dir, self._objective = run_dir / context.METRICS_FILE, run_dir, objective
        self._size = 0

    def read(self) -> None:
        """Read new reports, if any."""
        try:
            size = self._path.stat().st_size
        except OSError:
            return
        if size == self._size:
            return
        self._size = size
        name = self._objective.metric
        self.values = [line["value"] for line in context.read_metrics(self._run_dir) if line["name"] == name]
        self.curve.scores = [self._objective.score(value) for value in self.values]
        # A later attempt may have discarded some reports; their replacements are evaluated again.
        self.judged = min(self.judged, len(self.values))
