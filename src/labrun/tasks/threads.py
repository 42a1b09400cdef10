"""How many threads a network computes with.

Threads share the work of one layer at a time, and all of them wait for the slowest before the next layer begins. Small
layers are slower with several threads than with one, and much slower where other processes use the same cores. The rule
reads the network and the batch size, never the clock or the machine's load: the same run on as many cores always gets
the same number.

The standard library alone: processes limit themselves before they import anything else.
"""

from __future__ import annotations

import os
from collections.abc import Collection, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What the numerical libraries read when they are loaded."""
USER_VARIABLE = "LABRUN_USER_OMP_NUM_THREADS"
"""Keeps the user's own OMP_NUM_THREADS (empty: unset) once labrun has replaced it by its limit."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How OpenMP's threads wait for one another; where the user sets one of these, it stays."""
WAITING_VARIABLE = "LABRUN_WAIT_POLICY"
"""Says that OMP_WAIT_POLICY is labrun's choice, and not the user's."""
PER_THREAD = 20_000_000
"""Multiply-adds of the average layer, for one batch, that each thread must have (see `benchmarks/threads.py`)."""


@dataclass(frozen=True)
class Work:
    """What a network computes for one sample, forwards: its matrix products and convolutions."""

    multiply_adds: int
    layers: int
    """How many products there are."""

    @property
    def per_layer(self) -> int:
        """Multiply-adds of the average layer."""
        return self.multiply_adds // self.layers


@dataclass(frozen=True)
class Threads:
    """A number of threads, and where it comes from."""

    count: int
    why: str

    def recorded(self) -> dict[str, Any]:
        """As a run's record holds it."""
        return asdict(self)


def choose(
    setting: int | str | None, environment: int | None, allowed: int, work: Work | None, batch_size: int
) -> Threads:
    """The number of threads for one network and one batch size.

    Args:
        setting: `trainer.threads`: a number, None for all that are allowed, or `auto`.
        environment: the user's OMP_NUM_THREADS (see `from_environment`), which comes before the rule.
        allowed: how many the run may use.
        work: the network's.
        batch_size: samples per step.
    """
    if isinstance(setting, int):
        return Threads(setting, f"trainer.threads={setting}")
    if setting is None:
        return Threads(allowed, "trainer.threads=null: all that are allowed")
    if environment is not None:
        return Threads(environment, f"{VARIABLES[0]} is set")
    return by_rule(work, batch_size, allowed)


def by_rule(work: Work | None, batch_size: int, allowed: int) -> Threads:
    """One thread for each `PER_THREAD` multiply-adds of the average layer: at least one, at most what is allowed.

    Args:
        work: the network's; None, where it cannot be counted, means one thread.
        batch_size: samples per step.
        allowed: how many threads the run may use.
    """
    if allowed == 1:
        return Threads(1, "no more are allowed")
    if work is None:
        return Threads(1, "the network's work cannot be counted")
    size = work.per_layer * batch_size
    count = max(1, min(allowed, size // PER_THREAD))
    return Threads(
        count,
        f"{millions(size)} multiply-adds per layer at batch size {batch_size}, "
        f"{millions(PER_THREAD)} wanted for each thread",
    )


def millions(count: float) -> str:
    """A number of multiply-adds, in words."""
    value = count / 1e6
    return f"{value:,.0f} million" if value >= 1000 else f"{value:.3g} million"


def describe(recorded: dict[str, Any]) -> str:
    """A record's `threads` in one line."""
    phases = [(name, recorded[name]) for name in ("training", "scoring") if isinstance(recorded.get(name), dict)]
    chosen = (f"{one.get('count')} of {recorded.get('allowed')} for {name} ({one.get('why')})" for name, one in phases)
    return ", ".join(chosen)


def from_environment(run_variables: Collection[str], allowed: int) -> int | None:
    """What the user's OMP_NUM_THREADS asks for; None if it is not set.

    Args:
        run_variables: names of the variables that the config gives the run; those may exceed `compute.cpus_per_run`.
        allowed: how many threads the run may use; the variable of the calling shell asks for no more.
    """
    if VARIABLES[0] in run_variables:
        return number(os.environ.get(VARIABLES[0]))
    found = number(os.environ.get(USER_VARIABLE, os.environ.get(VARIABLES[0])))
    return None if found is None else min(found, allowed)


def number(text: str | None) -> int | None:
    """The threads that a variable's text asks for; None if it asks for none. Of OpenMP's lists the first counts."""
    first = (text or "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else None


def set_variables(count: int) -> None:
    """Limit libraries that are loaded later to this many threads, and remember the user's own number."""
    keep_user_variable(os.environ)
    os.environ.update(dict.fromkeys(VARIABLES, str(count)))


def keep_user_variable(environment: MutableMapping[str, str]) -> None:
    """Keep the user's OMP_NUM_THREADS aside, unless that has been done."""
    environment.setdefault(USER_VARIABLE, environment.get(VARIABLES[0], ""))


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have the threads of libraries that are loaded from here on sleep while they wait, unless the user set how.

    OpenMP's default is to spin. Where another process uses one of the cores, a spinning thread uses up the time of the
    very thread that it waits for. Layers that deserve several threads are so large that waking up costs them little.
    """
    if not any(name in environment for name in WAITING):
        environment[WAITING[0]] = environment[WAITING_VARIABLE] = "PASSIVE"


def wait_by_default(environment: MutableMapping[str, str]) -> None:
    """Take back `wait_asleep`, for programs that are not labrun's."""
    if environment.pop(WAITING_VARIABLE, None) is not None:
        environment.pop(WAITING[0], None)
