"""Proof that this user trained a model in this workspace, with code that has not changed since.

Anybody can write records, cards and archives, so their content alone proves nothing. A run therefore seals its model's
card with an HMAC-SHA256. The key is `~/.local/state/labrun/seal.key` (or below XDG_STATE_HOME); only the user can read
it, and it is never part of a workspace or an archive. The seal covers

- the path of the workspace, and the run's ID;
- the card: the model's class, its arguments, the digest of its file;
- digests, taken when training began, of the user's modules that define the classes, and of the user's modules that
  these import with import statements; for an installed package, of all its sources.

A run from an archive is never trusted, whatever its seal. Without a key (no home folder) nothing is sealed, and the
user must list what to trust.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import hmac
import json
import os
import stat
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from labrun._io import FileStamp, atomic_write, file_sha256, read_once
from labrun.config import exact, targets, trust
from labrun.config.instantiate import Node
from labrun.config.schema import Config
from labrun.errors import ConfigError
from labrun.runs import ownership
from labrun.runs.attempts import Attempt
from labrun.runs.cards import Card, CardKind

FIELD = "seal"
UNSEALED = frozenset({FIELD, "dataset"})
"""Keys of a card that the seal does not cover: the seal itself, and the key that registration adds."""
KEY_BYTES = 32
UNPROVEN = "nothing proves that you trained it in this workspace"
EDITED = "its code has changed since it was trained"
FROM_ARCHIVE = "its run came from an archive, and such runs are never trusted automatically"
LARGEST_SCHEMA = 2**28
LIBRARIES = frozenset({"torch", "torchvision", "sklearn", "numpy", "scipy", "pytorch_lightning", "lightning", "pandas"})
"""Packages with thousands of files, of which only the target's module is digested."""
KNOWN_TYPES = ("sklearn.", "numpy.", "scipy.", "builtins.", "collections.", "functools.", "labrun.models.")
"""Module prefixes of types that skops or labrun already trusts."""
_digests: dict[str, tuple[FileStamp, str]] = {}
"""SHA-256 of the sources of packages, which have hundreds of files, by path."""


