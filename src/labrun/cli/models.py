"""The command `lab models`: registered models with their versions, aliases and predictions."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labrun import messages
from labrun.cli.confirm import agreed
from labrun.cli.parsing import Commands, Deferred, Parser
from labrun.cli.runs import filters
from labrun.errors import (
    BY_ARGUMENT,
    BY_OPTION,
    BY_VARIABLE,
    TRUSTING,
    ConfigError,
    DataError,
    DoubtfulDecimalError,
    RecordError,
    UntrustedError,
)
from labrun.registry import models
from labrun.report import formatting
from labrun.runs import cards, files, model_journal, store
from labrun.runs.model_journal import Version
from labrun.runs.record import is_scoring
from labrun.tracking.mlflow import ui_state

WHICH = "name, name/version or name@alias"
EXAMPLES = """examples:
  lab models register best:accuracy --name digits   register the best run's model
  lab models alias digits/1 champion                a name that can move to another version
  lab models predict digits@champion new.csv        predictions for the rows of a table
"""


def fill(command: Parser) -> None:
    """Add the description, options and actions to the parser of the command."""
    command.description = "Registered models: named, versioned copies of runs' models, which outlive their runs."
    command.epilog = EXAMPLES
    command.set_defaults(act=ls, name=None, json=False)
    actions = command.add_commands(title="actions", metavar="ACTION")
    action = _action(actions, "register", register, "register a run's model as the next version")
    action.add_argument(
        "run",
        metavar="RUN",
        help="'last' (except with task=evaluate), 'best:METRIC', the beginning of a run's id, or its folder",
    )
    action.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a file of the run, such as outputs/model.npz (default: its model)",
    )
    action.add_argument("--name", required=True, help="name of the model")
    action.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="a tag of the version; may be repeated"
    )
    action.add_argument("--alias", action="append", default=[], metavar="ALIAS", help="also give it this alias")
    action = _action(actions, "ls", ls, "list the registered models (the default)")
    action.add_argument("name", nargs="?", metavar="NAME", help="only the versions of this model")
    action.add_argument("--json", action="store_true", help="one JSON object per line")
    action = _action(actions, "show", show, "show a model or a version")
    action.add_argument("model", metavar="MODEL", help=WHICH)
    action.add_argument("--json", action="store_true", help="as JSON")
    action = _action(actions, "download", download, "download the files of a version and verify them")
    action.add_argument("model", metavar="MODEL", help=WHICH)
    action.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: ./<name>-<version>")
    action = _action(actions, "alias", alias, "point an alias at a version")
    action.add_argument("model", metavar="MODEL", help=f"{WHICH}; with --remove: name@alias")
    action.add_argument("alias", nargs="?", metavar="ALIAS", help="for example champion")
    action.add_argument("--remove", action="store_true", help="remove the alias")
    _add_predict(actions)
    action = _action(actions, "rm", remove, "remove a version, or a whole model")
    action.add_argument("model", metavar="MODEL", help=WHICH)
    action.add_argument("-y", "--yes", action="store_true", help="do not ask")
    action.add_argument("--force", action="store_true", help="also remove versions that an alias points to")


def _add_predict(actions: Commands) -> None:
    action = _action(actions, "predict", predict, "predict samples with a model and write a CSV file")
    action.add_argument("model", metavar="MODEL", help=f"{WHICH}; or run:ID")
    action.add_argument(
        "file", type=Path, metavar="FILE", help=".csv, .parquet, .xlsx, .npz, .npy, an image, a folder of images"
    )
    action.add_argument("-o", "--output", type=Path, metavar="CSV", help="default: FILE.predictions.csv")
    action.add_argument(
        "--inputs",
        action="store_true",
        help="keep all columns next to the predictions (default: only those that identify rows, such as an id)",
    )
    action.add_argument(
        "--separator",
        metavar="SIGN",
        help="column separator: a character, or tab, comma, semicolon, pipe, blanks (default: detected)",
    )
    action.add_argument("--encoding", metavar="NAME", help="encoding of a table, such as cp1252 (default: detected)")
    action.add_argument(
        "--decimal",
        metavar="SIGN",
        choices=("point", "comma", ".", ","),
        help="decimal sign of a table: point or comma (default: detected)",
    )
    action.add_argument("--sheet", metavar="NAME", help="a sheet of an Excel file (default: the only one with values)")
    action.add_argument("--skip-rows", type=filters.count, metavar="N", help="lines above a table (default: none)")
    action.add_argument(
        "--allow-pickle", action="store_true", help="load .pkl and .joblib files, which can run arbitrary code"
    )
    _trusted(action)


def _action(actions: Commands, name: str, act: Any, text: str) -> Deferred:
    action = actions.add(name, help=text)
    action.set_defaults(act=act)
    return action


def _trusted(action: Deferred) -> None:
    action.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="CLASS",
        help="a class, your own or scikit-learn's, that labrun may build from the file; may be repeated",
    )


def register(options: argparse.Namespace) -> int:
    """Register the model or a file of a run. If it is registered already, only say so."""
    tags = {}
    for word in options.tag:
        key, _, value = word.partition("=")
        if not key.strip() or not word.isprintable():
            raise ConfigError(f"--tag {word!r}: use KEY=VALUE")
        tags[key] = value
    model_journal.check_name(options.name)
    for name in options.alias:
        model_journal.check_alias(name)
    root = store.workspace()
    run_dir, record = store.find(
        root,
        options.run,
        suitable=lambda _, one: options.run != "last" or not is_scoring(one.task),
        wanted="a run that trained a model",
    )
    version, is_new = models.register(root, run_dir, options.name, options.file, tags)
    if not is_new:
        print(f"already registered: {version.file} of run {record.id} is {version.title}, since {version.time[:16]}")
    else:
        print(f"registered {version.title}: {version.file} of run {record.id} ({record.name})")
    for name in options.alias:
        models.alias(root, version.title, name)
        print(f"  {version.name}@{name} is version {version.number}")
    for line in trusting(root, version, record.imported is not None):
        print(f"  {line}")
    if models.is_loadable(root, version):
        print(f"  in Python: labrun.load_model({version.title!r})")
        if takes_files(root, version):
            print(f"  serve it:  {serve_command(root, version)}")
    else:
        print(f"  kept as a file: labrun does not load {Path(version.file).suffix or 'such'} files")
    return 0


def trusting(root: Path, version: Version, imported: bool = False) -> list[str]:
    """Return lines on how to trust a version with classes that need it; empty for other versions."""
    names = models.needed(root, version)
    if not names:
        return []
    reason = models.untrusted(root, version, imported)
    ways = f"{TRUSTING[BY_ARGUMENT](names)} in Python, {TRUSTING[BY_OPTION](names)} for lab models predict"
    if reason:
        return [f"not trusted automatically: {reason}", f"loading it needs {ways}"]
    return [
        f"trusted automatically, because you trained it here, while the code of {', '.join(names)} stays unchanged",
        f"elsewhere, or with other code, loading it needs {ways}",
    ]


def takes_files(root: Path, version: Version) -> bool:
    """Whether a version predicts from tables and arrays. One that needs a data module's batches cannot be served."""
    try:
        return not cards.read(model_journal.folder(root, version.name, version.number), version.title).takes_batches
    except DataError:
        return True


