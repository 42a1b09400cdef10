"""Measures the load of NVIDIA GPUs with the driver's library. A call takes microseconds; `nvidia-smi`, half a second.

Uses only the standard library, since it also runs in a bare interpreter (`sidecar.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
NO_DEVICE = ("", "-1", "nodevfiles", "none", "void")
"""Entries that end the list in CUDA_VISIBLE_DEVICES."""


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True)
class Load:
    """A GPU's current load from all processes."""

    busy: float | None
    """Fraction of the time, 0 to 1; None if the device does not report it (a MIG partition, for example)."""
    memory: int | None
    """Bytes in use."""


def listed(text: str) -> Iterator[str]:
    """Yield the devices in CUDA_VISIBLE_DEVICES. As in CUDA, an entry in `NO_DEVICE` ends the list."""
    for entry in map(str.strip, text.split(",")):
        if entry.lower() in NO_DEVICE:
            return
        yield entry


class Gpus:
    """Some of this machine's GPUs.

    Args:
        names: devices as in CUDA_VISIBLE_DEVICES; None means all.
        library: replaces the driver's library.
    """

    def __init__(self, names: Sequence[str] | None, library: Any = None) -> None:
        self._library = library
        self._handles: list[ctypes.c_void_p | None] = []
        if names is not None and not names:
            return
        try:
            self._library = library or ctypes.CDLL(LIBRARY)
            if self._library.nvmlInit_v2():
                return
            self._handles = [self._handle(name) for name in (self._all() if names is None else names)]
        except (OSError, AttributeError):  # no driver, or one that is older than these calls
            self._handles = []

    def __len__(self) -> int:
        return len(self._handles)

    def read(self) -> list[Load]:
        """Return the current load of each GPU, in order."""
        return [Load(None, None) if handle is None else self._load(handle) for handle in self._handles]

    def _all(self) -> list[str]:
        count = ctypes.c_uint()
        return [] if self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)) else list(map(str, range(count.value)))

    def _handle(self, name: str) -> ctypes.c_void_p | None:
        handle = ctypes.c_void_p()
        if name.isdecimal():
            failed = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(name)), ctypes.byref(handle))
        else:
            failed = self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
        return None if failed else handle

    def _load(self, handle: ctypes.c_void_p) -> Load:
        rates, memory = _Utilization(), _Memory()
        has_rates = not self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates))
        has_memory = not self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        return Load(rates.gpu / 100 if has_rates else None, int(memory.used) if has_memory else None)

    def close(self) -> None:
        """Release the driver."""
        if self._handles:
            self._handles = []
            with contextlib.suppress(OSError, AttributeError):
                self._library.nvmlShutdown()
