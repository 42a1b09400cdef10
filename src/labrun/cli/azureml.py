"""The command `lab azureml`: run scripts and notebooks of the Azure ML SDK v1 that submit runs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from labrun.azureml import compute, entry_points, environment, notebooks
from labrun.cli.parsing import Parser
from labrun.compat.azureml import notice
from labrun.errors import ConfigError


def fill(command: Parser) -> None:
    """Add the description, options and actions to the parser of the command."""
    command.description = "Run scripts and notebooks of the Azure ML SDK v1 that submit runs."
    actions = command.add_commands(title="actions", metavar="ACTION", required=True)
    action = actions.add("run", help="run a script, or a notebook from first to last cell")
    action.add_argument("file", type=Path, metavar="FILE", help="FILE.py, or FILE.ipynb")
    action.add_argument("words", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="arguments of the script")
    action.add_argument(
        "--compute", metavar="NAME", help="compute config to use for the script's compute targets (default: local)"
    )
    action.add_argument(
        "--environments",
        choices=[environment.CURRENT, environment.BUILD],
        help="interpreter of the runs: the current one (default), or one built from their Environment",
    )
    action.add_argument(
        "--output", type=Path, metavar="FILE", help="file for the executed notebook (default: overwrite it)"
    )
    action.set_defaults(act=run)
    action = actions.add("kernel", help="install a Jupyter kernel in which azureml can be imported")
    action.add_argument("--name", default="labrun-azureml", help="name of the kernel (default: labrun-azureml)")
    action.set_defaults(act=kernel)


def run(options: argparse.Namespace) -> int:
    """Run a script or a notebook."""
    if not options.file.is_file():
        what = "is a folder" if options.file.is_dir() else "does not exist"
        raise ConfigError(f"lab azureml run: {options.file} {what}: give a .py or .ipynb file")
    if options.file.suffix == ".ipynb":
        _take_options(options)
    if options.compute:
        os.environ[compute.VARIABLE] = options.compute
    if options.environments:
        os.environ[environment.VARIABLE] = options.environments
    if options.file.suffix == ".ipynb":
        return notebooks.execute(options.file, options.output or options.file)
    if options.output:
        raise ConfigError("lab azureml run: --output is for notebooks; a script writes its own files")
    for ours in ("--compute", "--environments"):
        if any(word == ours or word.startswith(f"{ours}=") for word in options.words):
            notice.warn(f"{ours} after {options.file} is an argument of the script; lab's own comes before the file")
    # labrun's messages about data that the script reads must not mix with the script's own output.
    logging.getLogger("labrun").setLevel(logging.WARNING)
    try:
        entry_points.run_script(options.file, options.words)
    except OSError as error:  # raised by the script, not by lab
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _take_options(options: argparse.Namespace) -> None:
    """Parse lab's options after the name of a notebook, which itself takes no arguments."""
    rest = argparse.ArgumentParser(prog="lab azureml run", add_help=False, allow_abbrev=False)
    rest.add_argument("--compute")
    rest.add_argument("--environments", choices=[environment.CURRENT, environment.BUILD])
    rest.add_argument("--output", type=Path)
    found, unknown = rest.parse_known_args(options.words)
    if unknown:
        raise ConfigError(f"lab azureml run: a notebook takes no arguments, but was given {' '.join(unknown)}")
    for name, value in vars(found).items():
        if value is not None:
            setattr(options, name, value)


def kernel(options: argparse.Namespace) -> int:
    """Install the kernel for this user."""
    print(notebooks.install_kernel(options.name))
    return 0
