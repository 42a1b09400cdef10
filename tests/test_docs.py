"""The documentation: every block is executed, every output is compared, and every link is checked.

A comment before a block changes how it is tested:

    <!-- composed -->     needs hardware or a cloud: only composes and validates the config, or parses the `lab` command
    <!-- set-up -->       installs or signs in: compared with the project's files
    <!-- slurm -->        runs on the cluster of this machine
    <!-- azure -->        runs with the Azure emulator;   <!-- s3 -->  with an S3 server
    <!-- real data -->    runs with MNIST and CIFAR-10 in ./data
    <!-- data -->         in the README: runs on the real data, in `test_readme.py`
    <!-- mlflow -->       `lab ui` or `lab runs sync`, and its output: run and compared in `cli/test_ui.py`
    <!-- exit 2 -->       must exit with this code
    <!-- listing -->      a `text` block that is not the output of a command
    <!-- theirs -->       Python for another library: only parsed

Each page has its own workspace, in which its blocks run in order. A `text` block after a command is its output; `...`
matches any text, and a line of `...` matches any lines.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import helpers
from conftest import Command
from labrun import cli
from labrun.backends.base import Backend, Executor
from labrun.data.reader import Reader
from labrun.tasks.base import TaskType
from labrun.tasks.task import ModelTask
from labrun.tracking.base import Session, Tracker
from pages import BLOCK, DOCS, TOP, Block, blocks, compare
from servers import Server, azurite, azurite_command, moto

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
SAID = "*The tests check these commands but do not run them.*"
NEEDS = {"slurm": "cluster", "azure": "azurite_server", "s3": "s3_server", "real data": "real_data"}
SET_UP = (
    "pip install uv",
    "uv sync --extra ",
    "uv add ",
    "uv run labrun",
    "uv run pytest",
    "export ",
    "source .venv/bin/activate",
)


@dataclass
class Place:
    """A page's workspace, and the variables of the commands in it."""

    folder: Path
    variables: dict[str, str]
    labrun_here: Command


@pytest.fixture
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page's own: it shows all that is in it."""
    if azurite_command() is None:
        pytest.skip("needs the Azure emulator: tests/storage/install fetches it")
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


def _is_setting(name: str) -> bool:
    return name.startswith("LABRUN_") and not name.startswith("LABRUN_WARM")


def _prepare(page: str, folder: Path, labrun_here: Command, request: pytest.FixtureRequest) -> Place:
    """Prepare a workspace for the page; the commands of this environment come first on the path."""
    helpers.wait_until_warm()
    unwanted = ("PYTHONPATH", "MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR")
    variables = {k: v for k, v in os.environ.items() if not _is_setting(k) and k not in unwanted}
    variables |= {"COLUMNS": "120"}
    for name in sorted({NEEDS[block.mark] for block in blocks(page) if block.mark in NEEDS}):
        given = request.getfixturevalue(name)
        if isinstance(given, Server):
            variables |= given.environment
        elif isinstance(given, Path):
            (folder / "data").symlink_to(given)
    if page not in WITH_PICTURES:
        helpers.draw_none(folder)
    return Place(folder, variables, labrun_here)


def test_every_block_of_a_page_has_a_tested_kind() -> None:
    known = {"bash", "python", "yaml", "text"}
    marks = {"", "composed", "set-up", "listing", "theirs", "data", "mlflow", *NEEDS}
    for page in [README, *PAGES]:
        text = (DOCS / page).read_text(encoding="utf-8")
        for block in blocks(page):
            assert block.kind in known, f"{page}:{block.line}: ```{block.kind}"
            mark = block.mark
            assert mark in marks or re.match(r"exit \d$", mark), f"{page}:{block.line}: <!-- {mark} -->"
            told = text.splitlines()[block.line + block.text.count("\n") + 2 :][:2]
            assert mark != "composed" or SAID in told, f"{page}:{block.line}: the page does not say: {SAID}"
        fences = re.findall(r"^ *```", text, re.M)
        assert len(fences) == 2 * len(blocks(page)), f"{page}: a block that the tests do not see"


