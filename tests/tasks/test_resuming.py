"""Interrupted and resumed training ends with the same weights and random numbers as uninterrupted training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import loader_parts
from conftest import Runner
from labrun import execute
from labrun.errors import LabrunError
from labrun.runs import context
from labrun.runs.record import QUEUED, read_record, write_record
from labrun.runs.recording import Preempted

pytestmark = pytest.mark.long

NET = ("model=dropnet", "trainer.batch_size=16", "trainer.max_epochs=3", "report=none")
NOISY = (*NET, "dataset=noisy")
SETS = (
    *NET,
    "dataset=torch",
    "dataset.train={_target_: loader_parts.Noisy}",
    "dataset.validation={_target_: loader_parts.Noisy, count: 40}",
    "dataset.test={_target_: loader_parts.Noisy, count: 40}",
)
STREAM = (*SETS, "dataset.train._target_=loader_parts.NoisyStream")
STEPS = (
    "+callbacks.steps={_target_: pytorch_lightning.callbacks.ModelCheckpoint, every_n_train_steps: 4, save_top_k: 1}"
)


@pytest.fixture
def noisy(workspace: Path) -> Path:
    for name, text in {
        "dataset/noisy": "_target_: loader_parts.NoisyModule\n",
        "model/dropnet": "_target_: loader_parts.DropNet\nlr: 0.1\n",
    }.items():
        path = workspace / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return workspace


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(run_dir / "outputs" / "model.pt", weights_only=True)
    return loaded


def broken_off(run_here: Runner, *overrides: str, step: int, leaves: bool = False) -> Path:
    """The folder of a run that was broken off at a step, and then carried out again."""
    return broken_off_at(run_here, *overrides, ends=[(step, leaves)])


def broken_off_at(run_here: Runner, *overrides: str, ends: list[tuple[int, bool]]) -> Path:
    """The folder of a run that was broken off at each of some steps, by a preemption or an error, and carried out."""
    loader_parts.Crash.ends[:] = ends
    before = set(Path("outputs").glob("*/*/run.json"))
    with broken(ends[0][1]):
        run_here(*overrides, "+callbacks.crash={_target_: loader_parts.Crash}")
    (run_dir,) = {path.parent.absolute() for path in set(Path("outputs").glob("*/*/run.json")) - before}
    for _, leaves in ends[1:]:
        with broken(leaves):
            run_to_completion(run_dir)
    run_to_completion(run_dir)
    assert not loader_parts.Crash.ends
    return run_dir


def broken(leaves: bool) -> AbstractContextManager[Any]:
    return pytest.raises(Preempted if leaves else (RuntimeError, LabrunError), match="crashed|preempted")


def run_to_completion(run_dir: Path) -> None:
    """Execute an interrupted run to its end, as if it had been submitted again."""
    record = read_record(run_dir)
    record.status, record.ended, record.error = QUEUED, None, None
    write_record(run_dir, record)
    execute.execute(run_dir, capture=False, pictures=False)


def recorded(run_dir: Path) -> dict[tuple[str, int], float]:
    """Each recorded value at its step, of the last attempt that reached it."""
    return {(line["name"], line["step"]): line["value"] for line in context.read_metrics(run_dir)}


def same(one: Path, other: Path) -> bool:
    whole, more = recorded(one), recorded(other)
    begins = min(step for _, step in more)
    assert {key: value for key, value in whole.items() if key[1] >= begins} == more
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize(
    "overrides",
    [
        (
            *NET,
            "dataset=digits",
            "dataset.max_samples=130",
            "+dataset.augmentation={_target_: labrun.data.loading.RandomFlip}",
        ),
        NOISY,
        (*NOISY, "+dataset.own_generator=true"),
        (*NOISY, "+dataset.kind=persistent"),
        SETS,
        (*SETS, "dataset.num_workers=2", "dataset.batch_size=20"),
        STREAM,
    ],
    ids=["own data", "module", "module with a generator", "persistent workers", "data sets", "workers", "stream"],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    run_here: Runner, noisy: Path, caplog: pytest.LogCaptureFixture, overrides: tuple[str, ...]
) -> None:
    caplog.set_level("INFO")
    _, whole = run_here(*overrides)
    batches = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] // 3
    # One run crashes, is preempted within an epoch, and is preempted at the end of one.
    ends = [(batches + 2, False), (batches + 2, True), (2 * batches - 1, True)]
    assert same(whole, broken_off_at(run_here, *overrides, ends=ends))
    resumed = [line for line in caplog.messages if line.startswith("Resuming from the last attempt's checkpoint")]
    where = (
        f"after epoch 1, step {batches}",
        "in epoch 2, after 3 of its batches",
        f"after epoch 2, step {2 * batches}",
    )
    assert len(resumed) == 3 and all(part in line for part, line in zip(where, resumed, strict=True)), resumed
    assert "Preempted: saved after epoch 2" in caplog.text
    assert same(whole, broken_off(run_here, *overrides, STEPS, step=batches + 2))


def test_logged_values_and_metrics_continue_after_resuming(
    run_here: Runner, noisy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    measures = (*NOISY, "model._target_=loader_parts.Measures")
    _, whole = run_here(*measures)
    for step, leaves in ((9, True), (13, False)):
        caplog.clear()
        assert same(whole, broken_off(run_here, *measures, *(() if leaves else [STEPS]), step=step, leaves=leaves))
        assert "Measures.on_train_epoch_end: lists and numbers that the module itself gathers" in caplog.text
        assert "Measures.on_train_batch_end: not called for the last batch" in caplog.text
    assert "in epoch 2, after 5 of its batches" in caplog.text  # the newest that STEPS kept, whatever val_loss was
    assert "only before the interruption" not in caplog.text
    validates = (*measures, "+trainer.options.val_check_interval=5")
    _, whole = run_here(*validates)
    assert same(whole, broken_off(run_here, *validates, step=11, leaves=True))  # a validation comes next
    assert "in epoch 2, after 6 of its batches" in caplog.text


def test_a_loader_that_cannot_resume_restarts_its_epoch(
    run_here: Runner, noisy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    lost = (*NOISY, "+dataset.kind=lost")
    _, whole = run_here(*lost)
    assert same(whole, broken_off(run_here, *lost, STEPS, step=12, leaves=True))
    assert "begins epoch 2 again, since its loader has no state_dict" in caplog.text
    assert "Resuming from the last attempt's checkpoint, after epoch 1, step 7" in caplog.text
    two = (*NOISY, "+dataset.kind=two", "model._target_=loader_parts.OfSeveral")
    _, whole = run_here(*two)
    assert same(whole, broken_off(run_here, *two, STEPS, step=9, leaves=True))
    assert "begins epoch 2 again, since it has several loaders, which take turns" in caplog.text


def test_a_limit_of_steps_or_time_ends_training_within_an_epoch(
    run_here: Runner, noisy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for overrides in (NOISY, STREAM):
        _, whole = run_here(*overrides)
        run_here(*overrides, "+trainer.options.max_steps=12")
        _, more = run_here(*overrides, "trainer.resume=last")
        assert "in epoch 2, after 5 of its batches" in caplog.text
        assert same(whole, more)


def test_the_epoch_is_passed_to_data_sets_and_samplers(run_here: Runner, noisy: Path) -> None:
    told = loader_parts.Listens.told
    module, sets = (*NOISY, "+dataset.kind=listens"), (*SETS, "dataset.train._target_=loader_parts.Listens")
    sampler = "dataset.batch_sampler={_target_: loader_parts.ListensToo, batch_size: 50, drop_last: false}"
    for overrides in (module, (*sets, sampler), (*sets, "dataset.num_workers=1")):
        told.clear()
        run_here(*overrides)
        for who in {name for name, _ in told}:
            assert list(dict.fromkeys(epoch for name, epoch in told if name == who)) == [0, 1, 2], who
        assert {name for name, _ in told} == {"data", *(["batches"] if sampler in overrides else [])}
    told.clear()
    run_here(*sets, "dataset.num_workers=1", "trainer.max_epochs=4", "trainer.resume=last")
    assert told[-1] == ("data", 3)
