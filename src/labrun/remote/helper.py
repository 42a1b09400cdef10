"""The helper on a remote machine, which is streamed there over SSH's standard input and never stored.

It needs only the standard library of Python 3.8 or later. It reads requests from standard input: each is a line of JSON
followed by as many raw bytes as the line announces. Answers have the same format. Before its first answer it prints a
mark, for which the caller waits, because the login shell's output comes before it. It exits when its standard input is
closed.

`messages.py` describes requests and answers. Every path in a request is relative to the folder given by the request
`hello`. A folder that is sent appears at its path by one rename, so an existing folder is always complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import io
import json
import os
import platform
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, cast

CHUNK = 1 << 16
RESUME_MIN_BYTES = 1 << 20
"""Smallest size of a file whose interrupted transfer is resumed, in bytes."""
ANSWER_MAX_BYTES = 4 << 20
"""Maximum size of the changes in one answer, in bytes."""
LOG_MAX_BYTES = 4000
"""Maximum size of the part of a log in one answer, in bytes."""
LAUNCH = ".launch"
"""As in `labrun.runs.context`, which cannot be imported here; the paths below are those of `sweep_state.RELATIVE`."""
PLAN, CONTROLLER, CONTROLLERS = f"{LAUNCH}/plan.json", f"{LAUNCH}/far", f"{LAUNCH}/controllers"
CONTROLLER_LOG, OVER, GIVEN_UP = f"{LAUNCH}/controller.log", f"{LAUNCH}/over", f"{LAUNCH}/given_up"
STATE = "outputs/.labrun"
OFFERED_S = 60
"""How long an offered text waits for its reader, in seconds."""
LEFT_S = 86400.0
"""Minimum age for the removal of partial files and of files that no run needs, in seconds."""
PARTIAL = re.compile(r"\.partial-\d+$|^\..*\.\d+-[0-9a-f]{6}\.partial$")
"""Names of incomplete files, of this helper or of `labrun._io`."""
SETTLED_S = 2.0
"""Age from which a file's times show any later change, in seconds; see `labrun._io.FileStamp`."""
STALE_S = 60.0
"""Maximum age of the heartbeat of a process on another host, in seconds."""
TICKS_S = (0.05, 0.5)
"""Shortest and longest interval between two checks for changes, in seconds."""
ENDED = ("completed", "failed", "canceled", "stopped")
"""Final statuses in a run's record."""


if TYPE_CHECKING:
    from labrun.remote import messages
    from labrun.remote.messages import FolderNews, Grown, KnownFolder, RunNews

    Part = bytes | tuple[str, int, int]  # bytes, or a part of a file: path, start, length
    Answer = tuple[Mapping[str, Any], list[Part]]


class RefusedError(Exception):
    """A request cannot be fulfilled; the message is shown to the user."""


