"""A channel to the helper on a remote machine (`helper.py`), over the shared SSH connection."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from labrun.errors import LabrunError
from labrun.messages import size_text
from labrun.remote import remotes, ssh
from labrun.remote.remotes import Facts, Remote
from labrun.remote.ssh import UnreachableError

if TYPE_CHECKING:
    from labrun.remote.messages import Do, FailureAnswer, HelloRequest, WatchRequest

CHUNK = 1 << 16
QUIET_S = 60.0
"""How long the other side may be silent while an answer is due, in seconds."""
LONGEST_PAUSE_S = 30.0
"""Longest pause between two attempts to reach a machine, in seconds."""
PYTHONS = "python3 /usr/bin/python3 /usr/local/bin/python3 python3.12 python3.11 python3.10 python3.9 python3.8 python"
REACH = (
    "for p in {pythons}; do if command -v $p >/dev/null 2>&1 && "
    '$p -c "import sys; sys.exit(sys.version_info < (3, 8))" 2>/dev/null; then '
    'exec $p -c "import sys, zlib; exec(zlib.decompress(sys.stdin.buffer.read({count})))"; fi; done; '
    "echo labrun-no-python >&2; exit 96"
)
"""Script for `sh -c`, in single quotes: the first Python that is new enough reads and executes the helper."""

AT_ONCE = 200
"""Maximum number of files per request."""
DIGESTS_S = 3600.0
"""Time for a machine to compute the digests of large files, in seconds."""
METER_S = 10.0
"""Interval between two lines of a `Meter`, in seconds."""

Progress = Callable[[int], None]
Result = TypeVar("Result")


class RequestRefusedError(LabrunError):
    """The other side refuses or cannot fulfill a request.

    Args:
        message: why.
        is_full: its disk has no room.
        file: the file there that cannot be used, if it is one.
    """

    def __init__(self, message: str, is_full: bool = False, file: str | None = None) -> None:
        super().__init__(message)
        self.is_full, self.file = is_full, file


class Meter:
    """Prints the progress of a long transfer on standard error every few seconds.

    Args:
        what: description, such as `sending data to box`.
        total: total number of bytes.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._moved = what, total, 0
        self._next = time.monotonic() + METER_S

    def __call__(self, count: int) -> None:
        """Count further transferred bytes."""
        self._moved += count
        if time.monotonic() > self._next and self._moved < self._total:
            self._next = time.monotonic() + METER_S
            sys.stderr.write(f"labrun: {self._what}: {size_text(self._moved)} of {size_text(self._total)}\n")


def streamed(program: Path) -> tuple[bytes, str]:
    """Return a program's source, for standard input on the machine, and the script for `sh -c` that executes it."""
    source = zlib.compress(program.read_bytes())
    return source, REACH.format(pythons=PYTHONS, count=len(source))


