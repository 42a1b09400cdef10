"""The controller, on the remote machine, of runs sent from another one. Usage: controller FOLDER; see `dispatch`.

It is the detached controller plus everything that only this machine knows: its cores and GPUs, the folders of packages,
and whether the data are available. It refuses requests that it cannot meet before anything runs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from labrun.backends.local.server import Server, serves
from labrun.config.schema import Compute, Config
from labrun.errors import ConfigError, LabrunError, RecordError
from labrun.remote.links import CARRIED_PATH
from labrun.runs import store, sweep_state
from labrun.runs.groups import Code
from labrun.runs.record import QUEUED, read_record, write_record
from labrun.runs.sweep_state import Plan, SweepState
from labrun.user_errors import refuse

if TYPE_CHECKING:  # slow imports run while the pool's server imports
    from labrun.backends.base import Backend
    from labrun.runs.record import Record


def main() -> None:
    """Execute the runs of the folder given on the command line."""
    folder = Path(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    by_name: dict[str, dict[str, str]] = json.load(sys.stdin)
    environment = {folder / name: values for name, values in by_name.items()}
    head = start_ahead(folder)
    from labrun.control import detached, monitor

    try:
        prepare(folder)
        detached.take_over(folder, environment, detached.StartSignal(folder, monitor.Lines(folder)), head)
    except LabrunError as error:
        refuse(error)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if head is not None:
            head.close(at_once=True)


def start_ahead(folder: Path) -> Server | None:
    """Start the pool's server, which imports while everything else is checked; None if none is needed."""
    try:
        plan = sweep_state.read_plan(folder)
        record = next((one for _, one in store.of_plan(folder, plan) if not one.finished), None)
        if record is None or not serves(record.typed.compute.target):
            return None
        threads = record.typed.compute.cpus_per_run
        return Server(import_path(plan), plan.preload, plan.python, working_folder(plan), threads=threads)
    except (OSError, ConfigError, RecordError):  # reported later, when it is needed
        return None


def end() -> None:
    """End runs without a controller in the folder given on the command line; read their names from standard input.

    A search in this folder is then over.
    """
    from labrun.control.cancel import end_runs

    folder = Path(sys.argv[1])
    try:
        end_runs([folder / name for name in json.load(sys.stdin) if not read_record(folder / name).finished])
        if sweep_state.read_plan(folder).command is not None:
            SweepState(folder).search_over.touch()
    except LabrunError as error:
        refuse(error)


def prepare(folder: Path) -> None:
    """Check the runs' requests, and rewrite the plan for this machine.

    Raises:
        ConfigError, DataError: this machine cannot meet the requests.
    """
    plan = sweep_state.read_plan(folder)
    run_records = [record for _, record in store.of_plan(folder, plan)]
    unfinished = [record for record in run_records if not record.finished]
    if not unfinished:
        return
    for run_dir, record in store.of_plan(folder, plan):
        if record.status == QUEUED:
            _adapt_environment(run_dir, record)
    backend = check(unfinished)
    adapted(plan, unfinished, backend).write(folder)
    sweep_state.note_submitted(folder)


def _adapt_environment(run_dir: Path, record: Record) -> None:
    """Replace the digest of a script's environment by the one on this machine, which has another interpreter."""
    script = record.typed.script
    if script is None or not script.requirements:
        return
    from labrun.submission import environments

    digest = environments.digest_of(Path(script.requirements), script.azureml)
    if digest != script.environment:
        record.config["script"]["environment"] = digest
        record.code = dataclasses.replace(record.code or Code(), environment=digest)
        write_record(run_dir, record)


def own_compute(record: Record) -> Compute:
    """Return a run's `compute` for this machine, without `host`."""
    return dataclasses.replace(record.typed.compute, host=None)


def check(unfinished: list[Record]) -> Backend:
    """Check that this machine can meet the runs' requests, and fetch their data. Return their backend.

    Raises:
        ConfigError, DataError: it cannot.
    """
    from labrun.backends import registry
    from labrun.config import exact
    from labrun.submission import prerequisites

    is_sweep = unfinished[0].sweep is not None
    backend = registry.unattended(own_compute(unfinished[0]), is_sweep)
    computed = {exact.canonical(dataclasses.asdict(one)): one for one in map(own_compute, unfinished)}
    for compute in computed.values():
        registry.check(dataclasses.replace(compute, target=backend.name), is_sweep)
    read = [{key: record.config.get(key) for key in ("dataset", "datastore", "script")} for record in unfinished]
    for data in {exact.canonical(one): one for one in read}.values():
        prerequisites.prepare(Config(data))
    return backend


def adapted(plan: Plan, unfinished: list[Record], backend: Backend) -> Plan:
    """Return a plan adapted to this machine."""
    computed = list(map(own_compute, unfinished))
    capacity = backend.capacity([one.on_a_node for one in computed], computed[0])
    return dataclasses.replace(
        plan,
        target=backend.name,
        parallel=capacity.parallel,
        cores=capacity.cores,
        path=import_path(plan),
        cwd=working_folder(plan),
    )


def import_path(plan: Plan) -> list[str]:
    """Return the runs' import path on this machine."""
    carried = [entry for entry in os.environ.get(CARRIED_PATH, "").split(os.pathsep) if os.path.isdir(entry)]
    return [*carried, *([] if plan.python else [entry for entry in sys.path if entry])]


def working_folder(plan: Plan) -> str:
    """Return the runs' working folder on this machine."""
    return plan.cwd if os.path.isdir(plan.cwd) else str(store.workspace())
