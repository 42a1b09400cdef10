"""MLflow's client and its database, which one process creates under a temporary name and then renames.

Several processes that open a fresh database at once would corrupt it for good, and so would a kill during creation.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labrun.config.schema import NO_TRACKER, Tracking
from labrun.errors import RecordError
from labrun.runs import recording
from labrun.runs.workspace import Workspace
from labrun.tracking.mlflow.sending import loaded, reason

KIND = "mlflow"
"""Value of `tracking.kind` for MLflow."""
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
"""MLflow's settings, unless the environment overrides them. Connections are not pooled, so that running processes
notice when the database is deleted and re-created."""


def database_path(root: Path) -> Path:
    """Return the path of a workspace's own MLflow database."""
    return Workspace(root).mlflow


def database_uri(root: Path) -> str:
    """Return the URI of a workspace's own MLflow database."""
    return f"sqlite:///{database_path(root)}"


def address(root: Path, settings: Tracking) -> str:
    """Return the URI of the MLflow database or server for these runs."""
    return settings.uri or database_uri(root)


def models_address(root: Path, settings: Tracking) -> str:
    """Return the URI of the MLflow database or server for models of these runs: another tracker's URI is neither."""
    return address(root, settings) if settings.kind in (KIND, NO_TRACKER) else database_uri(root)


def quiet() -> None:
    """Silence MLflow's hints and its database migration log."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def is_database(uri: str) -> bool:
    """Return whether a URI is a local database file, not a server."""
    return uri.startswith("sqlite:///")


def connect(root: Path, uri: str) -> Any:
    """Create an MLflow client for runs and models; the database is created if absent.

    Raises:
        RecordError: it cannot be opened.
    """
    quiet()
    if (shown := recording.storable(str(root))) != str(root):
        raise RecordError(f"the path of the workspace, {shown}, is not UTF-8, so MLflow cannot show its runs")
    with translate_errors(uri):
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
    """Hold a workspace-wide lock while creating things that MLflow would otherwise create twice."""
    from filelock import FileLock

    lock = Workspace(root).mlflow_lock
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def _make_database(root: Path, path: Path) -> None:
    if path.exists() and path.stat().st_size:  # opening a deleted database leaves an empty file
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    for rest in path.parent.glob(f"{partial.name}*"):
        rest.unlink()
    made = SqlAlchemyStore(f"sqlite:///{partial}", Workspace(root).mlruns.as_uri())
    made.engine.dispose()
    os.replace(partial, path)


@contextlib.contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Translate MLflow's errors into labrun's.

    Raises:
        RecordError: MLflow raised an error.
    """
    try:
        yield
    except RecordError:
        raise
    except Exception as error:
        kinds = (
            *loaded("mlflow.exceptions", "MlflowException"),
            *loaded("sqlalchemy.exc", "SQLAlchemyError"),
            *loaded("requests", "RequestException"),
            *loaded("sqlite3", "Error"),
            *loaded("alembic.util", "CommandError"),
            *loaded("alembic.script.revision", "RevisionError"),
        )
        if not isinstance(error, kinds):
            raise
        more = ""
        if is_database(uri):
            more = ". The view can be rebuilt from the records: move the file away, then run 'lab runs sync'"
        raise RecordError(f"MLflow at {uri} refused: {reason(error)}{more}") from error


def key(root: Path, uri: str) -> str:
    """Return the name suffix of labrun's files on a database or server; empty for the workspace's own database."""
    return "" if uri == database_uri(root) else f"-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def kept(root: Path, name: str, uri: str) -> Path:
    """Return the path of one of labrun's own files on an MLflow database or server."""
    return Workspace(root).note(name, key(root, uri))
