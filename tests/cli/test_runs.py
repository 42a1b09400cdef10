"""Every action of `lab runs`, in a workspace with every kind of run, an empty one, and one with a damaged record."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from conftest import Command, Runner
from helpers import PLAIN, Completed, lab, new, run_labrun, submitted
from labrun import cli
from labrun.cli.runs import compare
from labrun.errors import RecordError
from labrun.remote import links
from labrun.runs import archive_export, context, index, recording, removing, store, sweep_state
from labrun.runs.attempts import Failure
from labrun.runs.context import RunContext, annotate
from labrun.runs.record import FINISHED, Record, process_identity, read_record, timestamp, write_record
from labrun.runs.workspace import Workspace
from labrun.search import takeover

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Lab = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: Capture, monkeypatch: Patch) -> Lab:
    """The command `lab` in this process: exit code, output, errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lab", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(end.value.code or 0), out, err

    return call


def make(root: Path, run_id: str, status: str = "completed", **values: object) -> Path:
    """A run of that status."""
    run_dir = submitted(root, run_id, **values)
    record = read_record(run_dir)
    record.status, record.started = status, timestamp()
    time.sleep(0.002)  # no two are submitted in the same millisecond
    if status in FINISHED:
        record.ended, record.duration_s = timestamp(), 1.5
    write_record(run_dir, record)
    return run_dir


@pytest.fixture
def all_kinds(workspace: Path) -> Path:
    """Completed with curves and files, failed, canceled, lost, running, and one with a damaged record."""
    good = make(
        workspace,
        "a1111111",
        metrics={"accuracy": 0.91, "loss": 0.4},
        overrides=["seed=1"],
        config={"model": {"name": "small", "lr": 0.1}, "trainer": {}},
    )
    better = make(
        workspace,
        "a2222222",
        metrics={"accuracy": 0.95, "loss": 0.5},
        overrides=["seed=2"],
        config={"model": {"name": "large", "lr": 0.1}, "trainer": {}},
    )
    for run_dir, factor in ((good, 1.0), (better, 1.2)):
        logged = RunContext(run_dir)
        for step in range(5):
            logged.log("loss", factor * 0.5**step, step)
        logged.log("accuracy", 0.9)
        logged.close()
        (run_dir / "outputs" / "model.bin").write_bytes(b"x" * 1000)
        (run_dir / "driver.log").write_text(f"what {run_dir.name[-8:]} printed\n")
    error = {"type": "ValueError", "message": "no\nreally", "traceback": "Traceback: here\n"}
    make(workspace, "b3333333", "failed", name="other", error=error)
    make(workspace, "c4444444", "canceled", error=Failure("Canceled", "Ctrl-C"))
    gone = dataclasses.replace(process_identity(), pid=2**22 - 7, start_time=1.0)
    make(workspace, "d5555555", "running", process=gone)
    make(workspace, "e6666666", "running", process=process_identity())
    (workspace / "outputs" / "test" / "now-e6666666" / "heartbeat").touch()
    broken = make(workspace, "f7777777")
    (broken / "run.json").write_text('{"id": "f7777777", "name"')
    return workspace


def test_the_table_is_filtered_sorted_and_printed_as_json_and_csv(all_kinds: Path, run: Lab) -> None:
    code, out, err = run("runs")
    assert code == 0 and "f7777777" in err and "damaged" in err
    status = {line.split()[0]: line.split()[2] for line in out.splitlines()[1:]}
    assert status == {
        "a1111111": "completed",
        "a2222222": "completed",
        "b3333333": "failed",
        "c4444444": "canceled",
        "d5555555": "lost",
        "e6666666": "running",
    }
    assert run("runs", "--status", "lost")[1].splitlines()[1].startswith("d5555555")
    assert [line.split()[0] for line in run("runs", "ls", "--where", "accuracy>0.9", "--sort", "accuracy")[1].splitlines()[1:]] == ["a2222222", "a1111111"]  # fmt: skip  # noqa: E501
    assert [line.split()[0] for line in run("runs", "--sort", "loss", "-n", "1")[1].splitlines()[1:]] == ["a1111111"]
    assert "0.4000" in run("runs", "--metric", "loss", "--where", "model.name=small")[1]
    rows = list(csv.DictReader(io.StringIO(run("runs", "--csv")[1])))
    assert {row["id"]: row["loss"] for row in rows}["a2222222"] == "0.5" and len(rows) == 6
    objects = [json.loads(line) for line in run("runs", "--json", "--experiment", "other")[1].splitlines()]
    assert [one["id"] for one in objects] == ["b3333333"]
    code, _, err = run("runs", "--where", "accuraci>0.9")
    assert code == 2 and "accuraci" in err and "'accuracy'" in err
    assert run("runs", "--where", "accuracy")[0] == 2 and run("runs", "--sort", "nothing")[0] == 2


