"""What can be said of a `_target_` before anything is imported: from the module's source, as it lies on the disk.

Otherwise a user who mistyped a class would wait for PyTorch before hearing of it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from labrun.checking import suggest
from labrun.errors import ConfigError

LIBRARIES = {"torch": "PyTorch", "pytorch_lightning": "Lightning", "lightning": "Lightning", "sklearn": "scikit-learn"}
"""What takes seconds to import, and is worth a word before the silence."""
NEEDED = {
    "WandbLogger": ("wandb", "uv sync --extra wandb, or pip install wandb"),
    "TensorBoardLogger": ("tensorboard", "pip install tensorboard"),
    "CometLogger": ("comet_ml", "pip install comet-ml"),
    "NeptuneLogger": ("neptune", "pip install neptune"),
}
"""Packages that Lightning's loggers need and that need not be installed, and how they come."""
DYNAMIC = ("globals()", "exec(", "sys.modules", "__getattr__", "import *", "vars()")
"""Where one of these stands, a module may hold names that its source does not show."""
LISTED = 12
PYTORCH = frozenset({"torch", "torchvision", "pytorch_lightning", "lightning"})
MOST_READ = 12
"""Sources that are read to find out what a target imports."""


@dataclass(frozen=True)
class Named:
    """What a `_target_` names.

    Args:
        module: the dotted name of the module that it leads to.
        source: that module's file; None if it is not Python source, or unknown.
        names: what is wanted of the module, from the outside in.
    """

    module: str
    source: Path | None
    names: tuple[str, ...]


def check(target: str, key: str) -> None:
    """Whether what a `_target_` names can be there, without importing it.

    Args:
        target: dotted.
        key: the config's key above it, for the message.

    Raises:
        ConfigError: there is no such module, or its source has no such name. What its source does not tell is left
            to the import.
    """
    check_module(target, key)
    _check_package(target, key)
    named = locate(target)
    if named.source is None or not named.names or named.module in sys.modules:
        return
    offered = _offered(named.source)
    if offered is not None and named.names[0] not in offered:
        public = sorted(name for name in offered if not name.startswith("_"))
        raise ConfigError(
            f"{key}._target_={target!r}: {named.source} has no {named.names[0]!r}."
            f"{suggest(named.names[0], public)} It has: {', '.join(public[:LISTED]) or 'nothing'}"
            f"{', ...' if len(public) > LISTED else ''}"
        )


def check_module(target: str, key: str) -> None:
    """Whether the package that a `_target_` names is there at all.

    Raises:
        ConfigError: it is not.
    """
    top = target.partition(".")[0]
    try:
        is_there = top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        is_there = False
    if not is_there:
        raise ConfigError(
            f"{key}._target_={target!r}: there is no module '{top}', neither installed nor in {Path.cwd()}"
        )


def _check_package(target: str, key: str) -> None:
    package, how = NEEDED.get(target.rpartition(".")[2], (None, ""))
    if package is not None and package not in sys.modules and importlib.util.find_spec(package) is None:
        raise ConfigError(f"{key}: {target} needs the package {package}, which is not installed: {how}")


def locate(target: str) -> Named:
    """The module that a `_target_` leads to. Only files are looked at: no package above it is imported."""
    parts = target.split(".")
    spec = importlib.util.find_spec(parts[0]) if parts[0] not in sys.modules else sys.modules[parts[0]].__spec__
    if spec is None:
        return Named(parts[0], None, tuple(parts[1:]))
    source = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    depth = 1
    while depth < len(parts):
        inner = _module_in(places, parts[depth])
        if inner is None:
            break
        source, places = inner
        depth += 1
    return Named(".".join(parts[:depth]), source, tuple(parts[depth:]))


def takes(target: str, name: str) -> bool:
    """Whether a class, or a function, has an argument of that name, as far as its source says so by itself."""
    found = locate(target)
    source = _read(found) if len(found.names) == 1 else None
    return source is not None and name in source.arguments.get(found.names[0], ())


