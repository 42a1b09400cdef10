"""Number of threads of a model: the rule, settings that override it, and that runs obey and record it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

from conftest import Command, Runner
from helpers import PLAIN, submitted
from labrun.backends.local.threads import limit_run, own_variables
from labrun.config.schema import Compute
from labrun.errors import ConfigError
from labrun.models.cifar10_cnn import Cifar10CNN
from labrun.models.mnist_dnn import MnistDNN
from labrun.runs import context
from labrun.runs.groups import ThreadChoice
from labrun.runs.record import read_record
from labrun.tasks import threads
from labrun.tasks.networks.forward_cost import try_out
from labrun.tasks.threads import PER_THREAD, ForwardCost

CNN, DNN = ForwardCost(651_720, 5), ForwardCost(89_400, 3)
ON_DIGITS = 5_800
"""Multiply-adds of the average layer of mnist_dnn on the digits."""
FOR_TWO = 2 * PER_THREAD // ON_DIGITS + 1
"""The smallest batch size that gets two threads there."""
SEEN: set[tuple[str, int, bool]] = set()


class Watched(MnistDNN):
    """Notes for each batch its purpose, torch's number of threads, and whether the record has it."""

    def forward(self, x: Tensor) -> Tensor:
        phase, count = "training" if self.training else "scoring", torch.get_num_threads()
        if len(x) > 1:
            known = getattr(read_record(os.environ[context.RUN_DIR_VARIABLE]).threads, phase, None)
            SEEN.add((phase, count, known is not None and known.count == count))
        return super().forward(x)


WATCHED = (
    "model=mnist_dnn",
    f"model._target_={__name__}.Watched",
    "trainer.max_epochs=1",
    "dataset.max_samples=50",
    "compute.cpus_per_run=4",
    "trainer.eval_batch_size=8",
)


