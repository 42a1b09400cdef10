"""Searches in applications that do not use labrun, and configs for other sweepers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from hydra_plugins.labrun_sweeper import _sweeper_translation
from labrun.search.plain_app.search import objective

pytestmark = pytest.mark.long

Run = Callable[..., tuple[int, str]]
INLINE = ("hydra/launcher=labrun", "hydra.launcher.target=inline")


def square(config: Any) -> Any:
    if config.get("exit"):
        raise SystemExit(0)
    if config.get("fail") or (config.get("at_most") is not None and config.x > config.at_most):
        raise ValueError("my own line")
    if config.get("returns"):
        return {"pair": (1.0, 2.0), "nothing": None, "text": "good", "none at all": math.nan, "one": [3.0]}[
            config["returns"]
        ]
    return (config.x - 0.3) ** 2 + config.get("n", 0)


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    hydra_restore_singletons: None,
    plain_hydra: None,
) -> Run:
    """Run `square` as an application in this process; return its exit code and output."""

    def run(*arguments: str, name: str | None = None, launcher: tuple[str, ...] = INLINE) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["app.py", "-m", *launcher, "hydra.sweep.dir=out", *arguments])
        code = 0
        try:
            hydra.main(version_base="1.3", config_path=str(tmp_path), config_name=name)(square)()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


SEARCH = ("hydra/sweeper=labrun", "hydra.sweeper.sampler=tpe", "hydra.sweeper.max_trials=8")
FEW = (*SEARCH[:2], "hydra.sweeper.max_trials=4")


def test_a_search_finds_the_best_and_is_resumed(run: Run, tmp_path: Path) -> None:
    space = ("+x=interval(0,1)", "+n=choice(0,1,2)")
    code, printed = run(*SEARCH, *space)
    assert code == 0 and "Best: #" in printed, printed
    found = yaml.safe_load((tmp_path / "out" / "optimization_results.yaml").read_text())
    assert found["best_value"] < 0.3 and found["best_params"]["+n"] == 0 and 0 <= found["best_params"]["+x"] <= 1
    assert (tmp_path / "out" / "7" / ".hydra" / "overrides.yaml").exists()
    assert "hydra.sweeper.resume=true" in run(*SEARCH, *space)[1]
    code, printed = run(*SEARCH[:2], "hydra.sweeper.max_trials=10", "hydra.sweeper.resume=true", *space)
    assert code == 0 and "#9 : " in printed and "#10" not in printed and "- #0 : " not in printed
    code, printed = run(*SEARCH[:2], "hydra.sweeper.max_trials=12", "hydra.sweeper.resume=true", "+x=interval(0,2)")
    assert code == 2 and "another configuration" in printed
    assert "space: then x: 0 to 1, n: 0 | 1 | 2, now x: 0 to 2" in printed, printed
    state = tmp_path / "out" / ".labrun" / "search.json"
    content = json.loads(state.read_text())
    assert content["space"] == [
        "Numbers(name='x', key='+x', low=0.0, high=1.0, step=None, log=False, whole=False)",
        "Choice(name='n', keys=('+n',), values=(('0',), ('1',), ('2',)))",
    ], "searches of older versions hold this text, and are resumed only with the same"
    del content["told"]  # the oldest searches lack it
    state.write_text(json.dumps(content))
    code, printed = run(*SEARCH[:2], "hydra.sweeper.max_trials=11", "hydra.sweeper.resume=true", *space)
    assert code == 0 and "#10 : " in printed, printed
    code, printed = run(*SEARCH[:2], "hydra.sweeper.max_trials=12", "hydra.sweeper.resume=true", "+x=interval(0,2)")
    assert code == 2 and "another configuration" in printed, printed


@pytest.mark.parametrize("arguments", [("hydra.sweeper.sampler=grid",), ("+sweep=grid", "+sweep.seed=3")])
def test_a_grid_reports_its_best_run(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, printed = run("hydra/sweeper=labrun", *arguments, "+x=range(0,1,0.25)", "hydra.sweeper.goal=maximize")
    assert code == 0 and "Best: #3 : +x=0.75" in printed, printed
    assert OmegaConf.load(tmp_path / "out" / "optimization_results.yaml").best_params == {"+x": 0.75}
    code, printed = run("hydra/sweeper=labrun", *arguments, "+x=range(0,1,0.25)", "hydra.sweeper.resume=true")
    assert code == 2 and "hydra.sweeper.resume=true: a grid starts over each time" in printed


def test_another_launcher_executes_the_trials_in_batches(run: Run) -> None:
    code, printed = run(
        *SEARCH[:2],
        "hydra.sweeper.max_trials=3",
        "hydra.sweeper.max_concurrent=2",
        "+x=tag(log,interval(1e-3,1))",
        launcher=("hydra/launcher=basic",),
    )
    assert code == 0 and "Launching 2 jobs" in printed and "#2 : " in printed, printed
    code, printed = run(
        *FEW, "+x=interval(0,1)", "+fail=true", "hydra.sweep.dir=two", launcher=("hydra/launcher=basic",)
    )
    assert code == 1 and 'raise ValueError("my own line")' in printed and "run_job" not in printed
    code, printed = run(
        *FEW, "+x=interval(0,1)", "+exit=true", "hydra.sweep.dir=three", launcher=("hydra/launcher=basic",)
    )
    assert code == 1 and "job 0 ended the whole process with sys.exit(0)" in printed, printed


@pytest.mark.parametrize(
    "arguments, code, told",
    [
        (("+returns=pair",), 1, "a tuple of 2: several objectives"),
        (("+returns=nothing",), 1, "returned nothing: a search needs a number"),
        (("+returns=text",), 1, "returned a str"),
        (("+returns=none at all",), 1, "4 of 4 trials have no result"),
        (("+fail=true",), 1, "the first 3 trials failed"),
        (("hydra.sweeper.goal=[minimize,maximize]",), 2, "for one objective"),
        (("hydra.sweeper.sampler=ax",), 2, "allowed are grid, random, tpe"),
        (("hydra.sweeper.max_trials=-1",), 2, "hydra.sweeper.max_trials=-1"),
        (("+hydra.sweeper.trials=3",), 2, "hydra.sweeper.trials: no such key"),
        (("hydra.sweeper.sampler=grid",), 2, "and hydra.sweeper.sampler=grid tries every one"),
        (("hydra.sweeper.zip=[[x]]",), 2, "hydra.sweeper.zip=[[x]]: give at least two keys"),
        (("hydra.sweeper.sampler={_target_: builtins.dict}",), 2, "hydra.sweeper.sampler._target_='builtins.dict'"),
        (("hydra.sweeper.sampler=null",), 2, "hydra.sweeper.max_trials applies only to a search"),
        (("hydra.sweeper.sampler=null", "hydra.sweeper.max_trials=null"), 2, "hydra.sweeper.sampler=tpe"),
        (("hydra.sweeper.max_batch_size=2",), 2, "hydra.sweeper.max_concurrent"),
        (("hydra.sweeper.max_failure_rate=2",), 2, "hydra.sweeper.max_failure_rate=2: expected a number from 0 to 1"),
        (("hydra.sweeper.timeout_min=0.00001",), 1, "hydra.sweeper.timeout_min=1e-05 has passed: no more trials"),
    ],
)
def test_problems_of_a_search_are_reported(run: Run, arguments: tuple[str, ...], code: int, told: str) -> None:
    found, printed = run(*FEW, *arguments, "+x=interval(0,1)")
    assert found == code and told in printed, printed
    assert ("my own line" in printed) == ("Traceback" in printed) == ("+fail=true" in arguments), printed


def test_a_list_of_one_number_is_accepted_as_an_objective() -> None:
    assert objective(0, [3.0]) == 3.0
    with pytest.raises(CompactHydraException, match="a bool"):
        objective(0, True)


OPTUNA = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: tpe
  - _self_
hydra:
  sweeper:
    sampler: {seed: 123}
    direction: maximize
    study_name: square
    n_trials: 3
    n_jobs: 1
    params:
      x: range(-5.5, 5.5, step=0.5)
      n: choice(-5, 0, 5)
x: 1
n: 1
"""
LISTS = """
defaults:
  - override hydra/sweeper: labrun
  - _self_
hydra:
  sweeper:
    sampler: grid
    zip: [[n, fail]]
    params: {x: [0.5, 1], n: "-1,2", fail: "false,null"}
x: 1
n: 1
fail: false
"""


