"""Searches over pipelines: their display names, and the final fits of the best pipeline and of an ensemble."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labrun.backends.base import Executor, resources
from labrun.compose import hydra_files
from labrun.control import results
from labrun.control.objective import Objective
from labrun.report import formatting
from labrun.runs import finalize
from labrun.runs.groups import SweepMember
from labrun.runs.record import COMPLETED, Record, RunPaths, read_record
from labrun.search.summary import file_command, gather
from labrun.search.trial_result import TrialResult
from labrun.submission import submit

if TYPE_CHECKING:
    from labrun.config.instantiate import Node
    from labrun.search.search import Search
    from labrun.search.trials import Trials

log = logging.getLogger(__name__)

PIPELINE = "labrun.models.pipeline.pipeline"
ENSEMBLE = "labrun.models.pipeline.ensemble"
CANDIDATES = 12
"""Number of best pipelines that an ensemble is chosen from."""
ROUNDS = 20
BEST, VOTE = "best", "ensemble"
"""Folder names of the two final runs."""


def is_pipeline(record: Record) -> bool:
    """Return whether a run's model is a pipeline."""
    return bool(record.typed.model.get("_target_") == PIPELINE)


def pipeline_name(record: Record) -> str | None:
    """Return a name such as `StandardScaler SGD`; None if the run's model is not a pipeline."""
    if not is_pipeline(record):
        return None
    model = record.typed.model
    last = dict(model["estimator"])
    if record.typed.dataset.get("regression") and last.get("regressor"):
        last = last["regressor"] if isinstance(last["regressor"], dict) else {"_target_": last["regressor"]}
    return " ".join(name for name in (short(model["preprocessor"]), short(last)) if name)


def short(node: Node) -> str:
    """Return the short class name of a node, such as `SGD` for SGDClassifier."""
    name = str(node.get("_target_") or "").rpartition(".")[2]
    for ending in ("Classifier", "Regressor", "Transformer"):
        name = name.removesuffix(ending)
    return name


@dataclass
class _Vote:
    """An ensemble: candidate index to number of times chosen, and its metric in cross-validation."""

    chosen: dict[int, int]
    value: float


def finish(search: Search, runner: Executor, folder: Path) -> None:
    """Fit the best pipeline to all training data and test it; do the same with an ensemble if it is better.

    Args:
        search: the finished search.
        runner: the executor of its trials.
        folder: the sweep's folder.
    """
    tried = [one for one in gather(search) if one.values is not None and is_pipeline(one.record)]
    if not tried or tried[0].record.typed.pipeline_settings.refit:
        return
    best, objective = tried[0], search.objectives[0]
    made = {BEST: _refit(search, best, folder / BEST, dict(best.record.typed.model))}
    vote, single = _chosen(tried, folder, objective)
    if vote is not None:
        members = [
            {part: tried[index].record.typed.model[part] for part in ("preprocessor", "estimator")}
            for index in vote.chosen
        ]
        best_model = best.record.typed.model
        node = {
            "_target_": ENSEMBLE,
            "_recursive_": False,
            "name": VOTE,
            "members": members,
            "weights": [float(count) for count in vote.chosen.values()],
            "preprocess": best_model["preprocess"],
            "metric": best_model["metric"],
        }
        made[VOTE] = _refit(search, best, folder / VOTE, node)
        _write_vote(made[VOTE], folder, search.trials)
    for job in made.values():
        _submit(job, runner)
    while runner.busy:
        runner.poll()
    _print_result(best, vote, single, objective, tried, folder)
    results.draw_best(folder / BEST, runner.draw)


def _refit(search: Search, best: TrialResult, run_dir: Path, model: dict[str, Any]) -> submit.FrozenJob:
    overrides = [text for text in best.record.overrides if text not in search.trials.space.fixed]
    job = search.trials.job(overrides, 0, run_dir.name)
    record = job.record
    record.sweep = SweepMember(str(run_dir.parent), run_dir.name)
    record.config["model"] = {**model, "folds": 0, "refit": True}
    if run_dir.name == BEST:
        again = ["model.folds=0", "model.refit=true"]
        record.overrides = [*record.overrides, *again]
        record.command = " ".join([record.command, *again])
    return job


def _submit(job: submit.FrozenJob, runner: Executor) -> None:
    """Submit the job, unless it completed before the search was resumed."""
    if (job.run_dir / "run.json").exists():
        record = read_record(job.run_dir)
        if record.status == COMPLETED:
            return
        finalize.requeue(job.run_dir, record)
    else:
        submit.write(job)
    runner.submit(job.run_dir, resources(job.record, job.environment))


def _write_vote(job: submit.FrozenJob, folder: Path, trials: Trials) -> None:
    """Write a config file equivalent to the ensemble's command."""
    record, config = job.record, job.record.typed
    record.overrides = [text for text in record.overrides if not text.startswith("model")]
    record.command = file_command(folder, VOTE, trials)
    groups = {"dataset": config.dataset, "datastore": config.datastore}
    head = [
        "# @package _global_",
        f"# The ensemble of {folder}.",
        f"#   {record.command}",
        "defaults:",
        f"  - {trials.origin.primary}",
        "  - override model: ensemble",
        "  - _self_",
    ]
    body = {
        **groups,
        "model": {key: value for key, value in config.model.items() if not key.startswith("_")},
        "seed": config.raw["seed"],
        "name": config.raw["name"],
        **({"hydra": {"searchpath": list(trials.origin.searchpath)}} if trials.origin.searchpath else {}),
    }
    text = hydra_files.as_yaml(body)
    (folder / f"{VOTE}.yaml").write_text("\n".join(head) + "\n" + text, encoding="utf-8")


