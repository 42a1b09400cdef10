"""Which warm interpreter a command may use, and where it listens. Standard library only, and little of it.

A server is found by its key: everything that shapes an interpreter before a line of the user's code runs. What is
not in the key is either handed over with each command (arguments, environment, working folder, streams, limits) or
compared by the server, which refuses when in doubt.
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
"""Bytes; a Unix socket's path may have 107, and a name is put in place of another that is longer."""

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
"""Variables that libraries, also those written in C, read while they are imported."""


def counts(name: str) -> bool:
    """Whether a variable of that name can change what an import does."""
    return name in NAMES or name.startswith(PREFIXES)


def facts(environment: dict[str, str]) -> dict[str, object]:
    """Everything that tells this interpreter from another; two that agree can stand in for each other.

    Args:
        environment: the variables that this process was started with.
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
    """The name that a server with these facts listens under; the server compares the facts themselves."""
    return f"{zlib.crc32(marshal.dumps(found, 2)):08x}"


def stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file does; None where it is absent.

    Not the time of its last change of any kind: a package manager changes that when it links the same file elsewhere.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: str) -> str:
    """A small file's text; empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def folder() -> str | None:
    """The private folder where servers listen, made if need be; None where there is none to be trusted."""
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
    """A folder of this user's own, no link, which nobody else can enter."""
    try:
        found = os.lstat(place)
    except OSError:
        return False
    return found.st_mode & 0o170077 == 0o040000 and found.st_uid == os.getuid()