class Proof:
    """Seals a run's card. Created before training, so that it digests the code that trained.

    Args:
        root: the workspace.
        run_id: the run's ID.
        config: the run's config, from its record.
    """

    def __init__(self, root: Path, run_id: str, config: Config) -> None:
        self._root, self._run, self._reads = root, run_id, _reading(config)
        self._targets = foreign(config.model)
        self.code = code_of(self._targets)
        """SHA-256 of each module of the model's code; None if unknown."""

    def seal(self, content: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the seal of a card with this content, or None without a key or known code."""
        key = None if self.code is None else _key(make=True)
        if key is None:
            return None
        seal = {"run": self._run, "targets": self._targets, "code": self.code, "reads": self._reads}
        return {**seal, "mac": _mac(key, self._root, content, seal)}


def sealed(root: Path, run_id: str, config: Config, card: Card, code: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the seal of a card whose run this workspace executed on another machine, or None without a key.

    Args:
        root: the workspace.
        run_id: the run's ID.
        config: the run's config, from its local record.
        card: the card of its model.
        code: SHA-256 of each module of the model's code, verified by the caller.
    """
    key = _key(make=True)
    if key is None:
        return None
    seal = {"run": run_id, "targets": foreign(config.model), "code": dict(code), "reads": _reading(config)}
    return {**seal, "mac": _mac(key, root, card.content, seal)}


def foreign(node: Node) -> list[str]:
    """Return the targets in a model's config node that are not trusted by default."""
    try:
        named = dict.fromkeys(target for _, target in trust.named_targets(node, "model"))
    except ConfigError:
        return []
    return [target for target in named if trust.refusal(target, may_import=False)]


def has_read(root: Path, card: Card, run_id: str, config: Config) -> bool:
    """Return whether this user has run, in this workspace, the data part of a record's config.

    Args:
        root: the workspace.
        card: the card of the run's model.
        run_id: the run's ID.
        config: the config in its record.
    """
    seal = _proven(root, card)
    return seal is not None and seal["run"] == run_id and seal.get("reads") == _reading(config)


def _reading(config: Config) -> str:
    named = [config.raw.get("dataset"), config.raw.get("datastore")]
    return hashlib.sha256(exact.canonical(named).encode()).hexdigest()


def _proven(root: Path, card: Card) -> dict[str, Any] | None:
    """Return a card's seal, without its MAC, if it is valid for this user and workspace, else None."""
    given = card.seal
    if given is None or not isinstance(given.get("mac"), str):
        return None
    seal = {key: given.get(key) for key in ("run", "targets", "code")}
    seal |= {key: given[key] for key in ("reads",) if key in given}  # the oldest seals lack it
    key = _key(make=False)
    if key is None or not hmac.compare_digest(given["mac"].encode(), _mac(key, root, card.content, seal).encode()):
        return None
    return seal


def noted(attempts: Sequence[Attempt]) -> dict[str, str] | None:
    """Return the digests of the model's code from the latest attempt that recorded them, or None if none did."""
    found = [one.model_code for one in attempts if isinstance(one.model_code, Mapping)]
    return dict(found[-1]) if found else None


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the modules whose digests differ or that only one side has."""
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def refusal(root: Path, card: Card, run_id: str | None, imported: bool = False) -> str:
    """Return why a card's model is not trusted automatically, or "" if it is.

    Args:
        root: the workspace.
        card: the model's card.
        run_id: ID of the run that produced the model; None accepts the run in the seal.
        imported: whether that run came from an archive.
    """
    if imported:
        return FROM_ARCHIVE
    seal = _proven(root, card)
    if seal is None or (run_id is not None and seal["run"] != run_id):
        return UNPROVEN
    edited = changed(dict(seal["code"] or {}), code_of(seal["targets"] or ()) or {})
    return f"{EDITED} ({', '.join(edited[:5])})" if edited else ""


def _mac(key: bytes, root: Path, content: Mapping[str, Any], seal: Mapping[str, Any]) -> str:
    sealed = json.loads(json.dumps({name: value for name, value in content.items() if name not in UNSEALED}))
    text = json.dumps([os.path.realpath(root), sealed, seal], sort_keys=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def key_file() -> Path | None:
    """Return the path of the user's key, or None without a home folder."""
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return base / "labrun" / "seal.key"


def _key(make: bool) -> bytes | None:
    """Return the user's key, or None if it is missing or another user could read or replace it."""
    path = key_file()
    if path is None:
        return None
    try:
        if make and not os.path.lexists(path):
            _make_key(path)
        if not ownership.is_own(path.parent.stat()):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            key = file.read(KEY_BYTES) if stat.S_ISREG(found.st_mode) and ownership.is_private(found) else b""
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def _make_key(path: Path) -> None:
    """Create a new key atomically, unless another process has just done so."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError), atomic_write(path, only_new=True, mode=0o600) as file:
        file.write(os.urandom(KEY_BYTES))


def code_of(named: Sequence[str]) -> dict[str, str] | None:
    """Return the SHA-256 of the modules that define targets, and of the user's own modules that these import.

    Imports nothing. Returns None if the source of a target's module cannot be found.
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
                waiting += _imported(content, module.module, module.source.name == "__init__.py")
            else:
                found |= _package_of(module)
        except OSError:
            return None
    return found


def _package_of(module: targets.Named) -> dict[str, str]:
    """Return the digest of all sources of a module's installed package; empty for the packages in `LIBRARIES`."""
    depth = module.module.count(".") + (module.source is not None and module.source.name == "__init__.py")
    top = module.module.partition(".")[0]
    if module.source is None or not depth or top in LIBRARIES:
        return {}
    base = str(module.source.parents[depth - 1])
    digest = hashlib.sha256()
    sources = (os.path.join(place, name) for place, _, names in os.walk(base) for name in names if name.endswith(".py"))
    for path in sorted(sources, key=lambda one: one.split(os.sep)):
        sha256 = read_once(path, _digests, functools.partial(file_sha256, path))
        digest.update(f"{path.removeprefix(base + os.sep)}\0{sha256}\0".encode())
    return {f"{top}.*": digest.hexdigest()}


def _located(name: str) -> targets.Named | None:
    try:
        return targets.locate(name)
    except (ImportError, ValueError, AttributeError):
        return None


@functools.lru_cache(maxsize=64)
def _imported(content: bytes, module: str, is_package: bool) -> tuple[str, ...]:
    """Return the names that a module imports anywhere in its code, and its parent packages, once each.

    Cached, because each run of a sweep needs the same.
    """
    return tuple(dict.fromkeys(_names_in(content, module.split("."), is_package)))


def _names_in(content: bytes, parts: list[str], is_package: bool) -> Iterator[str]:
    yield from (".".join(parts[:depth]) for depth in range(1, len(parts)))
    above = parts if is_package else parts[:-1]
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
    """Return whether a file belongs to an installed package, to Python, or to labrun."""
    place = Path(os.path.realpath(source))
    return any(place.is_relative_to(path) for path in _installed_places()) or bool(
        {"site-packages", "dist-packages"} & set(place.parts)
    )


@functools.cache
def _installed_places() -> frozenset[str]:
    """Return the folders of Python, of installed packages and of labrun."""
    every = sysconfig.get_paths()
    places = [every[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return frozenset(os.path.realpath(place) for place in (*places, str(Path(__file__).parents[1])))


def needed(folder: Path, card: Card) -> list[str]:
    """Return the names to list in `trusted` to load a model that is not trusted automatically, according to its files.

    Args:
        folder: the folder that holds the model's file.
        card: the model's card.
    """
    match card.kind:
        case CardKind.NETWORK:
            return foreign({**card.arguments, "_target_": str(card.target)})
        case CardKind.ESTIMATOR:
            return sorted(set(_skops_types(folder / card.file)))
        case CardKind.CHAINER | CardKind.PICKLE | CardKind.TENSORS | CardKind.FILE | CardKind.FOLDER:
            return []  # no class in them is built by its name; a pickle needs `allow_pickle`
    assert_never(card.kind)


def _skops_types(path: Path) -> Iterator[str]:
    """Yield the types in a skops file that are outside `KNOWN_TYPES`."""
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
