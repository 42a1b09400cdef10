"""System metrics of runs: measured by another process, on separate lines, at low cost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers import Completed, new, submitted, wait_for
from labrun.api.handles import Run
from labrun.runs import context, finalize, nvml, processes, system_metrics
from labrun.runs.context import RunContext
from labrun.runs.record import FAILED, read_record
from labrun.runs.status import EndReason
from labrun.runs.system_metrics import Cpu, SystemMetrics, Watched

BUSY = """
import subprocess, sys, time
BURN = "import time\\nwhile time.process_time() < {}: pass\\n"
EASE = "while True: time.sleep(0.05 + 0 * sum(range(1_000_000)))"  # a fifth of a core for the tests that follow
subprocess.run([sys.executable, "-c", BURN.format(0.2)])  # one that has ended
child = subprocess.Popen(
    [sys.executable, "-c", "x = bytearray(50 * 2**20)\\nprint(1, flush=True)\\n" + BURN.format(1.5) + EASE],
    stdout=subprocess.PIPE,
)
child.stdout.readline()  # its memory grows no more
print("there", flush=True)
time.sleep(3600)
"""


@contextlib.contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that prints `there` when it is ready; it is ended with all of its children."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def busy() -> Iterator[int]:
    """A process that sleeps, and has a busy child."""
    with running(BUSY) as process:
        yield process.pid


def a_run(tmp_path: Path, pid: int = 0) -> Path:
    """A run, the first attempt of which that process has claimed."""
    run_dir = submitted(tmp_path)
    (run_dir / "attempts").mkdir()
    (run_dir / "attempts" / "1").write_text(json.dumps({"pid": pid or os.getpid()}))
    return run_dir


def test_a_process_tree_includes_ended_children(busy: int) -> None:
    own = psutil.Process(busy)
    tree = [own, *own.children(recursive=True)]
    assert sorted(processes.tree(busy)) == sorted(processes._tree_of_all(busy, None)) == sorted(p.pid for p in tree)
    assert list(processes.tree(busy, without=tree[1].pid)) == [busy]
    start = processes.stat(busy)
    assert start is not None
    used = processes.usage(busy, start.start)
    assert used is not None and used.cpu_s >= 0.2
    assert used.memory == pytest.approx(sum(p.memory_info().rss for p in tree), rel=0.05)
    before, began = sum(sum(p.cpu_times()[:4]) for p in tree), time.monotonic()
    cpu = Cpu(used.cpu_s, began)
    time.sleep(1.0)
    again = processes.usage(busy, start.start)
    now, after = time.monotonic(), sum(sum(p.cpu_times()[:4]) for p in tree)
    assert again is not None
    assert cpu.cores(again.cpu_s, now) == pytest.approx((after - before) / (now - began), abs=0.1)


def test_a_process_with_a_reused_pid_is_not_measured(busy: int) -> None:
    assert processes.usage(busy, start=1) is None and processes.stat(2**22 + 1) is None


def test_open_files_of_a_process_tree_are_found(busy: int) -> None:
    assert processes.has_open(busy, "/dev/null") or processes.has_open(busy, "pipe:")
    assert not processes.has_open(busy, "/dev/nvidia")


def test_a_momentary_gap_in_processor_time_makes_no_peak() -> None:
    cpu = Cpu(10.0, 0.0)
    assert cpu.cores(10.01, 0.05) is None  # too soon to tell
    assert cpu.cores(20.0, 10.0) == pytest.approx(1.0)
    assert cpu.cores(15.0, 20.0) is None  # a child is dead, but not yet waited for
    assert cpu.cores(40.0, 30.0) == pytest.approx(1.0)  # over both
    assert cpu.cores(5.0, 40.0) is None and cpu.cores(6.0, 50.0) == 0.0  # its parent never waits for it
    assert cpu.cores(16.0, 60.0) == pytest.approx(1.0)


class Driver:
    """Stands in for NVIDIA's library: two devices, the second of which reports only its memory."""

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[Any] = []
        self._fails = fails

    def nvmlInit_v2(self) -> int:
        return int(self._fails)

    def nvmlShutdown(self) -> int:
        self.asked.append("shutdown")
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        self.asked.append(index.value)
        handle._obj.value = 1 + index.value
        return int(index.value > 1)

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        self.asked.append(name)
        handle._obj.value = 1
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        rates._obj.gpu = 75
        return 0 if handle.value == 1 else 3

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.used = handle.value * 2**30
        return 0


