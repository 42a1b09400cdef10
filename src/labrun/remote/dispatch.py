"""Transfer of a folder of frozen runs to a remote machine, and start of its controller. Each step may be repeated.

1. Send the code, labrun itself and the environment, each by digest, unless they are already there.
2. Send the complete folder, which takes its place by one rename: it exists completely or not at all.
3. Start the controller in a separate process. It takes the folder's lease, so that it is the only one, and starts
   unfinished runs; a run's attempts are claimed by exclusive creation. A request with a lost answer can be repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun import refusal
from labrun.config import masking
from labrun.remote import clocks, data, editable, environment, inherited, links, packed
from labrun.remote.channel import Channel, RequestRefusedError
from labrun.remote.links import Link
from labrun.report import formatting
from labrun.runs import store
from labrun.runs.groups import Code
from labrun.runs.record import Record, read_record, record_json
from labrun.runs.sweep_state import RELATIVE, Plan, SweepState
from labrun.runs.workspace import Workspace
from labrun.submission import environments, snapshot

if TYPE_CHECKING:
    from labrun.remote.messages import WaitAnswer

log = logging.getLogger(__name__)

SENDING_S = 120.0
"""How long a machine may be unreachable before the runs are submitted, in seconds."""
MAX_RESTARTS = 5
"""How often a dead remote controller is restarted."""
PREVIOUS = 4
"""Number of previous code snapshots to compare, in order to send only differences."""
BEGIN_S = 600.0
"""Time for the remote controller to check everything, including fetching data, in seconds."""
ERRAND_S = 120.0
"""Time to end remote runs without a controller, in seconds."""


def fresh(folder: Path, name: str, channel: Channel) -> Link:
    """Create the link of a folder that was never transferred."""
    root = store.workspace()
    workspace = links.remote_workspace(root)
    link = Link(name, workspace, links.remote_folder(folder, root, workspace), str(root), channel.root)
    link.place, link.is_own = channel.remote.folder, True
    clocks.note(link, channel.ahead_s)
    if link.ahead_s:
        ahead = f"{formatting.duration(abs(link.ahead_s))} {'ahead of' if link.ahead_s > 0 else 'behind'}"
        sys.stderr.write(f"labrun: the clock of {name} is {ahead} this machine's; records use this machine's clock\n")
    return link


def refusals(record: Record) -> list[str]:
    """Return a message for each local item that a run refers to and that is not transferred."""
    problems, script = list[str](), record.typed.script
    if script is None:
        return []
    if script.python:
        problems.append(f"script.python={script.python} is an interpreter of this machine")
    if script.requirements:
        file = Path(script.requirements)
        problems += [
            f"script.requirements: {file.name} contains {line!r}, which is on this machine"
            for line in environments.local_lines(file, script.azureml)
        ]
    return problems


@dataclass(frozen=True)
class Interpreter:
    """The interpreter of the remote controller, and the import path that precedes its own folders."""

    python: str
    path: list[str]


def send(channel: Channel, folder: Path, link: Link, plan: Plan, run_dirs: Sequence[Path]) -> Interpreter:
    """Send everything that the runs need, and the folder.

    Raises:
        LabrunError: something cannot be provided on the machine.
    """
    pairs = [(run_dir, read_record(run_dir)) for run_dir in run_dirs]
    interpreter = send_code(channel, link, [record for _, record in pairs], plan)
    data.send(channel, link, [record for _, record in pairs], keep=link.state != links.CARRYING)
    inherited.send(channel, folder, link, [record for _, record in pairs])
    _send_folder(channel, folder, link, plan, pairs)
    return interpreter


def send_code(channel: Channel, link: Link, run_records: Sequence[Record], plan: Plan) -> Interpreter:
    """Send labrun and the runs' code, and provide the environment."""
    packages, path, outside = _own_packages(plan), *_import_path(plan, link, run_records)
    trees = {f"{link.workspace}/{_relative(one)}": one for one in {*_code(run_records), *outside}}
    previous = {f"{link.workspace}/{_relative(one)}": one for one in _previous_code()}
    have = set(channel.call("have", paths=[*dict.fromkeys([_remote_labrun(), *packages, *trees, *previous])])["have"])
    for remote_path, files in ({_remote_labrun(): packed.labrun_files()} | packages).items():
        if remote_path not in have:
            put(channel, files, remote_path, marked=True)
    path += [f"{channel.root}/{remote_path}" for remote_path in packages]
    for remote_path, folder in trees.items():
        if remote_path not in have:
            _send_tree(channel, folder, remote_path, {name: one for name, one in previous.items() if name in have})
    link.python = environment.ensure(channel)
    link.path = [f"{channel.root}/{_remote_labrun()}", *path]
    if any((script := record.typed.script) is not None and script.requirements for record in run_records):
        environment.ensure_uv(channel)
    return Interpreter(link.python, path)


