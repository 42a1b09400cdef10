"""Search spaces: translation of Hydra's override grammar into dimensions, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from labrun.compose import paths
from labrun.errors import ConfigError
from labrun.search.space import (
    Choice,
    Numbers,
    as_text,
    component_dimensions,
    component_nodes,
    flattened,
    grid_overrides,
    parse_space,
    values_of,
)


@pytest.fixture
def loader(registered: None) -> Iterator[Any]:
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("model.lr=interval(0.1,1)", Numbers("model.lr", "model.lr", 0.1, 1.0)),
        ("model.lr=tag(log,interval(1e-4,1e-1))", Numbers("model.lr", "model.lr", 1e-4, 0.1, log=True)),
        ("model.units=int(interval(1,8))", Numbers("model.units", "model.units", 1, 8, whole=True)),
        ("seed=tag(log,int(interval(1,64)))", Numbers("seed", "seed", 1, 64, log=True, whole=True)),
        ("model.units=range(1,8)", Numbers("model.units", "model.units", 1, 7, step=1, whole=True)),
        ("model.units=range(10,30,10)", Numbers("model.units", "model.units", 10, 20, step=10, whole=True)),
        ("+model.units=range(0,1,0.25)", Numbers("model.units", "+model.units", 0, 0.75, step=0.25)),
        ("model.lr=0.1,0.2", Choice("model.lr", ("model.lr",), (("0.1",), ("0.2",)))),
        ("model.lr=choice(a,null)".replace("null", "b"), Choice("model.lr", ("model.lr",), (("a",), ("b",)))),
        ("trainer=glob(*)", Choice("trainer", ("trainer",), (("default",),))),
    ],
)
def test_spaces_are_parsed_from_hydras_grammar(loader: Any, text: str, wanted: object) -> None:
    assert parse_space([text], loader).dimensions == (wanted,)


def test_a_glob_over_a_group_skips_files_that_are_not_options(loader: Any) -> None:
    (one,) = parse_space(["sweep=glob(*)"], loader).dimensions
    assert isinstance(one, Choice)
    found = parse_space(["model/optimizer=glob(*,exclude=sgd*)"], loader).dimensions[0]
    assert isinstance(found, Choice) and found.name == "model.optimizer" and found.labels == ("adam", "adamw")
    assert found.overrides("adam") == ["model/optimizer=adam"]


def test_later_definitions_of_a_dimension_take_precedence(loader: Any) -> None:
    space = parse_space(["model.lr=0.1,0.2", "seed=1", "model.lr=0.3"], loader)
    assert space.dimensions == () and space.fixed == ("seed=1", "model.lr=0.3")


def test_zipped_lists_form_one_dimension(loader: Any) -> None:
    texts = ["model.lr=0.1,0.2,0.2", "seed=1,2", "trainer.batch_size=16,32,64"]
    space = parse_space(texts, loader, [["trainer.batch_size", "model.lr"]])
    pair, seed = space.dimensions
    assert pair.name == "model.lr + trainer.batch_size" and isinstance(pair, Choice)
    assert pair.overrides(pair.labels[2]) == ["model.lr=0.2", "trainer.batch_size=64"]
    jobs = grid_overrides(space)
    assert len(jobs) == 6 and jobs[1] == ["model.lr=0.1", "trainer.batch_size=16", "seed=2"]
    assert seed.name == "seed"


@pytest.mark.parametrize(
    ("texts", "zipped", "message"),
    [
        (["a=1,2,3", "b=1,2"], [["a", "b"]], "equally long, but a has 3, b has 2"),
        (["a=1,2", "b=1"], [["a", "b"]], "b has one value"),
        (["a=1,2"], [["a", "c"]], "c is not swept"),
        (["a=1,2"], [["a"]], "at least two"),
        (["a=1,2", "b=1,2"], [["a", "b"], ["b", "a"]], "is listed twice"),
        (["a=interval(0,1)", "b=1,2"], [["a", "b"]], "is an interval"),
        (["a=tag(log,interval(0,1))"], [], "bounds above 0"),
        (["a=interval(2,1)"], [], "is above the upper bound"),
        (["a=tag(loud,interval(0,1))"], [], "unknown tag 'loud'"),
        (["a=tag(int,interval(0.5,1))"], [], "needs integer bounds"),
        (["model=glob(nothing*)"], [], "no option matches"),
        (["a=choice("], [], "cannot be read"),
    ],
)
def test_mistakes_in_a_space_are_reported(loader: Any, texts: list[str], zipped: list[list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        parse_space(texts, loader, zipped)


def test_a_grid_refuses_an_interval(loader: Any) -> None:
    with pytest.raises(ConfigError, match="sweep=grid tries every one"):
        parse_space(["a=interval(0,1)"], loader, finite=True)
    (one,) = parse_space(["a=range(0,1,0.5)"], loader, finite=True).dimensions
    assert isinstance(one, Choice) and one.labels == ("0.0", "0.5")


def test_a_components_search_space_is_read(loader: Any) -> None:
    config = {"model": {"estimator": {"search_space": {"C": "tag(log,interval(1e-3,10))", "depth": [3, None], "k": 5}}}}
    ((path, node),) = component_nodes(config)
    parser = OverridesParser.create(config_loader=loader)
    smooth, depth, fixed = component_dimensions(node, path, parser, loader)
    assert smooth == Numbers("model.estimator.C", "model.estimator.C", 1e-3, 10, log=True)
    assert isinstance(depth, Choice) and depth.labels == ("3", "null")
    assert isinstance(fixed, Choice) and fixed.labels == ("5",)
    with pytest.raises(ConfigError, match="expected keys and their values"):
        list(component_dimensions(["lr"], "model", parser, loader))


def test_text_from_yaml_stays_text(loader: Any) -> None:
    values = ["a, b", "1", "null", "it's", "", "plain", "${seed}"]
    (one,) = parse_space([f"name={as_text(values)}"], loader).dimensions
    assert isinstance(one, Choice) and len(one.labels) == len(values)
    parser = OverridesParser.create(config_loader=loader)
    assert [parser.parse_override(f"name={label}").value() for label in one.labels] == values
    assert dict(flattened({"model": {"lr": [1, 2], "deep": {"x": "interval(0,1)"}}, "seed": 1})) == {
        "model.lr": [1, 2],
        "model.deep.x": "interval(0,1)",
        "seed": 1,
    }


def test_a_range_lists_all_of_its_values() -> None:
    assert values_of(Numbers("a", "a", 0, 0.75, step=0.25)) == [0, 0.25, 0.5, 0.75]
    assert Numbers("a", "a", 1, 3, whole=True).overrides(2.0) == ["a=2"]
    assert Numbers("a", "a", 0, 1).overrides(0.1) == ["a=0.1"]
