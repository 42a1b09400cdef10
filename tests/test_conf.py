"""Every shipped YAML file composes, has a description, and matches the schema."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import GrammarParseError, ValidationError

from helpers import forget_hydra, program
from labrun import _io
from labrun.compose import parsed, paths
from labrun.compose.composed import validated, without_hydra
from labrun.config import checking, schema
from labrun.config.instantiate import build
from labrun.errors import ConfigError

CONF = paths.conf_dir()
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and "hydra" not in path.parts and "local" not in path.parts
)


@dataclass
class Typed:
    size: int = 1


def composed(*overrides: str) -> schema.Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return validated(without_hydra(config))


ALONE = ("experiment", "model", "model/estimator", "model/preprocessor", "script")
"""Groups whose options choose the model, or what is executed: one in each composition."""


def rounds() -> list[list[tuple[str, str]]]:
    """Every option: those of `ALONE` in a composition each, the others with a data set and the next of each group."""
    groups = {group for group, _ in OPTIONS} - {*ALONE}
    # sweep=_common, the first of its group, and dataset=torch, the last, have no groups below them.
    found = [
        [pair for pair in OPTIONS[:: -1 if group == "sweep" else 1] if pair[0] == group] for group in sorted(groups)
    ]
    rows = zip_longest(*found)
    return [[pair] for pair in OPTIONS if pair[0] in ALONE] + [[pair for pair in row if pair] for row in rows]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("options", rounds(), ids=lambda pairs: "-".join(pairs[0]))
def test_every_option_composes_and_is_valid(options: list[tuple[str, str]]) -> None:
    overrides = [f"{group}={option}" for group, option in options]
    group = options[0][0]
    if group in ("model/estimator", "model/preprocessor"):
        overrides.insert(0, "model=pipeline")
    elif group not in ALONE:
        overrides.insert(0, "model=mnist_dnn")
    if ("model", "ensemble") in options:
        overrides += ["model.members=[]", "model.weights=[]"]
    if ("dataset", "image_folder") in options:
        overrides.append("datastore.root=.")
    if ("dataset", "npz") in options or ("dataset", "csv") in options:
        overrides.append("dataset.path=data")
    if ("dataset", "torch") in options:
        overrides.append("dataset.train._target_=mine.Train")
    if ("script", "default") in options or ("experiment", "script") in options:
        overrides += ["experiment=script", "script.path=train.py", "name=mine"]
    if ("datastore", "http") in options:
        overrides.append("datastore.root=http://127.0.0.1/data")
    assert composed(*overrides).name


def test_every_file_begins_with_a_comment() -> None:
    for group, option in OPTIONS:
        lines = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
        comments = [line for line in lines[:3] if line.startswith("#") and not line.startswith("# @package")]
        assert comments, f"say in the first lines what {group}={option} is"


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_names_the_command_that_runs_it(path: Path) -> None:
    assert f"#   labrun experiment={path.stem}" in path.read_text(encoding="utf-8")


def test_every_file_is_plain_yaml() -> None:
    for path in CONF.rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


@pytest.mark.usefixtures("registered")
def test_the_default_name_is_the_experiments_or_data_set_and_model() -> None:
    assert composed("experiment=mnist_logreg").name == "mnist_logreg"
    assert composed("dataset=mnist", "model=mnist_dnn").name == "mnist-mnist_dnn"
    assert composed("name=mine").name == "mine"


@pytest.mark.usefixtures("registered")
def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        composed("seed=-1", "trainer.max_epochs=0", "model.regularization=abc", "report=some")
    text = str(caught.value)
    assert "4 mistakes" in text
    for part in ("seed=-1", "trainer.max_epochs=0", "model.regularization='abc'", "one of auto, all, none"):
        assert part in text


@pytest.mark.usefixtures("registered")
def test_an_unknown_key_is_reported_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model\.regularisation: no such key\. Did you mean 'regularization'\?"):
        composed("+model.regularisation=1")


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (True, float, False),
        (True, int, False),
        ("1", int, False),
        (1.5, int, False),
        (None, schema.Count | None, True),
        (0, schema.Count, False),
        (float("nan"), schema.Positive, False),
        ([1.0, 2], list[schema.Positive], True),
        ([1.0, 0], list[schema.Positive], False),
        ({"a": 1}, dict[str, int], True),
    ],
)
def test_values_are_checked_for_type_and_range(value: object, hint: object, fits: bool) -> None:
    assert checking.fits(value, hint) is fits


def test_build_binds_the_targets_arguments() -> None:
    with pytest.raises(ConfigError, match="takes no such argument. Did you mean 'hidden'"):
        build({"_target_": f"{__name__}.thing", "hiden": 3}, "model")


def test_build_passes_only_arguments_that_the_target_accepts_and_lacks() -> None:
    node = {"_target_": f"{__name__}.thing", "hidden": 3}
    assert build(node, "model", hidden=9, seed=1, classes=2) == (3, 2)
    with pytest.raises(ConfigError, match="missing a required argument: 'hidden'"):
        build({"_target_": f"{__name__}.thing"}, "model")


def test_a_missing_target_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\._target_='no_such_module.Net' cannot be imported"):
        build({"_target_": "no_such_module.Net"}, "model")


def thing(hidden: int, classes: int = 10) -> tuple[int, int]:
    """Something to build."""
    return hidden, classes


def test_a_config_of_another_version_gets_default_parts() -> None:
    setup = ["module load ${oc.env:NOT_SET}"]
    config = schema.Config(
        {"compute": {"cpus_per_run": 2, "later": 1, "setup": setup}, "sweep": {"seed": 1}, "later": 1}
    )
    assert (config.task, config.seed, config.name, config.tracker) == ("fit", 42, "", "none")
    assert (config.dataset, config.model, config.callbacks, config.environment) == ({}, {}, {}, {})
    assert (config.script, config.source, config.resumed) == (None, None, None)
    assert config.trainer == schema.Trainer() and config.sweep.goals == [("accuracy", "maximize")]
    with pytest.raises(ConfigError, match="NOT_SET"):
        assert config.compute
    frozen = schema.Config({"from": {"id": "abcd1234", "path": "/a"}, "script": {"path": "t.py"}, "compute": None})
    assert frozen.scored == schema.Source("abcd1234", Path("/a")) and frozen.compute == schema.Compute("auto")
    assert frozen.script is not None and frozen.script.shown_name == "t.py"


def test_missing_keys_of_a_data_set_and_a_pipeline_have_their_defaults() -> None:
    node = {"name": "a", "scale": None, "in_memory": False, "later": 1}
    data = schema.Config({"dataset": node}).dataset_settings
    assert (data.test_size, data.scale, data.in_memory, data.download, data.place) == (0.2, 255.0, False, True, "a")
    pipeline = composed("model=pipeline", "~model.folds", "model.refit=false").pipeline_settings
    assert (pipeline.folds, pipeline.refit) == (5, False)


def test_composing_does_not_change_hydras_store(registered: None) -> None:
    """Hydra's copies of its sources share the store of configs, but each config loaded from it is a copy."""
    store = ConfigStore.instance()
    assert copy.deepcopy(store) is store
    overrides = ["dataset=torch", "dataset.train._target_=a.B"]
    for _ in range(2):
        with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
            config = compose("config", overrides)
        assert OmegaConf.to_container(config.dataset.train) == {"_target_": "a.B"}
        config.dataset.test.changed = True
    assert store.load("dataset/_open.yaml").node.test == {}


