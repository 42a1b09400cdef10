"""Weights & Biases as a tracker: each finished run becomes an offline run, created from its record alone.

Offline runs are folders; `wandb sync` uploads them from any machine that can reach a server. wandb writes a run only
once, from start to end, so a run is written when it has ended and rewritten if its record changes afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from labrun.config.schema import Tracking
from labrun.errors import RecordError
from labrun.runs import context, removing, store
from labrun.runs.record import (
    COMPLETED,
    FINISHED,
    LOST,
    STOPPED,
    Record,
    RunPaths,
    is_id,
    read_record,
    replace_text,
    shown_status,
)
from labrun.runs.run_names import RunNames
from labrun.runs.status import Status
from labrun.runs.workspace import Workspace
from labrun.tracking.base import LeftOut, ProgressCallback, Session, Tracker, stamp_of

ENDED = frozenset({*FINISHED, LOST})
TAG_LENGTH = 64
"""Maximum number of characters of a tag in wandb."""


class Wandb(Tracker):
    """Offline runs in a folder of the workspace."""

    kind = "wandb"
    label = "wandb"

    def problems(self, settings: Tracking) -> Iterable[str]:
        """Check that wandb is installed and `tracking.uri` is not a server; yield a message for each problem."""
        if importlib.util.find_spec("wandb") is None:
            yield "tracking=wandb: the package wandb is not installed: uv sync --extra wandb, or pip install wandb"
        if "://" in str(settings.uri or ""):
            yield (
                f"tracking.uri={settings.uri}: tracking=wandb writes offline runs to a folder; 'wandb sync' sends "
                "them to a server"
            )

    def address(self, root: Path, settings: Tracking) -> str:
        """Return the folder whose `wandb/` holds the offline runs."""
        named = settings.uri
        return str((root / str(named)).resolve() if named else Workspace(root).state)

    def follows(self, settings: Tracking) -> bool:
        """Return True: offline runs are written as runs end; with `tracking.wait` the command waits for the last."""
        return True

    def open(self, root: Path, address: str, everything: bool = False) -> Session:
        """See `Tracker.open`."""
        return OfflineRuns(root, Path(address), self.key(root, address), everything)

    def has_view(self, root: Path) -> bool:
        """Return whether the workspace has offline runs."""
        return (Workspace(root).state / "wandb").is_dir()

    def shown(self, root: Path, record: Record, run_dir: Path) -> str:
        """Return the command that uploads the run."""
        folder = Path(self.address(root, record.typed.tracking), "wandb")
        return f"wandb sync {shlex.quote(str(folder))}/offline-run-*-{record.id}"


class OfflineRuns:
    """The offline runs of a workspace; see `Session`.

    Args:
        root: the workspace.
        folder: the folder whose `wandb/` holds them.
        key: name suffix of the notes on what was sent.
        everything: include runs whose record selects another tracker.
    """

    is_lost = False

    def __init__(self, root: Path, folder: Path, key: str, everything: bool) -> None:
        self._root, self._folder, self._everything = root, folder, everything
        self._notes = Workspace(root).note("tracking", key)
        self._names = RunNames()
        self.left_out = LeftOut()
        self._sent: dict[str, dict[str, str]] = {}
        """For each run: its stamp when it was last sent, and its offline run."""
        self._others: dict[Path, str] = {}
        """Stamps of runs that select another tracker."""
        self._removed = 0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(context.content(self._notes))
            self._sent = {str(key): dict(value) for key, value in content["runs"].items()}
            self._removed = int(content["removed"])

    def send(self, progress: ProgressCallback | None, must_end: Callable[[], bool]) -> int:
        """See `Session.send`."""
        news = self._delete_removed()
        waiting = [
            (d, stamp)
            for d in store.run_dirs(self._root)
            if (stamp := stamp_of(d, context.METRICS_FILE)) not in (self._noted(d), self._others.get(d))
        ]
        try:
            for done, (run_dir, stamp) in enumerate(waiting):
                if must_end():
                    break
                if progress is not None:
                    progress(done, len(waiting))
                news += self._send(run_dir, stamp)
        finally:
            if (wandb := sys.modules.get("wandb")) is not None:
                wandb.teardown()  # end wandb's service process; the next round starts a new one
        return news

    def _noted(self, run_dir: Path) -> str | None:
        sent = self._sent.get(str(run_dir), {})
        return sent.get("stamp") if (self._folder / "wandb" / sent.get("folder", "")).is_dir() else None

    def _send(self, run_dir: Path, stamp: str) -> bool:
        name = os.path.relpath(run_dir, self._root)
        try:
            record = read_record(run_dir)
            if not self._everything and record.typed.tracker != Wandb.kind:
                self._others[run_dir] = stamp
                return False
            if (status := shown_status(run_dir, record)) not in ENDED:
                return False
            self._drop(str(run_dir), record.id)
            try:
                made = self._write(record, run_dir, status, name)
            except BaseException:
                self._drop(str(run_dir), record.id)  # `wandb sync` would upload an incomplete run
                raise
        except RecordError as error:
            self.left_out.add(str(error))
            return False
        except Exception as error:  # noqa: BLE001 - the other runs are sent
            first = next(iter(str(error).strip().splitlines()), "")
            self.left_out.add(name, {f"{type(error).__name__}: {first}": 1})
            return False
        self._sent[str(run_dir)] = {"stamp": stamp, "folder": made}
        self._save()
        return True

    def _write(self, record: Record, run_dir: Path, status: Status, shown: str) -> str:
        """Write the offline run; return its folder's name."""
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        tags = [f"{key}={value}" if value else key for key, value in record.tags.items()]
        run = wandb.init(
            project=record.name,
            id=record.id,
            name=self._names.name(record, run_dir),
            group=Path(str(record.sweep.folder)).name if record.sweep is not None else None,
            job_type=record.task,
            config=_plain(record.config),
            tags=[tag[:TAG_LENGTH] for tag in tags] or None,
            notes=record.notes or None,
            dir=str(self._folder),
            mode="offline",
            reinit="finish_previous",
            settings=settings,
        )
        try:
            for step, values in self._history(run_dir, shown):
                run.log(values, step=step)
            run.summary.update({**record.metrics, "labrun/status": status, "labrun/folder": str(run_dir)})
        finally:
            run.finish(exit_code=0 if status in (COMPLETED, STOPPED) else 1)
        return Path(run.dir).parent.name

    def _history(self, run_dir: Path, shown: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the metrics by step, which must increase for wandb; values at negative steps are skipped."""
        by_step: dict[int, dict[str, Any]] = {}
        for line in context.read_metrics(run_dir):
            if line["step"] < 0:
                self.left_out.add(shown, {f"a value of {line['name']!r:.60} at a step below zero": 1})
                continue
            row = by_step.setdefault(line["step"], {})
            row[line["name"]] = line["value"]
            row["_timestamp"] = line["time"]
            if line.get("epoch") is not None:
                row["epoch"] = line["epoch"]
        yield from sorted(by_step.items())

    def _delete_removed(self) -> int:
        """Delete the offline runs of runs removed from the workspace since the last time; return their number."""
        removed, end = removing.noted(self._root, self._removed)
        gone = 0
        for run_id, folder in removed:
            if not RunPaths(Path(folder)).record.exists():  # otherwise it came back
                gone += folder in self._sent
                self._drop(folder, run_id)
        if end != self._removed:
            self._removed = end
            self._save()
        return gone

    def _drop(self, key: str, run_id: str) -> None:
        """Delete the offline runs of a run, whether or not they are noted."""
        self._sent.pop(key, None)
        if not is_id(run_id):
            return
        others = {sent["folder"] for sent in self._sent.values()}  # for example of a copy of the run
        for made in (self._folder / "wandb").glob(f"offline-run-*-{run_id}"):
            if made.name not in others:
                shutil.rmtree(made, ignore_errors=True)

    def _save(self) -> None:
        content = {"removed": self._removed, "runs": self._sent}
        replace_text(self._notes, json.dumps(content), to_disk=False)


def _plain(value: Any) -> Any:
    """Convert a config's keys to text, since wandb stores JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
