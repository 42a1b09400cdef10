"""Config values in records and cards and back: components receive them as from Hydra."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from conftest import Command, Runner
from helpers import new
from labrun import execute
from labrun.compose import composed, hydra_files
from labrun.config import exact
from labrun.config.instantiate import build
from labrun.config.references import resolve_environment
from labrun.config.schema import Config
from labrun.errors import ConfigError, RecordError
from labrun.runs.record import read_record, write_record
from labrun.search import summary
from labrun.submission import rerun
from labrun.tasks.saved import load_model

ODD = r"""
table: {0: 9.0, 1: 1.0, -3: "-3", 1.5: half, true: yes, "0": text, "": empty, "a.b": dotted, "!float": nan}
tagged: {"!map": [[0, 1]]}
odd: [.nan, .inf, -.inf, -0.0, 1e400, 100000000000000000000000000000, 1.0, 1]
words: ["1", "nan", "null", "true", " x ", "", "1e5", "2020-01-01", "C:\\new", "~"]
date: 2020-01-01
nothing: null
binary: !!binary aGVsbG8=
deep: [{1: [{2: {3: .nan}}]}]
"""
TEXTS = r"""
escaped: \${epoch}
mixed: 'a\\b \${oc.env:HOME} \${mount:digits} \${ {x} ${.date} $'
nested: [{1: '\${x} C:\\\${y}'}]
"""
MEANT = {
    "escaped": "${epoch}",
    "mixed": r"a\\b ${oc.env:HOME} ${mount:digits} ${ {x} 2020-01-01 $",
    "nested": [{1: r"${x} C:\${y}"}],
}
"""What they are. Hydra's `instantiate` resolves twice, so that it cannot be asked."""
NETWORK = """
import json, math
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, num_classes, *seen, **given):
        super().__init__()
        print("GIVEN", repr(seen), repr(given))
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))

    def forward(self, x):
        return self.layers(x)
"""


def as_json(value: Any) -> Any:
    """By the way of a record's text, which is valid JSON."""
    text = json.dumps(exact.encoded(value), allow_nan=False)
    return exact.decoded(json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")))


@pytest.mark.parametrize(
    "value",
    [
        {0: 1, 1: 5},
        {0: "a", "0": "b", 1.5: 1},
        {"!float": "nan"},
        {"!map": []},
        {"!x": {"!y": 1}},
        {"!a": 1, "b": 2},
        [float("nan"), float("inf"), -float("inf"), -0.0, 10**30, 1.0, 1, True, None],
        b"\0\xff",
        Path("/a/b"),
        "",
        {"": {}},
        {b"k": 1},
        {float("inf"): 1},
        [],
        {},
        "${epoch}",
        "\\${epoch}",
        "!float",
    ],
)
def test_every_value_is_read_back_unchanged(value: Any) -> None:
    back = as_json(value)
    assert repr(back) == repr(value) and type(back) is type(value)


def test_plain_json_values_are_written_unchanged() -> None:
    plain = {"a": [1, 2.5, "x", None, True, {"b": {}}], "c": "${oc.env:HOME}"}
    assert exact.encoded(plain) == plain


@pytest.mark.parametrize("damaged", [{"!float": "x"}, {"!map": 3}, {"!map": [[1]]}, {"!bytes": "ä"}, {"!no": 1}])
def test_a_damaged_value_is_one_error_of_the_record(tmp_path: Path, damaged: Any) -> None:
    write_record(tmp_path, new())
    content = json.loads((tmp_path / "run.json").read_text())
    content["config"] = {"model": damaged}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="is damaged"):
        read_record(tmp_path)


def test_text_with_interpolation_syntax_stays_literal() -> None:
    """Two thousand texts of characters special to OmegaConf are escaped, resolved, saved, and resolved again."""
    draw = random.Random(0)
    signs = ["$", "{", "}", "\\", "${", "\\${", "a", ":", ",", "'", '"', " ", "oc.env:", "mount:"]
    texts = {f"t{number}": "".join(draw.choices(signs, k=8)) for number in range(2000)}
    config = OmegaConf.create({"model": {name: exact.escaped(text) for name, text in texts.items()}})
    kept = composed.resolved(config, keep_environment=True)
    got, _ = execute.mount_inputs(Config(resolve_environment(kept)))
    assert got.model == texts


def test_escaped_text_is_displayed_unescaped() -> None:
    for text, told in (
        (r"\${epoch}", "${epoch}"),
        (r"C:\\\${x}", r"C:\${x}"),
        ("${oc.env:X}", "${oc.env:X}"),
        (r"a\\${oc.env:X} \${b}", r"a\\${oc.env:X} ${b}"),
        ("plain", "plain"),
    ):
        assert exact.shown(text) == told


