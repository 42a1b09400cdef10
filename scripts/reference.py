"""Generate docs/reference/: pages on every config group, command and public name, from the code.

    python scripts/reference.py           check that the pages match the code
    python scripts/reference.py --write   write the pages

Options and comments come from conf/, types from schema.py, commands from the parser of `lab`, the rest from docstrings.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import azureml_page

import labrun
from labrun import cli
from labrun.config import checking, schema

TOP = Path(__file__).parents[1]
CONF = TOP / "conf"
FOLDER = TOP / "docs" / "reference"
CLASSES: dict[str, type] = {
    "": schema.Root,
    "dataset": schema.Dataset,
    "datastore": schema.RemoteDatastore,
    "model": schema.Model,
    "trainer": schema.Trainer,
    "compute": schema.Compute,
    "sweep": schema.Sweep,
    "script": schema.Script,
    "tracking": schema.Tracking,
}
"""Dataclass of each group, for options without a `_target_` in `schema.TARGETS`."""
ORDER = (
    "experiment",
    "dataset",
    "datastore",
    "model",
    "script",
    "trainer",
    "callbacks",
    "logger",
    "compute",
    "sweep",
    "tracking",
    "debug",
)
COMPACT = ("model/estimator", "model/preprocessor")
"""Groups of many small files whose keys are arguments of the target."""
PUBLIC = (
    "submit",
    "start_run",
    "runs",
    "get_run",
    "load_model",
    "samples",
    "show",
    "log",
    "Run",
    "ActiveRun",
    "Sweep",
    "Model",
    "LabrunError",
)
LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.]+):(?: (?P<value>[^#\n]*?(?:\"[^\"]*\")?))?(?: +# (?P<comment>.*))?$")
HEAD = """# Reference

Every config option, command and public function. `scripts/reference.py` generates these pages from the code, and a test
checks that they match: do not edit them by hand. `labrun --help` prints the same groups, including your own files.

"""


@dataclass
class Key:
    """A line of a config file."""

    path: str
    default: str
    comment: str


@dataclass
class Option:
    """A config file: one option of a group."""

    name: str
    about: list[str]
    target: str = ""
    is_global: bool = False
    keys: list[Key] = field(default_factory=list)
    choices: list[Key] = field(default_factory=list)
    """Entries of its defaults list."""
    based_on: list[str] = field(default_factory=list)
    """Files of its own group in its defaults list."""


def read(path: Path) -> Option:
    """Read a config file line by line, because YAML parsers drop the comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    about = [line[1:].rstrip() for line in lines if line.startswith("#") and not line.startswith("# @package")]
    option = Option(path.stem, [line.removeprefix(" ") for line in about])
    option.is_global = any(line.startswith("# @package _global_") for line in lines)
    open_keys: list[tuple[int, str]] = []
    for line in lines:
        base = re.fullmatch(r"  - (\w+)(@\w+)?", line)
        if base and base[1] != "_self_":
            option.based_on.append(base[1])
        match = LINE.fullmatch(line.replace("- ", "  ", 1) if line.startswith("  - ") else line)
        if match is None or line.startswith("#"):
            continue
        depth, key = len(match["indent"]), match["key"]
        open_keys = [(d, k) for d, k in open_keys if d < depth]
        path_to = ".".join([*(k for _, k in open_keys), key])
        value, comment = (match["value"] or "").strip(), match["comment"] or ""
        open_keys.append((depth, key))
        if path_to == "_target_":
            option.target = value
        elif path_to.startswith("defaults."):
            option.choices.append(Key(path_to.removeprefix("defaults."), value, comment))
        elif path_to.split(".")[0] not in ("defaults", "hydra", "_recursive_") and (value or comment):
            if path_to == "name" and value == option.name:
                continue
            option.keys.append(Key(path_to, value, comment))
    return option


def type_of(group: str, option: Option, path: str) -> str:
    """Describe the allowed values of a key, in the words of the error messages."""
    if group.startswith("datastore"):
        cls = schema.DATASTORES.get(option.target, schema.RemoteDatastore)
    else:
        cls = schema.TARGETS.get(option.target) or CLASSES.get(group, type(None))
    hints = typing.get_type_hints(cls, include_extras=True) if cls is not type(None) else {}
    hint = hints.get("from_" if path == "from" else path)
    if hint is None:
        return ""
    return checking.expectation(hint) + (", a secret" if "SecretMark" in repr(hint) else "")


