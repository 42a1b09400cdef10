"""The command `lab data`: datastores and their assets."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labrun.cli.confirm import agreed
from labrun.cli.parsing import Commands, Deferred, Parser
from labrun.compose import paths
from labrun.config.schema import DatastoreSettings
from labrun.data import assets, stores, transfer
from labrun.data.assets import SHORT, Asset
from labrun.data.digests import Entry
from labrun.data.progress import ProgressDisplay
from labrun.data.stores.base import Datastore, clean
from labrun.errors import ConfigError, CorruptDataError, MissingDataError
from labrun.messages import counted, size_text
from labrun.report import formatting
from labrun.runs import store
from labrun.submission import inputs
from labrun.terminal import plain

MAX_LISTED = 20
"""Maximum number of files of an asset to list, unless the user asks for all."""
EXAMPLES = """examples:
  lab data samples digits                           plot 30 samples of a data set
  lab data upload FOLDER --name NAME                upload a folder, as a version of the asset NAME
  lab data ls --datastore azure_blob                the assets of another datastore
  lab data download NAME@1                          copy version 1 to this folder
"""


def fill(command: Parser) -> None:
    """Add the actions to the parser of the command."""
    command.epilog = EXAMPLES
    actions = command.add_commands(title="actions", metavar="ACTION", required=True)

    action = _action(actions, "upload", upload, "upload a folder or a file to a datastore")
    action.add_argument("source", type=Path, metavar="SRC", help="the folder, or the file")
    action.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="the folder in the datastore (default: the asset's name, or the source's)",
    )
    action.add_argument("--name", metavar="ASSET", help="also register the upload as a version of this asset")
    action.add_argument("--overwrite", action="store_true", help="overwrite files that differ")
    _workers(action)

    action = _action(actions, "download", download, "download an asset, or a folder of a datastore")
    _what(action)
    action.add_argument("target", nargs="?", type=Path, metavar="TARGET", help="the local folder (default: the name)")
    action.add_argument("--overwrite", action="store_true", help="overwrite files that differ")
    _workers(action)

    action = _action(actions, "ls", ls, "list the assets of a datastore, or the contents of a folder")
    action.add_argument("folder", nargs="?", metavar="FOLDER", help="a folder of the datastore; '/' is its root")

    action = _action(actions, "show", show, "show an asset: versions, files, size, runs that read it")
    _what(action, "ASSET[@VERSION]")
    action.add_argument("--all", action="store_true", help=f"list every file, not only {MAX_LISTED}")

    action = _action(actions, "verify", verify, "read every byte of an asset and check it against the manifest")
    _what(action, "ASSET[@VERSION]")
    _workers(action)

    action = _action(
        actions, "rm", rm, "remove an asset or a version from the list of assets; or remove a folder or file"
    )
    _what(action)
    action.add_argument("--files", action="store_true", help="also remove the asset's files")
    action.add_argument("--yes", action="store_true", help="do not ask")

    action = _action(actions, "samples", samples, "plot random samples and describe the data")
    action.add_argument("name", metavar="NAME", help="a data set (labrun --help lists them), or an asset")
    action.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a value of one of the data set's keys, for example path=table.csv",
    )
    action.add_argument("-n", type=_count, default=30, dest="count", metavar="N", help="samples (default: %(default)s)")
    action.add_argument("--seed", type=int, default=None, help="seed of the selection (default: a new one each time)")
    action.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file for the plot (default: NAME-samples.png)"
    )


def _action(actions: Commands, name: str, act: Any, text: str) -> Deferred:
    action = actions.add(name, help=text)
    action.add_argument("--datastore", metavar="NAME", help="an option of conf/datastore (default: the config's)")
    action.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value of one of the datastore's keys, for example root=my-container/folder",
    )
    action.set_defaults(act=act)
    return action


def _what(action: Deferred, metavar: str = "ASSET[@VERSION]|PATH") -> None:
    action.add_argument("what", metavar=metavar, help="an asset; or a folder or file of the datastore")


def _workers(action: Deferred) -> None:
    action.add_argument("--workers", type=_count, default=None, metavar="N", help="files to transfer at the same time")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def node_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the config node of the datastore chosen by the options."""
    name = options.datastore or inputs.default_name()
    return inputs.load(name, changes=tuple(options.set))