class Helper:
    """Answers requests, one after another."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.source, self.sink, self.root = source, sink, ""
        self.last_seen: dict[str, tuple[KnownFolder, list[Any]]] = {}
        """By folder: what the client knew at the last request `news`, and the folder's state then."""
        self.ended: dict[str, Any] = {}
        """Marks of the records of ended runs, by path."""

    def serve(self) -> None:
        """Answer requests until there are no more."""
        while True:
            line = self.source.readline()
            if not line:
                return
            request = json.loads(line.decode("utf-8"))
            payload = _Payload(self.source, request.get("bytes", 0))
            answer: Mapping[str, Any]
            try:
                answer, files = getattr(self, "do_" + request["do"])(request, payload)
                answer = {"ok": True, **answer}
            except Exception as error:  # noqa: BLE001 - the other side reports it
                answer, files = failure(error), []
            payload.skip()
            self.answer(answer, files)

    def answer(self, answer: Mapping[str, Any], files: list[Part]) -> None:
        """Send an answer, followed by the bytes of `files`: `(file, start, count)` or bytes."""
        size = sum(len(one) if isinstance(one, bytes) else one[2] for one in files)
        self.sink.write(json.dumps({**answer, "bytes": size}).encode("utf-8") + b"\n")
        for one in files:
            if isinstance(one, bytes):
                self.sink.write(one)
                continue
            name, start, count = one
            with open(name, "rb") as file:
                file.seek(start)
                while count:
                    data = file.read(min(CHUNK, count)) or b"\0" * min(CHUNK, count)  # the file has shrunk since
                    self.sink.write(data)
                    count -= len(data)
        self.sink.flush()

    def path(self, name: str) -> str:
        """Return the full path of a name below the root."""
        return inside(self.root, name)

    # State of the machine

    def do_hello(self, request: messages.HelloRequest, payload: _Payload) -> Answer:
        """Set the root folder. Return what the request asks about this machine."""
        self.root = os.path.realpath(os.path.expanduser(os.path.expandvars(request["root"])))
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        python = request.get("python")
        python = None if python is None else program(python)
        answer: dict[str, Any] = {"root": self.root, "now": time.time(), "python": python}
        if request.get("packages") and python is not None:
            answer["packages"] = interpreter(python)
        if "programs" in request:
            answer["programs"] = {name: shutil.which(name) for name in request["programs"]}
        if "commands" in request:
            answer["outputs"] = {name: output(command) for name, command in request["commands"].items()}
        if request.get("facts"):
            answer["facts"] = facts(self.root, python, request.get("full", False))
        return answer, []

    def do_have(self, request: messages.HaveRequest, payload: _Payload) -> Answer:
        """Return which paths exist, folders that were put `marked` only if complete; and the disk's free bytes."""
        have = [name for name in request["paths"] if is_whole(self.path(name))]
        for name in have:
            note_use(self.path(name))
        return {"have": have, "free": shutil.disk_usage(self.root).free}, []

    def do_built(self, request: messages.FolderRequest, payload: _Payload) -> Answer:
        """Return whether a complete environment exists."""
        built = is_built(self.path(request["folder"]))
        if built:
            note_use(self.path(request["folder"]))
        return {"built": built}, []

    # Files sent to the machine

    def do_put(self, request: messages.PutRequest, payload: _Payload) -> Answer:
        """Unpack an archive as a new folder; leave an existing one unchanged.

        The answer tells whether the folder is new, and has the marks of the files in `mark`, as in `do_news`.
        """
        target = self.path(request["to"])
        marked = request.get("marked", False)
        if os.path.exists(target) and not (marked and not is_whole(target)):
            return {"new": False}, []
        with partial_beside(target) as partial:
            if request.get("base"):
                copy_files(self.path(request["base"]), partial, set(request["gone"]))
            unpack(payload, partial)
            if request.get("base") and tree_digest(partial) != request["digest"]:
                raise RefusedError(f"{request['base']} has changed there")
            if marked:
                write_lines(target + ".files", {os.path.relpath(path, partial) for path in walk(partial)})
            try:
                os.rename(partial, target)
            except OSError:
                if not os.path.isdir(target):
                    raise
                if marked:
                    fill(partial, target)
                return {"new": False}, []
        return {"new": True, "marks": [mark_of(os.path.join(target, name)) for name in request.get("mark", ())]}, []

    def do_renew(self, request: messages.RenewRequest, payload: _Payload) -> Answer:
        """Unpack an archive over an existing folder without a controller, replacing files of the same names."""
        target = self.path(request["to"])
        if is_controlled(target):
            raise RefusedError(f"{target} is controlled by a process there")
        with partial_beside(target) as partial:
            unpack(payload, partial)
            for name in request["without"]:
                remove(inside(target, name))
            for path in sorted(walk(partial), key=lambda path: path.endswith("run.json")):
                goal = os.path.join(target, os.path.relpath(path, partial))
                os.makedirs(os.path.dirname(goal), exist_ok=True)
                os.replace(path, goal)
        return {}, []

    def do_link(self, request: messages.LinkRequest, payload: _Payload) -> Answer:
        """Create a folder of files from the store, by digest; replace an existing folder."""
        store, target = self.path(request["store"]), self.path(request["to"])
        with partial_beside(target) as partial:
            for name, digest in request["files"].items():
                path = inside(partial, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                source = os.path.join(store, digest[:2], digest)
                try:
                    os.link(source, path)
                except OSError:
                    shutil.copyfile(source, path)
            set_aside(target)
            os.rename(partial, target)
        return {}, []

    def do_begun(self, request: messages.BegunRequest, payload: _Payload) -> Answer:
        """Return the number of bytes received of files with an interrupted transfer, by digest."""
        parts_by_digest = {digest: parts_of(self.path(request["store"]), digest) for digest in request["digests"]}
        return {"begun": {digest: parts[0][0] for digest, parts in parts_by_digest.items() if parts}}, []

    def do_store(self, request: messages.StoreRequest, payload: _Payload) -> Answer:
        """Store a file by its digest; with `start`, resume after the bytes received before an interruption."""
        import hashlib

        name, start = request["digest"], request.get("start", 0)
        folder = self.path(os.path.join(request["store"], name[:2]))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.path.exists(os.path.join(folder, name)):  # another transfer was faster
            return {}, []
        before = [path for _, path in parts_of(self.path(request["store"]), name)]
        handle, partial = tempfile.mkstemp(prefix=f".partial-{name}-", dir=folder)
        digest, is_kept = hashlib.sha256(), False
        try:
            # Write to a new file: the helper of the broken connection may still hold the old one.
            with os.fdopen(handle, "wb") as file:
                with open(before[0], "rb") if start and before else io.BytesIO() as begun:
                    for data in chunks(begun, start):
                        digest.update(data)
                        file.write(data)
                for data in iter(lambda: payload.read(CHUNK), b""):
                    digest.update(data)
                    file.write(data)
            if payload.is_short:
                is_kept = os.stat(partial).st_size >= RESUME_MIN_BYTES
                return {}, []
            if digest.hexdigest() != name:
                raise RefusedError("a file was damaged in transfer: repeat the command")
            try:
                os.chmod(partial, 0o444)
                os.replace(partial, os.path.join(folder, name))
            except FileNotFoundError:  # another transfer of the file has resumed and removed it
                if not os.path.exists(os.path.join(folder, name)):
                    raise RefusedError("another transfer of a file was interrupted: repeat the command") from None
        finally:
            for path in (*before, *([] if is_kept else [partial])):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        return {}, []

    def do_digests(self, request: messages.DigestsRequest, payload: _Payload) -> Answer:
        """Return the SHA-256 of files on this machine, None for missing ones; cached until a file changes."""
        memory = self.path("digests.json")
        known = parsed(memory)
        digests: dict[str, str | None] = {}
        for path in request["files"]:
            try:
                stat = os.stat(path)
            except OSError:
                digests[path] = None
                continue
            mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            entry = known.get(path, [])
            if entry[:-1] != mark:
                is_settled = time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_S
                entry = [*mark, file_sha256(path)]
                if is_settled:
                    known[path] = entry
            digests[path] = entry[-1]
        write(memory, json.dumps(known).encode("utf-8"))
        return {"digests": digests}, []

    # Processes on the machine

    def do_spawn(self, request: messages.SpawnRequest, payload: _Payload) -> Answer:
        """Start a process that outlives the connection, unless one with the same claim is active."""
        claim, log = self.path(request["claim"]), self.path(request["log"])
        os.makedirs(os.path.dirname(claim), mode=0o700, exist_ok=True)
        with open(claim + ".lock", "w") as lock:
            try:  # a shared file system may lack locks: then a folder's lease, or the final rename, decides
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                pass
            built = request.get("built")
            if built is not None and is_built(self.path(built)):
                return spawned("done"), []
            if process_lives(claim):
                return spawned("running"), []
            if built is not None:
                clear_built(self.path(built))
            for name in (request.get("fresh"), request.get("refusal")):
                if name:
                    remove(self.path(name))
            old = os.path.getsize(log) if os.path.exists(log) else 0
            self.spawn(request, claim, log)
        return spawned("started", old), []

    def spawn(self, request: messages.SpawnRequest, claim: str, log: str) -> None:
        """Start a process, and write its claim file."""
        variables = dict(os.environ)
        variables["PATH"] = os.pathsep.join([variables.get("PATH", os.defpath), os.path.join(self.root, "bin")])
        variables.update(request["environment"])
        with open(log, "ab") as output:
            process = subprocess.Popen(
                request["command"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=variables,
                cwd=self.path(request.get("cwd", ".")),
                start_new_session=True,
            )
        mark = {"pid": process.pid, "start": start_of(process.pid), "host": socket.gethostname(), "boot": boot_id()}
        needs = [request["command"][0], request["environment"].get("PYTHONPATH")]  # read by `needed`
        try:
            write(claim, json.dumps({**mark, "beats": "built" in request, "needs": needs}).encode("utf-8"))
        except OSError:  # such as a full disk: an unrecorded process must not continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        try:
            pipe = cast("BinaryIO", process.stdin)
            pipe.write(request.get("stdin", "").encode("utf-8"))
            pipe.close()
        except OSError:  # the process has ended; its log says why
            pass

    def do_begin(self, request: messages.BeginRequest, payload: _Payload) -> Answer:
        """Start a process, as in `do_spawn`, and wait for its file, as in `do_wait`, in one request."""
        begun = self.do_spawn(request, payload)[0]
        if begun["state"] == "done":
            return begun, []
        waiting: messages.BeginRequest = {**request, "seen": begun["seen"]}
        return {**begun, **self.do_wait(waiting, payload)[0]}, []

    def do_wait(self, request: messages.WaitRequest, payload: _Payload) -> Answer:
        """Wait until a file exists or a spawned process has ended, at most for `patience_s`."""
        claim, wanted = self.path(request["claim"]), self.path(request["file"])
        end = time.monotonic() + request["patience_s"]
        while True:
            reap()
            is_there, lives = os.path.exists(wanted), process_lives(claim)
            if is_there or not lives or time.monotonic() > end:
                log = self.path(request["log"])
                text, size = log_end(log, request.get("seen", 0))
                is_there, lives = os.path.exists(wanted), process_lives(claim)
                answer: messages.WaitAnswer = {"there": is_there, "lives": lives, "log": text, "seen": size}
                if request.get("refusal"):
                    answer["refusal"] = read(self.path(request["refusal"])).decode("utf-8", "replace")
                return answer, []
            time.sleep(0.03)

    # Files fetched from the machine

    def do_news(self, request: messages.NewsRequest, payload: _Payload) -> Answer:
        """Return the changes of runs since the last request, after writing the caller's requests and annotations."""
        for name, entries in request.get("leave", {}).items():
            for entry, content in entries.items():
                path = self.path(os.path.join(name, entry))
                if os.path.isdir(os.path.dirname(os.path.dirname(path))):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    leave(path, content.encode("utf-8"))
        for name, said in request.get("said", {}).items():
            for run, lines in said.items():
                annotate(self.path(os.path.join(name, run)), lines)
        answer: dict[str, FolderNews] = {}
        changes = _Changes()
        for name, known in request["folders"].items():
            folder = self.path(name)
            self.last_seen[name] = known, state_of(folder, known)
            answer[name] = changes.of_folder(folder, known)
        return {"folders": answer, "more": changes.room <= 0}, changes.files

    def do_watch(self, request: messages.WatchRequest, payload: _Payload) -> Answer:
        """Wait for a change in folders since their last `do_news`, or for another request, at most for `patience_s`.

        A change in the first `gather_s` is not reported before others may have joined it, unless all runs have ended.
        """
        watched = [(self.path(name), *self.last_seen[name]) for name in request["folders"] if name in self.last_seen]
        begun = calm = time.monotonic()
        while not self.has_request():
            now = time.monotonic()
            if all(state_of(folder, known) == state for folder, known, state in watched):
                calm = now
            elif now - begun > request["gather_s"] or not any(self.has_live_runs(*one[:2]) for one in watched):
                break
            if now - begun > request["patience_s"]:
                break
            self.has_request(min(TICKS_S[1], max(TICKS_S[0], (calm - begun) / 10)))
        return {}, []

    def has_request(self, seconds: float = 0.0) -> bool:
        """Return whether the caller sends another request within some seconds, or has closed the connection."""
        descriptor = self.source.fileno()
        os.set_blocking(descriptor, False)
        try:  # already buffered input
            if cast("io.BufferedReader", self.source).peek(1):
                return True
        finally:
            os.set_blocking(descriptor, True)
        return bool(select.select([descriptor], [], [], seconds)[0])

    def has_live_runs(self, folder: str, known: KnownFolder) -> bool:
        """Return whether a run of a folder has not ended, according to its record."""
        for run in names_of(folder, known):
            path = os.path.join(folder, run, "run.json")
            mark = mark_of(path)
            if mark is not None and self.ended.get(path) != mark:
                if is_live(read(path)):
                    return True
                self.ended[path] = mark
        return False

    def do_pull(self, request: messages.PullRequest, payload: _Payload) -> Answer:
        """Return the files below folders that the caller lacks, or has in another version.

        Links are followed, except those to a folder outside, which are listed in `left`. Each file has a name, a size,
        its time in seconds and in nanoseconds, and the start of its bytes: a part that the caller already has (`begun`)
        is left out if the file has not changed since.
        """
        answer: dict[str, list[list[Any]]] = {}
        files: list[Part] = []
        left: list[str] = []
        for name, known in request["folders"].items():
            folder, answer[name] = self.path(name), []
            for path in (one for top in request["parts"] for one in reached(os.path.join(folder, top), folder, left)):
                stat = os.stat(path)
                file, version = os.path.relpath(path, folder), [stat.st_size, int(stat.st_mtime)]
                if known.get(file) != version:
                    part = request.get("begun", {}).get(name, {}).get(file)
                    start = part[2] if part and part[:2] == [stat.st_size, stat.st_mtime_ns] else 0
                    answer[name].append([file, *version, stat.st_mtime_ns, start])
                    files.append((path, start, stat.st_size - start))
        return {"folders": answer, "left": left}, files

    def do_folders(self, request: object, payload: _Payload) -> Answer:
        """Return the folders of runs that were sent to this machine, by any other machine."""
        run_folders: list[messages.SentFolder] = []
        for plan in sorted(glob.glob(os.path.join(self.root, "workspaces", "*", "*", "*", "*", PLAN))):
            folder, content = os.path.dirname(os.path.dirname(plan)), parsed(plan)
            if not content:
                continue
            is_search = content.get("command") is not None
            names = [one for one in content["runs"] if os.path.isfile(os.path.join(folder, one, "run.json"))]
            names = runs_in(folder) if is_search else names
            parts = os.path.relpath(folder, self.root).split(os.sep)
            run_folders.append(
                {
                    "workspace": "/".join(parts[:2]),
                    "folder": "/".join(parts),
                    "runs": {name: summary(os.path.join(folder, name)) for name in names},
                    "search": is_search,
                    "living": is_controlled(folder),
                }
            )
        return {"folders": run_folders}, []

    def do_remove(self, request: messages.FolderRequest, payload: _Payload) -> Answer:
        """Remove a folder."""
        shutil.rmtree(self.path(request["folder"]), ignore_errors=True)
        return {}, []

    def do_unused(self, request: messages.UnusedRequest, payload: _Payload) -> Answer:
        """Return what no run on this machine needs, by name: a description, and its bytes. Remove those in `remove`."""
        by_name = unused(self.root)
        for name in request.get("remove", ()):
            for path in by_name[name][1] if name in by_name else ():
                if os.path.isdir(path):
                    set_aside(path)
                else:
                    os.unlink(path)
        answer = {name: [what, sum(map(size_of, paths))] for name, (what, paths) in by_name.items()}
        return {"unused": answer}, []

    def do_offer(self, request: messages.OfferRequest, payload: _Payload) -> Answer:
        """Offer a text to the first reader of a pipe, so that it is in no file and on no command line."""
        pipe = os.path.join(tempfile.mkdtemp(prefix=".offer-", dir=self.root), "pipe")
        os.mkfifo(pipe, 0o600)
        if os.fork() == 0:
            offer(pipe, request["text"].encode("utf-8"))
        return {"pipe": pipe}, []


def failure(error: Exception) -> messages.FailureAnswer:
    """Return the answer to a request that has raised an error."""
    if isinstance(error, OSError):
        why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return {"ok": False, "why": why, "full": is_full, "file": error.filename}
    why = str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
    return {"ok": False, "why": why, "full": False, "file": None}


class _Payload:
    """The raw bytes that follow a request."""

    def __init__(self, source: BinaryIO, count: int) -> None:
        self.source, self.left, self.is_short = source, count, False

    def read(self, count: int = -1) -> bytes:
        data = self.source.read(self.left if count < 0 else min(count, self.left))
        self.left -= len(data)
        if not data and self.left:
            self.is_short, self.left = True, 0
        return data

    def skip(self) -> None:
        while self.left:
            self.read(CHUNK)


class _Changes:
    """The changes in folders of runs for one answer: the bytes that follow it, and the room that is left for more."""

    def __init__(self) -> None:
        self.files: list[Part] = []
        self.room = ANSWER_MAX_BYTES

    def of_folder(self, folder: str, known: KnownFolder) -> FolderNews:
        """Return the changes of a folder of runs, and add their bytes."""
        living, runs = is_controlled(folder), {}
        given_up = lines_of(os.path.join(folder, GIVEN_UP)) if living else None
        for run in names_of(folder, known):
            news = self.of_run(os.path.join(folder, run), known["seen"].get(run, {}), given_up)
            if news is not None:
                runs[run] = news
        return {
            "there": os.path.isdir(folder),
            "living": living,
            "over": os.path.exists(os.path.join(folder, OVER)),
            "runs": runs,
            "files": self.grown(folder, known["seen"].get("", {}), [CONTROLLER_LOG]),
        }

    def of_run(self, folder: str, seen: dict[str, Any], given_up: set[str] | None) -> RunNews | None:
        """Return the changes of one run, and add their bytes; None if there are none.

        A record with the status "failed" is held back while the controller may retry the run, that is, until the run is
        in `given_up`, or no controller is active (None).
        """
        path, content = os.path.join(folder, "run.json"), b""
        mark = mark_of(path)
        if mark is None:
            return None
        if mark != seen.get("run.json"):
            with open(path, "rb") as file:  # the path may be replaced at any time
                mark, content = mark_of(file.fileno()), file.read()
        parts = self.grown(folder, seen, run_files(folder))  # after the record, so that an ended run's are complete
        news: RunNews = {"files": parts, "age": age(os.path.join(folder, "heartbeat"))}
        if mark is not None and mark != seen.get("run.json") and self.room > 0 and not may_retry(content, given_up):
            self.files.append(content)
            news["record"], news["mark"] = len(content), mark
        annotations = annotations_of(folder)
        if annotations is not None and annotations[1] != seen.get(ANNOTATIONS):
            self.files.append(annotations[0])
            news["said"], news["said_mark"] = len(annotations[0]), annotations[1]
        if not parts and not {"record", "said"} & set(news) and news["age"] is None:
            return None
        return news

    def grown(self, folder: str, seen: dict[str, Any], names: list[str]) -> Grown:
        """Return the new ends of files, and add their bytes while there is room; send shrunk files from their start."""
        parts = {}
        for name in names:
            path = os.path.join(folder, name)
            try:
                size = os.path.getsize(path)
            except OSError:
                continue
            start = seen.get(name, 0)
            start = 0 if start > size else start
            count = min(size - start, self.room)
            if count > 0 or (size == 0 and seen.get(name, 0)):
                parts[name] = [start, count]
                self.files.append((path, start, count))
                self.room -= count
        return parts


def spawned(state: messages.SpawnState, seen: int = 0) -> messages.SpawnAnswer:
    """Return the answer to `spawn`."""
    return {"state": state, "seen": seen}


def parts_of(store: str, digest: str) -> list[tuple[int, str]]:
    """Return the partial copies of a file from interrupted transfers, with their sizes, largest first."""
    found = []
    for path in glob.glob(os.path.join(glob.escape(store), digest[:2], f".partial-{digest}-*")):
        with contextlib.suppress(OSError):
            found.append((os.stat(path).st_size, path))
    return sorted(found, reverse=True)


def chunks(file: BinaryIO, count: int) -> Iterator[bytes]:
    """Yield the first bytes of a file, in chunks."""
    while count:
        data = file.read(min(CHUNK, count))
        if not data:
            return
        yield data
        count -= len(data)


@contextlib.contextmanager
def partial_beside(target: str) -> Iterator[str]:
    """Provide a temporary folder next to a target; remove old ones that interrupted transfers have left."""
    top = os.path.dirname(target)
    os.makedirs(top, mode=0o700, exist_ok=True)
    for name in os.listdir(top):
        if name.startswith((".partial-", ".old-")):
            seconds = age(os.path.join(top, name))
            if seconds is not None and seconds > LEFT_S:
                shutil.rmtree(os.path.join(top, name), ignore_errors=True)
    partial = tempfile.mkdtemp(prefix=".partial-", dir=top)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def inside(folder: str, name: str) -> str:
    """Return the path of a name in a folder.

    Raises:
        RefusedError: the path leads out of the folder.
    """
    path = os.path.normpath(os.path.join(folder, name))
    if not (path + os.sep).startswith(folder + os.sep):
        raise RefusedError(f"{name!r} is not in {folder}")
    return path


def unpack(payload: _Payload, folder: str) -> None:
    """Unpack an archive that contains only plain files and folders, none of them outside the folder.

    Raises:
        RefusedError: the archive contains anything else, or is incomplete.
    """
    with tarfile.open(fileobj=cast("BinaryIO", payload), mode="r|*") as archive:
        for member in archive:
            path = inside(folder, member.name)
            if not (member.isfile() or member.isdir()):
                raise RefusedError(f"the archive contains {member.name!r}")
            if member.isdir():
                os.makedirs(path, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                shutil.copyfileobj(cast("BinaryIO", archive.extractfile(member)), file, CHUNK)
            os.chmod(path, member.mode & 0o755 | 0o600)
    payload.skip()
    if payload.is_short:
        raise RefusedError("the connection ended before the archive did")


def is_whole(path: str) -> bool:
    """Return whether a path exists, and for a folder that was put `marked`, whether all its files do."""
    if not os.path.exists(path):
        return False
    return all(os.path.exists(os.path.join(path, name)) for name in lines_of(path + ".files"))


def fill(source: str, target: str) -> None:
    """Move the files that a folder lacks into it."""
    for path in list(walk(source)):
        goal = os.path.join(target, os.path.relpath(path, source))
        if not os.path.exists(goal):
            os.makedirs(os.path.dirname(goal), exist_ok=True)
            os.replace(path, goal)


def remove(path: str) -> None:
    """Remove a file or a folder if it exists."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def set_aside(path: str) -> None:
    """Remove a folder if it exists, by renaming it first, so that it never exists in part."""
    if os.path.lexists(path):
        aside = tempfile.mkdtemp(prefix=".old-", dir=os.path.dirname(path))
        os.rename(path, os.path.join(aside, "it"))
        shutil.rmtree(aside, ignore_errors=True)


def note_use(path: str) -> None:
    """Mark a path as in use, so that it is not removed as unused."""
    if os.path.isdir(path) or os.stat(path).st_nlink == 1:  # otherwise the data would look changed
        os.utime(path)


def needed(root: str) -> tuple[bytes, bytes]:
    """Return the texts that name everything needed on this machine: those of unfinished runs, and those of all runs."""
    live, all_of_them, seen = [], [], set()
    workspaces = os.path.join(root, "workspaces")
    os.makedirs(workspaces, mode=0o700, exist_ok=True)
    for top, names, files in os.walk(workspaces, onerror=fail, followlinks=True):
        names[:] = [name for name in names if name != os.path.basename(STATE) and os.path.realpath(top) not in seen]
        seen.add(os.path.realpath(top))
        record, controller = read(top, "run.json"), [read(top, PLAN), read(top, CONTROLLER)]
        all_of_them += [record, *controller]
        if is_live(record):
            live.append(record)
        if LAUNCH in names and is_unfinished(top, controller[0], names):
            live += controller
        if "run.json" in files:
            names[:] = []
    return b"\n".join(live), b"\n".join(all_of_them)


def fail(error: OSError) -> None:
    """Raise the error: a folder that cannot be read may need anything."""
    raise error


def is_unfinished(folder: str, plan: bytes, names: list[str]) -> bool:
    """Return whether a folder of runs is active or unfinished, including a search that is not over."""
    if is_controlled(folder) or any(is_live(read(folder, name, "run.json")) for name in ["", *names]):
        return True
    return b'"command": [' in plan and not os.path.exists(os.path.join(folder, OVER))


def read(*parts: str) -> bytes:
    """Return the content of a file; empty if it does not exist."""
    try:
        with open(os.path.join(*parts), "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return b""


def parsed(path: str) -> dict[str, Any]:
    """Return the content of a JSON file; empty if it does not exist or is damaged."""
    try:
        return cast("dict[str, Any]", json.loads(read(path).decode("utf-8")))
    except (OSError, ValueError):
        return {}


def is_live(record: bytes) -> bool:
    """Return whether a record is that of an unfinished run; a damaged record counts as one."""
    try:
        return bool(record) and json.loads(record.decode("utf-8"))["status"] not in ENDED
    except (ValueError, KeyError, TypeError):
        return True


def unused(root: str) -> dict[str, tuple[str, list[str]]]:
    """Return what no run needs and what was not used for a day: by name, a description, and its files and folders.

    Code and data are kept while any run refers to them; tools for executing runs only while an unfinished run does.
    """
    live, named = needed(root)
    found: dict[str, tuple[str, list[str]]] = {}
    for pattern, what, text in (
        ("labrun/*", "labrun", live),
        ("told/*", "package metadata", live),
        ("configs/*", "a search's configs", live),
        ("env/*", "an environment", live),
        (f"workspaces/*/{STATE}/environments/*", "an environment of a script", live),
        (f"workspaces/*/{STATE}/code/*", "code", named),
        ("datastores/*", "data", named),
        ("inherited/*", "another run's files", named),
    ):
        for stem, paths in by_stem(glob.glob(os.path.join(glob.escape(root), pattern))).items():
            is_needed = os.path.basename(stem).encode("utf-8") in text or any(map(is_building, paths))
            if not is_needed and all(map(is_old, paths)):
                found[os.path.relpath(stem, root)] = what, paths
    store = unlinked(os.path.join(root, "store"), [path for _, paths in found.values() for path in paths])
    builds = glob.glob(os.path.join(glob.escape(root), "env", "*.build"))
    cache = [] if any(map(is_building, builds)) else [os.path.join(root, "cache")]
    for name, what, paths in (("store", "data", store), ("cache", "packages that uv keeps", cache)):
        old = list(filter(is_old, paths))
        if old:
            found[name] = what, old
    return found


def by_stem(paths: list[str]) -> dict[str, list[str]]:
    """Group paths by the part before the first dot of their names: a folder, with its log and its list of files."""
    groups: dict[str, list[str]] = {}
    for path in sorted(paths):
        folder, name = os.path.split(path)
        groups.setdefault(os.path.join(folder, name.partition(".")[0]), []).append(path)
    return groups


def is_building(path: str) -> bool:
    """Return whether a path is the claim file of an environment that is being built."""
    return path.endswith(".build") and process_lives(path)


def unlinked(store: str, removed: list[str]) -> list[str]:
    """Return the files of a store that have no other link, not counting those in folders to be removed."""
    links = Counter(os.stat(path).st_ino for folder in removed for path in walk(folder))
    stats = ((path, os.stat(path)) for path in walk(store))
    return [path for path, stat in stats if stat.st_nlink - links[stat.st_ino] < 2]


def is_old(path: str) -> bool:
    """Return whether a path was not used for a day."""
    seconds = age(path)
    return seconds is not None and seconds > LEFT_S


def size_of(path: str) -> float:
    """Return the size of a file or a folder in bytes; files with several links count proportionally."""
    stats = [os.stat(one) for one in walk(path)]
    return sum(stat.st_size / stat.st_nlink for stat in stats)


def offer(pipe: str, text: bytes) -> None:
    """Wait a while for a reader in this separate process, and exit."""
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        os.closerange(3, 256)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(remove_pipe(pipe)))
        signal.alarm(OFFERED_S)
        with open(pipe, "wb") as file:
            file.write(text)
    finally:
        os._exit(remove_pipe(pipe))


def remove_pipe(pipe: str) -> int:
    """Remove a pipe and its folder."""
    shutil.rmtree(os.path.dirname(pipe), ignore_errors=True)
    return 0


def is_built(folder: str) -> bool:
    """Return whether an environment exists with everything that it had when it was first found.

    This checks its programs, and its packages to the second level, some of which a partly removed folder lacks.
    """
    if not os.access(os.path.join(folder, "bin", "python"), os.X_OK):
        return False
    names = set(os.listdir(os.path.join(folder, "bin")))
    for top in glob.glob(os.path.join(glob.escape(folder), "lib", "python*", "site-packages")):
        for name in os.listdir(top):
            names.add(name)
            if os.path.isdir(os.path.join(top, name)):
                names.update(f"{name}/{inner}" for inner in os.listdir(os.path.join(top, name)))
    names = {name for name in names if not name.endswith("__pycache__")}
    known = lines_of(folder + ".files")
    if not known:
        write_lines(folder + ".files", names)
    return known <= names


def clear_built(folder: str) -> None:
    """Remove the remains of an environment and of earlier attempts to build it."""
    set_aside(folder)
    remove(folder + ".files")
    top, name = os.path.split(folder)
    for left in glob.glob(os.path.join(glob.escape(top), f".{name}.*")):
        shutil.rmtree(left, ignore_errors=True) if os.path.isdir(left) else os.unlink(left)


def lines_of(path: str) -> set[str]:
    """Return the lines of a file; empty if it does not exist."""
    try:
        with open(path, "rb") as file:
            return {line for line in os.fsdecode(file.read()).split("\n") if line}
    except OSError:
        return set()


def write_lines(path: str, lines: set[str]) -> None:
    """Write a file of names, except those that contain a line break."""
    write(path, os.fsencode("\n".join(sorted(line for line in lines if "\n" not in line))))


def log_end(log: str, seen: int) -> tuple[str, int]:
    """Return the unseen end of a log, limited in length, and the log's size."""
    size = os.path.getsize(log) if os.path.exists(log) else 0
    if not size:
        return "", 0
    with open(log, "rb") as file:
        file.seek(max(seen, size - LOG_MAX_BYTES))
        return file.read().decode("utf-8", "replace"), size


def may_retry(content: bytes, given_up: set[str] | None) -> bool:
    """Return whether a run has failed, according to its record, but its controller may retry it; see `of_run`."""
    if given_up is None or b'"failed"' not in content:
        return False
    record = json.loads(content.decode("utf-8"))
    if record["status"] != "failed" or not record["config"]["compute"].get("retries"):
        return False
    return f"{record['id']} {len(record['attempts'])}" not in given_up


ANNOTATIONS = "annotations.jsonl"


def annotations_of(folder: str) -> tuple[bytes, list[int]] | None:
    """Return the annotations of a run, and a mark that changes with them; None if there are none."""
    try:
        with open(os.path.join(folder, ANNOTATIONS), "rb") as file:
            stat = os.fstat(file.fileno())
            return file.read(), [stat.st_mtime_ns, stat.st_size]
    except OSError:
        return None


def annotate(folder: str, lines: list[str]) -> None:
    """Add annotations of a run from another machine, each line once."""
    if not os.path.isfile(os.path.join(folder, "run.json")):
        return
    present = annotations_of(folder)
    known = set(present[0].decode("utf-8", "replace").splitlines()) if present is not None else set()
    new = "".join(line + "\n" for line in lines if line not in known)
    if new:
        fd = os.open(os.path.join(folder, ANNOTATIONS), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, new.encode("utf-8"))  # in one write, as the run itself may add lines
        finally:
            os.close(fd)


def write(path: str, content: bytes) -> None:
    """Write a file atomically."""
    partial = f"{path}.partial-{os.getpid()}"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def leave(path: str, content: bytes) -> None:
    """Write a request; without its reason if the disk is full."""
    try:
        write(path, content)
    except OSError:
        with open(path, "wb"):
            pass


def copy_files(source: str, target: str, without: set[str]) -> None:
    """Copy the plain files of a folder, except those in `without` and compiled Python files."""
    for path in walk(source):
        name = os.path.relpath(path, source)
        if name not in without and "__pycache__" not in name.split(os.sep):
            os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
            shutil.copyfile(path, os.path.join(target, name))
            os.chmod(os.path.join(target, name), os.stat(path).st_mode & 0o755 | 0o600)


def tree_digest(folder: str) -> str:
    """Return a SHA-256 over the names and contents of a folder's files, like `labrun.runs.files.tree_digest`."""
    import hashlib

    total = hashlib.sha256()
    for path in sorted(walk(folder), key=lambda path: path.split(os.sep)):
        total.update(os.fsencode(f"{os.path.relpath(path, folder)}\0{file_sha256(path)}\n"))
    return total.hexdigest()


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file's content."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def start_of(pid: int) -> int | None:
    """Return when a process was started, in ticks since boot; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        if os.path.isdir("/proc/self"):
            return None
    try:  # no /proc
        os.kill(pid, 0)
        return 0
    except OSError:
        return None


def reap() -> None:
    """Reap child processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError:
        pass


def process_lives(claim: str) -> bool:
    """Return whether the process in a claim file is alive.

    On another host (a cluster has several), it counts as alive if it touches the file regularly and the file is recent;
    a process that does not touch its file counts as dead.
    """
    process = parsed(claim)
    if not process:
        return False
    if process["host"] != socket.gethostname():
        seconds = age(claim)
        return bool(process.get("beats")) and seconds is not None and seconds < STALE_S
    if process.get("boot") not in (None, boot_id()):
        return False
    start = start_of(process["pid"])
    return start is not None and start == process["start"]


def is_controlled(folder: str) -> bool:
    """Return whether the process that was started for a folder is alive, or another one holds its lease."""
    return process_lives(os.path.join(folder, CONTROLLER)) or controller_lives(folder)


def controller_lives(folder: str) -> bool:
    """Return whether a live controller holds a folder's lease (`labrun.control.lease`), by its heartbeat or process."""
    controllers = os.path.join(folder, CONTROLLERS)
    try:
        names = [name.partition(".")[0] for name in os.listdir(controllers)]
    except OSError:
        return False
    newest = os.path.join(controllers, str(max([int(name) for name in names if name.isdigit()] or [0])))
    holder = parsed(newest)
    if not holder:
        return False
    if holder.get("host") == socket.gethostname() and os.path.isdir("/proc/self"):
        return boot_id() in (None, holder.get("boot_id")) and start_of(holder["pid"]) is not None
    seconds = age(newest)
    return seconds is not None and seconds < STALE_S


def boot_id() -> str | None:
    """Return an id of this boot of the machine; None if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None


def age(path: str) -> float | None:
    """Return the seconds since a file was written, by the clock of its file system; None if it is missing."""
    try:
        written = os.stat(path).st_mtime
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as probe:
            present = os.fstat(probe.fileno()).st_mtime
    except OSError:
        return None
    return max(0.0, present - written)


def summary(folder: str) -> list[str | None]:
    """Return a run's id, status and submission time, as far as its record can be read."""
    content = parsed(os.path.join(folder, "run.json"))
    return [content.get(name) for name in ("id", "status", "created")]


def run_files(folder: str) -> list[str]:
    """Return the names of a run's growing files."""
    names = ["metrics.jsonl", "requests/children.jsonl"]
    names += [name for name in os.listdir(folder) if name.startswith("driver") and name.endswith(".log")]
    return names


def runs_in(folder: str) -> list[str]:
    """Return the names of the runs in a sweep's folder."""
    try:
        return sorted(name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name, "run.json")))
    except OSError:
        return []


def names_of(folder: str, known: KnownFolder) -> list[str]:
    """Return the requested runs of a folder."""
    names = known["runs"] if known["runs"] is not None else runs_in(folder)
    return [run for run in names if run not in known.get("without", ())]


def mark_of(path: str | int) -> list[int] | None:
    """Return a mark that changes when a file does, by its path or descriptor; None if it is missing."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_size, stat.st_ino]


def state_of(folder: str, known: KnownFolder) -> list[Any]:
    """Return a value that changes with the status of a folder's runs, but not with their output and metrics."""
    names = names_of(folder, known)
    marks = [mark_of(os.path.join(folder, name)) for name in (OVER, GIVEN_UP)]
    return [is_controlled(folder), *marks, *(mark_of(os.path.join(folder, run, "run.json")) for run in names)]


def walk(top: str) -> Iterator[str]:
    """Yield every plain file at or below a path, without following links."""
    if os.path.isfile(top) and not os.path.islink(top):
        yield top
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and not PARTIAL.search(name):
                yield path


def reached(top: str, home: str, left: list[str]) -> Iterator[str]:
    """Yield every file at or below a path, following links; add links to folders outside `home` to `left`."""
    if os.path.isfile(top):
        yield top
    home, within = os.path.realpath(home), {top: {os.path.realpath(top)}}
    for folder, folders, names in os.walk(top, followlinks=True):
        for name in list(folders):
            path = os.path.join(folder, name)
            real = os.path.realpath(path)
            if os.path.islink(path) and not real.startswith(home + os.sep):
                left.append(f"{path} -> {real}")
                folders.remove(name)
            elif any((one + os.sep).startswith(real + os.sep) for one in within[folder]):  # a cycle
                folders.remove(name)
            within[path] = within[folder] | {real}
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not PARTIAL.search(name):
                yield path


def facts(root: str, python: str | None, full: bool) -> dict[str, Any]:
    """Return this machine's facts; with `full`, also the interpreter's packages."""
    return {
        "host": socket.gethostname(),
        "system": platform.system(),
        "machine": platform.machine(),
        "helper": platform.python_version(),
        "cores": cores(),
        "memory_gb": memory_gb(),
        "disk_gb": shutil.disk_usage(root).free / 2.0**30,
        "uv": found_program("uv", root),
        "gpus": gpus(),
        "python": None if python is None or not full else interpreter(python),
    }


def program(name: str) -> str:
    """Return the path of a program that the user has named, possibly with `~` or a variable."""
    path = os.path.expanduser(os.path.expandvars(name))
    return shutil.which(path) or path


def found_program(name: str, root: str) -> str | None:
    """Return a program's path: on PATH, in usual folders of installers, or where it was sent."""
    paths = ["~/.local/bin/" + name, "~/.cargo/bin/" + name, os.path.join(root, "bin", name)]
    usual = [path for path in map(os.path.expanduser, paths) if os.access(path, os.X_OK)]
    return shutil.which(name) or (usual[0] if usual else None)


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def memory_gb() -> float | None:
    """Return this machine's memory in GiB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2.0**30
    except (ValueError, OSError):
        return None


def gpus() -> list[str]:
    """Return the names of the GPUs."""
    text = output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) if shutil.which("nvidia-smi") else None
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def output(command: list[str]) -> str | None:
    """Return the output of a command; None if it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


QUERY = """
import json, platform
from importlib import metadata
found = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
named = {name.lower().replace("_", "-"): version for name, version in found.items()}
print(json.dumps({"version": platform.python_version(), "packages": named}))
"""


def interpreter(python: str) -> str | dict[str, Any]:
    """Return an interpreter's version and packages, or a text that says why it cannot be used."""
    try:
        done = subprocess.run([python, "-c", QUERY], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "{}: {}".format(python, getattr(error, "strerror", None) or error)
    if done.returncode:
        return "{}: {}".format(python, done.stderr.decode("utf-8", "replace").strip()[-200:])
    return cast("dict[str, Any]", json.loads(done.stdout.decode("utf-8")))


def main() -> None:
    """Answer requests over standard input and output, to which nothing else may be printed."""
    source = sys.stdin.buffer
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    nonce = json.loads(source.readline().decode("utf-8"))["nonce"]
    sink.write((f"\n#labrun {nonce}#\n").encode())
    sink.flush()
    os.umask(0o077)
    Helper(source, sink).serve()


if __name__ == "__main__":
    main()
