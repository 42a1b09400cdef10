"""HyperDrive searches as executed by labrun."""

from __future__ import annotations

import collections
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import FloatDistribution

import labrun
from helpers import draw_none, lab
from labrun.azureml import sampling
from labrun.azureml.estimators import Estimator
from labrun.azureml.experiment import Experiment
from labrun.azureml.hyperdrive import HyperDriveConfig, PrimaryMetricGoal
from labrun.azureml.sampling import (
    BanditPolicy,
    BayesianParameterSampling,
    GridParameterSampling,
    NoTerminationPolicy,
    RandomParameterSampling,
    TruncationSelectionPolicy,
)
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import NotInLabrun, UserErrorException
from labrun.errors import ConfigError
from labrun.search import space
from labrun.search.draws import DrawnSampler
from labrun.search.study import Study, distribution


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.delenv("LABRUN_WORKSPACE", raising=False)
    (tmp_path / "train.py").touch()
    return Workspace.from_config()


def read(expression: sampling.Expression) -> space.Dimension:
    """An expression as labrun's search reads it."""
    (override,) = OverridesParser.create().parse_overrides([f"a={expression.text}"])
    return space.dimension(override)


def test_expressions_become_dimensions_of_a_search() -> None:
    assert read(sampling.choice("a b", 1, 0.5, True)) == space.Choice(
        "a", ("a",), (("'a b'",), ("1",), ("0.5",), ("'True'",))
    )
    assert [len(read(one).values) for one in (sampling.choice(range(3)), sampling.choice([16]))] == [3, 1]  # type: ignore[union-attr]
    assert read(sampling.uniform(0, 1)) == space.Numbers("a", "a", 0.0, 1.0)
    assert read(sampling.quniform(1, 9, 2)) == space.Numbers("a", "a", 2.0, 8.0, step=2.0, whole=True), "0 is below 1"
    assert read(sampling.randint(4)) == space.Numbers("a", "a", 0.0, 3.0, step=1.0, whole=True)
    log = read(sampling.loguniform(-3, 0))
    assert log == space.Numbers("a", "a", math.exp(-3), 1.0, log=True), "the bounds are exponents of e"
    assert space.values_of(read(sampling.quniform(0, 1, 0.25))) == [0, 0.25, 0.5, 0.75, 1]  # type: ignore[arg-type]


DRAWN = {
    "normal": (sampling.normal(10, 2), 10, 2),
    "lognormal": (sampling.lognormal(0, 0.5), math.exp(0.125), math.sqrt((math.exp(0.25) - 1) * math.exp(0.25))),
    "qnormal": (sampling.qnormal(100, 10, 5), 100, math.sqrt(100 + 25 / 12)),
    "qlognormal": (sampling.qlognormal(3, 0.5, 1), math.exp(3.125), math.sqrt((math.exp(0.25) - 1) * math.exp(6.25))),
    "quniform": (sampling.quniform(0, 2, 1), 1, math.sqrt(0.5)),
    "qloguniform": (sampling.qloguniform(0, 7, 2), 156.95, 248.1),
    "wide": (sampling.qnormal(0, 1_000_000, 2), 0, 1_000_000),
}
"""An expression, and the mean and the standard deviation of what it describes; of `quniform` the ends are half as
likely as what lies between."""


def test_every_distribution_is_drawn_as_the_sdk_describes_it(tmp_path: Path) -> None:
    varied = RandomParameterSampling({f"--{name}": expression for name, (expression, _, _) in DRAWN.items()})
    words = dict(one.split("=", 1) for one in varied.overrides())
    assert words["sweep.sampler._target_"] == "labrun.search.draws.DrawnSampler"
    parser = OverridesParser.create()
    (given,) = parser.parse_overrides([f"+sweep.sampler.draws={words['+sweep.sampler.draws']}"])
    node = {"_target_": words["sweep.sampler._target_"], "draws": given.value()}
    dimensions = [
        space.dimension(parser.parse_overrides([f"{key}={text}"])[0])
        for key, text in words.items()
        if key.startswith("script.")
    ]
    asked = Study(tmp_path / "journal", node, 0, [True]).ask(lambda chosen: [] if chosen else dimensions, "0")
    sampler = DrawnSampler(node["draws"], 0)
    drawn = {
        one.name: [sampler.sample_independent(None, None, one.name, distribution(one)) for _ in range(600)]
        for one in dimensions
    }
    for name, (expression, mean, spread) in DRAWN.items():
        values = drawn[f"script.arguments.{name}"]
        assert type(asked.parameters[f"script.arguments.{name}"]) is type(values[0])
        assert abs(statistics.fmean(values) - mean) < 0.2 * spread, name
        assert 0.85 < statistics.pstdev(values) / spread < 1.15, name
        assert name[0] == "q" or len(set(values)) == len(values)
        if name[0] == "q":
            assert all(type(value) is int and value % expression.given[2] == 0 for value in values), name
    counts = collections.Counter(drawn["script.arguments.quniform"])
    assert counts[1] > 1.4 * max(counts[0], counts[2]) and set(counts) == {0, 1, 2}
    with pytest.raises(ConfigError, match="'bell' is not normal"):
        DrawnSampler({"a": ["bell", 0, 1, None]})
    with pytest.raises(ConfigError, match="gives no value between 5 and 6"):
        DrawnSampler({"a": ["uniform", 0, 1, None]}).sample_independent(None, None, "a", FloatDistribution(5, 6))