def serve_command(root: Path, version: Version) -> str:
    """Return the command that serves a version's predictions."""
    # MLflow starts uvicorn by name, so its folder must be on the PATH.
    folder = Path(sys.executable).parent
    is_found = shutil.which("mlflow") == str(folder / "mlflow")
    pickled = Path(version.file).suffix in (".pkl", ".pickle", ".joblib")
    words = [
        *([] if is_found else [f"PATH={shlex.quote(str(folder))}:$PATH"]),
        *(["LABRUN_ALLOW_PICKLE=1"] if pickled else []),
        *([TRUSTING[BY_VARIABLE](names)] if (names := models.needed(root, version)) else []),
        f"mlflow models serve -m {shlex.quote(str(model_journal.folder(root, version.name, version.number)))}",
        "--env-manager local --port 5001",
    ]
    return " ".join(words)


def ls(options: argparse.Namespace) -> int:
    """List the registered models, or the versions of one model."""
    root = store.workspace()
    state = model_journal.read(root)
    if state.left_out:
        sys.stderr.write(
            f"lab: left out: {messages.counted(state.left_out, 'line')} of {model_journal.path(root)} that "
            f"{'registers' if state.left_out == 1 else 'register'} nothing\n"
        )
    if options.name is not None:
        versions = model_journal.chosen(root, options.name)[::-1]
    else:
        versions = [found[max(found)] for _, found in sorted(state.versions.items()) if found]
    if options.json:
        for one in versions:
            print(json.dumps(_as_json(state, one)))
        return 0
    if not versions:
        print("no models are registered: lab models register RUN --name NAME")
        return 0
    head = ("model", "version", "aliases", "run", "experiment", "metrics", "registered")
    rows = []
    for one in versions:
        every = state.aliases.get(one.name, {})
        shown = ", ".join(
            state.aliases_of(one) if options.name else (f"{alias}: {number}" for alias, number in sorted(every.items()))
        )
        time = one.time[:16].replace("T", " ")
        rows.append(
            (one.name, str(one.number), shown or "-", one.origin, one.experiment or "-", _metrics(one, 2), time)
        )
    print("\n".join(formatting.columns([head, *rows])))
    return 0


