"""The pool as a submitit executor, and plain Hydra applications that use it."""

from __future__ import annotations

import os
import pickle
import re
import runpy
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
from hydra.core.utils import JobReturn
from submitit.core.utils import FailedJobError, UncompletedJobError

from helpers import program, wait_for
from labrun.backends.local.call import let_workers_be_ended
from labrun.backends.local.calls import cancel_file, noted_state
from labrun.backends.local.executor import PARAMETERS, LabrunExecutor, LabrunJob
from labrun.errors import LabrunError
from spawned import dies, path_and_folder, threads, until, which_task

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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabrunExecutor]:
    """One executor for all tests of calls, because each executor starts its own server."""
    one = LabrunExecutor(tmp_path_factory.mktemp("executor") / "jobs")
    yield one
    one.close()


@pytest.fixture
def executor(shared: LabrunExecutor) -> Callable[..., LabrunExecutor]:
    """Sets the parameters of the shared executor; all others have their defaults."""

    def make(**parameters: Any) -> LabrunExecutor:
        shared.update_parameters(**{**dict.fromkeys(PARAMETERS), **parameters})
        return shared

    return make


def test_submitit_uses_the_executor_only_by_name(tmp_path: Path) -> None:
    auto = submitit.AutoExecutor(tmp_path / "jobs", cluster="labrun")
    auto.update_parameters(timeout_min=1, cpus_per_task=1, labrun_max_parallel=2)
    jobs = auto.map_array(pow, [2, 3, 4], [5, 5, 5])
    assert [job.result() for job in jobs] == [32, 243, 1024]
    assert [job.state for job in jobs] == ["FINISHED"] * 3
    auto._executor.close()
    assert submitit.AutoExecutor(tmp_path / "other").cluster in ("local", "slurm")


def test_jobs_work_with_a_group_writable_umask(executor: Callable[..., LabrunExecutor]) -> None:
    """Most systems give each user a private group, which may write the user's files; here, in a private folder."""
    before = os.umask(0o002)
    try:
        assert executor().submit(pow, 2, 5).result() == 32
    finally:
        os.umask(before)


def test_unavailable_resources_are_refused(
    executor: Callable[..., LabrunExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ValueError, match="gpus_per_node=2: visible here are 3"):
        executor(gpus_per_node=2).submit(pow, 2, 3)
    with pytest.raises(ValueError, match="cpus_per_task=1000: this machine has"):
        executor(cpus_per_task=1000).submit(pow, 2, 3)


def test_a_job_sees_only_allowed_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    pool = LabrunExecutor(tmp_path)
    pool.update_parameters(gpus_per_node=1, visible_gpus=[1, 2])
    ask = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    jobs = [pool.submit(subprocess.check_output, ask, text=True) for _ in range(3)]
    assert [job.result() for job in jobs[:2]] == ["5\n", "7\n"] and jobs[2].result() in ("5\n", "7\n")
    pool.update_parameters(visible_gpus=[0])
    assert pool.submit(subprocess.check_output, ask, text=True).result() == "3\n"
    pool.update_parameters(visible_gpus=[0, 3])
    with pytest.raises(ValueError, match=r"visible_gpus=\[0, 3\]: visible here are 3, 5, 7"):
        pool.submit(int, "1")
    pool.close()


def test_at_most_max_parallel_jobs_run_at_once(executor: Callable[..., LabrunExecutor], tmp_path: Path) -> None:
    def span(number: int) -> tuple[float, float]:
        """The first two wait for each other, so that they overlap on a machine of any speed."""
        began = time.time()
        (tmp_path / f"begun{number}").touch()
        while number < 2 and len(list(tmp_path.glob("begun*"))) < 2:
            time.sleep(0.05)
        time.sleep(0.2)
        return began, time.time()

    pool = executor(max_parallel=2)
    spans = [job.result() for job in [pool.submit(span, number) for number in range(6)]]
    together = [sum(a <= begin < b for a, b in spans) for begin, _ in spans]
    assert max(together) == 2


def test_a_failure_affects_only_its_job(executor: Callable[..., LabrunExecutor]) -> None:
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
    state, why = noted_state(gone.paths)
    assert state == gone.state == "FAILED" and gone.get_info()["reason"] == why == "ended with exit code 7"
    assert gone.end == "FAILED (ended with exit code 7)" and noted_state(fine.paths) == ("FINISHED", None)


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


def test_a_dead_server_is_restarted(executor: Callable[..., LabrunExecutor]) -> None:
    pool = executor(max_parallel=1)
    assert pool.submit(int, "1").result() == 1
    assert pool._pool is not None
    server = max(pool._pool.servers.values(), key=lambda server: server.used)
    os.kill(server.process.pid, 9)
    time.sleep(0.2)
    assert pool.submit(int, "2").result() == 2


def test_pickles_that_others_can_write_are_not_loaded(executor: Callable[..., LabrunExecutor]) -> None:
    pool = executor(max_parallel=1)
    assert pool.folder.stat().st_mode & 0o077 == 0
    job = pool.submit(int, "1")
    job.wait()
    job.paths.result_pickle.chmod(0o666)
    with pytest.raises(LabrunError, match="not yours, or others may write it"):
        job.result()
    second = pool.submit(int, "1")
    assert second.result() == 1
    second.paths.folder.chmod(0o777)
    try:
        with pytest.raises(LabrunError, match="others may write it"):
            second.result()
        with pytest.raises(LabrunError, match="others may write it"):
            LabrunExecutor(pool.folder)
    finally:
        pool.folder.chmod(0o700)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory, plain_hydra: None) -> Path:
    folder = tmp_path_factory.mktemp("application")
    (folder / "app.py").write_text(APPLICATION)
    return folder