@pytest.mark.parametrize(
    "word",
    [
        "show",
        "logs",
        "metrics",
        "files",
        "download",
        "cancel",
        "rerun",
        "watch",
        "tag",
        "note",
        "rm",
        "export",
        "compare",
    ],
)
def test_actions_report_that_there_is_no_run_yet(workspace: Path, run: Lab, word: str) -> None:
    code, out, err = run("runs", word, *(["last"] if word not in ("watch", "logs", "show") else []))
    assert code == 2 and not out and "there is no run yet" in err


def test_an_empty_folder_has_nothing_to_list_or_to_remove(workspace: Path, run: Lab) -> None:
    assert run("runs")[:2] == (0, f"no runs in {workspace}\n")
    assert run("runs", "gc", "--older-than", "1d")[:2] == (0, "nothing to remove\n")
    assert run("runs", "cancel", "--status", "queued")[0] == 2


@pytest.mark.parametrize(
    "word", ["show", "logs", "metrics", "files", "download", "tag", "note", "rm", "export", "cancel"]
)
def test_a_damaged_record_is_reported_by_every_action(all_kinds: Path, run: Lab, word: str) -> None:
    code, _, err = run("runs", word, str(all_kinds / "outputs/test/now-f7777777"))
    assert code == 2 and "damaged" in err and (all_kinds / "outputs/test/now-f7777777/run.json").exists()


def test_a_run_is_found_by_id_folder_last_or_best(all_kinds: Path, run: Lab) -> None:
    assert "a2222222" in run("runs", "show", "best:accuracy")[1]
    assert "a1111111" in run("runs", "show", "best:loss")[1]
    assert "e6666666" in run("runs", "show", "last")[1] and "b3333333" in run("runs", "show", "b3")[1]
    assert "2 ids" in run("runs", "show", "a")[2] and "no completed run" in run("runs", "show", "best:auc")[2]
    assert "a1111111" in run("runs", "show", "outputs/test/now-a1111111")[1]


def test_last_may_be_a_search_without_trials(workspace: Path, run: Lab) -> None:
    make(workspace, "a1111111", "running")
    time.sleep(0.05)  # the clock of files is coarser
    folder = workspace / "multirun" / "test" / "search"
    folder.mkdir(parents=True)
    sweep_state.Plan("local", [], [], [], str(workspace), "test", {}, command=["-m"]).write(folder)
    code, out, _ = run("runs", "cancel", "last")
    assert (code, out) == (0, "asked to stop: a search that had started no trial\n")
    assert takeover.is_canceled(folder)
    assert not list((workspace / "outputs").glob("*/*/requests/*")), "the earlier run continues"


def test_show_describes_one_run_or_many(all_kinds: Path, run: Lab) -> None:
    out = run("runs", "show", "a1")[1]
    assert "lab runs rerun a1111111" in out and "0.9100" in out
    assert "Traceback: here" in run("runs", "show", "b3", "--error")[1]
    lines = run("runs", "show", "--experiment", "test")[1].splitlines()
    statuses = [line.split()[1] for line in lines if "status" in line]
    assert statuses == ["running", "lost", "canceled", "completed", "completed"]
    assert json.loads(run("runs", "show", "a1", "--json")[1])["metrics"]["loss"] == 0.4
    shown = json.loads(run("runs", "show", "c4", "--json")[1])["error"]
    assert shown == {"type": "Canceled", "message": "Ctrl-C", "traceback": ""}


def test_metrics_and_files_are_listed_and_downloaded(all_kinds: Path, run: Lab) -> None:
    code, out, _ = run("runs", "metrics", "a1", "--plot", "--name", "loss")
    assert code == 0 and re.search(r"loss\s+5\s+0.0625\s+0.0625\s+1\s+4", out) and "⡀" in out
    picture = Path(out.split("picture: ")[1].strip())
    assert Image.open(picture).size[0] > 300
    values = list(csv.DictReader(io.StringIO(run("runs", "metrics", "a1", "--csv")[1])))
    assert [float(row["value"]) for row in values if row["name"] == "loss"] == [0.5**n for n in range(5)]
    code, _, err = run("runs", "metrics", "a1", "--name", "lost")
    assert code == 2 and "'loss'" in err
    out = run("runs", "files", "a1")[1]
    assert "outputs/model.bin" in out and "1000 bytes" in out
    assert run("runs", "download", "a1", "outputs/model.bin")[0] == 0
    assert (all_kinds / "test-a1111111/outputs/model.bin").read_bytes() == b"x" * 1000
    assert "already exists" in run("runs", "download", "a1", "*.bin")[2]
    code, _, err = run("runs", "download", "a1", "../../../secret")
    assert code == 2 and "no file" in err
    assert run("runs", "download", "--where", "accuracy>0", "-o", "all")[0] == 0
    assert (all_kinds / "all/test-a2222222/driver.log").is_file()