def test_a_config_file_is_parsed_again_only_after_a_change(
    tmp_path: Path, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: {b: 1}\n")

    def result() -> DictConfig:
        forget_hydra()
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("config")

    def is_held() -> bool:
        return any(folder == str(tmp_path) for _, folder, _, _ in parsed._parsed)

    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 3600 * 10**9)
    result()
    assert not is_held()  # a change within its timestamps' resolution would go unseen
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)
    first = result()
    assert is_held()
    with open_dict(first):
        first.a.b = 2
    assert result() == {"a": {"b": 1}}
    file.write_text("a: {b: 3}\n")
    assert result() == {"a": {"b": 3}}
    file.write_text("a: {b: 3\n")
    with pytest.raises(yaml.YAMLError):
        result()


def test_a_copy_of_a_stored_config_keeps_its_types_and_the_original(tmp_path: Path, registered: None) -> None:
    @dataclass
    class Local(Typed):  # cannot be pickled
        pass

    store = ConfigStore.instance()
    store.store(group="part", name="typed", node=Typed)
    store.store(group="part", name="local", node=Local)
    text = (
        "defaults: [part@one: typed, part@two: typed, part@three: local, part@four: local, _self_]\none: {}\nfour: {}"
    )
    (tmp_path / "config.yaml").write_text(text)
    try:
        for _ in range(2):
            forget_hydra()
            with initialize_config_dir(str(tmp_path), version_base="1.3"):
                config = compose("config", ["one.size=3", "four.size=2"])
            assert [config[name] for name in ("one", "two")] == [{"size": 3}, {"size": 1}]
            assert [config[name] for name in ("three", "four")] == [{"size": 1}, {"size": 2}]
            for name in ("two", "three"):
                with pytest.raises(ValidationError):
                    config[name].size = "many"
    finally:
        del store.repo["part"]


