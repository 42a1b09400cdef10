"""The command `lab runs`: list, inspect and control runs. The verbs are implemented in the modules of this package."""

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


def fill(noun: Parser) -> None:
    """Add the description, options and verbs to the parser of the noun."""
    noun.description = (
        "List the runs of the workspace, newest first, or run an action on them. "
        "Every action takes filters: lab runs cancel --status queued"
    )
    noun.epilog = EXAMPLES
    filters.add_filters(noun, top=True)
    _table_options(noun, top=True)
    noun.set_defaults(act=_later("list.ls"))
    verbs = noun.add_commands(title="actions", metavar="ACTION")
    _verb(verbs, "ls", "list.ls", "list the runs (the default)").then(_table_options)
    _add_inspect(verbs)
    _add_control(verbs)
    _add_maintain(verbs)


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


def _add_inspect(verbs: Commands) -> None:
    verb = _verb(verbs, "show", "list.show", "show everything about a run", names="*")
    verb.add_argument("--json", action="store_true", help="the record as JSON")
    verb.add_argument("--error", action="store_true", help="the traceback of a failed run")
    verb = _verb(verbs, "logs", "inspect.logs", "show the output of a run", names="*")
    verb.add_argument("-f", "--follow", action="store_true", help="follow it until it ends")
    verb = _verb(verbs, "metrics", "inspect.metrics", "show the metrics of a run", names="*")
    verb.add_argument("--name", action="append", metavar="METRIC", help="only this one (or a pattern); may be repeated")
    verb.add_argument("--plot", action="store_true", help="plot the curves in the terminal and in a PNG file")
    verb.add_argument("--json", action="store_true", help="every value, one JSON object per line")
    verb.add_argument("--csv", action="store_true", help="every value, as a table")
    verb.add_argument("-o", "--output", type=Path, metavar="PNG", help="file for the plot")
    verb = _verb(verbs, "files", "inspect.list_files", "list the files of a run", names="*")
    verb.add_argument("--json", action="store_true", help="one JSON object per line")
    verb = _verb(verbs, "download", "inspect.download", "copy files of a run to a folder")
    verb.add_argument(
        "words",
        nargs="*",
        metavar="RUN [FILE ...]",
        help=f"a run: {filters.NAMES}; then files, folders, patterns (default: all)",
    )
    verb.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: ./<experiment>-<id>")
    verb.add_argument("--force", action="store_true", help="overwrite existing files")
    verb = _verb(verbs, "compare", "compare.compare", "compare runs: config, metrics, curves", names="*")
    verb.add_argument(
        "--over",
        action="append",
        metavar="KEY",
        help="take means over this key, for example --over seed: one column per setting; may be repeated",
    )
    verb.add_argument("--system", action="store_true", help="also their peak resource usage (tracking.system=true)")
    verb.add_argument("--json", action="store_true", help="differences and metrics as JSON")
    verb.add_argument("-o", "--output", type=Path, metavar="PNG", help="file for the plot of the curves")


def _add_control(verbs: Commands) -> None:
    verb = _verb(
        verbs, "watch", "control.watch", "follow a sweep or a run; continue one whose controller has died", names="*"
    )
    verb.add_argument("--take-over", action="store_true", help="also continue runs that somebody else has written")
    _verb(verbs, "cancel", "control.cancel", "ask runs to stop", names="*")
    verb = _verb(verbs, "rerun", "control.rerun", "repeat a run from its frozen config and code")
    verb.add_argument(
        "words",
        nargs="*",
        metavar="RUN ... [KEY=VALUE ...]",
        help=f"runs: {filters.NAMES}; then overrides of its config",
    )
    verb.add_argument(
        "--code",
        choices=("frozen", "new"),
        default="frozen",
        help="code to use: frozen, the run's own (default), or new, the current code",
    )


