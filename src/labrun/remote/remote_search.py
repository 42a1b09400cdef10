"""A search on a remote machine: its command runs there, and its results are mirrored as they arrive."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from labrun.compose.hydra_files import quoted, value_here, with_variables
from labrun.errors import ConfigError, LabrunError, RecordError
from labrun.remote import data, dispatch, inherited, links, mirror, packed, remotes
from labrun.remote.channel import Channel, retry_while_unreachable, with_start_advice
from labrun.remote.links import Link
from labrun.remote.ssh import UnreachableError
from labrun.runs import finalize, store, sweep_state
from labrun.runs.groups import Code, plain
from labrun.runs.record import Record, read_record
from labrun.runs.sweep_state import RELATIVE, Plan, SweepState
from labrun.submission import snapshot

FAST_S, SLOW_S, LONGEST_S = 0.7, 5.0, 60.0
"""Intervals between polls, in seconds: after a change; without changes; while the machine is unreachable."""


class TrialView(Protocol):
    """Displays the progress of the trials."""

    def ended(self, run_dir: Path, record: Record) -> None:
        """Handle the end of a trial."""


def main() -> None:
    """Run a command on the remote machine; read its arguments from standard input, so that process lists lack them."""
    sys.argv[1:] = json.load(sys.stdin)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    from importlib import import_module

    import_module("labrun.app").main()


def begin(folder: Path, run_records: Sequence[Record], plan: Plan, words: Sequence[str], resumed: bool = False) -> None:
    """Transfer a search, and start it on the remote machine.

    Args:
        folder: the sweep's folder, with its plan written.
        run_records: records of example trials, one for each option of a group.
        plan: the folder's plan.
        words: the command's arguments, without those that choose the machine.
        resumed: resume the search in this folder.

    Raises:
        LabrunError: nothing has started.
    """
    name = str(run_records[0].typed.compute.host)
    problems = sorted({why for record in run_records for why in _inherited_problems(record)})
    if problems:
        raise ConfigError([f"{why}: leave compute.host={name} out" for why in problems])
    state, before = SweepState(folder), links.read(folder)
    remote = before.machine if before is not None else remotes.get(name)
    for mark in (state.search_over, state.search_canceled) if resumed else ():
        mark.unlink(missing_ok=True)

    def attempt() -> None:
        with links.locked(folder, wait=True), Channel(remote) as conversation:
            link = links.read(folder) or dispatch.fresh(folder, name, conversation)
            is_sent = link.state == links.OVER
            if link.state == links.OVER:
                link.state, link.left = links.CARRYING, []
            link.runs = None
            links.write(folder, link)
            has_begun = link.state != links.CARRYING
            interpreter = dispatch.send_code(conversation, link, run_records, plan)
            data.send(conversation, link, run_records, keep=has_begun)
            arguments = _remote_words(_with_configs(conversation, words), folder, link, run_records)
            if not is_sent:
                _send(conversation, folder, link, plan)
            where = "sweep.resume" if resumed else "hydra.sweep.dir"
            _start(
                conversation,
                folder,
                link,
                run_records,
                interpreter,
                [*arguments, f"{where}={quoted(f'{link.root}/{link.folder}')}"],
            )

    try:
        retry_while_unreachable(attempt, dispatch.SENDING_S, _tell)
    except LabrunError as error:
        link = links.read(folder)
        if link is not None and link.state == links.STARTING and isinstance(error, UnreachableError):
            return  # it may have started there: the next poll will show
        if before is not None and before.state == links.OVER:
            links.write(folder, before)  # keep the remote folder
        elif link is not None and link.state == links.CARRYING:
            links.drop(folder)
        raise with_start_advice(error) if link is None or link.state == links.CARRYING else error from None


def _inherited_problems(record: Record) -> Iterator[str]:
    for run_dir in inherited.of(record.typed):
        yield f"the trials resume from run {run_dir.name}, which is on this machine"


def _send(channel: Channel, folder: Path, link: Link, plan: Plan) -> None:
    """Send the folder: its plan, and for a resumed search everything else."""
    remote_plan = dataclasses.replace(
        plan, cwd=f"{link.root}/{link.workspace}", path=[], command=list(plan.command or ())
    )
    parts: dict[str, Any] = {
        str(RELATIVE.plan): (json.dumps(dataclasses.asdict(remote_plan), indent=1) + "\n").encode()
    }
    parts[str(RELATIVE.study)] = SweepState(folder).study
    if (settings := _remote_settings(folder, link)) is not None:
        parts[str(RELATIVE.search)] = settings
    runs = [path.parent for path in sorted(folder.glob("*/run.json"))]
    for run_dir in runs:
        parts |= packed.prefixed(run_dir.name, dispatch.whole_run(folder, link, run_dir))
    parts = {name: part for name, part in parts.items() if isinstance(part, bytes) or part.is_file()}
    dispatch.put_folder(channel, link, parts, [run_dir.name for run_dir in runs])


def _remote_settings(folder: Path, link: Link) -> bytes | None:
    """Return the search's saved settings with remote arguments."""
    try:
        settings = json.loads(SweepState(folder).search.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    remote_words = {local: remote for remote, local in link.words.items() if local}
    settings["fixed"] = sorted([*(remote_words.get(word, word) for word in settings["fixed"]), *link.added()])
    return json.dumps(settings).encode()


def _start(
    channel: Channel,
    folder: Path,
    link: Link,
    run_records: Sequence[Record],
    interpreter: dispatch.Interpreter,
    words: Sequence[str],
) -> None:
    has_begun, record = link.state != links.CARRYING, run_records[0]
    link.state = links.STARTING
    links.write(folder, link)
    code = dispatch.remote_code(record.code, folder, link) or Code()
    try:
        dispatch.begin(
            channel,
            link,
            [interpreter.python, "-P", "-c", "from labrun.remote.remote_search import main; main()"],
            {
                **dispatch.variables(link, interpreter, run_records),
                snapshot.CARRIED: json.dumps({"code": plain(code), "git": plain(record.git)}),
            },
            json.dumps([*words, mirror.WITHOUT_HOST]),
            cwd=os.path.relpath(f"{code.folder}/{code.working or '.'}", link.root),
        )
    except UnreachableError:
        raise
    except LabrunError:
        if not has_begun:  # it has refused and exited
            link.state = links.CARRYING
            links.write(folder, link)
            dispatch.take_back(channel, link)
        raise
    link.state, link.reached = links.STARTED, time.time()
    links.write(folder, link)


def _with_configs(channel: Channel, words: Sequence[str]) -> list[str]:
    """Send the config folders given by flags. Return the command's arguments with their remote paths."""
    arguments = list(words)
    for number, (flag, value) in enumerate(itertools.pairwise(words), start=1):
        if flag in ("--config-dir", "--config-path") and os.path.isabs(value):
            files = packed.plain_files(Path(value), lambda path: path.suffix in (".yaml", ".yml"))
            remote_path = f"configs/{packed.digest(files)[:16]}"
            if not channel.call("have", paths=[remote_path])["have"]:
                dispatch.put(channel, files, remote_path, marked=True)
            arguments[number] = f"{channel.root}/{remote_path}"
    return arguments


def _remote_words(words: Sequence[str], folder: Path, link: Link, run_records: Sequence[Record]) -> list[str]:
    """Return the command's arguments with remote paths, and with the paths of data given explicitly.

    Raises:
        ConfigError: the search varies a key that refers to local data.
    """
    remote_paths = _data_paths(folder, link, run_records[0])
    if any(_data_paths(folder, link, record) != remote_paths for record in run_records[1:]):
        raise ConfigError(
            "the trials read local files outside the datastore, and not all of them read the same ones: make "
            f"each a data set of the datastore, or leave compute.host={link.remote} out"
        )
    remote_words, link.words = [], {}
    for word in words:
        key, equals, value = word.partition("=")
        plain = key.lstrip("+~")
        if equals and plain in remote_paths and any(sign in value for sign in "(,"):
            raise ConfigError(
                f"{key}: a search over local data cannot be sent to another machine: make each a data set "
                f"of the datastore, and search over dataset=..., or leave compute.host={link.remote} out"
            )
        translated = link.to_remote(value, folder, plain.partition(".")[0] in links.DATA_NODES)
        remote_words.append(
            f"{key}={quoted(remote_paths.pop(plain))}" if plain in remote_paths else f"{key}{equals}{translated}"
        )
        if remote_words[-1] != word:
            link.words[remote_words[-1]] = word
    link.words |= {f"++{key}={quoted(value)}": "" for key, value in remote_paths.items()}
    return [*remote_words, *link.added()]


def _data_paths(folder: Path, link: Link, record: Record) -> dict[str, str]:
    """Return the keys that refer to local data, with their remote paths."""
    config = data.data_nodes(record)
    if "script" in config:  # its source is sent as code
        config["script"] = {key: value for key, value in config["script"].items() if key == "requirements"}
    return dict(_changed(config, link.remote_config(config, folder, data.resolved_nodes(config)), ""))


def _changed(local: Any, remote: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the keys below a key whose values differ, with the remote values."""
    if isinstance(local, Mapping):
        for name, value in local.items():
            yield from _changed(value, remote[name], f"{key}.{name}" if key else str(name))
    elif isinstance(local, str) and local != remote:
        yield key, remote


def follow(folder: Path, view: TrialView) -> bool:
    """Mirror a search's changes until it is over; ask it to stop on Ctrl-C.

    Returns:
        Whether it was canceled.
    """
    reported: set[str] = set()
    is_canceled = False
    poller = _Poller(folder, reported, view)
    while True:
        try:
            while not poller.once():
                time.sleep(poller.pause_s)
            return is_canceled or SweepState(folder).search_canceled.exists()
        except KeyboardInterrupt:
            if is_canceled:
                _tell("the search was not waited for; 'lab runs' shows when it has ended")
                return True
            is_canceled = True
            cancel(folder)
            _tell("asking the search to stop; Ctrl-C again stops waiting")


def cancel(folder: Path) -> None:
    """Write the requests that end a search; the next poll forwards them."""
    SweepState(folder).search_canceled.touch()
    for run_dir, record in store.of_plan(folder, sweep_state.read_plan(folder)):
        if not record.finished:
            finalize.request(run_dir)


class _Poller:
    """Polls a remote search."""

    def __init__(self, folder: Path, reported: set[str], view: TrialView) -> None:
        self._folder, self._reported, self._view = folder, reported, view
        self._dead_polls = self._restarts = 0
        self._is_failing = False
        self.pause_s = FAST_S

    def once(self) -> bool:
        """Poll once. Return whether the search is over and completely mirrored."""
        link = links.read(self._folder)
        if link is None:
            raise LabrunError(f"{self._folder} is no longer on another machine")
        if link.state != links.OVER:
            self._bring(link)
        for name in sweep_state.read_plan(self._folder).runs:
            if name not in self._reported and (record := read_record(self._folder / name)).finished:
                self._reported.add(name)
                self._view.ended(self._folder / name, record)
        return link.state == links.OVER

    def _bring(self, link: Link) -> None:
        try:
            with links.locked(self._folder, wait=True), Channel(link.machine) as conversation:
                changed, lives = mirror.bring(conversation, self._folder, link)
        except LabrunError as error:
            self._note_failure(error, link)
            return
        self._dead_polls = 0 if lives or link.state == links.OVER else self._dead_polls + 1
        if self._dead_polls >= mirror.DEAD_POLLS:
            self._restart(link)
        if self._is_failing:
            self._is_failing = False
            _tell(f"{link.remote} answers again")
        self._restarts = 0 if changed else self._restarts
        self.pause_s = FAST_S if changed else min(SLOW_S, 1.3 * self.pause_s)

    def _restart(self, link: Link) -> None:
        """Restart a search that has died on the remote machine."""
        self._dead_polls, self._restarts = 0, self._restarts + 1
        plan = sweep_state.read_plan(self._folder)
        if self._restarts > dispatch.MAX_RESTARTS or not plan.runs:
            raise LabrunError(f"the search on {link.remote} has died: see {SweepState(self._folder).controller_log}")
        _tell(f"the search on {link.remote} ended unexpectedly: restarting it")
        record = read_record(self._folder / plan.runs[0])
        command = [with_variables(text, value_here) for text in plan.command or ()]

        def attempt() -> None:
            with links.locked(self._folder, wait=True), Channel(link.machine) as conversation:
                interpreter = dispatch.send_code(conversation, link, [record], plan)
                resume = f"sweep.resume={quoted(f'{link.root}/{link.folder}')}"
                arguments = _with_configs(conversation, command)
                words = [*_remote_words(arguments, self._folder, link, [record]), resume]
                _start(conversation, self._folder, link, [record], interpreter, words)

        try:
            retry_while_unreachable(attempt, dispatch.SENDING_S, _tell)
        except UnreachableError as error:
            self._note_failure(error, link)

    def _note_failure(self, error: LabrunError, link: Link) -> None:
        if not self._is_failing:
            self._is_failing = True
            _tell(f"{error}{'' if isinstance(error, mirror.FolderGoneError) else '; the search continues there'}")
        link.why, link.tried = str(error), time.time()
        with contextlib.suppress(RecordError):
            links.write(self._folder, link)
        self.pause_s = min(LONGEST_S, 2 * max(1.0, self.pause_s))


def _tell(text: str) -> None:
    sys.stderr.write(f"labrun: {text}\n")