def call(application: Path, *arguments: str, cold: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program("python", "app.py", *arguments, cold=cold),
        cwd=application,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("target", ["local", "inline"])
def test_a_plain_application_runs(application: Path, target: str) -> None:
    folder = f"hydra.sweep.dir=sweep-{target}"
    where = f"hydra.launcher.target={target}"
    done = call(application, "-m", "hydra/launcher=labrun", where, folder, "+x=1,2", cold=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = application / f"sweep-{target}"
    assert (sweep / "1" / ".hydra" / "overrides.yaml").read_text() == "- +x=2\n"
    printed = done.stdout + "".join(path.read_text() for path in sweep.glob(".submitit/*.out"))
    assert printed.count("LOADED []") == 2, "nothing heavy is imported by labrun"


def test_a_dying_job_affects_no_other(application: Path) -> None:
    done = call(application, "-m", "hydra/launcher=labrun", "hydra.sweep.dir=faults", "+x=1,3,4,5")
    assert done.returncode == 1
    assert "#0 : +x=1  completed" in done.stdout and "#3 : +x=5  completed" in done.stdout
    assert "exit code 9" in done.stderr and "#2 : +x=4  failed" in done.stdout
    logs = "".join(path.read_text() for path in (application / "faults").glob(".submitit/*.out"))
    assert "four is too many" in logs


@pytest.fixture
def refused(
    application: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    hydra_restore_singletons: None,
) -> Callable[..., str]:
    """What the application says of wishes for its launcher, in this process: it launches nothing."""
    monkeypatch.chdir(application)

    def refused(*wishes: str) -> str:
        words = [f"hydra.launcher.{wish}" for wish in wishes]
        monkeypatch.setattr(sys, "argv", ["app.py", "-m", "hydra/launcher=labrun", *words, "+x=1"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path("app.py", run_name="__main__")
        assert end.value.code == 1
        return capfd.readouterr().err

    return refused


def test_a_wrong_target_is_refused(refused: Callable[..., str]) -> None:
    assert "allowed are inline, local and slurm" in refused("target=moon")


def test_a_bare_application_sees_no_config_groups_of_labrun(application: Path) -> None:
    shown = call(application, "--info", "searchpath", cold=True).stdout
    assert "labrun" not in shown
    refused = call(application, "compute=local", "+x=1", cold=True)
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
def careful(tmp_path_factory: pytest.TempPathFactory, plain_hydra: None) -> Path:
    folder = tmp_path_factory.mktemp("careful")
    (folder / "app.py").write_text(CAREFUL)
    return folder


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob(".submitit/*.out"))


def test_applications_may_use_locks_forks_and_random_numbers(careful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks itself up as the main module, returns an unpicklable value, leaves processes behind, and draws numbers.

    Its jobs draw different numbers and reveal no variable. In two batches.
    """
    monkeypatch.setenv("TOKEN", "t0ken-7h3secret")
    done = call(
        careful,
        "-m",
        "hydra/launcher=labrun",
        "hydra.sweep.dir=all",
        "+hydra.sweep.mode=700",
        "+do=main,lock,leave,draw1,draw2,draw3",
        '+key="${oc.env:TOKEN}"',
        "hydra.sweeper.max_batch_size=3",
    )
    printed = logs(careful / "all")
    assert done.returncode == 0, done.stdout + done.stderr + printed
    numbered = dict(re.findall(r"#(\d) : \+do=(\w+) .*  completed", done.stdout))
    assert numbered["2"] == "leave" and numbered["5"] == "draw3", "numbered through the batches"
    assert "DOUBLED [42]" in printed and "a lock, cannot be passed on" in printed + done.stdout
    left = int(printed.partition("LEFT ")[2].split()[0])
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    drawn = [line.split()[1:] for line in printed.splitlines() if line.startswith("DRAWN")]
    assert len({number for number, _ in drawn}) == 3 and {key for _, key in drawn} == {"t0ken-7h3secret"}
    assert "t0ken" not in done.stdout + done.stderr and "+key=" in done.stdout
    assert (careful / "all").stat().st_mode & 0o777 == 0o700


def end_at_once() -> int:
    """Fork a worker that gets SIGTERM as soon as it exists, from a process that ignores it as submitit's jobs do."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
    let_workers_be_ended()
    worker = os.fork()
    if worker == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


@pytest.mark.process
def test_a_worker_can_be_ended_from_its_first_moment() -> None:
    child = os.fork()
    if child == 0:
        os._exit(int(end_at_once() != -signal.SIGTERM))
    assert os.waitpid(child, 0)[1] == 0


def test_an_empty_sweep_succeeds(careful: Path) -> None:
    done = call(careful, "-m", "hydra/launcher=labrun", "hydra.sweep.dir=none", "+a=glob(zz*)", "+do=x")
    assert "Traceback" not in done.stderr and "IndexError" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_a_job_clean_up(careful: Path, number: signal.Signals) -> None:
    folder = careful / f"interrupted-{number}"
    words = ("-m", "hydra/launcher=labrun", f"hydra.sweep.dir={folder}", "+do=clean,main")
    sweep = subprocess.Popen(
        program("python", "app.py", *words, "hydra.launcher.max_parallel=1", cold=True),
        cwd=careful,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: "BEGUN" in logs(folder))
    sweep.send_signal(number)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "Traceback" not in err and "CLEANED" in logs(folder)
    assert "DOUBLED" not in logs(folder)


@pytest.mark.parametrize("used", [False, True])
def test_a_module_that_crashes_the_server_is_imported_by_the_jobs(careful: Path, used: bool) -> None:
    (careful / "crashy.py").write_text("import os, sys\nif 'forkserver' in sys.argv[0]:\n    os.abort()\n")
    needs = CAREFUL.replace(
        'if config.do == "lock"', 'if config.do == "use":\n        crashy\n    if config.do == "lock"'
    )
    (careful / "uses.py").write_text("import crashy\n" + (needs if used else CAREFUL))
    done = subprocess.run(
        program("python", "uses.py", "-m", "hydra/launcher=labrun", f"hydra.sweep.dir=crash{used}", "+do=x,y"),
        cwd=careful,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.count("failed" if used else "completed") == 2, done.stdout + done.stderr
    assert done.returncode == int(used) and ("ended by SIGABRT" in done.stderr) == used


@pytest.mark.parametrize(
    "wishes",
    [("mem_gb=4G", "max_parallel=-1", "timeout_min=-1"), ("gpus_per_run=4", "cpus_per_run=4096", "mem_gb=999999")],
)
def test_unavailable_resources_are_refused_without_a_traceback(
    refused: Callable[..., str], wishes: tuple[str, ...]
) -> None:
    told = refused(*wishes)
    lines = told.removeprefix("labrun: ").splitlines()
    for wish in wishes:
        assert sum(line.startswith(f"hydra.launcher.{wish.partition('=')[0]}=") for line in lines) == 1, told
    assert told.startswith("labrun: ") and "Traceback" not in told


def test_messages_name_the_launchers_keys(refused: Callable[..., str]) -> None:
    told = refused("nodes=2", "gpus_per_run=99")
    assert "hydra.launcher.nodes=2: only hydra.launcher.target=slurm supports it" in told
    assert "hydra.launcher.gpus_per_run=0 runs on" in told


def test_a_job_has_the_environment_of_its_submission(
    executor: Callable[..., LabrunExecutor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables, folder, and modules, such as those of a snapshot."""
    pool = executor()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "found_by_path.py").write_text(f"WHERE = {place!r}\n")
        monkeypatch.chdir(tmp_path / place)
        monkeypatch.setenv("OF_SUBMISSION", place)
        assert pool.submit(path_and_folder).result() == (place, str(tmp_path / place), place)


def test_any_process_can_wait_for_a_job(executor: Callable[..., LabrunExecutor], tmp_path: Path) -> None:
    pool, go = executor(), str(tmp_path / "go")
    job = pool.submit(until, go)
    again = [pickle.loads(pickle.dumps(job)), LabrunJob(pool.folder, job.job_id)]
    assert not any(one.done() for one in again) and again[0].submission().args == (go,)
    code = f"from labrun.backends.local.executor import LabrunJob as J; j = J({str(pool.folder)!r}, {job.job_id!r})\n"
    code += f"print(j.done()); open({go!r}, 'w').close(); print(j.result(), j.state)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout == "False\nNone FINISHED\n", told.stderr
    assert [one.result() for one in again] == [None, None] and {one.state for one in again} == {"FINISHED"}
    canceled = pool.submit(time.sleep, 60)
    wait_for(lambda: canceled.state == "RUNNING")
    cancel_file(canceled.paths).touch()  # as another process asks
    canceled.wait()
    assert canceled.state == "CANCELLED" and noted_state(canceled.paths) == ("CANCELLED", None)


def test_a_job_fails_if_its_supervisor_dies(tmp_path: Path) -> None:
    script = (
        f"from labrun.backends.local.executor import *; j = LabrunExecutor({str(tmp_path)!r}).submit(time.sleep, 60)\n"
    )
    script += "import os; print(j.job_id, flush=True); time.sleep(1); os.kill(os.getpid(), 9)"
    job_id = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip()
    job = LabrunJob(tmp_path, job_id)
    wait_for(job.done)
    with pytest.raises(UncompletedJobError, match="it ended together with the process that submitted it"):
        job.result()


def test_a_separate_interpreter_ends_with_its_supervisor(tmp_path: Path) -> None:
    script = f"from labrun.backends.local.executor import *; e = LabrunExecutor({str(tmp_path)!r})\n"
    script += "e.update_parameters(setup=['true']); j = e.submit(time.sleep, 60)\n"
    script += "while not e._pool.call(j.job_id).pids: time.sleep(0.05)\n"
    script += "print(j.job_id, e._pool.call(j.job_id).pids[0], flush=True); os.kill(os.getpid(), 9)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    job_id, pid = told.stdout.split()
    wait_for(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    assert LabrunJob(tmp_path, job_id).done()


def test_an_ending_script_waits_for_its_jobs(tmp_path: Path) -> None:
    script = (
        f"from labrun.backends.local.executor import *; j = LabrunExecutor({str(tmp_path)!r}).submit(time.sleep, 1)\n"
    )
    script += "print(j.job_id)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "waiting for 1 submitted jobs" in done.stderr
    assert LabrunJob(tmp_path, done.stdout.strip()).result() is None


def test_an_interrupted_script_ends_its_jobs(tmp_path: Path) -> None:
    script = (
        f"from labrun.backends.local.executor import *; j = LabrunExecutor({str(tmp_path)!r}).submit(time.sleep, 60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script + "print('BEGUN', flush=True); j.result()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "BEGUN\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert told.endswith("1 submitted jobs have not ended and are killed\n"), told


def sleeping(*seconds: float) -> submitit.helpers.FunctionSequence:
    """Goes on, after it was interrupted, with the sleep that it was in."""
    sequence = submitit.helpers.FunctionSequence(verbose=True)
    for one in seconds:
        sequence.add(time.sleep, one)
    return sequence


def test_a_job_saves_its_state_before_its_time_limit_and_resumes(tmp_path: Path) -> None:
    """At most max_num_timeout times. Takes six seconds of time limits."""
    pool = LabrunExecutor(tmp_path, max_num_timeout=1)
    pool.update_parameters(timeout_min=0.1, signal_delay_s=3, max_parallel=4)
    through, late = pool.submit(sleeping(*[1.2] * 3)), pool.submit(sleeping(*[1] * 9))
    plain = pool.submit(time.sleep, 60)
    pool.update_parameters(timeout_min=None)
    asked = pool.submit(sleeping(0.1, 2))
    wait_for(lambda: "Starting from 0/2" in (asked.stdout() or ""))
    time.sleep(0.3)
    asked._interrupt()
    assert through.result() == [None] * 3 and asked.result() == [None] * 2
    assert through.stdout().count("Starting from") == 2 and "Starting from 1/2" in asked.stdout()
    with pytest.raises(FailedJobError, match="timed-out too many times"):
        late.result()
    with pytest.raises(FailedJobError, match="not checkpointable"):
        plain.result()
    assert late.stdout().count("Starting from") == 2 and "(0 remaining timeouts)" in late.stdout()
    pool.close()


def test_jobs_support_several_tasks_setup_and_another_interpreter(
    executor: Callable[..., LabrunExecutor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = executor(tasks_per_node=2)
    assert pool.submit(which_task).results() == [("labrun", 0, 2, None), ("labrun", 1, 2, None)]
    pool.update_parameters(tasks_per_node=3)
    job = pool.submit(which_task)
    assert "the third" in str(job.exception()) and job.task(1).result()[1] == 1 and "rank 1" in job.stdout()
    pool.update_parameters(tasks_per_node=1, setup=["export FROM_SETUP=it"])
    assert pool.submit(which_task).result() == ("labrun", 0, 1, "it")
    pool.update_parameters(setup=["echo told >&2; false"])
    with pytest.raises(UncompletedJobError, match="exit code 1.*told|told"):
        pool.submit(which_task).result()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    auto = submitit.AutoExecutor(tmp_path / "other", cluster="labrun", labrun_python=sys.executable)
    auto.update_parameters(tasks_per_node=2, labrun_setup=["true"], labrun_signal_delay_s=3, name="mine")
    assert auto.submit(which_task).results() == [("local", 0, 2, None), ("local", 1, 2, None)]
    auto._executor.close()


@pytest.mark.parametrize(
    "wanted, told",
    [
        ({"partition": "long"}, "partition='long': only Slurm supports it"),
        ({"foo": 1}, "foo=1: no such parameter"),
        ({"nodes": 2}, "nodes=2: expected 1"),
        ({"timeout_min": 0, "setup": "touch x"}, "timeout_min=0: .*\nsetup='touch x': expected a list"),
        ({"cpus_per_task": True}, "cpus_per_task=True: expected a whole number"),
        ({"visible_gpus": ["a"]}, "visible_gpus="),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(tmp_path: Path, wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LabrunExecutor(tmp_path).update_parameters(**wanted)


def test_too_large_pickles_are_refused(tmp_path: Path) -> None:
    pool = LabrunExecutor(tmp_path, max_pickle_size_gb=1e-5)
    with pytest.raises(RuntimeError, match="more than max_pickle_size_gb=1e-05"):
        pool.submit(len, b"x" * 100_000)


FAILING = """
import hydra, os, pickle, sys
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from library import Task, shadow

class Net:
    def __init__(self, width):
        self.width = width

TABLE = {"a": 1}

def main(config):
    if config.do == "fail":
        raise ValueError("my own line")
    if config.do == "exit":
        sys.exit(config.code)
    pickle.dumps(HydraConfig.get())
    from hydra.utils import get_object
    print("NET", instantiate({"_target_": "__main__.Net", "width": 3}).width, get_object("__main__.TABLE"),
          get_object("__main__.shadow")(2), flush=True)

if __name__ == "__main__":
    hydra.main(version_base="1.3", config_path=os.path.dirname(os.path.abspath(__file__)))(Task(main))()
"""
LIBRARY = """
class Task:
    def __init__(self, function):
        self.function = function
        self.__name__ = function.__name__
    def __call__(self, config):
        return self.function(config)

def shadow(x):
    return 10 * x
"""


@pytest.mark.parametrize("target", ["local", "inline"])
def test_a_wrapped_task_shows_its_output_and_errors(tmp_path: Path, target: str) -> None:
    (tmp_path / "app.py").write_text(FAILING)
    (tmp_path / "library.py").write_text(LIBRARY)
    to = f"hydra.launcher.target={target}"
    fine = call(
        tmp_path,
        "-m",
        "hydra/launcher=labrun",
        to,
        "hydra.sweep.dir=fine",
        "+do=go,exit",
        "+code=0",
        "hydra.launcher.show_output=true",
    )
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert ("[0] " if target == "local" else "") + "NET 3 {'a': 1} 20\n" in fine.stdout
    for file in (tmp_path / "fine").glob(".submitit/*_result.pkl"):
        outcome, result = pickle.loads(file.read_bytes())
        assert outcome == "success" and isinstance(result, JobReturn) and result.return_value is None
    assert "#1 : +do=exit +code=0  completed" in fine.stdout and "submitit" not in fine.stdout.replace(".submitit", "")
    failing = ("hydra.sweep.dir=wrong", "+do=fail,exit", "+code=3")
    wrong = call(tmp_path, "-m", "hydra/launcher=labrun", to, *failing, cold=True)
    assert wrong.returncode == 1
    assert wrong.stderr.count('raise ValueError("my own line")') == 1, wrong.stderr
    assert "sys.exit(3)" in wrong.stderr and "hydra/core/utils.py" not in wrong.stderr
