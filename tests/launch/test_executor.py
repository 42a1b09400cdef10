"""The pool as a submitit executor, and plain Hydra applications through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from helpers import wait_for
from labrun.errors import LabrunError
from labrun.launch.executor import LabrunExecutor

APPLICATION = """
import os, sys, time
import hydra

@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(config):
    print("LOADED", sorted({"torch", "mlflow", "sklearn", "pytorch_lightning"} & set(sys.modules)), flush=True)
    if config.x == 3:
        os._exit(9)
    if config.x == 4:
        raise ValueError("four is too many")
    return config.x

if __name__ == "__main__":
    main()
"""


def dies(how: str) -> None:
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), 11)


def threads() -> str | None:
    sys.stderr.write("on standard error\n")
    return os.environ.get("OMP_NUM_THREADS")


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Callable[..., LabrunExecutor]]:
    made: list[LabrunExecutor] = []

    def make(**parameters: Any) -> LabrunExecutor:
        one = LabrunExecutor(tmp_path / f"jobs{len(made)}")
        one.update_parameters(**parameters)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def test_submitit_finds_the_executor_by_its_name_and_never_chooses_it(tmp_path: Path) -> None:
    auto = submitit.AutoExecutor(tmp_path / "jobs", cluster="labrun")
    auto.update_parameters(timeout_min=1, cpus_per_task=1, labrun_max_parallel=2)
    jobs = auto.map_array(pow, [2, 3, 4], [5, 5, 5])
    assert [job.result() for job in jobs] == [32, 243, 1024]
    assert [job.state for job in jobs] == ["FINISHED"] * 3
    auto._executor.close()
    assert submitit.AutoExecutor(tmp_path / "other").cluster in ("local", "slurm")


def test_files_that_the_umask_leaves_open_to_a_group(executor: Callable[..., LabrunExecutor]) -> None:
    """Most systems give each user a group of one's own, and files that it may write; in a private folder here."""
    before = os.umask(0o002)
    try:
        assert executor().submit(pow, 2, 5).result() == 32
    finally:
        os.umask(before)