class Channel:
    """A helper process on a remote machine, and requests to it.

    Args:
        remote: the machine.
        quiet_s: how long it may be silent while an answer is due, in seconds; None: `QUIET_S`.

    Raises:
        UnreachableError: there is no connection.
        RequestRefusedError: the machine has no suitable Python.
    """

    def __init__(self, remote: Remote, quiet_s: float | None = None) -> None:
        self.remote, self._quiet_s = remote, QUIET_S if quiet_s is None else quiet_s
        self._errors: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - not a pipe: ssh's master keeps it open
        source, script = streamed(Path(__file__).parent / "helper.py")
        words = [*ssh.command(remote), remote.address, f"exec sh -c '{script}'"]
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except OSError as error:
            raise UnreachableError(f"ssh cannot be started: {error}") from error
        self.sent = self.received = 0
        self._began = self._moved = time.monotonic()
        self._unread = self._shell_output = b""
        self.is_watching = False
        """Whether the answer to `watch` is outstanding."""
        nonce = uuid.uuid4().hex
        try:
            began = time.time()
            hello: HelloRequest = {"root": remote.folder, "python": remote.python}
            lines = ({"nonce": nonce}, {"do": "hello", "bytes": 0, **hello})
            # Send all at once, which saves a round trip.
            self._write(b"".join([source, *(json.dumps(one).encode() + b"\n" for one in lines)]))
            self._wait_for(f"\n#labrun {nonce}#\n".encode())
            received = time.time()
            answer, _ = self._hello()
            ahead_s = answer["now"] - received
            self.ahead_s: float = ahead_s if abs(ahead_s) > received - began else 0.0
            """How far the remote clock is ahead of the local one, in seconds."""
        except BaseException:
            self.close()
            raise
        self.root: str = answer["root"]
        self.python: str | None = answer["python"]
        """The remote path of `remote.python`."""

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; the shared connection stays open."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def call(self, do: Do, quiet_s: float | None = None, **arguments: Any) -> Any:
        """Send a request, and return its answer (see `messages`), ignoring any bytes after it.

        Raises:
            UnreachableError: the connection is lost.
            RequestRefusedError: the request is refused.
        """
        answer, count = self.ask(do, quiet_s, **arguments)
        self._read(count)
        return answer

    def facts(self, full: bool = False) -> Facts:
        """Query the machine's facts; with `full`, include the packages of `remote.python` and the backends' surveys.

        Raises:
            UnreachableError: the connection is lost.
            RequestRefusedError: the request is refused.
        """
        from labrun.backends import registry  # `with_programs` loads every backend

        remote, backends = self.remote, list(registry.with_programs())
        hello = self.call(
            "hello",
            root=remote.folder,
            facts=True,
            full=full,
            python=remote.python,
            programs=sorted({program for program, _ in backends}),
            commands={one.name: list(one.survey) for _, one in backends if full and one.survey},
        )
        return Facts.of({**hello["facts"], "programs": hello["programs"], "surveys": hello["outputs"]})

    def ask(self, do: Do, quiet_s: float | None = None, **arguments: Any) -> tuple[dict[str, Any], int]:
        """Send a request. Return its answer and the number of bytes that follow it (`read`)."""
        self._write(json.dumps({"do": do, "bytes": 0, **arguments}).encode() + b"\n")
        return self._answer(quiet_s)

    def watch(self, patience_s: float, gather_s: float, folders: Sequence[str]) -> None:
        """Request notification of events in folders (`Helper.do_watch`) without waiting for it; see `has_answer`.

        Any other request ends the watch.
        """
        arguments: WatchRequest = {"patience_s": patience_s, "gather_s": gather_s, "folders": list(folders)}
        self._write(json.dumps({"do": "watch", "bytes": 0, **arguments}).encode() + b"\n")
        self.is_watching = True

    def has_answer(self, seconds: float) -> bool:
        """Wait up to some seconds for the answer to `watch`. Return whether it has arrived.

        Raises:
            UnreachableError: the connection is lost.
        """
        assert self._process.stdout is not None
        if not self._unread and not select.select([self._process.stdout], [], [], seconds)[0]:
            return False
        self._end_watch()
        return True

    def _end_watch(self) -> None:
        if self.is_watching:
            self.is_watching = False
            self._answer(None)

    def send(
        self, do: Do, file: BinaryIO, size: int, progress: Progress | None = None, /, **arguments: Any
    ) -> dict[str, Any]:
        """Send a request followed by the bytes of a file. Return its answer."""
        self._write(json.dumps({"do": do, "bytes": size, **arguments}).encode() + b"\n")
        left = size
        while left:
            data = file.read(min(CHUNK, left))
            if not data:
                raise LabrunError("a file changed while it was sent")
            self._write(data)
            left -= len(data)
            if progress is not None:
                progress(len(data))
        answer, count = self._answer(None)
        self._read(count)
        return answer

    def read(self, count: int) -> bytes:
        """Read bytes after an answer."""
        return self._read(count)

    def read_into(self, file: BinaryIO, count: int, progress: Progress) -> None:
        """Read bytes after an answer into a file."""
        while count:
            data = self._read_some(min(CHUNK, count), self._quiet_s)
            file.write(data)
            count -= len(data)
            progress(len(data))

    def _answer(self, quiet_s: float | None) -> tuple[dict[str, Any], int]:
        self._end_watch()
        answer: dict[str, Any] = json.loads(self._line(quiet_s or self._quiet_s))
        if not answer["ok"]:
            failure = cast("FailureAnswer", answer)
            if failure["full"]:
                raise self.no_room(f"the disk of {self.remote.name} is full: {failure['why']}")
            raise RequestRefusedError(f"{self.remote.name}: {failure['why']}", file=failure["file"])
        return answer, answer["bytes"]

    def _hello(self) -> tuple[dict[str, Any], int]:
        try:
            return self._answer(None)
        except RequestRefusedError as error:
            if error.is_full:
                raise
            raise RequestRefusedError(f"{error}. Choose {self._another_folder()}") from error

    def no_room(self, why: str) -> RequestRefusedError:
        """Return the error for a remote disk that is full or too small."""
        message = f"{self.remote.name}: {why}. Free some space there, or choose {self._another_folder()}"
        return RequestRefusedError(message, is_full=True)

    def _another_folder(self) -> str:
        return f"another folder: lab remote add {self.remote.name} {self.remote.address} --folder PATH"

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        view, descriptor = memoryview(data), self._process.stdin.fileno()
        os.set_blocking(descriptor, False)
        self.sent += len(data)
        while view:
            if not select.select([], [descriptor], [], self._quiet_s)[1]:
                raise self._silent()
            try:
                view = view[os.write(descriptor, view) :]
                self._moved = time.monotonic()
            except BlockingIOError:
                continue
            except OSError:
                raise self._gone() from None

    def _read_some(self, count: int, quiet_s: float) -> bytes:
        if self._unread:
            data, self._unread = self._unread[:count], self._unread[count:]
            return data
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], quiet_s)[0]:
            raise self._silent()
        data = os.read(descriptor, count)
        if not data:
            raise self._gone()
        self.received += len(data)
        self._moved = time.monotonic()
        return data

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(self._read_some(min(CHUNK, count), self._quiet_s))
            count -= len(parts[-1])
        return b"".join(parts)

    def _line(self, quiet_s: float) -> bytes:
        data = b""
        while b"\n" not in data:
            data += self._read_some(CHUNK, quiet_s)
        line, _, self._unread = data.partition(b"\n")
        return line

    def _wait_for(self, mark: bytes) -> None:
        """Skip the output of the login shell."""
        data, end = b"", time.monotonic() + 2 * self._quiet_s
        while mark not in data:
            self._shell_output = data = data[-(1 << 16) :] + self._read_some(CHUNK, self._quiet_s)
            if time.monotonic() > end:
                raise self._silent()
        self._unread, self._shell_output = data.partition(mark)[2], b""

    def _silent(self) -> UnreachableError:
        return self._with_lifetime(UnreachableError(f"{self.remote.name} ({self.remote.address}) does not answer"))

    def _with_lifetime(self, error: UnreachableError) -> UnreachableError:
        error.lived_s = self._moved - self._began
        return error

    def _gone(self) -> LabrunError:
        try:
            code: int | None = self._process.wait(2)
        except subprocess.TimeoutExpired:
            code = None
        self._errors.seek(0)
        text = (self._shell_output + b"\n" + self._errors.read()).decode(
            errors="replace"
        )  # nologin explains itself on stdout
        if code == 96 or "labrun-no-python" in text:
            return RequestRefusedError(
                f"{self.remote.name} has no Python 3.8 or later on its PATH: install python3 there, or load its module "
                "in the login shell's profile"
            )
        return self._with_lifetime(ssh.error_of(self.remote, text, code))


