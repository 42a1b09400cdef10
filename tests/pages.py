"""The pages of the documentation: their blocks, and outputs in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]+?) -->\n)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)
FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml|txt|toml|sh))$")


@dataclass
class Block:
    """A fenced block of a page."""

    kind: str
    text: str
    mark: str
    line: int

    @property
    def file(self) -> str | None:
        """Where it is written to, if it begins with a comment that names a file."""
        first, second, *_ = [*self.text.splitlines(), "", ""]
        # Hydra wants its own line to be the first.
        match = FILE.fullmatch(second if first.startswith("# @package") else first)
        return match[1] if match else None

    @property
    def commands(self) -> list[str]:
        """Its commands; a line that continues after a backslash is one command."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        Block(m["kind"], m["text"], m["mark"] or "", text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)
    ]


def compare(wanted: str, printed: str, where: str) -> None:
    """Each line of a page stands in the output, in this order; `...` is anything, a line of it any lines."""
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
    # Whether a library is still to be loaded depends on the warm interpreter.
    lines = [line for line in lines if not re.fullmatch(r"Loading \S+ \.\.\.", line)]
    position, anywhere = 0, True
    for line in (" ".join(line.split()) for line in wanted.splitlines() if line.strip()):
        if line == "...":
            anywhere = True
            continue
        pattern = re.compile("-{5,}" if set(line) == {"-"} else ".*".join(map(re.escape, line.split("..."))))
        reach = lines[position:] if anywhere else lines[position : position + 1]
        found = next((n for n, one in enumerate(reach) if pattern.fullmatch(one)), None)
        assert found is not None, f"{where}: this is not printed (here):\n  {line}\nprinted:\n{printed}"
        position, anywhere = position + found + 1, False
