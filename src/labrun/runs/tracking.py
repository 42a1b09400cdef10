"""MLflow as a view of the records: made when somebody looks, by one process at a time, idempotently.

The run writes only its own directory. `lab ui` and `lab runs sync` read the run directories and send what is new; a
lock decides who does, the others wait. Only a server that a person names (`tracking.uri`) is fed while runs go on, by a
small process of its own, so that neither MLflow's imports nor a server that is down stand in a run's way.
What was sent is noted in `outputs/.labrun/tracking.json`, for each server in a file of its own, and can be lost: every
call to MLflow is one that may be repeated, and runs are found again by their id.

MLflow's database is made by one process, under another name, and put in place whole: many that open a fresh one at the
same time would break it for good, and so would a kill in its making.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.errors import RecordError
from labrun.runs import record as records
from labrun.runs import recording, removing, store

if TYPE_CHECKING:
    from labrun.runs.ingesting import Heard, Ingester

log = logging.getLogger(__name__)

INTERVAL_S, LONGEST_S = 2.0, 15.0
"""Between two rounds, the least and the most."""
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
    if (shown := recording.storable(str(root))) != str(root):
        raise RecordError(f"the workspace {shown}: this is not UTF-8, and MLflow can keep no view of its runs there")
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
    """Feed the server that a config names while the work inside goes on, and once more after it.

    The workspace's own view is not fed: nobody looks at it now, and who does brings it up to date.

    Args:
        root: the workspace.
        settings: the config's `tracking`.
    """
    if settings["kind"] == "none" or not settings.get("uri"):
        if settings.get("wait"):
            log.warning("tracking.wait=true waits for the server of tracking.uri, and there is none: lab runs sync")
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


def _start(root: Path, uri: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A feeder, a process of its own; its standard input is open, what it says goes to a file."""
    folder = store.state_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "labrun.runs.feeder", str(root), uri]
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


@dataclass(frozen=True)
class Fed:
    """What came of bringing MLflow up to date."""

    news: int
    """Runs that had any."""
    left_out: list[str]
    """What MLflow does not show, a line for each run or model."""


def sync(root: Path, uri: str | None = None, patience_s: float = PATIENCE_S, heard: Heard | None = None) -> Fed:
    """Bring MLflow up to date with the records, models included.

    Args:
        root: the workspace.
        uri: MLflow's database or server; None: the workspace's own.
        patience_s: how long to leave it to another process that feeds MLflow now.
        heard: is told how many runs are done, of how many.

    Raises:
        RecordError: MLflow refused, or another process that feeds it has not got to it.
    """
    uri = uri or database_uri(root)
    began = time.time()
    lock = _lock(root, uri)
    while not _taken(lock):
        fed = _fed_since(root, uri, began)
        if fed is not None:
            return fed
        if time.time() - began > patience_s:
            raise RecordError(
                f"another process of this workspace feeds MLflow at {uri}, and has not come to what is new within "
                f"{patience_s:.0f} s: wait until its runs, or 'lab ui', have ended"
            )
        time.sleep(0.2)
    try:
        with told(uri):
            from labrun.runs.ingesting import Ingester

            return _round(root, Ingester(root, uri), heard)
    finally:
        lock.release()


def feed(
    root: Path,
    uri: str,
    ended: threading.Event,
    failed: Callable[[Exception], None],
    heard: Heard | None = None,
    done: Callable[[Fed], None] | None = None,
    last_s: float = float("inf"),
) -> None:
    """Feed MLflow until somebody says that it is enough, then once more; one process at a time.

    Args:
        root: the workspace.
        uri: MLflow's database or server.
        ended: it is enough.
        failed: is told of a round that failed; the next one may not.
        heard: is told how many runs are done, of how many.
        done: is told what came of each round.
        last_s: how long the last round may take.

    Raises:
        RecordError, OSError: the last round failed.
    """
    lock = _lock(root, uri)
    since: float | None = None
    while not _taken(lock):
        if not ended.wait(1.0):
            continue
        since = since or time.time()
        if _fed_since(root, uri, since) is not None or time.time() - since > last_s:
            return
        time.sleep(0.5)
    try:
        _feed(root, uri, ended, failed, heard, done, last_s)
    finally:
        lock.release()


def _feed(
    root: Path,
    uri: str,
    ended: threading.Event,
    failed: Callable[[Exception], None],
    heard: Heard | None,
    done: Callable[[Fed], None] | None,
    last_s: float,
) -> None:
    from labrun.runs.ingesting import Ingester

    ingester: Ingester | None = None
    while True:
        is_last, began = ended.is_set(), time.monotonic()

        def must_end(is_last: bool = is_last, began: float = began) -> bool:
            return time.monotonic() - began > last_s if is_last else ended.is_set()

        try:
            with told(uri):
                ingester = Ingester(root, uri) if ingester is None or ingester.is_lost else ingester
                fed = _round(root, ingester, heard, must_end)
            if done is not None:
                done(fed)
        except Exception as error:  # a server that was down, a full disk: the next round may go better
            ingester = None
            if is_last:
                raise
            failed(error)
        if is_last:
            return
        ended.wait(min(max(INTERVAL_S, 10 * (time.monotonic() - began)), LONGEST_S))


def forget(root: Path, gone: Sequence[tuple[str, Path]]) -> None:
    """Have whoever feeds MLflow next mark runs as deleted there.

    Args:
        root: the workspace.
        gone: the id and the folder of each.
    """
    if database_path(root).exists() or any(store.state_folder(root).glob("tracking*.json")):
        removing.note(root, gone)


def kept(root: Path, name: str, uri: str, suffix: str = ".json") -> Path:
    """A file of labrun's own on one of MLflow's databases or servers."""
    which = "" if uri == database_uri(root) else f"-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"
    return store.state_folder(root) / f"{name}{which}{suffix}"


def _lock(root: Path, uri: str) -> Any:
    from filelock import FileLock

    store.state_folder(root).mkdir(parents=True, exist_ok=True)
    return FileLock(kept(root, "tracking", uri, ".lock"))


def _taken(lock: Any) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _round(
    root: Path, ingester: Ingester, heard: Heard | None = None, must_end: Callable[[], bool] = lambda: False
) -> Fed:
    """All that is new, and the models; then say so to those who wait."""
    from labrun.runs import restoring

    began = time.time()
    news = ingester.ingest(heard, must_end)
    if not must_end():
        restoring.restore(root, ingester)
    fed = Fed(news, ingester.left_out.taken())
    if not must_end():
        content = json.dumps({"began": began, **asdict(fed)})
        records.replace_text(kept(root, "round", ingester.uri), content, to_disk=False)
    return fed


def _fed_since(root: Path, uri: str, time_s: float) -> Fed | None:
    """What came of a round that another process began after that time; None: there was none yet."""
    try:
        content = json.loads(kept(root, "round", uri).read_text(encoding="utf-8"))
        return Fed(int(content["news"]), list(content["left_out"])) if content["began"] >= time_s else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