def test_a_search_becomes_labrun_arguments(ws: Workspace) -> None:
    script = ScriptRunConfig(script="train.py", arguments=["--fixed", 1])
    varied = RandomParameterSampling({"--learning-rate": sampling.uniform(0, 1), "batch": sampling.choice(1, 2)})
    config = HyperDriveConfig(
        run_config=script,
        hyperparameter_sampling=varied,
        policy=TruncationSelectionPolicy(20, evaluation_interval=2, exclude_finished_jobs=True),
        primary_metric_name="my metric",
        primary_metric_goal=PrimaryMetricGoal.MINIMIZE,
        max_total_runs=4,
        max_concurrent_runs=2,
        max_duration_minutes=30,
    )
    first, *words = config.overrides(Experiment(ws, "x"))
    assert first == "-m" and words[: len(script.overrides(Experiment(ws, "x")))] == script.overrides(
        Experiment(ws, "x")
    )
    assert words[len(script.overrides(Experiment(ws, "x"))) :] == [
        "sweep=random",
        "script.arguments.learning-rate=interval(0.0,1.0)",
        "script.arguments.batch=1,2",
        "sweep/early_termination=truncation",
        "sweep.early_termination.truncation_percentage=20",
        "sweep.early_termination.evaluation_interval=2",
        "sweep.early_termination.delay_evaluation=0",
        "sweep.early_termination.exclude_finished=true",
        "sweep.metric='my metric'",
        "sweep.goal=minimize",
        "sweep.max_trials=4",
        "sweep.max_concurrent=2",
        "sweep.timeout_min=30",
    ]
    assert (
        NoTerminationPolicy().overrides() == [] and PrimaryMetricGoal.from_str("maximize") is PrimaryMetricGoal.MAXIMIZE
    )


def test_a_varied_argument_is_not_passed_twice(ws: Workspace) -> None:
    script = Estimator(".", entry_script="train.py", script_params={"--fixed": 1, "--epochs": 5, "--rate": 0.1})
    varied = RandomParameterSampling({"--epochs": sampling.choice(1, 2), "rate": sampling.choice(0.5)})
    words = HyperDriveConfig(varied, "a", estimator=script).overrides(Experiment(ws, "x"))
    assert "script.positional=['--fixed','1']" in words
    assert "script.arguments.epochs=1,2" in words and len(script.script_params) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GridParameterSampling({"a": sampling.uniform(0, 1)}), r"a=uniform\(0, 1\): it supports only choice"),
        (lambda: BayesianParameterSampling({"a": sampling.normal(0, 1)}), "supports only choice, uniform, quniform"),
        (
            lambda: BayesianParameterSampling({"a": sampling.quniform(0, 10**6, 2)}),
            "over 100,000 values: give a larger",
        ),
        (lambda: RandomParameterSampling({"a": [1, 2]}), "must be choice"),
        (lambda: RandomParameterSampling({"a.b": sampling.choice(1)}), "'a.b' is not an argument name"),
        (lambda: RandomParameterSampling({}), "give a dictionary"),
        (lambda: sampling.choice([]), "nothing to choose from"),
        (lambda: sampling.uniform(1, 0), "the lower bound must be below"),
        (BanditPolicy, "give one of slack_factor and slack_amount"),
        (HyperDriveConfig, "give run_config="),
    ],
)
def test_mistakes_are_reported(call: Any, message: str) -> None:
    with pytest.raises(UserErrorException, match=message):
        call()
    with pytest.raises(NotInLabrun, match="give the script itself"):
        HyperDriveConfig(pipeline=3)