def groups() -> dict[str, list[Option]]:
    """Return each group with its options, in the order of the pages."""
    found: dict[str, list[Option]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group != "." and not group.startswith(("hydra", "local")):
            found.setdefault(group, []).append(read(path))
    rank = {name: number for number, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0].split("/")[0], 99), item[0])))


def cell(text: str, code: bool = False) -> str:
    """Escape text for a table cell."""
    text = text.replace("|", "\\|")
    if not code:
        return text.replace("<", "&lt;").replace("${", "$\\{")
    return f"`{text}`" if text else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, without its empty columns."""
    used = [n for n in range(len(head)) if any(row[n] for row in rows)]
    yield "| " + " | ".join(head[n] for n in used) + " |"
    yield "| " + " | ".join("---" for _ in used) + " |"
    for row in rows:
        yield "| " + " | ".join(row[n] for n in used) + " |"
    yield ""


def configuration() -> Iterator[str]:
    """Yield the page lines for the top level of the configuration, then for every group."""
    yield "## Configuration"
    yield ""
    yield "`group=option` selects a file in `conf/`, `key=value` changes a key. Your own `conf/` takes precedence."
    yield ""
    top = read(CONF / "config.yaml")
    yield "### The top"
    yield ""
    chosen = [key for key in top.choices if not key.path.startswith("override") and key.comment]
    lines = [(cell(key.path, True), cell(key.default, True), cell(key.comment)) for key in chosen]
    yield from table(("Group", "Default", "Meaning"), lines)
    rows = [
        (cell(k.path, True), cell(type_of("", top, k.path)), cell(k.default, True), cell(k.comment)) for k in top.keys
    ]
    yield from table(("Key", "Type", "Default", "Meaning"), rows)
    for group, options in groups().items():
        yield f"### {group}"
        yield ""
        yield from _group(group, options)


def _group(group: str, options: Sequence[Option]) -> Iterator[str]:
    shown = [option for option in options if not option.name.startswith("_")]
    compact = group in COMPACT
    rows = [
        (
            cell(f"{group}={o.name}", True),
            cell(_sentences(o)),
            cell(o.target, True),
            *(_keys_of(o, searched) if compact else "" for searched in (False, True)),
        )
        for o in shown
    ]
    yield from table(("Option", "Meaning", "Builds", "Keys", "Searched"), rows)
    if compact:
        return
    cells: dict[tuple[str, str, str, str], list[str]] = {}
    for option in options:
        for key in option.keys:
            prefix = "" if option.is_global else group.replace("/", ".") + "."
            kind = type_of(group, option, key.path) if not option.is_global else ""
            having = [o.name for o in options if o is option or option.name in o.based_on]
            cells.setdefault((prefix + key.path, kind, key.default, key.comment), []).extend(having)
    order = list(dict.fromkeys(path for path, *_ in cells))
    names = [option.name for option in shown]
    lines = []
    for path, kind, default, comment in sorted(cells, key=lambda one: order.index(one[0])):
        having = [name for name in names if name in cells[path, kind, default, comment]]
        where = "" if len(names) == 1 or having == names else ", ".join(having)
        lines.append((cell(path, True), cell(kind), cell(default, True), where, cell(comment)))
    if lines:
        yield from table(("Key", "Type", "Default", "Only in", "Meaning"), lines)


def _sentences(option: Option) -> str:
    """Return the comment at the top of a config file, without its commands, which are indented."""
    text = " ".join(line for line in option.about if not line.startswith("  "))
    return re.sub(r"(Install: uv sync --extra \w+)", r"\1.", text)


def _keys_of(option: Option, searched: bool) -> str:
    """List the keys of a small option, or those that a search varies, in one cell."""
    found = [(key.path.removeprefix("search_space."), key) for key in option.keys]
    chosen = [f"{path}: {key.default}" for path, key in found if (path != key.path) == searched]
    return ", ".join(cell(text, True) for text in chosen if not text.startswith("regressor"))


def commands() -> Iterator[str]:
    """Yield the page lines for `lab`, action by action."""
    top = cli.parser()
    yield "## lab"
    yield ""
    yield f"{top.description} Options before the command:"
    yield ""
    yield from _options([action for action in top._actions if action.option_strings])
    for command, parser in _below(top).items():
        yield f"### lab {command}"
        yield ""
        text = str(parser.description or cli.COMMANDS[command])
        yield text[:1].upper() + text[1:].rstrip(".") + "."
        yield ""
        actions, helps = _below(parser), _helps(parser)
        yield from _options(list(_own(parser, bool(actions))))
        own = [group for group in parser._action_groups if group.title == FILTERS]
        filters = [action for group in own for action in group._group_actions]
        if filters:
            yield "The filters, for `lab runs` itself and for every action that takes runs:"
            yield ""
            yield from _options(filters)
        for name, inner in actions.items():
            words = [_word(action) for action in inner._actions if not action.option_strings]
            yield f"#### lab {command} {name}"
            yield ""
            yield f"`{' '.join(['lab', command, name, *words])}`: {_sentence(inner.description or helps[name])}"
            yield ""
            yield from _options(list(_own(inner, False)))


FILTERS = "which runs"


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action._name_parser_map)
    return {}


def _helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the help text of each action."""
    found = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return {choice.dest: str(choice.help) for action in found for choice in action._choices_actions}


