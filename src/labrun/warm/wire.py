"""Messages between a command and its warm interpreter, over a socket in a folder that only their user can access.

This module imports as little as possible, like `client.py`.
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import Any, Final

RUN: Final = "run"
STATUS: Final = "status"
STOP: Final = "stop"
"""What a client asks for (`messages.ClientRequest`)."""

MOST_DESCRIPTORS = 200
"""Maximum number of descriptors per message."""


def connect(place: str, name: str) -> socket.socket | None:
    """Connect to the server with this name. Return the connection; None if no server listens."""
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"{place}/{name}.sock")
    except OSError:
        connection.close()
        return None
    return connection


def send(connection: socket.socket, message: Mapping[str, object], descriptors: list[int] | None = None) -> None:
    """Send one message: its length, then its content in `marshal` format, as both sides run the same interpreter.

    Raises:
        OSError: the other end is closed.
    """
    import array
    import socket

    data = marshal.dumps(dict(message), 2)
    data = len(data).to_bytes(4, "big") + data
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sent = connection.sendmsg([data], ancillary)
    if sent < len(data):  # otherwise the other side may already have answered and closed the connection
        connection.sendall(data[sent:])


def receive(connection: socket.socket) -> tuple[Any, list[int]] | None:
    """Receive one message and its descriptors; None once the other end is closed.

    Raises:
        TimeoutError: no message has arrived within the connection's timeout.
    """
    import array
    import socket

    descriptors = array.array("i")
    data, length = b"", 4
    while len(data) < length:
        try:
            part, ancillary, _, _ = connection.recvmsg(length - len(data), socket.CMSG_SPACE(4 * MOST_DESCRIPTORS))
        except ConnectionError:
            part, ancillary = b"", []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % 4])
        if not part:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        data += part
        if length == 4 and len(data) == 4:
            length += int.from_bytes(data, "big")
    return marshal.loads(data[4:]), list(descriptors)
