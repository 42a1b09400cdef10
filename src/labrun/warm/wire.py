"""Messages between a command and its warm interpreter, over a socket in a folder that only their user can enter.

Imports as little as possible, as `client.py` does.
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

MOST_DESCRIPTORS = 200
"""With one message."""


def connect(place: str, name: str) -> socket.socket | None:
    """A connection to the server of that name; None where none listens."""
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"{place}/{name}.sock")
    except OSError:
        connection.close()
        return None
    return connection


def send(connection: socket.socket, message: dict[str, object], descriptors: list[int] | None = None) -> None:
    """Send one message: its length, then its content. `marshal`, since both sides are one interpreter.

    Raises:
        OSError: the other side is gone.
    """
    import array
    import socket

    data = marshal.dumps(message, 2)
    data = len(data).to_bytes(4, "big") + data
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sent = connection.sendmsg([data], ancillary)
    if sent < len(data):  # else the other side may have answered, and gone, by now
        connection.sendall(data[sent:])


def receive(connection: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """One message, and the descriptors that came with it; None once the other side is gone.

    Raises:
        TimeoutError: nothing came within the connection's time.
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
