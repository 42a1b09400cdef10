"""HyperDrive: a script's hyperparameters, searched by labrun's own sweeps."""

from __future__ import annotations

import copy
import enum
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun import api
from labrun.azureml import kinds
from labrun.azureml.run import Run, wrapped
from labrun.azureml.sampling import EarlyTerminationPolicy, HyperParameterSampling, key
from labrun.azureml.submitting import TYPE_TAG, Config
from labrun.azureml.telling import once
from labrun.azureml.words import word
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.runs import context

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment

LONGEST_MIN = 10080
"""The SDK's default limit, a week: as good as none."""


class PrimaryMetricGoal(enum.Enum):
    """Whether the metric is to be large or small."""

    MAXIMIZE = "MAXIMIZE"
    MINIMIZE = "MINIMIZE"

    @staticmethod
    def from_str(goal: str) -> PrimaryMetricGoal:
        """By its name."""
        return PrimaryMetricGoal[goal.upper()]


class HyperDriveConfig(Config):
    """What `Experiment.submit` takes to search for a script's hyperparameters.

    Args:
        hyperparameter_sampling: what varies, and how it is chosen.
        primary_metric_name: what the script logs.
        primary_metric_goal: whether that is to be large or small.
        max_total_runs: at most so many runs; None: labrun's own number, of a grid all.
        max_concurrent_runs: at most so many at once.
        max_duration_minutes: no run begins after this, and those that go on are stopped.
        policy: which runs are ended early.
        estimator: the script, or
        run_config: a `ScriptRunConfig`.
        resume_from: searches over the same space, whose results the sampling is told, and whose runs may be the best.
        resume_child_runs: runs of those whose hyperparameters are tried first, from the beginning.
        pipeline: not in labrun.

    Raises:
        UserErrorException: there is no script, or something is none of the SDK's own.
    """

    run_type = "hyperdrive"

    def __init__(
        self,
        hyperparameter_sampling: Any = None,
        primary_metric_name: str | None = None,
        primary_metric_goal: Any = PrimaryMetricGoal.MAXIMIZE,
        max_total_runs: int | None = None,
        max_concurrent_runs: int | None = None,
        max_duration_minutes: float = LONGEST_MIN,
        policy: Any = None,
        estimator: Any = None,
        run_config: Any = None,
        resume_from: Any = None,
        resume_child_runs: Any = None,
        pipeline: Any = None,
        **kwargs: Any,
    ) -> None:
        if pipeline is not None:
            not_here("HyperDriveConfig(pipeline=...)", "give the script itself, run_config=ScriptRunConfig(...)")
        self.run_config = run_config if run_config is not None else estimator
        if not isinstance(self.run_config, Config):
            raise UserErrorException(
                "HyperDriveConfig: give run_config=ScriptRunConfig(...), or estimator=Estimator(...)"
            )
        if not isinstance(hyperparameter_sampling, HyperParameterSampling):
            raise UserErrorException(
                "HyperDriveConfig: hyperparameter_sampling is RandomParameterSampling({...}) or alike"
            )
        if policy is not None and not isinstance(policy, EarlyTerminationPolicy):
            raise UserErrorException(f"HyperDriveConfig: policy={policy!r} is BanditPolicy(...) or alike")
        if not primary_metric_name:
            raise UserErrorException(
                "HyperDriveConfig: primary_metric_name is the name of a metric that the script logs"
            )
        self.resume_from = _several(resume_from, "resume_from", sweeps=True)
        self.resume_child_runs = _several(resume_child_runs, "resume_child_runs", sweeps=False)
        self.hyperparameter_sampling, self.policy = hyperparameter_sampling, policy
        self.primary_metric_name, self.primary_metric_goal = str(primary_metric_name), primary_metric_goal
        self.max_total_runs, self.max_concurrent_runs = max_total_runs, max_concurrent_runs
        self.max_duration_minutes = max_duration_minutes
        self.estimator = estimator

    @property
    def source_directory(self) -> Any:
        return self.run_config.source_directory

    @property
    def policy_config(self) -> Any:
        return self.policy

    def words(self, experiment: Experiment) -> list[str]:
        """What is typed after `labrun`."""
        goal = str(getattr(self.primary_metric_goal, "value", self.primary_metric_goal)).lower()
        limits = {
            "max_trials": self.max_total_runs,
            "max_concurrent": self.max_concurrent_runs,
            "timeout_min": None if self.max_duration_minutes == LONGEST_MIN else self.max_duration_minutes,
        }
        return [
            "-m",
            *self._script().words(experiment),
            *self.hyperparameter_sampling.words(),
            *(self.policy.words() if self.policy is not None else []),
            word("sweep.metric", self.primary_metric_name),
            f"sweep.goal={goal}",
            *(word(f"sweep.{name}", value) for name, value in limits.items() if value is not None),
            *self._former(),
        ]

    def _former(self) -> list[str]:
        """What former searches give, as words of labrun's command line."""
        sampling = self.hyperparameter_sampling
        if sampling.sweep == "grid":
            if self.resume_from or self.resume_child_runs:
                once("HyperDriveConfig: a grid tries every combination, whatever former searches have found")
            return []
        found = [word("sweep.learn_from", [str(run._folder) for run in self.resume_from])] if self.resume_from else []
        if self.resume_child_runs:
            once(
                "HyperDriveConfig: resume_child_runs are tried first, and begin anew: labrun keeps no state of scripts"
            )
            names = {key(name) for name in sampling.parameter_space}
            each = [run._work.record.config["script"].get("arguments") or {} for run in self.resume_child_runs]
            first = [
                {f"script.arguments.{name}": value for name, value in given.items() if name in names} for given in each
            ]
            found.append(word("sweep.portfolio", first))
        return found

    def _script(self) -> Any:
        """The script; of an estimator without those arguments that vary, as in the SDK: each is given once."""
        given = getattr(self.run_config, "script_params", None) or {}
        varied = {name.lstrip("-") for name in self.hyperparameter_sampling.parameter_space}
        twice = [name for name in given if name.lstrip("-") in varied]
        if not twice:
            return self.run_config
        once(f"HyperDriveConfig: {', '.join(twice)} of script_params vary, and are not given besides")
        made = copy.copy(self.run_config)
        made.script_params = {name: value for name, value in given.items() if name not in twice}
        return made

    def variables(self) -> dict[str, str]:
        """The script's."""
        return dict(self.run_config.variables())

    def _notes(self) -> dict[str, str]:
        """Those of its script, under its own type."""
        return {**self.run_config._notes(), TYPE_TAG: self.run_type}

    def submitted(self, experiment: Experiment, tags: Any, parent: str | None = None, **kwargs: Any) -> Any:
        """Submit it, and give its run."""
        run = super().submitted(experiment, tags, parent, **kwargs)
        run.hyperdrive_config = self
        return run