def _own(parser: argparse.ArgumentParser, has_actions: bool) -> Iterator[argparse.Action]:
    """Yield the arguments of a command, without the filters that all actions have."""
    for group in parser._action_groups:
        for action in group._group_actions:
            is_words = not action.option_strings and has_actions
            if group.title != FILTERS and not is_words and not isinstance(action, argparse._SubParsersAction):
                yield action


def _word(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"*": f"[{name} ...]", "?": f"[{name}]", "+": f"{name} ..."}.get(str(action.nargs or ""), name)


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:] + ("" if text.endswith(".") else ".")


def _options(actions: Sequence[argparse.Action]) -> Iterator[str]:
    rows = []
    for action in actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            name += f" {action.metavar or (action.dest.upper() if not action.choices else '|'.join(action.choices))}"
        known = {**vars(action), "choices": ", ".join(map(str, action.choices or []))}
        rows.append((cell(name, True), cell(str(action.help or "") % known)))
    if rows:
        yield from table(("Argument", "Meaning"), rows)


def python() -> Iterator[str]:
    """Yield the page lines for the public names of `import labrun`."""
    yield "## Python"
    yield ""
    yield "`import labrun` is fast: each name is loaded when it is first used."
    yield ""
    missing = set(labrun.__all__) - set(PUBLIC)
    if missing:
        raise SystemExit(f"scripts/reference.py: PUBLIC lacks {', '.join(sorted(missing))}")
    for name in [name for name in PUBLIC if name in labrun.__all__]:
        thing = labrun.runs if name == "runs" else getattr(labrun, name)
        if name == "runs":
            from labrun.api import functions

            thing = functions.runs
        yield from _class(name, thing) if inspect.isclass(thing) else _function(f"labrun.{name}", thing, "###")


def _function(title: str, thing: Any, level: str) -> Iterator[str]:
    yield f"{level} {title}"
    yield ""
    yield "```text"
    yield f"{title}{_signature(thing)}"
    yield "```"
    yield ""
    yield from _doc(thing)


def _class(name: str, cls: type) -> Iterator[str]:
    yield f"### labrun.{name}"
    yield ""
    yield from _doc(cls)
    rows = []
    owners = [owner for owner in cls.__mro__ if owner.__module__.startswith("labrun")]
    members = {key: (owner, value) for owner in reversed(owners) for key, value in vars(owner).items()}
    for key, (_, value) in members.items():
        if key.startswith("_") or not (callable(value) or isinstance(value, property)):
            continue
        doc = inspect.getdoc(value.fget if isinstance(value, property) else value) or ""
        shown = f".{key}" if isinstance(value, property) else f".{key}{_signature(value)}"
        rows.append((cell(shown, True), cell(" ".join(" ".join(_words_of(doc)).split()))))
    if rows:
        yield from table(("Member", "Meaning"), sorted(rows))


