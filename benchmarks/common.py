"""What the benchmarks share: labrun's config and data, fresh processes, the hardware line, Markdown tables."""

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
from typing import Any, TypeVar

import psutil

RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")
BUSY = 0.05
"""A machine is quiet while other processes use at most so much of it."""
PATIENCE_S = 600.0
"""How long a measurement waits for that before it starts anyway."""


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument(
        "--data", default=os.environ.get("LABRUN_TEST_DATA", "./data"), help="the data sets' folder, or its parent"
    )
    made.add_argument("--save", action="store_true", help="also write benchmarks/results/NAME.md")
    return made


def labrun_config(data: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config that `labrun OVERRIDES` composes, resolved and validated, with the data in a given folder."""
    from hydra import compose, initialize_config_dir

    from labrun import app
    from labrun.config import composed, paths

    app.register()
    own = ["name=benchmark", "tracking=none", f"datastore.root={Path(data).expanduser().resolve()}"]
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        return composed.validated(compose("config", [*overrides, *own]))


def labrun_arrays(config: dict[str, Any]) -> Any:
    """The data that a config names, read as a run reads them."""
    from labrun.tasks import reading

    return reading.arrays_of(config)


@contextmanager
def run_folder() -> Iterator[Any]:
    """A run's folder, where metrics go as they do in a run; gone afterwards."""
    from labrun.runs import context
    from labrun.runs.record import RunPaths

    with TemporaryDirectory() as folder:
        os.environ[context.RUN_DIR_VARIABLE] = folder
        yield RunPaths(Path(folder))
        del os.environ[context.RUN_DIR_VARIABLE]


def in_fresh_process(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a process of its own, so that no measurement inherits another's threads or settings.

    A spawned process would spawn its own children too, and a loader's workers would start slowly; they start here in
    the way that is the system's default, as they do in anybody's script.
    """
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_as_usual,
    ) as pool:
        return pool.submit(function, *args).result()


def _start_as_usual() -> None:
    """Undo in this process what `spawn` has set. (A bound method would be sent along with a copy of its object.)"""
    multiprocessing.set_start_method(None, force=True)


@dataclass
class Time:
    """What a piece of work took, and how much of the machine other processes used meanwhile."""

    seconds: float = 0.0
    others: float = 0.0
    """Share of all cores' time, from 0 to 1."""


def wait_until_quiet() -> None:
    """Wait until other processes rest, or patience is at its end."""
    asked = time.monotonic()
    while psutil.cpu_percent(interval=1.0) > 100 * BUSY and time.monotonic() - asked < PATIENCE_S:
        pass


@contextmanager
def stopwatch(patient: bool = True) -> Iterator[Time]:
    """Waits until other processes rest, and measures what its body takes; fills in the `Time` that it gives.

    Args:
        patient: wait at all.
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
    """Processor seconds of this process and of all that it started."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass
class Command:
    """A command that has ended well: what it took, and what it printed."""

    time: Time
    lines: list[tuple[float, str]]
    """Seconds after its start, and the line."""

    def find(self, pattern: str) -> tuple[float, re.Match[str]]:
        """The first line that matches, and when it came.

        Raises:
            SystemExit: no line does.
        """
        for seconds, line in self.lines:
            if found := re.search(pattern, line):
                return seconds, found
        sys.exit(f"no line like {pattern!r} was printed, but:\n" + "\n".join(line for _, line in self.lines[-20:]))


OWN_SETTINGS = ("LABRUN_ROOT", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH")
"""Variables of the caller that no measured command sees."""


def run_command(
    label: str,
    command: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    hear: Callable[[str, psutil.Process], None] | None = None,
) -> Command:
    """Run a command to its end, without waiting for a quiet machine.

    Args:
        label: for the progress line.
        command: the program and its arguments.
        cwd: its working folder.
        environment: variables beside the caller's.
        hear: told each line as it comes, while the process waits for nothing.

    Raises:
        SystemExit: it failed.
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
    """A finished sweep of labrun's: the command, and the records of its runs by their numbers."""

    command: Command
    records: list[dict[str, Any]]

    def column(self, name: str) -> list[float]:
        """A metric's last value in every run."""
        return [float(record["metrics"][name]) for record in self.records]

    def ended(self) -> list[float]:
        """When the runs ended, in order; seconds since the epoch."""
        return sorted(datetime.datetime.fromisoformat(record["ended"]).timestamp() for record in self.records)


def labrun_sweep(
    label: str,
    overrides: Sequence[str],
    files: Sequence[Path] = (),
    hear: Callable[[str, psutil.Process], None] | None = None,
    warm: bool = False,
) -> Sweep:
    """Run `labrun -m OVERRIDES tracking=none` as a person does, from a workspace of its own that is gone afterwards.

    Args:
        label: for the progress line.
        overrides: the command line.
        files: to copy into the workspace beforehand.
        hear: see `run_command`.
        warm: begin it from the warm interpreter, which is up (`warm_interpreter`).
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
    """A warm interpreter of the measurement's own; gives the seconds that it took until it was up."""
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
    """So many rates of regularization, each the same factor above the one before."""
    step = (high / low) ** (1 / max(1, count - 1))
    return [f"{low * step**number:.6g}" for number in range(count)]


class Measurer:
    """Carries out measurements one after another, each in a fresh process.

    One during which other processes used more than `BUSY` of the machine is dropped and taken again, whichever side
    it is of; if that never ends, the last one counts.
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
        """A sentence for the report."""
        return (
            f"Other processes used at most {self.busiest:.0%} of the machine during any measurement that counts; "
            f"{self.dropped} were taken again because it was more than {BUSY:.0%}."
        )


def progress(text: str) -> None:
    """One line on what is being measured, beside the table."""
    print(text, file=sys.stderr, flush=True)


def middle_and_range(values: Sequence[float], digits: int = 1) -> str:
    """`median (lowest - highest)`."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} - {max(values):,.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hardware(packages: Sequence[str]) -> str:
    """Processor, cores, memory, system and versions, in one line."""
    memory = psutil.virtual_memory().total / 2**30
    names = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()} {platform.machine()}; "
        f"Python {platform.python_version()}, {names}"
    )


def report(name: str, title: str, parts: Sequence[str], packages: Sequence[str], save: bool) -> None:
    """Print a result, and keep it below `results/` if that is wanted.

    Args:
        name: of the script, without its ending.
        title: the heading.
        parts: tables and paragraphs, in Markdown.
        packages: whose versions matter.
        save: write `results/NAME.md` too.
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