def upload(options: argparse.Namespace) -> int:
    """Upload files, and register them as an asset if a name is given."""
    node = node_of(options)
    datastore = stores.make(node)
    if datastore.is_read_only:
        raise ConfigError(f"datastore '{datastore.name}' is read-only")
    source = options.source.expanduser()
    if options.name is not None:
        assets.check_name(options.name)
    target = clean(options.target if options.target is not None else options.name or source.resolve().name)
    if options.target is None and options.name is None and source.is_file():
        target = ""
    with ProgressDisplay("uploaded") as view:
        memory = transfer.DigestCache(datastore)
        entries, tokens, present = transfer.upload(
            datastore, source, target, options.overwrite, view, _number(options, node), memory
        )
        same = f"; {present} of {len(entries)} were already there" if present else ""
        print(f"{view.summary} to {_where(datastore, target)}{same}")
    if options.name is not None:
        asset, new = assets.register(datastore, options.name, target, entries, tokens)
        print(
            f"{'registered' if new else 'already registered:'} {asset.title}, {counted(asset.files, 'file')}, "
            f"{size_text(asset.bytes)}"
        )
        print(f"  {_how_to_read(asset, entries, options)}")
    return 0


def _how_to_read(asset: Asset, entries: Sequence[Entry], options: argparse.Namespace) -> str:
    """Return a command that reads an asset, guessed from the types of its files."""
    from labrun.data.readers.contents import is_table
    from labrun.data.readers.parts import SUFFIXES

    where = [f"datastore={options.datastore or inputs.default_name()}", *(f"datastore.{text}" for text in options.set)]
    suffixes = {Path(entry.path).suffix.lower() for entry in entries}
    of_table = "npz" if suffixes == {".npz"} else None
    if all(is_table(Path(entry.path), surely=True) for entry in entries):
        of_table = "csv"
    if asset.name in paths.groups().get("dataset", {}):
        words = [f"dataset={asset.name}", f"dataset.version={asset.number}"]
    elif of_table or (suffixes and suffixes <= SUFFIXES):
        words = [
            f"dataset={of_table or 'image_folder'}",
            f"dataset.asset={asset.name}",
            f"dataset.version={asset.number}",
        ]
        words += [f"dataset.path={min(entry.path for entry in entries)}"] if of_table else []
    else:
        mount = f"script.arguments.data=${{mount:{asset.name}@{asset.number}}}"
        words = ["experiment=script", "script.path=train.py", mount]
    return shlex.join(["labrun", *words, *where])


def download(options: argparse.Namespace) -> int:
    """Download an asset, verifying each file, or a folder or file of the datastore."""
    node = node_of(options)
    datastore = stores.make(node)
    asset, path, entries = _content(datastore, options.what)
    base = options.target or Path(asset.name if asset is not None else Path(path).name or datastore.name)
    items = [transfer.Item(f"{path}/{e.path}".strip("/"), base / e.path, e.size, e.sha256) for e in entries]
    if asset is None and len(entries) == 1 and entries[0].path == "":
        single = base / Path(path).name if base.is_dir() else base
        items = [transfer.Item(path, single, entries[0].size)]
    with ProgressDisplay("downloaded") as view:
        present = transfer.download(datastore, items, options.overwrite, view, _number(options, node))
        same = f"; {present} of {len(items)} were already there" if present else ""
        print(f"{view.summary} to {base}{same}")
    return 0


