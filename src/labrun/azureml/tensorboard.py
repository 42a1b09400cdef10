"""`Tensorboard` and `export_to_tensorboard`, which show runs in TensorBoard."""

from __future__ import annotations

import atexit
import re
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from labrun.azureml.experiment import Experiment
from labrun.azureml.run import Run
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training.values import file_name

PORT = 6006
START_S = 120


class Tensorboard:
    """A TensorBoard that shows the `logs` of runs, also while the runs are writing.

    Args:
        runs: the runs; their child runs are shown too.
        local_root: the log directory, to which links to the runs' logs are added; None: a temporary one.
        port: the port. If 6006, the SDK's default, is taken, the next free port is used.
        use_display_name: show each run under its display name and id, not under its id alone.
    """

    def __init__(self, runs: Any, local_root: Any = None, port: int = PORT, use_display_name: bool = False) -> None:
        self.runs = list(_all(runs))
        self._use_display_name = use_display_name
        self.local_root = Path(local_root or tempfile.mkdtemp(prefix="labrun-tensorboard-"))
        self.port = int(port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, start_browser: bool = False) -> str:
        """Start TensorBoard and return its address.

        Args:
            start_browser: also open the address in a browser.

        Raises:
            UserErrorException: the port is taken, or TensorBoard does not start; the message is TensorBoard's.
        """
        self.stop()
        with socket.socket() as attempt:
            if self.port != PORT and attempt.connect_ex(("localhost", self.port)) == 0:
                raise UserErrorException(f"Tensorboard: the port {self.port} is taken: give another, port=...")
        for run in self.runs:
            link, logs = self.local_root / self._shown(run), run._folder / "logs"
            if not link.is_symlink() and not run._is_sweep:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(logs)
        port = "default" if self.port == PORT else str(self.port)
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(self.local_root), "--port", port]
        with tempfile.TemporaryFile() as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            atexit.register(self.stop)
            address = self._address(output)
        print(address)
        if start_browser:
            webbrowser.open(address)
        return address

    def _shown(self, run: Any) -> str:
        """Return the run's path below the log directory."""
        return f"{file_name(run.display_name)}/{run.id}" if self._use_display_name else str(run.id)

    def _address(self, output: Any) -> str:
        """Wait for TensorBoard to print its address and return it."""
        assert self._process is not None
        until = time.monotonic() + START_S
        while True:
            is_over = self._process.poll() is not None or time.monotonic() > until
            output.seek(0)
            text = output.read().decode(errors="replace")
            found = re.search(r"TensorBoard \S+ at (http\S+)", text)
            if found is not None:
                return found[1]
            if is_over:
                self.stop()
                raise UserErrorException(f"TensorBoard does not start: {text.strip().rpartition(chr(10))[2]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop TensorBoard."""
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def export_to_tensorboard(run_data: Any, logsdir: Any, logger: Any = None, recursive: bool = True) -> None:
    """Write the numeric metrics of runs to TensorBoard files, one folder per run.

    Args:
        run_data: a run, a list of runs, or an experiment.
        logsdir: the parent of the runs' folders.
        logger: not used.
        recursive: include child runs.
    """
    from tensorboard.summary import Writer

    for run in _all(run_data) if recursive else _several(run_data):
        numbers = {name: _numbers(value) for name, value in run.get_metrics().items()} if not run._is_sweep else {}
        if not any(numbers.values()):
            continue
        writer = Writer(str(Path(logsdir) / run.id))
        for name, values in numbers.items():
            for step, value in enumerate(values):
                writer.add_scalar(name, value, step)
        writer.close()


def _numbers(value: Any) -> list[float]:
    items = value if isinstance(value, list) else [value]
    return [float(one) for one in items if isinstance(one, (int, float)) and not isinstance(one, bool)]


def _several(runs: Any) -> Iterable[Any]:
    if isinstance(runs, Experiment):
        return runs.get_runs()
    return [runs] if isinstance(runs, Run) else list(runs)


def _all(runs: Any) -> Iterator[Any]:
    """Yield the runs and their child runs."""
    for run in _several(runs):
        yield run
        yield from run.get_children(recursive=True)
