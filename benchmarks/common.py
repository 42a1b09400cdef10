"""Code shared by the benchmarks: labrun's config and data, fresh processes, hardware description, Markdown tables."""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

if TYPE_CHECKING:
    from labrun.config.schema import Config

RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")
BUSY = 0.05
"""Maximum share of the machine that other processes may use while it counts as quiet."""
PATIENCE_S = 600.0
"""Maximum time to wait for a quiet machine before measuring anyway, in seconds."""


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument(
        "--data", default=os.environ.get("LABRUN_TEST_DATA", "./data"), help="the data sets' folder, or its parent"
    )
    made.add_argument("--save", action="store_true", help="also write benchmarks/results/NAME.md")
    return made


def labrun_config(data: str, overrides: Sequence[str]) -> Config:
    """Return the config that `labrun OVERRIDES` composes, resolved and validated, with the data in a given folder."""
    from hydra import compose, initialize_config_dir

    from labrun.app.resolvers import register
    from labrun.compose import composed, paths

    register()
    own = ["name=benchmark", "tracking=none", f"datastore.root={Path(data).expanduser().resolve()}"]
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        return composed.validated(compose("config", [*overrides, *own]))


def labrun_arrays(config: Config) -> Any:
    """Read the data of a config as a run does."""
    from labrun.tasks import reading

    return reading.arrays_of(config)


@contextmanager
def run_folder() -> Iterator[Any]:
    """Create a temporary run folder that receives metrics as in a run."""
    from labrun.runs import context
    from labrun.runs.record import RunPaths

    with TemporaryDirectory() as folder:
        os.environ[context.RUN_DIR_VARIABLE] = folder
        yield RunPaths(Path(folder))
        del os.environ[context.RUN_DIR_VARIABLE]