def ls(options: argparse.Namespace) -> int:
    """List the assets of a datastore, or the contents of a folder."""
    datastore = stores.make(node_of(options))
    if options.folder is None:
        rows = [("asset", "version", "digest", "files", "size", "registered", "folder")]
        for name in assets.names(datastore):
            try:
                newest = assets.find(datastore, name)
            except CorruptDataError as error:  # the other assets are still listed
                sys.stderr.write(f"lab: left out: {error}\n")
                continue
            if newest is None:  # unregistered in the meantime
                continue
            rows.append(
                (
                    name,
                    str(newest.number),
                    newest.version[:SHORT],
                    f"{newest.files:,}",
                    size_text(newest.bytes),
                    newest.created[:16].replace("T", " "),
                    newest.path or "/",
                )
            )
        if len(rows) == 1:
            datastore.check_root()
            print(f"no assets are registered in {_where(datastore, '')}; 'lab data ls /' shows its files")
        else:
            print("\n".join(formatting.columns(rows)))
        return 0
    folder = clean(options.folder.strip("/"))
    folders = datastore.folders(folder)
    if not folders:
        datastore.check_root()
        file = datastore.find(folder) if folder else None
        if file is None:
            raise MissingDataError(f"there is nothing in {_where(datastore, folder)}")
        print(f"{folder}  {size_text(file.size)}")
    for name in folders:
        print(name)
    return 0


