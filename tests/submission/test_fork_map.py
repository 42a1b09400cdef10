"""Work shared among forked processes gives the same result as without them, even if a process fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import psutil
import pytest

from labrun.submission.fork_map import fork_map

HERE = os.getpid()


@pytest.fixture(autouse=True)
def _cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr("threading.active_count", lambda: 1)  # of pytest's own


def flat(parts: Sequence[tuple[bool, list[int]]]) -> list[int]:
    return [number for _, part in parts for number in part]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 40])
def test_results_keep_the_order_of_parts(count: int) -> None:
    parts = fork_map(range(count), lambda part: (os.getpid() == HERE, [2 * n for n in part]), lambda: None, least=3)
    assert flat(parts) == [2 * n for n in range(count)]
    assert [here for here, _ in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) == max(1, min(3, count // 3))


@pytest.mark.parametrize("way", ["speaks", "logs", "changes", "is killed", "fails", "gives what cannot be pickled"])
def test_work_that_a_fork_cannot_do_is_repeated_in_this_process(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[int, int] = {}

    def work(part: Sequence[int]) -> tuple[bool, list[int]]:
        in_fork, found = os.getpid() != HERE, list(part)
        for number in part:
            if number == 1 and way == "speaks":
                print("a note")
            elif number == 1 and way == "changes":
                known[1] = 1
            elif number == 1 and way == "logs":
                import logging

                logging.getLogger("labrun.test").warning("a note")
            elif number == 1 and way == "is killed" and in_fork:
                os.kill(os.getpid(), signal.SIGKILL)
            elif number == 1 and way == "fails" and in_fork:
                raise ValueError(number)
        return (not in_fork, found if way != "gives what cannot be pickled" or not in_fork else (lambda: 0))  # type: ignore[return-value]

    parts = fork_map(range(9), work, lambda: known, least=3)
    assert flat(parts) == list(range(9))
    done_here = [True, way == "gives what cannot be pickled", True]
    assert [here for here, _ in parts] == done_here
    assert capsys.readouterr().out == ("a note\n" if way == "speaks" else "")
    assert known == ({1: 1} if way == "changes" else {})


def test_an_error_in_this_process_ends_the_forks() -> None:
    def work(part: Sequence[int]) -> None:
        if os.getpid() == HERE:
            raise KeyboardInterrupt
        signal.pause()

    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(KeyboardInterrupt):
        fork_map(range(9), work, lambda: None, least=3)
    assert {child.pid for child in psutil.Process().children()} <= before
