"""The command `lab shell`: a shell in the folder and environment of a run."""

from __future__ import annotations

import argparse
import sys

from labrun.cli.parsing import Parser
from labrun.cli.runs import filters
from labrun.control.query import StatusResolver
from labrun.remote import mirror, shell
from labrun.runs import store

EXAMPLES = """examples:
  lab shell last                      a shell in the run's folder, on its node or machine
  lab shell last -L 6006              the same; http://localhost:6006 forwards to the run's port 6006
  lab shell last -L 8080:8888 -L 6006 two ports; the first has a different local number
  lab shell last -- nvidia-smi        one command, without a terminal
  lab shell last -- 'ls | wc -l'      a single word with spaces is passed to sh
"""


def fill(command: Parser) -> None:
    """Add the description and options to the parser of the command."""
    command.description = "Open a shell in a run's folder, with its environment, on its node; forward its ports."
    command.epilog = EXAMPLES
    command.usage = "lab shell [-h] [-L [LOCAL:]REMOTE] [RUN] [-- COMMAND ...]"
    command.set_defaults(act=act, command=[])
    command.add_argument("run", nargs="?", default="last", metavar="RUN", help=f"{filters.NAMES} (default: last)")
    command.add_argument(
        "-L",
        dest="forward",
        action="append",
        metavar="[LOCAL:]REMOTE",
        help="forward a local port to a port of the run's machine; may be repeated",
    )


def act(options: argparse.Namespace) -> int:
    """Open a shell, or run one command."""
    forwards = [shell.forward(text) for text in options.forward or ()]
    root = store.workspace()
    mirror.refresh(root)
    run_dir, record = store.find(root, options.run)
    place = shell.locate(run_dir, record)
    status = StatusResolver()(run_dir, record)
    if not options.command:
        sys.stderr.write(f"lab: run {record.id} ({status}) on {place.where}: {place.folder}\n")
    if place.unset:
        sys.stderr.write(
            f"lab: not set, as records hold no values: {', '.join(place.unset)}. "
            f"'{place.unset[0]}=VALUE lab shell {record.id}' sets it\n"
        )
    if place.guessed:
        sys.stderr.write(f"lab: taken from this machine, as records hold no values: {', '.join(place.guessed)}\n")
    is_here = place.remote is None and place.job is None
    for one in forwards:
        if is_here:
            sys.stderr.write(f"lab: port {one.remote} is already local: http://localhost:{one.remote}\n")
        else:
            sys.stderr.write(f"lab: http://localhost:{one.local} leads to port {one.remote} of {place.where}\n")
    return shell.run(place, options.command, forwards)