SPEEDUPS = """
import copy
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from labrun.app.resolvers import register
from labrun.compose import merged, parsed, paths, speedups

apply, speedups.apply = speedups.apply, lambda: None
remember, parsed.remember = parsed.remember, lambda: None
register()
parsed.remember = remember


def nodes(node, parent=None, path=""):
    content, about = node.__dict__.get("_content"), node._metadata
    flags = [node._get_flag(flag) for flag in ("readonly", "struct", "allow_objects", "no_deepcopy_set_nodes")]
    types = about.ref_type, about.optional, getattr(about, "object_type", None)
    yield path, type(node), about.flags or {}, types, node._key(), flags, node._get_parent() is parent
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, child in pairs:
        yield from nodes(child, node, f"{path}/{key}")
    if not pairs:
        yield path, node._value()


def composed(*overrides):
    try:
        with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
            return list(nodes(compose("config", [*overrides], return_hydra_config=True)))
    except Exception as error:
        return str(error)


class Color(Enum):
    RED = 1


class Special(DictConfig):
    pass


opaque = [lambda: 0]


@dataclass
class Part:
    color: Color = Color.RED
    either: Union[int, str] = 1
    sizes: Dict[str, int] = field(default_factory=lambda: {"a": 1})
    lists: List[List[int]] = field(default_factory=lambda: [[1], []])
    none: Optional[int] = None
    given: int = "???"
    twice: Any = "${..value}"


def copies():
    numbers = iter(range(9))
    OmegaConf.register_new_resolver("held", lambda: next(numbers), use_cache=True, replace=True)
    values = dict(path=Path("a"), blob=b"b", real=0.5, flag=True, text="t", asked="${held:}", missing="???")
    whole = OmegaConf.create({"value": 1, "part": Part, "others": [values, None, {"list": [1]}]})
    whole.opaque = OmegaConf.create({"values": opaque}, flags={"allow_objects": True})
    whole.others[0]._metadata.resolver_cache["own"] = {"key": [1]}
    whole.others[0].asked
    OmegaConf.set_readonly(whole.part, True)
    OmegaConf.set_struct(whole, True)
    for one in (whole, whole.part, whole.others, whole.others[0], whole.part.lists, Special({"a": {"b": 1}})):
        one._get_flag("struct")
        own = copy.deepcopy(one)
        assert own._get_parent() is one._get_parent() and own is not one
        cache = own._metadata.resolver_cache
        assert cache == one._metadata.resolver_cache and (cache is not one._metadata.resolver_cache)
        found, given = list(nodes(own, own._get_parent())), list(nodes(one, one._get_parent()))
        assert found == given or type(one) is Special
        yield found
    deep = copy.deepcopy(whole)
    assert deep.opaque["values"][0] is opaque[0] and deep.others[0].asked == whole.others[0].asked == 0
    deep.others[0]._metadata.resolver_cache["own"]["key"].append(2)
    deep.others[2].list.append(2)
    OmegaConf.set_readonly(deep.part, False)
    deep.part.sizes.a, deep.part.lists[0] = 2, [3]
    assert whole.others[0]._metadata.resolver_cache["own"] == {"key": [1]}
    assert whole.part == Part() and whole.others[2].list == [1] and OmegaConf.is_readonly(whole.part)
    pair = copy.deepcopy([whole.part, whole.part])
    assert pair[0] is pair[1]


LINES = (
    [], ["experiment=cifar10_cnn", "~trainer.max_epochs"], ["sweep=tpe", "hydra/launcher=labrun"], ["tags={a: [1]}"],
    ["experiment=script", "script.path=a.py", "+script.arguments.x=1"], ["no=1"], ["model.no=1"], ["seed=${seed}"],
)
plain, copied = [composed(*line) for line in LINES], list(copies())
apply()
assert list(copies()) == copied
parsed.remember()
merged.held().clear()
for count in range(3):  # the first reads each file, the second merges them, the last finds them merged
    assert [composed(*line) for line in LINES] == plain
assert [type(one) for one in plain].count(str) == 2 and len(merged.held()) == 6
print("the same", sum(map(len, plain)))
"""


