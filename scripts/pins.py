"""Pin the tested package versions in pyproject.toml, as `[tool.uv] constraint-dependencies`.

    python scripts/pins.py           check that a fresh resolution (uv.lock) matches the pins
    python scripts/pins.py --write   take the pins from uv.lock

uv.lock itself is not under version control, because it contains addresses of package hosts.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).parents[1]
PROJECT = TOP / "pyproject.toml"


def locked() -> list[str]:
    """Return a pin for every package in uv.lock except labrun, with markers if versions differ by platform."""
    content = tomllib.loads((TOP / "uv.lock").read_text(encoding="utf-8"))
    pins = []
    for package in content["package"]:
        if package["name"] != "labrun" and "version" in package:
            # sorted, because uv's order varies between resolutions
            markers = " or ".join(sorted(f"({marker})" for marker in package.get("resolution-markers", [])))
            pins.append(f"{package['name']}=={package['version']}" + (f" ; {markers}" if markers else ""))
    return sorted(pins)


def pinned() -> list[str]:
    """Return the pins in pyproject.toml."""
    found = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["uv"]["constraint-dependencies"]
    return sorted(str(pin) for pin in found)


def write(pins: list[str]) -> None:
    """Replace the pins in pyproject.toml."""
    lines = "".join(f'    "{pin}",\n' for pin in pins)
    block = f"constraint-dependencies = [\n{lines}]\n"
    text = PROJECT.read_text(encoding="utf-8")
    PROJECT.write_text(re.sub(r"constraint-dependencies = \[.*?\n\]\n", block, text, flags=re.DOTALL), encoding="utf-8")


def main() -> int:
    """Check or write the pins, and return the exit code."""
    pins = locked()
    if "--write" in sys.argv:
        write(pins)
        return 0
    wrong = [f"resolved, not pinned: {pin}" for pin in pins if pin not in pinned()]
    wrong += [f"pinned, not resolved: {pin}" for pin in pinned() if pin not in pins]
    print("\n".join(wrong) or f"all {len(pins)} pins are what a fresh resolution gives")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
