"""labrun: declarative experiments. Compose with Hydra, run anywhere, and keep an accurate record of every run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # not imported: `typing` takes longer to import than everything else a console script needs
    from labrun.api.functions import get_run, load_model, samples, show, submit
    from labrun.api.handles import Run, Sweep
    from labrun.api.model import Model
    from labrun.api.program import ActiveRun, start_run
    from labrun.errors import LabrunError
    from labrun.runs.context import log

__all__ = [
    "ActiveRun",
    "LabrunError",
    "Model",
    "Run",
    "Sweep",
    "get_run",
    "load_model",
    "log",
    "runs",
    "samples",
    "show",
    "start_run",
    "submit",
]

_MODULES = {
    "ActiveRun": "api.program",
    "LabrunError": "errors",
    "Model": "api.model",
    "Run": "api.handles",
    "Sweep": "api.handles",
    "get_run": "api.functions",
    "load_model": "api.functions",
    "log": "runs.context",
    "samples": "api.functions",
    "show": "api.functions",
    "start_run": "api.program",
    "submit": "api.functions",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use, so that `import labrun` is fast."""
    from importlib import import_module

    if name == "runs":  # a callable package
        return import_module("labrun.runs")
    if name not in _MODULES:
        raise AttributeError(f"module 'labrun' has no attribute {name!r}. It has: {', '.join(__all__)}")
    return getattr(import_module(f"labrun.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