def _add_maintain(verbs: Commands) -> None:
    verb = _verb(verbs, "tag", "maintain.tag", "set tags")
    verb.add_argument("words", nargs="*", metavar="RUN TAG[=VALUE] ...", help="with filters, give only tags")
    verb.add_argument("--remove", action="append", metavar="TAG", help="remove a tag; may be repeated")
    verb = _verb(verbs, "note", "maintain.note", "set the notes of a run")
    verb.add_argument("words", nargs="*", metavar="RUN TEXT", help="with filters, give only the text")
    verb.add_argument("--append", action="store_true", help="append to the existing notes")
    verb = _verb(verbs, "rm", "maintain.remove", "remove runs, after asking", names="*")
    verb.add_argument("-y", "--yes", action="store_true", help="do not ask")
    verb.add_argument(
        "--force", action="store_true", help="also remove runs that are live, registered, or continued by others"
    )
    verb.add_argument("--here", action="store_true", help="keep the copies on other machines (compute.host)")
    verb = _verb(verbs, "gc", "maintain.gc", "remove old runs and everything that no run needs; lists first, then asks")
    verb.add_argument(
        "--older-than", type=filters.age, metavar="AGE", help="runs that ended at least this long ago: 30d, 12h"
    )
    verb.add_argument("--keep-best", type=filters.count, metavar="N", help="keep the best N of each experiment")
    verb.add_argument(
        "--metric",
        metavar="NAME",
        help="metric that decides which runs are best (default: accuracy, else one that the runs have)",
    )
    verb.add_argument(
        "--keep-registered",
        action="store_true",
        help="keep runs that a registered model came from (the default)",
    )
    verb.add_argument("-y", "--yes", action="store_true", help="do not ask")
    verb.add_argument("--here", action="store_true", help="keep the copies on other machines (compute.host)")
    verb = _verb(verbs, "sync", "maintain.sync", "update MLflow, or another tracker, from the records", filtered=False)
    verb.add_argument("--tracker", metavar="KIND", help="mlflow (default), wandb, or one from another package")
    verb.add_argument("--uri", metavar="URI", help="another MLflow server or database; wandb: the offline runs' folder")
    verb.add_argument(
        "--all",
        action="store_true",
        help="also runs made with another tracking=..., if the tracker leaves these out (wandb)",
    )
    verb = _verb(verbs, "export", "maintain.export", "write runs, and their code, to an archive", names="*")
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: labrun-<id>.tar.gz")
    verb = _verb(verbs, "import", "maintain.import_", "import runs from an archive", filtered=False)
    verb.add_argument("archive", nargs="+", type=Path, metavar="FILE", help="an archive of lab runs export")
    limits = Limits()
    verb.add_argument(
        "--max-gb",
        type=filters.limit,
        default=limits.gb,
        metavar="N",
        help="refuse an archive that is larger, unpacked (default: %(default)g)",
    )
    verb.add_argument(
        "--max-ratio",
        type=filters.limit,
        default=limits.ratio,
        metavar="N",
        help="refuse an archive that unpacks to more than N times its own size (default: %(default)g)",
    )
    verb.add_argument(
        "--max-files",
        type=filters.count,
        default=limits.files,
        metavar="N",
        help="refuse an archive with more files (default: %(default)s)",
    )


def _later(name: str) -> Act:
    """Return the function of a verb. Its module is imported only when the verb runs, to keep `lab runs` fast."""
    module, _, function = name.partition(".")

    def act(options: argparse.Namespace) -> int:
        done: int = getattr(importlib.import_module(f"labrun.cli.runs.{module}"), function)(options)
        return done

    return act


def _verb(verbs: Commands, name: str, act: str, text: str, names: str = "", filtered: bool = True) -> Deferred:
    verb = verbs.add(name, help=text)
    verb.set_defaults(act=_later(act))
    if names:
        default = "" if name in OF_NAMED_RUNS else " (default: last)"
        verb.add_argument("run", nargs=names, metavar="RUN", help=f"{filters.NAMES}{default}")
    if filtered:
        verb.then(filters.add_filters)
    return verb
