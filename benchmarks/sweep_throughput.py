"""Runs per minute of a sweep: labrun against Hydra's own launchers on a plain Hydra application.

Both sides are commands, measured from start to end. Hydra's launchers are installed in a separate environment with the
same package versions as here; the applications are in `hydra_apps/`. They train as labrun does, on the same samples,
and keep their model and their scores, but no record.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import common
import launchers
import psutil
from launchers import Side

BASIC, BASIC_ONE = "Hydra, basic", "Hydra, basic, OMP_NUM_THREADS=1"
JOBLIB, SUBMITIT = "Hydra, joblib, n_jobs=2", "Hydra, submitit_local"
HELPED = "the same, helped"
FASTER_SUBMITIT, FASTER_BASIC, COST_S = 20.0, 2.5, 0.050
FASTER_COLD, FASTER_FURTHER = 6.0, 20.0
MEMORY_GROWTH, TIME_GROWTH = 1.05, 1.25
"""Claims. The last two: memory at the end relative to a quarter of the sweep, time of the last runs to the first."""
EDGE = 200
"""Number of first and last runs of the long sweep whose times are compared."""


def labrun_side(sweep: common.Sweep, key: str, group: str | None = None) -> Side:
    """Return the result of a labrun sweep, by the key that it varies."""
    values = [(r["config"][group] if group else r["config"])[key] for r in sweep.records]
    found = zip(values, sweep.column("accuracy"), strict=True)
    return Side("labrun", sweep.command.time, {launchers.key(value): accuracy for value, accuracy in found})


def labrun_digits(values: Sequence[str], warm: bool) -> Side:
    """Run the sweep like a user: as the first command of a session (cold), or as a later one (warm)."""
    overrides = [f"model.regularization={','.join(values)}"]
    name = "labrun, warm" if warm else "labrun, cold"
    sweep = common.labrun_sweep(f"digits, {name}, {len(values)} runs", overrides, warm=warm)
    side = labrun_side(sweep, "regularization", "model")
    side.name = name
    return side


@dataclass
class Cost:
    """Breakdown of a sweep's time, in seconds."""

    runs: int
    composed: float
    preload: float
    run: float
    after: float
    workers: int
    fits: float
    time: common.Time

    def per_run(self, seconds: float) -> float:
        """Return a worker's time per run, without the fit."""
        return (seconds * self.workers - self.fits) / self.runs


def cost(values: Sequence[str]) -> Cost:
    """Run the same sweep with a model that logs the duration of its `fit`."""
    overrides = [f"model.regularization={','.join(values)}", "model._target_=timed.logistic_regression"]
    sweep = common.labrun_sweep(
        f"digits, labrun, timed fits, {len(values)} runs", overrides, [launchers.APPS / "timed.py"]
    )
    ready, found = sweep.command.find(r"Imported the modules of all runs in ([\d.]+) s; (\d+) at once")
    last, _ = sweep.command.find(rf"^{len(values)}/{len(values)}  ")
    preload, total = float(found[1]), sweep.command.time.seconds
    return Cost(
        len(values),
        ready - preload,
        preload,
        last - ready,
        total - last,
        int(found[2]),
        sum(sweep.column("fit_seconds")),
        sweep.command.time,
    )