@pytest.fixture(autouse=True)
def _four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that may use four cores, whatever the machine has, in an environment that asks for nothing."""
    for name in (*threads.VARIABLES, threads.USER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    SEEN.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    with threadpool_limits():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("share", "allowed", "count"), [(0, 4, 1), (1, 4, 1), (2, 4, 2), (3, 4, 3), (9, 4, 4), (9, 1, 1)]
)
def test_the_number_of_threads_follows_the_work_per_layer(share: int, allowed: int, count: int) -> None:
    one_sample, eight = ForwardCost(5 * share * PER_THREAD, 5), ForwardCost(5 * share * PER_THREAD // 8, 5)
    assert threads.by_rule(one_sample, 1, allowed).count == threads.by_rule(eight, 8, allowed).count == count
    if share > 1:
        fewer = threads.by_rule(ForwardCost(one_sample.multiply_adds, 5 * share), 1, allowed)
        assert fewer.count == 1, "the same work in more layers"


def test_labruns_networks_use_one_thread_for_small_batches() -> None:
    assert [threads.by_rule(work, 4, 64).count for work in (CNN, DNN)] == [1, 1]
    assert threads.by_rule(CNN, 2**20, 2).count == threads.by_rule(DNN, 2**20, 2).count == 2
    assert threads.by_rule(None, 2**20, 64).count == 1, "work that cannot be counted"


def test_the_docs_state_the_work_per_thread() -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "own-model.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert f"one thread per {threads.millions(PER_THREAD)} multiply-adds," in text


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x)[0][:, -1])


class Unwatchable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise NotImplementedError("no gradients here")
        return x


@pytest.mark.parametrize(
    ("network", "shape", "work"),
    [
        (Cifar10CNN((3, 32, 32), 10), (3, 32, 32), CNN),
        (MnistDNN((1, 28, 28), 10), (1, 28, 28), DNN),
        (nn.Conv2d(8, 8, 3, groups=8), (8, 10, 10), ForwardCost(9 * 8 * 8 * 8, 1)),
        (nn.LazyLinear(10), (7,), ForwardCost(70, 1)),
        (Recurrent(), (20, 16), ForwardCost(20 * 4 * 32 * (16 + 32) + 320, 21)),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), (7,), None),
        (Unwatchable(), (7,), None),
    ],
)
def test_the_multiply_adds_of_a_network_are_counted(
    network: nn.Module, shape: tuple[int, ...], work: ForwardCost | None
) -> None:
    scores, counted = try_out(network.eval(), torch.zeros(1, *shape))
    assert counted == work
    with torch.no_grad():
        assert not scores.requires_grad and torch.equal(scores, network(torch.zeros(1, *shape)))


def test_counting_work_raises_the_networks_own_error() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        try_out(nn.Linear(3, 4), torch.zeros(1, 7))


def test_a_run_obeys_the_rule_and_records_its_threads(run_here: Runner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    record, run_dir = run_here(*WATCHED, f"trainer.batch_size={FOR_TWO}")
    assert {("training", 2, True), ("scoring", 1, True)} == SEEN, "recorded before the first batch"
    assert record.threads == read_record(run_dir).threads and record.threads is not None
    assert record.threads.allowed == 4 and f"batch size {FOR_TWO}" in str(record.threads.training)
    assert "Threads: 2 of 4 for training (" in caplog.text and "1 of 4 for scoring (" in caplog.text
    assert torch.get_num_threads() == 4, "as it was before"
    SEEN.clear()
    scored, _ = run_here("task=evaluate", "from=last", f"trusted=[{__name__}.Watched]", *WATCHED[-2:])
    assert {("scoring", 1, True)} == SEEN and scored.threads is not None and scored.threads.training is None
    other, _ = run_here()
    assert other.threads and "small data set: 1,438 samples" in str(other.threads.training)


def test_explicit_settings_override_the_rule(run_here: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    by_variable, _ = run_here(*WATCHED)
    assert {("training", 3, True), ("scoring", 3, True)} == SEEN
    SEEN.clear()
    by_key, _ = run_here(*WATCHED, "trainer.threads=2")
    assert {("training", 2, True), ("scoring", 2, True)} == SEEN
    SEEN.clear()
    run_here(*WATCHED, "trainer.threads=null")
    assert {("training", 4, True), ("scoring", 4, True)} == SEEN
    told = [record.threads and record.threads.training for record in (by_variable, by_key)]
    assert told == [ThreadChoice(3, "OMP_NUM_THREADS is set"), ThreadChoice(2, "trainer.threads=2")]


def test_more_threads_than_compute_allows_are_refused(run_here: Runner) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.threads=3: compute\.cpus_per_run=2 allows no more"):
        run_here("model=mnist_dnn", "trainer.threads=3", "compute.cpus_per_run=2")
    with pytest.raises(ConfigError, match=r"trainer\.threads=.*whole number of at least 1, auto or null"):
        run_here("model=mnist_dnn", "trainer.threads=all")


@pytest.mark.parametrize(
    ("text", "asked"), [("2", 2), ("3,2", 3), ("9", 4), ("0", None), ("many", None), ("", None), (None, None)]
)
def test_omp_num_threads_is_read_and_limited_to_the_allowed_cores(
    text: str | None, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads.from_environment([], 4) == asked
    for count in (4, 1):  # labrun sets the variable to its own limit from now on
        limit_run(count, {})
        assert os.environ["OMP_NUM_THREADS"] == str(count) and torch.get_num_threads() == count
        assert threads.from_environment([], 4) == asked


def test_omp_num_threads_of_the_run_is_not_limited() -> None:
    limit_run(1, {"OMP_NUM_THREADS": "6", "MKL_NUM_THREADS": "5"})
    assert [os.environ[name] for name in threads.VARIABLES] == ["6", "5", "6"] and torch.get_num_threads() == 6
    compute = Compute("local", environment={"OMP_NUM_THREADS": "***", "OTHER": "***"})
    assert own_variables(compute) == {"OMP_NUM_THREADS": "6"}
    assert threads.from_environment(compute.environment, 1) == 6


def test_threads_wait_passively_unless_the_user_chooses() -> None:
    environment = {"PATH": "/bin"}
    threads.wait_asleep(environment)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    threads.wait_asleep(environment)
    threads.wait_by_default(environment)
    assert environment == {"PATH": "/bin"}, "a user's script waits as it would without labrun"
    for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}):
        before = dict(own)
        threads.wait_asleep(own)
        threads.wait_by_default(own)
        assert own == before


def test_older_records_have_no_threads(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    content = json.loads((run_dir / "run.json").read_text())
    del content["threads"]
    (run_dir / "run.json").write_text(json.dumps(content))
    assert read_record(run_dir).threads is None


PRINTS = """
import os
import torch
from labrun.models.mnist_dnn import MnistDNN

