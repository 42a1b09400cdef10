"""Proof that this user has trained a model in this workspace, with code that has not changed since.

Records, cards and archives can be written by anybody, so nothing that stands in them proves anything by itself. A run
therefore seals the card of its model: HMAC-SHA256 under a key of the user's own, `~/.local/state/labrun/seal.key`
(XDG_STATE_HOME), which no one else can read, and which no workspace and no archive holds. The seal covers

- where the workspace lies, and the run's id;
- the card: the model's class, its arguments, the digest of its file;
- the source, by digest, of the user's own modules that define the classes, as the training began, and of all
  that those import by a statement; of an installed package all of its sources.

A run that came in an archive never counts, whatever its seal. Where there is no key (no home folder), nothing is
sealed: then the user names what is trusted.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import hmac
import json
import os
import stat
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import exact, targets, trust
from labrun._io import atomic_write, file_sha256
from labrun.errors import ConfigError

FIELD = "seal"
UNSEALED = frozenset({FIELD, "dataset"})
"""Keys of a card that the seal does not cover: itself, and what registering adds."""
KEY_BYTES = 32
UNPROVEN = "nothing proves that you trained it in this workspace"
EDITED = "its code is not the code that trained it any more"
FROM_ARCHIVE = "its run came in an archive, and such runs are never trusted by themselves"
LARGEST_SCHEMA = 2**28
LIBRARIES = frozenset({"torch", "torchvision", "sklearn", "numpy", "scipy", "pytorch_lightning", "lightning", "pandas"})
"""Of these, which have thousands of files, only the module that is named counts."""
KNOWN_TYPES = ("sklearn.", "numpy.", "scipy.", "builtins.", "collections.", "functools.", "labrun.models.")
"""Modules of types that skops, or labrun's own list, knows."""


class Proof:
    """What a run seals its card with; made before it trains, so that the code is that which trained.

    Args:
        root: the workspace.
        run_id: of the run.
        config: the run's, as its record has it.
    """

    def __init__(self, root: Path, run_id: str, config: Mapping[str, Any]) -> None:
        self._root, self._run, self._reads = root, run_id, _reading(config)
        self._targets = foreign(config["model"])
        self.code = code_of(self._targets)
        """SHA-256 of each module that the model's code lies in; None if unknown."""

    def seal(self, card: Mapping[str, Any]) -> dict[str, Any] | None:
        """The seal of a card; None where nothing can be proven."""
        key = None if self.code is None else _key(make=True)
        if key is None:
            return None
        content = {"run": self._run, "targets": self._targets, "code": self.code, "reads": self._reads}
        return {**content, "mac": _mac(key, self._root, card, content)}


def sealed(
    root: Path, run_id: str, config: Mapping[str, Any], card: Mapping[str, Any], code: Mapping[str, str]
) -> dict[str, Any] | None:
    """The seal of a card whose run was carried out elsewhere, as it was told to from here; None where there is no key.

    Args:
        root: the workspace.
        run_id: of the run.
        config: the run's, as its record here has it.
        card: of its model.
        code: SHA-256 of each module that the model's code lies in; whoever calls this has made sure of it.
    """
    key = _key(make=True)
    if key is None:
        return None
    content = {"run": run_id, "targets": foreign(config["model"]), "code": dict(code), "reads": _reading(config)}
    return {**content, "mac": _mac(key, root, card, content)}


def foreign(node: Mapping[str, Any]) -> list[str]:
    """The targets in a model's node that are not built unasked."""
    try:
        named = dict.fromkeys(target for _, target in trust.named_targets(node, "model"))
    except ConfigError:
        return []
    return [target for target in named if trust.refusal(target, may_import=False)]


def has_read(root: Path, card: Mapping[str, Any], run_id: str, config: Mapping[str, Any]) -> bool:
    """Whether this user has run, in this workspace, what a record's config says of its data.

    Args:
        root: the workspace.
        card: of the run's model.
        run_id: the run's.
        config: its record's.
    """
    content = _proven(root, card)
    return content is not None and content["run"] == run_id and content.get("reads") == _reading(config)


def _reading(config: Mapping[str, Any]) -> str:
    named = [config.get("dataset"), config.get("datastore")]
    return hashlib.sha256(exact.canonical(named).encode()).hexdigest()


