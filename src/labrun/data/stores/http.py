"""A read-only folder of a web server."""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any, BinaryIO

from labrun.data.stores.base import ProgressCallback, clean, copy
from labrun.data.stores.remote import REACH_S, RemoteDatastore
from labrun.errors import ConfigError

if TYPE_CHECKING:
    from labrun.config.instantiate import Node

PATIENCE_S = 60
"""Read timeout, seconds."""


class HTTPDatastore(RemoteDatastore):
    """Files below a URL of a web server, listed through the server's index pages.

    Raises:
        ConfigError: the URL has query parameters.
    """

    package, extra = "aiohttp", "http"
    tokens = ("ETag", "Last-Modified")
    is_read_only = True

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        if "?" in self.root:
            raise ConfigError(
                f"datastore '{self.name}': its root has query parameters (?...), which the URL of a folder cannot have"
            )

    def _connected(self, arguments: dict[str, Any]) -> Any:
        import aiohttp

        # aiohttp's default aborts any download after five minutes, even one that makes progress.
        patience = aiohttp.ClientTimeout(total=None, sock_connect=REACH_S, sock_read=PATIENCE_S)
        arguments["client_kwargs"] = {"timeout": patience, **(arguments.get("client_kwargs") or {})}
        if token := arguments.pop("token", None):
            arguments["client_kwargs"]["headers"] = {"Authorization": f"Bearer {token}"}
        return super()._connected(arguments)

    def path(self, name: str) -> str:
        """Return the URL of a file."""
        name = urllib.parse.quote(clean(name))
        return f"{self.root}/{name}" if name else self.root

    def _name(self, path: str) -> str:
        return urllib.parse.unquote(path).removeprefix(urllib.parse.unquote(self.root)).strip("/")

    def _entries(self, top: str) -> Any:
        return super()._entries(f"{top}/")

    def _fetch(self, path: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        # block_size=0: as one stream. Not every web server supports range requests.
        with self._fs.open(path, "rb", block_size=0) as content:
            copy(content, target, on_progress)
