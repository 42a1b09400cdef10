"""Snapshots of the code at submission, copied once per digest; the record refers to them by digest.

In a git work tree, a snapshot contains the tracked files in their current state, those of submodules too, and untracked
files that git does not ignore. Elsewhere it contains the folder's own modules, packages and configs. It never contains
secrets (recognized by name, and private keys), links out of the tree, files listed in `.labignore`, or files too large
to be code. From a script's folder, files listed in its `.amlignore` are excluded, too.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from labrun.errors import ConfigError, RecordError
from labrun.runs import context, custom_locations, ignore_rules, store
from labrun.runs.files import tree_digest
from labrun.runs.groups import Code, ScriptCode
from labrun.runs.ignore_rules import AMLIGNORE, LABIGNORE
from labrun.runs.record import cannot_write
from labrun.runs.workspace import Workspace

log = logging.getLogger(__name__)

SECRETS = (
    ".env*",
    "*.env",
    "*.pem",
    "*.key",
    "*.ppk",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "id_*",
    ".netrc",
    "_netrc",
    "*.p12",
    "*.pfx",
    "credentials*",
    "secrets.*",
    ".pypirc",
    ".git-credentials",
    ".htpasswd",
    ".pgpass",
)
SECRET_FOLDERS = frozenset({".aws", ".azure", ".ssh", ".gnupg", ".kube", ".config", ".docker", ".git"})
SOURCE_SUFFIXES = frozenset({".py", ".yaml", ".yml"})
SKIPPED_FOLDERS = frozenset({"__pycache__", ".venv", "venv", "node_modules", "outputs", "multirun", "data"})
NO_CODE = frozenset({"__pycache__", ".venv", "venv", "node_modules", "site-packages"})
"""Folders that are skipped inside packages, too."""
LARGEST_FILE = 5 * 2**20
LARGEST_TOTAL = 200 * 2**20
CARRIED = "LABRUN_CARRIED_CODE"
"""Variable with the code and git information for records, in a search that was sent to another machine."""


def take_folder(folder: Path, root: Path) -> ScriptCode:
    """Copy a script's folder, except files that are too large, secret or ignored, to the workspace's store.

    Args:
        folder: the script's source folder.
        root: the workspace.

    Raises:
        ConfigError, RecordError: see `take`.
    """
    # If git ignores the whole folder, fall back to all its files.
    listed = list(_git_files(folder, root) if _git_top(folder) else ()) or list(_all_files(folder))
    is_ignored = ignore_rules.of(folder, AMLIGNORE)
    files, total = _chosen(folder, [path for path in listed if not is_ignored(path)])
    digest, target = _keep(folder, files, root)
    return ScriptCode(digest, str(target), len(files), total, str(folder))


def _keep(base: Path, files: list[Path], root: Path) -> tuple[str, Path]:
    """Copy files to the store unless they exist there. Return their digest and the copy's folder."""
    digest = tree_digest(base, files)
    target = Workspace(root).code / digest
    if target.is_dir():
        os.utime(target)  # mark it as in use, so that a clean-up keeps it until the run refers to it
    else:
        _copy(base, files, target)
    return digest, target


def _all_files(folder: Path) -> Iterator[Path]:
    for top, names, files in os.walk(folder):
        # A package may be called `data`; its modules are code.
        in_data = "data" in Path(top).relative_to(folder).parts
        packages = {name for name in names if (in_data or name == "data") and any(Path(top, name).glob("*.py"))}
        names[:] = [name for name in names if name in packages or not (in_data or name in SKIPPED_FOLDERS)]
        names[:] = [name for name in names if not name.startswith(".")]
        names[:] = [name for name in names if not (Path(top) / name / "pyvenv.cfg").exists()]
        names[:] = [name for name in names if not custom_locations.is_of_runs(Path(top) / name)]
        taken = (name for name in files if name.endswith(".py") or not in_data)
        yield from ((Path(top) / name).relative_to(folder) for name in taken if not name.endswith(".pyc"))


def take(folder: Path, root: Path) -> Code:
    """Copy a folder's code to the workspace's store, unless it already exists there.

    Args:
        folder: the working folder.
        root: the workspace.

    Raises:
        ConfigError: the code is too large for a snapshot.
        RecordError: the copy cannot be written.
    """
    top = _git_top(folder)
    base = top or folder
    files, total = _chosen(base, list(_git_files(base, root) if top else _source_files(base)))
    digest, target = _keep(base, files, root)
    sources = tree_digest(base, [path for path in files if path.suffix in SOURCE_SUFFIXES])
    return Code(
        digest,
        sources,
        files=len(files),
        bytes=total,
        base=str(base.resolve()),
        folder=str(target),
        working=folder.resolve().relative_to(base.resolve()).as_posix(),
    )


