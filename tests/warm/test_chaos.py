"""Many warm commands whose server is killed repeatedly."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from warm_bench import Bench

COMMANDS = 200
KILLS = 20


def test_every_command_succeeds_or_reports_an_error(bench: Bench) -> None:
    """Of 200 commands, eight at once, none is lost or runs twice when the server is killed up to twenty times.

    Takes half a minute: a few kills would show nothing.
    """
    draw = random.Random(0)
    bench.start_server()
    is_over = threading.Event()

    def kill_now_and_then() -> None:
        while len(bench.servers) <= KILLS and not is_over.wait(draw.uniform(0.05, 0.8)):
            os.kill(bench.servers[-1].pid, signal.SIGKILL)
            bench.servers[-1].wait()
            bench.start_server()

    def one(number: int) -> tuple[int, subprocess.CompletedProcess[str]]:
        return number, bench.run("count", str(number))

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(one, range(COMMANDS)))
    finally:
        is_over.set()
        killer.join()
    ran = [int(line) for line in (bench.work / "ran").read_text().split()]
    assert sorted(ran) == list(range(COMMANDS)), "each once"
    for number, result in done:
        right = result.returncode == number % 5 and result.stdout == f"{number}\n"
        told = result.returncode == 137 and "was killed" in result.stderr
        assert right or told, (number, result, time.monotonic() - began)
    assert sum(result.returncode == 137 for _, result in done) <= COMMANDS / 20
    assert len(bench.servers) > 5
