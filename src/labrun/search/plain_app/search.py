"""The search of a plain application: asks the study for trials, and reports their results to it. `runner` runs them."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from labrun.config.schema import Component
from labrun.errors import ConfigError
from labrun.search.plain_app.settings import Settings, SweeperSettings
from labrun.search.space import grid_overrides, parse_space
from labrun.search.study import OVERRIDES, RUN, TRIALS, Study

log = logging.getLogger(__name__)

JOURNAL = Path(".labrun") / "study.journal"
STATE = "search.json"
RESULTS = "optimization_results.yaml"
"""Same name as the file of Hydra's Optuna sweeper, so that readers of that file also find this one."""
HOPELESS = 3
"""Number of failed trials after which a search without any result ends."""


@dataclass
class _Trial:
    number: int
    """Number in the study; for a grid, the number of the job."""
    overrides: list[str]


@dataclass(frozen=True)
class _Best:
    value: float
    job: int
    overrides: list[str]


class AppSearch:
    """A search of a plain Hydra application.

    It shares the study and the space with searches of labrun's own runs, but neither controller nor records: its jobs
    have none, so the journal alone says what was tried.

    Args:
        folder: the sweep's folder.
        settings: the checked settings.
        texts: overrides that define the search space.
        loader: Hydra's config loader, which knows the groups.

    Raises:
        ConfigError: there is nothing to search, or the folder holds another search.
    """

    def __init__(self, folder: Path, settings: Settings, texts: Sequence[str], loader: ConfigLoader) -> None:
        self.folder, self.settings = folder, settings
        is_grid = settings.sampler is None
        self._space = parse_space(texts, loader, settings.zip, finite=is_grid, settings=SweeperSettings)
        if not self._space.dimensions:
            raise ConfigError(
                "there is nothing to search: give a key several values ('lr=tag(log, interval(1e-4, 1))'), or name "
                "them under hydra.sweeper.params"
            )
        self._maximize = settings.goal == "maximize"
        self._combinations = self._grid() if is_grid else iter(())
        self._study = None if settings.sampler is None else self._opened(settings.sampler)
        budget = settings.max_trials
        done = 0 if self._study is None else self._study.counted()
        self.left = (math.inf if is_grid else TRIALS - done) if budget is None else budget - done
        """Number of trials that may still start; infinite for all combinations of a grid."""
        self._most = self._space_size() if is_grid and budget is None else int(self.left) + done
        self._next = 0 if self._study is None else len(self._study.trials())
        self._trials: dict[int, _Trial] = {}
        self._failed = self._ended = 0
        self._best = self._best_before()
        self._end = math.inf if settings.timeout_min is None else time.monotonic() + 60 * settings.timeout_min

    def _opened(self, sampler: Component) -> Study:
        journal = self.folder / JOURNAL
        if journal.exists() and not self.settings.resume:
            raise ConfigError(
                f"{self.folder} already holds a search: choose another hydra.sweep.dir, or continue it: "
                "hydra.sweeper.resume=true"
            )
        if self.settings.resume and not journal.exists():
            raise ConfigError(f"hydra.sweeper.resume=true: {self.folder} (hydra.sweep.dir) holds no search")
        node = {key: value for key, value in sampler.items() if key != "seed"}
        seed = sampler.get("seed") or self.settings.seed
        Study.check(node, 1, SweeperSettings)
        journal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._check_same(journal.with_name(STATE))
        study = Study(journal, node, int(seed), [self._maximize], SweeperSettings)
        study.close_without_run()
        for trial in study.open():  # left by a killed search; retried
            study.fail(trial.number, "its search was killed", replaced=True)
        return study

    def _check_same(self, file: Path) -> None:
        """Check that a resumed search has the same space and goal as before.

        Raises:
            ConfigError: they have changed.
        """
        now = {
            "fixed": list(self._space.fixed),
            "space": [repr(one) for one in self._space.dimensions],
            "goal": self.settings.goal,
        }
        dimensions = [str(one) for one in self._space.dimensions]
        if not file.exists():
            file.write_text(json.dumps({**now, "told": dimensions}), encoding="utf-8")
            return
        try:
            then = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} is damaged or cannot be read: {error}") from error
        changed = [key for key, value in now.items() if then.get(key) != value]
        # For the message, a readable form of the space, which the oldest files lack.
        now, then = {**now, "space": dimensions}, {**then, "space": then.get("told") or then.get("space")}
        changed = [f"{key}: then {_listed(then.get(key))}, now {_listed(now[key])}" for key in changed]
        if changed:
            raise ConfigError(f"the search in {self.folder} had another configuration. {'; '.join(changed)}")

    def _best_before(self) -> _Best | None:
        done = [] if self._study is None else [one for one in self._study.trials() if one.values]
        if not done:
            return None
        best = (max if self._maximize else min)(done, key=lambda one: float(one.values[0]))
        return _Best(float(best.values[0]), int(best.user_attrs[RUN]), list(best.user_attrs[OVERRIDES]))

    def _grid(self) -> Iterator[list[str]]:
        yield from (combination[len(self._space.fixed) :] for combination in grid_overrides(self._space))

    def _space_size(self) -> int:
        return sum(1 for _ in self._grid())

    @property
    def running(self) -> int:
        """Number of trials that have no result yet."""
        return len(self._trials)

    @property
    def can_resume(self) -> bool:
        """Whether the search can be resumed; a grid starts over."""
        return self._study is not None

    def ask(self) -> tuple[int, list[str]] | None:
        """Return the number and the overrides of the next job; None if there is none."""
        if self.left <= 0:
            return None
        if time.monotonic() > self._end:
            log.info("hydra.sweeper.timeout_min=%g has passed: no more trials start", self.settings.timeout_min)
            self.left = 0
            return None
        number = self._next
        if self._study is None:
            chosen = next(self._combinations, None)
            if chosen is None:
                self.left = 0
                return None
            trial = _Trial(number, chosen)
        else:
            dimensions = list(self._space.dimensions)
            asked = self._study.ask(lambda overrides: [] if overrides else dimensions, str(number))
            trial = _Trial(asked.number, list(asked.overrides))
        self.left -= 1
        self._next += 1
        self._trials[number] = trial
        return number, [*self._space.fixed, *trial.overrides]

    def tell(self, number: int, result: JobReturn) -> None:
        """Report the result of a job to the study.

        Raises:
            CompactHydraException: its return value is not an objective, or too many trials have failed.
        """
        trial = self._trials.pop(number)
        self._ended += 1
        if result.status != JobStatus.COMPLETED:
            self._fail(trial, "the job failed")
            self._check_rate()
            if self._failed >= HOPELESS and self._best is None and self._failed == self._ended:
                raise CompactHydraException(f"labrun: the first {self._failed} trials failed; the search ends")
            return
        value = objective(number, result.return_value)
        if not math.isfinite(value):
            log.warning("#%d : returned %s; nothing can be learned from that", number, value)
            self._fail(trial, "its result is not a number")
            self._check_rate()
            return
        if self._study is not None:
            self._study.tell(trial.number, [value])
        best = self._best
        if best is None or (value > best.value if self._maximize else value < best.value):
            self._best = best = _Best(value, number, trial.overrides)
        log.info("#%d : %.6g (best: %.6g, #%d)", number, value, best.value, best.job)

    def _fail(self, trial: _Trial, why: str) -> None:
        self._failed += 1
        if self._study is not None:
            self._study.fail(trial.number, why)

    def _check_rate(self) -> None:
        """Check that the failure rate is within the allowed limit.

        Raises:
            CompactHydraException: it is not; this ends the search.
        """
        rate = self.settings.max_failure_rate
        if rate is not None and self._failed > rate * self._most:
            raise CompactHydraException(
                f"labrun: {self._failed} of {self._ended} trials have failed, but hydra.sweeper.max_failure_rate="
                f"{rate:g} allows {math.floor(rate * self._most)} of {self._most}: the search ends"
            )

    def finish(self) -> None:
        """Log and save the best result.

        Raises:
            CompactHydraException: trials failed, or there is no result.
        """
        best = self._best
        if best is not None:
            log.info("Best: #%d : %s  %.6g", best.job, " ".join(best.overrides), best.value)
            found = {
                "name": self.settings.name,
                "best_params": _values(best.overrides),
                "best_value": best.value,
                "best_job": best.job,
            }
            OmegaConf.save(OmegaConf.create(found), self.folder / RESULTS)
        if self._failed and self.settings.max_failure_rate is None:
            raise CompactHydraException(f"labrun: {self._failed} of {self._ended} trials have no result, see above")
        if best is None:
            raise CompactHydraException("labrun: no trial was run")


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values set by overrides, by key as typed."""
    return {one.get_key_element(): one.value() for one in OverridesParser.create().parse_overrides(list(overrides))}


def objective(number: int, returned: Any) -> float:
    """Convert the return value of a job to a number.

    Raises:
        CompactHydraException: it is not a number, or it has several values.
    """
    if isinstance(returned, list | tuple | Mapping) and len(returned) != 1:
        kind = type(returned).__name__
        raise CompactHydraException(
            f"labrun: job {number} returned a {kind} of {len(returned)}: several objectives. A search of an "
            "application's function has one: return one number (labrun's own runs search for several: "
            "sweep.metric=[a,b])"
        )
    try:
        if returned is None or isinstance(returned, bool | str | Mapping):
            raise TypeError
        (value,) = returned if isinstance(returned, list | tuple) else (returned,)
        return float(value)
    except (TypeError, ValueError):
        said = "nothing" if returned is None else f"a {type(returned).__name__}"
        raise CompactHydraException(
            f"labrun: job {number} returned {said}: a search needs a number, which it minimizes or maximizes"
        ) from None
