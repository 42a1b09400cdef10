"""Static inspection of `_target_`s: everything is read from module sources, and nothing is imported.

So a user who mistypes a class name sees the error at once, without waiting for PyTorch to load.
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

from labrun._io import FileStamp
from labrun.errors import ConfigError
from labrun.messages import suggest

LIBRARIES = {"torch": "PyTorch", "pytorch_lightning": "Lightning", "lightning": "Lightning", "sklearn": "scikit-learn"}
"""Libraries that take seconds to import, with the name shown while they load."""
NEEDED = {
    "WandbLogger": ("wandb", "uv sync --extra wandb, or pip install wandb"),
    "TensorBoardLogger": ("tensorboard", "pip install tensorboard"),
    "CometLogger": ("comet_ml", "pip install comet-ml"),
    "NeptuneLogger": ("neptune", "pip install neptune"),
}
"""Optional packages required by Lightning's loggers, and how to install them."""
DYNAMIC = ("globals()", "exec(", "sys.modules", "__getattr__", "import *", "vars()")
"""Source texts that mean a module may define names dynamically, so that its names are unknown."""
LISTED = 12
PYTORCH = frozenset({"torch", "torchvision", "pytorch_lightning", "lightning"})
MOST_READ = 12
"""Maximum number of sources to read for one target."""
OWN = re.compile(r"^_target_: (labrun\.\S+)", re.MULTILINE)
"""Where a config file names one of labrun's models or readers."""


@dataclass(frozen=True)
class Named:
    """The location of a `_target_`.

    Args:
        module: dotted name of its module.
        source: source file of the module; None if it is not Python source, or unknown.
        names: attribute path within the module, outermost first.
    """

    module: str
    source: Path | None
    names: tuple[str, ...]


def check(target: str, key: str) -> None:
    """Check that a `_target_` can exist, without importing it.

    Args:
        target: the dotted name.
        key: config key of the node with the target, for messages.

    Raises:
        ConfigError: there is no such module, or its source has no such name. Names that the source does not reveal
            are left to the import.
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
    """Check that the top-level package of a `_target_` exists.

    Raises:
        ConfigError: it does not.
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
    """Find the module of a `_target_`, from files alone: not even the packages that contain it are imported."""
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
    """Whether the source of a class or a function itself shows a parameter of this name."""
    found = locate(target)
    source = _read(found) if len(found.names) == 1 else None
    return source is not None and name in source.arguments.get(found.names[0], ())


