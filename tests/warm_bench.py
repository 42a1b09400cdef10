"""A nearly empty warm interpreter, and a command that reports how it was started."""

from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from labrun.warm import identity, wire

APP = """
import json, os, resource, signal, sys, threading, time

def main():
    words = sys.argv[1:]
    if "tell" in words:
        import random
        ignored = [n for n in (1, 2, 15) if signal.getsignal(n) == signal.SIG_IGN]
        streams = [s is not None and s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)]
        print(json.dumps({
            "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0), "ignored": ignored,
            "limit": resource.getrlimit(resource.RLIMIT_NOFILE), "nice": os.nice(0), "path": sys.path,
            "random": random.random(), "pid": os.getpid(), "streams": streams, "flags": list(sys.flags),
            "handlers": len(__import__("logging").getLogger().handlers),
            "collects": __import__("gc").isenabled(),
            "main": sys.modules["__main__"].__file__, "encoding": sys.stdout.encoding,
            "buffered": not sys.stdout.line_buffering, "size": list(os.get_terminal_size(1)) if streams[1] else None,
            "warm": "labrun.warm.session" in sys.modules, "version": sys.modules["lib"].VERSION if "lib" in sys.modules
            else __import__("lib").VERSION,
        }))
    elif "copy" in words:
        sys.stdout.write(sys.stdin.read().upper())
    elif "number" in words:
        with open(f"/dev/fd/{words[1]}") as file:
            print(file.read())
    elif "wait" in words:
        open(words[1] + ".new", "w").write(str(os.getpid()))
        os.rename(words[1] + ".new", words[1])
        try:
            for _ in range(600):
                time.sleep(0.1)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(7)
    elif "exit" in words:
        sys.exit(words[1] if not words[1].isdigit() else int(words[1]))
    elif "raise" in words:
        raise ValueError("this goes wrong")
    elif "signal" in words:
        os.kill(os.getpid(), int(words[1]))
        time.sleep(10)
    elif "thread" in words:
        threading.Thread(target=lambda: (time.sleep(0.3), print("from the thread"))).start()
        import atexit
        atexit.register(lambda: print("at the end"))
    elif "count" in words:
        with open("ran", "a") as file:
            file.write(words[1] + "\\n")
        print(words[1])
        sys.exit(int(words[1]) % 5)
    elif "leave" in words:
        os._exit(9)
    elif "flood" in words:
        for _ in range(100000):
            print("x" * 80)
"""
LAUNCHER = """
from labrun.warm import client, starting

starting.start = lambda *arguments: None  # a server that a cold command started would outlive the test
client._command("app")
"""
ASKING = """
import marshal, os, sys
from labrun.warm import identity

os.write(1, marshal.dumps([identity.folder(), identity.facts(dict(os.environ))], 2))
"""
BENCHES = 100
"""More than there are tests, since one process may execute all of them."""


class Bench:
    """A folder with a command `app`, its library, and the servers started for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work, self.site = folder, folder / "work", folder / "site"
        self.place, self.script = folder / "w", folder / "bin" / "command.py"
        self.servers: list[subprocess.Popen[bytes]] = []
        self._asked: dict[tuple[object, ...], tuple[str, dict[str, object]]] = {}

    def furnish(self) -> None:
        for one in (self.work, self.site, self.script.parent):
            one.mkdir(parents=True)
        (self.site / "app.py").write_text(APP)
        (self.site / "lib.py").write_text("VERSION = 1\n")
        self.script.write_text(LAUNCHER)

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "LABRUN_WARM": "1",
            "LABRUN_WARM_DIR": str(self.place),
            "PYTHONPATH": str(self.site),
        }

    def start_server(self, python: str = sys.executable, **environment: str) -> int:
        """Start a server that has imported only the library, and return its pid."""
        values = {**self.environment, **environment}
        place, facts = self._facts(python, values)
        command = [python, "-c", "from labrun.warm.server import main; main()"]
        with open(self.folder / "log", "ab") as log:
            server = subprocess.Popen(
                command, env=values, cwd=place, stdin=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert server.stdin is not None
        server.stdin.write(marshal.dumps({"place": place, "facts": facts, "modules": ["lib", "json", "random"]}, 2))
        server.stdin.close()
        name = identity.name_of(facts)
        end = time.monotonic() + 60
        while (connection := wire.connect(place, name)) is None:
            assert time.monotonic() < end and server.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)
        connection.close()
        self.servers.append(server)
        return server.pid

    def _facts(self, python: str, environment: dict[str, str]) -> tuple[str, dict[str, object]]:
        """Return the folder and facts that an interpreter reports at its start; asked once for all its servers."""
        key = (python, *sorted(environment.items()))
        if key not in self._asked:
            asking = self.script.with_name("asking.py")
            asking.write_text(ASKING)
            told = subprocess.run([python, str(asking)], env=environment, capture_output=True, check=True).stdout
            self._asked[key] = marshal.loads(told)
        return self._asked[key]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(self.script), *words]

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        values = {**self.environment, **more.pop("environment", {})}
        more = {"capture_output": True, "cwd": self.work, **more}
        return subprocess.run(self.command(*words), text=True, timeout=60, check=False, env=values, **more)

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.work, **more}
        return subprocess.Popen(self.command(*words), text=True, env=self.environment, **more)

    def told(self, *words: str, **more: Any) -> dict[str, Any]:
        """Run the command, and return the facts that it reports about itself."""
        done = self.run("tell", *words, **more)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def served(self) -> int:
        """Return the number of commands that its server has forked."""
        (path,) = self.place.glob("*.sock")
        connection = wire.connect(str(self.place), path.stem)
        assert connection is not None
        with connection:
            wire.send(connection, {"ask": "status"})
            answer = wire.receive(connection)
        assert answer is not None
        return int(str(answer[0]["served"]))

    def log(self) -> str:
        return (self.folder / "log").read_text()
