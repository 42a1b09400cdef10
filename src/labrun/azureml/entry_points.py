"""Entry points that make `azureml` importable: for a script, a notebook or a kernel."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from labrun.compat.azureml import runner


def install() -> None:
    """Make `azureml` importable in this process and its child processes."""
    if runner.SITE not in sys.path:
        sys.path.append(runner.SITE)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([runner.SITE, before] if before else [runner.SITE])
    # Hide the warning about ipywidgets: it comes from labrun's dependencies, not from the notebook.
    warnings.filterwarnings("ignore", message="IProgress not found")
    from labrun.compat.azureml import finder, legacy

    legacy.install()
    finder.install()


def run_script(path: Path, arguments: list[str]) -> None:
    """Run a control script in this process, as `python PATH ARGUMENTS` would.

    Raises:
        SystemExit: the script exits.
    """
    runner.main([str(path), *arguments])
