"""A run in a separate process, and its record and files after a kill, an interrupt or a request to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import submitted
from labrun.runs import context, finalize, recording
from labrun.runs.end_requests import Request, end_requested
from labrun.runs.record import LOST, claim_attempt, process_start, read_record, shown_status

SCRIPT = """
import os, sys, time
from pathlib import Path
from labrun.runs import context
from labrun.runs.recording import Recording
with Recording(Path(sys.argv[1])):
    print("from python")
    os.write(1, b"from below python\\n")
    os.system("echo from a child; echo to the other stream >&2")
    for step in range(int(sys.argv[2])):
        context.log("loss", 1 / (1 + step), step=step)
        os.write(1, f"step {step}\\n".encode())
        time.sleep(0.02)
"""


def start(run_dir: Path, steps: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run_dir), str(steps)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def logged(run_dir: Path) -> int:
    return len(context.read_metrics(run_dir))


def test_all_output_is_in_the_log_and_on_the_terminal(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    run = start(run_dir, 3)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 0
    log = (run_dir / "driver.log").read_bytes()
    for line in (b"from python\n", b"from below python\n", b"from a child\n", b"step 2\n"):
        assert line in out and line in log
    assert b"to the other stream" in err and b"to the other stream" in log and b"to the other stream" not in out
    assert read_record(run_dir).status == "completed"
    assert (run_dir / "heartbeat").exists()


def test_metrics_up_to_a_kill_9_are_recorded(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    run = start(run_dir, 10_000)
    wait_for(lambda: logged(run_dir) > 20)
    run.kill()
    run.wait()
    steps = [line["step"] for line in context.read_metrics(run_dir)]
    assert steps == list(range(len(steps)))
    wait_for(lambda: f"step {steps[-2]}\n" in (run_dir / "driver.log").read_text())
    record = read_record(run_dir)
    assert record.status == "running", "no process was left to write another status"
    assert shown_status(run_dir, record) == LOST
    json.loads((run_dir / "run.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_run(tmp_path: Path, number: signal.Signals) -> None:
    run_dir = submitted(tmp_path)
    run = start(run_dir, 10_000)
    wait_for(lambda: logged(run_dir) > 2)
    run.send_signal(number)
    run.communicate(timeout=30)
    record = read_record(run_dir)
    assert record.status == "canceled" and record.error is not None and record.error.type == "Canceled"
    assert record.error.message == {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "signal SIGTERM"}[number]


CONVERTS = """
import signal, sys, time
from pathlib import Path
from labrun.runs.end_requests import Request, write_request
from labrun.runs.recording import Recording
run_dir, way, request = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Recording(run_dir, capture=False):  # without a sidecar, which would interrupt it as well
    if request != "none":
        write_request(run_dir, Request(request), "a better one exists")
    try:
        signal.raise_signal(signal.SIGINT)
        time.sleep(10)
    except BaseException as interrupt:
        if way == "cause":
            raise ValueError("not a valid buffer format") from interrupt
        if way == "context":
            {}["missing"]
        if way == "exit":
            sys.exit(3)
    raise ValueError("the rest of the code fails")
"""


@pytest.mark.parametrize("way", ["cause", "context", "exit", "later"])
@pytest.mark.parametrize("request_", ["cancel", "stop", "none"])
def test_an_error_that_an_interrupt_became_is_no_failure(tmp_path: Path, way: str, request_: str) -> None:
    """NumPy turns an interrupt into a ValueError while it reads the format of a buffer, for example."""
    run_dir = submitted(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", CONVERTS, str(run_dir), way, request_], capture_output=True, text=True
    )
    record = read_record(run_dir)
    assert record.error is not None
    if way == "later" and request_ == "none":  # the code caught Ctrl-C, and goes on
        assert (record.status, record.error.type, ended.returncode) == ("failed", "ValueError", 1)
        return
    expected = {"cancel": "a better one exists", "stop": "a better one exists", "none": "Ctrl-C"}[request_]
    assert (record.status, record.error.message) == ("stopped" if request_ == "stop" else "canceled", expected)
    raised = {"cause": "not a valid buffer", "context": "KeyError", "exit": "SystemExit", "later": "the rest of the"}
    _, said, trace = ended.stderr.partition("The run was interrupted; its code then raised:")
    assert said and raised[way] in trace, "the error is not lost"
    assert ended.returncode == -signal.SIGINT


INTERRUPTED_TWICE = """
import signal, sys
from pathlib import Path
from labrun.runs import recording
write = recording.write_record
def interrupted(run_dir, record, **options):
    if record.finished:
        signal.raise_signal(signal.SIGINT)
    write(run_dir, record, **options)