def _proven(root: Path, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a card's seal says; None where it is not this user's, or of another workspace."""
    seal = card.get(FIELD)
    if not isinstance(seal, Mapping) or not isinstance(seal.get("mac"), str):
        return None
    content = {key: seal.get(key) for key in ("run", "targets", "code")}
    content |= {key: seal[key] for key in ("reads",) if key in seal}  # seals of older versions lack it
    key = _key(make=False)
    if key is None or not hmac.compare_digest(seal["mac"].encode(), _mac(key, root, card, content).encode()):
        return None
    return content


def noted(attempts: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """The digests of the model's code that a run's newest attempt trained with; None where no attempt came to that."""
    found = [one["model_code"] for one in attempts if isinstance(one.get("model_code"), Mapping)]
    return dict(found[-1]) if found else None


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The modules that differ, or that only one side has."""
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def refusal(root: Path, card: Mapping[str, Any], run_id: str | None, imported: bool = False) -> str:
    """Why a card's model is not trusted by itself; empty where it is.

    Args:
        root: the workspace.
        card: of the model.
        run_id: of the run that it is of; None: whatever the seal says.
        imported: whether that run came in an archive.
    """
    if imported:
        return FROM_ARCHIVE
    content = _proven(root, card)
    if content is None or (run_id is not None and content["run"] != run_id):
        return UNPROVEN
    edited = changed(dict(content["code"] or {}), code_of(content["targets"] or ()) or {})
    return f"{EDITED} ({', '.join(edited[:5])} changed)" if edited else ""


def _mac(key: bytes, root: Path, card: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    sealed = json.loads(json.dumps({name: value for name, value in card.items() if name not in UNSEALED}))
    text = json.dumps([os.path.realpath(root), sealed, content], sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def key_file() -> Path | None:
    """Where the user's key lies; None where there is no home folder."""
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return base / "labrun" / "seal.key"


def _key(make: bool) -> bytes | None:
    """The user's key; None where there is none that nobody else can read or replace."""
    path = key_file()
    if path is None:
        return None
    try:
        if make and not os.path.lexists(path):
            _make_key(path)
        if path.parent.stat().st_uid != os.getuid() or path.parent.stat().st_mode & 0o022:
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            is_private = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
            key = file.read(KEY_BYTES) if is_private else b""
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def _make_key(path: Path) -> None:
    """Put a new key in place, whole; who comes second takes the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError), atomic_write(path, only_new=True, mode=0o600) as file:
        file.write(os.urandom(KEY_BYTES))


def code_of(named: Sequence[str]) -> dict[str, str] | None:
    """SHA-256 of the modules that targets come from, and of the user's own modules that those import.

    Nothing is imported. None where a target's module has no source that can be found.
    """
    found: dict[str, str] = {}
    waiting = []
    for target in named:
        module = _located(target)
        if module is None or module.source is None or not module.names:
            return None
        waiting.append(module.module)
    first = set(waiting)
    while waiting:
        name = waiting.pop()
        module = _located(name)
        if module is None or module.source is None or module.module in found:
            continue
        is_own = not _is_installed(module.source)
        if not is_own and module.module not in first:
            continue
        try:
            content = module.source.read_bytes()
            found[module.module] = hashlib.sha256(content).hexdigest()
            if is_own:
                waiting += _imported(content, module)
            else:
                found |= _package_of(module)
        except OSError:
            return None
    return found


def _package_of(module: targets.Named) -> dict[str, str]:
    """The digest of all sources of an installed package that a module is of; nothing for libraries of many files."""
    depth = module.module.count(".") + (module.source is not None and module.source.name == "__init__.py")
    top = module.module.partition(".")[0]
    if module.source is None or not depth or top in LIBRARIES:
        return {}
    base = module.source.parents[depth - 1]
    digest = hashlib.sha256()
    for path in sorted(base.rglob("*.py")):
        digest.update(f"{path.relative_to(base)}\0{file_sha256(path)}\0".encode())
    return {f"{top}.*": digest.hexdigest()}


def _located(name: str) -> targets.Named | None:
    try:
        return targets.locate(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _imported(content: bytes, module: targets.Named) -> Iterator[str]:
    """The names that a module's statements import, wherever they stand, and the packages that it lies in."""
    parts = module.module.split(".")
    yield from (".".join(parts[:depth]) for depth in range(1, len(parts)))
    above = parts if module.source is not None and module.source.name == "__init__.py" else parts[:-1]
    try:
        tree = ast.parse(content)
    except (ValueError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            beside = above[: len(above) - node.level + 1] if node.level else []
            base = [*beside, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names if alias.name != "*" or base)
            if base:
                yield ".".join(base)


def _is_installed(source: Path) -> bool:
    """Whether a file belongs to an installed package, to Python, or to labrun."""
    every = sysconfig.get_paths()
    paths = {os.path.realpath(every[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = os.path.realpath(Path(__file__).parents[1])
    place = Path(os.path.realpath(source))
    return any(place.is_relative_to(path) for path in (*paths, own)) or bool(
        {"site-packages", "dist-packages"} & set(place.parts)
    )


def needed(folder: Path, card: Mapping[str, Any]) -> list[str]:
    """What has to be named (`trusted`) to load a model where it is not trusted by itself, as far as its files tell.

    Args:
        folder: holds the model's file.
        card: its card.
    """
    if card.get("kind") == "network":
        arguments = card.get("arguments")
        return foreign({**(arguments if isinstance(arguments, dict) else {}), "_target_": str(card.get("target"))})
    if card.get("kind") == "estimator":
        return sorted(set(_skops_types(folder / str(card.get("file")))))
    return []


def _skops_types(path: Path) -> Iterator[str]:
    """The types in a file of skops that are neither scikit-learn's nor Python's own containers."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("schema.json") as file:
            waiting = [json.loads(file.read(LARGEST_SCHEMA))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, RecursionError):
        return
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            module, name = node.get("__module__"), node.get("__class__")
            if isinstance(module, str) and isinstance(name, str) and not f"{module}.".startswith(KNOWN_TYPES):
                yield f"{module}.{name}"
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
