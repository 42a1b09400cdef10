"""Training resumes, and a model is scored, only with the original data and code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import labrun
from conftest import Runner
from helpers import new
from labrun import execute
from labrun.errors import ConfigError
from labrun.runs import peer_errors, recording
from labrun.runs.record import QUEUED, read_record, write_record
from labrun.submission import resume

NET = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, input_shape, num_classes):
        super().__init__(input_shape[0], num_classes)

    def forward(self, x):
        return {sign}super().forward(x)
"""
DATA = """
from pathlib import Path

import numpy as np

def get_data():
    x = np.random.default_rng(int(Path("draw").read_text())).normal(size=(300, 4)).astype("float32")
    return {"X": x, "y": (x[:, 0] > 0).astype(int)}
"""
COMMON = ("model._target_=net_of_mine.Net", "+model.lr=0.5", "dataset=get_data", "dataset.validation_size=0.2")
DROP = ("~model.regularization", "~model.solver", "~model.backend", "~model.max_iter", "~model.tol")
Edit = Callable[[str], None]


@pytest.fixture
def edit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Writes the network's module, in a project with data that a file decides on."""
    monkeypatch.syspath_prepend(str(workspace))
    (workspace / "get_data.py").write_text(DATA)
    (workspace / "draw").write_text("1")

    def write(sign: str) -> None:
        (workspace / "net_of_mine.py").write_text(NET.replace("{sign}", sign))
        sys.modules.pop("net_of_mine", None)
        importlib.invalidate_caches()

    write("")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write