def show(options: argparse.Namespace) -> int:
    """Show everything about an asset."""
    datastore = stores.make(node_of(options))
    name, _, version = options.what.partition("@")
    asset = assets.get(datastore, name, version or None)
    entries = assets.manifest(datastore, asset)
    print(
        formatting.table(
            [
                ("asset", asset.title),
                ("digest", asset.version),
                ("folder", _where(datastore, asset.path)),
                ("registered", asset.created),
                ("files", f"{asset.files:,}"),
                ("size", size_text(asset.bytes)),
                (
                    "versions",
                    ", ".join(f"{one.number} ({one.version[:SHORT]})" for one in assets.versions(datastore, name)),
                ),
            ]
        )
    )
    shown = entries if options.all else entries[:MAX_LISTED]
    print(
        "\n".join(
            formatting.columns([("file", "size", "SHA-256"), *((e.path, f"{e.size:,}", e.sha256[:16]) for e in shown)])
        )
    )
    if len(entries) > len(shown):
        print(f"... and {len(entries) - len(shown):,} more (--all shows them)")
    users = [
        (record, run_dir)
        for run_dir, record in store.runs(store.workspace())
        if any(entry.version == asset.version for entry in record.data)
    ]
    print(f"read by {counted(len(users), 'run')} of this workspace")
    for record, run_dir in sorted(users, key=lambda pair: pair[0].created)[-10:]:
        print(f"  {record.id}  {record.name}  {record.status}  {run_dir}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Read every byte of an asset, and compare it with the manifest."""
    node = node_of(options)
    datastore = stores.make(node)
    name, _, version = options.what.partition("@")
    asset = assets.get(datastore, name, version or None)
    bad: list[str] = []

    def check(item: transfer.Item, on_progress: Any) -> None:
        try:
            sha256 = transfer.remote_sha256(datastore, item.name, on_progress)
        except MissingDataError:
            bad.append(f"{item.name} is gone")
            return
        if sha256 != item.sha256:
            bad.append(f"{item.name} has other content: SHA-256 {sha256[:16]} instead of {item.sha256[:16]}")

    entries = assets.manifest(datastore, asset)
    items = [transfer.Item(f"{asset.path}/{e.path}".strip("/"), Path(), e.size, e.sha256) for e in entries]
    with ProgressDisplay("read") as view:
        transfer.transfer_all(datastore, items, check, view, _number(options, node))
        print(view.summary)
    if bad:
        listed = "\n  ".join(sorted(bad))
        raise CorruptDataError(f"asset {asset.title} differs from its registered version:\n  {listed}")
    print(f"every byte of {asset.title} is as it was registered")
    return 0


def rm(options: argparse.Namespace) -> int:
    """Unregister an asset or one of its versions, or remove files."""
    datastore = stores.make(node_of(options))
    name, _, version = options.what.partition("@")
    asset = assets.find(datastore, name, version or None)
    if asset is None and version:
        assets.get(datastore, name, version)
    if asset is None:
        _remove_files(options, datastore)
        return 0
    chosen = [asset] if version else assets.versions(datastore, name)
    gone = f"{name}, {counted(len(chosen), 'version')}" if not version else asset.title
    files = sorted({f"{one.path}/{e.path}".strip("/") for one in chosen for e in assets.manifest(datastore, one)})
    if options.files:
        _refuse_registered(datastore, files, chosen)
    count = counted(len(files), "file")
    _ask(options, f"unregister {gone}{f' and remove its {count}' if options.files else '; its files stay'}")
    for one in chosen:
        assets.unregister(datastore, one)
    for file in files if options.files else ():
        datastore.remove(file)
    then = f"{count} removed" if options.files else f"its files stay in {_where(datastore, asset.path)}"
    print(f"unregistered: {gone}; {then}")
    return 0


def _remove_files(options: argparse.Namespace, datastore: Datastore) -> None:
    """Remove a file or a folder that no asset holds."""
    path = clean(options.what.strip("/"))
    files = sorted(datastore.files(path)) or ([path] if path and datastore.find(path) else [])
    if not files:
        raise MissingDataError(f"datastore '{datastore.name}' has neither an asset nor a file or folder '{path}'")
    _refuse_registered(datastore, files, [])
    _ask(options, f"remove {counted(len(files), 'file')} of {_where(datastore, path)}")
    for file in files:
        datastore.remove(file)
    print(f"removed {counted(len(files), 'file')} of {_where(datastore, path)}")


def samples(options: argparse.Namespace) -> int:
    """Print class counts, shapes and range of a data set, and draw random samples."""
    from labrun.submission import preview

    output = options.output or Path(f"{options.name.replace('/', '-').replace('@', '-')}-samples.png")
    drawn = preview.samples(options.name, node_of(options), options.count, options.seed, options.key)
    print(drawn.text)
    if drawn.save(output):
        print(f"{drawn.shown} samples: {output}")
    return 0


def _content(datastore: Datastore, what: str) -> tuple[Asset | None, str, list[Entry]]:
    """Resolve an argument to an asset and its files, or to the files of a folder (a single file has an empty name)."""
    name, _, version = what.partition("@")
    asset = assets.find(datastore, name, version or None)
    if asset is not None:
        return asset, asset.path, assets.manifest(datastore, asset)
    path = clean(what.strip("/"))
    files = datastore.files(path)
    entries = [Entry(file[len(path) :].lstrip("/"), info.size, "") for file, info in files.items()]
    if not entries and path and (single := datastore.find(path)) is not None:
        entries = [Entry("", single.size, "")]
    if not entries:
        registered = ", ".join(assets.names(datastore)) or "none"
        raise MissingDataError(
            f"datastore '{datastore.name}' has neither an asset nor a file or folder '{what}'. Registered: {registered}"
        )
    return None, path, entries


def _refuse_registered(datastore: Datastore, files: Sequence[str], leaving: Sequence[Asset]) -> None:
    """Check that no other asset version uses the files to be removed.

    Raises:
        ConfigError: one does.
    """
    wanted = set(files)
    for name in assets.names(datastore):
        for other in assets.versions(datastore, name):
            if other not in leaving:
                held = {f"{other.path}/{entry.path}".strip("/") for entry in assets.manifest(datastore, other)}
                if wanted & held:
                    raise ConfigError(
                        f"{len(wanted & held)} of these files belong to asset {other.title}, for example "
                        f"{min(wanted & held)}. Unregister it first: lab data rm {name}@{other.number}"
                    )


def _ask(options: argparse.Namespace, what: str) -> None:
    if not agreed(f"{plain(what)}?", options.yes, f"this would {what}"):
        raise ConfigError("nothing was changed")


def _number(options: argparse.Namespace, node: dict[str, Any]) -> int:
    return int(options.workers or DatastoreSettings.of(node).workers)


def _where(datastore: Datastore, path: str) -> str:
    return f"{datastore.name}: {datastore.root}/{path}".rstrip("/")