def _words_of(doc: str) -> Iterator[str]:
    """Yield the parts of a docstring for one paragraph: its text, then its sections."""
    for name, text in _sections(doc).items():
        if name in ("Returns", "Raises"):
            yield f"{name} {text.strip()[:1].lower() if name == 'Returns' else ''}{text.strip()[name == 'Returns' :]}"
        elif name:
            yield re.sub(r"(?m)^(\w+):", r"*\1*:", text)
        else:
            yield text


def _signature(thing: Any) -> str:
    """Format a signature without `self`, annotations, and the `**_` that only callers of Azure's API need."""
    signature = inspect.signature(thing)
    kept = [p for p in signature.parameters.values() if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in kept]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _sections(doc: str) -> dict[str, str]:
    """Split a Google docstring into sections by name; its text has the empty name."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in doc.splitlines():
        match = re.fullmatch(r"(Args|Returns|Raises):", line)
        if match:
            name = match[1]
            found[name] = []
        else:
            found[name].append(line)
    return {key: inspect.cleandoc("\n".join(lines)) for key, lines in found.items() if any(lines)}


def _doc(thing: Any) -> Iterator[str]:
    for name, text in _sections(inspect.getdoc(thing) or "").items():
        if not name:
            yield text.replace("<", "&lt;")
        elif name == "Returns":
            yield f"Returns: {text}"
        else:
            joined = re.sub(r"\n +", " ", text)
            yield f"{name}:\n"
            yield re.sub(r"(?m)^([\w*]+(?:, [\w*]+)*): ", r"- `\1`: ", joined)
        yield ""


def pages() -> dict[str, str]:
    """Return the pages by file name: one per group (with its subgroups), one per command, one for Python."""
    os.environ["COLUMNS"] = "120"
    found: dict[str, list[str]] = {}
    name = "index"
    for line in configuration():
        if match := re.fullmatch(r"### ([\w/]+)", line):
            name = match[1].partition("/")[0]
            line = line.removeprefix("##" if match[1] == name else "#")
        elif name != "index" and line.startswith("####"):
            line = line.removeprefix("#")
        found.setdefault(name, []).append(line)
    for line in commands():
        if match := re.fullmatch(r"### lab (\w+)", line):
            name = f"lab-{match[1]}"
        elif line == "## lab":
            name = "index"
        found.setdefault(name, []).append(line.removeprefix("##") if line.startswith("###") else line)
    found["azureml"] = azureml_page.page().splitlines()
    found["python"] = [line.removeprefix("#") if line.startswith("##") else line for line in python()]
    listed = [
        f"- [`{key}`]({key}.md)"
        for key in found
        if key != "index" and not key.startswith(("lab-", "python", "azureml"))
    ]
    lab_pages = [f"- [`{key.replace('-', ' ')}`]({key}.md)" for key in found if key.startswith("lab-")]
    at = found["index"].index("## lab")
    found["index"][at:at] = ["A page for each group:", "", *listed, ""]
    found["index"] += [
        "A page for each command:",
        "",
        *lab_pages,
        "",
        "## Python",
        "",
        "[Functions and classes](python.md)",
        "",
        "[Names of the Azure ML SDK v1](azureml.md)",
    ]
    return {key: f"{HEAD if key == 'index' else ''}{chr(10).join(lines).strip()}\n" for key, lines in found.items()}


def stale(now: dict[str, str]) -> str:
    """Return a readable diff between the pages and the code; empty if they match."""
    lines: list[str] = []
    then = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    for name in sorted({*now, *then}):
        old, new = (texts.get(name, "").splitlines() for texts in (then, now))
        lines += difflib.unified_diff(old, new, f"docs/reference/{name}.md", "the code", "", "", 0, "")
    return "\n".join(lines[:40])


def main(arguments: Sequence[str] = ()) -> int:
    """Check or write the pages, and return the exit code."""
    now = pages()
    if "--write" in arguments:
        FOLDER.mkdir(exist_ok=True)
        for path in FOLDER.glob("*.md"):
            path.unlink()
        for name, text in now.items():
            (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
        return 0
    difference = stale(now)
    if difference:
        sys.stderr.write(f"{difference}\nThe pages are stale: python scripts/reference.py --write\n")
    return int(bool(difference))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