def _chosen(base: Path, listed: list[Path]) -> tuple[list[Path], int]:
    """Return the files of a snapshot, and their total size in bytes.

    Raises:
        ConfigError: they are too large for a snapshot, or the ignore file is invalid.
    """
    listed, far = _through_links(base, listed)
    chosen = [path for path in without_runs(base, listed) if _wanted(base, path)]
    is_ignored = ignore_rules.of(base, LABIGNORE)
    files = sorted(path for path in chosen if not is_ignored(path))
    large = [path for path in files if (base / path).stat().st_size > LARGEST_FILE]
    files = [path for path in files if path not in set(large)]
    linked = far + [path for path in listed if path.suffix == ".py" and _leads_out(base, path)]
    if linked:
        log.warning(
            "Not in the code snapshot, because they link out of %s, or to a folder above themselves: %s. "
            "Only inline runs find them",
            base,
            ", ".join(map(str, linked[:5])),
        )
    if large:
        log.info("Not in the code snapshot, larger than 5 MiB: %s", ", ".join(map(str, large[:5])))
    total = sum((base / path).stat().st_size for path in files)
    if total > LARGEST_TOTAL:
        raise ConfigError(
            f"the code in {base} takes {total / 2**20:.0f} MiB, but a snapshot may take {LARGEST_TOTAL // 2**20}: "
            f"list what is not code in {base / LABIGNORE}, in the syntax of .gitignore"
        )
    return files, total


