"""Wheels for a machine without access to a package index: built locally, or from the user's folder; sent by digest."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labrun.data import digests
from labrun.errors import ConfigError
from labrun.remote import data
from labrun.remote.channel import Channel

log = logging.getLogger(__name__)

AUTO = "auto"
"""Value for wheels that are built locally."""
KINDS = (".whl", ".tar.gz", ".zip")
INDEX = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX_URL": "PIP_INDEX_URL",
    "UV_EXTRA_INDEX_URL": "PIP_EXTRA_INDEX_URL",
}
"""uv's variables for package indexes, and the corresponding ones of pip."""


def send(channel: Channel, folder: Path, to: str) -> None:
    """Send the wheels of a folder.

    Raises:
        ConfigError: the folder has none.
    """
    files = sorted(path for path in folder.iterdir() if path.name.endswith(KINDS)) if folder.is_dir() else []
    if not files:
        raise ConfigError(f"the wheelhouse {folder} has no {', '.join(KINDS)} file")
    sums = dict(zip(files, digests.of(files), strict=True))
    data.send_missing(channel, channel.remote.name, {digest: path for path, digest in sums.items()}, "wheels")
    channel.call("link", store=data.STORE, to=to, files={path.name: digest for path, digest in sums.items()})


def made(key: str, requirements: Sequence[str], uv: Path | None) -> Path:
    """Return a folder with a wheel of each package, built locally once.

    Raises:
        ConfigError: they cannot be built locally either.
    """
    from filelock import FileLock

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "labrun" / "wheels"
    folder, partial = cache / key, cache / f"{key}.partial"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{key}.lock"):
        if folder.is_dir():
            return folder
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        wanted = cache / f"{key}.txt"
        wanted.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        log.info("Building wheels of %d packages once: %s", len(requirements), folder)
        words = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(partial), "-r", str(wanted)]
        done = subprocess.run(
            [*_pip(uv), *words, "--disable-pip-version-check"],
            capture_output=True,
            text=True,
            env=_variables(),
            check=False,
        )
        if done.returncode:
            last = "\n".join(f"  {line}" for line in (done.stderr or done.stdout).strip().splitlines()[-4:])
            raise ConfigError(f"the wheels could not be built here:\n{last}")
        partial.rename(folder)
    return folder


def _pip(uv: Path | None) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv is None:
        raise ConfigError("the wheels cannot be built here: there is neither pip nor uv")
    return [str(uv), "tool", "run", "--python", sys.executable, "pip"]


def _variables() -> dict[str, str]:
    environment = dict(os.environ)
    for name, of_pip in INDEX.items():
        if name in os.environ:
            environment.setdefault(of_pip, os.environ[name])
    return environment
