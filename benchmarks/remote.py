"""Overhead of running on a machine with 50 ms latency: `compute.host` against the same commands on that machine.

The other machine is that of the tests (`tests/far.py`): a real sshd in separate network, mount, process and host-name
namespaces, with another user and an empty home. It is reached through a `slow_link`. Both sides share the cores of this
machine, so the client's work slows the runs down, which it would not do with two machines.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import common
from slow_link import SlowLink, Traffic, slow_link

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import far

TIMES, MORE_S = 1.3, 3.0
"""Claimed maxima: time of a sweep relative to the same on the box, and additional seconds of a further single run."""
DELAY_S = 0.025
FILES = 200
CONSOLE = "from labrun.warm.client import labrun; labrun()"
ALONE_S = 35.0
"""Time after which a detached controller polls at its lowest rate, because nobody watches, in seconds."""
UNQUIET = " The machine was not quiet: seconds and ratios are rough, and to be measured again; bytes are not concerned."
SETTLE_S = 5.0
"""Time for `lab runs watch` to start, in seconds."""
SLEEPER = """
import time

import numpy as np


class Sleeper:
    def __init__(self, seconds):
        self.seconds = seconds

    def fit(self, x, y):
        time.sleep(self.seconds)
        return self

    def predict(self, x):
        return np.zeros(len(x), int)
"""


@dataclass
class Taken:
    """Cost of a command."""

    seconds: float
    traffic: Traffic = field(default_factory=Traffic)
    sessions: int = 0
    """Number of SSH sessions, as counted by the server."""
    others: float = 0.0
    """Share of the machine that other processes used meanwhile."""


Pairs = tuple[list[Taken], list[Taken]]
"""Costs of the same command from here, and on the box."""


class Bench:
    """The two machines, and a project on each.

    Args:
        box: the other machine.
        link: the link to it.
        project: folder of the project on this machine; the box has a copy.
    """

    def __init__(self, box: far.Far, link: SlowLink, project: Path) -> None:
        self._box, self._link, self.project = box, link, project
        self._programs = Path(sys.executable).parent

    def here(self, label: str, *words: str, program: str = "labrun") -> Taken:
        """Run a command on this machine, and count its traffic."""
        before, sessions = self._link.traffic, self._sessions()
        command = common.run_command(label, [self._programs / program, *words], self.project)
        taken = command.time
        return Taken(taken.seconds, self._link.traffic - before, self._sessions() - sessions, taken.others)

    def there(self, label: str, *words: str) -> Taken:
        """Run a command on the box, with the labrun that was sent to it."""
        found = self._box.inside(f"ls -d /home/{far.USER}/.labrun/labrun/*/").split()
        variables = f"LABRUN_WARM=0 PYTHONPATH={found[-1]}"
        text = f"cd ~/project && {variables} exec {far.PYTHON} -P -c {shlex.quote(CONSOLE)} {shlex.join(words)}"
        taken = common.run_command(label, self._box.as_user(text), self.project).time
        return Taken(taken.seconds, others=taken.others)

    def copy_there(self) -> None:
        """Copy the project to the box, for commands that run there."""
        pack = ["tar", "-c", "--exclude=outputs", "."]
        archive = subprocess.run(pack, cwd=self.project, stdout=subprocess.PIPE, check=True)
        unpack = self._box.as_user("mkdir -p ~/project && tar -x -C ~/project")
        subprocess.run(unpack, input=archive.stdout, check=True)

    def idle(self, seconds: float) -> Traffic:
        """Measure the traffic during a waiting time."""
        before = self._link.traffic
        time.sleep(seconds)
        return self._link.traffic - before

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Run `lab runs watch` during the context, after it has settled."""
        words = [str(self._programs / "lab"), "runs", "watch", "last"]
        process = subprocess.Popen(words, cwd=self.project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(SETTLE_S)
        yield
        process.terminate()
        process.wait()

    def _sessions(self) -> int:
        return (self._box.folder / "sshd.log").read_text(errors="replace").count("Starting session")


def make_project(folder: Path) -> None:
    """Create a project of `FILES` files of about 2 kB each, under version control."""
    package = folder / "tools"
    package.mkdir(parents=True)
    for number in range(FILES - 3):
        lines = [f"def step_{number}_{i}(x):\n    return {i} * x + {number}\n\n" for i in range(45)]
        (package / f"part_{number:03}.py").write_text("\n".join(lines))
    (folder / "sleeper.py").write_text(SLEEPER)
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "sleeper.yaml").write_text("_target_: sleeper.Sleeper\nseconds: 1200\n")
    (folder / ".gitignore").write_text("outputs/\nmultirun/\n")
    for words in ("init -q", "add .", "-c user.name=b -c user.email=b@localhost commit -q -m project"):
        subprocess.run(["git", *words.split()], cwd=folder, check=True)