def test_what_cannot_be_had_is_refused(
    executor: Callable[..., LabrunExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ValueError, match="gpus_per_node=2: visible here are 3"):
        executor(gpus_per_node=2).submit(pow, 2, 3)
    with pytest.raises(ValueError, match="cpus_per_task=1000: this machine has"):
        executor(cpus_per_task=1000).submit(pow, 2, 3)


def test_at_most_max_parallel_jobs_run_at_once(executor: Callable[..., LabrunExecutor]) -> None:
    def span() -> tuple[float, float]:
        began = time.time()
        time.sleep(0.4)
        return began, time.time()

    spans = [job.result() for job in [executor(max_parallel=2).submit(span) for _ in range(1)]]
    pool = executor(max_parallel=2)
    spans = [job.result() for job in [pool.submit(span) for _ in range(6)]]
    together = [sum(a <= begin < b for a, b in spans) for begin, _ in spans]
    assert max(together) == 2


def test_each_failure_is_its_own(executor: Callable[..., LabrunExecutor]) -> None:
    pool = executor(max_parallel=2, timeout_min=0.05)
    wrong, gone, crashed = pool.submit(int, "x"), pool.submit(dies, "exit"), pool.submit(dies, "signal")
    slow, fine = pool.submit(time.sleep, 60), pool.submit(int, "5")
    with pytest.raises(FailedJobError, match="ValueError"):
        wrong.result()
    with pytest.raises(UncompletedJobError, match="exit code 7"):
        gone.result()
    with pytest.raises(UncompletedJobError, match="SIGSEGV"):
        crashed.result()
    with pytest.raises(UncompletedJobError, match=r"timeout_min=0\.05"):
        slow.result()
    assert fine.result() == 5


def test_parameters_may_change_between_submissions(executor: Callable[..., LabrunExecutor]) -> None:
    pool = executor(max_parallel=1)
    assert pool.submit(threads).result() == "1"
    pool.update_parameters(cpus_per_task=2, stderr_to_stdout=True)
    later = pool.submit(threads)
    assert later.result() == "2" and not later.paths.stderr.exists()
    assert "on standard error" in later.paths.stdout.read_text()


def test_cancel_ends_running_and_waiting_jobs(executor: Callable[..., LabrunExecutor]) -> None:
    pool = executor(max_parallel=1)
    running, waiting = pool.submit(time.sleep, 60), pool.submit(time.sleep, 60)
    while running.state == "PENDING":
        time.sleep(0.05)
    for job in (waiting, running):
        job.cancel()
        job.wait()
    assert (running.state, waiting.state) == ("CANCELLED", "CANCELLED")


def test_the_server_is_started_again(executor: Callable[..., LabrunExecutor]) -> None:
    pool = executor(max_parallel=1)
    assert pool.submit(int, "1").result() == 1
    assert pool._pool is not None
    (server,) = pool._pool.servers.values()
    os.kill(server.process.pid, 9)
    time.sleep(0.2)
    assert pool.submit(int, "2").result() == 2


def test_no_pickle_is_loaded_that_another_could_have_written(executor: Callable[..., LabrunExecutor]) -> None:
    pool = executor(max_parallel=1)
    assert pool.folder.stat().st_mode & 0o077 == 0
    job = pool.submit(int, "1")
    job.wait()
    job.paths.result_pickle.chmod(0o666)
    with pytest.raises(LabrunError, match="not your own, or others may write it"):
        job.result()
    second = pool.submit(int, "1")
    assert second.result() == 1
    second.paths.folder.chmod(0o777)
    with pytest.raises(LabrunError, match="others may write it"):
        second.result()
    with pytest.raises(LabrunError, match="others may write it"):
        LabrunExecutor(pool.folder)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("application")
    (folder / "app.py").write_text(APPLICATION)
    return folder


def call(application: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "app.py", *arguments], cwd=application, capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip


@pytest.mark.parametrize("target", ["local", "inline"])
def test_a_plain_application_runs(application: Path, target: str) -> None:
    folder = f"hydra.sweep.dir=sweep-{target}"
    done = call(application, "-m", "hydra/launcher=labrun", f"hydra.launcher.target={target}", folder, "+x=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = application / f"sweep-{target}"
    assert (sweep / "1" / ".hydra" / "overrides.yaml").read_text() == "- +x=2\n"
    printed = done.stdout + "".join(path.read_text() for path in sweep.glob(".submitit/*.out"))
    assert printed.count("LOADED []") == 2, "nothing heavy is imported by labrun"


def test_a_job_that_dies_harms_no_other(application: Path) -> None:
    done = call(application, "-m", "hydra/launcher=labrun", "hydra.sweep.dir=faults", "+x=1,3,4,5")
    assert done.returncode == 1
    assert "#0 : +x=1  completed" in done.stdout and "#3 : +x=5  completed" in done.stdout
    assert "exit code 9" in done.stderr and "#2 : +x=4  failed" in done.stdout
    logs = "".join(path.read_text() for path in (application / "faults").glob(".submitit/*.out"))
    assert "four is too many" in logs


def test_a_wrong_target_is_refused(application: Path) -> None:
    done = call(application, "-m", "hydra/launcher=labrun", "hydra.launcher.target=moon", "+x=1")
    assert done.returncode == 1 and "allowed are local, slurm and inline" in done.stderr


def test_a_bare_application_sees_none_of_our_groups(application: Path) -> None:
    shown = call(application, "--info", "searchpath").stdout
    assert "labrun" not in shown
    refused = call(application, "compute=local", "+x=1")
    assert refused.returncode == 1 and "Could not override 'compute'" in refused.stderr


CAREFUL = """
import multiprocessing, os, pickle, subprocess, sys, threading, time
import hydra
import numpy.random
from hydra.utils import instantiate

class Model:
    def __init__(self, size):
        self.size = size

def double(x):
    return 2 * x

@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(config):
    if config.do == "clean":
        print("BEGUN", flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(1)
            print("CLEANED", flush=True)
            raise
    if config.do == "main":
        model = instantiate({"_target_": "__main__.Model", "size": 3})
        assert pickle.loads(pickle.dumps(model)).size == 3
        with multiprocessing.get_context("fork").Pool(4) as pool:
            print("DOUBLED", pool.map(double, [21]), flush=True)
        deaf = multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,))
        deaf.start()
        time.sleep(0.5)
        deaf.terminate()
        deaf.join()
    if config.do == "lock":
        return threading.Lock()
    if config.do.startswith("draw"):
        print("DRAWN", numpy.random.rand(), config.get("key"), flush=True)
    if config.do == "leave":
        left = subprocess.Popen(["sleep", "300"])
        print("LEFT", left.pid, flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("careful")
    (folder / "app.py").write_text(CAREFUL)
    return folder


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob(".submitit/*.out"))


def test_what_an_application_may_do(careful: Path) -> None:
    """Look itself up as the main module, return what cannot be passed on, leave processes behind."""
    done = call(careful, "-m", "hydra/launcher=labrun", "hydra.sweep.dir=all", "+do=main,lock,leave",
                "hydra.sweeper.max_batch_size=2")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + logs(careful / "all")
    assert "#2 : +do=leave  completed" in done.stdout, "numbered through the batches"
    printed = logs(careful / "all")
    assert "DOUBLED [42]" in printed and "a lock, cannot be passed on" in printed + done.stdout
    left = int(printed.partition("LEFT ")[2].split()[0])
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE


def test_jobs_draw_numbers_of_their_own_and_tell_no_variable(careful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t0ken-7h3secret")
    done = call(careful, "-m", "hydra/launcher=labrun", "hydra.sweep.dir=drawn", "+hydra.sweep.mode=700",
                "+do=draw1,draw2,draw3", '+key="${oc.env:TOKEN}"')  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = [line.split()[1:] for line in logs(careful / "drawn").splitlines() if line.startswith("DRAWN")]
    assert len({number for number, _ in drawn}) == 3 and {key for _, key in drawn} == {"t0ken-7h3secret"}
    assert "t0ken" not in done.stdout + done.stderr and "+key=" in done.stdout
    assert (careful / "drawn").stat().st_mode & 0o777 == 0o700


def test_a_sweep_of_nothing_is_no_error(careful: Path) -> None:
    done = call(careful, "-m", "hydra/launcher=labrun", "hydra.sweep.dir=none", "+a=glob(zz*)", "+do=x")
    assert "Traceback" not in done.stderr and "IndexError" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_a_job_clean_up(careful: Path, number: signal.Signals) -> None:
    folder = careful / f"interrupted-{number}"
    command = [sys.executable, "app.py", "-m", "hydra/launcher=labrun", f"hydra.sweep.dir={folder}", "+do=clean,main"]
    sweep = subprocess.Popen([*command, "hydra.launcher.max_parallel=1"], cwd=careful, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    wait_for(lambda: "BEGUN" in logs(folder))
    sweep.send_signal(number)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "Traceback" not in err and "CLEANED" in logs(folder)
    assert "DOUBLED" not in logs(folder)


@pytest.mark.parametrize("used", [False, True])
def test_a_module_that_ends_the_server_is_left_to_the_jobs(careful: Path, used: bool) -> None:
    (careful / "crashy.py").write_text("import os, sys\nif 'forkserver' in sys.argv[0]:\n    os.abort()\n")
    needs = CAREFUL.replace(
        'if config.do == "lock"', 'if config.do == "use":\n        crashy\n    if config.do == "lock"'
    )
    (careful / "uses.py").write_text("import crashy\n" + (needs if used else CAREFUL))
    done = subprocess.run([sys.executable, "uses.py", "-m", "hydra/launcher=labrun", f"hydra.sweep.dir=crash{used}",
                           "+do=x,y"], cwd=careful, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.stdout.count("failed" if used else "completed") == 2, done.stdout + done.stderr
    assert done.returncode == int(used) and ("ended by SIGABRT" in done.stderr) == used


@pytest.mark.parametrize(
    "wish",
    ["mem_gb=4G", "max_parallel=-1", "gpus_per_run=4", "cpus_per_run=4096", "timeout_min=-1", "mem_gb=999999"],
)
def test_what_cannot_be_had_is_refused_without_a_traceback(application: Path, wish: str) -> None:
    done = call(application, "-m", "hydra/launcher=labrun", f"hydra.launcher.{wish}", "+x=1")
    assert done.returncode == 1 and f"labrun: hydra.launcher.{wish.partition('=')[0]}" in done.stderr
    assert "Traceback" not in done.stderr
