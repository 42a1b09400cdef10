"""Chooses the number of threads for a model.

Threads share the work of one layer at a time, and all wait for the slowest before the next layer starts. Small layers
are slower with several threads than with one, and much slower if other processes use the same cores. The rule depends
on the network and the batch size, never on the clock or the machine's load, so the same run with the same number of
cores always gets the same number of threads. For an estimator, whose work is unknown, the rule depends on the size of
the data.

Imports no library, since processes limit their threads before they import one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass

from labrun.runs.groups import ThreadChoice, ThreadUse

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Thread limits that numerical libraries read when they are loaded."""
USER_VARIABLE = "LABRUN_USER_OMP_NUM_THREADS"
"""Holds the user's OMP_NUM_THREADS ("" if unset) after labrun has replaced it with its own limit."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables for how OpenMP threads wait for each other; the user's setting of any of them takes precedence."""
WAITING_VARIABLE = "LABRUN_WAIT_POLICY"
"""Marks that labrun, not the user, has set OMP_WAIT_POLICY."""
NO_MORE = "no more are allowed"
PER_THREAD = 20_000_000
"""Minimum multiply-adds per thread of an average layer, for one batch (see `benchmarks/threads.py`)."""

SMALL_ROWS, SMALL_VALUES = 5_000, 1_000_000
"""Size of the data up to which an estimator gets one thread (see `benchmarks/estimator_threads.py`)."""


@dataclass(frozen=True)
class ForwardCost:
    """Cost of a network's forward pass for one sample: its matrix products and convolutions."""

    multiply_adds: int
    layers: int
    """Number of products."""

    @property
    def per_layer(self) -> int:
        """Multiply-adds of the average layer."""
        return self.multiply_adds // self.layers


@dataclass(frozen=True)
class Threads:
    """A number of threads, and the reason for it."""

    count: int
    why: str

    def recorded(self) -> ThreadChoice:
        """Return it in the form of a run's record."""
        return ThreadChoice(self.count, self.why)


def choose(
    setting: int | str | None, environment: int | None, allowed: int, work: ForwardCost | None, batch_size: int
) -> Threads:
    """Choose the number of threads for a network and a batch size.

    Args:
        setting: `trainer.threads`: a number, None for all allowed threads, or `auto`.
        environment: the user's OMP_NUM_THREADS (see `from_environment`), which takes precedence over the rule.
        allowed: number of threads that the run may use.
        work: the network's work.
        batch_size: samples per step.
    """
    return _by_user(setting, environment, allowed) or by_rule(work, batch_size, allowed)


def for_estimator(setting: int | str | None, environment: int | None, allowed: int, rows: int, values: int) -> Threads:
    """Choose one thread for an estimator on a small data set, and all that are allowed otherwise.

    A product of small matrices takes microseconds, but a thread that waits for a busy core waits for milliseconds. An
    estimator's work may grow with the cube of the rows, so both rows and values count.

    Args:
        setting: as for `choose`.
        environment: as for `choose`.
        allowed: number of threads that the run may use.
        rows: samples in the data.
        values: values in the data.
    """
    if (found := _by_user(setting, environment, allowed)) is not None:
        return found
    if allowed == 1:
        return Threads(1, NO_MORE)
    if rows <= SMALL_ROWS and values <= SMALL_VALUES:
        return Threads(1, f"a small data set: {rows:,} samples, {values:,} values")
    return Threads(allowed, f"all that are allowed: {rows:,} samples, {values:,} values")


def _by_user(setting: int | str | None, environment: int | None, allowed: int) -> Threads | None:
    """Return the number that the user has set, or None."""
    if isinstance(setting, int):
        return Threads(setting, f"trainer.threads={setting}")
    if setting is None:
        return Threads(allowed, "trainer.threads=null: all that are allowed")
    if environment is not None:
        return Threads(environment, f"{VARIABLES[0]} is set")
    return None


def by_rule(work: ForwardCost | None, batch_size: int, allowed: int) -> Threads:
    """Choose one thread per `PER_THREAD` multiply-adds of the average layer: at least one, at most `allowed`.

    Args:
        work: the network's work; None if it cannot be counted, which means one thread.
        batch_size: samples per step.
        allowed: number of threads that the run may use.
    """
    if allowed == 1:
        return Threads(1, NO_MORE)
    if work is None:
        return Threads(1, "the network's work cannot be counted")
    size = work.per_layer * batch_size
    count = max(1, min(allowed, size // PER_THREAD))
    return Threads(
        count,
        f"{millions(size)} multiply-adds per layer at batch size {batch_size}; one thread per {millions(PER_THREAD)}",
    )


def millions(count: float) -> str:
    """Format a number of multiply-adds in millions."""
    value = count / 1e6
    return f"{value:,.0f} million" if value >= 1000 else f"{value:.3g} million"


def describe(recorded: ThreadUse) -> str:
    """Describe a record's `threads` in one line."""
    phases = (("training", recorded.training), ("scoring", recorded.scoring))
    return ", ".join(
        f"{one.count} of {recorded.allowed} for {name} ({one.why})" for name, one in phases if one is not None
    )


def from_environment(run_variables: Collection[str], allowed: int) -> int | None:
    """Return the number of threads in the user's OMP_NUM_THREADS, or None if it is not set.

    Args:
        run_variables: names of the variables that the config sets for the run, which may exceed `compute.cpus_per_run`.
        allowed: number of threads that the run may use, which limits a variable from the calling shell.
    """
    if VARIABLES[0] in run_variables:
        return number(os.environ.get(VARIABLES[0]))
    found = number(os.environ.get(USER_VARIABLE, os.environ.get(VARIABLES[0])))
    return None if found is None else min(found, allowed)


def number(text: str | None) -> int | None:
    """Parse a variable's number of threads, the first in an OpenMP list; None if there is no positive number."""
    first = (text or "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else None


def set_variables(count: int) -> None:
    """Limit libraries that are loaded later to `count` threads, and remember the user's own setting."""
    keep_user_variable(os.environ)
    os.environ.update(dict.fromkeys(VARIABLES, str(count)))


def keep_user_variable(environment: MutableMapping[str, str]) -> None:
    """Save the user's OMP_NUM_THREADS, unless it has been saved already."""
    environment.setdefault(USER_VARIABLE, environment.get(VARIABLES[0], ""))


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting threads of libraries that are loaded later sleep, unless the user has configured how they wait.

    By default OpenMP threads spin. If another process uses one of the cores, a spinning thread takes time from the very
    thread that it waits for. Layers that use several threads are large enough that waking up costs little.
    """
    if not any(name in environment for name in WAITING):
        environment[WAITING[0]] = environment[WAITING_VARIABLE] = "PASSIVE"


def wait_by_default(environment: MutableMapping[str, str]) -> None:
    """Undo `wait_asleep`, for programs other than labrun."""
    if environment.pop(WAITING_VARIABLE, None) is not None:
        environment.pop(WAITING[0], None)
