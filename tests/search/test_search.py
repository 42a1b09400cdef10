"""Searches from the command line: their results, the faults that they survive, and refusals."""

from __future__ import annotations

import copy
import csv
import html.parser
import json
import math
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from conftest import Command, Refused
from helpers import PLAIN, lab, start, start_labrun, statuses, sweep_dir, wait_for, write_climber
from labrun.compose.config_snapshot import ConfigSnapshot
from labrun.runs.record import Record, read_record
from labrun.runs.sweep_state import SweepState
from labrun.search.study import Study

TPE = ("model=climber", "sweep=tpe", "sweep.metric=score")
SCRIPT = ("experiment=script", "script.path=climb.py", "tracking=none", "report=none")
"""Runs a script where an interpreter starts cold, as it imports no large library."""
SCRIPT_TPE = (*SCRIPT, "sweep=tpe", "sweep.metric=score", "script.arguments.quality=interval(0,1)")


def write_script(workspace: Path, seconds: float = 0.0) -> None:
    """Write a script that sleeps, and logs its quality as `score`."""
    (workspace / "climb.py").write_text(
        f"import sys, time, labrun\ntime.sleep({seconds})\n"
        "labrun.log('score', float(sys.argv[sys.argv.index('--quality') + 1]))\n"
    )


def runs(workspace: Path) -> dict[int, Record]:
    """The runs of the only sweep, by their numbers."""
    folder = sweep_dir(workspace)
    return {int(path.parent.name): read_record(path.parent) for path in folder.glob("*/run.json")}


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Page(html.parser.HTMLParser):
    """What a page holds: its tags, its text, and whatever it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            str(value)
            for name, value in attrs
            if name in ("src", "href") and not str(value).startswith("data:image/png")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_search_leaves_its_table_best_config_and_report(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun(
        "-m",
        *TPE,
        "model.quality=interval(0,1)",
        "model.depth=int(interval(1,9))",
        "model.word='a<b>&','c'",
        "sweep.max_trials=8",
        *PLAIN,
    )
    assert done.returncode == 0, done.stderr
    found, folder = runs(workspace), sweep_dir(workspace)
    assert sorted(found) == list(range(8)) and {record.status for record in found.values()} == {"completed"}
    best = max(found.values(), key=lambda record: record.metrics["score"])
    rows = table(folder)
    assert [float(row["score"]) for row in rows] == sorted((r.metrics["score"] for r in found.values()), reverse=True)
    assert rows[0]["id"] == best.id and rows[0]["model.quality"] == str(best.config["model"]["quality"])
    assert best.command in done.stdout and "TRIAL  PARAMETERS" in done.stdout
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "Data: digits (" in (folder / "report.html").read_text(encoding="utf-8")
    assert page.fetched == [] and page.tags.count("img") == 4 and "script" not in page.tags and "b" not in page.tags
    assert "a<b>&" in page.text and best.command in page.text
    again = labrun("--config-dir", str(folder), "--config-name", "best")
    assert again.returncode == 0, again.stderr
    (single,) = workspace.glob("outputs/*/*/run.json")
    repeated = json.loads(single.read_text())
    assert repeated["metrics"]["score"] == best.metrics["score"]
    assert repeated["config"]["model"] == best.config["model"] and repeated["signature"] == best.signature


def test_a_plain_grid_is_hydras_own_and_needs_no_optuna(workspace: Path, labrun: Command) -> None:
    write_script(workspace)
    words = ("script.arguments.quality=0.1,0.2", "script.arguments.depth=1,2")
    done = labrun("-m", *SCRIPT, *words, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr[-2000:]
    arguments = [record.config["script"]["arguments"] for _, record in sorted(runs(workspace).items())]
    pairs = [(one["quality"], one["depth"]) for one in arguments]
    assert pairs == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]
    assert "import time" in done.stderr and "optuna" not in done.stderr and "labrun.search.study" not in done.stderr


def test_a_grid_zips_pairs_from_yaml(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    (workspace / "conf" / "experiment").mkdir()
    (workspace / "conf" / "experiment" / "pairs.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: climber\n"
        "sweep:\n  space:\n    model.quality: [0.1, 0.2]\n"
        "    model.depth: [1, 2]\n    model.word: choice(x, y)\n  zip: [[model.depth, model.quality]]\n"
    )
    done = labrun("-m", "experiment=pairs", *PLAIN)
    assert done.returncode == 0, done.stderr
    models = [record.config["model"] for _, record in sorted(runs(workspace).items())]
    assert [(m["quality"], m["depth"], m["word"]) for m in models] == [
        (0.1, 1, "x"),
        (0.1, 1, "y"),
        (0.2, 2, "x"),
        (0.2, 2, "y"),
    ]


def test_a_grid_obeys_max_concurrent(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun(
        "-m",
        "model=climber",
        "model.quality=0.1,0.2,0.3",
        "sweep.max_concurrent=1",
        "sweep.metric=score",
        "sweep.max_trials=2",
        *PLAIN,
    )
    assert done.returncode == 0, done.stderr
    found = runs(workspace)
    assert [found[n].config["model"]["quality"] for n in sorted(found)] == [0.1, 0.2]
    assert found[0].ended is not None and found[1].started is not None and found[0].ended <= found[1].started


def test_components_bring_their_own_spaces(workspace: Path, labrun: Command, labrun_here: Command) -> None:
    write_climber(workspace)
    for name, own in (("narrow", "quality: interval(0.1, 0.2)"), ("deep", "depth: [3, 4]\n  steps: [2]")):
        (workspace / "conf" / "model" / f"{name}.yaml").write_text(
            f"_target_: climber.Climber\nquality: 0.5\ndepth: 0\nsteps: 5\nsearch_space:\n  {own}\n"
        )
    done = labrun("-m", "model=narrow,deep", "sweep=random", "sweep.metric=score", "sweep.max_trials=8", *PLAIN)
    assert done.returncode == 0, done.stderr
    kinds = set()
    for record in runs(workspace).values():
        model = record.config["model"]
        assert "search_space" not in model
        kind = next(text.partition("=")[2] for text in record.overrides if text.startswith("model="))
        kinds.add(kind)
        if kind == "narrow":
            assert 0.1 <= model["quality"] <= 0.2 and model["depth"] == 0
        else:
            assert model["quality"] == 0.5 and model["depth"] in (3, 4) and model["steps"] == 2
    assert kinds == {"narrow", "deep"}
    fixed = labrun_here("-m", "model=narrow", "model.quality=0.9", "sweep=random", "sweep.metric=score", *PLAIN)
    assert fixed.returncode == 2 and "nothing to search" in fixed.stderr, "values fixed by the user are not searched"


def test_a_search_for_several_metrics_gives_a_pareto_front(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun(
        "-m",
        "model=climber",
        "sweep=tpe",
        "sweep.metric=[score,cost]",
        "sweep.goal=[maximize,maximize]",
        "model.quality=interval(0,1)",
        "sweep.max_trials=6",
        *PLAIN,
    )
    assert done.returncode == 0, done.stderr
    rows = table(sweep_dir(workspace))
    # cost is 1 - score**2: whoever is better in one is worse in the other, so all of them are on the front.
    assert [row["pareto"] for row in rows] == ["1"] * 6 and "Pareto front" in (
        sweep_dir(workspace) / "report.html"
    ).read_text(encoding="utf-8")


def test_a_long_trial_does_not_delay_the_others(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun(
        "-m",
        "model=climber",
        "model.seconds=4,0.05,0.06,0.07,0.08",
        "sweep.metric=score",
        "sweep.max_concurrent=2",
        *PLAIN,
    )
    assert done.returncode == 0, done.stderr
    long, *short = (record for _, record in sorted(runs(workspace).items()))
    assert all(str(long.started) < str(one.started) and str(one.ended) < str(long.ended) for one in short[1:])


def test_edits_during_a_search_change_nothing(workspace: Path) -> None:
    write_climber(workspace)
    search = start(workspace, *TPE, "model.quality=interval(0,1)", "model.seconds=0.5", "sweep.max_trials=6")
    wait_for(lambda: "running" in statuses(workspace))
    (workspace / "conf" / "model" / "climber.yaml").write_text("_target_: nowhere.Nothing\n")
    (workspace / "climber.py").write_text("raise ImportError\n")
    _, err = search.communicate(timeout=120)
    assert search.returncode == 0, err
    assert statuses(workspace) == ["completed"] * 6


def test_copies_of_a_config_snapshot_share_them_but_not_their_configs(workspace: Path) -> None:
    file = workspace / "conf" / "model" / "one.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("a: 1\n")
    with initialize_config_dir(str(workspace / "conf"), version_base="1.3"):
        held = ConfigSnapshot(GlobalHydra.instance().config_loader().repository)  # type: ignore[attr-defined]
    file.write_text("a: 2\n")
    loaded = [one.load_config("model/one") for one in (held, copy.deepcopy(held), held)]
    configs = [one.config for one in loaded if one is not None]
    configs[0].a = 3
    assert [config.a for config in configs] == [3, 1, 1] and held.config_exists("model/one")


@pytest.mark.parametrize("rule", ["bandit", "median", "halving"])
def test_a_policy_ends_poor_trials_early(workspace: Path, labrun: Command, rule: str) -> None:
    write_climber(workspace)
    delay = f"sweep.early_termination.delay_evaluation={0 if rule == 'halving' else 2}"
    done = labrun(
        "-m",
        *TPE,
        "model.quality=1,0.9,0.8,0.2,0.1",
        "sweep=grid",
        "model.seconds=2",
        "model.steps=6",
        f"sweep/early_termination={rule}",
        "sweep.max_concurrent=1",
        "sweep.metric=score",
        *PLAIN,
        "compute.max_parallel=1",
        delay,
    )
    assert done.returncode == 0, done.stderr
    found = runs(workspace)
    stopped = {n: record for n, record in found.items() if record.status == "stopped"}
    assert {3, 4} <= set(stopped) and found[0].status == "completed", {n: r.status for n, r in found.items()}
    kind = {"bandit": "Bandit", "median": "MedianStopping", "halving": "SuccessiveHalving"}[rule]
    for record in stopped.values():
        assert record.error is not None and record.error.message.startswith(f"{kind} at report ")
        assert record.duration_s is not None and record.duration_s < 1.95, "it ended early"
        assert "score" in record.metrics
    rows = {row["number"]: row for row in table(sweep_dir(workspace))}
    assert rows["4"]["status"] == "stopped" and rows["4"]["why"].startswith(kind)


def test_a_crashed_trial_or_a_nan_metric_does_not_end_the_search(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun(
        "-m",
        "model=climber",
        "model.way=climb,'no number',crash",
        "sweep.max_concurrent=2",
        "sweep.metric=score",
        *PLAIN,
    )
    assert done.returncode == 1 and "1 of 3 runs failed" in done.stderr and "Traceback" not in done.stderr
    found, rows = runs(workspace), {row["number"]: row for row in table(sweep_dir(workspace))}
    assert [found[n].status for n in range(3)] == ["completed", "completed", "failed"]
    assert rows["1"]["why"] == "its metric is not a number" and "this way is broken" in rows["2"]["why"]
    assert math.isnan(float(found[1].metrics["score"]))


def test_a_trial_over_its_time_is_stopped(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun(
        "-m",
        "model=climber",
        "model.seconds=0.1,30",
        "model.depth=1,2",
        "sweep.trial_timeout_min=0.03",
        "sweep.metric=score",
        *PLAIN,
    )
    assert done.returncode == 0, done.stderr
    found = runs(workspace)
    assert [found[n].status for n in range(4)] == ["completed", "completed", "stopped", "stopped"]
    assert found[2].error.message == "sweep.trial_timeout_min=0.03"


def test_a_search_ends_once_a_trial_is_good_enough(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    words = ("model.quality=0.1,0.2,0.9,0.3,0.4", "model.seconds=0", "sweep.max_concurrent=1", "sweep.metric=score")
    done = labrun("-m", "sweep.stop_at=0.8", "sweep=grid", "model=climber", *words, *PLAIN)
    assert done.returncode == 0, done.stderr
    found = runs(workspace)
    assert [round(float(found[number].metrics["score"]), 1) for number in sorted(found)] == [0.1, 0.2, 0.9]
    assert "score=0.9 has reached sweep.stop_at=0.8: no more trials are started" in done.stdout


def test_a_search_ends_when_its_patience_is_exhausted(workspace: Path, labrun_here: Command) -> None:
    write_climber(workspace)
    words = ("model.quality=0.5,0.1,0.6,0.2,0.3,0.9", "model.seconds=0", "sweep.max_concurrent=1", "sweep.metric=score")
    patient = ("sweep.patience=2", "sweep.patience_from=1", "compute=inline")
    done = labrun_here("-m", *patient, "sweep=grid", "model=climber", *words, *PLAIN)
    assert done.returncode == 0, done.stderr
    assert len(runs(workspace)) == 5
    assert "2 trials in a row are no better (sweep.patience): no more trials are started" in done.stdout


def test_a_search_learns_from_an_earlier_one(workspace: Path, labrun: Command, refused_here: Refused) -> None:
    """Over 15 s on a busy machine: two searches."""
    write_climber(workspace)
    words = ("-m", *TPE, "model.seconds=0", *PLAIN)
    done = labrun(*words, "model.quality=interval(0,1)", "sweep.max_trials=3")
    assert done.returncode == 0, done.stderr
    first = sweep_dir(workspace)
    told = f"sweep.learn_from=[{first}]"
    done = labrun(*words, "model.quality=interval(0,1)", "sweep.max_trials=2", told)
    assert done.returncode == 0 and f"Learned from 3 trials of {first}" in done.stdout, done.stderr
    (second,) = [path for path in workspace.glob("multirun/*/*") if path != first]
    study = Study(SweepState(second).study, None, 0, [True])
    assert len(study.trials()) == 2 and len(study.optuna.get_trials()) == 5
    assert [trial.user_attrs.get("learned_from") for trial in study.optuna.get_trials()][:3] == [
        str(first / str(number)) for number in range(3)
    ]
    assert len(table(second)) == 2
    for more, message in (
        (("model.quality=interval(0,2)", told), "within other bounds (model.quality)"),
        (("model.quality=interval(0,1)", "sweep.metric=cost", told), "that search was for score, but this one is for"),
        (("model.quality=interval(0,1)", "sweep.learn_from=[nowhere]"), "there is no search"),
    ):
        assert message in refused_here(*words, *more)


def test_a_sweep_over_its_time_limit_starts_no_more_trials(workspace: Path, labrun: Command) -> None:
    """Over 15 s: the time limit itself."""
    write_climber(workspace)
    done = labrun(
        "-m",
        *TPE,
        "model.quality=interval(0,1)",
        "model.seconds=8",
        "sweep.timeout_min=0.2",
        "sweep.max_trials=100",
        *PLAIN,
    )
    assert done.returncode == 0, done.stderr
    found = runs(workspace)
    states = [record.status for record in found.values()]
    assert 2 <= len(found) < 20 and "stopped" in states and set(states) <= {"completed", "stopped"}
    assert "sweep.timeout_min=0.2: no more trials are started" in done.stdout


@pytest.mark.parametrize("replaced", [False, True])
def test_canceling_one_trial_keeps_the_others(workspace: Path, replaced: bool) -> None:
    write_climber(workspace)
    search = start(
        workspace,
        *TPE,
        "model.quality=interval(0,1)",
        "model.seconds=2",
        "sweep.max_trials=5",
        f"sweep.replace_canceled={str(replaced).lower()}",
    )
    wait_for(lambda: "running" in statuses(workspace))
    victim = next(record for record in runs(workspace).values() if record.status == "running")
    assert lab(workspace, "runs", "cancel", victim.id).returncode == 0
    _, err = search.communicate(timeout=120)
    assert search.returncode == 0, err
    states = statuses(workspace)
    assert states.count("canceled") == 1 and states.count("completed") == (5 if replaced else 4)
    assert read_record(sweep_dir(workspace) / str(victim.number)).status == "canceled"


def test_a_killed_trial_is_retried_on_resume(workspace: Path, labrun: Command) -> None:
    """As in a grid. The retry costs no budget, which counts only the outcomes of trials."""
    write_climber(workspace)
    asked = (*TPE, "model.quality=interval(0,1)", "model.seconds=2", "sweep.max_trials=3")
    search = start(workspace, *asked)
    wait_for(lambda: "running" in statuses(workspace))
    victim = next(record for record in runs(workspace).values() if record.status == "running")
    os.kill(victim.process.pid, signal.SIGKILL)
    out, err = search.communicate(timeout=120)
    assert search.returncode == 1 and "sweep.resume=last retries it" in out, out + err
    assert sorted(statuses(workspace)) == ["completed", "completed", "failed"]
    again = labrun("-m", *asked, *PLAIN, "sweep.resume=last")
    assert again.returncode == 0 and statuses(workspace) == ["completed"] * 3, again.stdout + again.stderr
    found = next(record for record in runs(workspace).values() if record.id == victim.id)
    assert [attempt.status for attempt in found.attempts] == ["failed", "completed"]
    assert found.config["model"] == victim.config["model"]


def test_canceling_a_search_cancels_its_trials(workspace: Path) -> None:
    write_climber(workspace)
    search = start(workspace, *TPE, "model.quality=interval(0,1)", "model.seconds=20", "sweep.max_trials=50")
    wait_for(lambda: statuses(workspace).count("running") == 2)
    assert lab(workspace, "runs", "cancel", str(sweep_dir(workspace))).returncode == 0
    _, err = search.communicate(timeout=60)
    assert search.returncode == 130 and "resumes the search" in err and "Traceback" not in err
    assert statuses(workspace) == ["canceled"] * 2


def test_a_search_resumes_after_kill_9_of_its_controller(
    workspace: Path, labrun: Command, labrun_here: Command
) -> None:
    """Over 15 s: five controllers, one of them a new interpreter."""
    write_script(workspace, seconds=0.7)
    asked = ("-m", *SCRIPT_TPE, "sweep.max_trials=9")
    for done in (2, 5):
        resumed = ["sweep.resume=last"] if done > 2 else []
        search = start_labrun(*asked, *resumed, cwd=workspace, cold=done == 2)
        wait_for(lambda done=done: statuses(workspace).count("completed") >= done and "running" in statuses(workspace))
        search.kill()
        search.communicate(timeout=60)
    before = {n: record.id for n, record in runs(workspace).items() if record.status == "completed"}
    again = labrun(*asked, "sweep.resume=last")
    assert again.returncode == 0, again.stderr
    found = runs(workspace)
    assert sorted(found) == list(range(9)) and statuses(workspace) == ["completed"] * 9
    assert {n: found[n].id for n in before} == before, "completed trials are not repeated"
    assert len({record.config["script"]["arguments"]["quality"] for record in found.values()}) == 9, (
        "no trial is repeated"
    )
    for n, record in found.items():
        ends = [attempt.status for attempt in record.attempts]
        assert ends[-1] == "completed" and ends.count("completed") == 1, (n, ends)
    assert len(table(sweep_dir(workspace))) == 9
    more = labrun(*asked[:-1], "sweep.max_trials=11", "sweep.resume=last")
    assert more.returncode == 0 and statuses(workspace) == ["completed"] * 11, "a larger budget continues the search"
    other = labrun_here(*asked, "script.arguments.steps=3", "sweep.resume=last")
    assert other.returncode == 2 and "which cannot change when it is resumed" in other.stderr


def test_an_interrupted_search_is_resumed(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    asked = (*TPE, "model.quality=interval(0,1)", "model.seconds=1", "sweep.max_trials=5")
    search = start(workspace, *asked)
    wait_for(lambda: statuses(workspace).count("completed") >= 1 and "running" in statuses(workspace))
    search.send_signal(signal.SIGINT)
    _, err = search.communicate(timeout=60)
    assert search.returncode == 130 and "resumes the search" in err and "Traceback" not in err
    again = labrun("-m", *asked, *PLAIN, "sweep.resume=last")
    assert again.returncode == 0, again.stderr
    assert statuses(workspace) == ["completed"] * 5


def test_a_detached_search_is_watched_and_taken_over(workspace: Path, labrun: Command) -> None:
    """Over 15 s: three controllers, two of them new interpreters."""
    write_script(workspace, seconds=1.0)
    done = labrun("-m", *SCRIPT_TPE, "sweep.max_trials=6", "compute.detach=true")
    assert done.returncode == 0 and "lab runs watch" in done.stdout, done.stderr
    folder = sweep_dir(workspace)
    wait_for(lambda: statuses(workspace).count("completed") >= 1)
    holder = json.loads(max((folder / ".launch/controllers").glob("?")).read_text())
    subprocess.run(["kill", "-9", str(holder["pid"])], check=True)
    watched = lab(workspace, "runs", "watch", str(folder))
    assert watched.returncode == 0, watched.stderr
    assert "this search has no controller any more" in watched.stderr
    assert statuses(workspace) == ["completed"] * 6 and (folder / "best.yaml").exists()
    again = lab(workspace, "runs", "watch", str(folder))
    assert again.returncode == 0 and "The search is over" in again.stdout


QUALITY = "model.quality=interval(0,1)"
TWO = "sweep.metric=[score,cost]"
MISTAKES = {
    "nothing to search": (["sweep=tpe"], "there is nothing to search"),
    "interval in a grid": ([QUALITY], "sweep=grid tries every one"),
    "two metrics for a rule": (["sweep=tpe", QUALITY, TWO, "sweep/early_termination=bandit"], "uses a single metric"),
    "one goal for two": (["sweep=tpe", QUALITY, TWO, "sweep.goal=[maximize]"], "one for each of score, cost"),
    "goal": (["sweep=tpe", QUALITY, "sweep.goal=up"], "one of auto, maximize, minimize"),
    "no trials": (["sweep=tpe", QUALITY, "sweep.max_trials=0"], "at least 1"),
    "sampler": (["sweep=random", QUALITY, "sweep.sampler._target_=optuna.samplers.Nothing"], "cannot be imported"),
    "min_trials": (
        ["sweep=tpe", "model.quality=a,b", "sweep/early_termination=median", "sweep.early_termination.min_trials=0"],
        "min_trials=0",
    ),
    "choice": (["sweep=tpe", "model=climber,nothing", "compute=inline"], "there is no model 'nothing'. There are: "),
    "time limit inline": (
        ["sweep=tpe", QUALITY, "sweep.metric=score", "compute=inline", "sweep.trial_timeout_min=1"],
        "has no supervisor that could stop it",
    ),
    "early termination inline": (
        ["sweep=tpe", QUALITY, "sweep.metric=score", "compute=inline", "sweep/early_termination=median"],
        "has no supervisor that could stop it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_reported_before_anything_runs(workspace: Path, refused_here: Refused, name: str) -> None:
    write_climber(workspace)
    arguments, message = MISTAKES[name]
    model = [] if any(word.startswith("model=") for word in arguments) else ["model=climber"]
    assert message in refused_here("-m", *model, *arguments, *PLAIN)


def test_damaged_state_of_a_search_is_reported(workspace: Path, labrun: Command, labrun_here: Command) -> None:
    write_climber(workspace)
    asked = (*TPE, "model.quality=interval(0,1)", "sweep.max_trials=3", *PLAIN)
    assert labrun("-m", *asked).returncode == 0
    state = sweep_dir(workspace) / ".launch"
    journal = (state / "study.journal").read_bytes()
    (state / "study.journal").write_bytes(journal[:600])
    gone = labrun_here("-m", *asked, "sweep.resume=last")
    assert gone.returncode == 2 and "is damaged or missing: it has" in gone.stderr
    (state / "study.journal").write_bytes(journal)
    (state / "search.json").write_text("{")
    damaged = labrun_here("-m", *asked, "sweep.resume=last")
    assert damaged.returncode == 2 and "search.json is damaged" in damaged.stderr and "Traceback" not in damaged.stderr
    assert statuses(workspace) == ["completed"] * 3


def test_an_infinite_metric_is_not_a_result(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun(
        "-m",
        "model=climber",
        "model.way=infinite,climb,again,more",
        "sweep/early_termination=median",
        "sweep.early_termination.min_trials=1",
        "sweep.max_concurrent=1",
        "sweep.metric=score",
        *PLAIN,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["number"]: row for row in table(sweep_dir(workspace))}
    assert rows["0"]["why"] == "its metric is not a number" and rows["3"]["status"] == "completed"
    none = labrun(
        "-m",
        "model=climber",
        "model.way='no number'",
        "model.quality=0.1,0.2",
        "sweep.max_concurrent=2",
        "sweep.metric=score",
        "name=none",
        *PLAIN,
    )
    assert none.returncode == 1 and "no trial has a result" in none.stderr


def test_a_search_runs_inline(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun("-m", *TPE, "model.quality=interval(0,1)", "compute=inline", "sweep.max_trials=3", *PLAIN)
    assert done.returncode == 0 and statuses(workspace) == ["completed"] * 3


def test_a_script_that_fails_at_first_does_not_end_the_search(workspace: Path, labrun_here: Command) -> None:
    (workspace / "s.py").write_text("import sys\nprint(f'score={10 / dict(four=4, none=0)[sys.argv[2]]}')\n")
    done = labrun_here(
        *("-m", "experiment=script", "script.path=s.py", "compute=inline", "sweep=random", "sweep.metric=score"),
        *("sweep.goal=maximize", "script.arguments.n='four','none'", "sweep.portfolio=[{script.arguments.n: none}]"),
        "script.metrics.score='score=(.+)'",
    )
    assert done.returncode == 1 and "1 of 2 runs failed" in done.stderr
    found = runs(workspace)
    assert [found[n].status for n in range(2)] == ["failed", "completed"] and found[1].metrics == {"score": 2.5}


def test_best_yaml_is_not_written_if_a_key_was_removed(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun("-m", *TPE, "model.quality=interval(0,1)", "~model.steps", "sweep.max_trials=2", *PLAIN)
    assert done.returncode == 0, done.stderr
    assert not (sweep_dir(workspace) / "best.yaml").exists() and "best.yaml" not in done.stdout


def test_a_metric_that_no_trial_logs_ends_the_search(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun("-m", "model=climber", "sweep=tpe", "model.quality=interval(0,1)", "sweep.metric=my_score", *PLAIN)
    assert done.returncode == 2 and "logged no such metric. It logged: score, cost, accuracy" in done.stderr
    assert len(statuses(workspace)) <= 3


def test_every_sampler_completes_a_search(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    for name in ("gp", "cmaes", "qmc"):
        done = labrun(
            "-m",
            "model=climber",
            f"sweep={name}",
            "model.quality=interval(0,1)",
            "sweep.metric=score",
            "model.steps=int(interval(1,4))",
            "sweep.max_trials=4",
            f"name={name}",
            *PLAIN,
        )
        assert done.returncode == 0, done.stderr
    assert statuses(workspace) == ["completed"] * 12
