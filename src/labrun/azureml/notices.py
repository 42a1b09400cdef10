"""Notices on how labrun handles a control script's calls, each printed once per process."""

from __future__ import annotations

from labrun.compat.azureml.notice import notify_once

__all__ = ["notify_once"]
