"""The states of runs and of their attempts, and the reasons for which they end."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """State of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    PREEMPTED = "preempted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    STOPPED = "stopped"
    LOST = "lost"
    """Derived by readers, never written: the process is gone."""
    UNREACHABLE = "unreachable"
    """Derived by readers, never written: the heartbeat is overdue."""


class EndReason(StrEnum):
    """Error types of runs that ended for a reason other than an error in their own code."""

    CANCELED = "Canceled"
    STOPPED = "Stopped"
    LOST = "Lost"
    """The run was in progress when it was exported."""
    KILLED = "Killed"
    """By a signal from outside the process."""
    CRASHED = "Crashed"
    """By a signal that the process itself caused, such as SIGSEGV."""
    EXITED = "Exited"
    LIMIT_EXCEEDED = "LimitExceeded"
    JOB_ENDED = "JobEnded"
    NO_DEVICE = "NoDevice"
    PROCESS_FAILED = "ProcessFailed"
    """Another process of a multi-process run failed."""