def test_defaults_of_environment_references_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    for default, value in (
        ("'a, b'", "a, b"),
        ("'1.50'", "1.50"),
        ("'null'", "null"),
        ("''", ""),
        ("null", None),
        ("a-b/c", "a-b/c"),
        (r"'\'x\''", "'x'"),
        ("'${.other}'", "1, 2"),
    ):
        config = OmegaConf.create({"model": {"text": f"${{oc.env:NOT_SET,{default}}}", "other": "1, 2"}})
        kept = composed.resolved(config, keep_environment=True)
        assert (
            kept["model"]["text"].startswith("${oc.env:NOT_SET") and resolve_environment(kept)["model"]["text"] == value
        )


def test_a_record_of_an_older_format_is_read_and_rewritten(tmp_path: Path) -> None:
    write_record(tmp_path, new())
    content = json.loads((tmp_path / "run.json").read_text())
    arguments = {"pattern": "${epoch}", "home": "${oc.env:HOME}", "data": "${mount:digits}", "weights": {"0": 1}}
    content |= {"format": 1, "config": {"script": arguments, "odd": {"!float": "nan"}}}
    (tmp_path / "run.json").write_text(json.dumps(content))
    for _ in range(2):
        record = read_record(tmp_path)
        assert record.config["script"] == {**arguments, "pattern": r"\${epoch}"}
        assert record.config["odd"] == {"!float": "nan"}
        write_record(tmp_path, record)


class Given:
    """Keeps its arguments."""

    def __init__(self, *args: Any, **given: Any) -> None:
        self.args, self.given = args, given


@pytest.mark.parametrize(
    "more",
    [
        "",
        "_convert_: none",
        "_convert_: partial",
        "_convert_: object",
        "_recursive_: false",
        "_args_: [1, {2: 3}]",
        "inner: {_target_: fractions.Fraction, _args_: [1, 3]}",
        "_partial_: true",
    ],
)
def test_a_component_gets_the_same_arguments_as_from_instantiate(more: str) -> None:
    head = f"_target_: {Given.__module__}.Given\n{more}\n{ODD}"
    wanted = instantiate(OmegaConf.create(head), **({} if "_convert_" in more else {"_convert_": "all"}))
    kept = composed.resolved(OmegaConf.create({"model": OmegaConf.create(head + TEXTS)}), keep_environment=True)
    given, _ = execute.mount_inputs(Config(resolve_environment(as_json(kept))))
    found = build(given.model, "model")
    if more == "_partial_: true":
        wanted, found = wanted(), found()
    assert {key: found.given.pop(key) for key in MEANT} == MEANT
    assert repr((found.args, found.given)) == repr((wanted.args, wanted.given))
    assert {key: type(value) for key, value in found.given.items()} == {k: type(v) for k, v in wanted.given.items()}


def test_a_component_cannot_change_the_config() -> None:
    class Eats:
        def __init__(self, table: dict[int, int]) -> None:
            table.clear()

    import sys

    sys.modules[__name__].__dict__["Eats"] = Eats
    node = {"_target_": f"{__name__}.Eats", "table": {0: 1}}
    build(node, "model")
    assert node["table"] == {0: 1}


def test_values_that_no_record_can_hold_are_refused_by_name() -> None:
    config = OmegaConf.create({"model": {"name": "\ud800"}})
    with pytest.raises(ConfigError, match=r"model\.name='\\ud800': text that is not Unicode, which no record can hold"):
        composed.resolved(config, keep_environment=True)
    with pytest.raises(ConfigError, match="model.lr has no value yet: set model.lr="):
        composed.resolved(OmegaConf.create({"model": {"lr": "???"}}), keep_environment=True)
    for key, hint in (("rate", r"; a variable of the environment is \$\{oc\.env:rate\}$"), ("trainer.rate", "$")):
        said = rf"model\.lr: \$\{{{key}\}} refers to the key {key} of the config, which does not exist{hint}"
        with pytest.raises(ConfigError, match=said):
            composed.resolved(OmegaConf.create({"model": {"lr": f"${{{key}}}"}}), keep_environment=True)
    with pytest.raises(ConfigError, match=r"model\.lr: \$\{double:\.\.\.\}: there is no resolver double; "):
        composed.resolved(OmegaConf.create({"model": {"lr": "${double:3}"}}), keep_environment=True)


