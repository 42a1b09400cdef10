"""The ways in: a script, a notebook, a kernel."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from labrun.compat.azureml import runner


def install() -> None:
    """Make `azureml` importable in this process and in those that it starts."""
    if runner.SITE not in sys.path:
        sys.path.append(runner.SITE)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([runner.SITE, before] if before else [runner.SITE])
    # What the packages that labrun needs say of ipywidgets is not an output of the notebook's own.
    warnings.filterwarnings("ignore", message="IProgress not found")
    from labrun.compat.azureml import finder, legacy

    legacy.install()
    finder.install()


def run_script(path: Path, arguments: list[str]) -> None:
    """Run a control script as `python PATH ARGUMENTS` would, in this process.

    Raises:
        SystemExit: as the script ends.
    """
    runner.main([str(path), *arguments])
