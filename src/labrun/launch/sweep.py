"""The runs of a sweep, in the local pool or one after another in this process, and the sweep's table at the end."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import _save_config
from omegaconf import DictConfig, OmegaConf

from labrun import execute
from labrun.errors import ConfigError, LabrunError, RecordError
from labrun.launch import freeze, inside, snapshot
from labrun.launch.pool import LocalPool, Needs, close_unrun
from labrun.runs import record as records
from labrun.runs import report, store
from labrun.runs.record import Record
from labrun.runs.recording import terminating_politely
from labrun.runs.tracking import follow

log = logging.getLogger(__name__)

RANKED_BY = "accuracy"


@dataclass(frozen=True)
class Job:
    """A run that is about to be submitted: its record, its folder, and what Hydra saves beside it."""

    record: Record
    run_dir: Path
    config: DictConfig


def freeze_job(config: DictConfig, sweep_dir: Path, around: freeze.Surroundings) -> Job:
    """Freeze one composed job of a sweep; `HydraConfig` must be set to it.

    Raises:
        ConfigError, RecordError: see `freeze.freeze`.
    """
    hydra = HydraConfig.get()
    run_dir = sweep_dir / str(hydra.sweep.subdir)
    plain = freeze.without_hydra(config)
    record = freeze.freeze(plain, freeze.new_id(), freeze.task_overrides(hydra), store.workspace(), around)
    record.sweep = {"folder": str(sweep_dir), "number": hydra.job.num}
    return Job(record, run_dir, config)


def carry_out(jobs: Sequence[Job], sweep_dir: Path) -> list[Record]:
    """Submit and execute every job; whatever one of them does, the others run.

    Raises:
        DataError, RecordError: the data are absent, or the folder cannot be written; nothing has run then.
        ConfigError: `compute` asks for what this machine does not have.
    """
    compute = jobs[0].record.config["compute"]
    _check_folders(jobs)
    for job in jobs:
        check_compute(job.record.config["compute"])
    for data in {json.dumps([job.record.config[k] for k in ("dataset", "datastore")], sort_keys=True) for job in jobs}:
        freeze.prepare(dict(zip(("dataset", "datastore"), json.loads(data), strict=True)))
    pool = None if compute["target"] == "inline" else _pool(jobs, compute)
    for job in jobs:
        freeze.submit(job.record, job.run_dir)
        _save_hydra(job)
    with follow(store.workspace(), jobs[0].record.config["tracking"]), terminating_politely():
        try:
            if pool is None:
                _one_after_another(jobs)
            else:
                _in_pool(pool, jobs)
        except LabrunError:
            _cancel_rest(jobs)
            raise
        except KeyboardInterrupt:
            _cancel_rest(jobs)
            sys.stderr.write(f"labrun: canceled; the records are in {sweep_dir}\n")
            sys.exit(130)
        finally:
            if pool is not None and pool.busy:
                pool.close()
        finished = [records.read(job.run_dir) for job in jobs]
        tell(jobs, finished, sweep_dir, execute.redraw if pool is None else pool.draw)
        if pool is not None:
            pool.close()
    return finished


def _check_folders(jobs: Sequence[Job]) -> None:
    folders = [job.run_dir for job in jobs]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1 or (folder / "run.json").exists()})
    if twice:
        raise RecordError(
            f"hydra.sweep.dir and hydra.sweep.subdir give more than one run the folder {twice[0]}; each needs its own"
        )


def check_compute(compute: Mapping[str, Any]) -> None:
    """Whether this machine has what a run needs.

    Raises:
        ConfigError: it does not; the message says what is there.
    """
    cores, memory = _cores(), psutil.virtual_memory().total / 2**30
    if compute["cpus_per_run"] > cores:
        raise ConfigError(f"compute.cpus_per_run={compute['cpus_per_run']}: this machine has {cores} cores")
    if compute["mem_gb"] is not None and compute["mem_gb"] > memory:
        raise ConfigError(f"compute.mem_gb={compute['mem_gb']:g}: this machine has {memory:.1f} GB of memory")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(jobs: Sequence[Job], compute: Mapping[str, Any]) -> LocalPool:
    parallel = min(compute["max_parallel"] or max(1, _cores() // compute["cpus_per_run"]), len(jobs))
    if parallel * compute["cpus_per_run"] > _cores():
        log.info("%d runs of %d cores at once, on %d cores", parallel, compute["cpus_per_run"], _cores())
    return LocalPool(snapshot.import_path(jobs[0].record.code or {}), _targets(jobs), parallel)


def _targets(jobs: Sequence[Job]) -> list[str]:
    return sorted({str(job.record.config[group]["_target_"]) for job in jobs for group in ("dataset", "model")})


def needs(config: Mapping[str, Any]) -> Needs:
    """What one run needs, from its config."""
    compute = config["compute"]
    return Needs(
        cpus=compute["cpus_per_run"],
        timeout_s=None if compute["timeout_min"] is None else 60 * compute["timeout_min"],
        mem_gb=compute["mem_gb"],
        retries=compute["retries"],
        environment={key: str(value) for key, value in compute["environment"].items()},
        pictures=config["report"] == "all",
    )


def _in_pool(pool: LocalPool, jobs: Sequence[Job]) -> None:
    by_dir = {job.run_dir: job for job in jobs}
    for job in jobs:
        pool.submit(job.run_dir, needs(job.record.config))
    done = 0
    while pool.busy:
        try:
            ended = pool.poll()
        except KeyboardInterrupt:
            _stop(pool)
            pool.close()
            raise
        for run_dir in ended:
            done += 1
            _tell_one(by_dir[run_dir], done, len(jobs))


def _stop(pool: LocalPool) -> None:
    """Ctrl-C once asks the runs to stop; a second time ends them."""
    log.info("Asking the runs to stop; Ctrl-C again ends them at once")
    try:
        pool.cancel_all()
        while pool.busy:
            pool.poll()
    except KeyboardInterrupt:
        pool.cancel_all(at_once=True)
        while pool.busy:
            pool.poll()


def _tell_one(job: Job, done: int, total: int) -> None:
    record = records.read(job.run_dir)
    value = record.metrics.get(RANKED_BY)
    shown = f"{RANKED_BY} {report.number(value)}" if isinstance(value, float) else failure(record)
    log.info("%d/%d  %s  %s s  %s  [%s]", done, total, record.status, record.duration_s, shown, _swept(record))


def _swept(record: Record) -> str:
    return " ".join(record.overrides)


def _one_after_another(jobs: Sequence[Job]) -> None:
    inside.preload(_targets(jobs))
    for job in jobs:
        # As many threads as in the pool: sums in another order round otherwise, and the results would differ.
        inside.limit_threads(job.record.config["compute"]["cpus_per_run"])
        log.info("[%s] %s", (job.record.sweep or {}).get("number"), _swept(job.record))
        try:
            execute.execute(job.run_dir, pictures=False)
        except KeyboardInterrupt:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - its record holds it; the others go on
            text = (str(error) or repr(error)).splitlines()[0]
            log.error("This run failed: %s: %s", type(error).__name__, text)


def _cancel_rest(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if records.read(job.run_dir).status == records.QUEUED:
            close_unrun(job.run_dir, "the sweep was canceled before it began")


def _save_hydra(job: Job) -> None:
    """What Hydra itself would have saved."""
    folder = job.run_dir / ".hydra"
    _save_config(freeze.without_hydra(job.config), "config.yaml", folder)
    _save_config(OmegaConf.masked_copy(job.config, ["hydra"]), "hydra.yaml", folder)
    _save_config(job.config.hydra.overrides.task, "overrides.yaml", folder)


def tell(jobs: Sequence[Job], finished: Sequence[Record], sweep_dir: Path, draw: Callable[[Path], object]) -> None:
    """The sweep's table, best first, its `results.csv`, and the best run's pictures."""
    order = sorted(range(len(jobs)), key=lambda i: -_rank(finished[i]))
    rows = [("run", f"status      {RANKED_BY}  overrides")]
    for place in order:
        record = finished[place]
        value = record.metrics.get(RANKED_BY)
        shown = report.number(value) if isinstance(value, float) else "-"
        first_line = (record.error or {}).get("message", "").splitlines()[:1]
        why = f"   {first_line[0]}  ({jobs[place].run_dir / 'driver.log'})" if first_line else ""
        rows.append(
            (
                str((record.sweep or {}).get("number")),
                f"{record.status:<10}  {shown:<8}  {' '.join(record.overrides)}{why}",
            )
        )
    print(report.table(rows))
    _write_csv(finished, sweep_dir / "results.csv")
    best = finished[order[0]]
    if best.status == records.COMPLETED and best.config["report"] == "auto":
        _draw_best(jobs[order[0]].run_dir, draw)
    print(f"folder: {sweep_dir}   (results.csv; pictures of the best run: {jobs[order[0]].run_dir / 'outputs'})")


def _draw_best(run_dir: Path, draw: Callable[[Path], object]) -> None:
    try:
        drawn = draw(run_dir)
    except (LabrunError, OSError, ValueError) as error:
        log.warning("The best run's pictures could not be drawn: %s", error)
    else:
        if drawn is False:
            log.warning("The best run's pictures could not be drawn; %s says why", run_dir / "driver.log")


def _rank(record: Record) -> float:
    value = record.metrics.get(RANKED_BY)
    return (
        value if record.status == records.COMPLETED and isinstance(value, float) and value == value else float("-inf")
    )


def _write_csv(finished: Sequence[Record], path: Path) -> None:
    names = sorted({name for record in finished for name in record.metrics})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "id", "status", "duration_s", *names, "overrides"])
        for record in finished:
            values: list[Any] = [record.metrics.get(name, "") for name in names]
            number = (record.sweep or {}).get("number")
            writer.writerow([number, record.id, record.status, record.duration_s, *values, " ".join(record.overrides)])


def failure(record: Record) -> str:
    """Why a run did not complete, in one line."""
    return f"{record.status}: {(record.error or {}).get('message', '')}".splitlines()[0]