def test_logs_print_the_output_of_runs(all_kinds: Path, run: Lab) -> None:
    assert run("runs", "logs", "a1")[1] == "what a1111111 printed\n"
    assert run("runs", "logs", "--where", "accuracy>0.9")[1].splitlines()[0] == "== test  a2222222"
    assert run("runs", "logs", "-f", "a1")[1] == "what a1111111 printed\n"
    assert "printed nothing" in run("runs", "logs", "b3")[2]


def test_following_logs_ends_if_the_controller_has_ended(workspace: Path, run: Lab) -> None:
    folder = submitted(workspace, "abcd1234", status="running", config={"compute": {"target": "local"}})
    link = links.Link("box", "workspaces/w", "workspaces/w/x", str(workspace), state=links.STARTED, runs=["."])
    link.reached = time.time()  # it is not asked again for a moment
    links.write(folder, link)
    _, _, err = run("runs", "logs", "-f", "abcd1234")
    assert f"the controller of run abcd1234 on box has ended before the run: 'lab runs watch {folder}'" in err


def test_compare_shows_differences_and_draws_curves(all_kinds: Path, run: Lab) -> None:
    code, out, _ = run("runs", "compare", "a1", "a2", "-o", "both.png")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and ["model.name", "small", "large"] in lines and ["accuracy", "0.9100", "0.9500"] in lines
    assert "model.lr" not in out and Image.open("both.png").size[0] > 500
    assert out.index("model.name") < out.index("accuracy") < out.index("both.png")
    assert "two runs or more" in run("runs", "compare", "a1")[2]
    found = json.loads(run("runs", "compare", "a1", "a2", "--json")[1])
    assert found["differences"]["model.name"] == {"a1111111": "small", "a2222222": "large"}


def test_compare_over_a_key_has_a_column_for_each_setting(workspace: Path, run: Lab) -> None:
    for number, (seed, lr) in enumerate(((1, 0.1), (2, 0.1), (1, 0.3))):
        run_dir = make(
            workspace,
            f"a{number}000000",
            metrics={"accuracy": 0.2 * seed},
            overrides=[f"model.lr={lr}", f"seed={seed}"],
            config={"model": {"lr": lr}, "seed": seed, "trainer": {}},
        )
        logged = RunContext(run_dir)
        for step in range(3):
            logged.log("loss", step * seed, step)
        logged.close()
    code, out, err = run("runs", "compare", "a0", "a1", "a2", "--over", "seed", "-o", "over.png")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("  ")}
    assert code == 0 and err == "" and Image.open("over.png").size[0] > 300
    assert rows["model.lr"] == ["0.1", "0.3"] and rows["seed"] == ["1", "2", "1"]
    assert rows["accuracy_mean"] == ["0.3000", "0.2000"] and rows["accuracy_std"] == ["0.1414", "-"]
    assert rows["accuracy_n"] == ["2", "1"] and "curves: over.png" in out
    found = json.loads(run("runs", "compare", "a0", "a1", "a2", "--over", "seed", "--over", "model.lr", "--json")[1])
    assert found["over"] == ["seed", "model.lr"] and found["settings"][0]["runs"] == [
        "a0000000",
        "a1000000",
        "a2000000",
    ]
    assert found["settings"][0]["metrics"]["accuracy"]["n"] == found["settings"][0]["metrics"]["accuracy"]["of"] == 3
    code, _, err = run("runs", "compare", "a0", "a1", "--over", "sed")
    assert code == 2 and "Did you mean 'seed'?" in err