def _through_links(base: Path, listed: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the listed files with those behind links to folders in the tree, and the links to folders elsewhere."""
    links = [path for path in listed if (base / path).is_symlink() and (base / path).is_dir()]
    found, far = [path for path in listed if path not in links], []
    for link in links:
        goal, top = (base / link).resolve(), base.resolve()
        if not goal.is_relative_to(top) or (top / link).is_relative_to(goal):
            far += [link] if link.name not in SKIPPED_FOLDERS else []
            continue
        inner = goal.relative_to(top)
        found += [link / path.relative_to(inner) for path in listed if path.is_relative_to(inner) and path not in links]
    return found, far


def import_path(code: Code | None, own: bool = True) -> list[str]:
    """Return `sys.path` with every folder of the user's tree replaced by its copy in the snapshot.

    If a run comes from another machine, or is repeated from another folder, its tree is not the current one. The
    current tree then counts as the user's as well, so that current code never replaces the frozen code.

    Args:
        code: the record's `code`.
        own: keep this interpreter's packages; otherwise return only folders in the snapshot.

    Raises:
        RecordError: the record does not say where the code is.
    """
    if code is None or code.base is None or code.folder is None:
        raise RecordError("the run's record does not say where its code is, so the run cannot be executed")
    base, folder, here = Path(code.base), Path(code.folder), Path.cwd()
    trees = [base] if here.is_relative_to(base) else [base, _git_top(here) or here]
    path = []
    for entry in sys.path:
        place = Path(entry or ".").resolve()
        tree = next((tree for tree in trees if place.is_relative_to(tree)), None)
        copy = None if tree is None else folder / place.relative_to(tree)
        if copy is not None and copy.is_dir():
            path.append(str(copy))
        elif own:
            path.append(str(place))
    working = PurePosixPath(str(code.working or "."))
    copy = folder if working.is_absolute() or ".." in working.parts else folder / working
    return path if str(copy) in path or not copy.is_dir() else [*path, str(copy)]


def _copy(base: Path, files: list[Path], target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        for path in files:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / path, partial / path)
        if not target.is_dir():
            partial.replace(target)
    except OSError as error:
        if not target.is_dir():
            raise RecordError(cannot_write(target.parent, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def may_be_in_git(folder: Path) -> bool:
    """Return whether a folder may be in a git repository: false only if git would look for one in vain."""
    if "GIT_DIR" in os.environ:
        return True
    real = folder.resolve()
    return any((place / ".git").exists() or (place / "HEAD").exists() for place in (real, *real.parents))


def _git_top(folder: Path) -> Path | None:
    if not may_be_in_git(folder):
        return None
    answer = _git(folder, "rev-parse", "--show-toplevel")
    return Path(answer.decode().strip()) if answer else None


def _git_files(base: Path, root: Path) -> Iterator[Path]:
    """Yield the files that git tracks or does not ignore, except the workspace's runs, which are often not ignored."""
    own = _own_folders(base, root)
    tracked, others = (
        [path for path in map(Path, _git_names(base, *which)) if not any(map(path.is_relative_to, own))]
        for which in (("--cached", "--recurse-submodules"), ("--others", "--exclude-standard"))
    )
    yield from tracked
    for path in others:
        if (base / path).is_dir() and not (
            base / path
        ).is_symlink():  # a nested clone, of which git lists only the folder
            yield from (path / below for below in _git_files(base / path, root))
        else:
            yield path


def without_runs(base: Path, listed: Iterable[Path]) -> list[Path]:
    """Return files without those of runs, sweeps and workspaces, wherever the user has put them.

    Otherwise each snapshot would contain the earlier runs with their snapshots, and grow with every run.

    Args:
        base: the tree.
        listed: files in the tree, as relative paths.
    """
    known = {Path(): False}

    def is_of_runs(folder: Path) -> bool:
        if folder not in known:
            above = is_of_runs(folder.parent)
            known[folder] = above or folder.name == context.STATE.name or custom_locations.is_of_runs(base / folder)
        return known[folder]

    found = [path for path in listed if not is_of_runs(path.parent)]
    if custom_locations.is_of_runs(base):  # `hydra.run.dir=.`
        own = (custom_locations.RUN_ENTRIES, custom_locations.SWEEP_ENTRIES)
        found = [path for path in found if not any(names.fullmatch(path.parts[0]) for names in own)]
    return found


def is_changed(folder: Path, root: Path) -> bool:
    """Return whether the git work tree around a folder differs from its commit, apart from runs.

    Args:
        folder: a folder in the work tree.
        root: the workspace.
    """
    top = _git_top(folder)
    if top is None:
        return False
    own = [f":(exclude,top,literal){name}" for name in _own_folders(top, root) if not name.startswith("..")]
    answer = _git(top, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", ":/", *own) or b""
    names = [Path(os.fsdecode(entry[3:])) for entry in answer.split(b"\0") if entry]
    return bool(without_runs(top, names))


def _own_folders(base: Path, root: Path) -> list[str]:
    """Return the folders of the workspace's runs, relative to a tree."""
    return [os.path.relpath(os.path.realpath(root / name), os.path.realpath(base)) for name in store.RUN_FOLDERS]


def _git_names(base: Path, *which: str) -> list[str]:
    answer = _git(base, "ls-files", "-z", *which) or b""
    return [os.fsdecode(name) for name in answer.split(b"\0") if name]


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _source_files(base: Path) -> Iterator[Path]:
    """Yield a folder's modules, packages and configs, for a folder outside git; never a whole home folder.

    A folder of modules without `__init__.py` counts as a package, too; only folders of modules are searched below it.
    """
    yield from (path.relative_to(base) for path in base.glob("*.py"))
    whole = {path.parent for path in base.glob("*/__init__.py") if path.parent.name not in store.RUN_FOLDERS}
    modules = {path.parent for path in base.glob("*/*.py") if path.parent.name.isidentifier()} - whole
    for top in sorted({base / "conf", *whole, *(one for one in modules if one.name not in SKIPPED_FOLDERS)}):
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if name not in NO_CODE and not name.startswith(".")]
            if top in modules:
                names[:] = [name for name in names if any((Path(folder) / name).glob("*.py"))]
            yield from (
                (Path(folder) / name).relative_to(base) for name in files if Path(name).suffix in SOURCE_SUFFIXES
            )


def _wanted(base: Path, path: Path) -> bool:
    """Return whether a path is a regular file inside the tree that is not a secret."""
    if _is_secret(path):
        return False
    full = base / path
    return full.is_file() and not _leads_out(base, path) and not _is_key(full)


def _leads_out(base: Path, path: Path) -> bool:
    return not (base / path).resolve().is_relative_to(base.resolve())


def _is_key(path: Path) -> bool:
    """Return whether a file contains a private key, whatever its name (such as a service account's JSON)."""
    if path.suffix in SOURCE_SUFFIXES:
        return False
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE)
    except OSError:
        return True  # an unreadable file cannot be copied either
    return bool(re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY", content))


def _is_secret(path: Path) -> bool:
    named = any(fnmatch.fnmatch(path.name, pattern) for pattern in SECRETS)
    return named or bool(set(path.parts) & SECRET_FOLDERS)