def unknown_arguments(target: str, given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Arguments that a class or a function does not take, and those that it takes, as far as its source tells.

    Args:
        target: dotted.
        given: names of arguments.

    Returns:
        Two empty lists where the source does not tell: it takes any name, or inherits its arguments.
    """
    found = locate(target)
    source = _read(found) if len(found.names) == 1 else None
    known = None if source is None else source.signatures.get(found.names[0])
    if known is None:
        return [], []
    return [name for name in given if name not in known], list(known)


def ancestors(target: str) -> frozenset[str]:
    """The names of the classes that a class is derived from, itself first; of a function, of what it says it returns.

    Read from the sources, so that nothing is imported. Where a class comes from a package of PyTorch's, its name is
    enough; what the sources do not tell is left out.

    Args:
        target: dotted.

    Returns:
        Dotted names, as the modules import them: `lightning.LightningDataModule`, `torch.utils.data.Dataset`.
    """
    found: set[str] = set()
    waiting = [target]
    while waiting and len(found) < MOST_READ:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name.partition(".")[0] not in {*PYTORCH, *LIBRARIES}:
            waiting += _bases(name)
    return frozenset(found)


def is_data_module(target: str) -> bool:
    """Whether a `_target_` is, or says that it returns, a `LightningDataModule`."""
    found = (name.split(".") for name in ancestors(target))
    return any(parts[0] in PYTORCH and parts[-1] == "LightningDataModule" for parts in found)


def is_plain_network(target: str) -> bool:
    """Whether a `_target_` is a class of PyTorch's modules, as far as the sources tell, and no `LightningModule`."""
    found = [name.split(".") for name in ancestors(target) if name != target]
    return any(parts[0] in PYTORCH for parts in found) and all(parts[-1] != "LightningModule" for parts in found)


def quoted(target: str, names: tuple[str, ...]) -> str | None:
    """The first of some names that the source of a class, and of those it is derived from, holds.

    It stands there in quotes, or an f-string makes it: `f"{part}/loss"`, where `"val"` stands in quotes. Where neither
    is so, what else is in their files counts.
    """
    classes = files = ""
    for named in map(locate, sorted(ancestors(target))):
        if named.source is None or any(part in PYTORCH for part in named.source.parts):
            continue
        with contextlib.suppress(OSError, ValueError, SyntaxError):
            text = named.source.read_text(encoding="utf-8")
            files += text
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and (node.name,) == named.names:
                    classes += ast.get_source_segment(text, node) or ""

    def stands(name: str, text: str) -> bool:
        return f'"{name}"' in text or f"'{name}'" in text

    def is_made(name: str, text: str) -> bool:
        first, sign, last = re.split("([/_])", name)
        is_begun = re.search(f"f[\"']{first}{sign}{{", text) and stands(last, text)
        is_ended = re.search(f"}}{sign}{last}[\"']", text) and stands(first, text)
        return bool(is_begun or is_ended)

    ways = [(is_said, text) for text in (classes, files) for is_said in (stands, is_made)]
    return next((name for is_said, text in ways for name in names if is_said(name, text)), None)


@dataclass(frozen=True)
class Source:
    """What a module's source says at its top.

    Args:
        imported: what each name that it imports stands for, dotted.
        bases: of each class what it is derived from, of each function what it says it returns, as it stands there.
        arguments: of each class and function those that it takes.
        classes: the names of its classes.
        signatures: the arguments again, in their order; None where there may be others.
    """

    imported: Mapping[str, str]
    bases: Mapping[str, list[str]]
    arguments: Mapping[str, frozenset[str]]
    classes: frozenset[str]
    signatures: Mapping[str, tuple[str, ...] | None]


def _read(named: Named) -> Source | None:
    """What the source of a module says; None where there is none to be read."""
    if named.source is None:
        return None
    try:
        found = named.source.stat()
        return _parsed(named.source, named.module, (found.st_mtime_ns, found.st_size, found.st_ino))
    except (OSError, ValueError, SyntaxError):
        return None


@functools.lru_cache(maxsize=256)
def _parsed(source: Path, module: str, stamp: tuple[int, int, int]) -> Source:
    """Read once, as long as the stamp of the file is the same: a sweep asks again for each of its runs.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be read.
    """
    body = ast.parse(source.read_text(encoding="utf-8")).body
    tops = [one for one in reversed(body) if isinstance(one, ast.ClassDef | ast.FunctionDef)]
    return Source(
        _names(body, source, module),
        {one.name: [ast.unparse(base).strip("'\"") for base in _derived_from(one)] for one in reversed(tops)},
        {one.name: _arguments(one) for one in tops},  # of two with one name, the first
        frozenset(one.name for one in tops if isinstance(one, ast.ClassDef)),
        {one.name: _signature(one) for one in tops},
    )


def _derived_from(node: ast.ClassDef | ast.FunctionDef) -> list[ast.expr]:
    if isinstance(node, ast.ClassDef):
        return node.bases
    return [node.returns] if node.returns is not None else []


def _arguments(node: ast.ClassDef | ast.FunctionDef) -> frozenset[str]:
    inner = node.body if isinstance(node, ast.ClassDef) else [node]
    for one in inner:
        if isinstance(one, ast.FunctionDef) and one.name in ("__init__", node.name):
            return frozenset(arg.arg for arg in (*one.args.args, *one.args.kwonlyargs)) - {"self"}
    return frozenset()


def _signature(node: ast.ClassDef | ast.FunctionDef) -> tuple[str, ...] | None:
    inner = node.body if isinstance(node, ast.ClassDef) else [node]
    made = next(
        (one for one in inner if isinstance(one, ast.FunctionDef) and one.name in ("__init__", node.name)), None
    )
    if made is None or node.decorator_list or made.decorator_list or made.args.kwarg is not None:
        return None
    if isinstance(node, ast.ClassDef) and node.keywords:  # of another metaclass
        return None
    return tuple(arg.arg for arg in (*made.args.args, *made.args.kwonlyargs) if arg.arg != "self")


def _bases(target: str) -> list[str]:
    named = locate(target)
    if len(named.names) != 1 or (source := _read(named)) is None:
        return []
    if named.names[0] in source.imported:  # a package that hands on what a module of its own has
        return [source.imported[named.names[0]]]
    return [
        f"{named.module}.{text}"
        if text in source.classes
        else ".".join(filter(None, [source.imported.get(first, first), rest]))
        for text in source.bases.get(named.names[0], [])
        for first, _, rest in [text.partition(".")]
    ]


def _names(body: list[ast.stmt], source: Path, module: str) -> dict[str, str]:
    """What each name that a module imports stands for, dotted."""
    found = {}
    for one in body:
        if isinstance(one, ast.Import):
            for alias in one.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(one, ast.ImportFrom):
            beside = _beside(one, source, module)
            found |= {alias.asname or alias.name: f"{beside}.{alias.name}".lstrip(".") for alias in one.names}
    return found


def _beside(one: ast.ImportFrom, source: Path, module: str) -> str:
    """The module that a `from ... import` names, dotted; relative ones counted from where it stands."""
    above = module.split(".") if source.name == "__init__.py" else module.split(".")[:-1]
    return ".".join(filter(None, [*(above[: len(above) - one.level + 1] if one.level else []), one.module]))


def _module_in(places: list[Path], name: str) -> tuple[Path | None, list[Path]] | None:
    for place in places:
        if (place / name / "__init__.py").is_file():
            return place / name / "__init__.py", [place / name]
        if (place / f"{name}.py").is_file():
            return place / f"{name}.py", []
        if (place / name).is_dir() and not any(place.glob(f"{name}.*")):
            return None, [place / name]
    return None


def _offered(source: Path) -> set[str] | None:
    """The names that a module's source binds at its top; None if unknown."""
    try:
        text = source.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):  # the import says what is wrong there
        return None
    if any(word in text for word in DYNAMIC):
        return None
    return set(_bound(tree))