def test_system_metrics_are_shown_on_request(workspace: Path, run: Lab) -> None:
    for run_id, values in (("a1000000", (1.0, 3.0)), ("a2000000", (9.0, 2.0)), ("a3000000", ())):
        run_dir = make(workspace, run_id, metrics={"accuracy": 0.5})
        for step, value in enumerate(values):
            context.log_system(run_dir, 1, step, {"system/memory_gb": value, "system/disk_free_gb": 10 * value})

    def ids(*words: str) -> list[str]:
        return [line.split()[0] for line in run("runs", *words)[1].splitlines()[1:]]

    assert (
        ids("--where", "system/memory_gb>4") == ["a2000000"] and "9" in run("runs", "--metric", "system/memory_gb")[1]
    )
    assert ids("--sort", "system/memory_gb") == ["a2000000", "a1000000", "a3000000"]
    assert "none of these runs has it" in run("runs", "--metric", "system/gpu0")[2]
    assert (
        "system/gpu0: no metric" in run("runs", "--where", "system/gpu0>1")[2] + run("runs", "--sort", "system/gpu0")[2]
    )
    both = ("runs", "compare", "a1", "a2")
    assert "system/" not in run(*both)[1] + run("runs")[1] + run("runs", "--csv")[1] + run(*both, "--json")[1]
    rows = {line.split()[0]: line.split()[1:] for line in run(*both, "--system")[1].splitlines() if line}
    assert rows["system/memory_gb"] == ["3", "9"] and rows["system/disk_free_gb"] == ["10", "20"]


def test_compare_leaves_out_keys_that_refer_to_other_keys(workspace: Path, run: Lab) -> None:
    for number in (1, 2):
        model = {"lr": number / 10, "optimizer": {"lr": number / 10, "momentum": number}, "head": {"units": number}}
        make(workspace, f"a{number}111111", config={"model": model, "trainer": {}})
    out = run("runs", "compare", "a1", "a2")[1]
    assert "model.lr" in out and "model.optimizer.momentum" in out and "model.head.units" in out
    assert "model.optimizer.lr" not in out


def test_a_table_shows_only_the_differing_values(workspace: Path, run: Lab) -> None:
    common = ["model=mnist_dnn", "tracking=none"]
    for number in (1, 2):
        make(workspace, f"a{number}111111", overrides=[common[0], f"model.lr=0.{number}", common[1]])
    lines = run("runs")[1].splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["model.lr=0.2", "model.lr=0.1"]
    assert lines[3] == "all of them: model=mnist_dnn tracking=none"
    assert "model=mnist_dnn model.lr=0.2 tracking=none" in run("runs", "-n", "1")[1], "one run by itself: all of it"
    assert "model=mnist_dnn" in run("runs", "--csv")[1]


def test_compare_leaves_out_keys_that_are_not_part_of_an_experiment(workspace: Path, run: Lab) -> None:
    for number in (1, 2):
        config = {
            "model": {"lr": number},
            "compute": {"cpus_per_run": number, "target": f"t{number}"},
            "sweep": {"resume": str(number)},
            "datastore": {"root": f"/data/{number}"},
            "tracking": {"kind": str(number)},
            "script": {"path": f"{number}.py", "source": f"/code/{number}"},
            "trainer": {"resume": {"id": f"b{number}", "path": f"/runs/{number}/last.ckpt"}},
        }
        run_dir = make(workspace, f"a{number}111111", config=config, overrides=["seed=1", f"model.lr={number}"])
        context = RunContext(run_dir)
        for step in range(3):
            context.log("loss", number / (step + 1), step)
        context.close()
    found = json.loads(run("runs", "compare", "a1", "a2", "--json")[1])["differences"]
    assert set(found) == {"model.lr", "script.path", "trainer.resume.id"}
    compared = [read_record(path) for path in sorted((workspace / "outputs/test").iterdir())]
    assert compare._called(compared) == ["model.lr=1", "model.lr=2"]
    assert compare._called([compared[0], compared[0]]) == ["test a1111111"] * 2


def test_a_running_run_can_be_tagged_and_annotated(all_kinds: Path, run: Lab) -> None:
    running = all_kinds / "outputs/test/now-e6666666"
    supervisor = read_record(running)
    assert run("runs", "tag", "e6", "team=vision", "good")[1] == "e6666666  team=vision good\n"
    write_record(running, supervisor)  # the run's supervisor knows nothing of it, and takes nothing away
    assert run("runs", "--tag", "team=vision")[1].splitlines()[1].startswith("e6666666")
    assert run("runs", "--where", "tags.team=vision", "--json")[1].count("\n") == 1
    assert run("runs", "tag", "e6", "--remove", "good")[1] == "e6666666  team=vision\n"
    assert run("runs", "tag", "--experiment", "test", "all=yes")[1].count("all=yes") == 5
    assert run("runs", "note", "e6", "looks", "well")[1] == "e6666666  looks well\n"
    assert "looks well" in run("runs", "show", "e6")[1]
    assert run("runs", "note", "e6", "--append", "very")[0] == 0 and read_record(running).notes == "looks well\nvery"