def _send_tree(channel: Channel, folder: Path, remote_path: str, bases: Mapping[str, Path]) -> None:
    """Send frozen code, or only its differences from an earlier snapshot on the machine if they are smaller."""
    files: packed.Entries = packed.plain_files(folder)
    found = [(name, *packed.changes(folder, base)) for name, base in bases.items()]
    name, new, gone = min(found, key=lambda one: _bytes(one[1]), default=("", {}, []))
    if name and 2 * _bytes(new) < _bytes(files):
        with contextlib.suppress(RequestRefusedError):  # the earlier snapshot has changed there: send everything
            put(channel, new, remote_path, marked=True, base=name, gone=gone, digest=folder.name)
            return
    put(channel, files, remote_path, marked=True)


def _bytes(files: packed.Entries) -> int:
    return sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in files.values())


def put(channel: Channel, files: packed.Entries, remote_path: str, **arguments: Any) -> dict[str, Any]:
    """Put files into a remote folder; `arguments` are those of the request (`Helper.do_put`)."""
    file, size = packed.archive(files)
    with file:
        return channel.send("put", file, size, to=remote_path, **arguments)


def _previous_code() -> list[Path]:
    """Return the most recent code snapshots."""
    frozen = Workspace(store.workspace()).code.glob("[!.]*")
    return sorted(frozen, key=lambda path: -path.stat().st_mtime)[:PREVIOUS]


def _remote_labrun() -> str:
    return f"labrun/{packed.labrun_digest()}"


def _relative(path: Path) -> str:
    return path.relative_to(store.workspace()).as_posix()


def _code(run_records: Sequence[Record]) -> list[Path]:
    """Return the code snapshots of the runs."""
    codes = [record.code for record in run_records if record.code is not None]
    folders = {code.folder for code in codes} | {code.script.folder for code in codes if code.script is not None}
    return [Path(one) for one in sorted(filter(None, folders))]


def _own_packages(plan: Plan) -> dict[str, packed.Entries]:
    """Return the metadata of packages that are installed locally as folders of code, by their remote folder."""
    files = editable.metadata_files() if plan.python is None else {}
    return {f"told/{packed.digest(files)[:16]}": files} if files else {}


def _import_path(plan: Plan, link: Link, run_records: Sequence[Record]) -> tuple[list[str], list[Path]]:
    """Return the runs' remote import path before the interpreter's own folders.

    Folders that are neither in the frozen code nor part of this interpreter are frozen, too, such as a package that is
    installed as a folder.

    Returns:
        The remote folders; and the local snapshots that were made for them.
    """
    root, path, frozen = store.workspace(), [], []
    code = Workspace(root).code
    folders = [*plan.path, *(_frozen(folder, run_records) for folder in editable.folders() if plan.python is None)]
    sent_otherwise = [
        *map(Path, {sys.prefix, sys.base_prefix, sys.exec_prefix}),
        *(top.parent for _, top in packed.packages()),
    ]
    for folder in (Path(entry).resolve() for entry in dict.fromkeys(folders)):
        if folder.is_relative_to(code):
            path.append(f"{link.root}/{link.workspace}/{_relative(folder)}")
        elif folder.is_dir() and not any(folder.is_relative_to(top.resolve()) for top in sent_otherwise):
            taken = snapshot.take(folder, root)
            frozen.append(Path(str(taken.folder)))
            path.append(os.path.normpath(f"{link.root}/{link.workspace}/{_relative(frozen[-1])}/{taken.working}"))
    return path, frozen


