"""Sends records to MLflow: only what is new of each run, and idempotently.

A bad record never blocks the others. Items that MLflow refuses or that cannot be read are skipped one by one and
noted; the rest of the run arrives, and its status is correct in any case.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from labrun.errors import RecordError
from labrun.runs import context, removing, store
from labrun.runs.record import (
    CANCELED,
    COMPLETED,
    FAILED,
    LOST,
    PREEMPTED,
    QUEUED,
    RUNNING,
    STOPPED,
    UNREACHABLE,
    Record,
    read_record,
    replace_text,
    shown_status,
)
from labrun.runs.run_names import RunNames
from labrun.runs.workspace import Workspace
from labrun.tracking.base import LeftOut, ProgressCallback, stamp_of
from labrun.tracking.mlflow import client, names, run_sender, sending
from labrun.tracking.mlflow.run_sender import RunGoneError, RunSender, Sent

SAVE_S = 2.0
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow show runs and their curves first, instead of its pages for language models."""
STATUS = {
    QUEUED: "SCHEDULED",
    PREEMPTED: "SCHEDULED",
    RUNNING: "RUNNING",
    COMPLETED: "FINISHED",
    STOPPED: "FINISHED",
    FAILED: "FAILED",
    CANCELED: "KILLED",
    LOST: "FAILED",
    UNREACHABLE: "RUNNING",
}


