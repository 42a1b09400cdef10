"""The command `lab runs`: list, inspect and control runs. The modules of this package implement the actions."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

from labrun.cli.parsing import OF_NAMED_RUNS, Commands, Deferred, Parser
from labrun.cli.runs import filters
from labrun.runs.archive_format import Limits

Act = Callable[[argparse.Namespace], int]
EXAMPLES = """examples:
  lab runs --where 'accuracy>0.9' --sort accuracy   the best first
  lab runs show last                                everything about the newest run
  lab runs logs last -f                             its output, until it ends
  lab runs compare last best:accuracy               where two runs differ
  lab runs download last outputs -o copy            its files
  lab runs cancel --status queued                   cancel all queued runs
"""


def fill(command: Parser) -> None:
    """Add the description, options and actions to the parser of the command."""
    command.description = (
        "List the runs of the workspace, newest first, or run an action on them. "
        "Every action takes filters: lab runs cancel --status queued"
    )
    command.epilog = EXAMPLES
    filters.add_filters(command, top=True)
    _table_options(command, top=True)
    command.set_defaults(act=_later("list.ls"))
    actions = command.add_commands(title="actions", metavar="ACTION")
    _action(actions, "ls", "list.ls", "list the runs (the default)").then(_table_options)
    _add_inspect(actions)
    _add_control(actions)
    _add_maintain(actions)


def _table_options(parser: argparse.ArgumentParser, top: bool = False) -> None:
    default = False if top else argparse.SUPPRESS
    parser.add_argument(
        "--metric",
        metavar="NAME",
        default=None if top else argparse.SUPPRESS,
        help="the metric to show (default: accuracy, else one that the runs have)",
    )
    parser.add_argument("--json", action="store_true", default=default, help="one JSON object per line")
    parser.add_argument("--csv", action="store_true", default=default, help="a table with every metric")


def _add_inspect(actions: Commands) -> None:
    action = _action(actions, "show", "list.show", "show everything about a run", names="*")
    action.add_argument("--json", action="store_true", help="the record as JSON")
    action.add_argument("--error", action="store_true", help="the traceback of a failed run")
    action = _action(actions, "logs", "inspect.logs", "show the output of a run", names="*")
    action.add_argument("-f", "--follow", action="store_true", help="follow it until it ends")
    action = _action(actions, "metrics", "inspect.metrics", "show the metrics of a run", names="*")
    action.add_argument(
        "--name", action="append", metavar="METRIC", help="only this one (or a pattern); may be repeated"
    )
    action.add_argument("--plot", action="store_true", help="plot the curves in the terminal and in a PNG file")
    action.add_argument("--json", action="store_true", help="every value, one JSON object per line")
    action.add_argument("--csv", action="store_true", help="every value, as a table")
    action.add_argument("-o", "--output", type=Path, metavar="PNG", help="file for the plot")
    action = _action(actions, "files", "inspect.list_files", "list the files of a run", names="*")
    action.add_argument("--json", action="store_true", help="one JSON object per line")
    action = _action(actions, "download", "inspect.download", "copy files of a run to a folder")
    action.add_argument(
        "words",
        nargs="*",
        metavar="RUN [FILE ...]",
        help=f"a run: {filters.NAMES}; then files, folders, patterns (default: all)",
    )
    action.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: ./<experiment>-<id>")
    action.add_argument("--force", action="store_true", help="overwrite existing files")
    action = _action(actions, "compare", "compare.compare", "compare runs: config, metrics, curves", names="*")
    action.add_argument(
        "--over",
        action="append",
        metavar="KEY",
        help="take means over this key, for example --over seed: one column per setting; may be repeated",
    )
    action.add_argument("--system", action="store_true", help="also their peak resource usage (tracking.system=true)")
    action.add_argument("--json", action="store_true", help="differences and metrics as JSON")
    action.add_argument("-o", "--output", type=Path, metavar="PNG", help="file for the plot of the curves")


def _add_control(actions: Commands) -> None:
    action = _action(
        actions, "watch", "control.watch", "follow a sweep or a run; continue one whose controller has died", names="*"
    )
    action.add_argument("--take-over", action="store_true", help="also continue runs that somebody else has written")
    _action(actions, "cancel", "control.cancel", "ask runs to stop", names="*")
    action = _action(actions, "rerun", "control.rerun", "repeat a run from its frozen config and code")
    action.add_argument(
        "words",
        nargs="*",
        metavar="RUN ... [KEY=VALUE ...]",
        help=f"runs: {filters.NAMES}; then overrides of its config",
    )
    action.add_argument(
        "--code",
        choices=("frozen", "new"),
        default="frozen",
        help="code to use: frozen, the run's own (default), or new, the current code",
    )


def _add_maintain(actions: Commands) -> None:
    action = _action(actions, "tag", "maintain.tag", "set tags")
    action.add_argument("words", nargs="*", metavar="RUN TAG[=VALUE] ...", help="with filters, give only tags")
    action.add_argument("--remove", action="append", metavar="TAG", help="remove a tag; may be repeated")
    action = _action(actions, "note", "maintain.note", "set the notes of a run")
    action.add_argument("words", nargs="*", metavar="RUN TEXT", help="with filters, give only the text")
    action.add_argument("--append", action="store_true", help="append to the existing notes")
    action = _action(actions, "rm", "maintain.remove", "remove runs, after asking", names="*")
    action.add_argument("-y", "--yes", action="store_true", help="do not ask")
    action.add_argument(
        "--force", action="store_true", help="also remove runs that are live, registered, or continued by others"
    )
    action.add_argument("--here", action="store_true", help="keep the copies on other machines (compute.host)")
    action = _action(
        actions, "gc", "maintain.gc", "remove old runs and everything that no run needs; lists first, then asks"
    )
    action.add_argument(
        "--older-than", type=filters.age, metavar="AGE", help="runs that ended at least this long ago: 30d, 12h"
    )
    action.add_argument("--keep-best", type=filters.count, metavar="N", help="keep the best N of each experiment")
    action.add_argument(
        "--metric",
        metavar="NAME",
        help="metric that decides which runs are best (default: accuracy, else one that the runs have)",
    )
    action.add_argument(
        "--keep-registered",
        action="store_true",
        help="keep runs that a registered model came from (the default)",
    )
    action.add_argument("-y", "--yes", action="store_true", help="do not ask")
    action.add_argument("--here", action="store_true", help="keep the copies on other machines (compute.host)")
    action = _action(
        actions, "sync", "maintain.sync", "update MLflow, or another tracker, from the records", filtered=False
    )
    action.add_argument("--tracker", metavar="KIND", help="mlflow (default), wandb, or one from another package")
    action.add_argument(
        "--uri", metavar="URI", help="another MLflow server or database; wandb: the offline runs' folder"
    )
    action.add_argument(
        "--all",
        action="store_true",
        help="also runs made with another tracking=..., if the tracker leaves these out (wandb)",
    )
    action = _action(actions, "export", "maintain.export", "write runs, and their code, to an archive", names="*")
    action.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: labrun-<id>.tar.gz")
    action = _action(actions, "import", "maintain.import_", "import runs from an archive", filtered=False)
    action.add_argument("archive", nargs="+", type=Path, metavar="FILE", help="an archive of lab runs export")
    limits = Limits()
    action.add_argument(
        "--max-gb",
        type=filters.limit,
        default=limits.gb,
        metavar="N",
        help="refuse an archive that is larger, unpacked (default: %(default)g)",
    )
    action.add_argument(
        "--max-ratio",
        type=filters.limit,
        default=limits.ratio,
        metavar="N",
        help="refuse an archive that unpacks to more than N times its own size (default: %(default)g)",
    )
    action.add_argument(
        "--max-files",
        type=filters.count,
        default=limits.files,
        metavar="N",
        help="refuse an archive with more files (default: %(default)s)",
    )


def _later(name: str) -> Act:
    """Return the function of an action. Its module is imported only when the action runs, to keep `lab runs` fast."""
    module, _, function = name.partition(".")

    def act(options: argparse.Namespace) -> int:
        done: int = getattr(importlib.import_module(f"labrun.cli.runs.{module}"), function)(options)
        return done

    return act


def _action(actions: Commands, name: str, act: str, text: str, names: str = "", filtered: bool = True) -> Deferred:
    action = actions.add(name, help=text)
    action.set_defaults(act=_later(act))
    if names:
        default = "" if name in OF_NAMED_RUNS else " (default: last)"
        action.add_argument("run", nargs=names, metavar="RUN", help=f"{filters.NAMES}{default}")
    if filtered:
        action.then(filters.add_filters)
    return action