def _frozen(folder: Path, run_records: Sequence[Record]) -> str:
    """Return a folder of packages, or its copy in the runs' frozen code if it belongs to that."""
    for code in (record.code for record in run_records if record.code is not None):
        if code.base and code.folder and folder.is_relative_to(code.base):
            return str(Path(code.folder, folder.relative_to(code.base)))
    return str(folder)


def _send_folder(channel: Channel, folder: Path, link: Link, plan: Plan, pairs: Sequence[tuple[Path, Record]]) -> None:
    parts: dict[str, Any] = {}
    for run_dir, record in pairs:
        name = os.path.relpath(run_dir, folder)
        parts |= packed.prefixed(name, packed.run_files(run_dir, _remote_record(record, folder, link)))
    remote_plan = dataclasses.replace(plan, cwd=link.to_remote(plan.cwd, folder), path=[], python=plan.python)
    parts[str(RELATIVE.plan)] = (json.dumps(dataclasses.asdict(remote_plan), indent=1) + "\n").encode()
    parts[str(RELATIVE.submitted)] = b""
    if (folder / "multirun.yaml").is_file():
        parts["multirun.yaml"] = folder / "multirun.yaml"
    put_folder(channel, link, parts, [os.path.relpath(run_dir, folder) for run_dir, _ in pairs])


def put_folder(channel: Channel, link: Link, parts: packed.Entries, runs: Sequence[str]) -> None:
    """Send a folder; if it exists there and its runs have not started, or must start again, renew its files."""
    file, size = packed.archive(parts)
    with file:
        answer = channel.send("put", file, size, to=link.folder, mark=[f"{run}/run.json" for run in runs])
    is_new = answer["new"]
    link.is_new = link.is_new or is_new
    if is_new:  # remote and local records are equal
        link.marks |= dict(zip(runs, answer["marks"], strict=True))
    if is_new or link.state != links.CARRYING:
        return
    old = map(str, (RELATIVE.begun, RELATIVE.search_over, RELATIVE.search_canceled, RELATIVE.given_up))
    file, size = packed.archive(parts)
    with file:
        channel.send("renew", file, size, to=link.folder, without=[*old, *(f"{run}/requests" for run in runs)])


def take_back(channel: Channel, link: Link) -> None:
    """Remove a remote folder that was created for runs that have not started."""
    if link.is_new:
        channel.call("remove", folder=link.folder)


def whole_run(folder: Path, link: Link, run_dir: Path) -> dict[str, Path | bytes]:
    """Return the files of a search's run including its outputs, which the end of a search reads."""
    made = packed.prefixed("outputs", packed.plain_files(run_dir / "outputs"))
    return {**made, **packed.run_files(run_dir, _remote_record(read_record(run_dir), folder, link))}


def _remote_record(record: Record, folder: Path, link: Link) -> bytes:
    """Return a record's text with remote paths."""
    copy = dataclasses.replace(
        record,
        config=link.remote_config(record.config, folder, data.resolved_nodes(data.data_nodes(record))),
        sweep=link.to_remote(record.sweep, folder),
        hydra=link.to_remote(record.hydra, folder),
        code=remote_code(record.code, folder, link),
    )
    clocks.shift(copy, link.ahead_s)
    copy.config["trusted"] = inherited.remote_trusted(record)
    script = copy.config.get("script")
    if script and copy.code is not None and copy.code.script is not None:
        copy.config["script"] = {**script, "source": copy.code.script.folder}
    return record_json(copy).encode()


def remote_code(code: Code | None, folder: Path, link: Link) -> Code | None:
    """Return a record's `code` with remote paths."""
    translated: Code | None = link.to_remote(code, folder)
    return None if code is None or translated is None else dataclasses.replace(translated, base=code.base)