def test_a_config_for_optunas_sweeper_is_searched_by_labrun(run: Run, tmp_path: Path) -> None:
    (tmp_path / "opt.yaml").write_text(OPTUNA)
    code, printed = run(name="opt")
    assert code == 0 and "optuna is not installed: labrun searches in its place (sampler=tpe max_trials=3" in printed
    found = OmegaConf.load(tmp_path / "out" / "optimization_results.yaml")
    assert found.name == "optuna" and set(found.best_params) == {"x", "n"} and "#2 : " in printed
    assert {"optuna", "ax", "nevergrad", "labrun"} <= {
        name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/sweeper")
    }
    (tmp_path / "lists.yaml").write_text(LISTS)
    code, printed = run(name="lists")
    found = OmegaConf.load(tmp_path / "out" / "optimization_results.yaml")
    assert code == 0 and found.best_params == {"x": 0.5, "n": -1, "fail": False} and "#3 : " in printed, printed
    code, printed = run("hydra.sweeper.direction=[minimize,maximize]", name="opt")
    assert code == 2 and "several objectives" in printed


@pytest.mark.parametrize(
    "name, settings, expected, space, rest",
    [
        (
            "optuna",
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3, "gone": 1}, "n_jobs": 4},
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3}, "max_concurrent": 4},
            {},
            "gone",
        ),
        (
            "optuna",
            {
                "search_space": {
                    "a": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
                    "b": {"type": "categorical", "choices": [1, "x y"]},
                    "c": {"type": "int", "low": 1, "high": 3},
                }
            },
            {"max_trials": 20},
            {"a": "tag(log,interval(0.0001,1.0))", "b": "1,'x y'", "c": "int(interval(1,3))"},
            "",
        ),
        ("optuna", {"custom_search_space": "app.space", "storage": "sqlite:///x"}, {}, {}, "custom_search_space"),
        (
            "ax",
            {
                "ax_config": {
                    "max_trials": 7,
                    "experiment": {"minimize": False, "parameter_constraints": ["a <= b"]},
                    "params": {
                        "a": {"type": "range", "bounds": [-5, 10.1]},
                        "b": {"type": "choice", "values": [1, 2]},
                        "c": {"type": "fixed", "value": 4},
                        "d": "interval(0,1)",
                    },
                }
            },
            {"max_trials": 7, "goal": "maximize", "sampler": "gp"},
            {"a": "interval(-5,10.1)", "b": "1,2", "c": "4", "d": "interval(0,1)"},
            "parameter_constraints",
        ),
        (
            "nevergrad",
            {
                "optim": {"optimizer": "CMA", "budget": 9, "num_workers": 2, "maximize": True},
                "parametrization": {
                    "lr": {"init": 0.02, "step": 2.0, "log": True},
                    "n": {"lower": 4, "upper": 16, "integer": True},
                },
            },
            {"sampler": "cmaes", "max_trials": 9, "max_concurrent": 2, "goal": "maximize"},
            {"n": "int(interval(4,16))"},
            "lr: ",
        ),
    ],
)
def test_settings_of_other_sweepers_are_translated(
    name: str, settings: dict[str, Any], expected: dict[str, Any], space: dict[str, str], rest: str
) -> None:
    assert _sweeper_translation.detect_sweeper(settings) in (name, None)
    found = _sweeper_translation.translate(name, settings, {}, None)
    assert {key: found.settings[key] for key in expected} == expected and found.space == space
    assert rest in "\n".join([*found.remarks, *found.refused])


