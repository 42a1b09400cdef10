"""Search for an application other than labrun. The return value of its function is the objective."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.labrun_launcher._compose import Composer
from hydra_plugins.labrun_launcher._foreign import EXIT_CANCELED, Jobs
from hydra_plugins.labrun_launcher._job import trace_of
from hydra_plugins.labrun_sweeper import _sweeper_translation
from hydra_plugins.labrun_sweeper._nodes import NODE
from labrun.compose import paths
from labrun.config.checking import check_fields
from labrun.config.schema import Component, Sweep
from labrun.errors import ConfigError
from labrun.search.space import as_text, grid_overrides, parse_space
from labrun.search.study import OVERRIDES, RUN, Study

if TYPE_CHECKING:
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher
    from hydra_plugins.labrun_sweeper.sweeper import LabrunSweeper

log = logging.getLogger(__name__)

JOURNAL = Path(".labrun") / "study.journal"
STATE = "search.json"
RESULTS = "optimization_results.yaml"
"""Same name as the file of Hydra's Optuna sweeper, so that readers of that file also find this one."""
NAMES = ("random", "tpe", "gp", "cmaes", "qmc")
TRIALS = 20
"""Default trial budget."""
HOPELESS = 3
"""Number of failed trials after which a search without any result ends."""
SEARCHING = ("max_trials", "max_concurrent", "timeout_min", "goal", "zip", "resume")
"""Keys that a plain grid does not use."""
FIELDS = ("max_trials", "max_concurrent", "timeout_min", "seed", "zip")
"""Keys that are checked like those of `sweep`."""


class SweeperSettings(Sweep):
    """The settings of `hydra.sweeper`, most of which are those of `sweep`."""

    @classmethod
    def key(cls, name: str) -> str:
        """See `Sweep.key`."""
        return f"hydra.sweeper.{name}"

    @classmethod
    def choice(cls, option: str) -> str:
        """See `Sweep.choice`."""
        return cls.key(f"sampler={option}")


@dataclass(frozen=True)
class Settings:
    """The settings of `hydra.sweeper` for a search, after they were checked."""

    sampler: Component | None
    """Node of the sampler; None: try every combination (`grid`)."""
    goal: Literal["minimize", "maximize"]
    max_trials: int | None
    max_concurrent: int | None
    timeout_min: float | None
    seed: int
    zip: list[list[str]]
    resume: bool
    max_failure_rate: float | None


def settings_of(sweeper: LabrunSweeper, arguments: Sequence[str]) -> tuple[Settings, list[str]] | None:
    """Return the settings and the space of a search; None if no sampler is set.

    Args:
        sweeper: the sweeper, after `setup`.
        arguments: overrides of the command.

    Returns:
        The settings, and the overrides, those of `hydra.sweeper.params` first.

    Raises:
        ConfigError: settings are invalid; lists every mistake.
    """
    params = {str(key): _sweeper_translation.plain(value) for key, value in (sweeper.params or {}).items()}
    given = dict(sweeper.settings)
    rest, typed = _as_in_labrun(sweeper, arguments)
    other = _sweeper_translation.detect_sweeper(given)
    if other is not None:
        given, params = _translated(other, given, params, sweeper.max_batch_size)
    elif sweeper.max_batch_size is not None and (typed.get("sampler") or given.get("sampler")):
        raise ConfigError(
            "hydra.sweeper.max_batch_size: the number of concurrent trials is hydra.sweeper.max_concurrent"
        )
    given.update(typed)
    unknown = [key for key in given if key not in NODE]
    if unknown:
        raise ConfigError([f"hydra.sweeper.{key}: no such key; there are {', '.join(_own_keys())}" for key in unknown])
    plain = {key: _sweeper_translation.plain(value) for key, value in given.items()}
    if plain.get("sampler") is None:
        idle = [key for key in SEARCHING if plain.get(key, NODE[key]) != NODE[key]]
        if idle:
            raise ConfigError(
                [
                    f"hydra.sweeper.{key} applies only to a search: also set hydra.sweeper.sampler="
                    f"{'grid' if key == 'zip' else 'tpe'}"
                    for key in idle
                ]
            )
        return None
    plain["sampler"] = _sampler(plain["sampler"])
    problems = _problems(plain)
    if problems:
        raise ConfigError(problems)
    if plain["sampler"] == "grid":
        plain["sampler"] = None
    settings = Settings(**{one.name: plain[one.name] for one in dataclasses.fields(Settings)})
    return settings, [*(f"{key}={as_text(value)}" for key, value in params.items()), *rest]


