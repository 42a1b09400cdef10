"""MLflow's client and its database, which one process makes, under another name, and puts in place whole.

Many processes that open a fresh database at the same time would break it for good, and so would a kill in its making.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.runs import recording, store
from labrun.schema import Tracking

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


def address(root: Path, settings: Tracking) -> str:
    """Where MLflow keeps the view of these runs."""
    return settings.uri or database_uri(root)


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


def key(root: Path, uri: str) -> str:
    """What tells the files that labrun keeps of a database or server from others; nothing for the workspace's own."""
    return "" if uri == database_uri(root) else f"-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def kept(root: Path, name: str, uri: str) -> Path:
    """A file of labrun's own on one of MLflow's databases or servers."""
    return store.state_folder(root) / f"{name}{key(root, uri)}.json"
