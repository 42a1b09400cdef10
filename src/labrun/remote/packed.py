"""Archives to send: labrun itself, frozen code, and folders of runs, named by the digest of their content."""

from __future__ import annotations

import filecmp
import functools
import hashlib
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from labrun.compose import paths
from labrun.runs import context

Entries = Mapping[str, Path | bytes]
"""Files or contents, by name in the archive."""


def digest(files: Entries) -> str:
    """Return a SHA-256 over names and contents."""
    total = hashlib.sha256()
    for name, source in sorted(files.items()):
        content = source if isinstance(source, bytes) else source.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def archive(files: Entries) -> tuple[BinaryIO, int]:
    """Return a compressed archive as a temporary file, and its size.

    A file with two names (`last.ckpt` may be a hard link to the best one) is added twice, as the helper refuses links.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    # Not the default format, in which each file's fractional time takes 1 kB.
    with tarfile.open(
        fileobj=file, mode="w:gz", compresslevel=1, dereference=True, format=tarfile.GNU_FORMAT
    ) as target:
        for name, source in sorted(files.items()):
            if isinstance(source, bytes):
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(source), 0o600
                target.addfile(info, io.BytesIO(source))
            else:
                target.add(source, name, recursive=False, filter=_plain)
    size = file.tell()
    file.seek(0)
    return file, size


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def plain_files(top: Path, wanted: Callable[[Path], bool] = lambda path: True) -> dict[str, Path]:
    """Return the plain files below a folder."""
    by_name = {}
    for parent, names, files in os.walk(top):
        names.sort()
        for name in files:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink() and wanted(path):
                by_name[path.relative_to(top).as_posix()] = path
    return by_name


def changes(top: Path, base: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the differences of a folder from a base: new or changed files, and the names of removed ones."""
    files, old = plain_files(top), plain_files(base)
    new = {name: path for name, path in files.items() if name not in old or not filecmp.cmp(path, old[name], False)}
    return new, sorted(set(old) - set(files))


def _is_source(path: Path) -> bool:
    return path.suffix not in (".pyc", ".pyo")


@functools.cache
def labrun_files() -> dict[str, Path | bytes]:
    """Return the local labrun, laid out as in an installation: packages, configs and metadata."""
    files: dict[str, Path | bytes] = {}
    for package, top in packages():
        files |= {f"{package}/{name}": path for name, path in plain_files(top, _is_source).items()}
    files |= {f"labrun/conf/{name}": path for name, path in plain_files(paths.conf_dir()).items()}
    distribution = metadata.distribution("labrun")
    for name in ("METADATA", "entry_points.txt"):
        text = distribution.read_text(name)
        if text is not None:
            files[f"labrun-{distribution.version}.dist-info/{name}"] = text.encode()
    return files


def packages() -> Iterable[tuple[str, Path]]:
    """Yield labrun's packages with their folders."""
    yield "labrun", Path(__file__).parents[1]
    for name in ("labrun_launcher", "labrun_sweeper"):
        module = sys.modules.get(f"hydra_plugins.{name}") or __import__(f"hydra_plugins.{name}", fromlist=["_"])
        yield f"hydra_plugins/{name}", Path(str(module.__file__)).parent


@functools.cache
def labrun_digest() -> str:
    """Return the digest that names the local labrun on remote machines."""
    return digest(labrun_files())[:16]


def run_files(run_dir: Path, record: bytes) -> dict[str, Path | bytes]:
    """Return the files of a run that will start or resume: record, Hydra's files, annotations, checkpoints."""
    found: dict[str, Path | bytes] = {
        name: path
        for name, path in plain_files(run_dir).items()
        if name.split("/")[0] not in (context.LAUNCH, "outputs", "logs", "heartbeat") and ".partial" not in name
    }
    found["run.json"] = record
    return found


def prefixed(name: str, files: Entries) -> dict[str, Path | bytes]:
    """Return files with their names moved into a folder of the archive."""
    return {f"{name}/{entry}" if name != "." else entry: source for entry, source in files.items()}