def _translated(
    sweeper: str, given: dict[str, Any], params: dict[str, Any], most_at_once: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the space of another sweeper in labrun's terms.

    Args:
        sweeper: name of the sweeper, which is not installed.
        given: its settings.
        params: its space.
        most_at_once: maximum number of concurrent trials; None: no limit.

    Raises:
        ConfigError: labrun cannot replace the sweeper; lists every reason.
    """
    found = _sweeper_translation.translate(sweeper, given, params, most_at_once)
    if found.refused:
        raise ConfigError(
            [f"hydra/sweeper={sweeper} is not installed, and labrun cannot replace it: {why}" for why in found.refused]
        )
    own = {key: given[key] for key in ("resume", "timeout_min", "seed", "max_concurrent") if given.get(key)}
    settings = " ".join(f"{key}={value}" for key, value in found.settings.items())
    log.info("hydra/sweeper=%s is not installed: labrun searches in its place (%s)", sweeper, settings)
    for remark in found.remarks:
        log.warning("hydra.sweeper.%s", remark)
    return {**NODE, **own, **found.settings}, dict(found.space)


def _problems(plain: Mapping[str, Any]) -> list[str]:
    """Return the mistakes in the settings of a search."""
    fields = {key: plain[key] for key in FIELDS}
    problems = list(check_fields(fields, Sweep, "hydra.sweeper"))
    if plain["goal"] not in ("minimize", "maximize"):
        problems.append(f"hydra.sweeper.goal={plain['goal']!r}: allowed are minimize and maximize, for one objective")
    if plain["sampler"] == "grid" and plain["resume"] is True:
        problems.append(
            "hydra.sweeper.resume=true: a grid starts over each time; random, tpe, gp, cmaes and qmc can be resumed"
        )
    rate = plain["max_failure_rate"]
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
        problems.append(f"hydra.sweeper.max_failure_rate={rate!r}: expected a number from 0 to 1, or null")
    if not isinstance(plain["resume"], bool):
        problems.append(f"hydra.sweeper.resume={plain['resume']!r}: expected true or false")
    return problems


def _own_keys() -> list[str]:
    return [key for key in NODE if not key.startswith("_")]


def _as_in_labrun(sweeper: LabrunSweeper, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate arguments such as `+sweep=tpe` and `+sweep.max_trials=9` from the others, and return them as settings.

    If the application has its own key `sweep`, nothing is separated.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given: dict[str, Any] = {}
    rest = []
    for text in arguments:
        found = re.fullmatch(r"\+\+?sweep(?:\.(\w+))?=(.*)", text)
        is_ours = found is not None and (found[1] in _own_keys() or (found[1] is None and found[2] in (*NAMES, "grid")))
        if found is None or not is_ours:
            rest.append(text)
            continue
        given[found[1] or "sampler"] = OverridesParser.create().parse_override(f"key={found[2]}").value()
    there = OmegaConf.select(sweeper.config, "sweep") if sweeper.config is not None else None
    if isinstance(there, DictConfig) and {str(key) for key in there} - set(given):
        return list(arguments), {}
    return rest, given


def _sampler(given: Any) -> dict[str, Any] | str:
    """Return the node of a sampler; `grid` for all combinations.

    Raises:
        ConfigError: there is no such sampler.
    """
    if isinstance(given, Mapping) and "_target_" in given:
        return dict(given)
    name = given.get("name", "tpe") if isinstance(given, Mapping) else given
    if name == "grid":
        return "grid"
    if name not in NAMES:
        raise ConfigError(
            f"hydra.sweeper.sampler={given!r}: allowed are grid, {', '.join(NAMES)}, or "
            "{_target_: optuna.samplers....} with its arguments"
        )
    import yaml

    text = (Path(paths.conf_dir()) / "sweep" / f"{name}.yaml").read_text(encoding="utf-8")
    node = dict(yaml.safe_load(text)["sampler"])
    return {**node, **(given if isinstance(given, Mapping) else {})}


@dataclass
class _Trial:
    number: int
    """Number in the study; for a grid, the number of the job."""
    overrides: list[str]


class Search:
    """A search: asks the study for trials, runs them, and reports their results to it.

    Args:
        sweeper: the sweeper, after `setup`.
        settings: see `settings_of`.
        texts: overrides that define the search space.

    Raises:
        ConfigError: there is nothing to search, or the folder holds another search.
    """

    def __init__(self, sweeper: LabrunSweeper, settings: Settings, texts: Sequence[str]) -> None:
        assert sweeper.hydra_context is not None and sweeper.config is not None
        self._sweeper, self._settings = sweeper, settings
        self.folder = Path(str(sweeper.config.hydra.sweep.dir)).resolve()
        is_grid = settings.sampler is None
        loader = sweeper.hydra_context.config_loader
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
        self._left = (math.inf if is_grid else TRIALS - done) if budget is None else budget - done
        self._most = self._space_size() if is_grid and budget is None else int(self._left) + done
        self._next = 0 if self._study is None else len(self._study.trials())
        self._trials: dict[int, _Trial] = {}
        self._failed = self._ended = 0
        self.best: tuple[float, int, _Trial] | None = self._best_before()
        self._end = math.inf if settings.timeout_min is None else time.monotonic() + 60 * settings.timeout_min

    def _opened(self, sampler: Component) -> Study:
        journal = self.folder / JOURNAL
        if journal.exists() and not self._settings.resume:
            raise ConfigError(
                f"{self.folder} already holds a search: choose another hydra.sweep.dir, or continue it: "
                "hydra.sweeper.resume=true"
            )
        if self._settings.resume and not journal.exists():
            raise ConfigError(f"hydra.sweeper.resume=true: {self.folder} (hydra.sweep.dir) holds no search")
        node = {key: value for key, value in sampler.items() if key != "seed"}
        seed = sampler.get("seed") or self._settings.seed
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
            "goal": self._settings.goal,
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
        now, then = {**now, "space": dimensions}, {**then, "space": then.get("told") or then.get("space")}
        changed = [f"{key}: then {_listed(then.get(key))}, now {_listed(now[key])}" for key in changed]
        if changed:
            raise ConfigError(f"the search in {self.folder} had another configuration. {'; '.join(changed)}")

    def _best_before(self) -> tuple[float, int, _Trial] | None:
        done = [] if self._study is None else [one for one in self._study.trials() if one.values]
        if not done:
            return None
        best = (max if self._maximize else min)(done, key=lambda one: float(one.values[0]))
        return float(best.values[0]), int(best.user_attrs[RUN]), _Trial(best.number, list(best.user_attrs[OVERRIDES]))

    def _grid(self) -> Iterator[list[str]]:
        yield from (combination[len(self._space.fixed) :] for combination in grid_overrides(self._space))

    def _space_size(self) -> int:
        return sum(1 for _ in self._grid())

    def ask(self) -> tuple[int, list[str]] | None:
        """Return the number and the overrides of the next job; None if there is none."""
        if self._left <= 0:
            return None
        if time.monotonic() > self._end:
            log.info("hydra.sweeper.timeout_min=%g has passed: no more trials start", self._settings.timeout_min)
            self._left = 0
            return None
        number = self._next
        if self._study is None:
            chosen = next(self._combinations, None)
            if chosen is None:
                self._left = 0
                return None
            trial = _Trial(number, chosen)
        else:
            dimensions = list(self._space.dimensions)
            asked = self._study.ask(lambda overrides: [] if overrides else dimensions, str(number))
            trial = _Trial(asked.number, list(asked.overrides))
        self._left -= 1
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
            if self._failed >= HOPELESS and self.best is None and self._failed == self._ended:
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
        if self.best is None or (value > self.best[0] if self._maximize else value < self.best[0]):
            self.best = value, number, trial
        log.info("#%d : %.6g (best: %.6g, #%d)", number, value, self.best[0], self.best[1])

    def _fail(self, trial: _Trial, why: str) -> None:
        self._failed += 1
        if self._study is not None:
            self._study.fail(trial.number, why)

    def _check_rate(self) -> None:
        """Check that the failure rate is within the allowed limit.

        Raises:
            CompactHydraException: it is not; this ends the search.
        """
        rate = self._settings.max_failure_rate
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
        if self.best is not None:
            value, number, trial = self.best
            log.info("Best: #%d : %s  %.6g", number, " ".join(trial.overrides), value)
            params = _values(trial.overrides)
            name = _sweeper_translation.detect_sweeper(self._sweeper.settings) or "labrun"
            found = {"name": name, "best_params": params, "best_value": value, "best_job": number}
            OmegaConf.save(OmegaConf.create(found), self.folder / RESULTS)
        if self._failed and self._settings.max_failure_rate is None:
            raise CompactHydraException(f"labrun: {self._failed} of {self._ended} trials have no result, see above")
        if self.best is None:
            raise CompactHydraException("labrun: no trial was run")

    # ---- execution

    def run(self) -> None:
        """Search to the end.

        Raises:
            CompactHydraException: see `tell` and `finish`.
            SystemExit: after Ctrl-C (130).
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._sweeper.config, self.folder / "multirun.yaml")
        from hydra_plugins.labrun_launcher.launcher import LabrunLauncher  # Hydra may have re-executed the module

        launcher = self._sweeper.launcher
        try:
            if isinstance(launcher, LabrunLauncher):
                self._run_at_once(launcher)
            else:
                self._run_in_batches()
        except (KeyboardInterrupt, SystemExit) as end:
            if self._study is not None and (isinstance(end, KeyboardInterrupt) or end.code == EXIT_CANCELED):
                where = shlex.quote(f"hydra.sweep.dir={self.folder}")
                sys.stderr.write(f"labrun: {where} hydra.sweeper.resume=true resumes the search\n")
            raise SystemExit(EXIT_CANCELED if isinstance(end, KeyboardInterrupt) else end.code) from None
        self.finish()

    def _run_at_once(self, launcher: LabrunLauncher) -> None:
        """Run trials concurrently, starting the next one whenever one ends."""
        from hydra_plugins.labrun_launcher._launch import prepare

        loader = prepare(launcher)
        assert launcher.config is not None
        composer = Composer(loader, launcher.config)
        with Jobs(launcher, shows_all=True) as jobs:
            room = min(jobs.room, self._settings.max_concurrent or jobs.room)
            trials = f"{self._left:.0f} trials" if math.isfinite(self._left) else "all combinations"
            log.info("Searching: %s, %d at once, in %s", trials, room, self.folder)
            while True:
                while len(self._trials) < room and (asked := self.ask()) is not None:
                    number, overrides = asked
                    jobs.submit({number: composer.compose(overrides, number)})
                if not jobs.busy:
                    return
                for number, result in jobs.ended().items():
                    self.tell(number, result)

    def _run_in_batches(self) -> None:
        """Run trials in batches with another launcher, which waits for all jobs of a batch."""
        assert self._sweeper.launcher is not None
        while True:
            first = self._next
            batch: list[list[str]] = []
            while len(batch) < (self._settings.max_concurrent or 1) and (asked := self.ask()) is not None:
                batch.append(asked[1])
            if not batch:
                return
            try:
                results = self._sweeper.launcher.launch(batch, initial_job_idx=first)
            except SystemExit as end:
                if end.code == EXIT_CANCELED:
                    raise
                raise CompactHydraException(
                    f"labrun: job {first} ended the whole process with sys.exit({'' if end.code is None else end.code})"
                    ", so the search ends: return a number instead; hydra/launcher=labrun has a process for each job"
                ) from end
            for number, result in enumerate(results, start=first):
                if result.status == JobStatus.FAILED:
                    sys.stderr.write(f"{trace_of(result._return_value)}\n")
                self.tell(number, result)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values set by overrides, by key as typed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

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