def _metrics(version: Version, count: int | None = None) -> str:
    usual = [name for name in ("accuracy", "test_accuracy", "r2") if name in version.metrics]
    names = [*usual, *(name for name in version.metrics if name not in usual)][:count]
    values = {name: version.metrics[name] for name in names}
    return (
        ", ".join(f"{n} {formatting.number(v) if isinstance(v, int | float) else v}" for n, v in values.items()) or "-"
    )


def _as_json(state: model_journal.RegistryState, version: Version) -> dict[str, Any]:
    return {**vars(version), "aliases": state.aliases_of(version)}


def show(options: argparse.Namespace) -> int:
    """Show everything about a version: its origin, its metrics, and how to use it."""
    root = store.workspace()
    version = model_journal.find(root, options.model)
    state = model_journal.read(root)
    folder = model_journal.folder(root, version.name, version.number)
    if options.json:
        print(json.dumps({**_as_json(state, version), "folder": str(folder)}, indent=1))
        return 0
    runs = {record.id: run_dir for run_dir, record in store.listing(root).runs}
    numbers = sorted(state.versions[version.name])
    mlflow_run = version.mlflow_run or ui_state.mlflow_id(root, runs.get(version.run))
    rows = [
        ("model", version.title),
        ("aliases", ", ".join(state.aliases_of(version)) or "none"),
        ("versions", ", ".join(map(str, numbers))),
        ("registered", version.time),
        *_origin(version, runs),
        *((("MLflow run", mlflow_run),) if mlflow_run else ()),
        ("file", f"{version.file}  SHA-256 {version.sha256}"),
        *((f"data {one.get('asset') or one.get('name') or one.get('input')}", _data(one)) for one in version.data),
        *(
            (name, formatting.number(v) if isinstance(v, int | float) else str(v))
            for name, v in version.metrics.items()
        ),
        *((f"tag {key}", value) for key, value in version.tags.items()),
        *((f"property {key}", value) for key, value in version.properties.items()),
        *([("description", version.description)] if version.description else []),
        ("folder", str(folder)),
        *(("trusted" if place == 0 else "", line) for place, line in enumerate(trusting(root, version))),
        *_used(root, version),
    ]
    print(formatting.table(rows))
    return 0


def _used(root: Path, version: Version) -> list[tuple[str, str]]:
    """Return table rows on how to use a version."""
    if not models.is_loadable(root, version):
        return [("in Python", "labrun does not load it; lab models download gives it")]
    serving = [("serve it", serve_command(root, version))] if takes_files(root, version) else []
    return [("in Python", f"labrun.load_model({version.title!r})"), *serving]


def _origin(version: Version, runs: dict[str, Path]) -> list[tuple[str, str]]:
    if not version.run:
        return [("run", "none: a local file was registered")]
    return [("run", f"{version.experiment}  {version.run}"), ("", str(runs.get(version.run, "(removed)")))]


def _data(entry: dict[str, Any]) -> str:
    words = [f"version {entry['version'][:12]}"] if entry.get("version") else []
    return ", ".join([*words, f"digest {entry['digest'][:12]}"] if entry.get("digest") else words) or "-"


def download(options: argparse.Namespace) -> int:
    """Copy a version's files to a folder."""
    root = store.workspace()
    version = model_journal.find(root, options.model)
    folder = model_journal.check(root, version)
    target = options.output or Path(f"{version.name}-{version.number}")
    existing = [target / name for name in version.files if os.path.lexists(target / name)]
    if existing:
        raise RecordError(f"{existing[0]} already exists: choose another folder with -o")
    for name in version.files:
        shutil.copyfile(folder / name, files.ready(target / name))
    names = list(version.files) if len(version.files) < 6 else [messages.counted(len(version.files), "file")]
    print(f"{version.title}: {', '.join(names)} in {target}")
    return 0


