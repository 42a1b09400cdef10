"""Detection of changes since the imports: files on disk, and environment variables that the imports have read."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from typing import Any

from labrun.warm.identity import counts, read, stamp

Stamp = tuple[int, int, int] | None
COPIED = 0.5
"""Code that reads at least this share of all variables is assumed to copy the environment."""
CLOCK_S = 2.0
"""Maximum lag of file times behind the clock that times the imports, in seconds."""


class Fingerprint:
    """The sources of a process's imports: files, installed distributions, and searched folders.

    It records the searched folders before the imports, and the found files after them (`close`). It is used as a
    context manager around the imports.
    """

    def __init__(self) -> None:
        self._began_ns = time.time_ns() - int(CLOCK_S * 1e9)
        self._searched = _searched()
        self._files: dict[str, Stamp] = {}
        self._real_paths: dict[str, str] = {}
        self._sightings = Sightings()
        for path in _loaded_files():  # already imported: unchanged since the import started
            if _touched_ns(path) < self._began_ns:
                self._sightings.note(path)

    def __enter__(self) -> Fingerprint:
        sys.meta_path.insert(0, self._sightings)
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self._sightings)

    def close(self) -> str | None:
        """Record all imports so far. Return what has changed meanwhile, or None."""
        self._files = {path: stamp(path) for path in _loaded_files()}
        self._real_paths = {path: _real_path(path) for path in self._files}
        for path, now in self._files.items():
            if self._has_changed(path, now):
                return path
        return self._changed_place()

    def _has_changed(self, path: str, now: Stamp) -> bool:
        """Return whether a file may differ from the imported one; True when in doubt.

        A file that was stamped before its import is unchanged if its inode, size and modification time are the same.
        Its ctime is ignored, since installing a package in another environment links its files and changes it.
        """
        if now is None:
            return True
        if path in self._sightings.stamps:
            return now != self._sightings.stamps[path] or now[0] >= self._began_ns
        return _touched_ns(path) >= self._began_ns

    def changed(self) -> str | None:
        """Return a file or folder that has changed since the imports; None if nothing has."""
        for path, before in self._files.items():
            if stamp(path) != before:
                return path
        return self._changed_place()

    @property
    def files(self) -> Mapping[str, Stamp]:
        """The imported files with their stamps."""
        return self._files

    @property
    def real_paths(self) -> Mapping[str, str]:
        """The imported files with their paths without links, which are the same as long as the stamps are."""
        return self._real_paths

    def _changed_place(self) -> str | None:
        now = _searched()
        return next((place for place in {**now, **self._searched} if now.get(place) != self._searched.get(place)), None)


class Sightings:
    """The first finder, which finds nothing itself, but stamps each module's file just before its import."""

    def __init__(self) -> None:
        self.stamps: dict[str, Stamp] = {}
        """Stamps before the first import from a file, by path."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        """Stamp the file of a module that is about to be imported."""
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None or not os.path.isabs(spec.origin):
            return
        self.note(spec.origin)
        if name == "matplotlib":
            self.note(os.path.join(os.path.dirname(spec.origin), "mpl-data", "matplotlibrc"))

    def note(self, path: str) -> None:
        """Stamp a file, unless it already has a stamp."""
        self.stamps.setdefault(path, stamp(path))


def _real_path(path: str) -> str:
    folder, name = os.path.split(path)
    real = os.path.join(_real_folder(folder), name)
    return os.path.realpath(real) if os.path.islink(real) else real


_real_folder = functools.cache(os.path.realpath)
"""Cached, because thousands of files are in a few hundred folders."""


def _touched_ns(path: str) -> int:
    """Return when a file was last changed in any way, including its replacement; the current time if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return time.time_ns()
    return max(found.st_mtime_ns, found.st_ctime_ns)


def _loaded_files() -> Iterator[str]:
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and os.path.isabs(path) and ".zip" not in path:
            yield path
    yield from filter(os.path.isfile, _settings())


def _settings() -> list[str]:
    """Return the settings files that matplotlib reads when it is imported."""
    matplotlib = sys.modules.get("matplotlib")
    return [str(matplotlib.matplotlib_fname())] if matplotlib is not None else []


def _searched() -> dict[str, Any]:
    """Return what each folder of `sys.path` offers to imports: names, installed distributions, `.pth` files."""
    return {place: _offered(place) for place in sys.path}


def _offered(place: str) -> list[tuple[str, Stamp]]:
    found = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(place)):
            if name == "__pycache__" or name.startswith("."):
                continue
            inner = "RECORD" if name.endswith(".dist-info") else "PKG-INFO" if name.endswith(".egg-info") else None
            is_stamped = inner is not None or name.endswith((".pth", ".egg-link"))
            found.append((name, stamp(os.path.join(place, name, inner or "")) if is_stamped else None))
    return found


class Reads:
    """Records which variables are read through `os.environ` while it is open, and their values."""

    def __init__(self) -> None:
        self._read: dict[tuple[Any, int], set[str]] = {}
        """Names of the variables, by the code location that read them."""
        self._before = dict(os.environ)

    def __enter__(self) -> Reads:
        kind, noted = type(os.environ), self._read
        self._getitem = getitem = kind.__getitem__

        def noting(environment: Any, key: str) -> str:
            frame = sys._getframe(1)
            noted.setdefault((frame.f_code, frame.f_lasti), set()).add(key)
            return getitem(environment, key)

        kind.__getitem__ = noting  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        type(os.environ).__getitem__ = self._getitem  # type: ignore[method-assign]

    def differing(self, environment: Mapping[str, str]) -> str | None:
        """Return a variable outside the key that was read and differs in another environment; None if there is none."""
        # Code that copies all variables then looks for names with certain prefixes, which are in the key.
        most = COPIED * len(self._before)
        chosen = [names for names in self._read.values() if len(names & set(self._before)) < max(2, most)]
        names = {name for some in chosen for name in some if isinstance(name, str) and not counts(name)}
        return next((name for name in sorted(names) if self._before.get(name) != environment.get(name)), None)


def kernel_settings(pid: int) -> dict[str, object]:
    """Return the kernel's settings of a process that can differ between commands and cannot be transferred.

    Raises:
        OSError: there is no such process.
    """
    import resource

    wanted = (
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Cpus_allowed",
        "Mems_allowed",
    )
    lines = (line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines())
    found: dict[str, object] = {line[0]: line[1].strip() for line in lines if line[0] in wanted}
    spaces = sorted(os.listdir(f"/proc/{pid}/ns"))
    found["ns"] = [(name, os.readlink(f"/proc/{pid}/ns/{name}")) for name in spaces]
    found["root"] = os.readlink(f"/proc/{pid}/root")
    found["cgroup"] = read(f"/proc/{pid}/cgroup")
    found["label"] = read(f"/proc/{pid}/attr/current")
    found["oom"] = read(f"/proc/{pid}/oom_score_adj")
    found["scheduler"] = os.sched_getscheduler(pid)
    found["stack"] = resource.prlimit(pid, resource.RLIMIT_STACK)
    return found
