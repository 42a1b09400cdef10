"""An open MLflow view. Sends runs first, then registered models, which refer to the runs that they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labrun.tracking.base import ProgressCallback
from labrun.tracking.mlflow import registry_sync
from labrun.tracking.mlflow.ingester import Ingester


class MLflowSession:
    """See `labrun.tracking.base.Session`.

    Args:
        root: the workspace.
        uri: MLflow's database or server.
    """

    def __init__(self, root: Path, uri: str) -> None:
        self._root, self._ingester = root, Ingester(root, uri)
        self.left_out = self._ingester.left_out

    @property
    def is_lost(self) -> bool:
        """Whether the database was deleted since it was opened."""
        return self._ingester.is_lost

    def send(self, progress: ProgressCallback | None, must_end: Callable[[], bool]) -> int:
        """Send what is new of the runs, then of the models."""
        news = self._ingester.ingest(progress, must_end)
        if not must_end():
            registry_sync.restore(self._root, self._ingester)
        return news