def remote_digests(channel: Channel, files: Sequence[str]) -> dict[str, str | None]:
    """Return the SHA-256 of remote files, by path; None for a missing file."""
    by_path: dict[str, str | None] = {}
    for start in range(0, len(files), AT_ONCE):
        by_path |= channel.call("digests", DIGESTS_S, files=files[start : start + AT_ONCE])["digests"]
    return by_path


def with_start_advice(error: LabrunError) -> LabrunError:
    """Return an error that has prevented the start of runs; for an unreachable machine, add what to do."""
    if type(error) is not UnreachableError:
        return error
    return UnreachableError(
        f"{error}. Nothing has started there: repeat the command once it answers; what was sent and built is kept"
    )


def retry_while_unreachable(action: Callable[[], Result], patience_s: float, tell: Callable[[str], None]) -> Result:
    """Retry a function for a while if the machine is unreachable, but not if a login has expired.

    Args:
        action: the function; must be repeatable.
        patience_s: how long to retry, in seconds; starts again if the machine was reached for a while, for example
            during the build of an environment.
        tell: called with the reason before each retry.

    Raises:
        UnreachableError: the machine is still unreachable.
    """
    end, pause = time.monotonic() + patience_s, 1.0
    while True:
        try:
            return action()
        except ssh.LoginError:
            raise
        except UnreachableError as error:
            if error.lived_s > LONGEST_PAUSE_S:
                end, pause = time.monotonic() + patience_s, 1.0
            if time.monotonic() + pause > end:
                raise
            tell(str(error))
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_S, 2 * pause)


def facts(remote: Remote, full: bool = False) -> Facts:
    """Query a machine's facts, as `Channel.facts` does, and save them.

    Raises:
        LabrunError: the machine cannot be reached or used.
    """
    with Channel(remote) as channel:
        machine_facts = channel.facts(full)
    remotes.note_facts(remote.name, machine_facts)
    return machine_facts
