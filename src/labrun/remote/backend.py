"""The remote backend (`compute.host`): a controller on the remote machine executes the runs; they are mirrored here."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from labrun.backends import registry
from labrun.backends.base import Backend, Capacity, Head, Resources
from labrun.config.schema import SPECIAL, Compute
from labrun.control import controller
from labrun.errors import ConfigError, LabrunError, RecordError
from labrun.remote import channel, dispatch, doctor, environment, links, mirror, remote_cancel, remotes
from labrun.remote.channel import Channel, retry_while_unreachable, with_start_advice
from labrun.remote.links import Link
from labrun.remote.mirror import FolderGoneError
from labrun.remote.remotes import Facts, Remote
from labrun.remote.ssh import LoginError, UnreachableError
from labrun.runs import finalize
from labrun.runs.record import Record, read_record
from labrun.runs.sweep_state import Plan, SweepState

log = logging.getLogger(__name__)

FAST_S, GATHER_S, SLOW_S = 0.3, 1.0, 5.0
"""Intervals between polls, in seconds: of a single run; of several that end often; otherwise. Ends are seen at once."""
POLL_FRACTION = 0.1
"""Interval between polls as a fraction of the time since the last change."""
IDLE_POLL_S, WATCHED_S = 30.0, 15.0
"""Poll interval of a detached controller while nobody reads its runs; and how long a reader counts after a read."""
ENDING_S = 20.0
"""Time for a run without a local controller to stop, in seconds."""
LONGEST_PAUSE_S = 60.0
"""Longest interval between two polls, in seconds."""


def facts(remote: Remote) -> Facts:
    """Return the known facts of a machine; query it if there are none."""
    return remote.facts or channel.facts(remote)


class RemoteBackend(Backend):
    """Executes runs on a remote machine over SSH."""

    name = "remote"
    outlives_controller = True
    is_remote = True
    settings = frozenset(SPECIAL)

    def problems(self, compute: Compute) -> Iterator[str]:
        """Yield what the remote machine lacks, as far as known locally; its own controller checks the rest."""
        host = compute.host
        if host is None:
            raise ConfigError("compute.target=remote: name the machine instead, as in compute.host=NAME")
        if (backend := _remote_backend(compute)) is not None and backend.in_process:
            others = ", ".join(registry.choices(compute, lambda one: not one.in_process))
            raise ConfigError(f"compute={backend.name} is this process: compute.host needs one of {others}")
        remote = remotes.get(host)
        known_facts = facts(remote)
        if remote.python is None:
            environment.check_platform(host, known_facts)
        lacking = list(self._lacking(compute, known_facts))
        if lacking and remote.facts:  # it may have more than at the last query
            lacking = list(self._lacking(compute, channel.facts(remote)))
        yield from lacking

    def _lacking(self, compute: Compute, known_facts: Facts) -> Iterator[str]:
        host = compute.host
        backend = _remote_backend(compute)
        program = None if backend is None else backend.program
        if program is not None:
            if not known_facts.has(program):
                yield f"compute.target={compute.target}: {host} has no {program} on its PATH"
            return
        cores, memory, gpus = known_facts.cores, known_facts.memory_gb, len(known_facts.gpus)
        if compute.cpus_per_run > cores:
            yield f"compute.cpus_per_run={compute.cpus_per_run}: {host} has {cores} cores"
        if compute.mem_gb is not None and memory is not None and compute.mem_gb > memory:
            yield f"compute.mem_gb={compute.mem_gb:g}: {host} has {memory:.1f} GB of memory"
        if compute.gpus_per_run > gpus:
            yield f"compute.gpus_per_run={compute.gpus_per_run}: {host} has {gpus or 'no'} GPU{'s' * (gpus > 1)}"

    def folder_problem(self, run_dir: Path, compute: Compute) -> str | None:
        """Return why a folder's runs, which were sent to a machine before, cannot be submitted; None if they can."""
        for folder in (run_dir.parent, run_dir):
            link = links.read(folder)
            if link is None:
                continue
            if not mirror.close_if_over(folder, link):
                return (
                    f"{folder} is running on {link.remote}: 'lab runs watch {folder}' follows it to its end; "
                    f"without compute.host, its unfinished runs are ended there and continue here"
                )
            if link.remote != compute.host and link.state != links.CARRYING:
                return (
                    f"the runs of {folder} are on {link.remote}: compute.host={link.remote} resumes them there, "
                    "and without compute.host they are resumed here"
                )
        return None

    def run_problems(self, record: Record) -> Iterator[str]:
        """Yield a message for each local item in the config that is not transferred."""
        for why in dispatch.refusals(record):
            yield f"{why}: leave compute.host={record.config['compute']['host']} out"

    def summary(self, compute: Compute) -> str:
        """Describe the machine by its facts from the last query."""
        host = compute.host
        if host is None:
            return "no compute.host"
        if known_facts := remotes.get(str(host)).facts:
            return f"{host}: {doctor.describe(known_facts)}"
        return f"{host}: not queried yet ('lab remote doctor {host}')"

    def status(self) -> list[str]:
        """Return lines on the known machines, with their facts from the last query."""
        lines = [
            f"  {name:<9}{doctor.describe(one.facts) if one.facts else 'not queried yet'}"
            for name, one in remotes.known().items()
        ]
        return ["machines over SSH (as of the last query)", *lines] if lines else []

    def capacity(self, needs: Sequence[tuple[int, int]], compute: Compute) -> Capacity:
        """Return as many runs as the machine's cores allow, as far as known locally."""
        if compute.host is None:  # only finished runs, which ran elsewhere
            return Capacity(compute.max_parallel or 1)
        cores = facts(remotes.get(compute.host)).cores
        most = max((max(1, cores // max(1, cpus)) for cpus, _ in needs), default=1)
        return Capacity(compute.max_parallel or most)

    def executor(self, folder: Path, plan: Plan, count: int, head: Head | None = None) -> RemoteExecutor:
        """See `Backend.executor`."""
        return RemoteExecutor(folder, plan)

    def attached(self, folder: Path) -> set[Path]:
        """Return the transferred runs that have not ended, as far as known locally."""
        link = links.read(folder)
        if link is None or link.state not in (links.STARTING, links.STARTED):
            return set()
        runs = mirror.runs_of(folder, link)
        return {(folder / run).resolve() for run in set(runs) - set(link.pulled)}

    def release(self, folder: Path, unfinished: Callable[[], set[Path]]) -> list[str]:
        """End a folder's remote runs, and mirror them, because another backend takes over."""
        link = links.read(folder)
        if link is None:
            return []
        was_live = link.state in (links.STARTING, links.STARTED)
        remote_cancel.release(folder, link, "its sweep continues elsewhere")
        return [link.remote] if was_live else []

    def is_over(self, job: str) -> bool | None:
        """Return whether a run has ended, as far as mirrored: a run on an unreachable machine is not lost."""
        run_dir = Path(job.partition(":")[2])
        try:
            return read_record(run_dir).finished if run_dir.is_absolute() else None
        except RecordError:
            return None

    def cancel_unpolled(self, folder: Path, run_dir: Path) -> bool | None:
        """Forward the request, and wait for its effect."""
        link = links.read(folder)
        if link is None or link.state not in (links.STARTING, links.STARTED):
            return None
        try:
            remote_cancel.end(
                folder, link, "canceled", lambda _: read_record(run_dir).finished, ENDING_S, only=[run_dir]
            )
        except FolderGoneError:
            mirror.give_up(folder, link, os.path.relpath(run_dir, folder))
            return True
        except UnreachableError as error:
            raise UnreachableError(
                f"{error}. The request is in {run_dir}/requests, and is forwarded once the machine answers"
            ) from error
        return False


def _remote_backend(compute: Compute) -> Backend | None:
    """Return the backend on the remote machine; None if the controller there chooses it."""
    return None if compute.target == "auto" else registry.get(compute.target)


class RemoteExecutor:
    """Executor of a folder's runs on a remote machine; see `Executor`.

    Args:
        folder: the folder of the sweep or the run.
        plan: the folder's plan.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self._runs: dict[str, Path] = {}
        self._environment: dict[Path, Mapping[str, str]] = {}
        self._link = links.read(folder)
        self._before: Link | None = None
        self._channel: Channel | None = None
        self._next = 0.0
        self._pause = FAST_S
        self._begun = self._changed = self._mirrored_at = time.monotonic()
        self._is_detached = controller.DETACHED in os.environ
        self._failing_since: float | None = None
        self._reported: set[str] = set()
        self._restarts = self._dead_polls = 0
        self._is_given_up = False
        self._lock = links.locked(folder, wait=True)
        self._lock.__enter__()

    @property
    def busy(self) -> bool:
        """Whether any run was not yet reported as ended."""
        return bool(self._runs) and not self._is_given_up

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Take a run, which the next `poll` transfers together with the others."""
        self._runs[os.path.relpath(run_dir, self._folder)] = run_dir
        if needs.environment:
            self._environment[run_dir] = needs.environment

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Transfer runs that are not on the machine yet, and mirror changes."""
        if self._link is None or self._link.state in (links.CARRYING, links.STARTING):
            self._send()
        elif self._link.state == links.OVER and self._runs:
            self._begin_anew(self._link)
            self._send()
        is_slow = self._failing_since is None and self._pause > SLOW_S
        if is_slow and links.last_read_s(self._folder) < time.monotonic() - self._mirrored_at:
            self._next = 0.0
        wait_s = self._next - time.monotonic()
        if wait_s > 0 and not self._rest(wait_s, timeout_s):
            return []
        self._mirror()
        return self._ended()

    def _rest(self, wait_s: float, timeout_s: float) -> bool:
        """Wait a while for the next poll. Return whether it is due, on time or because of a local or remote event."""
        rest_s = min(wait_s, timeout_s)
        if self._channel is None or self._link is None or self._pause > SLOW_S:
            time.sleep(rest_s)
            return wait_s <= timeout_s
        try:
            if not self._channel.is_watching:
                self._channel.watch(wait_s, self._fast_s, [self._link.folder])
            has_answer = self._channel.has_answer(rest_s)
        except LabrunError as error:
            self._drop_channel()
            self._note_failure(error)
            return False
        return has_answer or wait_s <= timeout_s or mirror.has_requests(self._folder, self._link)

    @property
    def _fast_s(self) -> float:
        return FAST_S if self._link is None or len(self._link.runs or ()) < 2 else GATHER_S

    def _ended(self) -> list[Path]:
        link = self._link
        ended = [run for run in self._runs if link is not None and run in link.pulled]
        return [self._runs.pop(run) for run in ended]

    def _send(self) -> None:
        """Transfer everything, and start the remote controller.

        Raises:
            LabrunError: no run has started.
        """
        hosts = (read_record(run_dir).typed.compute.host for run_dir in self._runs.values())
        name = next(filter(None, hosts), None) or (self._link.remote if self._link else None)  # older runs may lack it
        if name is None:
            raise LabrunError(f"the runs of {self._folder} do not name their machine")
        if self._link is not None and self._link.state == links.CARRYING and self._link.remote != name:
            self._link = None  # nothing has started on the other machine
        remote = self._link.machine if self._link is not None else remotes.get(name)

        def attempt() -> None:
            try:
                self._channel = self._channel or Channel(remote)
                self._send_runs(self._channel, name)
            except BaseException:
                self._drop_channel()
                raise

        try:
            retry_while_unreachable(attempt, dispatch.SENDING_S, self._tell)
        except LabrunError as error:
            if self._link is None or self._link.state == links.CARRYING:
                self._forget()
                raise with_start_advice(error) from None
            if self._link.state != links.STARTING or not isinstance(error, UnreachableError):
                raise
            self._failing_since = time.monotonic()  # it may have started there: the next poll will show

    def _forget(self) -> None:
        """Restore the previous link, since nothing of this submission has started; earlier runs stay on the machine."""
        if self._before is None:
            links.drop(self._folder)
        else:
            links.write(self._folder, self._before)
        self._link, self._before = self._before, None

    def _begin_anew(self, link: Link) -> None:
        """Prepare another transfer of runs that must run again, after all had ended."""
        self._before = copy.deepcopy(link)
        link.state, link.left = links.CARRYING, []
        for run in self._runs:
            link.marks.pop(run, None)
            if run in link.pulled:
                link.pulled.remove(run)

    def _send_runs(self, conversation: Channel, name: str) -> None:
        has_begun = self._link is not None and self._link.state != links.CARRYING
        link = self._link or dispatch.fresh(self._folder, name, conversation)
        link.runs = sorted({*(link.runs or ()), *self._runs})
        if self._link is None:
            links.write(self._folder, link)
            self._link = link
        run_dirs = list(self._runs.values())
        interpreter = dispatch.send(conversation, self._folder, link, self._plan, run_dirs)
        link.state = links.STARTING
        links.write(self._folder, link)
        try:
            dispatch.start(conversation, self._folder, link, interpreter, self._environment)
        except UnreachableError:
            raise
        except LabrunError:
            if has_begun:  # keep ended and active runs
                raise
            dispatch.take_back(conversation, link)
            link.state = links.CARRYING
            raise
        link.state, link.reached = links.STARTED, time.time()
        links.write(self._folder, link)

    def _mirror(self) -> None:
        """Mirror changes. Report what prevents this; the runs continue remotely.

        Raises:
            LabrunError: the remote controller keeps dying.
        """
        assert self._link is not None
        try:
            self._channel = self._channel or Channel(self._link.machine)
            changed, lives = mirror.bring(self._channel, self._folder, self._link)
        except LabrunError as error:
            self._drop_channel()
            self._note_failure(error)
            return
        except BaseException:  # Ctrl-C in the middle of an answer: the rest must not be read as the next one
            self._drop_channel()
            raise
        if self._failing_since is not None:
            self._tell(f"{self._link.remote} answers again", once=False)
            self._failing_since, self._pause = None, FAST_S
        if self._restarts and any(read_record(self._folder / run).finished for run in changed):
            self._restarts = 0  # it makes progress
        self._restart_if_dead(lives)
        self._mirrored_at = now = time.monotonic()
        self._changed = now if changed else self._changed
        self._pause = self._pause_s(now)
        self._next = now + self._pause

    def _pause_s(self, now: float) -> float:
        """Return the time until the next poll: a fraction of the time since the last change; longer if nobody waits."""
        is_alone = self._is_detached and now - self._begun > IDLE_POLL_S and links.last_read_s(self._folder) > WATCHED_S
        shortest, longest = (IDLE_POLL_S, LONGEST_PAUSE_S) if is_alone else (self._fast_s, SLOW_S)
        return min(longest, max(shortest, POLL_FRACTION * (now - self._changed)))

    def _restart_if_dead(self, lives: bool) -> None:
        """Restart the remote controller if it has died before its runs have ended."""
        assert self._link is not None
        is_left = not lives and self._link.state == links.STARTED and bool(set(self._runs) - set(self._link.pulled))
        self._dead_polls = self._dead_polls + 1 if is_left else 0
        if self._dead_polls < mirror.DEAD_POLLS:
            return
        self._dead_polls, self._restarts = 0, self._restarts + 1
        if self._restarts > dispatch.MAX_RESTARTS:
            raise LabrunError(
                f"the controller on {self._link.remote} has died {dispatch.MAX_RESTARTS} times: see "
                f"{SweepState(self._folder).controller_log}"
            )
        self._tell(f"the controller on {self._link.remote} ended before its runs: restarting it", once=False)
        self._send()

    def _note_failure(self, error: LabrunError) -> None:
        assert self._link is not None
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            goes_on = "" if isinstance(error, FolderGoneError) else "; the runs continue there"
            self._tell(f"{error}{goes_on}", once=False)
        if isinstance(error, LoginError):
            self._tell(str(error))
        self._link.why, self._link.tried = str(error), time.time()
        with contextlib.suppress(RecordError):
            links.write(self._folder, self._link)
        self._pause = min(LONGEST_PAUSE_S, 2 * max(1.0, self._pause))
        self._next = time.monotonic() + self._pause

    def _tell(self, text: str, once: bool = True) -> None:
        if not once or text not in self._reported:
            self._reported.add(text)
            sys.stderr.write(f"labrun: {text}\n")

    def cancel_all(self, at_once: bool = False, why: str = "canceled") -> None:
        """Ask the remote runs to stop; with `at_once`, stop waiting for them."""
        if self._link is None or self._link.state not in (links.STARTING, links.STARTED):
            for run_dir in self._runs.values():
                if not read_record(run_dir).finished:
                    finalize.close_unstarted(run_dir, why)
            self._runs.clear()
            return
        for run_dir in self._runs.values():
            finalize.request(run_dir, why)
        self._next = 0.0
        if at_once:
            self._is_given_up = True
            sys.stderr.write(
                f"labrun: the runs on {self._link.remote} were not waited for; 'lab runs' shows when they have ended\n"
            )

    def draw(self, run_dir: Path) -> bool | None:
        """Fetch the pictures, which the remote controller draws."""
        link, end = self._link, time.monotonic() + ENDING_S
        if link is None:
            return None
        try:
            conversation = self._channel = self._channel or Channel(link.machine)
            while mirror.bring(conversation, self._folder, link)[1] and time.monotonic() < end:
                conversation.watch(SLOW_S, 0.0, [link.folder])
                conversation.has_answer(SLOW_S)
            mirror.pull(conversation, run_dir, f"{link.folder}/{os.path.relpath(run_dir, self._folder)}", ("outputs",))
        except UnreachableError as error:
            log.warning("The pictures could not be fetched: %s", error)
            return True
        return any((run_dir / "outputs").glob("*.png"))

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """Close the channel; the runs continue."""
        self._drop_channel()
        self._lock.__exit__(None, None, None)
