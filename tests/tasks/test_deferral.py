"""The module that torchmetrics imports in vain is imported when somebody uses it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labrun.tasks import deferral

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
    """A package `speech` in place of SciPy, and a package `metrics`, yet to be written, in place of torchmetrics."""
    signal = tmp_path / "speech" / "signal"
    signal.mkdir(parents=True)
    (signal.parent / "__init__.py").write_text(LAZY)
    (signal / "__init__.py").write_text("def window(): return 7\n")
    (signal / "windows.py").write_text("LENGTH = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(deferral, "DEFERRED", "speech.signal")
    monkeypatch.setattr(deferral, "IMPORTER", "metrics")
    deferral.install()
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("speech", "metrics")]:
        del sys.modules[name]


def write(folder: Path, text: str) -> None:
    (folder / "metrics.py").write_text(text)
    importlib.invalidate_caches()


def test_it_is_imported_when_first_used_after_the_import(installed: Path) -> None:
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
def test_it_is_imported_when_used_during_the_import(installed: Path, use: str) -> None:
    write(installed, f"{PATCHING}\n{use}\n")
    importlib.import_module("metrics")
    assert sys.modules["speech.signal"].__file__
    assert not hasattr(sys.modules["speech.signal"], "hamming")


def test_a_reference_to_the_stand_in_gives_the_modules_attributes(installed: Path) -> None:
    write(installed, f"{PATCHING}\nimport speech.signal as kept\n")
    kept = importlib.import_module("metrics").kept
    assert isinstance(kept, deferral._Deferred)
    assert kept.window() == 7
    assert not hasattr(kept, "hamming")
    assert importlib.import_module("speech.signal").window is kept.window


def test_it_is_not_deferred_where_the_metric_of_speech_can_be_used(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferral, "USERS", ("json",))
    write(installed, "import speech.signal")
    importlib.import_module("metrics")
    assert sys.modules["speech.signal"].__file__


def test_an_import_that_fails_leaves_nothing_behind(installed: Path) -> None:
    write(installed, f"{PATCHING}\nraise ValueError('it fails')")
    with pytest.raises(ValueError, match="it fails"):
        importlib.import_module("metrics")
    assert "speech.signal" not in sys.modules
    assert importlib.import_module("speech.signal").window() == 7


def test_it_is_installed_once(installed: Path) -> None:
    deferral.install()
    assert sum(isinstance(one, deferral._Finder) for one in sys.meta_path) == 1
