"""The study: its journal, its state after a kill, and no repeated trials."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest

from labrun.control.objective import Objective
from labrun.errors import ConfigError
from labrun.search import pictures
from labrun.search.space import Choice, Dimension, Numbers, combination_count, combinations
from labrun.search.study import OVERRIDES, Study

KIND = Choice("kind", ("kind",), (("a",), ("b",)))
SIZE = Numbers("size", "size", 0.0, 1.0)
RANDOM = {"_target_": "optuna.samplers.RandomSampler"}


def conditional(overrides: list[str]) -> Sequence[Dimension]:
    """`size` belongs to kind a alone."""
    if not overrides:
        return [KIND]
    return [SIZE] if overrides == ["kind=a"] else []


def flat(overrides: list[str]) -> Sequence[Dimension]:
    return [] if overrides else [SIZE]


def opened(path: Path, maximize: Sequence[bool] = (True,), seed: int = 0) -> Study:
    return Study(path, RANDOM, seed, maximize)


def test_conditional_dimensions_are_asked_only_for_their_choice(tmp_path: Path) -> None:
    study = opened(tmp_path / "journal")
    asked = [study.ask(conditional, str(number)) for number in range(12)]
    assert {len(one.overrides) for one in asked} == {1, 2}
    assert all((len(one.overrides) == 2) == (one.overrides[0] == "kind=a") for one in asked)


def test_a_new_controller_does_not_repeat_earlier_trials(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    study = opened(path)
    first = [study.ask(flat, str(number)).parameters["size"] for number in range(4)]
    study.tell(0, [0.5])
    again = opened(path)
    assert [trial.number for trial in again.open()] == [1, 2, 3] and again.counted() == 4
    assert again.trials()[1].user_attrs[OVERRIDES] == [f"size={first[1]!r}"]
    assert again.ask(flat, "4").parameters["size"] not in first
    repeated = opened(tmp_path / "other")
    assert [repeated.ask(flat, str(number)).parameters["size"] for number in range(4)] == first, (
        "a seed reproduces the trials"
    )


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    study = opened(path)
    for number in range(3):
        study.ask(flat, str(number))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    again = opened(path)
    assert again.counted() == 2, "the third trial never got a run"
    again.close_without_run()
    assert [trial.number for trial in again.open()] == [0, 1]
    assert again.ask(flat, "2").number == 3


def test_each_ending_of_a_trial_is_reported_to_the_study(tmp_path: Path) -> None:
    study = opened(tmp_path / "journal")
    for number in range(5):
        study.ask(flat, str(number))
    assert study.tell(0, [0.5]) and not study.tell(1, [math.nan])
    study.stop(2, [0.1, 0.2, math.nan], "a rule")
    study.fail(3, "it broke")
    study.fail(4, "canceled", replaced=True)
    states = [trial.state.name for trial in study.trials()]
    assert states == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL"] and study.counted() == 4
    assert study.trials()[2].value == 0.2 and study.trials()[2].last_step == 2 and study.open() == []


def test_enqueued_trials_come_first(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", None, 0, [True])
    study.enqueue({"size": 0.25})
    study.enqueue({"size": 0.75})
    assert study.waiting() == 2
    assert [study.ask(flat, str(n)).overrides for n in range(2)] == [["size=0.25"], ["size=0.75"]]
    assert study.waiting() == 0


def test_trials_not_enqueued_by_a_killed_controller_are_enqueued(tmp_path: Path) -> None:
    wanted = [{"size": number / 8} for number in range(5)]
    study = Study(tmp_path / "journal", None, 0, [True])
    study.enqueue_missing(wanted[:3])
    study.tell(study.ask(flat, "0").number, [0.0])
    study.optuna.ask()  # and killed before its run was named
    again = Study(tmp_path / "journal", None, 0, [True])
    again.close_without_run()
    again.enqueue_missing(wanted)
    assert again.waiting() == 4
    asked = {again.ask(flat, str(number)).overrides[0] for number in range(1, 5)}
    assert asked == {f"size={number / 8!r}" for number in range(1, 5)}


def test_mistakes_of_a_study_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not an Optuna sampler"):
        Study.check({"_target_": "collections.OrderedDict"}, 1)
    with pytest.raises(ConfigError, match="takes no such argument"):
        Study.check({**RANDOM, "wrong": 1}, 1)
    with pytest.raises(ConfigError, match="one metric"):
        Study.check({"_target_": "optuna.samplers.CmaEsSampler"}, 2)
    opened(tmp_path / "journal")
    with pytest.raises(ConfigError, match="other metrics or goals"):
        opened(tmp_path / "journal", [True, False])


def test_no_combination_is_suggested_twice(tmp_path: Path) -> None:
    steps = Numbers("steps", "steps", 0.0, 2.0, step=1.0, whole=True)
    both = [KIND, steps]
    whole = list(combinations(both))
    assert combination_count(both) == len(whole) == 6 and combination_count([KIND, SIZE]) is None
    study = opened(tmp_path / "journal")

    def dimensions(overrides: list[str]) -> Sequence[Dimension]:
        return [] if overrides else both

    def spare() -> dict[str, object] | None:
        left = study.untried(whole)
        return left[0] if left else None

    asked = [study.ask(dimensions, str(number), spare) for number in range(6)]
    assert {tuple(one.overrides) for one in asked} == {(f"kind={k}", f"steps={n}") for k in "ab" for n in range(3)}
    assert study.untried(whole) == [] and study.counted() == 6
    study.fail(asked[2].number, "canceled", replaced=True)
    assert study.untried(whole) == [asked[2].parameters]
    assert study.ask(dimensions, "6", spare).overrides == asked[2].overrides, "another takes its place"


def test_importances_are_computed_without_importing_scikit_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(sys.modules):
        if name == "sklearn.ensemble" or name.startswith("optuna.importance"):
            monkeypatch.delitem(sys.modules, name)
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("a", 0, 1) + trial.suggest_int("b", 0, 3), n_trials=8)
    found = pictures.importance(study, [Objective("score", True)])
    assert "sklearn.ensemble" not in sys.modules and "optuna.importance" not in sys.modules
    assert found == optuna.importance.get_param_importances(study) and set(found) == {"a", "b"}
    assert optuna.importance.FanovaImportanceEvaluator().evaluate(study).keys() == {"a", "b"}