class Prints(MnistDNN):
    def forward(self, x):
        if self.training:
            print("SEEN", torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"], flush=True)
        return super().forward(x)
"""


def test_runs_in_the_pool_obey_the_rule_of_threads(
    labrun: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own limit must not pass for the user's setting. Takes ten seconds: the server imports torch."""
    for name in threads.WAITING:
        monkeypatch.delenv(name, raising=False)
    (workspace / "prints.py").write_text(PRINTS)
    own = ("model=mnist_dnn", "model._target_=prints.Prints", "trainer.max_epochs=1", "compute.cpus_per_run=2")
    done = labrun("-m", *own, f"trainer.batch_size=8,{FOR_TWO}", *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(workspace.glob("multirun/*/*/[01]"))
    logs = [(folder / "driver.log").read_text().splitlines() for folder in folders]
    seen = [{line for line in log if line.startswith("SEEN")} for log in logs]
    assert seen == [{"SEEN 1 PASSIVE"}, {"SEEN 2 PASSIVE"}]
    recorded = [json.loads((folder / "run.json").read_text())["threads"] for folder in folders]
    assert [(one["allowed"], one["training"]["count"]) for one in recorded] == [(2, 1), (2, 2)]


class Counting(LogisticRegression):
    """Notes how many threads the libraries may use while it is fitted and predicts."""

    def fit(self, x: Any, y: Any, sample_weight: Any = None) -> Counting:
        USED.append(_most())
        return super().fit(x, y, sample_weight)

    def predict(self, x: Any) -> Any:
        USED.append(_most())
        return super().predict(x)


USED: list[int] = []
LEFT_OUT = ("~model.regularization", "~model.backend", "~model.solver")
COUNTING = (f"model._target_={__name__}.Counting", *LEFT_OUT, "compute.cpus_per_run=2")


def _most() -> int:
    return max(int(library["num_threads"]) for library in threadpool_info() if library["user_api"] == "blas")


@pytest.mark.parametrize(
    ("size", "count"),
    [((5_000, 1_000_000), 1), ((5_001, 5_001), 2), ((100, 1_000_001), 2), ((10, 10), 1)],
)
def test_an_estimator_gets_one_thread_for_small_data(size: tuple[int, int], count: int) -> None:
    assert threads.for_estimator("auto", None, 2, *size).count == count
    assert threads.for_estimator("auto", None, 1, *size).count == 1
    assert threads.for_estimator(None, None, 2, *size).count == 2
    assert threads.for_estimator("auto", 2, 2, *size).count == threads.for_estimator(2, None, 2, *size).count == 2


def test_an_estimators_threads_are_obeyed_and_recorded(run_here: Runner) -> None:
    with threadpool_limits(2):
        for override, count in (("trainer.threads=auto", 1), ("trainer.threads=2", 2)):
            USED.clear()
            record, _ = run_here(*COUNTING, override)
            assert USED and set(USED) == {count} and _most() == 2
            assert record.threads and record.threads.training and record.threads.scoring
            assert record.threads.training.count == record.threads.scoring.count == count