def unknown_arguments(target: str, given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Compare argument names with the parameters of a class or a function, as its source shows them.

    Args:
        target: the dotted name.
        given: names of arguments.

    Returns:
        The names that it does not take, and all that it takes. Both are empty if the source does not determine them:
        it takes any name, or inherits its parameters.
    """
    found = locate(target)
    source = _read(found) if len(found.names) == 1 else None
    known = None if source is None else source.signatures.get(found.names[0])
    if known is None:
        return [], []
    return [name for name in given if name not in known], list(known)


def ancestors(target: str) -> frozenset[str]:
    """Return a class and its base classes; for a function, those of its annotated return type.

    The names are read from the sources, and nothing is imported. Bases of classes from PyTorch's and similar libraries
    are not followed, and bases that the sources do not reveal are left out.

    Args:
        target: the dotted name.

    Returns:
        Dotted names as imported in the sources: `lightning.LightningDataModule`, `torch.utils.data.Dataset`.
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
    """Whether a `_target_` is a `LightningDataModule`, or a function annotated to return one."""
    found = (name.split(".") for name in ancestors(target))
    return any(parts[0] in PYTORCH and parts[-1] == "LightningDataModule" for parts in found)


def is_plain_network(target: str) -> bool:
    """Whether a `_target_` is a PyTorch module but not a `LightningModule`, as far as the sources show."""
    found = [name.split(".") for name in ancestors(target) if name != target]
    return any(parts[0] in PYTORCH for parts in found) and all(parts[-1] != "LightningModule" for parts in found)


def quoted(target: str, names: tuple[str, ...]) -> str | None:
    """Return the first of several names that occurs in the source of a class or of its bases; None if none does.

    A name occurs as a string literal, or as an f-string that can produce it: `f"{part}/loss"` if `"val"` also occurs.
    If the classes contain none of the names, the whole files are searched.
    """
    classes = files = ""
    for named in map(locate, sorted(ancestors(target))):
        if named.source is None or any(part in PYTORCH for part in named.source.parts):
            continue
        with contextlib.suppress(OSError, ValueError, SyntaxError):
            text, segments = _texts(named.source, FileStamp.of(named.source))
            files += text
            if len(named.names) == 1:
                classes += segments.get(named.names[0], "")

    def stands(name: str, text: str) -> bool:
        return f'"{name}"' in text or f"'{name}'" in text

    def is_made(name: str, text: str) -> bool:
        first, sign, last = re.split("([/_])", name)
        is_begun = re.search(f"f[\"']{first}{sign}{{", text) and stands(last, text)
        is_ended = re.search(f"}}{sign}{last}[\"']", text) and stands(first, text)
        return bool(is_begun or is_ended)

    ways = [(is_said, text) for text in (classes, files) for is_said in (stands, is_made)]
    return next((name for is_said, text in ways for name in names if is_said(name, text)), None)


@functools.lru_cache(maxsize=64)
def _texts(source: Path, stamp: FileStamp) -> tuple[str, Mapping[str, str]]:
    """Return a source file's text, and the text of each of its classes. Cached by the file's stamp, as in `_parsed`.

    Raises:
        OSError, ValueError, SyntaxError: the file cannot be read or parsed.
    """
    text = source.read_text(encoding="utf-8")
    lines = text.split("\n")
    segments: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            segments[node.name] = segments.get(node.name, "") + "\n".join(lines[node.lineno - 1 : node.end_lineno])
    return text, segments


@dataclass(frozen=True)
class Definitions:
    """Top-level definitions in the source of a module.

    Args:
        imported: dotted origin of each imported name.
        bases: base classes of each class, return annotation of each function, as written.
        arguments: parameter names of each class and function.
        classes: names of the classes.
        signatures: parameter names in order; None if there may be others.
    """

    imported: Mapping[str, str]
    bases: Mapping[str, list[str]]
    arguments: Mapping[str, frozenset[str]]
    classes: frozenset[str]
    signatures: Mapping[str, tuple[str, ...] | None]


def _read(named: Named) -> Definitions | None:
    """Parse the source of a module; None if there is none, or it cannot be read."""
    if named.source is None:
        return None
    try:
        return _parsed(named.source, named.module, FileStamp.of(named.source))
    except (OSError, ValueError, SyntaxError):
        return None


@functools.lru_cache(maxsize=256)
def _parsed(source: Path, module: str, stamp: FileStamp) -> Definitions:
    """Parse a source file. Cached by the file's stamp, because a sweep needs it for each of its runs.

    Raises:
        OSError, ValueError, SyntaxError: the file cannot be read or parsed.
    """
    body = ast.parse(source.read_text(encoding="utf-8")).body
    tops = [one for one in reversed(body) if isinstance(one, ast.ClassDef | ast.FunctionDef)]
    return Definitions(
        _names(body, source, module),
        {one.name: [ast.unparse(base).strip("'\"") for base in _derived_from(one)] for one in reversed(tops)},
        {one.name: _arguments(one) for one in tops},  # the first definition of a name wins
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
    if isinstance(node, ast.ClassDef) and node.keywords:  # a metaclass may change the signature
        return None
    return tuple(arg.arg for arg in (*made.args.args, *made.args.kwonlyargs) if arg.arg != "self")


def _bases(target: str) -> list[str]:
    named = locate(target)
    if len(named.names) != 1 or (source := _read(named)) is None:
        return []
    if named.names[0] in source.imported:  # a name that a package re-exports
        return [source.imported[named.names[0]]]
    return [
        f"{named.module}.{text}"
        if text in source.classes
        else ".".join(filter(None, [source.imported.get(first, first), rest]))
        for text in source.bases.get(named.names[0], [])
        for first, _, rest in [text.partition(".")]
    ]


def _names(body: list[ast.stmt], source: Path, module: str) -> dict[str, str]:
    """Return the dotted origin of each name that a module imports."""
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
    """Return the dotted module of a `from ... import`, with relative imports resolved."""
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
    """Return the names that a module's source binds at the top level; None if unknown."""
    try:
        text = source.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):  # the import will report it
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


def report_loading(*targets: str) -> None:
    """Print that a library is being loaded, if importing the targets will take seconds."""
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
    """Whether importing a target also imports PyTorch, judging by the sources of its own package and of labrun."""
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


def read_own(conf: Path) -> None:
    """Have `needs_torch` keep what it finds of labrun's own models and readers, for processes that are forked later.

    Args:
        conf: the folder of labrun's configs.
    """
    for file in (*conf.glob("model/*.yaml"), *conf.glob("dataset/*.yaml")):
        for target in OWN.findall(file.read_text(encoding="utf-8")):
            needs_torch(target)


def say(library: str) -> None:
    """Print that a library is being loaded."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):  # a closed pipe, or a full disk
            print(f"Loading {library} ...", flush=True)


def _imported(source: Path, module: str = "") -> set[str]:
    """Return the modules that a module imports at the top level.

    Args:
        source: its source file.
        module: its dotted name, to resolve relative imports.
    """
    try:
        return _imports(source, module, FileStamp.of(source))
    except (OSError, ValueError, SyntaxError):
        return set()


@functools.cache
def _imports(source: Path, module: str, stamp: FileStamp) -> set[str]:
    body = ast.parse(source.read_text(encoding="utf-8")).body
    found = {alias.name for one in body if isinstance(one, ast.Import) for alias in one.names}
    for one in body:
        if isinstance(one, ast.ImportFrom):
            beside = _beside(one, source, module)
            found |= {f"{beside}.{alias.name}".lstrip(".") for alias in one.names}
    return found