def test_gpus_are_measured_in_the_runs_order() -> None:
    driver = Driver()
    gpus = nvml.Gpus(["1", "GPU-abc", "7"], driver)
    assert [(one.busy, one.memory) for one in gpus.read()] == [(None, 2 * 2**30), (0.75, 2**30), (None, None)]
    assert driver.asked == [1, b"GPU-abc", 7]
    assert len(nvml.Gpus(None, Driver()).read()) == 2
    assert (
        len(nvml.Gpus([], driver)) == len(nvml.Gpus(None, Driver(fails=True))) == len(nvml.Gpus(["0"], object())) == 0
    )
    gpus.close()
    assert driver.asked[-1] == "shutdown"
    assert [list(nvml.listed(text)) for text in ("0, 2", "", "1,-1,2", "NoDevFiles")] == [["0", "2"], [], ["1"], []]


class OneGpu:
    """As `nvml.Gpus`."""

    def read(self) -> list[nvml.Load]:
        return [nvml.Load(0.5, 2**30)]


def test_a_run_without_a_gpu_has_no_gpu_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(nvml, "Gpus", lambda names: opened.append(names) or OneGpu())
    assert system_metrics.Gpus(os.getpid(), None).read() == {} and opened == []
    given = system_metrics.Gpus(os.getpid(), ["3"])
    assert given.read() == {"gpu0": 0.5, "gpu0_memory_gb": 1.0} and opened == [["3"]]
    monkeypatch.setattr(system_metrics, "DRIVER", os.devnull)  # there are some, and the process has one open
    monkeypatch.setattr(system_metrics, "DEVICES", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    unsaid = system_metrics.Gpus(os.getpid(), None)
    assert unsaid.read() == {}
    with open(tmp_path / "nvidia0", "w"):
        assert unsaid.read() == {"gpu0": 0.5, "gpu0_memory_gb": 1.0} and opened[-1] == ["2", "5"]


def test_system_metrics_are_read_only_on_request(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    run = RunContext(run_dir)
    run.log("system/cpu", 7.0)  # a run may have a metric of any name
    context.log_system(run_dir, 1, 3, {"system/cpu": 0.5, "system/memory_gb": 1.5})
    context.log_system(run_dir, 2, 13, {"system/cpu": 0.25})
    run.close()
    assert [(line["name"], line["value"]) for line in context.read_metrics(run_dir)] == [("system/cpu", 7.0)]
    assert context.last_values(run_dir) == {"system/cpu": 7.0}
    assert context.system_values(run_dir) == {"system/cpu": [0.5, 0.25], "system/memory_gb": [1.5]}
    assert len(context.read_metrics(run_dir, system=True)) == 4
    assert Run(run_dir).get_metrics() == {"system/cpu": 7.0} and Run(run_dir).get_metrics("system/memory_gb") == {
        "system/memory_gb": 1.5
    }


def test_a_killed_runs_record_has_no_system_metrics(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    RunContext(run_dir).log("loss", 1.0)
    context.log_system(run_dir, 1, 3, {"system/cpu": 0.5})
    record = finalize.close(run_dir, read_record(run_dir), FAILED, EndReason.KILLED, "killed")
    assert record.metrics == {"loss": 1.0} and read_record(run_dir).metrics == {"loss": 1.0}


def test_run_and_supervisor_write_at_the_same_time(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    code = f"""
from labrun.runs.context import RunContext
run = RunContext({str(run_dir)!r})
for step in range(8_000):
    run.log("loss", step, step)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    count = 0
    while process.poll() is None:
        context.log_system(run_dir, 1, count, {"system/cpu": 0.5, "system/memory_gb": 1.0})
        count += 1
    assert context.bad_lines(run_dir) == 0 and count > 10
    assert [line["value"] for line in context.read_metrics(run_dir)] == list(range(8_000))
    assert len(context.system_values(run_dir)["system/cpu"]) == count


def test_a_run_that_ends_at_once_has_one_sample(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], **streams)
    (run_dir / "attempts" / "1").write_text(json.dumps({"pid": process.pid}))
    assert process.stdout is not None and process.stdout.readline()  # until then it may have no memory of its own
    system = SystemMetrics()
    system.watch(run_dir, process.pid, 10)
    process.communicate(b"\n")
    system.forget(run_dir)
    found = context.system_values(run_dir)
    assert len(found["system/memory_gb"]) == len(found["system/disk_free_gb"]) == 1
    system.close()
    assert context.system_values(run_dir) == found


def test_a_long_run_is_measured_until_it_ends(tmp_path: Path, busy: int) -> None:
    run_dir, system = a_run(tmp_path, busy), SystemMetrics()
    (run_dir / "outputs" / "file").write_bytes(b"x" * 2**20)
    system.watch(run_dir, busy, 1)
    wait_for(lambda: len(context.system_values(run_dir).get("system/cpu", [])) > 1)
    found = context.system_values(run_dir)
    assert found["system/cpu"][0] > 0.01 and found["system/memory_gb"][0] > 50 / 1024
    assert found["system/disk_gb"][0] >= 2**20 / 2**30
    system.close()
    count = len(found["system/cpu"])
    time.sleep(1.5)
    assert len(context.system_values(run_dir)["system/cpu"]) <= count + 1


def test_system_metrics_begin_and_end_with_the_attempt(tmp_path: Path) -> None:
    """Nothing is written before the process has claimed its attempt, or after another one has taken over the run."""
    run_dir = a_run(tmp_path, pid=1)
    watched = Watched(run_dir, os.getpid(), 10)
    watched._next, watched._times = system_metrics.FIRST_S, iter((11.0, 21.0, 31.0, 41.0))
    assert watched.measure() and context.system_values(run_dir) == {}
    (run_dir / "attempts" / "2").write_text(json.dumps({"pid": os.getpid()}))
    assert watched.measure()
    assert {line["attempt"] for line in context.read_metrics(run_dir, system=True)} == {2}
    (run_dir / "attempts" / "3").write_text(json.dumps({"pid": 1}))
    before = (run_dir / "metrics.jsonl").read_bytes()
    assert watched.measure() and (run_dir / "metrics.jsonl").read_bytes() == before


def test_measuring_takes_less_than_half_a_percent_of_a_core(tmp_path: Path, busy: int) -> None:
    """With one measurement every ten seconds, each may take 50 ms of processor time."""
    watched = Watched(a_run(tmp_path, busy), busy, 10)
    began = time.thread_time()
    for _ in range(20):
        watched._take(watched._usage())
        watched._write(1)
    assert (time.thread_time() - began) / 20 < 0.005 * 10


def test_a_large_folder_is_walked_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[Path] = []

    def slow(folder: Path) -> int:
        walks.append(folder)
        time.sleep(0.02)
        return 2**30

    monkeypatch.setattr(system_metrics, "_size", slow)
    disk = system_metrics.Disk(tmp_path)
    assert [disk.read()["disk_gb"] for _ in range(3)] == [1.0] * 3 and len(walks) == 1
    assert disk._next - time.monotonic() > 0.02 * system_metrics.WALK_SHARE / 2
    assert "disk_free_gb" not in system_metrics.Disk(tmp_path / "none").read()


def test_the_interval_of_measurements_is_configurable(refused_here: Any) -> None:
    config: dict[str, Any] = {"tracking": {"kind": "none", "system": True, "system_every_s": 2}}
    assert new(config=config).typed.measured_every_s == 2.0
    assert new(config={"tracking": {"system": False}}).typed.measured_every_s is None
    assert new().typed.measured_every_s is None  # of an older version
    assert "tracking.system_every_s=0.5" in refused_here("tracking.system=true", "tracking.system_every_s=0.5")


def test_system_metrics_of_a_script_include_its_children(labrun: Any, lab_here: Any, workspace: Path) -> None:
    """Inline, by the process beside the run; views show the values on request."""
    (workspace / "train.py").write_text(
        "import subprocess, sys, labrun\nlabrun.log('loss', 1.0, 0)\nlabrun.log('loss', 0.5, 1)\n"
        "burn = 'import time\\nx = bytearray(100 * 2**20)\\ntime.sleep(1)\\n'\n"
        "burn += 'while time.process_time() < 0.4: pass\\ntime.sleep(1)'\n"
        "subprocess.run([sys.executable, '-c', burn], check=True)\n"
    )
    words = ("experiment=script", "script.path=train.py", "tracking.system=true", "tracking.system_every_s=1")
    done: Completed = labrun(*words, "report=none")
    assert done.returncode == 0, done.stderr
    (run_dir,) = (workspace / "outputs" / "train").iterdir()
    found = context.system_values(run_dir)
    assert max(found["system/memory_gb"]) > 0.1 and max(found["system/cpu"]) > 0.01
    assert read_record(run_dir).metrics == {"loss": 0.5}
    shown = lab_here("runs", "show", "last").stdout
    row = next(line.split() for line in shown.splitlines() if line.startswith("  system/memory_gb"))
    assert row[2:4] == ["at", "most"] and float(row[4]) == pytest.approx(max(found["system/memory_gb"]), abs=1e-3)
    assert "at least" in next(line for line in shown.splitlines() if "system/disk_free_gb" in line)
    assert "system/" not in lab_here("runs", "metrics", "last").stdout
    assert "system/cpu" in lab_here("runs", "metrics", "last", "--name", "system/*").stdout
    assert "system/" not in lab_here("runs", "--csv").stdout.replace("tracking.system", "")
