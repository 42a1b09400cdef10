"""A command forked from a warm interpreter behaves as if started by a shell."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers import wait_for
from warm_bench import Bench

COLD = {"LABRUN_WARM": "0"}
DIFFERS = ("pid", "random", "warm", "env")


def both(bench: Bench, *words: str, **more: object) -> tuple[dict[str, object], dict[str, object]]:
    """The facts that a command reports, forked and cold, without those that differ between any two commands."""
    found = []
    for environment in ({}, COLD):
        told = bench.told(*words, environment=environment, **more)
        assert told["warm"] == (environment == {}), bench.log()
        found.append({key: value for key, value in told.items() if key not in DIFFERS})
    return found[0], found[1]


def shell(bench: Bench, line: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A line of shell in which `app` is the command."""
    line = line.replace("app", " ".join(bench.command()))
    values = {**bench.environment, **(environment or {})}
    return subprocess.run(["bash", "-c", line], cwd=bench.work, env=values, text=True, capture_output=True, timeout=60)


def test_a_forked_command_reports_the_same_facts_as_a_cold_one(warm: Bench) -> None:
    forked, alone = both(warm, "word", "two words", "ü")
    assert forked == alone


def test_a_forked_command_has_its_own_environment(warm: Bench) -> None:
    told = warm.told(environment={"MINE": "a\udcff=ü\n", "EMPTY": ""})
    assert told["warm"] and told["env"]["MINE"] == "a\udcff=ü\n" and told["env"]["EMPTY"] == ""
    assert "MINE" not in warm.told()["env"]


@pytest.mark.parametrize(
    "line",
    [
        "umask 027; app tell",
        "ulimit -n 100; app tell",
        "nice -n 3 bash -c 'app tell'",
        "trap '' HUP INT; app tell",
        "app tell <&-",
        "app tell 2>&-",
        "cd /; app tell",
        "app tell < /dev/null | cat",
        "mkdir gone; cd gone; rmdir ../gone; app exit 4; echo $?",
        "app number 7 7<<<'given as seven'",
        "echo what comes in | app copy",
        "app exit 0; echo $?; app exit 3; echo $?; app exit sorry; echo $?; app leave; echo $?",
        "app raise; echo $?",
        "app signal 15; echo $?; app signal 9; echo $?; app signal 11; echo $?",
        "app thread",
        "app flood | head -n 1; echo ${PIPESTATUS[0]}",
        "app tell >&-; echo $?",
        "app flood > /dev/full; echo $?",
    ],
)
def test_a_shell_sees_no_difference_to_a_cold_command(warm: Bench, line: str) -> None:
    before = warm.served()
    forked = shell(warm, line)
    assert warm.served() - before == line.count("app "), warm.log()
    alone = shell(warm, line, COLD)
    seen = []
    for done in (forked, alone):
        text = done.stdout
        if text.startswith("{"):
            told = json.loads(text)
            text = json.dumps({key: value for key, value in told.items() if key not in DIFFERS})
        seen.append((done.returncode, text, "ValueError: this goes wrong" in done.stderr, "sorry" in done.stderr))
    assert seen[0] == seen[1], (forked, alone, warm.log())


def test_eight_concurrent_commands_are_independent(warm: Bench) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda number: warm.told(f"number-{number}"), range(8)))
    assert [one["argv"][-1] for one in told] == [f"number-{number}" for number in range(8)]
    assert len({one["pid"] for one in told}) == len({one["random"] for one in told}) == 8
    assert all(one["warm"] for one in told)


def waiting(bench: Bench, **more: object) -> tuple[subprocess.Popen[str], int]:
    """A command that waits: its client, and the pid of the process that does the work."""
    flag = bench.work / f"flag-{time.monotonic_ns()}"
    client = bench.start("wait", str(flag), **more)
    wait_for(flag.exists, 30)
    return client, int(flag.read_text())


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and state(pid) != "Z"


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ctrl_c_reaches_a_forked_command(warm: Bench) -> None:
    client, pid = waiting(warm)
    assert client.pid != pid
    client.send_signal(signal.SIGINT)
    assert client.communicate(timeout=20)[0] == "interrupted\n" and client.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
def test_a_signal_ends_the_client_and_its_command(warm: Bench, number: signal.Signals) -> None:
    client, pid = waiting(warm)
    client.send_signal(number)
    assert client.wait(timeout=20) == -number and not lives(pid)


def test_ctrl_z_stops_a_forked_command_and_fg_continues_it(warm: Bench) -> None:
    client, pid = waiting(warm)
    client.send_signal(signal.SIGTSTP)
    wait_for(lambda: state(pid) == "T" and state(client.pid) == "T", 20)
    client.send_signal(signal.SIGCONT)
    wait_for(lambda: state(pid) != "T", 20)
    client.send_signal(signal.SIGINT)
    assert client.wait(timeout=20) == 7


def test_a_killed_client_ends_its_command(warm: Bench) -> None:
    client, pid = waiting(warm)
    client.kill()
    client.wait()
    wait_for(lambda: not lives(pid), 10)


def test_the_client_of_a_killed_command_dies_likewise(warm: Bench) -> None:
    client, pid = waiting(warm)
    os.kill(pid, signal.SIGKILL)
    assert client.wait(timeout=20) == -signal.SIGKILL


def test_commands_survive_a_killed_server(bench: Bench) -> None:
    server = bench.start_server()
    (one, first), (other, second) = waiting(bench), waiting(bench)
    os.kill(server, signal.SIGKILL)
    bench.servers[0].wait()
    time.sleep(0.3)
    assert lives(first) and lives(second)
    one.send_signal(signal.SIGINT)
    assert one.communicate(timeout=20)[0] == "interrupted\n" and one.returncode == 7
    os.kill(second, signal.SIGKILL)
    _, errors = other.communicate(timeout=20)
    assert other.returncode == 137 and "was killed" in errors
    assert not bench.told()["warm"]


def test_a_forked_command_uses_its_callers_terminal(warm: Bench) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    done = warm.start("tell", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(ours, 65536)
    assert done.wait(timeout=20) == 0
    told = json.loads(text)
    assert told["warm"] and told["streams"] == [True] * 3 and told["size"] == [77, 33] and not told["buffered"]
    os.close(ours)


def test_ctrl_c_typed_at_a_terminal_interrupts_a_forked_command(warm: Bench) -> None:
    ours, theirs = pty.openpty()
    flag = warm.work / "typed"

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    client = warm.start("wait", str(flag), stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal)
    wait_for(flag.exists, 30)
    os.write(ours, b"\x03")
    assert client.wait(timeout=20) == 7
    os.close(theirs)
    os.close(ours)


def test_the_servers_folder_is_private_and_holds_no_secret(warm: Bench) -> None:
    assert warm.place.stat().st_mode & 0o777 == 0o700
    warm.told(environment={"PASSWORD": "swordfish"})
    texts = [path.read_bytes() for path in warm.place.iterdir() if path.is_file()]
    assert not any(b"swordfish" in text for text in [*texts, warm.log().encode()])