def test_labruns_faster_parts_of_hydra_compose_the_same_configs(tmp_path: Path) -> None:
    """Each node has the same type, value, flags, key and parent. Errors are the same, too."""
    (tmp_path / "compare.py").write_text(SPEEDUPS)
    done = subprocess.run(program("python", "compare.py"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "the same" in done.stdout, done.stderr


DEFAULT_CONFIG = """
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from labrun.app import default_config
from labrun.app.resolvers import register
from labrun.compose import merged, parsed, paths

parsed.load_all(paths.conf_dir())
merged.held().clear()
default_config.merge()
before = set(merged.held())
assert len(before) == 3 and Plugins not in Singleton._instances
register()
for overrides in ([], ["model=mnist_dnn"]):
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        print(compose("config", overrides).model._target_)
    print(len(set(merged.held()) - before))
"""


def test_a_warm_interpreter_has_merged_the_default_config(tmp_path: Path) -> None:
    """Nothing new is held after the default config, and only the finished one after another."""
    (tmp_path / "ahead.py").write_text(DEFAULT_CONFIG)
    done = subprocess.run(program("python", "ahead.py"), cwd=tmp_path, capture_output=True, text=True, check=False)
    targets = ("labrun.models.logistic_regression.logistic_regression", "labrun.models.mnist_dnn.MnistDNN")
    assert done.stdout.split() == [targets[0], "0", targets[1], "1"], done.stdout + done.stderr


@pytest.fixture
def composing(tmp_path: Path, registered: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Composes the config.yaml of a separate folder, whose files are cached at once."""
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)

    def result(*overrides: str) -> DictConfig:
        forget_hydra()
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            return compose("config", [*overrides])

    return result


def test_configs_are_merged_again_when_they_may_have_changed(
    tmp_path: Path, composing: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, chosen = "${oc.create:${oc.decode:'{${oc.env:GIVEN}: 1}'}}", "${${oc.env:GIVEN}}"
    (tmp_path / "config.yaml").write_text(
        f'defaults: [_self_, part: one]\ny: {{k: 1}}\nz: {{l: 1}}\na: {chosen}\nc: "{made}"\nb: 0\n'
    )
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "one.yaml").write_text("# @package _global_\na: {x: 1}\nc: {x: 1}\n")
    (tmp_path / "part" / "two.yaml").write_text("# @package _global_\nb: 2\n")
    for given, key in (("y", "k"), ("z", "l")):  # a merge into an interpolation resolves it
        monkeypatch.setenv("GIVEN", given)
        found = composing()
        assert found.a == {"x": 1, key: 1} and found.c == {"x": 1, given: 1}
    with open_dict(found):
        found.a.x = found.b = 5
    assert composing().a.x == 1 and composing().b == 0 and composing("part=two").b == 2
    (tmp_path / "part" / "two.yaml").write_text("# @package _global_\nb: 30\n")
    assert composing("part=two").b == 30
    ConfigStore.instance().store("three", {"c": 1}, group="part", package="_global_")
    assert composing("part=three").c == 1
    ConfigStore.instance().store("three", {"c": 2}, group="part", package="_global_")
    assert composing("part=three").c == 2


def test_each_composition_has_its_own_time_and_id(tmp_path: Path, composing: Callable[..., Any]) -> None:
    (tmp_path / "config.yaml").write_text("defaults: [_self_, part]\na: '${now:%f} ${labrun_id:}'\n")
    (tmp_path / "part.yaml").write_text("# @package _global_\nb: '${now:%f} ${labrun_id:}'\na: ${b}\n")
    found = [composing() for _ in range(3)]
    assert len({one.a for one in found}) == 3 and all(one.a == one.b for one in found)


def test_a_defaults_list_that_refers_to_a_choice_is_composed(tmp_path: Path, registered: None) -> None:
    for name, text in {
        "config": "defaults: [_self_, size: small, label: '${size}_label', 'extra_${size}']\nhow: ${size}",
        "size/small": "size: 1",
        "size/large": "size: 2",
        "label/small_label": "label: s",
        "label/large_label": "label: l",
        "extra_small": "extra: 1",
        "extra_large": "extra: 2",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text("# @package _global_\n" * ("/" in name) + text + "\n")
    for size, number, label in (("small", 1, "s"), ("large", 2, "l"), ("small", 1, "s")):
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            config = compose("config", [f"size={size}"])
        assert config == {"how": number, "size": number, "label": label, "extra": number}


def test_an_interpolation_parsed_once_is_resolved_again(registered: None) -> None:
    config = OmegaConf.create({"a": 1, "b": "${a} and ${.a}", "c": {"a": 2, "b": "${a} and ${.a}"}})
    assert (config.b, config.c.b) == ("1 and 1", "1 and 2")
    config.a = 3
    assert (config.b, config.c.b) == ("3 and 3", "3 and 2")
    for _ in range(2):
        with pytest.raises(GrammarParseError):
            OmegaConf.create({"a": "${b"}).a  # noqa: B018