def in_fresh_process(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a fresh process, so that no measurement inherits threads or settings from another.

    A spawned process would also spawn its own children, which makes the workers of a loader start slowly. So the start
    method is reset to the system's default, as in any user's script.
    """
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_as_usual,
    ) as pool:
        return pool.submit(function, *args).result()


def _start_as_usual() -> None:
    """Reset the start method that `spawn` has set in this process. A bound method would be pickled with its object."""
    multiprocessing.set_start_method(None, force=True)


@dataclass
class Time:
    """Duration of a piece of work, and the share of the machine that other processes used meanwhile."""

    seconds: float = 0.0
    others: float = 0.0
    """Share of the time of all cores, from 0 to 1."""


def wait_until_quiet() -> None:
    """Wait until other processes are idle, at most `PATIENCE_S`."""
    asked = time.monotonic()
    while psutil.cpu_percent(interval=1.0) > 100 * BUSY and time.monotonic() - asked < PATIENCE_S:
        pass


@contextmanager
def stopwatch(patient: bool = True) -> Iterator[Time]:
    """Wait for a quiet machine, measure the duration of the context, and fill in the yielded `Time`.

    Args:
        patient: whether to wait for a quiet machine.
    """
    taken = Time()
    if patient:
        wait_until_quiet()
    begun, used, own = time.perf_counter(), _used(), _used_here()
    yield taken
    taken.seconds = time.perf_counter() - begun
    rest = (_used() - used) - (_used_here() - own)
    taken.others = max(0.0, rest / taken.seconds / (os.cpu_count() or 1))


def _used() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system)


def _used_here() -> float:
    """Return the CPU seconds of this process and its children."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass
class Command:
    """A command that has succeeded, with its duration and output."""

    time: Time
    lines: list[tuple[float, str]]
    """Output lines, each with its time in seconds after the start."""

    def find(self, pattern: str) -> tuple[float, re.Match[str]]:
        """Return the time of the first line that matches, and the match.

        Raises:
            SystemExit: no line matches.
        """
        for seconds, line in self.lines:
            if found := re.search(pattern, line):
                return seconds, found
        sys.exit(f"no line like {pattern!r} was printed, but:\n" + "\n".join(line for _, line in self.lines[-20:]))


OWN_SETTINGS = ("LABRUN_ROOT", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH")
"""Environment variables of the caller that are hidden from measured commands."""


def run_command(
    label: str,
    command: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    hear: Callable[[str, psutil.Process], None] | None = None,
) -> Command:
    """Run a command to its end, without waiting for a quiet machine.

    Args:
        label: label for the progress line.
        command: the program and its arguments.
        cwd: its working folder.
        environment: environment variables in addition to the caller's.
        hear: called with each line as it arrives, without blocking the process.

    Raises:
        SystemExit: the command failed.
    """
    variables = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    lines: list[tuple[float, str]] = []
    with stopwatch(patient=False) as taken:
        begun = time.perf_counter()
        process = psutil.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**variables, **(environment or {})},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in process.stdout:
            lines.append((time.perf_counter() - begun, line.rstrip("\n")))
            if hear is not None:
                hear(line, process)
        code = process.wait()
    progress(f"{label}: {taken.seconds:.2f} s, others used {taken.others:.0%} of the machine")
    if code:
        sys.exit(f"{label} failed ({code}):\n" + "\n".join(line for _, line in lines[-40:]))
    return Command(taken, lines)


@dataclass
class Sweep:
    """A finished labrun sweep: the command, and the records of its runs by number."""

    command: Command
    records: list[dict[str, Any]]

    def column(self, name: str) -> list[float]:
        """Return the last value of a metric in every run."""
        return [float(record["metrics"][name]) for record in self.records]

    def ended(self) -> list[float]:
        """Return the end times of the runs, sorted, in seconds since the epoch."""
        return sorted(datetime.datetime.fromisoformat(record["ended"]).timestamp() for record in self.records)


def labrun_sweep(
    label: str,
    overrides: Sequence[str],
    files: Sequence[Path] = (),
    hear: Callable[[str, psutil.Process], None] | None = None,
    warm: bool = False,
) -> Sweep:
    """Run `labrun -m OVERRIDES tracking=none` like a user, in a temporary workspace.

    Args:
        label: label for the progress line.
        overrides: the command-line arguments.
        files: files to copy into the workspace first.
        hear: see `run_command`.
        warm: start the command from the running warm interpreter (`warm_interpreter`).
    """
    program = Path(sys.executable).with_name("labrun")
    switch = {"LABRUN_WARM": "1" if warm else "0"}
    with TemporaryDirectory(prefix="labrun-benchmark-") as folder:
        for file in files:
            shutil.copy(file, folder)
        command = run_command(label, [program, "-m", *overrides, "tracking=none"], Path(folder), switch, hear)
        found = sorted(Path(folder).glob("multirun/*/*/*/run.json"), key=lambda path: int(path.parent.name))
        return Sweep(command, [json.loads(path.read_text(encoding="utf-8")) for path in found])


@contextmanager
def warm_interpreter() -> Iterator[float]:
    """Start a warm interpreter for the measurement, and yield its start-up time in seconds."""
    lab = Path(sys.executable).with_name("lab")
    with TemporaryDirectory(prefix="labrun-warm-") as folder:
        variables = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
        os.environ["LABRUN_WARM_DIR"] = variables["LABRUN_WARM_DIR"] = folder
        begun = time.perf_counter()
        subprocess.run([lab, "warm", "start"], check=True, env=variables, stdout=subprocess.DEVNULL)
        yield time.perf_counter() - begun
        subprocess.run([lab, "warm", "stop"], check=True, env=variables, stdout=subprocess.DEVNULL)
        del os.environ["LABRUN_WARM_DIR"]


def spread(count: int, low: float = 1e-3, high: float = 10.0) -> list[str]:
    """Return `count` regularization rates, evenly spaced on a log scale."""
    step = (high / low) ** (1 / max(1, count - 1))
    return [f"{low * step**number:.6g}" for number in range(count)]


class Measurer:
    """Runs measurements one after another, each in a fresh process.

    A measurement during which other processes used more than `BUSY` of the machine is discarded and repeated, whichever
    side it belongs to. If the machine never becomes quiet, the last measurement counts.
    """

    ATTEMPTS = 20

    def __init__(self) -> None:
        self.dropped = 0
        self.busiest = 0.0

    def __call__(self, label: str, function: Callable[..., T], *args: Any) -> T:
        """Call `function(*args)`, whose result has a `time: Time`."""
        for attempt in range(1, self.ATTEMPTS + 1):
            result = in_fresh_process(function, *args)
            taken: Time = result.time  # type: ignore[attr-defined]
            progress(f"{label}: {taken.seconds:.2f} s, others used {taken.others:.0%} of the machine")
            if taken.others <= BUSY or attempt == self.ATTEMPTS:
                break
            self.dropped += 1
        self.busiest = max(self.busiest, taken.others)
        return result

    def note(self) -> str:
        """Return a sentence on the discarded measurements, for the report."""
        return (
            f"Other processes used at most {self.busiest:.0%} of the machine during any measurement that counts; "
            f"{self.dropped} were taken again because it was more than {BUSY:.0%}."
        )


def progress(text: str) -> None:
    """Print a progress line to standard error."""
    print(text, file=sys.stderr, flush=True)


def middle_and_range(values: Sequence[float], digits: int = 1) -> str:
    """Format values as `median (lowest - highest)`."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} - {max(values):,.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with the first column left-aligned and the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hardware(packages: Sequence[str]) -> str:
    """Describe processor, cores, memory, system and package versions in one line."""
    memory = psutil.virtual_memory().total / 2**30
    names = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()} {platform.machine()}; "
        f"Python {platform.python_version()}, {names}"
    )


def report(name: str, title: str, parts: Sequence[str], packages: Sequence[str], save: bool) -> None:
    """Print a report, and optionally save it.

    Args:
        name: name of the script, without its suffix.
        title: the heading.
        parts: tables and paragraphs, in Markdown.
        packages: packages whose versions are reported.
        save: also write `results/NAME.md`.
    """
    head = [
        f"# {title}",
        f"Date: {datetime.date.today().isoformat()}  \nMachine: {hardware(packages)}",
        f"Repeat: `{_command(name)}`",
    ]
    text = "\n\n".join([*head, *parts]) + "\n"
    print(text)
    if save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def _command(name: str) -> str:
    text = " ".join(["uv run python", f"benchmarks/{name}.py", *sys.argv[1:]])
    return re.sub(r"(--data[ =])\S+", r"\1PATH", text)


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
