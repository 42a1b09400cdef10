"""HyperDrive: searches for a script's hyperparameters, run as labrun sweeps."""

from __future__ import annotations

import copy
import enum
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.api import handles
from labrun.azureml import kinds
from labrun.azureml.notices import notify_once
from labrun.azureml.overrides import override
from labrun.azureml.run import Run
from labrun.azureml.sampling import EarlyTerminationPolicy, HyperParameterSampling, key
from labrun.azureml.submitting import Config
from labrun.compat.azureml import arguments
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training.children import ASSIGNED
from labrun.compat.azureml.training.run import TYPE_TAG
from labrun.runs import context

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment

LONGEST_MIN = 10080
"""The SDK's default time limit in minutes, a week; treated as no limit."""


class PrimaryMetricGoal(enum.Enum):
    """Whether to maximize or minimize the metric."""

    MAXIMIZE = "MAXIMIZE"
    MINIMIZE = "MINIMIZE"

    @staticmethod
    def from_str(goal: str) -> PrimaryMetricGoal:
        """Return the goal with this name, in upper or lower case."""
        return PrimaryMetricGoal[goal.upper()]


class HyperDriveConfig(Config):
    """The configuration of a hyperparameter search, for `Experiment.submit`.

    Args:
        hyperparameter_sampling: the search space and the sampling method.
        primary_metric_name: the name of a metric that the script logs.
        primary_metric_goal: whether to maximize or minimize it.
        max_total_runs: maximum number of runs; None: labrun's default, or the whole grid.
        max_concurrent_runs: maximum number of concurrent runs.
        max_duration_minutes: time limit of the search in minutes; then active runs stop and no new ones start.
        policy: the early termination policy.
        estimator: the script, as an `Estimator`.
        run_config: the script, as a `ScriptRunConfig`; takes precedence over `estimator`.
        resume_from: earlier searches over the same space. The sampling learns from their results, and their runs count
            when the best run is chosen.
        resume_child_runs: runs of earlier searches whose hyperparameters are tried first, each from scratch.
        pipeline: not supported by labrun.
        debug_flag: not used.
        custom_run_id: not used: labrun assigns the id; a notice says so.

    Raises:
        UserErrorException: the script or the metric is missing, or an argument has the wrong type.
    """

    run_type = kinds.RunType.HYPERDRIVE

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
        debug_flag: Any = None,
        custom_run_id: str | None = None,
    ) -> None:
        arguments.tell_unused("HyperDriveConfig", {"custom_run_id": custom_run_id}, ASSIGNED)
        if pipeline is not None:
            not_here("HyperDriveConfig(pipeline=...)", "give the script itself, run_config=ScriptRunConfig(...)")
        self.run_config = run_config if run_config is not None else estimator
        if not isinstance(self.run_config, Config):
            raise UserErrorException(
                "HyperDriveConfig: give run_config=ScriptRunConfig(...), or estimator=Estimator(...)"
            )
        if not isinstance(hyperparameter_sampling, HyperParameterSampling):
            raise UserErrorException(
                "HyperDriveConfig: hyperparameter_sampling must be RandomParameterSampling({...}) or similar"
            )
        if policy is not None and not isinstance(policy, EarlyTerminationPolicy):
            raise UserErrorException(f"HyperDriveConfig: policy={policy!r}: give BanditPolicy(...) or similar")
        if not primary_metric_name:
            raise UserErrorException(
                "HyperDriveConfig: primary_metric_name must be the name of a metric that the script logs"
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

    def overrides(self, experiment: Experiment) -> list[str]:
        """Return the arguments for the `labrun` command."""
        goal = str(getattr(self.primary_metric_goal, "value", self.primary_metric_goal)).lower()
        limits = {
            "max_trials": self.max_total_runs,
            "max_concurrent": self.max_concurrent_runs,
            "timeout_min": None if self.max_duration_minutes == LONGEST_MIN else self.max_duration_minutes,
        }
        return [
            "-m",
            *self._script().overrides(experiment),
            *self.hyperparameter_sampling.overrides(),
            *(self.policy.overrides() if self.policy is not None else []),
            override("sweep.metric", self.primary_metric_name),
            f"sweep.goal={goal}",
            *(override(f"sweep.{name}", value) for name, value in limits.items() if value is not None),
            *self._former(),
        ]

    def _former(self) -> list[str]:
        """Return the arguments of the `labrun` command that refer to earlier searches."""
        sampling = self.hyperparameter_sampling
        if sampling.sweep == "grid":
            if self.resume_from or self.resume_child_runs:
                notify_once("HyperDriveConfig: a grid tries every combination, whatever earlier searches found")
            return []
        overrides = (
            [override("sweep.learn_from", [str(run._folder) for run in self.resume_from])] if self.resume_from else []
        )
        if self.resume_child_runs:
            notify_once(
                "HyperDriveConfig: resume_child_runs are tried first, each from scratch: labrun keeps no script state"
            )
            names = {key(name) for name in sampling.parameter_space}
            scripts = [run._work.record.typed.script for run in self.resume_child_runs]
            each = [script.arguments for script in scripts if script is not None]
            first = [
                {f"script.arguments.{name}": value for name, value in arguments.items() if name in names}
                for arguments in each
            ]
            overrides.append(override("sweep.portfolio", first))
        return overrides

    def _script(self) -> Any:
        """Return the script. As in the SDK, an estimator's own value of a searched argument is dropped."""
        parameters = getattr(self.run_config, "script_params", None) or {}
        varied = {name.lstrip("-") for name in self.hyperparameter_sampling.parameter_space}
        twice = [name for name in parameters if name.lstrip("-") in varied]
        if not twice:
            return self.run_config
        notify_once(f"HyperDriveConfig: the search sets {', '.join(twice)}; the values in script_params are not used")
        made = copy.copy(self.run_config)
        made.script_params = {name: value for name, value in parameters.items() if name not in twice}
        return made

    def variables(self) -> dict[str, str]:
        """Return the script's environment variables."""
        return dict(self.run_config.variables())

    def _notes(self) -> dict[str, str]:
        """Return the script's notes with the search's own type."""
        return {**self.run_config._notes(), TYPE_TAG: self.run_type}

    def submitted(self, experiment: Experiment, tags: Any, parent: str | None = None, show_output: bool = False) -> Any:
        """Submit the search and return its run."""
        run = super().submitted(experiment, tags, parent, show_output)
        run.hyperdrive_config = self
        return run


def _several(runs: Any, what: str, sweeps: bool) -> list[Run]:
    """Return one run or a list of runs as a list.

    Raises:
        UserErrorException: an item is not a search or not a run of a search, whichever `sweeps` requires.
    """
    run_list = [] if runs is None else list(runs) if isinstance(runs, (list, tuple)) else [runs]
    for one in run_list:
        if not isinstance(one, Run) or getattr(one, "_work", None) is None or one._is_sweep != sweeps:
            kind = "HyperDriveRun" if sweeps else "run of a search"
            raise UserErrorException(f"HyperDriveConfig: {what}={one!r} is not a {kind}")
    return run_list


HyperDriveRunConfig = HyperDriveConfig
"""The SDK's name for it in 2018."""


class HyperDriveRun(Run):
    """A search and its runs."""

    hyperdrive_config: HyperDriveConfig | None = None
    """The submitted configuration; None for a search that was looked up later without it."""

    def __init__(
        self,
        experiment: Any = None,
        run_id: str | None = None,
        hyperdrive_config: HyperDriveConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(experiment, run_id, **kwargs)
        if hyperdrive_config is not None:
            self.hyperdrive_config = hyperdrive_config

    @property
    def _objective(self) -> tuple[str | None, bool]:
        """The metric's name and whether to maximize it."""
        for child in self._work.get_children():
            metric, goal = child.record.typed.sweep.goals[0]
            return metric, goal != "minimize"
        return None, True

    def get_children_sorted_by_primary_metric(
        self, top: int = 0, reverse: bool = False, discard_no_metric: bool = False
    ) -> list[dict[str, Any]]:
        """Return the runs, best first.

        Args:
            top: maximum number of runs; 0: all.
            reverse: worst first.
            discard_no_metric: leave out runs that did not log the metric; otherwise they come last.

        Returns:
            For each run a dict of `run_id`, `hyperparameters` (as JSON), `best_primary_metric` and `status`.
        """
        metric, maximize = self._objective
        rows: list[dict[str, Any]] = []
        for child in self._work.get_children():
            rows.append(
                {
                    "run_id": kinds.id_of(child),
                    "hyperparameters": json.dumps(self._hyperparameters(child.record.config)),
                    "best_primary_metric": best_value(child.folder, metric, maximize),
                    "status": kinds.wrapped(self._experiment, child).get_status(),
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
        """Return the run that logged the best value; None if no run logged the metric.

        During the search this is the best run so far. If no run has logged a value yet, wait for the search to end.

        Args:
            include_failed: include failed runs.
            include_canceled: include runs that were canceled or stopped early.
            include_resume_from_runs: include runs of the searches in `resume_from`.
        """
        left_out = {*([] if include_failed else ["Failed"]), *([] if include_canceled else ["Canceled"])}
        found = []
        for search in [self, *(self._resumed_from() if include_resume_from_runs else [])]:
            rows = search.get_children_sorted_by_primary_metric(discard_no_metric=True)
            found += [(row["best_primary_metric"], row, search) for row in rows if row["status"] not in left_out]
        if not found and not self._work.is_over:
            notify_once(f"no run of the search {self.id} has logged {self._objective[0]!r} yet; waiting for it to end")
            self._work.wait_for_completion(show_output=False, raise_on_error=False)
            return self.get_best_run_by_primary_metric(include_failed, include_canceled, include_resume_from_runs)
        if not found:
            return None
        _, row, search = (max if self._objective[1] else min)(found, key=lambda one: one[0])
        (work,) = (child for child in search._work.get_children() if kinds.id_of(child) == row["run_id"])
        best: Run = kinds.wrapped(search._experiment, work)
        return best

    def _resumed_from(self) -> list[HyperDriveRun]:
        """Return the searches in `resume_from` that still exist, and recursively those that they resumed from."""
        found: list[HyperDriveRun] = []
        children = self._work.get_children()
        for folder in children[0].record.typed.sweep.learn_from if children else []:
            if Path(folder).is_dir():
                former = HyperDriveRun(None, work=handles.Sweep(folder))
                found += [former, *former._resumed_from()]
        return found

    def get_hyperparameters(self) -> dict[str, str]:
        """Return each run's hyperparameters as JSON, by run id."""
        children = self._work.get_children()
        return {kinds.id_of(child): json.dumps(self._hyperparameters(child.record.config)) for child in children}

    def get_metrics(
        self, name: str | None = None, recursive: bool = True, run_type: Any = None, populate: bool = False
    ) -> dict[str, Any]:
        """Return each run's metrics by run id, without the runs that logged nothing, whatever `recursive` says."""
        children = [kinds.wrapped(self._experiment, child) for child in self._work.get_children()]
        each = {child.id: child.get_metrics(name) for child in children}
        return {run_id: found for run_id, found in each.items() if found}

    def get_properties(self) -> dict[str, str]:
        """Return `primary_metric_config` and more; after the search has ended also `score` and `best_child_run_id`."""
        metric, maximize = self._objective
        goal = {"name": metric, "goal": "maximize" if maximize else "minimize"}
        about = {"azureml.runsource": "hyperdrive", "runTemplate": "HyperDrive"}
        ranked = self.get_children_sorted_by_primary_metric(discard_no_metric=True) if self._work.is_over else []
        best = (
            {"score": str(ranked[0]["best_primary_metric"]), "best_child_run_id": ranked[0]["run_id"]} if ranked else {}
        )
        return {**super().get_properties(), **about, "primary_metric_config": json.dumps(goal), **best}

    def get_diagnostics(self) -> dict[str, Any]:
        """Return the number of runs per status, and the best run's id."""
        best = self.get_best_run_by_primary_metric()
        statuses = [child.get_status() for child in self.get_children()]
        return {
            "child_runs": {status: statuses.count(status) for status in sorted(set(statuses))},
            "best_child_by_primary_metric": best.id if best is not None else None,
        }

    def _hyperparameters(self, config: Any) -> dict[str, Any]:
        """Return a run's hyperparameters, under the sampling's names if the sampling is known."""
        names: dict[str, str] = {}
        if self.hyperdrive_config is not None:
            names = {key(name): name for name in self.hyperdrive_config.hyperparameter_sampling.parameter_space}
        arguments = (config.get("script") or {}).get("arguments") or {}
        return {
            names.get(name, name if name.startswith("-") else f"--{name}"): value for name, value in arguments.items()
        }


def best_value(run_dir: Path, metric: str | None, maximize: bool) -> float | None:
    """Return the best value that a run has logged for a metric; None if it logged none."""
    lines = context.read_metrics(run_dir) if metric is not None else []
    found = [float(line["value"]) for line in lines if line["name"] == metric and math.isfinite(line["value"])]
    return None if not found else (max if maximize else min)(found)