def start(
    channel: Channel,
    folder: Path,
    link: Link,
    interpreter: Interpreter,
    run_variables: Mapping[Path, Mapping[str, str]],
) -> None:
    """Start the remote controller unless one is active. Return once it has taken over the runs.

    Raises:
        RequestRefusedError: it reports that it cannot; nothing has run then.
        UnreachableError: the connection is lost; whether it was started is unknown.
    """
    run_records = [read_record(folder / run) for run in link.runs or ()]
    begin(
        channel,
        link,
        [
            interpreter.python,
            "-P",
            "-c",
            "from labrun.remote.controller import main; main()",
            f"{link.root}/{link.folder}",
        ],
        variables(link, interpreter, run_records),
        json.dumps({os.path.relpath(run_dir, folder): dict(values) for run_dir, values in run_variables.items()}),
    )


def variables(link: Link, interpreter: Interpreter, run_records: Sequence[Record]) -> dict[str, str]:
    """Return the variables of the remote process: its import path, and those that the runs' configs refer to."""
    text = "".join(json.dumps([record.config, record.overrides], default=str) for record in run_records)
    named = {name for name in masking.REFERENCE.findall(text) if name not in masking.OPEN and name in os.environ}
    return {
        **{name: os.environ[name] for name in {*named, *environment.PASSED_ON} if name in os.environ},
        "PYTHONPATH": os.pathsep.join([f"{link.root}/{_remote_labrun()}", *interpreter.path]),
        links.CARRIED_PATH: os.pathsep.join(interpreter.path),
        store.ROOT_VARIABLE: f"{link.root}/{link.workspace}",
    }


def begin(
    channel: Channel,
    link: Link,
    command: Sequence[str],
    variables: Mapping[str, str],
    stdin: str,
    cwd: str | None = None,
) -> None:
    """Start a process that controls a remote folder, and wait until it has taken over; see `start`."""
    state_files = SweepState(Path(link.folder))
    refused = str(state_files.refusal)
    waiting: dict[str, Any] = {
        "claim": str(state_files.remote_controller),
        "refusal": refused,
        "file": str(state_files.begun),
        "log": str(state_files.controller_log),
        "patience_s": 10.0,
    }
    lacks = f"{command[0]} cannot be used for runs there: 'lab remote doctor {link.remote}' shows what it lacks"
    try:
        state: WaitAnswer = channel.call(
            "begin",
            **waiting,
            fresh=waiting["file"],
            command=list(command),
            environment={**variables, refusal.VARIABLE: f"{link.root}/{refused}"},
            cwd=cwd or link.workspace,
            stdin=stdin,
        )
    except RequestRefusedError as error:
        if error.file != command[0]:
            raise
        raise RequestRefusedError(f"{error}. {lacks}") from error
    text, end = "", time.monotonic() + BEGIN_S
    while True:
        text += state["log"]
        if state["there"]:
            return
        if not state["lives"]:
            why = refusal.parsed(state["refusal"])
            if why is not None and why.is_controlled:  # an earlier attempt has succeeded
                return
            # Without a reason, Python itself has failed: it cannot import labrun, for example.
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
            raise RequestRefusedError(f"{link.remote}: {f'{last}. {lacks}' if why is None else why.message}")
        if time.monotonic() > end:
            return
        state = channel.call("wait", **waiting, seen=state["seen"])


def run_command(channel: Channel, link: Link, command: Sequence[str], variables: Mapping[str, str], stdin: str) -> None:
    """Run a command on a remote folder, and wait until it has ended.

    Raises:
        RequestRefusedError: it takes too long.
    """
    state_files = SweepState(Path(link.folder))
    claim, output = str(state_files.remote_errand), str(state_files.controller_log)
    never = f"{claim}.never"  # a file that nobody creates: wait for the end of the command
    channel.call(
        "spawn",
        claim=claim,
        log=output,
        command=list(command),
        environment=dict(variables),
        cwd=link.workspace,
        stdin=stdin,
    )
    end = time.monotonic() + ERRAND_S
    while channel.call("wait", claim=claim, file=never, log=output, seen=0, patience_s=10.0)["lives"]:
        if time.monotonic() > end:
            raise RequestRefusedError(
                f"{link.remote}: the command takes longer than {ERRAND_S:.0f} s; see {link.root}/{output} there"
            )