def test_rm_removes_only_ended_runs_without_dependents(all_kinds: Path, run: Lab) -> None:
    kept = all_kinds / "outputs/test/now-a1111111"
    code, out, _ = run("runs", "rm", "a1")
    assert code == 1 and "a1111111" in out and "--yes" in out and kept.exists()
    assert run("runs", "rm", "b3", "--yes")[0] == 0 and not (all_kinds / "outputs/other").exists()
    code, _, err = run("runs", "rm", "e6", "--yes")
    assert code == 1 and "it is running" in err and "lab runs cancel e6666666" in err
    assert run("runs", "rm", "d5", "--yes")[0] == 0  # lost: nothing lives there
    make(all_kinds, "a8888888", parent="a1111111")
    code, _, err = run("runs", "rm", "a1", "--yes")
    assert code == 1 and "a8888888 resumed it" in err and kept.exists()
    assert "named one by one" in run("runs", "rm", "--experiment", "test", "--force", "--yes")[2]
    assert run("runs", "rm", "a1", "--force", "--yes")[0] == 0 and not kept.exists()
    assert run("runs", "rm", "--experiment", "test", "--yes")[0] == 1  # one of them runs
    assert [path.name for path in (all_kinds / "outputs/test").iterdir()] == ["now-e6666666", "now-f7777777"] or len(
        list((all_kinds / "outputs/test").iterdir())
    ) == 2