def edit(folder: Path, number: int) -> None:
    """Change one line of one file."""
    with open(folder / "tools" / f"part_{number:03}.py", "a") as file:
        file.write(f"\nEDITED = {time.time()}\n")


@contextlib.contextmanager
def machines() -> Iterator[Bench]:
    """Start the other machine, and make it known here as `box`.

    Raises:
        SystemExit: it cannot be started on this system.
    """
    if (why := far.why_unavailable()) is not None:
        sys.exit(f"there can be no other machine here: {why}")
    with tempfile.TemporaryDirectory(prefix="labrun-benchmark-") as name:
        folder = Path(name)
        make_project(folder / "project")
        variables = {"LABRUN_REMOTES": str(folder / "remotes.json"), "LABRUN_WARM": "0"}
        with far.machine(folder / "box", sshd="LogLevel VERBOSE") as box, slow_link(box.address, 22, DELAY_S) as link:
            os.environ.update(variables, LABRUN_SSH_DIR=str(box.sockets))
            bench = Bench(box, link, folder / "project")
            config = folder / "ssh_config"
            config.write_text(_through(box, link))
            words = ["add", "box", "box", "--python", far.PYTHON, "--ssh-config", str(config)]
            bench.here("lab remote add", "remote", *words, program="lab")
            yield bench
            end = ["ssh", "-F", str(config), "-O", "exit", "-o", f"ControlPath={box.sockets}/%C", "box"]
            subprocess.run(end, check=False, stderr=subprocess.DEVNULL)


def _through(box: far.Far, link: SlowLink) -> str:
    """Return the ssh configuration for a connection through the slow link."""
    direct = box.ssh_config.read_text()
    port = f"HostName 127.0.0.1\n  Port {link.port}\n  HostKeyAlias {box.address}"
    return direct.replace(f"HostName {box.address}", port)


def in_turn(rounds: int, bench: Bench, label: str, words: Sequence[str]) -> Pairs:
    """Run the same command from here and on the box, alternating."""
    away, own = [], []
    for number in range(rounds):
        own.append(bench.there(f"{label}, on the box {number + 1}", *words))
        away.append(bench.here(f"{label}, from here {number + 1}", *words, "compute.host=box"))
    return away, own


def row(name: str, away: Sequence[Taken], own: Sequence[Taken]) -> list[str]:
    """Return a row of the first table, with medians."""
    last = away[-1]
    here_s, there_s = (statistics.median(one.seconds for one in side) for side in (away, own))
    return [
        name,
        str(len(away)),
        f"{here_s:.1f}",
        f"{there_s:.1f}",
        f"{here_s - there_s:+.1f}",
        f"{here_s / there_s:.2f}",
        f"{last.traffic.sent / 1000:,.0f}",
        f"{last.traffic.received / 1000:,.0f}",
        str(last.traffic.turns),
        str(last.sessions),
    ]


