"""Options passed to sbatch, and refusals before it is called. No job runs in these tests."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Refused
from helpers import submitted
from labrun.backends.base import resources
from labrun.backends.slurm import backend, partitions, sbatch
from labrun.config.schema import Compute
from labrun.runs.record import read_record
from labrun.runs.sweep_state import SweepState
from slurm_jobs import SLURM, squeue

COMMANDS = ("sbatch", "sinfo", "squeue", "sacct", "sacctmgr", "scontrol", "scancel", "srun")
Submit = Callable[..., list[dict[str, str]]]


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """What a process asks the cluster once, it asks anew."""
    partitions._accounting.cache_clear()
    partitions.largest_array.cache_clear()
    yield
    partitions._accounting.cache_clear()
    partitions.largest_array.cache_clear()


@pytest.fixture
def fake_slurm(workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that answer like a cluster of four nodes; it keeps each job's batch file."""
    folder = tmp_path_factory.mktemp("fake")
    for name in COMMANDS:
        (folder / name).symlink_to(Path(__file__).with_name("fake-slurm"))
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


@pytest.fixture
def submit(fake_slurm: Path, workspace: Path) -> Submit:
    """Submit runs with these settings together; return the options in the batch file of each array or job."""

    def run(*wishes: dict[str, Any]) -> list[dict[str, str]]:
        pool = backend.SlurmJobs(backend.JobSettings(SweepState(workspace), "nice", [], [], str(workspace)))
        for number, wish in enumerate(wishes):
            compute = {**dataclasses.asdict(Compute(target="slurm")), **wish}
            run_dir = submitted(workspace, f"a000000{number}", config={"compute": compute, "report": "none"})
            pool.submit(run_dir, resources(read_record(run_dir), compute["environment"]))
        pool.poll(0)
        found = []
        for path in sorted(fake_slurm.glob("*.sh")):
            lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", path.read_text(), re.M)
            found.append({key: value.strip("'\"") for key, value in lines})
        return found

    return run


def test_runs_with_equal_resources_form_an_array(submit: Submit) -> None:
    first, second = submit(*({"cpus_per_run": cpus, "max_parallel": 4} for cpus in (1, 1, 1, 2)))
    assert (first["array"], first["cpus-per-task"]) == ("0-2%3", "1")
    assert "array" not in second and second["cpus-per-task"] == "2"
    assert first["job-name"] == second["job-name"] == "nice"
    assert first["comment"] != second["comment"], "each submission has its own token"


def test_one_limit_holds_for_all_arrays_of_a_sweep(submit: Submit) -> None:
    (first,) = submit(*({"cpus_per_run": cpus, "max_parallel": 2} for cpus in (1, 1, 1, 2)))
    assert first["array"] == "0-2%2", "the run with other resources waits"


def test_packed_runs_share_the_resources_of_their_job(submit: Submit) -> None:
    wish = {"runs_per_job": 4, "mem_gb": 1, "gpus_per_run": 1, "runs_per_gpu": 2}
    (asked,) = submit(wish, wish, wish, wish)
    # a node has two cores
    assert (asked["cpus-per-task"], asked["mem"], asked["gpus-per-node"]) == ("2", "2048MB", "1")


def test_processes_of_a_run_share_its_gpus(submit: Submit) -> None:
    (asked,) = submit({"gpus_per_run": 2, "tasks_per_node": 2})
    assert (asked["gpus-per-node"], asked["ntasks-per-node"]) == ("2", "2")


def test_a_job_requests_more_time_than_its_runs_limit(submit: Submit) -> None:
    """Time to start and to save is added, since Slurm warns up to a minute early."""
    (asked,) = submit({"timeout_min": 1})
    assert asked["time"] == "3" and asked["signal"] == "USR2@15"


@pytest.mark.parametrize(
    ("by", "variable", "answer"),
    [
        ("partition", "FAKE_SINFO", "brief*|up|4|2|4096|gpu:2|1:00\n"),
        ("qos", "FAKE_QOS", "normal|\nbrief|00:01:00"),
    ],
)
def test_a_job_requests_at_most_the_clusters_time_limit(
    submit: Submit, monkeypatch: pytest.MonkeyPatch, by: str, variable: str, answer: str
) -> None:
    monkeypatch.setenv(variable, answer)
    (asked,) = submit({"timeout_min": 1, by: "brief"})
    assert (asked["time"], asked[by]) == ("1", "brief")


