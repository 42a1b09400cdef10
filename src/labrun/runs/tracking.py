"""MLflow as a view of the records: fed by one ingester at a time, idempotently, beside the runs.

The run writes only its own directory. An ingester is a small process of its own, so that MLflow's imports (seconds)
never stand in a run's way. It reads run directories and sends what is new; a lock decides who does, the others wait.
What it has sent is noted in `outputs/.labrun/tracking.json` and can be lost: every call to MLflow is one that may be
repeated, and runs are found again by their id.

MLflow's database is made by one process, under another name, and put in place whole: many that open a fresh one at the
same time would break it for good, and so would a kill in its making.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.runs import record as records
from labrun.runs import store, viewing

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
PATIENCE_S = 60.0
"""How long `sync` leaves it to another process before it gives up."""
SURROUNDINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
"""How MLflow is used here, unless the environment says otherwise. No connection is kept, so that a database that is
deleted and made anew is seen by who was there before."""


def database_path(root: Path) -> Path:
    """A workspace's own MLflow database."""
    return store.state_folder(root) / "mlflow.db"


def database_uri(root: Path) -> str:
    """Its address."""
    return f"sqlite:///{database_path(root)}"


def address(root: Path, settings: Mapping[str, Any]) -> str:
    """Where MLflow keeps the view of these runs."""
    return str(settings.get("uri") or database_uri(root))


def quiet() -> None:
    """Have MLflow keep its advice and its database's history to itself."""
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def is_database(uri: str) -> bool:
    """Whether that is a database file on this machine, and no server."""
    return uri.startswith("sqlite:///")


def connect(root: Path, uri: str) -> Any:
    """A client of MLflow's, for runs and models; its database is made if it is not there.

    Raises:
        RecordError: it cannot be opened.
    """
    quiet()
    with told(uri):
        from mlflow.tracking import MlflowClient

        if not is_database(uri):
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
        with making(root):
            _make_database(root, Path(uri.removeprefix("sqlite:///")))
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
        return client


@contextlib.contextmanager
def making(root: Path) -> Iterator[None]:
    """Alone among the processes of a workspace: for what MLflow would make twice."""
    from filelock import FileLock

    folder = store.state_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "mlflow.lock"):
        yield


def _make_database(root: Path, path: Path) -> None:
    if path.exists() and path.stat().st_size:  # an empty one is what opening a deleted one leaves
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    for rest in path.parent.glob(f"{partial.name}*"):
        rest.unlink()
    made = SqlAlchemyStore(f"sqlite:///{partial}", (store.state_folder(root) / "mlruns").as_uri())
    made.engine.dispose()
    os.replace(partial, path)


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """MLflow's errors as ours.

    Raises:
        RecordError: MLflow raised something.
    """
    try:
        yield
    except RecordError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("mlflow", "sqlalchemy", "requests", "sqlite3", "alembic")):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        more = ""
        if is_database(uri):
            more = ". The view can be made anew from the records: move the file away, and say 'lab runs sync'"
        raise RecordError(f"MLflow at {uri} refused: {lines[0][:500]}{more}") from error