def test_rm_does_not_follow_links(all_kinds: Path, run: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = make(tmp_path_factory.mktemp("elsewhere"), "b9999999")
    (elsewhere / "outputs" / "mine.txt").write_text("keep")
    (all_kinds / "outputs/test/linked").symlink_to(elsewhere)
    code, _, err = run("runs", "rm", str(elsewhere), "--yes", "--force")
    assert code == 1 and "neither a run's folder" in err
    (all_kinds / "outputs/test/alias").symlink_to(all_kinds / "outputs/test/now-a2222222")
    (all_kinds / "short").symlink_to(all_kinds / "outputs/test/now-a2222222")
    for name in ("outputs/test/linked", "outputs/test/alias", "short", str(all_kinds / "short")):
        code, _, err = run("runs", "rm", name, "--yes", "--force")
        assert code == 2 and "is a link" in err
    assert (all_kinds / "outputs/test/now-a2222222/run.json").exists()
    inside = all_kinds / "outputs/test/now-a1111111/outputs/link"
    inside.symlink_to(elsewhere)
    assert run("runs", "rm", "a1", "--yes")[0] == 0
    assert (elsewhere / "outputs" / "mine.txt").read_text() == "keep"


def test_gc_removes_old_runs_except_the_best(all_kinds: Path, run: Lab) -> None:
    old = "2020-01-01T00:00:00.000+00:00"
    for number in range(4):
        run_dir = make(all_kinds, f"aa00000{number}", metrics={"accuracy": number / 10})
        write_record(run_dir, replaced(run_dir, created=old, ended=old))
    code, out, _ = run("runs", "gc", "--older-than", "30d", "--keep-best", "3", "--keep-registered")
    assert code == 1 and "--yes" in out
    assert set(re.findall(r"^aa\w+", out, re.M)) == {"aa000000", "aa000001", "aa000002"}
    assert run("runs", "gc", "--older-than", "30d", "--keep-best", "3", "--yes")[0] == 0
    left = {record.id for _, record in store.runs(all_kinds)}
    assert "aa000003" in left and "aa000000" not in left and "a1111111" in left
    assert (
        run("runs", "gc", "--older-than", "soon")[0] == 2 and "--older-than" in run("runs", "gc", "--keep-best", "2")[2]
    )


def replaced(run_dir: Path, **values: object) -> Record:
    record = read_record(run_dir)
    for name, value in values.items():
        setattr(record, name, value)
    return record


def test_gc_removes_code_that_no_run_uses(workspace: Path, run: Lab) -> None:
    code = Workspace(workspace).code
    for name, days in (("named", 3), ("unnamed", 3), ("just-now", 0)):
        (code / name).mkdir(parents=True)
        (code / name / "a.py").write_text("pass")
        os.utime(code / name, (time.time() - 86400 * days,) * 2)
    make(workspace, "a1111111", code={"digest": "named", "folder": str(code / "named")})
    assert run("runs", "gc", "--yes")[0] == 0
    assert sorted(path.name for path in code.iterdir()) == ["just-now", "named"]


def test_an_exported_run_is_imported_completely(
    all_kinds: Path, run: Lab, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Patch
) -> None:
    (all_kinds / "a.py").write_text("x = 1\n")
    from labrun.submission import snapshot

    code = snapshot.take(all_kinds, all_kinds)
    run_dir = all_kinds / "outputs/test/now-a1111111"
    write_record(run_dir, replaced(run_dir, code=code))
    assert "it is running" not in run("runs", "export", "a1", "-o", "one.tar.gz")[2]
    assert (
        "has not ended" in run("runs", "export", "e6")[2]
        and "already exists" in run("runs", "export", "a1", "-o", "one.tar.gz")[2]
    )
    other = tmp_path_factory.mktemp("other")
    monkeypatch.chdir(other)
    code_, out, _ = run("runs", "import", str(all_kinds / "one.tar.gz"))
    assert code_ == 0 and "a1111111" in out
    came = other / "outputs/test/now-a1111111"
    assert (came / "outputs/model.bin").read_bytes() == b"x" * 1000
    record = read_record(came)
    assert record.code and Path(str(record.code.folder), "a.py").read_text() == "x = 1\n"
    assert Path(str(record.code.folder)).is_relative_to(other)
    assert "already here" in run("runs", "import", str(all_kinds / "one.tar.gz"))[1]


@pytest.mark.parametrize(
    "name, kind",
    [
        ("/etc/evil", tarfile.REGTYPE),
        ("../evil", tarfile.REGTYPE),
        ("outputs/a/../../../evil", tarfile.REGTYPE),
        ("outputs/a/link", tarfile.SYMTYPE),
        ("outputs/a/hard", tarfile.LNKTYPE),
        ("outputs/.labrun/index.json", tarfile.REGTYPE),
        ("elsewhere/x", tarfile.REGTYPE),
        ("outputs/a/fifo", tarfile.FIFOTYPE),
    ],
)
def test_import_refuses_paths_outside_the_workspace(workspace: Path, run: Lab, name: str, kind: bytes) -> None:
    with tarfile.open("evil.tar", "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry, io.BytesIO())
    code, _, err = run("runs", "import", "evil.tar")
    assert code == 2 and "nothing was imported" in err
    assert {path.name for path in workspace.iterdir()} <= {"evil.tar", "outputs"} and not list(
        workspace.glob("outputs/*")
    )[1:]


def test_import_checks_every_digest(all_kinds: Path, run: Lab) -> None:
    assert run("runs", "export", "a1", "-o", "one.tar")[0] == 0
    raw = Path("one.tar").read_bytes()
    Path("bad.tar").write_bytes(raw.replace(b"what a1111111 printed", b"what a1111111 prinxed"))
    shutil.rmtree("outputs/test/now-a1111111")
    code, _, err = run("runs", "import", "bad.tar")
    assert code == 2 and "driver.log is not what was exported" in err
    assert not Path("outputs/test/now-a1111111").exists()
    Path("cut.tar").write_bytes(raw[:3000])
    assert run("runs", "import", "cut.tar")[0] == 2 and run("runs", "import", "none.tar")[0] == 2
    assert run("runs", "import", "one.tar")[0] == 0


def test_cancel_takes_a_filter(workspace: Path, run: Lab) -> None:
    for number in range(3):
        recording.create(workspace / "outputs/test" / f"q{number}", new(f"ab00000{number}"))
    make(workspace, "b1111111")
    code, out, _ = run("runs", "cancel", "--status", "queued")
    assert code == 0 and out.count("canceled") == 3
    assert (
        run("runs", "--status", "queued", "cancel")[0] == 2
    )  # none is left; a filter before the action counts as well


def test_rerun_uses_the_frozen_config_and_code(workspace: Path) -> None:
    """Overrides apply on top, and the new code is used on request."""
    (workspace / "mine.py").write_text("from sklearn.dummy import DummyClassifier\nclass M(DummyClassifier):\n    def fit(self, x, y):\n        print('VERSION one')\n        return super().fit(x, y)\n")  # fmt: skip  # noqa: E501
    (workspace / "conf/model").mkdir(parents=True)
    (workspace / "conf/model/mine.yaml").write_text("_target_: mine.M\nstrategy: most_frequent\n")
    done = lab_run(workspace, "model=mine", "seed=5", "compute=local")
    assert done.returncode == 0, done.stderr
    (workspace / "mine.py").write_text((workspace / "mine.py").read_text().replace("one", "two"))
    (workspace / "conf/model/mine.yaml").write_text("_target_: mine.Gone\n")
    again = lab(workspace, "runs", "rerun", "last", "seed=6", "model.strategy=uniform")
    assert again.returncode == 0, again.stderr
    run_dir, record = store.find(workspace, "last")
    assert record.config["seed"] == 6 and record.config["model"]["strategy"] == "uniform"
    assert "VERSION one" in (run_dir / "driver.log").read_text() and record.tags["rerun_of"]
    again = lab(workspace, "runs", "rerun", "last", "--code", "new", "model=logistic_regression")
    assert again.returncode == 0, again.stderr
    assert store.find(workspace, "last")[1].config["model"]["_target_"].endswith("logistic_regression")
    bad = lab(workspace, "runs", "rerun", "last", "model.regularizatoin=1")
    assert bad.returncode == 2 and "model.regularization" in bad.stderr and "Traceback" not in bad.stderr


def lab_run(workspace: Path, *arguments: str) -> Completed:
    return run_labrun(*arguments, *PLAIN, cwd=workspace)


def test_the_index_is_rebuilt_from_the_records(all_kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {record.id: record.status for _, record in store.listing(all_kinds).runs}
    file = Workspace(all_kinds).index
    assert file.is_file()
    file.write_text("{")
    assert {record.id: record.status for _, record in store.listing(all_kinds).runs} == first
    run_dir = all_kinds / "outputs/test/now-a1111111"
    write_record(run_dir, replaced(run_dir, notes="changed"))
    annotate(run_dir, tags={"x": "y"})
    found = {record.id: record for _, record in store.listing(all_kinds).runs}["a1111111"]
    assert found.notes == "changed" and found.tags == {"x": "y"}
    monkeypatch.setattr(Workspace, "index", Path("/proc/nowhere"))
    assert index.listing(all_kinds).runs  # it cannot be written: the records are read


def test_a_folder_that_is_not_a_run_is_not_removed(workspace: Path) -> None:
    (workspace / "outputs/a").mkdir(parents=True)
    (workspace / "outputs/a/run.json").write_text("{}")
    with pytest.raises(RecordError, match="not a run's folder"):
        removing.remove(workspace, workspace / "outputs/a")
    with pytest.raises(RecordError, match="outside the workspace"):
        archive_export.export(workspace, [(Path("/tmp"), new())], workspace / "x.tar")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        {"overrides": [1, None]},
        {"metrics": {"accuracy": 10**400}},
        {"created": "2026-11-20T00:00:00"},
        {"created": 5},
        {"status": "odd"},
        {"tags": {"a": 1}},
        {"metrics": []},
        {"ended": "never"},
        "folder",
        "fifo",
    ],
)
def test_a_damaged_record_of_any_kind_hides_no_others(workspace: Path, run: Lab, damage: object) -> None:
    make(workspace, "a1111111", metrics={"accuracy": 0.9})
    file = make(workspace, "b2222222") / "run.json"
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    elif isinstance(damage, dict):
        file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    else:
        file.unlink()
        file.mkdir() if damage == "folder" else os.mkfifo(file)
    clean = ["runs", "gc", "--older-than", "0d"]
    for words in (["runs"], clean, ["runs", "show", "a1"], ["runs", "--sort", "accuracy"]):
        code, out, err = run(*words)
        assert code in (0, 1) and "a1111111" in out, (words, err)
        assert "damaged" in err or words[1:2] == ["show"]


def test_where_compares_numbers_text_and_times(workspace: Path, run: Lab) -> None:
    config = {"trainer": {"deterministic": True, "clip": None}, "model": {"name": "small"}}
    make(workspace, "a1111111", config=config, metrics={"accuracy": 0.9, "loss": "NaN"})
    make(workspace, "b2222222", config={**config, "model": {"name": "large"}}, metrics={"accuracy": "high"})

    def found(condition: str) -> list[str]:
        return [json.loads(line)["id"] for line in run("runs", "--json", "--where", condition)[1].splitlines()]

    both = ["b2222222", "a1111111"]
    assert found("trainer.deterministic=true") == found("trainer.deterministic=True") == both
    assert found("trainer.clip=null") == found("trainer.deterministic!=false") == both
    assert found("loss=nan") == ["a1111111"] and found("accuracy>0.5") == ["a1111111"]
    assert found("model.name=small") == ["a1111111"] and found("created>2020-01-01") == both
    for wrong in ("accuracy>abc", "accuracy>", "accuracy<"):
        code, _, err = run("runs", "--where", wrong)
        assert code == 2 and ("not a number" in err or "lacks a value" in err)


def test_gc_keeps_runs_that_it_cannot_rank(workspace: Path, run: Lab) -> None:
    old = "2020-01-01T00:00:00.000+00:00"
    for number, value in enumerate((0.9, "NaN")):
        run_dir = make(workspace, f"aa00000{number}", metrics={"accuracy": value})
        write_record(run_dir, replaced(run_dir, created=old, ended=old))
    code, _, err = run("runs", "gc", "--older-than", "1d", "--keep-best", "1", "--metric", "acuracy", "--yes")
    assert code == 2 and "'accuracy'" in err
    run_dir = make(workspace, "bb000000", name="other")
    write_record(run_dir, replaced(run_dir, created=old, ended=old))
    assert run("runs", "gc", "--older-than", "1d", "--keep-best", "1", "--yes")[0] == 0
    assert {record.id for _, record in store.runs(workspace)} == {"aa000000", "bb000000"}


def test_control_characters_are_shown_as_text(workspace: Path, run: Lab) -> None:
    make(workspace, "a1111111", notes="one\n\x1b[31mred", tags={"\x1b]0;x": ""})
    out = run("runs", "show", "last")[1] + run("runs")[1]
    assert "\x1b" not in out and "\\x1b[31mred" in out


def test_a_subfolder_uses_the_workspace_above(
    run_here: Runner, lab_here: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, run_dir = run_here("report=none", "dataset.max_samples=50")
    for below in (workspace / "notebooks" / "old", run_dir):
        below.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(below)
        done = lab_here("runs", "ls")
        assert record.id in done.stdout and f"lab: in the workspace {workspace}" in done.stderr, done.stderr
    (workspace / "notebooks" / "outputs").mkdir()
    monkeypatch.chdir(workspace / "notebooks")
    assert record.id not in lab_here("runs", "ls").stdout, "it is a workspace itself"


def test_rerun_uses_the_frozen_code_in_any_workspace(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On another machine, beside other code of the same name; and in a folder below. Over 15 s: three runs."""
    code = "import numpy as np\nclass M:\n    def fit(self, x, y):\n        print('VERSION', {})\n        return self\n    def predict(self, x):\n        return np.zeros(len(x), int)\n"  # noqa: E501
    (workspace / "mine.py").write_text(code.format(1))
    (workspace / "conf/model").mkdir(parents=True)
    (workspace / "conf/model/mine.yaml").write_text("_target_: mine.M\n")
    done = lab_run(workspace, "model=mine", "report=none", "tracking=none", "dataset.max_samples=50")
    assert done.returncode == 0, done.stderr
    assert lab(workspace, "runs", "export", "last", "-o", "a.tar.gz").returncode == 0
    (workspace / "mine.py").unlink()
    below = workspace / "notebooks"
    below.mkdir()
    other = tmp_path_factory.mktemp("other")
    assert lab(other, "runs", "import", str(workspace / "a.tar.gz")).returncode == 0
    (other / "mine.py").write_text(code.format(2))
    for folder, root in ((below, workspace), (other, other)):
        again = lab(folder, "runs", "rerun", "last")
        assert again.returncode == 0, again.stdout + again.stderr
        run_dir, record = store.find(root, "last")
        assert "VERSION 1" in (run_dir / "driver.log").read_text() and record.tags["rerun_of"]


@pytest.mark.parametrize("change", [{"id": "../../away"}, {"name": "/tmp/away"}, {"name": "..", "id": "../x"}])
def test_a_record_does_not_decide_where_downloads_are_written(
    run_here: Runner, lab_here: Command, workspace: Path, change: dict[str, str]
) -> None:
    _, run_dir = run_here("report=none", "dataset.max_samples=50")
    told = json.loads((run_dir / "run.json").read_text()) | change
    (run_dir / "run.json").write_text(json.dumps(told))
    before = sorted(workspace.rglob("*"))
    done = lab_here("runs", "download", str(run_dir))
    assert done.returncode == 2 and "choose where to write with -o" in done.stderr, done.stdout + done.stderr
    assert sorted(workspace.rglob("*")) == before
    assert lab_here("runs", "download", str(run_dir), "-o", "here").returncode == 0
    assert (workspace / "here" / "metrics.jsonl").exists()


def test_runs_are_sorted_by_keys_of_their_configs(workspace: Path, run: Lab) -> None:
    for run_id, seed, word in (("a1111111", 10, "b"), ("a2222222", 9, "c"), ("a3333333", 100, "a")):
        make(workspace, run_id, config={"trainer": {}, "seed": seed, "model": {"name": word}})
    for key, wanted in (("seed", "213"), ("model.name", "312")):
        code, out, _ = run("runs", "--sort", key)
        assert code == 0 and [line[1] for line in out.splitlines()[1:]] == list(wanted)
    assert "Did you mean 'seed'" in run("runs", "--sort", "sed")[2]