def ratio(away: Sequence[Taken], own: Sequence[Taken]) -> float:
    """Return the median ratio of the pairs, whose commands ran one after the other."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(away, own, strict=True))


def more(away: Sequence[Taken], own: Sequence[Taken]) -> float:
    """Return the median difference of the pairs, in seconds."""
    return statistics.median(a.seconds - b.seconds for a, b in zip(away, own, strict=True))


def per_hour(name: str, traffic: Traffic, seconds: float) -> list[str]:
    """Return a row of the second table."""
    scaled = [f"{3600 / seconds * size / 1000:,.0f}" for size in (traffic.sent, traffic.received)]
    return [name, f"{seconds:.0f}", str(traffic.sent), str(traffic.received), *scaled]


def verdict(text: str, measured: str, holds: bool) -> str:
    """Return a sentence on whether a claim holds."""
    return f"Claim: {text}. Measured: {measured}. **{'Holds' if holds else 'Missed'}.**"


def describe(options: argparse.Namespace) -> str:
    """Describe the measurement."""
    return (
        f"Another machine: the tests' own (`tests/far.py`), a real sshd in namespaces on this machine, with another "
        f"user and an empty home. The way there is a proxy (`benchmarks/slow_link.py`) that holds every chunk for "
        f"{1000 * DELAY_S:.0f} ms each way, since the kernel has no netem; it limits no throughput, loses nothing, and "
        f"counts bytes, those of the encryption included. Both machines share this one's cores. The project has "
        f"{FILES} files, 0.5 MB, in git. The environment is there already (`lab remote add --python`): building it is "
        f"part of no figure. Single runs: a logistic regression on the digits, `report=none`. The sweep: "
        f"{options.runs} of them, with its report. All commands start from cold interpreters (`LABRUN_WARM=0`), on "
        f"both sides; the sides in turn, medians."
    )


def tables(
    first: Taken, singles: Pairs, edited: Taken, sweeps: Pairs, alone: Traffic, watched: Traffic, idle_s: float
) -> list[str]:
    """Return the two tables."""
    header = ["", "times", "from here, s", "on the box, s", "more, s", "ratio", "kB sent", "kB received"]
    header += ["round trips", "SSH sessions"]
    rows = [
        row("first run: labrun and the code are sent", [first], singles[1]),
        row("a further run", *singles),
        row("a run after an edit of one file", [edited], singles[1]),
        row("the sweep", *sweeps),
    ]
    idle_header = ["while a run goes on there", "seconds", "bytes sent", "bytes received", "kB/h sent", "kB/h received"]
    idle = [
        per_hour("nobody looks", alone, idle_s),
        per_hour("`lab runs watch` is open", watched, idle_s),
    ]
    return [common.table(header, rows), common.table(idle_header, idle)]


def verdicts(options: argparse.Namespace, singles: Pairs, edited: Taken, sweeps: Pairs) -> list[str]:
    """Return the claims with their results."""
    times, seconds = ratio(*sweeps), more(*singles)
    pairs = ", ".join(f"{a.seconds / b.seconds:.2f}" for a, b in zip(*sweeps, strict=True))
    busy = [one.others for pair in (singles, sweeps) for side in pair for one in side]
    extra = edited.traffic.sent - singles[0][-1].traffic.sent
    return [
        f"An edit of one file (2 kB) sends {extra / 1000:,.1f} kB more than a run without one. The traffic per hour is "
        f"that of {options.idle:.0f} s, scaled. While nobody looks, the detached controller here asks every 30 s, and "
        f"every 60 s once nothing has changed for ten minutes; with `lab runs watch`, every 5 s at most.",
        f"Other processes used {min(busy):.0%} to {max(busy):.0%} of the machine during the commands of both sides."
        f"{UNQUIET if max(busy) > common.BUSY else ''}",
        verdict(
            f"a sweep of {options.runs} small runs takes at most {TIMES:g} times its time on the box itself",
            f"{times:.2f} times, the middle of the pairs ({pairs})",
            times <= TIMES,
        ),
        verdict(
            f"a further single run takes at most {MORE_S:g} s more than on the box itself",
            f"{seconds:.1f} s more",
            seconds <= MORE_S,
        ),
    ]


def main() -> None:
    """Measure, and print the tables."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="of the sweep")
    parser.add_argument("--rounds", type=int, default=2, help="of the sweep; single runs have one more")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of idle traffic that are measured")
    options = parser.parse_args()
    run = ("report=none", "tracking=none")
    sweep = ("-m", f"model.regularization={','.join(common.spread(options.runs))}", "tracking=none")
    with machines() as bench:
        first = bench.here("first run, from here", *run, "compute.host=box")
        bench.copy_there()
        bench.there("warm-up, on the box", *run)
        singles = in_turn(options.rounds + 1, bench, "single run", run)
        edit(bench.project, 7)
        edited = bench.here("after an edit of one file, from here", *run, "compute.host=box")
        sweeps = in_turn(options.rounds, bench, f"sweep of {options.runs}", sweep)
        bench.here("detached", "model=sleeper", *run, "compute.host=box", "compute.detach=true")
        time.sleep(ALONE_S)
        alone = bench.idle(options.idle)
        with bench.watching():
            watched = bench.idle(options.idle)
        bench.here("cancel", "runs", "cancel", "last", program="lab")
    parts = [describe(options), *tables(first, singles, edited, sweeps, alone, watched, options.idle)]
    parts += verdicts(options, singles, edited, sweeps)
    title = "Runs on another machine, 50 ms away"
    common.report("remote", title, parts, ["scikit-learn", "hydra-core"], options.save)


if __name__ == "__main__":
    main()
