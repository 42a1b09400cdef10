"""MLflow as a tracker. Imports MLflow only when its view is opened."""

from __future__ import annotations

import shlex
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

from labrun.config.schema import Tracking
from labrun.runs.record import Record
from labrun.tracking.base import Session, Tracker
from labrun.tracking.mlflow import client, ui_state

ANSWER_S = 2.0


class MLflow(Tracker):
    """The workspace's own database, shown by `lab ui`, or the server given by `tracking.uri`."""

    kind = client.KIND
    label = "MLflow"

    def address(self, root: Path, settings: Tracking) -> str:
        """Return the URI of the database or server."""
        return client.address(root, settings)

    def key(self, root: Path, address: str) -> str:
        """Return the name suffix; empty for the workspace's own database."""
        return client.key(root, address)

    def follows(self, settings: Tracking) -> bool:
        """Return whether it is a server; the workspace's own view is updated when somebody opens it."""
        return bool(settings.uri)

    def silence(self, address: str) -> str | None:
        """Return why nothing listens at the address; None if something does, or if a proxy hides it."""
        from urllib.request import getproxies  # slow to import

        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or getproxies().get(parts.scheme):
            return None
        try:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            socket.create_connection((parts.hostname, port), timeout=ANSWER_S).close()
        except (OSError, ValueError) as error:
            return str(getattr(error, "strerror", None) or error)
        return None

    def open(self, root: Path, address: str, everything: bool = False) -> Session:
        """See `Tracker.open`."""
        from labrun.tracking.mlflow.session import MLflowSession

        return MLflowSession(root, address)

    def translate_errors(self, address: str) -> AbstractContextManager[None]:
        """See `Tracker.translate_errors`."""
        return client.translate_errors(address)

    def has_view(self, root: Path) -> bool:
        """Return whether the workspace has its own database."""
        return client.database_path(root).exists()

    def shown(self, root: Path, record: Record, run_dir: Path) -> str:
        """Return the URL of the run's page if known, otherwise a command to type."""
        uri = client.address(root, record.typed.tracking)
        if uri != client.database_uri(root):
            return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if client.is_database(uri) else uri
        address = ui_state.ui_address(root)
        if address is None:
            return "lab ui shows it"
        return self.page(root, run_dir) or f"{address}   (its own page in a moment: lab runs show {record.id})"

    def page(self, root: Path, run_dir: Path | None = None) -> str | None:
        """Return a URL in the running `lab ui`; None if none is running, or if it does not have the run yet."""
        return ui_state.ui_address(root) if run_dir is None else ui_state.page(root, run_dir)