def _several(given: Any, what: str, sweeps: bool) -> list[Run]:
    """One run, or a list of them.

    Raises:
        UserErrorException: something is none.
    """
    found = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    for one in found:
        if not isinstance(one, Run) or getattr(one, "_work", None) is None or one._is_sweep != sweeps:
            kind = "HyperDriveRun" if sweeps else "run of a search"
            raise UserErrorException(f"HyperDriveConfig: {what}={one!r} is not a {kind}")
    return found


HyperDriveRunConfig = HyperDriveConfig
"""The name of 2018."""


class HyperDriveRun(Run):
    """A search, and its runs."""

    hyperdrive_config: HyperDriveConfig | None = None
    """What was submitted; None for a search that was found later."""

    @property
    def _objective(self) -> tuple[str | None, bool]:
        """The metric, and whether it is to be large."""
        for child in self._work.get_children():
            sweep = child.record.config["sweep"]
            metric = sweep["metric"] if isinstance(sweep["metric"], str) else sweep["metric"][0]
            goal = sweep["goal"] if isinstance(sweep["goal"], str) else sweep["goal"][0]
            return metric, goal != "minimize"
        return None, True

    def get_children_sorted_by_primary_metric(
        self, top: int = 0, reverse: bool = False, discard_no_metric: bool = False
    ) -> list[dict[str, Any]]:
        """Its runs, the best first.

        Args:
            top: so many alone; 0: all.
            reverse: the worst first.
            discard_no_metric: without those that logged no such metric; they are last otherwise.

        Returns:
            For each `run_id`, `hyperparameters` (as JSON), `best_primary_metric` and `status`.
        """
        metric, maximize = self._objective
        rows: list[dict[str, Any]] = []
        for child in self._work.get_children():
            rows.append(
                {
                    "run_id": kinds.id_of(child),
                    "hyperparameters": json.dumps(self._hyperparameters(child.record.config)),
                    "best_primary_metric": best_value(child.folder, metric, maximize),
                    "status": wrapped(self._experiment, child).get_status(),
                }
            )
        ranked = [row for row in rows if row["best_primary_metric"] is not None]
        ranked.sort(key=lambda row: row["best_primary_metric"], reverse=maximize != reverse)
        if not discard_no_metric:
            ranked += [row for row in rows if row["best_primary_metric"] is None]
        return ranked[:top] if top else ranked

    def get_best_run_by_primary_metric(
        self, include_failed: bool = True, include_canceled: bool = True, include_resume_from_runs: bool = True
    ) -> Run | None:
        """The run with the best value that it logged; None where none logged one.

        While the search goes on, it is the best so far; its end is waited for where no run has logged a value yet.

        Args:
            include_failed: also of those that failed.
            include_canceled: also of those that were canceled, or ended early.
            include_resume_from_runs: also of the searches that it went on from.
        """
        left_out = {*([] if include_failed else ["Failed"]), *([] if include_canceled else ["Canceled"])}
        found = []
        for search in [self, *(self._went_on_from() if include_resume_from_runs else [])]:
            rows = search.get_children_sorted_by_primary_metric(discard_no_metric=True)
            found += [(row["best_primary_metric"], row, search) for row in rows if row["status"] not in left_out]
        if not found and not self._work.is_over:
            once(f"no run of the search {self.id} has logged {self._objective[0]!r} yet; its end is waited for")
            self._work.wait_for_completion(show_output=False, raise_on_error=False)
            return self.get_best_run_by_primary_metric(include_failed, include_canceled, include_resume_from_runs)
        if not found:
            return None
        _, row, search = (max if self._objective[1] else min)(found, key=lambda one: one[0])
        (work,) = (child for child in search._work.get_children() if kinds.id_of(child) == row["run_id"])
        return wrapped(search._experiment, work)

    def _went_on_from(self) -> list[HyperDriveRun]:
        """The searches that this one was told of, as far as they are still there; and those that these were told of."""
        found: list[HyperDriveRun] = []
        children = self._work.get_children()
        for folder in (children[0].record.config["sweep"].get("learn_from") or []) if children else []:
            if Path(folder).is_dir():
                former = HyperDriveRun(None, work=api.Sweep(folder))
                found += [former, *former._went_on_from()]
        return found

    def get_hyperparameters(self) -> dict[str, str]:
        """Those of each run, as JSON, by the run's id."""
        children = self._work.get_children()
        return {kinds.id_of(child): json.dumps(self._hyperparameters(child.record.config)) for child in children}

    def get_metrics(self, name: str | None = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What each run logged, by the run's id; without those that logged nothing."""
        children = [wrapped(self._experiment, child) for child in self._work.get_children()]
        each = {child.id: child.get_metrics(name) for child in children}
        return {run_id: found for run_id, found in each.items() if found}

    def get_properties(self) -> dict[str, str]:
        """`primary_metric_config`, and when the search is over `score` and `best_child_run_id`, ..."""
        metric, maximize = self._objective
        goal = {"name": metric, "goal": "maximize" if maximize else "minimize"}
        about = {"azureml.runsource": "hyperdrive", "runTemplate": "HyperDrive"}
        ranked = self.get_children_sorted_by_primary_metric(discard_no_metric=True) if self._work.is_over else []
        best = (
            {"score": str(ranked[0]["best_primary_metric"]), "best_child_run_id": ranked[0]["run_id"]} if ranked else {}
        )
        return {**super().get_properties(), **about, "primary_metric_config": json.dumps(goal), **best}

    def get_diagnostics(self) -> dict[str, Any]:
        """How many runs there are of each status, and the best."""
        best = self.get_best_run_by_primary_metric()
        statuses = [child.get_status() for child in self.get_children()]
        return {
            "child_runs": {status: statuses.count(status) for status in sorted(set(statuses))},
            "best_child_by_primary_metric": best.id if best is not None else None,
        }

    def _hyperparameters(self, config: Any) -> dict[str, Any]:
        """By the names that the sampling has, where that is known."""
        names: dict[str, str] = {}
        if self.hyperdrive_config is not None:
            names = {key(name): name for name in self.hyperdrive_config.hyperparameter_sampling.parameter_space}
        given = (config.get("script") or {}).get("arguments") or {}
        return {names.get(name, name if name.startswith("-") else f"--{name}"): value for name, value in given.items()}


def best_value(run_dir: Path, metric: str | None, maximize: bool) -> float | None:
    """The best value of a metric that a run has logged; None where it has none."""
    lines = context.read_metrics(run_dir) if metric is not None else []
    found = [float(line["value"]) for line in lines if line["name"] == metric and math.isfinite(line["value"])]
    return None if not found else (max if maximize else min)(found)
