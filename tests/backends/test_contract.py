"""The contract of every backend (`labrun.backends.base`), with real processes, kills and a Slurm cluster."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from conftest import Command
from helpers import installed, new, run_cold, wait_for
from labrun.backends import registry
from labrun.backends.base import Backend, resources
from labrun.backends.local.server import frozen_file
from labrun.compose import composed, paths
from labrun.config.schema import Compute
from labrun.control import controller
from labrun.control.cancel import end_runs
from labrun.control.query import StatusResolver
from labrun.errors import ConfigError
from labrun.remote import links
from labrun.remote.links import Link
from labrun.runs import context, finalize, machine
from labrun.runs.context import RunContext
from labrun.runs.groups import SweepMember
from labrun.runs.record import RUNNING, UNREACHABLE, Record, read_record
from labrun.runs.recording import Recording
from labrun.runs.sweep_state import Plan, read_plan
from labrun.submission import freeze, origin, submit

MODEL = """
class Failing:
    def fit(self, x, y):
        raise ValueError("as it was told to")
    def predict(self, x):
        pass
"""

SCRIPT = """
import os, sys, time
print("VARIABLE", os.environ.get("OWN"), flush=True)
time.sleep(float(sys.argv[1]))
if sys.argv[2:] == ["raises"]:
    raise ValueError("as it was told to")
if sys.argv[2:] == ["killed"]:
    import psutil
    psutil.Process().parent().parent().kill()  # the run's process: the guard is between them
    time.sleep(60)
sys.exit("the first attempt" if sys.argv[2:] == ["second"] and os.environ["LABRUN_ATTEMPT"] == "1" else 0)
"""


OWN_PYTHON = {"python": sys.executable}
STATUS = {"slurm": r"(?s)main\*? .*your jobs: ", "remote": r"box +(not queried yet|\d+ cores)"}
"""Pattern of the status of backends that use other machines."""
UNUSABLE_FOLDERS = {"slurm": {"half%j"}, "remote": {"sent"}}
"""Folders that backends refuse, by the backend's name: see `test_unusable_folders_are_refused`."""
DRAWING = ("inline", "local", "slurm")
"""Backends that draw pictures of runs that they have not executed."""


class Seen:
    """A view that records its calls."""

    def __init__(self) -> None:
        self.ends: list[tuple[Path, str]] = []

    def update(self, running: bool = True) -> None:
        pass

    def ended(self, run_dir: Path, record: Record) -> None:
        self.ends.append((run_dir, record.status))