def digits_part(environment: launchers.Environment, options: argparse.Namespace) -> list[str]:
    """Return table and verdicts of the logistic regressions."""
    values = common.spread(options.runs)
    few = values[:: max(1, len(values) // options.submitit_runs)][: options.submitit_runs]
    common.labrun_sweep("warm-up", ["model.regularization=1,2"])
    cold = labrun_digits(values, warm=False)
    with common.warm_interpreter():
        own = labrun_digits(values, warm=True)
    parts = cost(values)
    sides = [
        environment.sweep("digits", BASIC, values, [], one_thread=False),
        environment.sweep("digits", BASIC_ONE, values, []),
        environment.sweep("digits", JOBLIB, values, ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        environment.sweep("digits", SUBMITIT, few, ["hydra/launcher=submitit_local"]),
    ]
    what = (
        f"Logistic regressions on the digits, 1,438 x 64 float32, C = 1 / values from 0.001 to 10, at most 100 "
        f"iterations, scored on 359 samples, models saved. From the command's start to its end. {SUBMITIT} starts all "
        f"jobs at once, so {len(few)} were measured. All of Hydra's sides but the first are told to use one thread "
        "(OMP_NUM_THREADS=1), which helps them; labrun sees to that itself. Warm: a warm interpreter is up, as it is "
        "for every command but the first at a terminal (docs/howto/warm.md). 'Others' is what processes outside the "
        "measurement used of the machine; of the warm side, the command's own are among them, as forks of the warm "
        "interpreter."
    )
    header = [
        "",
        "runs",
        "seconds",
        "runs per minute",
        "labrun is faster by",
        "cold by",
        "accuracy differs by",
        "others",
    ]
    rows = [digits_row(own, cold, side) for side in [own, cold, *sides]]
    return [
        "## Logistic regressions",
        what,
        common.table(header, rows),
        digits_verdict(own, cold, sides),
        *cost_part(parts),
    ]


def digits_row(own: Side, cold: Side, side: Side) -> list[str]:
    """Return the table row of one side."""
    gap = max(abs(accuracy - own.accuracy[value]) for value, accuracy in side.accuracy.items())
    return [
        side.name,
        str(side.runs),
        f"{side.time.seconds:.1f}",
        f"{side.per_minute:,.0f}",
        "" if side is own else f"{own.per_minute / side.per_minute:.1f}",
        "" if side in (own, cold) else f"{cold.per_minute / side.per_minute:.1f}",
        "" if side is own else f"{gap:.4f}",
        f"{side.time.others:.0%}",
    ]


def digits_verdict(own: Side, cold: Side, sides: Sequence[Side]) -> str:
    """Return whether the claims hold, for a warm start and the faster of the two basic sides."""
    rates = {side.name: own.per_minute / side.per_minute for side in sides}
    from_cold = {side.name: cold.per_minute / side.per_minute for side in sides}
    basic, basic_cold = (min(found[BASIC], found[BASIC_ONE]) for found in (rates, from_cold))
    return "\n\n".join(
        [
            f"Claim: warm, at least {FASTER_SUBMITIT:g} times submitit_local's runs per minute. "
            f"Measured: {rates[SUBMITIT]:.1f}, cold {from_cold[SUBMITIT]:.1f}. "
            f"{held(rates[SUBMITIT] >= FASTER_SUBMITIT)}",
            f"Claim: warm, at least {FASTER_BASIC:g} times the basic launcher's, the faster of the two. "
            f"Measured: {basic:.2f}, cold {basic_cold:.2f}. {held(basic >= FASTER_BASIC)}",
        ]
    )


def cost_part(parts: Cost) -> list[str]:
    """Return table and verdict of the overhead per run."""
    what = (
        f"Where labrun's time goes, in a sweep of {parts.runs} of its own whose model logs how long `fit` took "
        f"({parts.fits:.2f} s in all, {1000 * parts.fits / parts.runs:.0f} ms each; {parts.workers} workers). The cost "
        "of a run is (seconds x workers - fits) / runs: for the seconds from the preload's end to the last run's, to "
        "the command's (the table and the pictures of the best run come once a sweep), and with the start, that is for "
        f"all but the preload. Others used {parts.time.others:.0%} of the machine."
    )
    header = ["", "start, composing, freezing", "preload", "runs", "table, pictures", "in all"]
    spans = [parts.composed, parts.preload, parts.run, parts.after]
    runs, command, everything = (
        1000 * parts.per_run(s) for s in (parts.run, parts.run + parts.after, parts.composed + parts.run + parts.after)
    )
    rows = [
        ["seconds", *(f"{s:.2f}" for s in [*spans, sum(spans)])],
        ["cost of a run up to its end, ms", "", "", f"{runs:.0f}", f"{command:.0f}", f"{everything:.0f}"],
    ]
    claim = (
        f"Claim: a run costs at most {1000 * COST_S:.0f} ms beyond its fit. Measured: {command:.0f} ms to the end of "
        f"the command, which counts; {runs:.0f} ms to the end of the last run. {held(command <= 1000 * COST_S)}"
    )
    return [what, common.table(header, rows), claim]


def lightning_part(environment: launchers.Environment, options: argparse.Namespace) -> list[str]:
    """Return table and verdicts of the Lightning runs."""
    common_overrides = [
        "experiment=mnist_dnn",
        "trainer.max_epochs=1",
        "report=none",
        f"datastore.root={Path(options.data).expanduser().resolve()}",
    ]
    own, theirs, helped = [], [], []
    for runs in sorted(options.lightning_runs):
        seeds = f"seed={','.join(map(str, range(runs)))}"
        own.append(
            labrun_side(common.labrun_sweep(f"network, labrun, {runs} runs", [*common_overrides, seeds]), "seed")
        )
    for runs in sorted(options.submitit_lightning_runs):
        seeds_only = [str(seed) for seed in range(runs)]
        local = ["hydra/launcher=submitit_local"]
        theirs.append(environment.sweep("network", SUBMITIT, seeds_only, local, one_thread=False))
        helped.append(environment.sweep("network", HELPED, seeds_only, [*local, "loader=tensors"]))
    what = (
        "The 784-100-100-10 network on MNIST (55,000 images, batches of 128, MomentumSGD 0.01/0.9, one epoch, 5,000 to "
        "validate on, 10,000 to test on), another seed for each run. submitit_local starts all jobs at once, each with "
        "a PyTorch of its own, which 60 times would hardly fit the memory: its slope is taken between fewer runs. Its "
        "jobs are a plain Lightning application with torchvision's MNIST and PyTorch's DataLoader; and, helped, with "
        "what labrun does by itself: one thread for each job, batches cut from tensors in memory."
    )
    header = ["", "runs", "seconds", "seconds a run", "mean test accuracy", "others"]
    rows = [
        [
            side.name,
            str(side.runs),
            f"{side.time.seconds:.1f}",
            f"{side.time.seconds / side.runs:.2f}",
            f"{statistics.mean(side.accuracy.values()):.4f}",
            f"{side.time.others:.0%}",
        ]
        for side in [*own, *theirs, *helped]
    ]
    return ["## Lightning runs", what, common.table(header, rows), lightning_verdict(own, theirs, helped)]


def lightning_verdict(own: Sequence[Side], theirs: Sequence[Side], helped: Sequence[Side]) -> str:
    """Return whether the claims hold, against the application as users write it."""
    cold = [(one[-1].time.seconds / one[-1].runs) / (own[0].time.seconds / own[0].runs) for one in (theirs, helped)]
    said = [
        f"Claim: at least {FASTER_COLD:g} times faster for {own[0].runs} runs from cold. Measured: {cold[0]:.1f} "
        f"({own[0].runs} runs against {theirs[-1].runs}, per run); {cold[1]:.1f} against the helped one. "
        f"{held(cold[0] >= FASTER_COLD)}"
    ]
    if len(own) > 1 and len(theirs) > 1:
        mine, base, best = slope(own), slope(theirs), slope(helped)
        said.append(
            f"Claim: each further run at least {FASTER_FURTHER:g} times faster. Measured: {base:.2f} s against "
            f"{mine:.2f} s, {base / mine:.1f} times; against the helped one, which takes {best:.2f} s, "
            f"{best / mine:.1f} times. {held(base / mine >= FASTER_FURTHER)}"
        )
    return "\n\n".join(said)


def slope(sides: Sequence[Side]) -> float:
    """Return the seconds per additional run."""
    return (sides[-1].time.seconds - sides[0].time.seconds) / (sides[-1].runs - sides[0].runs)


@dataclass
class Memory:
    """Resident memory of labrun's process and its fork server, sampled after given numbers of runs."""

    at: dict[int, str]
    samples: dict[str, tuple[float, float]] = field(default_factory=dict)

    def hear(self, line: str, process: psutil.Process) -> None:
        """Take a sample if an output line shows that one is due."""
        head, _, rest = line.partition("/")
        if rest and head.isdigit() and int(head) in self.at:
            servers = [child for child in process.children() if "forkserver.py" in " ".join(child.cmdline())]
            resident = [sum(one.memory_info().rss for one in group) / 2**20 for group in ([process], servers)]
            self.samples[self.at[int(head)]] = (resident[0], resident[1])


def long_part(runs: int) -> list[str]:
    """Return table and verdicts of one long sweep."""
    memory = Memory({runs // 4: "25 %", runs // 2: "50 %", runs: "100 %"})
    overrides = [f"model.regularization={','.join(common.spread(runs))}"]
    sweep = common.labrun_sweep(f"digits, labrun, {runs} runs", overrides, hear=memory.hear)
    ended, edge = sweep.ended(), min(EDGE, runs // 2)
    first, last = ((times[-1] - times[0]) / (edge - 1) for times in (ended[:edge], ended[-edge:]))
    header = ["runs ended", "labrun, MiB", "fork server, MiB"]
    rows = [[name, *(f"{value:.1f}" for value in pair)] for name, pair in memory.samples.items()]
    grown = max(end / begin for begin, end in zip(memory.samples["25 %"], memory.samples["100 %"], strict=True))
    said = (
        f"{runs:,} runs in {sweep.command.time.seconds:.0f} s; others used {sweep.command.time.others:.0%} of the "
        f"machine. Time from one run's end to the next: {1000 * first:.0f} ms for the first {edge}, {1000 * last:.0f} "
        f"ms for the last {edge}.\n\nClaim: memory flat, at most {MEMORY_GROWTH - 1:.0%} more at the end than at a "
        f"quarter. Measured: {grown - 1:+.1%}. {held(grown <= MEMORY_GROWTH)}\n\nClaim: the cost of a run does not "
        f"grow, at most {TIME_GROWTH:g} times. Measured: {last / first:.2f}. {held(last / first <= TIME_GROWTH)}"
    )
    return ["## A long sweep", "Resident memory while a sweep goes on.", common.table(header, rows), said]


def held(holds: bool) -> str:
    """Return the last word of a verdict."""
    return f"**{'Holds' if holds else 'Missed'}.**"


def main() -> None:
    """Measure, and print the tables."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="logistic regressions in a sweep")
    parser.add_argument("--submitit-runs", type=int, default=20, help="of them with submitit_local, which is slow")
    parser.add_argument("--skip-lightning", action="store_true", help="only the logistic regressions")
    parser.add_argument("--lightning-runs", type=int, nargs="+", default=[20, 60], help="Lightning runs in a sweep")
    parser.add_argument(
        "--submitit-lightning-runs", type=int, nargs="+", default=[4, 8], help="the same with submitit_local"
    )
    parser.add_argument(
        "--long", type=int, default=0, help="also run one sweep of this many runs, and watch memory and time"
    )
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path(tempfile.gettempdir(), "labrun-benchmark-launchers"),
        help="where Hydra's launchers are installed, and kept for the next time",
    )
    options = parser.parse_args()
    environment = launchers.Environment(options.environment.resolve(), not options.skip_lightning)
    environment.prepare(options.data)
    parts = digits_part(environment, options)
    if not options.skip_lightning:
        parts += lightning_part(environment, options)
    if options.long:
        parts += long_part(options.long)
    parts.append(
        f"Hydra's side: {', '.join(launchers.LAUNCHERS)}, every other package in the same version as labrun's."
    )
    packages = [*launchers.PACKAGES, *(() if options.skip_lightning else launchers.NETWORK_PACKAGES)]
    common.report("sweep_throughput", "Runs per minute of a sweep", parts, packages, options.save)


if __name__ == "__main__":
    main()