@contextlib.contextmanager
def follow(root: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Feed MLflow while the work inside goes on, and once more after it.

    Args:
        root: the workspace.
        settings: the config's `tracking`.
    """
    if settings["kind"] == "none":
        yield
        return
    uri = address(root, settings)
    process, output = _start(root, uri)
    try:
        yield
    finally:
        # The end of its standard input tells the ingester that the runs are over; a kill of this process does too.
        if process.stdin is not None:
            process.stdin.close()
        if settings.get("wait") and process.wait() != 0:
            log.warning("MLflow at %s could not be fed; %s says why. The records are whole", uri, output)


def _start(root: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
    """This module as a process of its own; its standard input is open, what it says goes to a file."""
    folder = store.state_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "labrun.runs.tracking", str(root), *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LABRUN_RUN")}
    with open(folder / "tracking.log", "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, env=environment
        )
    return process, folder / "tracking.log"


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a config under its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def allowed(name: str) -> str:
    """MLflow takes letters, digits, and some signs in names; anything else becomes an underscore."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def sync(root: Path, uri: str | None = None, patience_s: float = PATIENCE_S) -> int:
    """Bring MLflow up to date with the records, models included; returns how many runs had news.

    Args:
        root: the workspace.
        uri: MLflow's database or server; None: the workspace's own.
        patience_s: how long to leave it to another process that feeds MLflow now.

    Raises:
        RecordError: MLflow refused, or another process that feeds it has not got to it.
    """
    from labrun.runs.ingesting import Ingester

    uri = uri or database_uri(root)
    began = time.time()
    lock = _lock(root)
    while not _taken(lock):
        news = _fed_since(root, uri, began)
        if news is not None:
            return news
        if time.time() - began > patience_s:
            raise RecordError(
                f"another process of this workspace feeds MLflow, and has not come to {uri} within {patience_s:.0f} s: "
                "wait until its runs, or 'lab ui', have ended"
            )
        time.sleep(0.2)
    try:
        with told(uri):
            return _round(root, Ingester(root, uri))
    finally:
        lock.release()


def forget(root: Path, run_ids: Sequence[str]) -> None:
    """Mark runs as deleted in MLflow: in the background, and as far as that can be done."""
    uris = [database_uri(root)] if database_path(root).exists() else []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        uris.append(str(json.loads(viewing.notes(root).read_text(encoding="utf-8"))["uri"]))
    for uri in dict.fromkeys(uris):
        with contextlib.suppress(OSError):
            process, _ = _start(root, uri, "forget")
            assert process.stdin is not None
            process.stdin.write("\n".join(run_ids).encode())
            process.stdin.close()


def _forget(root: Path, uri: str, run_ids: Sequence[str]) -> None:
    client = connect(root, uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    for run_id in run_ids:
        for run in client.search_runs(experiments, f"tags.`labrun.id` = '{run_id}'"):
            client.delete_run(run.info.run_id)


def _lock(root: Path) -> Any:
    from filelock import FileLock

    store.state_folder(root).mkdir(parents=True, exist_ok=True)
    return FileLock(store.state_folder(root) / "tracking.lock")


def _taken(lock: Any) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _round(root: Path, ingester: Any) -> int:
    """All that is new, and the models that MLflow has lost; then say so to those who wait."""
    from labrun.runs import restoring

    began = time.time()
    news = int(ingester.ingest())
    restoring.restore(root, ingester)
    content = json.dumps({"uri": ingester.uri, "began": began, "news": news})
    records.replace_text(store.state_folder(root) / "tracking.round.json", content, to_disk=False)
    return news


def _fed_since(root: Path, uri: str, time_s: float) -> int | None:
    """The news of a round that another process began after that time; None: there was none yet."""
    try:
        content = json.loads((store.state_folder(root) / "tracking.round.json").read_text(encoding="utf-8"))
        return int(content["news"]) if content["uri"] == uri and content["began"] >= time_s else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main(root: Path, uri: str) -> None:
    """Feed MLflow until standard input ends, then once more. One at a time; the others leave it to that one."""
    _stand_back(True)
    threading.Thread(target=_come_forward_in_the_end, daemon=True).start()
    from labrun.runs.ingesting import Ingester

    lock = _lock(root)
    starter_lives, ended = True, 0.0
    while not _taken(lock):
        if starter_lives:
            starter_lives = not _input_ended(1.0)
            ended = time.time()
        elif _fed_since(root, uri, ended) is not None:
            return
        else:
            time.sleep(0.5)
    ingester = Ingester(root, uri)
    while starter_lives:
        began = time.monotonic()
        ingester = Ingester(root, uri) if ingester.is_lost else ingester
        _round(root, ingester)
        starter_lives = not _input_ended(max(INTERVAL_S, 10 * (time.monotonic() - began)))
    _round(root, ingester)
    lock.release()


def _stand_back(back: bool) -> None:
    """Leave the cores to the runs: the view can wait, and they cannot. Once they are over, take part as others do.

    Else whoever waits for the last round waits for minutes on a machine that others keep busy.
    """
    # Linux may share the cores between sessions first; this is a session of its own, whose niceness is told here.
    with contextlib.suppress(OSError):
        if Path("/proc/sys/kernel/sched_autogroup_enabled").read_text(encoding="ascii").strip() == "1":
            Path("/proc/self/autogroup").write_text("19" if back else "0", encoding="ascii")
            return
    if back:  # for good: only root takes it back
        with contextlib.suppress(OSError):
            os.nice(10)


def _come_forward_in_the_end() -> None:
    select.select([0], [], [])
    _stand_back(False)


def _input_ended(timeout_s: float) -> bool:
    ready, _, _ = select.select([0], [], [], timeout_s)
    return bool(ready) and not os.read(0, 4096)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if sys.argv[3:] == ["forget"]:
        _forget(Path(sys.argv[1]), sys.argv[2], sys.stdin.read().split())
    else:
        main(Path(sys.argv[1]), sys.argv[2])
