"""The projects of `examples/`, copied to where a test may run them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import call_here, run_labrun
from labrun import app
from labrun.runs import record as records
from labrun.runs.record import Record

EXAMPLES = Path(__file__).parents[1] / "examples"
WRITTEN = {"outputs", "multirun", "data", ".venv", "uv.lock"}
"""What a person's own runs have left in an example's folder."""


class Project:
    """A copy of an example.

    Args:
        name: the example's folder.
        parent: where the copy comes to lie.
    """

    def __init__(self, name: str, parent: Path) -> None:
        top = EXAMPLES / name
        self.folder = parent / name

        def unwanted(place: str, names: list[str]) -> set[str]:
            return {"__pycache__"} | (WRITTEN if Path(place) == top else set())

        shutil.copytree(top, self.folder, ignore=unwanted)

    def labrun(self, *arguments: str) -> str:
        """Carry a command out, to its end; what it shows."""
        done = run_labrun(*arguments, "tracking=none", "report=none", cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def run(self, *arguments: str) -> tuple[Record, Path]:
        """Carry a single run out, in this process; its record and its folder."""
        app.register()
        before = set(self.folder.glob("outputs/*/*/run.json"))
        with self.script():
            assert call_here(app.main, "labrun", *arguments, "tracking=none", "report=none") == 0
        (path,) = set(self.folder.glob("outputs/*/*/run.json")) - before
        record = records.read(path.parent)
        assert record.status == records.COMPLETED
        return record, path.parent

    def swept(self) -> list[dict[str, Any]]:
        """The records of the only sweep, as they stand in their files."""
        found = [json.loads(path.read_text()) for path in sorted(self.folder.glob("multirun/*/*/*/run.json"))]
        assert all(record["status"] == records.COMPLETED for record in found)
        return found

    @contextlib.contextmanager
    def script(self) -> Iterator[None]:
        """Inside, this process is a script in the project's folder."""
        place, known = Path.cwd(), set(sys.modules)
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        try:
            yield
        finally:
            sys.path.remove(str(self.folder))
            os.chdir(place)
            for name in set(sys.modules) - known:
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.folder)):
                    del sys.modules[name]
