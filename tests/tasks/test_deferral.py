"""A module that a library imports without using it is imported only at its first use."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labrun.tasks import deferral
from labrun.tasks.deferral import Deferred

SIGNAL = Deferred("metrics", "speech.signal", restored="hamming")
FRAMES = Deferred("tabular", "frames")
LAZY = """
import importlib

def __getattr__(name):
    if name != "signal":
        raise AttributeError(name)
    return importlib.import_module("speech.signal")
"""
"""The text of `speech/__init__.py`: SciPy imports its modules likewise."""
PATCHING = """
import speech.signal
if not hasattr(speech.signal, "hamming"):
    raise RuntimeError("it would import the module now")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules in place of SciPy (`speech`), pandas (`frames`) and scikit-learn (`tabular`); tests write `metrics`."""
    signal = tmp_path / "speech" / "signal"
    signal.mkdir(parents=True)
    (signal.parent / "__init__.py").write_text(LAZY)
    (signal / "__init__.py").write_text("def window(): return 7\n")
    (signal / "windows.py").write_text("LENGTH = 3\n")
    (tmp_path / "frames.py").write_text("class Frame: pass\n")
    (tmp_path / "tabular.py").write_text("import frames\n\ndef is_frame(x): return isinstance(x, frames.Frame)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(deferral, "DEFERRED", (SIGNAL, FRAMES))
    deferral.install()
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("speech", "metrics", "frames", "tabular")]:
        del sys.modules[name]


def write(folder: Path, text: str) -> None:
    (folder / "metrics.py").write_text(text)
    importlib.invalidate_caches()


def test_a_deferred_module_is_imported_at_its_first_use(installed: Path) -> None:
    write(installed, PATCHING)
    metrics = importlib.import_module("metrics")
    assert "speech.signal" not in sys.modules
    assert metrics.speech.signal.__file__  # what `import` binds is the package's attribute
    assert sys.modules["speech.signal"].window() == 7


@pytest.mark.parametrize(
    "use",
    [
        "from speech.signal import window\nassert window() == 7",
        "import speech.signal.windows\nassert speech.signal.windows.LENGTH == 3",
        "assert speech.signal.window() == 7",
    ],
)
def test_a_deferred_module_used_during_the_import_is_imported(installed: Path, use: str) -> None:
    write(installed, f"{PATCHING}\n{use}\n")
    importlib.import_module("metrics")
    assert sys.modules["speech.signal"].__file__
    assert not hasattr(sys.modules["speech.signal"], "hamming")


def test_a_reference_to_the_stand_in_has_the_modules_attributes(installed: Path) -> None:
    write(installed, f"{PATCHING}\nimport speech.signal as kept\n")
    kept = importlib.import_module("metrics").kept
    assert isinstance(kept, deferral._StandIn)
    assert kept.window() == 7
    assert not hasattr(kept, "hamming")
    assert importlib.import_module("speech.signal").window is kept.window


def test_a_module_is_not_deferred_if_its_users_are_installed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferral, "DEFERRED", (dataclasses.replace(SIGNAL, users=("json",)),))
    write(installed, "import speech.signal")
    importlib.import_module("metrics")
    assert sys.modules["speech.signal"].__file__


def test_a_failed_import_leaves_no_stand_in(installed: Path) -> None:
    write(installed, f"{PATCHING}\nraise ValueError('it fails')")
    with pytest.raises(ValueError, match="it fails"):
        importlib.import_module("metrics")
    assert "speech.signal" not in sys.modules
    assert importlib.import_module("speech.signal").window() == 7


def test_a_library_finds_the_type_of_a_deferred_module(installed: Path) -> None:
    assert importlib.util.find_spec("tabular"), "finding its spec changes nothing"
    tabular = importlib.import_module("tabular")
    assert "frames" not in sys.modules
    assert not tabular.is_frame(3)
    assert tabular.is_frame(importlib.import_module("frames").Frame())


def test_a_module_that_is_not_installed_is_not_deferred(installed: Path) -> None:
    (installed / "frames.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="frames"):
        importlib.import_module("tabular")


def test_the_finder_is_installed_once(installed: Path) -> None:
    deferral.install()
    assert sum(isinstance(one, deferral._Finder) for one in sys.meta_path) == 1
