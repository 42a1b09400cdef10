"""The command `lab remote`: machines reached over SSH, for `compute.host`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from labrun import messages
from labrun.cli.confirm import agreed
from labrun.cli.parsing import Commands, Deferred, Parser
from labrun.cli.runs import filters
from labrun.errors import ConfigError, RecordError
from labrun.remote import adopting, channel, doctor, environment, links, mirror, remotes, removal, ssh, wheels
from labrun.report import formatting
from labrun.runs import store
from labrun.terminal import plain

Act = Callable[[argparse.Namespace], int]
EXAMPLES = """examples:
  lab remote add box gpu-box.lan                    what 'ssh gpu-box.lan' reaches, as box
  lab remote doctor box                             what it has, and what is missing
  labrun experiment=cifar10_cnn compute.host=box    run there
  lab remote pull last checkpoints                  fetch a run's checkpoints
"""


def fill(command: Parser) -> None:
    """Add the description, options and actions to the parser of the command."""
    command.description = "Machines reached over SSH, for compute.host."
    command.epilog = EXAMPLES
    command.set_defaults(act=ls)
    actions = command.add_commands(title="actions", metavar="ACTION")
    action = _action(
        actions, "add", add_one, "add a machine, or change some of its settings ('': the default)", named=True
    )
    action.add_argument("address", metavar="ADDRESS", help="what 'ssh ADDRESS' reaches: HOST, USER@HOST or an alias")
    action.add_argument("--folder", metavar="PATH", help="labrun's folder on the machine (default: ~/.labrun)")
    action.add_argument(
        "--python",
        metavar="PATH",
        help="an interpreter on the machine that has the packages (default: labrun builds an environment)",
    )
    action.add_argument(
        "--build",
        metavar="'BACKEND ...'",
        help="build the environment in a backend's job, with these options for it: 'slurm --partition=cpu'",
    )
    action.add_argument(
        "--wheelhouse",
        metavar="PATH",
        help="send the wheels in this folder, or 'auto': wheels made locally, instead of using a package index",
    )
    action.add_argument("--ssh-config", metavar="FILE", help="a configuration for ssh -F")
    action.add_argument(
        "--data",
        action="append",
        metavar="HERE=THERE",
        help="a remote folder with the same contents as a local folder; HERE= removes the entry",
    )
    _action(actions, "ls", ls, "list the machines (the default)")
    _action(actions, "rm", remove, "remove a machine from the list; its files stay", named=True)
    _action(actions, "connect", connect, "log in once interactively; commands share the connection", named=True)
    _action(
        actions, "doctor", examine, "check what the machine has, what labrun will use, and what is missing", named=True
    )
    action = _action(
        actions, "gc", collect, "remove files that no run on the machine needs; lists first, then asks", named=True
    )
    action.add_argument("--yes", action="store_true", help="do not ask")
    _action(actions, "runs", list_runs, "list the machine's runs, including those of other laptops", named=True)
    action = _action(actions, "fetch", fetch, "mirror runs that another laptop submitted", named=True)
    action.add_argument("folders", nargs="+", metavar="RUN", help="a folder from 'lab remote runs', or a run's id")
    action = _action(actions, "pull", pull, "download more files of a run, such as checkpoints")
    action.add_argument(
        "words", nargs="+", metavar="RUN [FILE ...]", help=f"a run: {filters.NAMES}; then files or folders"
    )


def _action(actions: Commands, name: str, act: Act, text: str, named: bool = False) -> Deferred:
    action = actions.add(name, help=text)
    action.set_defaults(act=act)
    if named:
        action.add_argument("name", metavar="NAME", help="name of the machine, as in compute.host")
    return action


def add_one(options: argparse.Namespace) -> int:
    """Add a machine, or change the given settings of a known one."""
    config = options.ssh_config
    if config and not Path(config).expanduser().is_file():
        raise ConfigError(f"--ssh-config {config}: there is no such file")
    data = {}
    for pair in options.data or ():
        local, equals, remote = pair.partition("=")
        if not equals or not local or (remote and not remote.startswith("/")):
            raise ConfigError(f"--data {pair}: give HERE=THERE, as in --data data=/scratch/data; THERE begins with /")
        data[str(Path(local).expanduser().resolve())] = remote
    if options.build:
        environment.check_build(options.build)
    house = options.wheelhouse
    if house not in (None, "", wheels.AUTO) and not Path(house).expanduser().is_dir():
        raise ConfigError(f"--wheelhouse {house}: there is no such folder; 'auto' makes the wheels here")
    settings = {
        "folder": _with_home(options.folder),
        "build": options.build,
        "wheelhouse": house if house in (None, "", wheels.AUTO) else str(Path(house).expanduser().resolve()),
        "python": _with_home(options.python),
        "ssh_config": str(Path(config).expanduser().resolve()) if config else config,
    }
    unset = remotes.Remote(options.name, options.address)
    before = remotes.known().get(options.name, unset)
    new = {key: value or getattr(unset, key) for key, value in settings.items() if value is not None}
    data = {local: remote for local, remote in {**before.data, **data}.items() if remote}
    known = dataclasses.replace(before, address=options.address, data=data, facts=None, packages={}, **new)
    remotes.put(known)
    kept = [
        f"--{key.replace('_', '-')} {getattr(known, key)}"
        for key in settings
        if key not in new and getattr(known, key) != getattr(unset, key)
    ]
    stays = f"; as before: {', '.join(kept)}" if kept else ""
    print(f"{options.name} is {options.address}{stays}. Next: lab remote doctor {options.name}")
    return 0


def _with_home(remote_path: str | None) -> str | None:
    """Restore the `~` in a remote path, which the local shell has replaced with the local home folder."""
    home = f"{Path.home()}/"
    if remote_path is None or not remote_path.startswith(home):
        return remote_path
    return f"~/{remote_path.removeprefix(home)}"


def ls(options: argparse.Namespace) -> int:
    """List the known machines."""
    machines = remotes.known()
    if not machines:
        print("no machine is known: 'lab remote add NAME ADDRESS' adds one, for compute.host=NAME")
        return 0
    rows = [("name", "address", "connected", "resources at the last check")]
    for name, one in machines.items():
        shown = doctor.describe(one.facts) if one.facts else f"not queried yet: lab remote doctor {name}"
        rows.append((name, one.address, "yes" if ssh.is_connected(one) else "no", shown))
    print("\n".join(formatting.columns(rows)))
    return 0


def remove(options: argparse.Namespace) -> int:
    """Forget a machine."""
    live = [folder for folder in links.live(store.workspace()) if _is_of(folder, options.name)]
    if live:
        raise RecordError(
            f"{options.name} has live runs of this workspace: {live[0]}. Wait for them to end, or cancel them"
        )
    ssh.close(remotes.get(options.name))
    remotes.forget(options.name)
    print(f"{options.name} is no longer in the list")
    return 0


def _is_of(folder: Path, name: str) -> bool:
    link = links.read(folder)
    return link is not None and link.remote == name and link.state in (links.STARTING, links.STARTED)


def connect(options: argparse.Namespace) -> int:
    """Log in interactively, and keep the connection for other commands."""
    remote = remotes.get(options.name)
    code = ssh.connect(remote)
    if code:
        raise ConfigError(f"ssh {remote.address} ended with exit code {code}")
    mirror.forget_failures(store.workspace(), options.name)
    print(f"connected to {options.name} ({remote.address}); the connection stays open for 12 hours after its last use")
    return 0


def examine(options: argparse.Namespace) -> int:
    """Check a machine, and print what it has and what is missing."""
    remote = remotes.get(options.name)
    lines, is_fit = doctor.report(remote, channel.facts(remote, full=True))
    print("\n".join(lines))
    return 0 if is_fit else 1


def collect(options: argparse.Namespace) -> int:
    """Remove folders on a machine that no run needs, after asking."""
    with channel.Channel(remotes.get(options.name)) as conversation:
        unused = conversation.call("unused", quiet_s=removal.REMOVE_S)["unused"]
        if not unused:
            print(f"nothing to remove on {options.name}")
            return 0
        rows = [(name, what, messages.size_text(size)) for name, (what, size) in sorted(unused.items())]
        print("\n".join(formatting.columns([("folder", "what no run needs", "size"), *rows])))
        total = messages.size_text(sum(size for _, size in unused.values()))
        if not agreed(f"Remove {messages.counted(len(unused), 'folder')}, {total}, on {options.name}?", options.yes):
            return 1
        conversation.call("unused", quiet_s=removal.REMOVE_S, remove=list(unused))
    print(f"removed {messages.counted(len(unused), 'folder')} on {options.name}, {total}")
    return 0


def list_runs(options: argparse.Namespace) -> int:
    """List the runs on a machine."""
    root, remote = store.workspace(), remotes.get(options.name)
    with channel.Channel(remote) as conversation:
        folders = adopting.folders(conversation)
    if not folders:
        print(f"no runs on {options.name} in {remote.folder}")
        return 0
    rows = [("folder", "runs", "status", "submitted", "here", "workspace")]
    for one in folders:
        states = Counter(str(status) for _, status, _ in one.runs.values())
        shown = ", ".join(f"{count} {status}" if len(states) > 1 else status for status, count in states.items())
        mirrored = "yes" if adopting.is_mirrored(one, root) else "no"
        workspace = one.workspace.partition("/")[2]
        rows.append((one.name, str(len(one.runs)), shown or "none yet", one.created[:19], mirrored, workspace))
    print("\n".join(formatting.columns(rows)))
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Mirror runs on a machine that were submitted from another computer."""
    root = store.workspace()
    with channel.Channel(remotes.get(options.name)) as conversation:
        folders = adopting.folders(conversation)
        for name in options.folders:
            matching = [one for one in folders if one.matches(name)]
            if len(matching) != 1:
                what = "no folder or run" if not matching else f"{len(matching)} folders"
                raise RecordError(
                    f"{what} on {options.name} matches {name!r}: lab remote runs {options.name} lists them"
                )
            run_dirs = adopting.take(conversation, matching[0], root)
            print(f"{root / matching[0].name}: {len(run_dirs)} {'run' if len(run_dirs) == 1 else 'runs'}")
    return 0


def pull(options: argparse.Namespace) -> int:
    """Download more files of a remote run."""
    name, parts = options.words[0], options.words[1:] or ["checkpoints"]
    run_dir, record = store.find(store.workspace(), name)
    folder = links.folder_of(run_dir, record)
    link = None if folder is None else links.read(folder)
    if folder is None or link is None:
        raise RecordError(f"run {record.id} ran on this machine: its files are in {run_dir}")
    with channel.Channel(link.machine) as conversation:
        remote_path = os.path.normpath(f"{link.folder}/{os.path.relpath(run_dir, folder)}")
        names = mirror.pull(conversation, run_dir, remote_path, parts)
    for one in names:
        print(plain(str(run_dir / one)))
    if not names:
        print(f"nothing new in {', '.join(parts)} on {link.remote}")
    return 0
