"""The key that determines which warm interpreter a command may use, and the folder of its socket.

The key consists of everything that shapes an interpreter before any of the user's code runs. Anything else is either
transferred with each command (arguments, environment, working folder, streams, limits) or compared by the server, which
refuses when in doubt. This module uses only a small part of the standard library.
"""

from __future__ import annotations

import marshal
import os
import sys
import zlib

PROTOCOL = 1
FOLDER_VARIABLE = "LABRUN_WARM_DIR"
SWITCH_VARIABLE = "LABRUN_WARM"
LONGEST_PATH = 100
"""Longest path of the folder, in bytes: a Unix socket's path may have 107, and a file name is appended."""

PREFIXES = (
    "AOT",
    "BLIS_",
    "COMPILE_",
    "CUDA",
    "CUTE",
    "CUTLASS",
    "DYLD_",
    "ENABLE_",
    "FSSPEC_",
    "FX_",
    "GLIBC_",
    "GOMP_",
    "GOTO_",
    "HYDRA_",
    "INDUCTOR_",
    "JOBLIB",
    "KINETO_",
    "KMP_",
    "LC_",
    "LD_",
    "LIGHTNING",
    "LOKY_",
    "MALLOC",
    "MKL_",
    "MPL",
    "NCCL_",
    "NPY_",
    "NUMBA_",
    "NUMEXPR_",
    "NUMPY_",
    "NVIDIA_",
    "NVPL_",
    "OMP_",
    "OPENBLAS_",
    "OPTUNA_",
    "PANDAS_",
    "PARTITIONER_",
    "PILLOW_",
    "PL_",
    "PYTHON",
    "PYTORCH",
    "SCIPY_",
    "SKLEARN",
    "SUBMITIT_",
    "SYMPY_",
    "TBB_",
    "TORCH",
    "TQDM_",
    "TRITON",
    "VECLIB_",
    "_PYTHON",
    "_RJEM_",
)
NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "MATPLOTLIBRC",
        "PATH",
        "SOURCE_DATE_EPOCH",
        "TEMP",
        "TMP",
        "TMPDIR",
        "TZ",
        "USER",
        "USERNAME",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
    }
)
"""Variables that libraries, including native ones, read while they are imported."""


def counts(name: str) -> bool:
    """Return whether a variable can affect imports and is therefore part of the key."""
    return name in NAMES or name.startswith(PREFIXES)


def facts(environment: dict[str, str]) -> dict[str, object]:
    """Return the facts that identify this interpreter; two interpreters with equal facts are interchangeable.

    Args:
        environment: the variables with which this process was started.
    """
    return {
        "protocol": PROTOCOL,
        "version": sys.version,
        "executable": sys.executable,
        "files": [stamp(sys.executable), stamp(os.path.join(sys.prefix, "pyvenv.cfg"))],
        "package": os.path.dirname(os.path.dirname(__file__)),
        "flags": tuple(sys.flags),
        "options": sorted((key, str(value)) for key, value in sys._xoptions.items()),
        "warnings": list(sys.warnoptions),
        "path": list(sys.path),
        "environment": sorted((key, value) for key, value in environment.items() if counts(key)),
        "cgroup": read("/proc/self/cgroup"),
        "cores": sorted(os.sched_getaffinity(0)),
    }


def name_of(found: dict[str, object]) -> str:
    """Return the socket name of a server with these facts; the server also compares the facts themselves."""
    return f"{zlib.crc32(marshal.dumps(found, 2)):08x}"


def stamp(path: str) -> tuple[int, int, int] | None:
    """Return a value that changes when a file changes; None if it is missing.

    It excludes the ctime, which a package manager changes when it links the same file elsewhere.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: str) -> str:
    """Return the text of a small file; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def folder() -> str | None:
    """Return the private folder of the servers' sockets, created if necessary; None if none can be trusted."""
    named = os.environ.get(FOLDER_VARIABLE)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    place = named or (f"{runtime}/labrun" if _is_private(runtime) else f"/tmp/labrun-{os.getuid()}")
    if len(os.fsencode(place)) > LONGEST_PATH:
        return None
    try:
        os.mkdir(place, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return None
    return place if _is_private(place) else None


def _is_private(place: str) -> bool:
    """Return whether a path is a folder of this user, not a link, that nobody else can access."""
    try:
        found = os.lstat(place)
    except OSError:
        return False
    return found.st_mode & 0o170077 == 0o040000 and found.st_uid == os.getuid()
