"""Runs of several processes on a real Slurm cluster."""

from __future__ import annotations

from pathlib import Path

from conftest import Command
from helpers import lab, wait_for
from labrun.runs.context import read_metrics
from labrun.runs.record import Record
from slurm_jobs import NETWORK, SLURM, all_records, begin, finished, no_jobs_left, single, squeue, write_failing

__all__ = ["no_jobs_left"]


SECOND = """
import os, time

rank = os.environ.get("SLURM_PROCID")
if rank == "1":
    while not os.path.exists("waiting"):
        time.sleep(0.1)
    raise ValueError("an error of rank one")
if rank == "0":
    if "LABRUN_RUN_DIR" not in os.environ:
        raise ImportError("by the server, which leaves it to the run")
    open("waiting", "w").close()
    time.sleep(600)
"""
"""Beginning of a module that fails in rank 1 while rank 0 waits for it, as if to train; neither imports PyTorch."""


def test_an_error_of_the_second_process_is_reported(workspace: Path, labrun: Command) -> None:
    """An error during training is tested with the pool, in `tests/tasks/test_loaders.py`."""
    write_failing(workspace, SECOND)
    done = labrun(*SLURM, "model=failing", "compute.nodes=2")
    assert done.returncode == 1, done.stdout + done.stderr
    record = single(workspace)
    assert record.status == "failed" and "an error of rank one" in record.error.message


FIRST = """
import os, time

job = os.environ.get("SLURM_JOB_ID", "")
if job and not os.path.lexists("first"):
    try:
        os.symlink(job, "first")
    except FileExistsError:
        pass  # by the other process
if job and os.readlink("first") == job:
    if os.environ["SLURM_PROCID"] == "1":
        time.sleep(600)
    raise ValueError("the first attempt fails")
"""
"""Beginning of a module that fails in rank 0 of its first job, while rank 1 hangs; it imports no PyTorch until then."""


def test_a_run_of_several_processes_is_retried(workspace: Path, labrun: Command) -> None:
    """Over 15 s: two processes import PyTorch on the machine's cores."""
    write_failing(workspace, FIRST)
    done = labrun(
        *SLURM,
        "model=failing",
        "compute.tasks_per_node=2",
        "trainer.batch_size=64",
        "trainer.max_epochs=1",
        "compute.retries=1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = single(workspace)
    assert [attempt.status for attempt in record.attempts] == ["failed", "completed"]
    assert "the first attempt fails" in record.attempts[0].reason
    assert [record.config["compute"][key] for key in ("nodes", "tasks_per_node")] == [1, 2]
    check_training(record, *workspace.glob("outputs/[!.]*/*"))


WAITING = """
import os, time
from pathlib import Path

rank = os.environ.get("SLURM_PROCID")
if rank is not None:  # in the job
    Path(f"waiting-{rank}").touch()
    while rank == "1" or not list(Path().glob("outputs/*/*/requests/cancel")):
        time.sleep(0.1)
    raise ImportError("canceled")
from pytorch_lightning import LightningModule as Waiting
"""
"""Source of a network that rank 0 has imported only when its run is canceled, and rank 1 never."""


def test_canceling_a_run_on_two_nodes_before_training_ends_its_job(workspace: Path) -> None:
    """Otherwise the second process would wait for the first one, and keep the job alive."""
    (workspace / "waiting.py").write_text(WAITING)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "waiting.yaml").write_text("_target_: waiting.Waiting\n")
    run = begin(workspace, *SLURM, "model=waiting", "compute.nodes=2")
    wait_for(lambda: len(list(workspace.glob("waiting-?"))) == 2, 120)
    lab(workspace, "runs", "cancel", "last")
    finished(run)
    assert run.returncode == 130 and single(workspace).status == "canceled"
    wait_for(lambda: not squeue(), 60)


def test_processes_on_two_nodes_train_a_run_of_a_sweep(workspace: Path, labrun: Command) -> None:
    """Over 15 s: two processes import PyTorch on the machine's cores."""
    done = labrun("-m", *NETWORK, "trainer.max_epochs=2", "compute.timeout_min=5", "compute.nodes=2")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = all_records(workspace)
    assert record.status == "completed" and len(record.attempts) == 1
    assert [record.config["compute"][key] for key in ("nodes", "tasks_per_node")] == [2, 1]
    check_training(record, *workspace.glob("multirun/*/*/[0-9]"))


def check_training(record: Record, folder: Path) -> None:
    """Check that both processes of a run have trained it, and that only the first one has recorded it."""
    assert "accuracy" in record.metrics
    assert "MEMBER: 1/2" in (folder / "driver.log").read_text()
    assert "MEMBER: 2/2" in (folder / "driver.1.log").read_text()
    lines = [(line["name"], line["step"]) for line in read_metrics(folder)]
    assert len(lines) == len(set(lines)), "both processes wrote"
