"""The tree of errors that `labrun.errors` draws."""

from __future__ import annotations

import re
from pathlib import Path

from labrun import errors

SOURCE = Path(errors.__file__).parent


def bases() -> dict[str, tuple[str, str]]:
    """Return the base and the module of every class that derives from one base."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for name, base in re.findall(r"(?m)^class (\w+)\((?:\w+\.)*(\w+)\):", path.read_text(encoding="utf-8")):
            found[name] = (base, module)
    return found


def test_the_drawn_tree_has_every_error_with_its_base_and_module() -> None:
    all_bases, known = bases(), {"LabrunError"}
    while grown := {name for name, (base, _) in all_bases.items() if base in known} - known:
        known |= grown
    expected = {name: all_bases[name] for name in known - {"LabrunError"} if not name.startswith("_")}
    drawn, above = {}, {-1: "LabrunError"}
    for line in str(errors.__doc__).splitlines():
        if match := re.match(r"    ([| ]*)(?:\|--|`--) (\w+Error) .*?(?:\(`([\w.]+)`\))?$", line):
            level = len(match[1]) // 4
            drawn[match[2]] = (above[level - 1], match[3] or "errors")
            above[level] = match[2]
    assert drawn == expected