GO = """
import json
from azureml.core import Environment, Experiment, Model, ScriptRunConfig, Workspace
from azureml.core.compute import AmlCompute
from azureml.core.run import Run
from azureml.train.hyperdrive import BanditPolicy, HyperDriveConfig, HyperDriveRun, PrimaryMetricGoal
from azureml.train.hyperdrive import RandomParameterSampling, choice, randint

exp = Experiment(Workspace.from_config(), "search")
target = AmlCompute.create(exp.workspace, "cpu-cluster", AmlCompute.provisioning_configuration(max_nodes=4))
script = ScriptRunConfig("src", "train.py", ["--fixed", "x y"], compute_target=target, environment=Environment("mine"))
varied = RandomParameterSampling({"--n-steps": randint(3), "--kind": choice("a", "b")})
config = HyperDriveConfig(run_config=script, hyperparameter_sampling=varied, policy=BanditPolicy(slack_factor=9),
    primary_metric_name="Score reached", primary_metric_goal=PrimaryMetricGoal.MAXIMIZE, max_total_runs=20)
run = exp.submit(config)
early = run.get_best_run_by_primary_metric()  # "run all": nobody has waited for it
run.wait_for_completion(show_output=True)
again = HyperDriveRun(exp, run.id)
best = again.get_best_run_by_primary_metric()
children = run.get_children_sorted_by_primary_metric()
facts = {
    "children": children,
    "worst": run.get_children_sorted_by_primary_metric(top=1, reverse=True) == [children[3]],
    "early": early.parent == run,
    "properties": run.get_properties(),
    "best": [best.id, best.get_details()["runDefinition"]["arguments"], best.get_metrics()],
    "metrics": run.get_metrics(),
    "parent": [best.parent.id == run.id, run.type, run.status, type(Run.get(exp.workspace, run.id)).__name__],
    "hyperparameters": run.get_hyperparameters(),
    "diagnostics": run.get_diagnostics(),
    "ids": [run.id, [Run.get(exp.workspace, one.id).id == one.id for one in run.get_children()]],
    "target": [run.get_details()["target"], best.get_details()["target"], best.get_environment().name],
    "model": [best.register_model("steps", "driver.log").run_id, len(Model.list(exp.workspace, run_id=best.id))],
}
warm = exp.submit(HyperDriveConfig(run_config=script, hyperparameter_sampling=varied, max_total_runs=1,
    primary_metric_name="Score reached", resume_from=run,
    resume_child_runs=[r for r in run.get_children() if r.id == children[3]["run_id"]]))
warm.wait_for_completion()
facts["warm"] = [
    warm.get_best_run_by_primary_metric().id == best.id,
    warm.get_best_run_by_primary_metric(include_resume_from_runs=False).parent == warm,
    list(map(json.loads, warm.get_hyperparameters().values())),
]
json.dump(facts, open("facts.json", "w"))
"""
TRAIN = """
import argparse
import os
from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--fixed")
parser.add_argument("--n-steps", type=int)
parser.add_argument("--kind")
args = parser.parse_args()
assert args.fixed == "x y"
run = Run.get_context()
assert os.environ["AZUREML_RUN_ID"] == run.id and run.id.rpartition("_")[0] == run.parent.id
for step in range(args.n_steps):
    run.log("Score reached", args.n_steps + (args.kind == "b") / 2 - step)
if args.n_steps == 0 and args.kind == "b":
    raise SystemExit("no step")
"""


def test_a_search_orders_its_children_by_their_metric(tmp_path: Path) -> None:
    """Over 15 s on a busy machine: six scripts, two of which log no metric, one of which fails."""
    draw_none(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(TRAIN)
    (tmp_path / "go.py").write_text(GO)
    done = lab(tmp_path, "azureml", "run", "go.py")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    chosen = [json.loads(row["hyperparameters"]) for row in facts["children"]]
    pairs = [(one["--n-steps"], one["--kind"]) for one in chosen]
    assert pairs[:4] == [(2, "b"), (2, "a"), (1, "b"), (1, "a")] and set(pairs[4:]) == {(0, "a"), (0, "b")}
    assert [row["best_primary_metric"] for row in facts["children"]] == [2.5, 2.0, 1.5, 1.0, None, None]
    best = facts["children"][0]["run_id"]
    search, found = facts["ids"]
    assert re.fullmatch("HD_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", search) and found == [True] * 6
    assert {row["run_id"] for row in facts["children"]} == {f"{search}_{number}" for number in range(6)}
    assert facts["target"] == ["cpu-cluster", "cpu-cluster", "mine"] and facts["model"] == [best, 1]
    own = labrun.get_run(best, root=tmp_path)
    assert own.parent.folder == labrun.get_run(search, root=tmp_path).folder and best.startswith(f"HD_{own.parent.id}")
    assert own.id in lab(tmp_path, "runs", "show", best).stdout
    assert facts["best"][0] == best and facts["best"][2] == facts["metrics"][best] == {"Score reached": [2.5, 1.5]}
    assert facts["best"][1][:2] == ["--fixed", "x y"] and {"--n-steps", "2", "--kind", "b"} <= set(facts["best"][1])
    assert facts["parent"] == [True, "hyperdrive", "Completed", "HyperDriveRun"] and facts["worst"]
    told = facts["properties"]
    assert facts["early"] and (told["score"], told["best_child_run_id"]) == ("2.5", best)
    assert json.loads(told["primary_metric_config"]) == {"name": "Score reached", "goal": "maximize"}
    assert {row["status"] for row in facts["children"]} == {"Completed", "Failed"}
    assert facts["hyperparameters"][best] == facts["children"][0]["hyperparameters"]
    assert facts["diagnostics"]["best_child_by_primary_metric"] == best
    assert facts["warm"][:2] == [True, True]
    ((one,),) = [[(got["--n-steps"], got["--kind"]) for got in facts["warm"][2]]]
    assert one == (1, "a"), "what resume_child_runs names is tried first"
    assert done.stdout.count("script.arguments.n-steps=0 ") == 2, "the table has those without a metric, too"