WITH_PICTURES = ("tutorial.md", "howto/python.md")
"""Pages that are about them; elsewhere they would cost seconds for each run."""
WITH_MLFLOW = ("tutorial.md", "howto/inspect-runs.md")
README = "../README.md"
EXECUTED = [page for page in [README, *PAGES] if not page.startswith("reference/") and blocks(page)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", EXECUTED)
def test_commands_and_code_of_a_page_print_what_it_shows(
    page: str, workspace: Path, labrun_here: Command, request: pytest.FixtureRequest
) -> None:
    """Takes minutes for some pages: every command runs for real, one after the other, as a reader types them."""
    execute_page(page, _prepare(page, workspace, labrun_here, request))


def execute_page(page: str, place: Place) -> None:
    """Execute every block of a page in order."""
    printed: str | None = None
    for block in blocks(page):
        where = f"docs/{page}:{block.line}"
        if block.mark == "mlflow":
            assert page in WITH_MLFLOW, where
        elif block.kind == "text":
            if block.mark != "listing":
                assert printed is not None, f"{where}: no command printed this"
                compare(block.text, printed, where)
        elif block.mark == "data":
            assert page == README, where
        elif block.mark == "theirs":
            ast.parse(block.text)
        elif block.file is not None:
            path = place.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.kind == "yaml":
            raise AssertionError(f"{where}: a config begins with its file's name, as in # conf/model/mine.yaml")
        else:
            printed = _execute_block(block, place, where)


def _execute_block(block: Block, place: Place, where: str) -> str:
    if block.kind == "python":
        (place.folder / "block.py").write_text(block.text, encoding="utf-8")
        return _run(helpers.program("python", "block.py"), place, 0, where)
    if block.mark == "set-up":
        for line in block.commands:
            assert line.startswith(SET_UP), f"{where}: {line}"
        _check_extras(block.text, where)
        return ""
    if block.mark == "composed":
        return "".join(_compose(line, place, where) for line in block.commands)
    code = int(block.mark.split()[1]) if block.mark.startswith("exit ") else 0
    if "CUDA_VISIBLE_DEVICES=" in block.text:  # the command would leave a warm interpreter of its own behind
        place = replace(place, variables={**place.variables, "LABRUN_WARM": "0"})
    return "".join(_run(_command(line), place, code, where) for line in block.commands)


def _command(line: str) -> list[str]:
    """Return the command of a line; a plain `python FILE` runs in the warm interpreter."""
    if re.match(r"python \S+\.py\b", line) and not re.search(r"[|&;<>$#]", line):
        _, *words = shlex.split(line)
        return helpers.program("python", *words)
    return ["bash", "-c", line]


def _run(command: list[str], place: Place, code: int, where: str) -> str:
    done = subprocess.run(
        command,
        cwd=place.folder,
        env=place.variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == code, f"{where}: {command[-1]}\nexit code {done.returncode}\n{done.stdout}"
    return done.stdout


def _compose(line: str, place: Place, where: str) -> str:
    """Compose and validate the run of a command, or only parse it; nothing is executed."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "lab":
        cli.parse(arguments)
        return ""
    assert program == "labrun", f"{where}: {line}"
    # Hydra composes no sweep: of each list the first value.
    single = [re.sub(r"^([\w./+@-]+=)([^\[({'\",]+),.*$", r"\1\2", word) for word in arguments if word != "-m"]
    single = [word for word in single if not re.search(r"=(tag|interval|range|int|choice|glob)\(", word)]
    done = place.labrun_here(*single, "--cfg", "job", COLUMNS="120")
    assert done.returncode == 0, f"{where}: {line}\n{done.stdout}{done.stderr}"
    return done.stdout


def _check_extras(text: str, where: str) -> None:
    import tomllib

    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    for extra in re.findall(r"--extra (\w+)", text):
        assert extra in project["project"]["optional-dependencies"], f"{where}: {extra}"


def test_the_reference_pages_match_the_code() -> None:
    script = helpers.program("python", str(TOP / "scripts" / "reference.py"))
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SETTING_OTHERS = ("debug", "experiment")
"""Groups whose files set keys of other groups, on whose pages the keys are explained."""


def test_the_reference_explains_every_key_and_argument() -> None:
    for page in sorted((DOCS / "reference").glob("*.md")):
        if page.stem in SETTING_OTHERS:
            continue
        text = page.read_text(encoding="utf-8")
        for table in re.findall(r"(?m)^\| (?:Key|Group|Argument|Member) .*\n(?:\|.*\n)+", text):
            head, _, *rows = table.splitlines()
            assert head.endswith(" | Meaning |"), f"{page.name}: nothing explains {rows[0]}"
            for row in rows:
                assert not row.endswith("|  |"), f"{page.name}: nothing explains {row}"


def test_every_link_of_a_page_has_a_target() -> None:
    for page in [README, *PAGES]:
        text = BLOCK.sub("", (DOCS / page).read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text):
            if target and "://" not in target:
                assert (DOCS / page).parent.joinpath(target).is_file(), f"{page}: {target}"


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement inside a node: expressions define nothing, and are most of the tree."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from _statements(child)


def _defined() -> set[str]:
    """Every name that the sources define: `room.module.name`, `Class.member`, and each end of them."""
    found: set[str] = set()
    for path in (TOP / "src").rglob("*.py"):
        module = ".".join(path.relative_to(TOP / "src").with_suffix("").parts).removesuffix(".__init__")
        names = {module}
        for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                inner = [node.name]
                if isinstance(node, ast.ClassDef):
                    fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
                    members = [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
                    inner += [f"{node.name}.{name}" for name in (*members, *(getattr(f, "id", "") for f in fields))]
                else:
                    inner += [argument.arg for argument in node.args.args]
                names |= {f"{module}.{name}" for name in inner}
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {f"{module}.{one.id}" for one in targets if isinstance(one, ast.Name)}
        for name in names:
            parts = name.split(".")
            found |= {".".join(parts[start:]) for start in range(len(parts))}
    return found


def test_names_in_the_architecture_page_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    spans = {re.sub(r"\(.*\)", "", span) for span in re.findall(r"`([^`\n]+)`", text)}
    dotted = {span for span in spans if re.fullmatch(r"[a-z]\w*(\.\w+)+", span)}
    files = {span for span in dotted if span.endswith((".py", ".json", ".jsonl", ".toml", ".db", ".csv", ".yaml"))}
    theirs = {"hydra.main", "torch.nn.Module", "labrun.trackers", "compute.target"}
    assert dotted - files - theirs - _defined() == set()
    paths = {
        span for span in spans if "NAME" not in span and re.fullmatch(r"(src|tests|hydra_plugins|docs)/[\w./-]+", span)
    }
    assert {path for path in paths if not any((TOP / root / path).exists() for root in ("", "src"))} == set()


@pytest.mark.parametrize("contract", [Backend, Executor, Tracker, Session, Reader, ModelTask, TaskType])
def test_the_architecture_page_names_all_members_of_a_contract(contract: type) -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    tables = [table for table in text.split("\n\n") if re.search(rf"^\| `{contract.__name__}`", table, re.MULTILINE)]
    named = {re.sub(r"\(.*", "", span) for table in tables for span in re.findall(r"`([^`\n]+)`", table)}
    members = {name for name in {**vars(contract), **contract.__annotations__} if not name.startswith("_")}
    assert members - named == set()


def test_every_page_is_in_the_navigation() -> None:
    def pages(node: object) -> Iterator[str]:
        for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else [node]:
            yield from [item] if isinstance(item, str) else pages(item)

    assert sorted(pages(yaml.safe_load((TOP / "mkdocs.yml").read_text())["nav"])) == PAGES


class _Seen(HTMLParser):
    """The addresses that a built page refers to, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.add(found.get("id") or "")
        if tag == "a":
            self.links.append(found.get("href") or "")
        elif tag in ("script", "img", "link") and found.get("rel") != "canonical":
            self.loaded.append(found.get("src") or found.get("href") or "")


def test_the_site_builds_without_warnings_or_external_resources(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("needs MkDocs and its theme: uv sync --group docs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {}
    for path in site.rglob("*.html"):
        seen[path] = _Seen()
        seen[path].feed(path.read_text(encoding="utf-8"))
    for path, page in seen.items():
        if path.name == "404.html":
            continue
        assert not [address for address in page.loaded if "://" in address], path
        for link in page.links:
            address, _, anchor = link.partition("#")
            if "://" in link or address.startswith("mailto:"):
                continue
            target = (path.parent / address).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name}: {link}"
            assert not anchor or anchor in seen[target].anchors, f"{path.name}: {link}"
    assert "sweep" in (site / "search" / "search_index.json").read_text(encoding="utf-8")