def test_for_labruns_own_runs_the_translation_is_advice(refused_here: Callable[..., str], tmp_path: Path) -> None:
    for more in (["hydra/sweeper=optuna"], ["hydra/sweeper=nevergrad"], ["+hydra.sweeper.n_trials=4"]):
        told = refused_here("-m", "model=logistic_regression", *more)
        assert "sweep=tpe" in told and "sweep.max_trials" in told, told
    assert "searched with sweep.max_trials" in refused_here("-m", "hydra.sweeper.max_trials=3")


def test_a_replaced_sweeper_keeps_its_failure_rate_and_resumes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "opt.yaml").write_text(
        OPTUNA.replace("n_trials: 3", "n_trials: 4").replace("x: range", "+at_most: '0.0'\n      x: range")
    )
    code, printed = run(name="opt")
    assert code == 1 and "max_failure_rate=0 allows 0 of 4: the search ends" in printed, printed
    code, printed = run("hydra.sweeper.max_failure_rate=0.9", "hydra.sweep.dir=two", name="opt")
    assert code == 0 and "Best: #" in printed and "my own line" in printed, printed
    again = ("hydra.sweeper.max_failure_rate=0.9", "hydra.sweep.dir=two", "hydra.sweeper.n_trials=5")
    assert "hydra.sweeper.resume=true" in run(*again, name="opt")[1]
    code, printed = run(*again, "hydra.sweeper.resume=true", name="opt")
    assert code == 0 and "#4 : " in printed and "- #3 : " not in printed, printed


def test_keys_of_optunas_sweeper_work_with_labruns_sampler(run: Run, tmp_path: Path) -> None:
    (tmp_path / "opt.yaml").write_text(
        OPTUNA.replace("  - override hydra/sweeper/sampler: tpe\n", "").replace("    sampler: {seed: 123}\n", "")
    )
    code, printed = run("hydra/sweeper=labrun", "hydra.sweeper.sampler=random", name="opt")
    assert code == 0 and "sampler=random max_trials=3" in printed, printed
