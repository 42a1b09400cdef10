"""Python handle of a registered model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labrun.errors import RecordError


class Model:
    """One version of a registered model."""

    def __init__(self, name: str, version: int, root: Path) -> None:
        self.name, self.version, self._root = name, version, root

    def __repr__(self) -> str:
        names = self.needs_trusted
        trusting = f", trusted={names!r} where it is not trusted automatically" if names else ""
        return f"Model({self.name}/{self.version}{trusting})"

    @property
    def needs_trusted(self) -> list[str]:
        """Names to pass to `load` as `trusted` where the model is not trusted automatically; empty if none."""
        from labrun.registry import models
        from labrun.runs import model_journal

        try:
            return models.needed(self._root, model_journal.find(self._root, self.id))
        except RecordError:  # it was removed
            return []

    @property
    def id(self) -> str:
        """`name/version`, as accepted by `load_model`."""
        return f"{self.name}/{self.version}"

    def load(self, trusted: Sequence[str] = (), allow_pickle: bool = False) -> Any:
        """Load the model; see `labrun.load_model`."""
        from labrun.tasks.saved import load_model

        return load_model(self.id, root=self._root, trusted=trusted, allow_pickle=allow_pickle)
