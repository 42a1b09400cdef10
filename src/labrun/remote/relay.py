"""Forwarding of remote ports over the standard input and output of one remote process: `lab shell -L`.

Both ends run this file. The remote end is streamed to the machine, so it needs only Python 3.8 and its standard
library. The ends exchange lines, `NUMBER KIND BASE64`, since Slurm's `srun` forwards whole lines. A connection is
opened (`O`, with the port), carries data (`D`), and ends independently in each direction (`E`).
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 15


class Relay:
    """One end of the relay: its connections by number, and the stream to the other end."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.source, self.sink = source, sink
        self.lock = threading.Lock()
        self.open: dict[int, socket.socket] = {}
        self.ended: dict[int, int] = {}
        self.last = 0

    def send(self, number: int, kind: str, data: bytes = b"") -> None:
        """Send one line to the other end."""
        line = b"%d %s %s\n" % (number, kind.encode(), base64.b64encode(data))
        with self.lock:
            self.sink.write(line)
            self.sink.flush()

    def serve(self, opened: Callable[[int, int], None]) -> None:
        """Process lines from the other end until it ends.

        Args:
            opened: called with the number and the port of each connection that the other end opens.
        """
        for line in self.source:
            words = line.split()
            if len(words) < 2:
                continue
            number, kind = int(words[0]), words[1].decode()
            data = base64.b64decode(words[2]) if len(words) > 2 else b""
            try:
                if kind == "O":
                    opened(number, int(data))
                elif kind == "D" and number in self.open:
                    self.open[number].sendall(data)
                elif kind == "E" and number in self.open:
                    self.open[number].shutdown(socket.SHUT_WR)
                    self.end(number)
            except OSError:
                self.end(number)

    def follow(self, number: int, connection: socket.socket) -> None:
        """Forward a connection's data, in a new thread."""
        self.open[number] = connection
        threading.Thread(target=self._follow, args=(number, connection), daemon=True).start()

    def _follow(self, number: int, connection: socket.socket) -> None:
        try:
            while True:
                data = connection.recv(CHUNK)
                if not data:
                    break
                self.send(number, "D", data)
        except OSError:
            pass
        try:
            self.send(number, "E")
        except (OSError, ValueError):  # the other end is gone
            pass
        self.end(number)

    def end(self, number: int) -> None:
        """Record the end of one direction; close the connection after the second one."""
        with self.lock:
            self.ended[number] = self.ended.get(number, 0) + 1
            if self.ended[number] > 1 and number in self.open:
                self.open.pop(number).close()

    def connect(self, number: int, port: int) -> None:
        """Connect to a local port, at the remote end."""
        try:
            self.follow(number, socket.create_connection(("localhost", port), 10))
        except OSError:  # nothing listens there (yet): end the caller's connection
            self.send(number, "E")

    def listen(self, listening: socket.socket, port: int) -> None:
        """Forward each connection to a remote port, at the user's end, in a new thread."""
        threading.Thread(target=self._listen, args=(listening, port), daemon=True).start()

    def _listen(self, listening: socket.socket, port: int) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with self.lock:
                self.last += 1
                number = self.last
            self.open[number] = connection
            try:
                self.send(number, "O", b"%d" % port)
            except (OSError, ValueError):
                connection.close()
                return
            self.follow(number, connection)


def main() -> None:
    """Run the remote end."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    nonce = json.loads(source.readline().decode("utf-8"))["nonce"]
    sink.write(f"\n#labrun {nonce}#\n".encode())
    sink.flush()
    end = Relay(source, sink)
    end.serve(end.connect)


if __name__ == "__main__":
    main()