class Ingester:
    """Sends records to MLflow.

    Args:
        root: the workspace.
        uri: MLflow's database or server.
    """

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self.uri = uri
        self.client = client.connect(root, uri)
        self.left_out = LeftOut()
        self._local = client.is_database(uri)
        self._database = _identity_of(uri)
        self.identity = [self._created(), *self._database]
        """Distinguishes a database from an earlier one at the same path."""
        self._notes = client.kept(root, "tracking", uri)
        self._experiments: dict[str, str] = {}
        self._fresh: dict[str, set[str]] = {}
        """Ids of all runs in experiments that this process created, which nobody else adds runs to."""
        self._folders: dict[str, str] = {}
        """Folders of this workspace's runs, with their spelling in MLflow."""
        self._names = RunNames()
        self._removed = 0
        self._sent: dict[str, Sent] = {}
        self._saved = time.monotonic()
        self._load()

    def ingest(self, progress: ProgressCallback | None = None, must_end: Callable[[], bool] = lambda: False) -> int:
        """Send everything that is new.

        Args:
            progress: called with the progress.
            must_end: checked before each run; what was sent by then is saved.

        Returns:
            The number of runs with news. Items that could not be sent are in `left_out`.

        Raises:
            Exception: MLflow's own error if MLflow is unusable.
        """
        run_dirs = list(store.run_dirs(self._root))
        self._folders = {str(run_dir): names.text(run_dir) for run_dir in run_dirs}
        self._delete_removed()
        self._sent = {key: sent for key, sent in self._sent.items() if key in self._folders}
        waiting = [run_dir for run_dir in run_dirs if self._has_news(run_dir)]
        changed = 0
        try:
            for done, run_dir in enumerate(waiting):
                if must_end():
                    break
                if progress is not None:
                    progress(done, len(waiting))
                changed += self._ingest(run_dir)
                self._save_in_time()
        finally:
            if waiting:
                self._save()
        return changed

    @property
    def is_lost(self) -> bool:
        """Whether the database was deleted since it was opened."""
        return self._local and self._database != _identity_of(self.uri)

    def one(self, run_dir: Path) -> str:
        """Send what is new of one run; return its MLflow id.

        Raises:
            RecordError: the record cannot be read.
            Exception: MLflow's own error if MLflow is unusable.
        """
        key = str(run_dir)
        self._folders = self._folders or {str(one): names.text(one) for one in store.run_dirs(self._root)}
        if key in self._sent and not run_sender.is_there(self.client, self._sent[key].mlflow_id, self.must_stop):
            del self._sent[key]
        if key not in self._sent or self._has_news(run_dir):
            self._send(run_dir)
        return self._sent[key].mlflow_id

    def must_stop(self, error: Exception) -> bool:
        """Return whether an error means that MLflow is unusable, rather than that it refuses an item."""
        if sending.is_database_broken(error):
            return True
        return sending.is_unreachable(error) and not self._answers()

    def _answers(self) -> bool:
        try:
            self.client.search_experiments(max_results=1)
        except Exception:  # noqa: BLE001 - any error means no answer
            return False
        return True

    def _has_news(self, run_dir: Path) -> bool:
        sent = self._sent.get(str(run_dir))
        if sent is None or sent.stamp != stamp_of(run_dir) or sent.size != run_sender.metrics_size(run_dir):
            return True
        try:  # a running run may be lost by now
            return not sent.ended and read_record(run_dir).status == RUNNING
        except RecordError:
            return True

    def _ingest(self, run_dir: Path) -> bool:
        try:
            try:
                return self._send(run_dir)
            except RunGoneError:  # deleted in MLflow but has news: create it again
                del self._sent[str(run_dir)]
                return self._send(run_dir)
        except RecordError as error:
            self.left_out.add(str(error))
        except Exception as error:
            if self.must_stop(error):
                raise
            why = f"{type(error).__name__}: {sending.reason(error)}"
            self.left_out.add(os.path.relpath(run_dir, self._root), {why: 1})
        return False

    def _send(self, run_dir: Path) -> bool:
        """Send what is new of one run; return whether there was anything.

        Raises:
            RunGoneError: the run was deleted in MLflow.
        """
        stamp, key = stamp_of(run_dir), str(run_dir)
        record = read_record(run_dir)
        status = STATUS[shown_status(run_dir, record)]
        is_over = status not in ("RUNNING", "SCHEDULED")
        sent = self._sent.get(key)
        if sent is not None and is_over and not sent.ended and _holds_overtaken(sent, run_dir):
            # MLflow cannot delete single values, so re-create the run to drop those of overtaken attempts.
            self.client.delete_run(sent.mlflow_id)
            sent = None
        if sent is None:
            sent = self._sent[key] = self._run(record, run_dir)
        run = RunSender(self.client, sent, record, run_dir, self.must_stop, self._save_in_time)
        is_new, ends = sent.stamp != stamp, is_over and not sent.ended
        before, had = sent.offset, dict(sent.left_out)
        run.part("its parameters", run.add_params)
        run.part("its metrics", run.add_metrics)
        if is_new:
            run.part("its tags", run.add_tags)
        run.part("its values", run.flush)
        if (is_new or ends) and (is_over or self._local):
            run.part("its files", lambda: run.send_files(self._link(sent.mlflow_id)))
        if is_new or ends:
            run.part("its status", lambda: run.send_status(status, is_over))
        if sent.left_out != had:
            run.part("what is left out", run.tag_left_out)
        new = {what: count - had.get(what, 0) for what, count in sent.left_out.items() if count != had.get(what, 0)}
        self.left_out.add(f"run {record.id} ({os.path.relpath(run_dir, self._root)})", {**new, **run.failed})
        sent.ended = is_over
        sent.stamp = "" if run.failed else stamp  # what failed is tried again
        return is_new or ends or sent.offset != before

    def _link(self, mlflow_id: str) -> Path | None:
        """Return where MLflow looks for a run's files; None for a server."""
        return self._artifacts / mlflow_id / "artifacts" if self._local else None

    @property
    def _artifacts(self) -> Path:
        return Workspace(self._root).mlruns

    def _run(self, record: Record, run_dir: Path) -> Sent:
        """Return the run in MLflow, creating it if necessary, in only one process at a time."""
        with client.making(self._root):
            experiment = self._experiment(record.name)
            fresh = self._fresh.get(experiment)
            is_new = fresh is not None and record.id not in fresh
            if fresh is not None:
                fresh.add(record.id)
            found = None if is_new else self._found(experiment, record, run_dir)
            return Sent(found or self._create(record, run_dir, experiment), experiment)

    def _found(self, experiment: str, record: Record, run_dir: Path) -> str | None:
        """Find the run in MLflow by folder, or by id if it was moved; if its old folder exists, this is a copy."""
        wanted, folder = f"tags.`labrun.id` = '{names.identity(record.id)}'", names.text(run_dir)
        runs = self.client.search_runs([experiment], wanted, max_results=1000)
        there = {str(run.data.tags.get("labrun.folder")): str(run.info.run_id) for run in runs}
        if folder in there:
            return there[folder]
        others = set(self._folders.values()) if there else set()
        moved = next((mlflow_id for other, mlflow_id in there.items() if other not in others), None)
        if moved is not None:
            self.client.set_tag(moved, "labrun.folder", folder)
        return moved

    def _create(self, record: Record, run_dir: Path, experiment: str) -> str:
        tags = {
            "labrun.id": names.identity(record.id),
            "labrun.folder": names.text(run_dir),
            "mlflow.source.name": names.text(record.command),
        }
        name = self._names.name(record, run_dir)
        start = run_sender.milliseconds(record.started or record.created)
        run = self.client.create_run(experiment, start_time=start, tags=tags, run_name=names.text(name))
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            wanted = names.experiment(name)
            found = self.client.get_experiment_by_name(wanted)
            if found and found.lifecycle_stage != "active":
                self.client.restore_experiment(found.experiment_id)
            location = self._artifacts.as_uri() if self._local else None
            tags = EXPERIMENT_TAGS | ({} if wanted == name else {names.ORIGINAL_EXPERIMENT: names.text(name)})
            made = str(found.experiment_id if found else self.client.create_experiment(wanted, location, tags))
            if not found and self._local:  # nobody else creates runs in it
                self._fresh[made] = set()
            self._experiments[name] = made
        return self._experiments[name]

    def _delete_removed(self) -> None:
        """Delete in MLflow the runs that were removed from the workspace since the last time."""
        removed, end = removing.noted(self._root, self._removed)
        for run_id, folder in removed:
            if folder in self._folders:  # it came back
                continue
            sent = self._sent.pop(folder, None)
            for mlflow_id in [sent.mlflow_id] if sent else self._of(run_id, folder):
                try:
                    self.client.delete_run(mlflow_id)
                except Exception as error:
                    if self.must_stop(error):
                        raise
        if end != self._removed:
            self._removed = end
            self._save()

    def _of(self, run_id: str, folder: str) -> list[str]:
        experiments = [one.experiment_id for one in self.client.search_experiments()]
        runs = self.client.search_runs(experiments, f"tags.`labrun.id` = '{names.identity(run_id)}'")
        return [str(run.info.run_id) for run in runs if run.data.tags.get("labrun.folder") == names.text(folder)]

    def _load(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(context.content(self._notes))
            if content["uri"] == self.uri and content["database"] == self.identity:
                self._sent = {key: Sent(**value) for key, value in content["runs"].items()}
                self._removed = int(content["removed"])

    def _save_in_time(self) -> None:
        """Save the notes on what was sent from time to time, so that an interrupted sync need not start over."""
        if time.monotonic() - self._saved > SAVE_S:
            self._save()

    def _save(self) -> None:
        content = {
            "uri": self.uri,
            "database": self.identity,
            "removed": self._removed,
            "runs": {key: asdict(value) for key, value in self._sent.items()},
        }
        replace_text(self._notes, json.dumps(content), to_disk=False)
        self._saved = time.monotonic()

    def _created(self) -> int:
        found = self.client.get_experiment_by_name("Default")
        return int(found.creation_time or 0) if found else 0


def _holds_overtaken(sent: Sent, run_dir: Path) -> bool:
    """Return whether values were sent that a newer attempt has since replaced."""
    counted = context.read_metrics(run_dir, system=True)
    if all(line["attempt"] == 1 for line in counted):
        return False
    there = {run_sender.mark(line) for line in counted}
    with run_sender.opened_metrics(run_dir) as file:
        for text, end in run_sender.whole_lines(file):
            line = context.metric(text) if text is not None and end <= sent.offset else None
            if line is not None and run_sender.mark(line) not in there:
                return True
    return False


def _identity_of(uri: str) -> tuple[int, int]:
    """Return an identity of a database file that changes when the file is replaced; zeros if absent or empty."""
    try:
        status = os.stat(uri.removeprefix("sqlite:///"))
        return (status.st_ino, status.st_dev) if status.st_size else (0, 0)
    except OSError:
        return (0, 0)
