"""A search on another machine: its own command runs there, and what it leaves is mirrored here as it comes."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from labrun.errors import LabrunError
from labrun.remote import carry, data, mirror, packed, remotes
from labrun.remote import link as links
from labrun.remote.channel import Channel, persistent
from labrun.remote.link import Link
from labrun.remote.ssh import UnreachableError
from labrun.runs import finalize, sweep_state
from labrun.runs import record as records
from labrun.runs.record import Record
from labrun.runs.sweep_state import Plan, SweepState

FAST_S, SLOW_S, LONGEST_S = 0.7, 5.0, 60.0
SENDING_S = 120.0
LOOKS_ALONE = 3
TAKEN_UP = 5
CODE_VARIABLE = "LABRUN_CARRIED_CODE"
"""What a record there says of its code: it was frozen here."""


class View(Protocol):
    """What is shown of the trials."""

    def ended(self, run_dir: Path, record: Record) -> None:
        """A trial has ended."""


def carried_code() -> dict[str, Any] | None:
    """In a search that was carried here: what its trials' records say of their code."""
    text = os.environ.get(CODE_VARIABLE)
    return None if text is None else dict(json.loads(text))


def main() -> None:
    """There: be the command whose words come over standard input; no list of processes shows them."""
    sys.argv[1:] = json.load(sys.stdin)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    from importlib import import_module

    import_module("labrun.app").main()


def begin(folder: Path, record: Record, plan: Plan, words: Sequence[str]) -> None:
    """Carry a search, and start it there.

    Args:
        folder: the sweep's; its plan is written.
        record: of a trial as it would be.
        plan: the folder's.
        words: the command's, without what says where it goes.

    Raises:
        LabrunError: nothing has begun.
    """
    name = record.config["compute"]["host"]
    remote = remotes.get(name)

    def attempt() -> None:
        with links.locked(folder, wait=True), Channel(remote) as conversation:
            link = links.read(folder) or carry.fresh(folder, name, conversation)
            link.runs = None
            links.write(folder, link)
            _carry(conversation, folder, link, record, plan)
            _start(conversation, folder, link, record, plan, [*words, f"hydra.sweep.dir={link.root}/{link.folder}"])

    try:
        persistent(attempt, SENDING_S, _tell)
    except UnreachableError:
        found = links.read(folder)
        if found is None or found.state != links.STARTING:
            links.drop(folder)
            raise
    except LabrunError:
        links.drop(folder)
        raise


def _carry(channel: Channel, folder: Path, link: Link, record: Record, plan: Plan) -> None:
    problems = carry.refusals(record)
    if problems:
        raise LabrunError(f"{problems[0]}: leave compute.host={link.remote} out")
    there = dataclasses.replace(plan, cwd=f"{link.root}/{link.workspace}", path=[], command=list(plan.command or ()))
    content = (json.dumps(dataclasses.asdict(there), indent=1) + "\n").encode()
    file, size = packed.archive({".launch/plan.json": content})
    with file:
        channel.send("put", file, size, to=link.folder)


def _start(channel: Channel, folder: Path, link: Link, record: Record, plan: Plan, words: Sequence[str]) -> None:
    there = carry.send_code(channel, link, [record], plan)
    data.send(channel, link, [record])
    link.state = links.STARTING
    links.write(folder, link)
    code = carry.code_there(record.code, folder, link) or {}
    carry.begin(
        channel,
        link,
        [there.python, "-P", "-c", "from labrun.remote.searching import main; main()"],
        {
            **carry.variables(link, there, [record]),
            CODE_VARIABLE: json.dumps(code),
        },
        json.dumps(
            [
                *(_word_there(word, folder, link) for word in words),
                *_data_there(link, (record.config.get("datastore") or {}).get("root")),
                mirror.HERE_THERE,
            ]
        ),
        cwd=os.path.relpath(f"{code['folder']}/{code.get('working', '.')}", link.root),
    )
    link.state, link.reached = links.STARTED, time.time()
    links.write(folder, link)


