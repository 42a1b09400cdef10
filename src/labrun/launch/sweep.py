"""The runs of a sweep, one after another in this process, and the sweep's table at the end."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import _save_config
from omegaconf import DictConfig, OmegaConf

from labrun import execute
from labrun.launch import freeze
from labrun.runs import record as records
from labrun.runs import report, store
from labrun.runs.record import Record
from labrun.runs.tracking import follow

log = logging.getLogger(__name__)

RANKED_BY = "accuracy"


@dataclass(frozen=True)
class Job:
    """A run that is about to be submitted: its record, its folder, and what Hydra saves beside it."""

    record: Record
    run_dir: Path
    config: DictConfig


def freeze_job(config: DictConfig, sweep_dir: Path) -> Job:
    """Freeze one composed job of a sweep; `HydraConfig` must be set to it.

    Raises:
        ConfigError, RecordError: see `freeze.freeze`.
    """
    hydra = HydraConfig.get()
    run_dir = sweep_dir / str(hydra.sweep.subdir)
    overrides = freeze.task_overrides(hydra)
    record = freeze.freeze(
        freeze.without_hydra(config), freeze.new_id(), overrides, hydra.runtime.choices, store.workspace()
    )
    record.sweep = {"folder": str(sweep_dir), "number": hydra.job.num}
    return Job(record, run_dir, config)


def carry_out(jobs: Sequence[Job], sweep_dir: Path) -> list[Record]:
    """Submit and execute every job; whatever one of them does, the others run.

    Raises:
        DataError, RecordError: the data are absent, or the folder cannot be written; nothing has run then.
    """
    for job in jobs:
        freeze.prepare(job.record.config)
    for job in jobs:
        freeze.submit(job.record, job.run_dir)
        _save_hydra(job)
    tracking = jobs[0].record.config["tracking"]
    with follow(store.workspace(), tracking):
        try:
            for job in jobs:
                log.info(
                    "[%s] %s", job.record.sweep["number"] if job.record.sweep else 0, " ".join(job.record.overrides)
                )
                _carry_out_one(job)
        except KeyboardInterrupt:
            _cancel_rest(jobs)
            sys.stderr.write(f"labrun: canceled; the records are in {sweep_dir}\n")
            sys.exit(130)
        finished = [records.read(job.run_dir) for job in jobs]
        tell(jobs, finished, sweep_dir)
    return finished


def _carry_out_one(job: Job) -> None:
    try:
        execute.execute(job.run_dir, pictures=False)
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - its record holds it; the others go on
        text = (str(error) or repr(error)).splitlines()[0]
        log.error("This run failed: %s: %s", type(error).__name__, text)


def _cancel_rest(jobs: Sequence[Job]) -> None:
    for job in jobs:
        record = records.read(job.run_dir)
        if record.status == records.QUEUED:
            record.status, record.ended = records.CANCELED, records.now()
            records.write(job.run_dir, record)


def _save_hydra(job: Job) -> None:
    """What Hydra itself would have saved."""
    folder = job.run_dir / ".hydra"
    _save_config(freeze.without_hydra(job.config), "config.yaml", folder)
    _save_config(OmegaConf.masked_copy(job.config, ["hydra"]), "hydra.yaml", folder)
    _save_config(job.config.hydra.overrides.task, "overrides.yaml", folder)


def tell(jobs: Sequence[Job], finished: Sequence[Record], sweep_dir: Path) -> None:
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
        execute.redraw(jobs[order[0]].run_dir)
    print(f"folder: {sweep_dir}   (results.csv; pictures of the best run: {jobs[order[0]].run_dir / 'outputs'})")


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
