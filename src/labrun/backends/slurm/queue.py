"""States of Slurm jobs, and the journal that maps runs to jobs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from labrun._io import append_line, run_command
from labrun.errors import LabrunError, RecordError
from labrun.runs import context

ASK_S = 5.0
"""Interval between calls of squeue, in seconds."""


class JobState(StrEnum):
    """The states of Slurm's jobs that labrun tells apart. Slurm has more: a job's state is any text."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    PREEMPTED = "PREEMPTED"
    REVOKED = "REVOKED"
    GONE = "GONE"
    """labrun's own: Slurm no longer knows the job."""
    UNKNOWN = "UNKNOWN"
    """labrun's own: the cluster does not respond."""


OVER = frozenset(JobState) - {JobState.PENDING, JobState.UNKNOWN}
"""Final states of a job."""

FOLLOWING = re.compile(r"slurmstepd|srun: (error: .*[Ee]xited with|launch/slurm|got |Terminating|Job step|Force)")
"""Lines of Slurm's own programs that only report the end of a job's process."""


def is_job(job: object) -> bool:
    """Return whether a value is the id of a job or of an array task, and safe as an argument of a command."""
    return isinstance(job, str) and re.fullmatch(r"[0-9]+([_+][0-9]+)?", job) is not None


def note_submission(journal: Path, token: str, runs: Sequence[Sequence[str]]) -> None:
    """Add to a journal that runs, grouped by job, are about to be submitted under this token."""
    append_line(journal, json.dumps({"token": token, "jobs": runs}), mode=0o600)


def note_job(journal: Path, token: str, job: str, is_array: bool) -> None:
    """Add to a journal the job, or array of jobs, that Slurm has made of a submission."""
    append_line(journal, json.dumps({"token": token, "job": job, "array": is_array}), mode=0o600)


def read_journal(journal: Path) -> tuple[dict[str, list[list[str]]], dict[str, tuple[str, bool]]]:
    """Read a journal, keyed by the submissions' tokens, oldest first. Incomplete lines are skipped.

    Returns:
        The runs of each submission, grouped by job; and, if recorded, its job id and whether it is an array.
    """
    intents: dict[str, list[list[str]]] = {}
    ids: dict[str, tuple[str, bool]] = {}
    try:
        text = context.content(journal)
    except FileNotFoundError:
        return intents, ids
    except OSError as error:
        raise RecordError(f"{journal} cannot be read: {error.strerror or error}") from error
    for raw in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            line = json.loads(raw)
            token = str(line["token"])
            if "jobs" in line:
                intents[token] = [[str(run) for run in members] for members in line["jobs"]]
            elif is_job(line["job"]):
                ids[token] = (line["job"], bool(line["array"]))
    return intents, ids


def newest_submission(journal: Path) -> dict[Path, str]:
    """Return the token of each run's latest submission."""
    intents, _ = read_journal(journal)
    return {Path(run): token for token, jobs in intents.items() for members in jobs for run in members}


def known_jobs(journal: Path) -> dict[Path, str]:
    """Return each run's latest job from the journal; look up submissions without a recorded id in squeue."""
    intents, ids = read_journal(journal)
    if set(intents) - set(ids):
        for found in (run_command(["squeue", "-h", "-t", "all", "-o", "%A|%F|%k"]) or "").splitlines():
            single, array, token = (part.strip() for part in found.split("|"))
            if token in intents and token not in ids:
                ids[token] = (array or single, len(intents[token]) > 1)
    known = {}
    for token, jobs in intents.items():
        for index, members in enumerate(jobs if token in ids else []):
            number, is_array = ids[token]
            known.update({Path(run): f"{number}_{index}" if is_array else number for run in members})
    return known


def states(jobs: Iterable[str]) -> dict[str, str]:
    """Return the states of jobs from squeue, or from sacct (if there is accounting) for jobs that squeue has forgotten.

    Returns:
        The state of each job. If the cluster does not respond, every job is `UNKNOWN`, rather than `GONE`.
    """
    found: dict[str, str] = dict.fromkeys(jobs, JobState.GONE)
    wanted = set(filter(is_job, found))
    if not wanted:
        return found
    answer = run_command(["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T"])
    if answer is None:
        return found | dict.fromkeys(wanted, JobState.UNKNOWN)
    for line in answer.splitlines():
        job, _, state = line.strip().partition("|")
        if job in wanted:
            found[job] = state
    missing = {job for job in wanted if found[job] == JobState.GONE}
    if missing:
        tops = sorted({job.partition("_")[0] for job in missing})
        listed = run_command(["sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(tops)])
        for line in (listed or "").splitlines():
            job, _, state = line.strip().partition("|")
            if job in missing:
                found[job] = state.split(" ")[0]
    return found


def last_lines(output: Path) -> str:
    """Return the last two lines of a job's output, without Slurm's own lines unless there are no others."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    return "; ".join(([line for line in lines if not FOLLOWING.match(line)] or lines)[-2:])


def refusal(error: Exception) -> str:
    """Return why sbatch refused a job, in sbatch's own words if possible."""
    # submitit passes on only the text that sbatch has written
    refusals = " ".join(line for line in str(error).splitlines() if "sbatch: error" in line)
    return f"Slurm refused the jobs: {(refusals or str(error)).strip()}"


def end_jobs(jobs: Iterable[str], patience_s: float = 60.0) -> set[str]:
    """Cancel the jobs that have not ended, and wait until they have.

    Returns:
        The jobs that were canceled.

    Raises:
        LabrunError: some have not ended in time.
    """
    wanted = {job for job, state in states(jobs).items() if state not in OVER}
    scancel(wanted)
    end = time.monotonic() + patience_s
    while left := {job for job, state in states(wanted).items() if state not in OVER}:
        if time.monotonic() > end:
            raise LabrunError(f"Slurm does not end the jobs {', '.join(sorted(left))}; their runs cannot run elsewhere")
        time.sleep(1.0)
    return wanted


def scancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; ignore those that are already gone."""
    for job in filter(is_job, jobs):
        run_command(["scancel", job])