@pytest.fixture
def script(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "script").mkdir()
    (workspace / "script" / "sleep.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(workspace))
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    (workspace / "failing.py").write_text(MODEL)
    (workspace / "conf" / "model").mkdir(parents=True, exist_ok=True)
    (workspace / "conf" / "model" / "failing.yaml").write_text("_target_: failing.Failing\n")


pytestmark = pytest.mark.usefixtures("workspace", "registered", "script")


def sweep(backend: Backend, folder: Path, runs: Sequence[list[Any] | str], *compute: str) -> list[Path]:
    """Write the records and the plan of a sweep, as `labrun -m` does; the runs' folders.

    Args:
        backend: where the runs are to be executed.
        folder: the sweep's folder.
        runs: for each run the arguments of the script, which imports no large library, or its model's name.
        compute: further words.
    """
    jobs = []
    for number, values in enumerate(runs):
        if isinstance(values, str):
            overrides = [f"model={values}"]
            plain = ("tracking=none", "report=none", "dataset.max_samples=50", "dataset=digits")
        else:
            overrides = [f"script.positional={values}"]
            plain = ("experiment=script", "script.path=script/sleep.py", "tracking=none", "report=none")
        search_path = f"hydra.searchpath=[file://{Path.cwd()}/conf]"
        with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
            typed = [search_path, f"compute={backend.name}", *plain, *overrides, *compute]
            config = compose("config", typed, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        record = freeze.freeze(
            composed.without_hydra(config),
            origin.new_id(),
            overrides,
            Path.cwd(),
            freeze.capture_provenance(Path.cwd()),
        )
        record.sweep = SweepMember(str(folder), number)
        jobs.append(submit.FrozenJob(record, folder / str(number), {}, freeze.environment(config)))
    assert submit.check(jobs) is backend
    run_dirs = [job.run_dir for job in jobs]
    submit.make_plan(jobs, folder, run_dirs, backend).write(folder)
    for job in jobs:
        freeze.submit(job.record, job.run_dir)
    return run_dirs


def run_controller(folder: Path) -> Seen:
    """Carry the sweep out, to its end."""
    seen = Seen()
    controller.run(folder, seen).close()
    return seen


def composed_compute(backend: Backend, **values: Any) -> Compute:
    option = paths.option("compute", backend.name)
    return Compute.of({"target": backend.name, **option, "cpus_per_run": 1, **values})


def test_all_unavailable_resources_are_refused_in_one_message(backend: Backend) -> None:
    with pytest.raises(ConfigError) as refused:
        registry.check(composed_compute(backend, cpus_per_run=4096, mem_gb=1e6), sweep=True)
    text = "\n".join(refused.value.problems)
    assert "compute.cpus_per_run=4096" in text and "compute.mem_gb=1e+06" in text
    if not backend.settings:
        with pytest.raises(ConfigError, match=r"compute.nodes=2: only compute=slurm and compute=slurm_gpu support it"):
            registry.check(composed_compute(backend, nodes=2), sweep=True)
    registry.check(composed_compute(backend), sweep=True)


def test_available_resources_are_summarized_in_a_line(backend: Backend) -> None:
    assert backend.summary(composed_compute(backend)).strip() and "\n" not in backend.summary(composed_compute(backend))
    assert backend.capacity([(1, 0)] * 3, composed_compute(backend)).parallel >= 1
    limited = composed_compute(backend) if backend.in_process else composed_compute(backend, max_parallel=2)
    assert backend.capacity([(1, 0)] * 3, limited).parallel <= 2


def test_only_resources_of_other_machines_have_a_status(backend: Backend) -> None:
    lines = backend.status()
    assert all(line.strip() and line.isprintable() for line in lines)
    if (shown := STATUS.get(backend.name)) is None:
        assert lines == [], "'lab compute status' shows this machine itself"
    else:
        assert not lines[0].startswith(" ") and all(line.startswith("  ") for line in lines[1:])
        assert re.search(shown, "\n".join(lines[1:]))


def test_limits_on_trials_and_calls_are_respected(backend: Backend, workspace: Path) -> None:
    default, limited = composed_compute(backend), composed_compute(backend, max_parallel=2)

    def trials(wanted: int | None, compute: Compute) -> int:
        parallel = backend.capacity([(1, 0)] * 50, compute).parallel
        plan = Plan(backend.name, [], [], [], str(workspace), "test", {}, parallel)
        return backend.trials(wanted, plan, compute)

    assert trials(1, default) == 1 and 1 <= trials(50, default) <= 50
    assert 1 <= trials(None, default) <= max(10, machine.cores()), "later trials learn from earlier ones"
    assert trials(5, limited) == trials(None, limited) == (1 if backend.in_process else 2)
    try:
        backend.calls(workspace / "calls", default, []).close()
    except ConfigError as refused:
        assert "executes only labrun's own runs" in str(refused) and backend.room(default) == 1
    else:
        assert backend.room(default) == trials(None, default) and backend.room(limited) == 2


def test_unusable_folders_are_refused(backend: Backend, workspace: Path) -> None:
    folders = {name: workspace / "multirun" / name for name in ("plain", "a b", "half%j", "sent")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    links.write(folders["sent"], Link("other", "w", "w/sent", state=links.STARTED, runs=["0"]))
    freeze.submit(new("aaaa0000"), folders["sent"] / "0")
    found = {name: backend.folder_problem(path / "0", composed_compute(backend)) for name, path in folders.items()}
    refused = {name: why for name, why in found.items() if why is not None}
    assert set(refused) == UNUSABLE_FOLDERS.get(backend.name, set())
    assert all(str(folders[name]) in why for name, why in refused.items())


def test_runs_with_what_a_backend_lacks_are_refused(backend: Backend, workspace: Path) -> None:
    (run_dir,) = sweep(backend, workspace / "multirun" / "test" / "usual", [[0]])
    record = read_record(run_dir)
    assert list(backend.run_problems(record)) == []
    record = dataclasses.replace(record, config={**record.config, "script": {**record.config["script"], **OWN_PYTHON}})
    expected = [f"script.python={sys.executable} is an interpreter of this machine"] if backend.is_remote else []
    problems = list(backend.run_problems(record))
    assert [problem.partition(":")[0] for problem in problems] == expected


def test_a_finished_runs_pictures_are_drawn_or_declined(backend: Backend, workspace: Path) -> None:
    folder = workspace / "multirun" / "test" / "drawn"
    (run_dir,) = sweep(backend, folder, [[0]])
    with Recording(run_dir, capture=False):
        for step in range(3):
            RunContext(run_dir).log("loss", 1.0, step=step)
    assert list((run_dir / "outputs").glob("*.png")) == []
    executor = backend.executor(folder, read_plan(folder), 1)
    try:
        is_drawn = executor.draw(run_dir)
    finally:
        executor.close()
    assert bool(is_drawn) == (backend.name in DRAWING) == any((run_dir / "outputs").glob("*.png"))


def test_each_run_is_executed_once_and_a_failure_affects_no_other(backend: Backend, workspace: Path) -> None:
    """Takes over 15 s on Slurm, whose jobs begin when its scheduler looks."""
    folder = workspace / "multirun" / "test" / "first"
    runs: list[list[Any] | str] = [[0], "failing" if backend.in_process else [0, "raises"], [0.1]]
    if not backend.in_process:
        runs.append([0, "killed"])
    run_dirs = sweep(backend, folder, runs, "+compute.environment.OWN=zq-of-its-own")
    os.environ["OWN"] = "zq-of-its-own"
    seen = run_controller(folder)
    assert sorted(run_dir for run_dir, _ in seen.ends) == sorted(path.resolve() for path in run_dirs)
    found = [read_record(run_dir) for run_dir in run_dirs]
    assert [one.status for one in found][:3] == ["completed", "failed", "completed"]
    assert found[1].error is not None and "as it was told to" in found[1].error.message
    assert all(len(one.attempts) == 1 for one in found)
    assert "VARIABLE zq-of-its-own" in (run_dirs[0] / "driver.log").read_text() or backend.in_process
    if not backend.in_process:
        assert found[3].status == "failed" and found[3].error is not None and found[3].error.type == "Killed"
    again = run_controller(folder)
    assert again.ends == [] and all(len(read_record(run_dir).attempts) == 1 for run_dir in run_dirs)


def test_a_runs_resource_use_is_measured_from_outside(backend: Backend, workspace: Path) -> None:
    """Even if the run ends before the first value is due. Takes over 15 s on Slurm, as above."""
    folder = workspace / "multirun" / "test" / "measured"
    run_dirs = sweep(backend, folder, [[2.5], [0.4]], "tracking.system=true", "tracking.system_every_s=1")
    run_controller(folder)
    for run_dir, least in zip(run_dirs, (2, 1), strict=True):
        found = context.system_values(run_dir)
        assert len(found["system/memory_gb"]) >= least and found["system/memory_gb"][0] > 0.01
        assert len(found["system/disk_free_gb"]) == len(found["system/disk_gb"]) >= least
        assert all(0 <= cores < 64 for cores in found.get("system/cpu", []))
        record = read_record(run_dir)
        assert record.status == "completed" and not any(name.startswith("system/") for name in record.metrics)
        lines = [line for line in context.read_metrics(run_dir, system=True) if context.is_system(line)]
        assert {line["attempt"] for line in lines} == {1} and context.bad_lines(run_dir) == 0
        assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)


def test_requests_to_cancel_are_obeyed(backend: Backend, workspace: Path) -> None:
    """Takes over 15 s on Slurm, whose jobs begin when its scheduler looks."""
    folder = workspace / "multirun" / "test" / "second"
    runs = [[0 if backend.in_process else 90], [0]]
    run_dirs = sweep(backend, folder, runs, *([] if backend.in_process else ["compute.max_parallel=1"]))

    def ask() -> None:
        finalize.request(run_dirs[1], "nobody wants it")
        if not backend.in_process:
            wait_for(lambda: read_record(run_dirs[0]).status == RUNNING)
            finalize.request(run_dirs[0], "nobody wants it")

    if backend.in_process:
        ask()
    asking = threading.Thread(target=ask)
    asking.start()
    began = time.monotonic()
    run_controller(folder)
    asking.join()
    first, second = (read_record(run_dir) for run_dir in run_dirs)
    assert second.status == "canceled" and not second.attempts and second.reason == "canceled before it began"
    assert first.status == ("completed" if backend.in_process else "canceled")
    assert first.reason is None or "before it began" not in first.reason
    assert time.monotonic() - began < 80


def test_a_failed_run_is_retried_as_often_as_requested(backend: Backend, workspace: Path) -> None:
    folder = workspace / "multirun" / "test" / "third"
    if not backend.supervises:
        with pytest.raises(ConfigError, match="no supervisor"):
            sweep(backend, folder, [[0]], "compute.retries=1")
        return
    (run_dir,) = sweep(backend, folder, [[0, "second"]], "compute.retries=1")
    run_controller(folder)
    record = read_record(run_dir)
    assert record.status == "completed" and len(record.attempts) == 2


def test_each_run_is_executed_once_even_if_the_controller_dies(backend: Backend, workspace: Path) -> None:
    """Takes over 15 s: a separate controller imports, is killed, and another one finds the remaining runs."""
    folder = workspace / "multirun" / "test" / "fourth"
    run_dirs = sweep(backend, folder, [[4.0], [0.1]])
    code = (
        "import sys; from pathlib import Path; from labrun.control import controller\n"
        "class View:\n    def update(self, running=True): pass\n    def ended(self, run_dir, record): pass\n"
        "controller.run(Path(sys.argv[1]), View())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], start_new_session=True)
    wait_for(lambda: read_record(run_dirs[0]).status == RUNNING)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    attached = {path.resolve() for path in backend.attached(folder)}
    assert (run_dirs[0].resolve() in attached) == backend.outlives_controller
    shown = StatusResolver()(run_dirs[0], read_record(run_dirs[0]))
    assert shown in (RUNNING, UNREACHABLE) if backend.outlives_controller else shown
    run_controller(folder)
    found = [read_record(run_dir) for run_dir in run_dirs]
    assert [one.status for one in found] == ["completed", "completed"]
    ends = [[attempt.status for attempt in one.attempts] for one in found]
    assert all(one.count("completed") == 1 for one in ends)
    assert len(ends[0]) == (1 if backend.outlives_controller else 2)


def test_runs_that_no_controller_polls_can_be_canceled(backend: Backend, workspace: Path) -> None:
    """Takes over 15 s on Slurm, whose jobs begin when its scheduler looks."""
    folder = workspace / "multirun" / "test" / "fifth"
    (run_dir,) = sweep(backend, folder, [[90]])
    assert backend.is_over("0") in (None, True) and backend.release(folder, set) == []
    if not backend.outlives_controller:
        assert backend.cancel_unpolled(folder, run_dir) is None and backend.attached(folder) == set()
        assert end_runs([run_dir], patience_s=5.0) == [] and read_record(run_dir).status == "canceled"
        return
    executor = backend.executor(folder, read_plan(folder), 1)
    executor.submit(run_dir, resources(read_record(run_dir)))
    executor.poll(0)
    wait_for(lambda: executor.poll(0) == [] and read_record(run_dir).status == RUNNING)
    executor.close()
    job = read_record(run_dir).job
    assert job is not None and registry.of_job(job) is backend and backend.is_over(job.id) is False
    assert backend.attached(folder) == {run_dir}
    assert end_runs([run_dir], patience_s=60.0) == [] and read_record(run_dir).status == "canceled"
    wait_for(lambda: backend.is_over(job.id) is True)
    assert backend.attached(folder) == set()


def test_a_package_adds_a_backend(toy: None, lab_here: Command, workspace: Path) -> None:
    assert "An interpreter of its own for each run. Here: " in lab_here("compute", "ls").stdout
    script = ("experiment=script", "script.path=script/sleep.py", "compute=one_process_each", "tracking=none")
    done, refused = run_cold(
        ["-m", *script, "+script.positional=[0],[0.1]"],
        ["-m", *script, "compute.timeout_min=1,2"],
        imports=["labrun.app.hydra_changes", "labrun.control.controller", "labrun.submission.submit"],
        cwd=workspace,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert [one.status for one in found] == ["completed"] * 2
    assert {one.config["compute"]["target"] for one in found} == {"one_process_each"}
    assert refused.returncode == 2 and "compute.timeout_min=1: one_process_each does not hold runs" in refused.stderr


def test_a_broken_backend_package_is_reported_only_when_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.py").write_text(
        "from labrun.backends.base import Backend\nclass Half(Backend):\n    name = 'half'\n"
    )
    (tmp_path / "half-1.0.dist-info").mkdir()
    (tmp_path / "half-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1.0\n")
    (tmp_path / "half-1.0.dist-info" / "entry_points.txt").write_text("[labrun.backends]\nhalf = half:Half\n")
    with installed(tmp_path, registry.forget, monkeypatch):
        with pytest.raises(ConfigError, match="its package fails: TypeError: Can't instantiate abstract class Half"):
            registry.get("half")
        assert [one.name for one in registry.all_known()] == ["inline", "local", "slurm", "remote"]


def test_only_backends_that_start_early_are_checked_early(
    workspace: Path, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster is asked once per sweep, so a trial does not fail because a partition is down for a moment."""
    asked: list[str] = []
    monkeypatch.setattr(registry, "check", lambda compute, sweep: asked.append(compute.target))
    for target, count in (("slurm", 0), ("inline", 0), ("local", 1)):
        with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
            typed = [
                f"compute={target}",
                "experiment=script",
                "script.path=script/sleep.py",
                "tracking=none",
                "hydra.sweep.dir=sweep",
                "hydra.sweep.subdir=0",
                "hydra.job.num=0",
            ]
            config = compose("config", typed, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        asked.clear()
        with submit.Freezer(workspace / "sweep") as freezer:
            for _ in range(2):
                freezer.freeze(config)
        assert len(asked) == count, target


@pytest.mark.parametrize("name, former", [("local/forkserver.py", "forkserver.py"), ("slurm/job.py", "cluster_job.py")])
def test_code_frozen_in_the_old_layout_is_found(name: str, former: str, tmp_path: Path) -> None:
    old = tmp_path / "labrun" / "launch" / former
    old.parent.mkdir(parents=True)
    old.touch()
    assert frozen_file([str(tmp_path)], name) == old
    assert frozen_file([], name).is_file()


def test_an_unknown_backend_is_refused_with_the_known_ones(toy: None) -> None:
    with pytest.raises(
        ConfigError, match=r"compute.target='slrum': expected one of auto, inline, local, slurm, one_process"
    ):
        registry.get("slrum")
