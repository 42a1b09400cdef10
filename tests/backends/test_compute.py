"""Resources that a run requests and a machine has, and the refusal of requests that cannot be met."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from submitit.core.utils import FailedJobError

from conftest import Command, Refused, Runner
from helpers import devices, write_device_script
from labrun.backends import registry
from labrun.backends.local.server import serves
from labrun.backends.slurm import partitions, queue
from labrun.config.schema import Compute
from labrun.errors import ConfigError
from labrun.runs import machine, ownership
from labrun.runs.record import describe_host


def wish(**values: Any) -> Compute:
    return Compute(**{"target": "local", **values})


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("infinite", None), ("30:00", 30), ("1:30:00", 90), ("2-00:00:00", 2880), ("0:30", 0.5), ("n/a", None)],
)
def test_slurms_time_limits_are_parsed(limit: str, minutes: float | None) -> None:
    assert partitions._minutes(limit) == minutes


@pytest.mark.parametrize(
    ("gres", "count"), [("(null)", 0), ("gpu:2", 2), ("gpu:a100:4(S:0-1)", 4), ("gpu", 1), ("nvme:1,gpu:v100:8", 8)]
)
def test_slurms_gpu_counts_are_parsed(gres: str, count: int) -> None:
    assert partitions._gpus_of(gres) == count


def test_the_callers_devices_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert machine.visible_gpus() == ["3", "5"]
    registry.check(wish(gpus_per_run=2), sweep=True)
    with pytest.raises(ConfigError, match=r"gpus_per_run=3: 2 GPUs are visible here \(CUDA_VISIBLE_DEVICES='3,5'\)"):
        registry.check(wish(gpus_per_run=3), sweep=True)
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        with pytest.raises(ConfigError, match="no GPU is visible here"):
            registry.check(wish(gpus_per_run=1), sweep=True)


@pytest.mark.parametrize("target", registry.values())
@pytest.mark.parametrize("sweep", [False, True])
def test_the_pools_server_is_started_ahead_for_the_pools_runs(target: str, sweep: bool) -> None:
    assert serves(target) == (registry.unattended(wish(target=target), sweep).name == "local")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cpus_per_run": 4096}, "this machine has .* cores"),
        ({"mem_gb": 1e6}, "GB of memory"),
        ({"nodes": 2}, "only compute=slurm"),
        ({"partition": "main"}, "only compute=slurm"),
        ({"python": "/no/such/python"}, "no such program"),
        ({"target": "inline", "detach": True}, "an inline run has no supervisor"),
    ],
)
def test_unavailable_resources_are_refused_with_the_available_ones(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        registry.check(wish(**values), sweep=True)


def test_a_missing_cluster_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no sbatch on this machine"):
        registry.check(wish(target="slurm"), sweep=True)
    (tmp_path / "sbatch").touch(mode=0o755)
    (tmp_path / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    with pytest.raises(ConfigError, match="no cluster answers"):
        registry.check(wish(target="slurm"), sweep=True)


def test_a_missing_gpu_is_refused_before_anything_is_written(refused_here: Refused) -> None:
    for arguments in (("compute=gpu",), ("-m", "compute=gpu", "seed=1,2")):
        for visible in ("", "NoDevFiles"):
            assert "no GPU is visible here" in refused_here(*arguments, CUDA_VISIBLE_DEVICES=visible)


@pytest.mark.process
def test_gpus_are_read_from_the_drivers_tool(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = workspace / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, NVIDIA A, B'\necho '1, NVIDIA C'\necho 'a warning'\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(workspace), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpu_names() == [("0", "NVIDIA A, B"), ("1", "NVIDIA C")]
    assert machine.visible_gpus() == ["0", "1"] and describe_host().gpus == ["NVIDIA A, B", "NVIDIA C"]


def test_only_own_files_are_trusted(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.touch(mode=0o600)
    assert ownership.is_own(own.stat())
    own.chmod(0o662)
    assert not ownership.is_own(own.stat())
    if os.getuid() == 0:
        own.chmod(0o600)
        os.chown(own, 12345, 12345)
        assert not ownership.is_own(own.stat())


def test_each_run_sees_its_own_gpu(labrun_here: Command, workspace: Path) -> None:
    """The devices are only names; the test checks which run sees which."""
    words = write_device_script(workspace)
    done = labrun_here("-m", *words, "seed=1,2,3,4", "compute=gpu", CUDA_VISIBLE_DEVICES="3,5")
    assert done.returncode == 0, done.stdout + done.stderr
    found = devices(workspace)
    assert sorted(found) == ["3", "3", "5", "5"] and found[:2] != ["3", "3"] and found[:2] != ["5", "5"]


def test_another_interpreter_executes_the_runs(labrun: Command, workspace: Path) -> None:
    """It is started through a script, which tells it from this one."""
    import sys

    other = workspace / "other-python"
    other.write_text(f'#!/bin/sh\ntouch {workspace}/was-used\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    (workspace / "train.py").touch()
    words = ("experiment=script", "script.path=train.py", "tracking=none")
    done = labrun("-m", *words, "seed=1,2", f"compute.python={other}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workspace / "was-used").exists()


def test_interpolations_in_compute_are_resolved(run_here: Runner, refused_here: Refused, workspace: Path) -> None:
    """Resources are resolved when a run is submitted, and the lines of a job's setup when the job starts."""
    option = workspace / "conf" / "compute" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("# Mine.\ndefaults: [inline, _self_]\ncpus_per_run: ${oc.decode:${oc.env:CORES_WANTED}}\n")
    assert "variable CORES_WANTED is not set" in refused_here("compute=mine", "tracking=none")
    assert "cpus_per_run=4096: this machine" in refused_here("compute=mine", "tracking=none", CORES_WANTED="4096")
    os.environ["CORES_WANTED"] = "1"
    assert run_here("compute=mine")[0].config["compute"]["cpus_per_run"] == 1
    asked = Compute.of({"setup": ["echo ${oc.env:CORES_WANTED} \\${HOME}"], "environment": {"A": "${oc.env:B}"}})
    assert asked.setup == ["echo 1 ${HOME}"] and asked.environment == {"A": "${oc.env:B}"}


def test_sbatch_refuses_in_its_own_words() -> None:
    said = "sbatch: warning: slow\nsbatch: error: invalid partition\nsbatch: error: Batch job submission failed\n"
    told = "Slurm refused the jobs: sbatch: error: invalid partition sbatch: error: Batch job submission failed"
    assert queue.refusal(FailedJobError(said)) == told
    assert queue.refusal(FailedJobError("no sbatch here\n")) == "Slurm refused the jobs: no sbatch here"


def test_the_last_lines_of_a_call_are_those_of_its_program(tmp_path: Path) -> None:
    output = tmp_path / "log.err"
    job = SimpleNamespace(paths=SimpleNamespace(stderr=output))
    calls = registry.get("local").calls(tmp_path, wish(target="local"), [])
    try:
        assert calls.last_lines(job) == ""
        output.write_text("first\nsecond\n\n  third\n\n")
        assert calls.last_lines(job) == queue.last_lines(output) == "second; third"
    finally:
        calls.close()
    output.write_text("second\nthird\nslurmstepd: error: *** JOB 7 CANCELLED ***\n")
    assert queue.last_lines(output) == "second; third"