@pytest.fixture
def odd_network(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's network with every odd value; return its arguments as Hydra passes them."""
    monkeypatch.syspath_prepend(str(workspace))  # type: ignore[no-untyped-call]
    (workspace / "odd_net.py").write_text(NETWORK)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "odd.yaml").write_text(f"# Odd.\n_target_: odd_net.Net\n{ODD}{TEXTS}_args_: []\n")
    wanted = instantiate(OmegaConf.create(f"_target_: {Given.__module__}.Given\n{ODD}"), _convert_="all").given
    return f"GIVEN () {wanted | MEANT!r}"


FAST = ("model=odd", "trainer.max_epochs=1", "trainer.batch_size=512", "report=none")


def given(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("GIVEN")]


def test_runs_sweeps_reruns_and_loaded_models_get_the_same_values(
    labrun: Command, workspace: Path, odd_network: str, registered: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Over 15 s: four processes train or score a network."""
    done = labrun(*FAST, "tracking=none", "name=one")
    assert given(done.stdout) == [odd_network], done.stdout + done.stderr
    (one,) = (workspace / "outputs" / "one").iterdir()
    json.loads((one / "run.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    done = labrun("-m", *FAST, "tracking=none", "name=two", "seed=1,2", "model.table={0: 1},{0: 2}")
    logs = [path.read_text() for path in workspace.glob("multirun/two/*/*/driver.log")]
    seen = sorted(line for log in logs for line in given(log))
    assert len(seen) == 4 and all("'odd': [nan, inf, -inf, -0.0, inf, 1000" in line for line in seen), done.stderr
    assert ["{'table': {0: 1, " in line for line in seen] == [True, True, False, False]
    done = labrun("task=evaluate", f"from={one}", "trusted=[odd_net.Net]", "tracking=none", "report=none")
    assert given(done.stdout) == [odd_network], done.stdout + done.stderr
    again = rerun.prepare(one, ["seed=5"])
    assert exact.same(again.job.record.config["model"], read_record(one).config["model"])
    capfd.readouterr()
    load_model(one, trusted=["odd_net.Net"])
    assert given(capfd.readouterr().out) == [odd_network]


def test_arguments_of_scripts_and_estimators_are_passed_unchanged(run_here: Runner, workspace: Path) -> None:
    record, run_dir = run_here(
        "model._target_=sklearn.ensemble.RandomForestClassifier",
        "~model.regularization",
        "~model.max_iter",
        "~model.tol",
        "~model.solver",
        "~model.backend",
        "+model.n_estimators=3",
        "+model.class_weight={0:1,1:5,2:1,3:1,4:1,5:1,6:1,7:1,8:1,9:1}",
    )
    assert record.status == "completed" and read_record(run_dir).config["model"]["class_weight"][1] == 5
    (workspace / "t.py").write_text("import sys\nprint('GIVEN', sys.argv[1:])\n")
    record, run_dir = run_here(
        "experiment=script",
        "script.path=t.py",
        r"script.arguments.pattern=\${epoch}",
        r"notes=\${n}",
        r"tags={a: '\${t}'}",
        r"script.arguments.other=\${mount:x}",
    )
    assert record.config["script"]["arguments"] == {"pattern": r"\${epoch}", "other": r"\${mount:x}"}
    assert (record.notes, record.tags) == ("${n}", {"a": "${t}"})


def test_signatures_are_unchanged_and_cover_odd_values() -> None:
    config: dict[str, Any] = {"model": {"a": 1, "b": [1.5, None]}, "trainer": {}, "compute": {}, "dataset": {"x": 1}}
    assert (
        execute.signature(Config(config), [], None)
        == "9d411a64b22da6fb814bf2927d3ce1ff5a00c10e1000163f064aad39c1d2ab39"
    )
    for value in ({0: 1, "0": 2}, [math.nan]):
        one = execute.signature(Config({**config, "model": {"a": value}}), [], None)
        assert one == execute.signature(Config(as_json({**config, "model": {"a": value}})), [], None)
        assert one != execute.signature(Config({**config, "model": {"a": str(value)}}), [], None)


def test_texts_and_numbers_keep_their_types_in_written_yaml() -> None:
    """In `best.yaml` and `.hydra/config.yaml`. OmegaConf reads `1e5` without quotes as a number."""
    values = {"a": ["1e5", 1e5, "1", 1, "null", None, "yes", True, math.inf, "${x}", "x: y"], "b": {0: 1, "0": "2"}}
    assert repr(OmegaConf.to_container(OmegaConf.create(hydra_files.as_yaml(values)), resolve=False)) == repr(values)
    assert summary._value("'1e5'") == "1e5" and summary._value("{0: nan}").keys() == {0}
