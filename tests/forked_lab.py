"""`lab` in forks of one interpreter that has loaded what its commands need: several at once, and to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labrun.data import stores
from servers import Server

SERVE = '''
import json, os, sys, time
from importlib import import_module
for name in json.loads(sys.argv[1]):
    import_module(name)
from labrun.cli import main

def stall(name):
    """Let the transfer of a file sleep once its first bytes have moved."""
    from labrun.data import transfer
    transfer_all = transfer.transfer_all

    def stalling(store, items, work, view, workers):
        def move(item, on_progress):
            def hold(count):
                on_progress(count)
                if item.name == name:
                    time.sleep(600)
            work(item, hold)
        transfer_all(store, items, move, view, workers)

    transfer.transfer_all = stalling

def run(arguments, folder, environment, out, err, stalled):
    os.chdir(folder)
    if stalled is not None:
        stall(stalled)
    os.environ.clear()
    os.environ.update(environment)
    for number, place, how in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(place, how), number)
    sys.argv[:] = ["lab", *arguments]
    try:
        main()
    finally:  # what getrusage tells begins with the parent's
        kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
        sys.stderr.write(f"PEAK {int(kb) * 1024}")

for line in sys.stdin:
    question = json.loads(line)
    if isinstance(question, int):
        pid, status = os.waitpid(question, os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if answer == 0:
            run(**question)
            sys.exit()
    print(json.dumps(answer), flush=True)
'''


class ForkedLab:
    """A command in a process of its own. The end of its standard error is `PEAK` and its largest memory in bytes."""

    def __init__(self, forks: Forks, pid: int, files: tuple[str, str]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._forks, self._files = forks, files

    def poll(self) -> int | None:
        """Return the exit code, None while the command runs."""
        if self.returncode is None:
            self.returncode = self._forks.ask(self.pid)
        return self.returncode

    def kill(self) -> None:
        """End it with kill -9."""
        if self.poll() is None:
            os.kill(self.pid, 9)

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end, and return the exit code."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, "it did not end"
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def said(self) -> tuple[str, str]:
        """Return its output so far."""
        out, err = (Path(file).read_text() for file in self._files)
        return out, err

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """Wait for its end, and return its output."""
        self.wait(timeout)
        return self.said()


class Forks:
    """An interpreter that has loaded modules."""

    def __init__(self, process: subprocess.Popen[str], folder: str) -> None:
        self._process, self._folder = process, folder

    def ask(self, question: Any) -> Any:
        """Ask the interpreter for a fork, or for the exit code of one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, workspace: Path, *arguments: str, stalled: str | None = None) -> ForkedLab:
        """Start `lab` with this process's environment.

        Args:
            workspace: the working folder.
            arguments: the command's.
            stalled: a file in the datastore whose transfer stops in the middle, until the command is killed.
        """
        files = []
        for _ in range(2):
            number, file = tempfile.mkstemp(dir=self._folder)
            os.close(number)
            files.append(file)
        out, err = files
        values = {"folder": str(workspace), "environment": dict(os.environ), "out": out, "err": err, "stalled": stalled}
        return ForkedLab(self, self.ask({"arguments": arguments, **values}), (out, err))


@contextmanager
def forks_of(server: Server) -> Iterator[Forks]:
    """Run the interpreter for datastores of a type during the context."""
    library = server.node.get("_target_", "").rpartition(".")[0]
    store = type(stores.make(server.node)).__module__
    modules = ["hydra", "labrun.cli.data", "labrun.data.readers", "antlr4.LL1Analyzer", store, *LATER.get(library, ())]
    with forks(*modules, *([library] if library else [])) as found:
        yield found


LATER = {"s3fs": ("boto3.s3.inject", "boto3.s3.transfer"), "adlfs": ("azure.core.rest._requests_basic",)}
"""Modules that a store's library imports only in use."""


@contextmanager
def forks(*modules: str) -> Iterator[Forks]:
    """Run an interpreter that has loaded these modules during the context."""
    command = [sys.executable, "-c", SERVE, json.dumps(modules)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process,
    ):
        yield Forks(process, folder)
        assert process.stdin is not None
        process.stdin.close()