def alias(options: argparse.Namespace) -> int:
    """Set an alias, or remove one."""
    root = store.workspace()
    if options.remove:
        model = options.model if "@" in options.model or not options.alias else f"{options.model}@{options.alias}"
        version = models.unalias(root, model)
        print(f"{version.name}@{model_journal.parts(model)[2]} is removed; it was version {version.number}")
        return 0
    if options.alias is None:
        raise ConfigError(f"name the alias that {options.model} gets: lab models alias {options.model} ALIAS")
    version = models.alias(root, options.model, options.alias)
    print(f"{version.name}@{options.alias} is version {version.number}")
    return 0


def predict(options: argparse.Namespace) -> int:
    """Write a model's predictions for samples to a CSV file."""
    from labrun.data.readers.table_form import OF_FILE, TableForm
    from labrun.tasks import sample_files, saved

    source = options.file.expanduser()
    if not source.exists():
        raise RecordError(f"there is no file {source}")
    output = options.output or source.with_name(f"{source.name}.predictions.csv")
    if output.exists() and output.samefile(source):
        raise ConfigError(f"-o {output}: that is the file with the samples itself, and it would be overwritten")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            model = saved.load_model(
                options.model, root=store.workspace(), trusted=options.trusted, allow_pickle=options.allow_pickle
            )
        for one in warned:
            print(f"warning: {one.message}", file=sys.stderr)
    except UntrustedError as error:
        raise error.with_advice(BY_OPTION) from None
    if options.decimal:
        model.decimal = options.decimal
    form = TableForm(**{name: getattr(options, name) for name in OF_FILE}, way=BY_OPTION)
    notes: list[str] = []
    model.on_note = notes.append
    try:
        fed = sample_files.read(source, model, form)
        table = saved.answers(model, fed.samples)
    except DoubtfulDecimalError as error:
        raise error.with_advice(BY_OPTION) from None
    predicted = table["prediction"].tolist()
    if fed.names:
        table.insert(0, "file", list(fed.names))
    if fed.inputs is not None:
        kept = list(fed.inputs.columns) if options.inputs else fed.identifiers(model)
        for position, name in enumerate(kept):
            new = f"input_{name}" if name in table.columns else name
            if new != name:
                notes.append(f"the table's own column {name!r} is called {new!r} next to the predictions")
            table.insert(position, new, fed.inputs[name].to_numpy(), allow_duplicates=True)
    elif options.inputs:
        raise ConfigError(f"--inputs: {source} has no columns with names that could be kept")
    table.to_csv(files.ready(output), index=False)
    for note in dict.fromkeys([*fed.notes, *notes]):
        print(note)
    print(f"{len(table):,} predictions of {model.title}: {output}")
    print("\n".join(_counted(predicted, bool(model.class_names))))
    return 0


def _counted(predicted: Sequence[Any], has_classes: bool) -> list[str]:
    """Return lines with the count of each predicted class, or the range of the predicted quantities."""
    if has_classes:
        counts = {name: predicted.count(name) for name in sorted(set(predicted), key=str)}
        return [f"  {name}: {count:,}" for name, count in list(counts.items())[:20]]
    if predicted and all(isinstance(value, float) for value in predicted):
        return [f"  from {formatting.number(min(predicted))} to {formatting.number(max(predicted))}"]
    return []


def remove(options: argparse.Namespace) -> int:
    """Remove versions, after asking."""
    root = store.workspace()
    chosen = model_journal.chosen(root, options.model)
    name, number, by_alias = model_journal.parts(options.model)
    if number or by_alias:
        chosen = chosen[-1:]
    state = model_journal.read(root)
    meant = {one.title: state.aliases_of(one) for one in chosen if state.aliases_of(one)}
    if meant and not options.force:
        title, aliases = next(iter(meant.items()))
        raise RecordError(
            f"{title} is {name}@{aliases[0]}: give the alias to another version, take it away (lab models alias "
            f"{name}@{aliases[0]} --remove), or use --force"
        )
    what = ", ".join(one.title for one in chosen)
    if not agreed(f"Remove {what}?", options.yes, f"this would remove {what}"):
        return 1
    models.remove(root, chosen)
    print(f"removed {what}")
    return 0
