"""`_target_`s are checked from source, without imports."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from labrun.config import instantiate, targets
from labrun.errors import ConfigError

NET = """
import torch
from torch.nn import Linear as Layer

WIDTH: int = 5
try:
    import fast as backend
except ImportError:
    backend = None

class Net(torch.nn.Module):
    inner = 3

def make(width):
    hidden = width
    return Net()
"""


@pytest.fixture
def nets(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (workspace / "nets" / "deep").mkdir(parents=True)
    (workspace / "nets" / "__init__.py").write_text("raise RuntimeError('nobody may import this')\n")
    (workspace / "nets" / "deep" / "net.py").write_text(NET)
    (workspace / "flat.py").write_text(NET)
    (workspace / "dynamic.py").write_text("globals()['Net'] = 1\n")
    (workspace / "broken.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(str(workspace))
    return workspace


@pytest.mark.parametrize(
    "target",
    [
        "flat.Net",
        "flat.make",
        "flat.WIDTH",
        "flat.Layer",
        "flat.backend",
        "flat.Net.inner",
        "nets.deep.net.Net",
        "dynamic.Net",
        "broken.Net",
        "torch.nn.Linear",
        "sklearn.svm.SVC",
        "builtins.dict",
    ],
)
def test_names_that_may_exist_are_left_to_the_import(nets: Path, target: str) -> None:
    targets.check(target, "model")
    assert not {"flat", "nets", "dynamic", "broken"} & set(sys.modules)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("flat.Nett", "did you mean 'Net'"),
        ("flat.hidden", "has no 'hidden'"),
        ("nets.deep.net.Linear", "It has: Layer, Net, WIDTH"),
        ("nets.deap.net.Net", "has no 'deap'"),
        ("nowhere.Net", "there is no module 'nowhere'"),
    ],
)
def test_names_that_cannot_exist_are_reported_without_an_import(nets: Path, target: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        targets.check(target, "model")
    assert said.lower() in str(caught.value).lower() and "model._target_" in str(caught.value)
    assert not {"flat", "nets"} & set(sys.modules)


def test_a_logger_whose_package_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    targets.check("pytorch_lightning.loggers.WandbLogger", "logger.wandb")  # the tests' environment has it
    with pytest.raises(ConfigError, match=r"logger\.comet: .* needs the package comet_ml, .* pip install comet-ml"):
        targets.check("pytorch_lightning.loggers.CometLogger", "logger.comet")


def test_a_long_import_is_announced(
    nets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "modules", {k: m for k, m in sys.modules.items() if k.partition(".")[0] != "torch"})
    targets.report_loading("flat.Net")
    targets.report_loading("nets.deep.net.Net")
    targets.report_loading("dynamic.Net")
    assert capsys.readouterr().out == "Loading PyTorch ...\n" * 2


def test_a_loaded_library_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    import torch.nn

    targets.report_loading("torch.nn.Linear")
    assert torch.nn and capsys.readouterr().out == ""


def test_a_data_module_is_recognized_from_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a base class in another module, under an alias, or as the annotated result of a function."""
    package = tmp_path / "sources_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from .late import Late\n")
    (package / "base.py").write_text("import lightning as L\nclass Base(L.LightningDataModule): ...\n")
    (package / "late.py").write_text(
        "import pytorch_lightning as pl\nfrom torch.utils.data import Dataset\n"
        "from sources_of_mine.base import Base as B\n"
        "class Late(B): ...\nclass Plain(Dataset): ...\nclass LightningDataModule: ...\n"
        "class Own(LightningDataModule): ...\ndef made(size: int) -> 'pl.LightningDataModule': ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    there = {name: targets.is_data_module(f"sources_of_mine.{name}") for name in ("Late", "late.Late", "late.made")}
    assert there == dict.fromkeys(there, True)
    assert not any(targets.is_data_module(f"sources_of_mine.late.{name}") for name in ("Plain", "Own", "Nothing"))
    assert not targets.is_data_module("no_such_package.Mine")


def test_signatures_of_classes_equal_those_of_inspect() -> None:
    """Classes without parameters are recognized by their constructors, which is much faster."""

    class Plain:
        """No constructor."""

    class Derived(Plain):
        def __init__(self, size: int = 1) -> None: ...

    class Made(Plain):
        def __new__(cls, size: int) -> Made: ...  # type: ignore[empty-body]

    class Meta(type):
        def __call__(cls, size: int) -> None: ...  # type: ignore[override]

    class Called(metaclass=Meta):
        """Made by its metaclass."""

    class Told:
        __signature__ = inspect.Signature([inspect.Parameter("size", inspect.Parameter.KEYWORD_ONLY)])

    for kind in (Plain, Derived, Made, Called, Told, object, Path):
        assert instantiate.signature(kind) == inspect.signature(kind), kind
