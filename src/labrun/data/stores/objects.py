"""Common base of object stores: containers or buckets that hold names, without real folders."""

from __future__ import annotations

import socket
import threading
import urllib.parse
import urllib.request
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from labrun.data.stores.remote import REACH_S, RemoteDatastore

if TYPE_CHECKING:
    from labrun.config.instantiate import Node

PORTS = {"http": 80, "https": 443}


class ObjectDatastore(RemoteDatastore):
    """Objects in a container; a file appears atomically, once it has arrived completely."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._making_top = threading.Lock()
        self._has_top = False

    @abstractmethod
    def _address(self, fs: Any) -> str | None:
        """Hook: return the server's address; None: the vendor's default."""

    def _check_reachable(self, fs: Any) -> None:
        """Connect with a short timeout, since the libraries retry for minutes."""
        address = self._address(fs)
        if not address or urllib.request.getproxies():
            return
        parts = urllib.parse.urlsplit(address)
        if parts.hostname:
            port = parts.port or PORTS.get(parts.scheme, 80)
            socket.create_connection((parts.hostname, port), timeout=REACH_S).close()

    def _top(self) -> str:
        return str(self._fs._strip_protocol(self.root)).partition("/")[0]

    def _write(self, path: str, content: bytes, only_new: bool) -> None:
        self._make_top()
        self._fs.pipe_file(path, content, **({"mode": "create"} if only_new else {}))

    def _make_top(self) -> None:
        """Create the container if it does not exist."""
        with self._making_top:
            if not self._has_top and not self._fs.exists(top := self._top()):
                try:
                    self._new_top(top)
                except Exception:
                    self._fs.invalidate_cache()
                    if not self._fs.exists(top):  # otherwise another process was first
                        raise
            self._has_top = True

    def _new_top(self, top: str) -> None:
        """Hook: create a container."""
        self._fs.mkdir(top)