def test_changed_code_is_refused_or_resumes_without_the_old_best(
    run_here: Runner, edit: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    trained, _ = run_here(*COMMON, *DROP, "trainer.max_epochs=4")
    edit("-")
    more = (*COMMON, *DROP, "trainer.max_epochs=6", "trainer.resume=last")
    with pytest.raises(
        ConfigError, match=rf"code has changed since run {trained.id} began \(net_of_mine\).*resume_code=new"
    ):
        run_here(*more)
    record, run_dir = run_here(*more, "trainer.resume_code=new")
    assert f"Resuming run {trained.id} with changed code (net_of_mine)" in caplog.text
    assert record.training is not None and record.training.tested in (5, 6), "the old code's best was carried over"
    assert record.metrics["val_accuracy"] < 0.9, "the weights are those of the other sign"
    assert record.signature is not None and (run_dir / "checkpoints" / "best.ckpt").is_file()


def test_weights_that_do_not_fit_the_changed_code_are_refused(run_here: Runner, edit: Edit, workspace: Path) -> None:
    run_here(*COMMON, *DROP, "trainer.max_epochs=1")
    edit("-")
    module = workspace / "net_of_mine.py"
    module.write_text(module.read_text().replace("num_classes)", "num_classes, bias=False)"))
    with pytest.raises(ConfigError, match=r"the old weights do not fit the changed network \(net_of_mine changed\)"):
        run_here(*COMMON, *DROP, "trainer.max_epochs=2", "trainer.resume=last", "trainer.resume_code=new")


def test_changed_data_are_refused_by_resume_and_by_scoring(run_here: Runner, workspace: Path, edit: Edit) -> None:
    trained, _ = run_here(*COMMON, *DROP, "trainer.max_epochs=1")
    scored, _ = run_here("task=evaluate", "from=last")  # its reader runs a file, which this user has run here before
    assert scored.metrics["accuracy"] == trained.metrics["accuracy"]
    (workspace / "draw").write_text("2")
    with pytest.raises(ConfigError, match=r"get_data gives other arrays.*restore them"):
        run_here(*COMMON, *DROP, "trainer.max_epochs=2", f"trainer.resume={trained.id}")
    with pytest.raises(ConfigError, match=r"would contain samples that the model was trained on"):
        run_here("task=evaluate", f"from={trained.id}")


def test_a_changed_script_with_the_same_arrays_counts_as_the_same_data(
    run_here: Runner, workspace: Path, edit: Edit
) -> None:
    trained, _ = run_here(*COMMON, *DROP, "trainer.max_epochs=1")
    with (workspace / "get_data.py").open("a") as file:
        file.write("# A remark.\n")
    run_here("task=evaluate", "from=last", "dataset.max_samples=250")
    run_here(*COMMON, *DROP, "trainer.max_epochs=2", f"trainer.resume={trained.id}")
    (workspace / "draw").write_text("2")
    with pytest.raises(ConfigError, match=r"would contain samples that the model was trained on"):
        run_here("task=evaluate", f"from={trained.id}", "dataset.max_samples=250")


def test_a_failed_attempt_does_not_hide_that_the_data_changed(
    run_here: Runner, workspace: Path, edit: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    record, run_dir = run_here(*COMMON, *DROP, "trainer.max_epochs=2")
    (workspace / "draw").write_text("2")
    for target, epochs in (("net_of_mine.Nat", 2), ("net_of_mine.Net", 3)):
        record = read_record(run_dir)
        record.status, record.config["model"]["_target_"] = QUEUED, target
        record.config["trainer"]["max_epochs"] = epochs
        write_record(run_dir, record)
        if target.endswith("Nat"):
            with pytest.raises(ConfigError):
                execute.execute(run_dir, capture=False, pictures=False)
        else:
            execute.execute(run_dir, capture=False, pictures=False)
    assert (
        "Starting over: the data or the code has changed since the last attempt (get_data gives other arrays)"
        in caplog.text
    )


def test_a_refused_attempt_does_not_allow_the_next_one(run_here: Runner, workspace: Path, edit: Edit) -> None:
    """Several processes cannot agree to start over, so each attempt is refused."""
    _, run_dir = run_here(*COMMON, *DROP, "trainer.max_epochs=2")
    (workspace / "draw").write_text("2")
    for _ in range(2):
        record = read_record(run_dir)
        record.status, record.config["compute"]["nodes"] = QUEUED, 2
        write_record(run_dir, record)
        with pytest.raises(ConfigError, match="has changed since the last attempt .get_data gives other arrays"):
            execute.execute(run_dir, capture=False, pictures=False)
        assert (run_dir / "checkpoints" / "last.ckpt").is_file()


def test_a_script_named_by_a_record_runs_only_if_its_user_ran_it(run_here: Runner, workspace: Path, edit: Edit) -> None:
    """A user's config that names the reader does not make the file trusted."""
    (workspace / "conf" / "dataset").mkdir(parents=True)
    (workspace / "conf" / "dataset" / "mine.yaml").write_text("_target_: labrun.data.readers.GetData\n")
    _, run_dir = run_here("dataset=get_data")
    (workspace / "theirs.py").write_text("open('ran', 'w').close()\n")
    record = read_record(run_dir)
    record.config["dataset"]["script"] = "theirs.py"
    write_record(run_dir, record)
    with pytest.raises(ConfigError, match=r"executes the file 'theirs.py', and nothing proves that you have run it"):
        run_here("task=evaluate", "from=last")
    assert not (workspace / "ran").exists()


def test_the_frozen_script_decides_whether_a_sweeps_data_changed(run_here: Runner, workspace: Path, edit: Edit) -> None:
    """The runs read what the script gave at submission, whatever has been edited since."""
    values = ("dataset=get_data", "model.regularization=1")
    (first, run_dir), (again, _) = run_here(*values), run_here(*values)
    (workspace / "frozen").mkdir()
    (workspace / "get_data.py").rename(workspace / "frozen" / "get_data.py")
    (workspace / "get_data.py").write_text(DATA.replace("size=(300, 4)", "size=(200, 4)"))
    old = [resume.PreviousRun(run_dir, first)]
    assert resume.match([again], old, [str(workspace / "frozen"), *sys.path]) == old
    assert resume.match([again], old) == [None]
    first.data[0].content = None
    assert resume.match([again], old, [str(workspace / "frozen"), *sys.path]) == old, "of a version without that field"


def test_a_resumed_sweep_reuses_no_score_of_changed_data(
    run_here: Runner, workspace: Path, edit: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    """The script is unchanged, but the file that it reads is not."""
    values = ("dataset=get_data", "model.regularization=1")
    (first, run_dir), (again, _) = run_here(*values), run_here(*values)
    assert first.data[0].digest == again.data[0].digest and first.data[0].content == again.data[0].content
    assert resume.match([again], [resume.PreviousRun(run_dir, first)]) == [resume.PreviousRun(run_dir, first)]
    (workspace / "draw").write_text("2")
    assert resume.match([again], [resume.PreviousRun(run_dir, first)]) == [None]
    assert "have changed since 1 completed run read them, or cannot be read: the runs are repeated" in caplog.text


@pytest.mark.parametrize("what", ["data", "code"])
def test_a_run_whose_data_or_code_changed_starts_over(
    run_here: Runner, workspace: Path, edit: Edit, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    caplog.set_level("INFO")
    record, run_dir = run_here(*COMMON, *DROP, "trainer.max_epochs=3")
    record.status, record.config["trainer"]["max_epochs"] = QUEUED, 4
    write_record(run_dir, record)
    if what == "data":
        (workspace / "draw").write_text("2")
    else:
        edit("-")
    again = execute.execute(run_dir, capture=False, pictures=False)
    assert "Starting over: the data or the code has changed since the last attempt" in caplog.text
    assert "Going on from" not in caplog.text and "Resuming from" not in caplog.text
    fresh, _ = run_here(*COMMON, *DROP, "trainer.max_epochs=4")
    assert again.metrics["val_loss"] == fresh.metrics["val_loss"]


def test_a_resumed_run_stops_early_by_its_own_patience(
    run_here: Runner, edit: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stopping = (*COMMON, *DROP, "callbacks=early_stopping", "model.lr=20", "trainer.max_epochs=60")
    first, _ = run_here(*stopping, "callbacks.early_stopping.patience=2")
    assert first.training is not None and first.training.epochs is not None and first.training.epochs < 60
    assert first.training.stopped_early is not None and first.training.stopped_early.patience == 2
    assert "Stopped early, after epoch" in caplog.text
    second, _ = run_here(*stopping, "callbacks.early_stopping.patience=7", "trainer.resume=last")
    assert second.training is not None and second.training.epochs is not None
    assert second.training.epochs >= first.training.epochs + 5
    third, _ = run_here(*stopping, "callbacks.early_stopping.patience=7", "trainer.resume=last")
    assert "restarts its count" in caplog.text
    assert third.training is not None and third.training.epochs is not None
    assert third.training.epochs >= second.training.epochs + 7


def test_loading_a_trusted_class_edited_since_training_warns(run_here: Runner, edit: Edit) -> None:
    trained, _ = run_here(*COMMON, *DROP, "trainer.max_epochs=1")
    edit("-")
    with pytest.warns(UserWarning, match=rf"{trained.id}.*its code has changed since it was trained.*net_of_mine"):
        labrun.load_model("run:last", trusted=["net_of_mine.Net"])
    edit("")
    assert labrun.load_model("run:last", trusted=["net_of_mine.Net"]) is not None


def test_a_failed_record_names_the_error_of_another_process_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the run reads its record only once."""
    run_dir = tmp_path / "run"
    recording.create(run_dir, new("a0000000", config={}))
    log = run_dir / "driver.1.log"
    log.write_text("Traceback (most recent call last):\nValueError: of an earlier attempt\n")
    peer_errors.note_log_sizes(run_dir)
    with log.open("a") as file:
        file.write("Traceback (most recent call last):\nValueError: of rank one\n")
    with pytest.raises(RuntimeError), recording.Recording(run_dir, capture=False):
        raise RuntimeError("Connection closed by peer")
    error = read_record(run_dir).error
    assert error.message == f"Connection closed by peer; process 1: ValueError: of rank one ({log})"
    silent = tmp_path / "silent"
    recording.create(silent, new("a0000001", config={}))
    (silent / "driver.1.log").write_text("Initializing distributed\n")
    monkeypatch.setattr(peer_errors, "LOG_WAIT_S", 0)
    peer_errors.note_log_sizes(silent)
    with pytest.raises(RuntimeError), recording.Recording(silent, capture=False):
        raise RuntimeError("Connection closed by peer")
    error = read_record(silent).error
    assert error.message.startswith(
        "Connection closed by peer; another process of the run had ended without an error message"
    )
    for one in (run_dir, silent):  # a Slurm job looks again after its process has written the record
        record = read_record(one)
        assert record.error is not None and not peer_errors.add_cause(one, record)
        assert record == read_record(one)
    other = read_record(silent)
    other.error = recording.Failure("RuntimeError", "while rank 0 waited; process 1: gone; Connection reset by peer")
    assert peer_errors.add_cause(silent, other) and other.error.message.endswith(peer_errors.KILLED)