def _chosen(tried: Sequence[TrialResult], folder: Path, objective: Objective) -> tuple[_Vote | None, float]:
    """Choose the best ensemble in cross-validation.

    Pipelines are added greedily, with replacement. The ensemble whose averaged out-of-fold predictions score best is
    kept.

    Returns:
        The ensemble, None if none beats the best pipeline; and that pipeline's metric.

    Source: R. Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.
    """
    from labrun.tasks.pipeline import OUT_OF_FOLD

    predictions: list[npt.NDArray[np.float64]] = []
    ranks: list[int] = []
    y: npt.NDArray[Any] | None = None
    for rank, one in enumerate(tried[:CANDIDATES]):
        try:
            with np.load(RunPaths(folder / one.run).outputs / OUT_OF_FOLD, allow_pickle=False) as content:
                outputs, y = content["said"].astype(np.float64), content["y"]
        except (OSError, ValueError, KeyError) as error:
            log.warning("Left out of the ensemble: run %s: %s", one.run, error)
            continue
        if np.isfinite(outputs).all():
            predictions.append(outputs)
            ranks.append(rank)
    if y is None or not predictions or ranks[0] != 0:
        return None, float("nan")

    def score(outputs: npt.NDArray[np.float64]) -> float:
        return objective.score(_measure(y, outputs, objective.metric))

    single = score(predictions[0])
    total, counts = predictions[0].copy(), {0: 1}
    reached, kept = single, dict(counts)
    for _ in range(ROUNDS):
        size = sum(counts.values())
        scores = [score((total + one) / (size + 1)) for one in predictions]
        best = int(np.argmax(scores))
        counts[best] = counts.get(best, 0) + 1
        total = total + predictions[best]
        if scores[best] > reached + 1e-9:
            reached, kept = scores[best], dict(counts)
    value = single if objective.maximize else -single
    if len(kept) < 2 or reached <= single:
        return None, value
    return _Vote({ranks[i]: count for i, count in kept.items()}, reached if objective.maximize else -reached), value


def _measure(y: npt.NDArray[Any], outputs: npt.NDArray[np.float64], metric: str) -> float:
    """Compute a metric of probabilities, or of values, over all training samples at once.

    Shapes:
        y: (N,).
        outputs: (N, classes) probabilities, or (N, 1) values.
    """
    from labrun.tasks import scoring

    classes = 0 if outputs.shape[1] == 1 else outputs.shape[1]
    predicted = outputs[:, 0] if not classes else outputs.argmax(axis=1)
    if metric in (scoring.STANDARD if classes else scoring.QUANTITIES):
        return scoring.one(metric, y, predicted, outputs if classes else None, classes)
    span = float("nan") if classes else float(np.ptp(y))
    scorer = scoring.scorers([metric], classes, span)[metric]
    return float(scorer(scoring.replaying_model(outputs, classes), np.arange(len(y))[:, None], y))


def _print_result(
    best: TrialResult,
    vote: _Vote | None,
    single: float,
    objective: Objective,
    tried: Sequence[TrialResult],
    folder: Path,
) -> None:
    from labrun.tasks.scoring import QUANTITIES

    assert best.values is not None
    rows = [("best pipeline", f"run {best.run}: {pipeline_name(best.record)}")]
    is_held = best.record.typed.pipeline_settings.folds == 1
    where = "on the validation split" if is_held else "in cross-validation"
    rows += [(f"  {where}", f"{objective.metric} {formatting.number(best.values[0])}")]
    rows += _tested(folder / BEST, objective, QUANTITIES)
    if vote is None:
        rows.append(("ensemble", f"none is better {where}"))
    else:
        total = sum(vote.chosen.values())
        members = ", ".join(
            f"{count / total:.2f} {pipeline_name(tried[index].record)} ({tried[index].run})"
            for index, count in sorted(vote.chosen.items(), key=lambda pair: -pair[1])
        )
        rows.append(("ensemble", members))
        shown = f"{objective.metric} {formatting.number(vote.value)} ({formatting.number(single)} for the best alone)"
        rows.append((f"  {where}" if is_held else "  over all folds at once", shown))
        rows += _tested(folder / VOTE, objective, QUANTITIES)
    results.say(formatting.table(rows))


def _tested(run_dir: Path, objective: Objective, quantities: Sequence[str]) -> list[tuple[str, str]]:
    record = read_record(run_dir)
    if record.status != COMPLETED:
        return [("  fitted to all", results.failure(record))]
    found = {
        name.removeprefix("test_"): formatting.number(record.metrics[name])
        for name in (f"test_{objective.metric}", "accuracy", *quantities)
        if name in record.metrics
    }
    listed = ", ".join(f"{name} {value}" for name, value in found.items())
    return [("  on the test split", listed), ("  model", str(RunPaths(run_dir).outputs / "model.skops"))]
