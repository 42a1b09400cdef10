"""A link with latency: a TCP proxy that delays every chunk and counts the traffic.

It replaces `netem`, which the kernel may not have. Throughput is not limited and nothing is lost: a chunk is read as
soon as it arrives, and written after the delay. A new connection waits for one round trip, like a handshake. TCP's
behaviour on a real line (slow start, small windows) is not simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

CHUNK = 1 << 16


@dataclass
class Traffic:
    """Traffic so far: bytes sent and received, changes of direction, connections."""

    sent: int = 0
    received: int = 0
    turns: int = 0
    """Number of times that data was sent after data had been received: about the number of round trips."""
    connections: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.sent - other.sent,
            self.received - other.received,
            self.turns - other.turns,
            self.connections - other.connections,
        )


class SlowLink:
    """The proxy, in its own thread.

    Args:
        host: host of the other side.
        port: port of the other side.
        delay_s: one-way delay in seconds.
    """

    def __init__(self, host: str, port: int, delay_s: float) -> None:
        self._host, self._port, self.delay_s = host, port, delay_s
        self._traffic, self._answered = Traffic(), True
        self._loop = asyncio.new_event_loop()
        self.port = 0
        """The port on which it listens, on 127.0.0.1."""

    @property
    def traffic(self) -> Traffic:
        """Return the traffic so far."""
        return self._traffic - Traffic()

    def start(self) -> None:
        """Start to listen."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Close all connections, and stop listening."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()

    def _end(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_later(0.1, self._loop.stop)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._traffic.connections += 1
        await asyncio.sleep(2 * self.delay_s)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):  # the link is stopped
            await asyncio.gather(self._carry(reader, far_writer, True), self._carry(far_reader, writer, False))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_there: bool) -> None:
        """Forward the chunks of one direction, and its end, after the delay."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        passing = asyncio.ensure_future(self._write(waiting, writer))
        data = b"-"
        while data:
            with contextlib.suppress(ConnectionError):
                data = b""
                data = await reader.read(CHUNK)
            self._count(len(data), is_there)
            waiting.put_nowait((self._loop.time() + self.delay_s, data))
        await passing

    async def _write(self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            with contextlib.suppress(ConnectionError, RuntimeError):
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

    def _count(self, size: int, is_there: bool) -> None:
        if is_there:
            self._traffic.sent += size
            self._traffic.turns += bool(size) and self._answered
            self._answered = not size and self._answered
        else:
            self._traffic.received += size
            self._answered = self._answered or bool(size)


@contextlib.contextmanager
def slow_link(host: str, port: int, delay_s: float) -> Iterator[SlowLink]:
    """Run a link during the context."""
    link = SlowLink(host, port, delay_s)
    link.start()
    try:
        yield link
    finally:
        link.stop()
