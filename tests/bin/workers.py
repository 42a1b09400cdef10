"""The workers of `pytest -n`: forks of one process that has imported the libraries, so that they are imported once.

`conftest` calls it with a listening socket: then it is that process. xdist calls it in the place of an interpreter:
then it hands its code, its streams and its variables to that process, and ends when the worker does. Where that process
is gone, it starts the interpreter.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import types
from collections.abc import Sequence

from labrun.backends.local.forkserver import die_with_parent
from labrun.warm import session

LIBRARIES = (
    "torchvision",
    "pytorch_lightning",
    "sklearn.datasets",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "mlflow",
    "mlflow.tracking",
    "pandas",
    "matplotlib.pyplot",
    "fsspec",
    "omegaconf",
    "optuna",
)
"""What the test files import. Without what brings a plug-in for pytest (Hydra): pytest rewrites it as it imports it."""


def serve(listening: socket.socket, libraries: Sequence[str]) -> tuple[str, socket.socket]:
    """Import, and fork a process for each worker.

    Returns, in the forks alone, the code that they carry out, and a connection to stay open until they have ended.
    """
    die_with_parent(os.getppid())
    for name in libraries:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest and its workers
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        text, descriptors, _, _ = socket.recv_fds(connection, 2**20, 3)
        if os.fork() == 0:
            listening.close()
            connection.send(b"!")
            session.die_with(connection)  # who ends a worker ends the process that it has started in its place
            return become(json.loads(text), descriptors), connection
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)


def become(asked: dict, descriptors: list[int]) -> str:
    """Take over what a worker was started with; its code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv[:], sys.path[0] = ["-c"], ""
    atexit.register(gc.unfreeze)  # else libraries list what is left in the end as leaked
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # else all workers would draw the same numbers
    return str(asked["code"])


def ask(place: str, arguments: list[str]) -> None:
    """Have the process at a socket fork the worker, and wait for its end; returns where there is no such process."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(place)
        asked = json.dumps({"code": arguments[-1], "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [asked], [0, 1, 2])
        if connection.recv(1):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker has it, too
            os.close(0)  # pytest sees a worker's crash by these
            os.close(1)
            connection.recv(1)
            os._exit(0)


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        code, connection = serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:] or LIBRARIES)
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(code, main.__dict__)  # noqa: S102 - as the interpreter would
    else:
        ask(sys.argv[1], sys.argv[2:])
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