def _data_there(link: Link, root: Any) -> list[str]:
    """Where the datastore's folder is there, if its data were sent."""
    there = None if root is None else link.datastores.get(root)
    return [] if there is None else [f"datastore.root={link.root}/{there}"]


def _word_there(word: str, folder: Path, link: Link) -> str:
    """An override whose value, if it is a path of here, is one of there."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{link.there(value, folder, of_data=True)}" if equals else word


def follow(folder: Path, view: View) -> bool:
    """Bring what comes of a search until it is over; an interrupt asks it to stop.

    Returns:
        Whether it was canceled.
    """
    told: set[str] = set()
    asked = False
    looking = _Look(folder, told, view)
    while True:
        try:
            while not looking.once():
                time.sleep(looking.pause_s)
            return asked or SweepState(folder).search_canceled.exists()
        except KeyboardInterrupt:
            if asked:
                _tell("the search was not waited for; 'lab runs' tells when it has ended")
                return True
            asked = True
            cancel(folder)
            _tell("asking the search to stop; Ctrl-C again waits no longer")


def cancel(folder: Path) -> None:
    """Leave the requests that end a search; the next look passes them on."""
    SweepState(folder).search_canceled.touch()
    for run_dir, record in sweep_state.readable(folder, sweep_state.read_plan(folder)):
        if not record.finished:
            finalize.request(run_dir)


class _Look:
    """One look after the other at a search there."""

    def __init__(self, folder: Path, told: set[str], view: View) -> None:
        self._folder, self._told, self._view = folder, told, view
        self._alone = self._taken_up = 0
        self._is_missed = False
        self.pause_s = FAST_S

    def once(self) -> bool:
        """Whether it is over, and all of it is here."""
        link = links.read(self._folder)
        if link is None:
            raise LabrunError(f"{self._folder} is on no other machine any more")
        if link.state != links.OVER:
            try:
                self._bring(link)
            except UnreachableError as error:
                self._miss(error, link)
        for name in sweep_state.read_plan(self._folder).runs:
            if name not in self._told and (record := records.read(self._folder / name)).finished:
                self._told.add(name)
                self._view.ended(self._folder / name, record)
        return link.state == links.OVER

    def _bring(self, link: Link) -> None:
        with links.locked(self._folder, wait=True), Channel(link.machine) as conversation:
            changed, lives = mirror.bring(conversation, self._folder, link)
            self._alone = 0 if lives or link.state == links.OVER else self._alone + 1
            if self._alone >= LOOKS_ALONE:
                self._take_up(conversation, link)
        if self._is_missed:
            self._is_missed = False
            _tell(f"{link.remote} answers again")
        self.pause_s = FAST_S if changed else min(SLOW_S, 1.3 * self.pause_s)

    def _take_up(self, conversation: Channel, link: Link) -> None:
        """Start it again there: it has died."""
        self._alone, self._taken_up = 0, self._taken_up + 1
        plan = sweep_state.read_plan(self._folder)
        if self._taken_up > TAKEN_UP or not plan.runs:
            raise LabrunError(f"the search on {link.remote} has died: see {self._folder}/.launch/controller.log")
        _tell(f"the search on {link.remote} has ended before its time: it is started again")
        record = records.read(self._folder / plan.runs[0])
        words = [*(plan.command or ()), f"sweep.resume={link.root}/{link.folder}"]
        _start(conversation, self._folder, link, record, plan, words)

    def _miss(self, error: UnreachableError, link: Link) -> None:
        if not self._is_missed:
            self._is_missed = True
            _tell(f"{error}; the search goes on there")
        link.why, link.tried = str(error), time.time()
        links.write(self._folder, link)
        self.pause_s = min(LONGEST_S, 2 * max(1.0, self.pause_s))


def _tell(text: str) -> None:
    sys.stderr.write(f"labrun: {text}\n")