def test_variables_are_exported_and_written_to_no_file(fake_slurm: Path, submit: Submit) -> None:
    (asked,) = submit({"environment": {"FIRST": "its value"}, "extra": {"export": "NONE"}})
    assert asked["export"] == "FIRST"
    assert "its value" not in "".join(
        path.read_text() for path in fake_slurm.iterdir() if path.suffix in (".sh", ".argv")
    )


LISTED = {
    "partition": ("compute.partition=nonsuch", "There are: main"),
    "one of two partitions": ("compute.partition='main,nowhere'", "there is no such partition"),
    "cores": ("compute.cpus_per_run=64", "has 2 cores at most"),
    "GPUs": ("compute.gpus_per_run=9", "has 2 GPUs at most"),
    "memory": ("compute.mem_gb=500", "has 4.0 GB"),
    "nodes": ("compute.nodes=99", "has 4 nodes"),
    "number of tasks": ("+compute.extra.ntasks=2", "compute.extra.ntasks: labrun sets this option"),
    "only a test": ("+compute.extra.test-only=null", "compute.extra.test-only: labrun sets this option"),
}


@pytest.mark.parametrize("name", LISTED)
def test_resources_that_the_cluster_lacks_are_refused(fake_slurm: Path, refused_here: Refused, name: str) -> None:
    wish, words = LISTED[name]
    assert words in refused_here("compute=slurm", "model=mnist_dnn", wish, "tracking=none")
    assert not list(fake_slurm.glob("*.sh"))


@pytest.mark.parametrize(
    ("nodes", "is_final"),
    [("idle\nmixed-\nallocated\nplanned", True), ("idle\ndown*", False), ("idle\ndrained", False)],
)
def test_a_missing_node_is_refused_only_if_all_nodes_are_up(
    fake_slurm: Path, monkeypatch: pytest.MonkeyPatch, nodes: str, is_final: bool
) -> None:
    """While a node is down, sbatch gives the same answer for that node's resources."""
    monkeypatch.setenv("FAKE_NODES", nodes)
    monkeypatch.setenv("FAKE_REFUSAL", "allocation failure: Requested node configuration is not available")
    compute = Compute("slurm", extra={"gres": "gpu:a100:1"})
    told = list(partitions._refused_by_sbatch(compute))
    assert [line.rpartition(": ")[2] for line in told] == ["Requested node configuration is not available"] * is_final


def test_several_nodes_are_refused_for_models_other_than_networks(fake_slurm: Path, refused_here: Refused) -> None:
    assert "model=logistic_regression" in refused_here("compute=slurm", "compute.nodes=2", "tracking=none")


UNKNOWN = {
    "constraint": (["+compute.extra.constraint=nonsuch"], "constraint=nonsuch: sbatch refuses it: Invalid feature"),
    "kind of GPU": (["+compute.extra.gres='gpu:a100:1'"], "gres=gpu:a100:1: sbatch refuses it: Requested node conf"),
    "option": (["+compute.extra.no_such_option=1"], "sbatch refuses it: unrecognized option '--no-such-option=1'"),
    "two kinds of memory": (["compute.mem_gb=1", "+compute.extra.mem_per_cpu=500"], "mutually exclusive"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_refusals_of_sbatch_are_reported_in_its_words(cluster: None, refused_here: Refused, name: str) -> None:
    wishes, words = UNKNOWN[name]
    assert words in refused_here(*SLURM, *wishes)
    assert not squeue()


@pytest.mark.parametrize("by", ["partition", "qos"])
def test_time_limits_are_read_from_the_cluster(cluster: None, by: str) -> None:
    name = f"brief{os.getpid()}"
    made = ["scontrol", "create", f"partitionname={name}", "nodes=ALL", "maxtime=1", "priorityjobfactor=1"]
    gone = ["scontrol", "delete", f"partitionname={name}"]
    if by == "qos":
        made = ["sacctmgr", "-i", "add", "qos", name, "maxwall=1"]
        gone = ["sacctmgr", "-i", "delete", "qos", name]
    subprocess.run(made, check=True, capture_output=True)
    try:
        compute = Compute.of({"target": "slurm", "timeout_min": 1, by: name})
        assert sbatch.minutes_asked(compute, 1) == 1
    finally:
        subprocess.run(gone, check=True, capture_output=True)
