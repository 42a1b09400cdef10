"""A sweep as Python sees it: its runs, the best of them, all of them as a table."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.control import cancel, objective
from labrun.errors import RecordError
from labrun.handles import Handle, Run, Submission
from labrun.runs import record as records
from labrun.runs import store, sweep_state
from labrun.runs.record import Record
from labrun.runs.sweep_state import SweepState

if TYPE_CHECKING:
    import pandas


def _place(record: Record) -> tuple[int, str]:
    """Where a run stands among its sweep's: by its number, or by the name in its place."""
    number = (record.sweep or {}).get("number", 0)
    return (number, "") if isinstance(number, int) else (sys.maxsize, str(number))


class Sweep(Handle):
    """The runs of one sweep or search.

    Args:
        folder: the sweep's.
        submission: the process that carries it out, if it was started from here.

    Raises:
        RecordError: no sweep lies there.
    """

    def __init__(self, folder: str | os.PathLike[str], submission: Submission | None = None) -> None:
        super().__init__(folder, submission)
        if not SweepState(self.folder).root.is_dir() and not any(self.folder.glob("*/run.json")):
            raise RecordError(f"{folder} holds no sweep: labrun.get_run finds one by its folder")

    def __repr__(self) -> str:
        return f"Sweep({self.folder.parent.name}, {self.status}, {len(self.get_children())} runs)"

    @property
    def id(self) -> str:
        """The last part of its folder's name."""
        return self.folder.name.rpartition("-")[2]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.folder.parent.name

    def get_children(self, **_: Any) -> list[Run]:
        """Its runs, in their order."""
        found = []
        for path in self.folder.glob("*/run.json"):
            with contextlib.suppress(RecordError):
                found.append(Run(path.parent))
        return sorted(found, key=lambda run: (*_place(run.record), run.folder.name))

    @property
    def status(self) -> str:
        """`running` while anything of it goes on; then `completed`, `failed` if any run failed, or `canceled`."""
        states = [run.status for run in self.get_children()]
        if not self._has_ended(states):
            return records.RUNNING if states else records.QUEUED
        for status in (records.FAILED, records.LOST, records.CANCELED):
            if status in states:
                return records.FAILED if status == records.LOST else status
        return records.COMPLETED

    def _has_ended(self, states: Sequence[str]) -> bool:
        from labrun.control import lease
        from labrun.search import takeover

        state = SweepState(self.folder)
        if lease.living(state) is not None or (self.submission and self.submission.process.poll() is None):
            return False
        over = {*records.FINISHED, records.LOST}
        with contextlib.suppress(RecordError):
            plan = sweep_state.read_plan(self.folder)
            if plan.command is not None and not takeover.is_over(self.folder):
                return bool(states) and all(state in over for state in states)
            if len(states) < len(plan.runs):
                return False
        return all(state in over for state in states)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._has_ended([run.status for run in self.get_children()])

    @property
    def metric(self) -> str:
        """The metric that its runs are compared by."""
        children = self.get_children()
        return objective.common([child.record for child in children]).metric if children else "accuracy"

    def get_best_child(self, metric: str | None = None, **_: Any) -> Run:
        """The completed run with the best value.

        Args:
            metric: None: the sweep's own.

        Raises:
            RecordError: no completed run has it.
        """
        pairs = [(run.folder, run.record) for run in self.get_children()]
        if metric is None:
            wanted = objective.common([record for _, record in pairs]) if pairs else None
            ranked = sorted(pairs, key=lambda pair: -objective.rank(pair[1], wanted))
            if ranked and objective.rank(ranked[0][1], wanted) > float("-inf"):
                return Run(ranked[0][0])
        return Run(store.best(pairs, metric or self.metric, lambda run_dir, record: True, self.folder)[0])

    get_best_run_by_primary_metric = get_best_child

    def get_metrics(self, name: str | None = None, **_: Any) -> dict[str, dict[str, float]]:
        """The last values of each run's metrics, by the run's id.

        Args:
            name: only this one.
        """
        return {run.id: {k: v for k, v in run.metrics.items() if name in (None, k)} for run in self.get_children()}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each run: its number, id, status, duration, swept keys and metrics."""
        import pandas

        rows = []
        for run in self.get_children():
            record = run.record
            given = dict(text.lstrip("+").partition("=")[::2] for text in record.overrides)
            rows.append(
                {
                    "number": (record.sweep or {}).get("number"),
                    "id": run.id,
                    "status": run.status,
                    "duration_s": record.duration_s,
                    **given,
                    **record.metrics,
                }
            )
        return pandas.DataFrame(rows)

    def get_details(self) -> dict[str, Any]:
        """What it is, and its runs."""
        children = self.get_children()
        return {
            "runId": self.id,
            "experiment": self.name,
            "status": self.status,
            "folder": str(self.folder),
            "children": [{"runId": r.id, "status": r.status, "metrics": r.metrics} for r in children],
        }

    def cancel(self) -> None:
        """Ask all of it to stop, and wait until it has, 20 seconds at most."""
        from labrun.search import takeover

        with contextlib.suppress(RecordError):
            if sweep_state.read_plan(self.folder).command is not None:
                takeover.cancel(self.folder)
        cancel.end_runs([run.folder for run in self.get_children() if not run.record.finished])

    def log_file(self) -> Path | None:
        """Where what its controller prints is kept."""
        return self.submission.log if self.submission else SweepState(self.folder).controller_log

    def failure(self) -> str | None:
        """How many of its runs failed, if any did, and why the first."""
        failed = [run for run in self.get_children() if run.status in (records.FAILED, records.LOST)]
        if not failed:
            return None
        return f"{len(failed)} of {len(self.get_children())} runs failed; the first: {failed[0].failure()}"

    def _repr_html_(self) -> str:
        from labrun import notebook

        return notebook.page(self)
