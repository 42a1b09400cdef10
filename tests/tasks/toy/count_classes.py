"""A third-party task that counts the samples per class: the example of docs/architecture.md."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from labrun.runs import context
from labrun.tasks import reading, summary
from labrun.tasks.base import Run, TaskType


class CountClasses(TaskType):
    """Logs a metric for each class, and trains nothing."""

    name = "count_classes"

    def problems(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Refuse regression data, which have no classes."""
        if (config.get("dataset") or {}).get("regression"):
            yield "dataset.regression=true: task=count_classes counts classes, and a quantity has none"

    def run(self, run: Run) -> None:
        """Read the data, and count the classes."""
        began = time.monotonic()
        arrays = reading.arrays_of_run(run)
        for name, count in zip(arrays.class_names, np.bincount(arrays.train.y), strict=True):
            context.log(f"train/{name}", int(count))
        summary.print_result(run.record, summary.data_line(arrays), time.monotonic() - began, run.paths)