recording.write_record = interrupted
with recording.Recording(Path(sys.argv[1]), capture=False):
    signal.raise_signal(signal.SIGINT)
"""


def test_a_second_interrupt_does_not_leave_the_record_open(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_TWICE, str(run_dir)], capture_output=True)
    assert read_record(run_dir).status == "canceled" and ended.returncode == -signal.SIGINT


@pytest.mark.parametrize("in_background", [False, True])
def test_a_request_to_cancel_is_obeyed_within_seconds(tmp_path: Path, in_background: bool) -> None:
    """Even by a run started in the background of a shell, which ignores interrupts."""
    run_dir = submitted(tmp_path)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_background else None
    try:
        run = start(run_dir, 10_000)
    finally:
        if in_background:
            signal.signal(signal.SIGINT, before)
    wait_for(lambda: logged(run_dir) > 2)
    (run_dir / "requests" / "cancel").touch()
    run.communicate(timeout=10)
    record = read_record(run_dir)
    assert record.status == "canceled" and record.error is not None and "requests/cancel" in record.error.message


@pytest.mark.parametrize("requests", [[Request.CANCEL], [Request.STOP], [Request.STOP, Request.CANCEL]])
def test_a_request_decides_how_a_run_that_has_not_begun_ends(tmp_path: Path, requests: list[Request]) -> None:
    run_dir = submitted(tmp_path)
    for request in requests:
        finalize.request(run_dir, f"to {request.value}", request)
    assert sorted(os.listdir(run_dir / "requests")) == sorted(request.value for request in requests)
    finalize.close_unstarted(run_dir)
    record = read_record(run_dir)
    assert record.error is not None
    if Request.CANCEL in requests:
        assert (record.status, record.error.type, record.reason) == ("canceled", "Canceled", "canceled before it began")
    else:
        assert (record.status, record.error.type, record.reason) == ("stopped", "Stopped", "to stop")
    finalize.requeue(run_dir, record)
    assert not end_requested(run_dir)


def test_the_sidecar_ends_with_its_run(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    run = start(run_dir, 10_000)
    wait_for(lambda: logged(run_dir) > 2)
    children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=False).stdout.split()
    assert children
    run.kill()
    run.wait()
    for child in children:
        wait_for(lambda pid=int(child): process_start(pid) is None)  # type: ignore[misc]
    assert os.path.exists(run_dir / "driver.log")


def test_an_overtaken_attempt_stops_and_writes_nothing(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    run = start(run_dir, 10_000)
    wait_for(lambda: logged(run_dir) > 2)
    before = (run_dir / "run.json").read_text()
    assert claim_attempt(run_dir) == 2
    run.communicate(timeout=10)
    assert run.returncode == -signal.SIGKILL
    assert (run_dir / "run.json").read_text() == before


def test_signals_do_not_end_a_sidecar_that_has_just_started(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group. A run whose sidecar died of it was lost, not canceled."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        capture = recording.Capture(tmp_path)
        capture.start(1, prints=False)
        sidecar = capture._process
        assert sidecar is not None
        os.kill(sidecar.pid, number)
        wait_for((tmp_path / "heartbeat").exists, 20)
        capture.stop()
        assert sidecar.wait(timeout=20) == 0
        (tmp_path / "heartbeat").unlink()