def _bound(node: ast.AST) -> Iterator[str]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield inner.name
            continue
        if isinstance(inner, ast.alias):
            yield inner.asname or inner.name.partition(".")[0]
        elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        yield from _bound(inner)


def announce(*targets: str) -> None:
    """Say that a library is being loaded, if importing what targets name takes seconds. To standard output."""
    wanted = set()
    for target in targets:
        named = locate(target)
        if named.module not in sys.modules:
            names = [target, *(_imported(named.source, named.module) if named.source is not None else ())]
            wanted |= {name.partition(".")[0] for name in names}
    title = next((title for name, title in LIBRARIES.items() if name in wanted and name not in sys.modules), None)
    if title is not None:
        say(title)


@functools.cache
def needs_torch(target: str) -> bool:
    """Whether importing what a target names imports PyTorch, as far as the sources nearest to it say so."""
    top = target.partition(".")[0]
    waiting, seen = [target], set[str]()
    while waiting and len(seen) < MOST_READ:
        named = locate(waiting.pop(0))
        package = named.module.partition(".")[0]
        if package in PYTORCH:
            return True
        is_near = package in (top, "labrun") and package not in LIBRARIES
        if is_near and named.source is not None and named.module not in seen:
            seen.add(named.module)
            waiting += _imported(named.source, named.module)
    return False


def say(library: str) -> None:
    """Say that a library is being loaded."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):  # nobody reads it any more, or the disk behind it is full
            print(f"Loading {library} ...", flush=True)


def _imported(source: Path, module: str = "") -> set[str]:
    """The modules that a module imports at its top.

    Args:
        source: its file.
        module: its own dotted name, for what it imports from beside itself.
    """
    try:
        body = ast.parse(source.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return set()
    found = {alias.name for one in body if isinstance(one, ast.Import) for alias in one.names}
    for one in body:
        if isinstance(one, ast.ImportFrom):
            beside = _beside(one, source, module)
            found |= {f"{beside}.{alias.name}".lstrip(".") for alias in one.names}
    return found
