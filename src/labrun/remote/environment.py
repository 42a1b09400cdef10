"""The remote environment of runs: the local packages, installed once with uv, or an existing remote interpreter."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from labrun._io import run_command
from labrun.backends import registry
from labrun.errors import ConfigError, LabrunError
from labrun.remote import packed, remotes, wheels
from labrun.remote.channel import Channel, Meter
from labrun.remote.remotes import Facts
from labrun.runs.record import installed_packages

if TYPE_CHECKING:
    from labrun.remote.messages import SpawnAnswer, WaitAnswer

log = logging.getLogger(__name__)

BUILD = """
set -eu
umask 077
cd {root}
mkdir -p env cache
own="$PWD/env/.{key}.$(uname -n).$$"
trap 'rm -rf "$own" "$own.txt"' EXIT
(while kill -0 $$ 2>/dev/null; do touch {claim}; sleep 5; done) &
cat > "$own.txt"
{uv} venv --quiet --relocatable --python {version} "$own" || {{ [ $? -gt 125 ] || echo "{no_python}"; exit 1; }}
{uv} pip install {wheels}--no-deps --python "$own/bin/python" -r "$own.txt"
[ -e env/{key} ] || mv "$own" env/{key}
"""
"""Remote script for `sh -c`, which reads the requirements from standard input.

Each build has its own folder, and the first to finish takes the name: a cluster's login nodes, which share the disk,
may build at the same time if its file system has no locks. A build touches its claim file regularly, which other hosts
check. Exit codes above 125 mean that uv itself could not be executed.
"""
NO_PYTHON = "labrun: no Python"
JOB_NAME = "labrun-build"
PASSED_ON = (
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX_STRATEGY",
    "UV_FIND_LINKS",
    "UV_OFFLINE",
    "UV_PYTHON_DOWNLOADS",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
)
"""Variables of uv that are passed to a remote build through the connection, and never written to a file."""
INFLUENTIAL = ("hydra-core", "numpy", "omegaconf", "pytorch-lightning", "scikit-learn", "scipy", "submitit", "torch")
"""Packages whose versions change results."""


@dataclass(frozen=True)
class RequiredPackages:
    """The packages that give a remote run the same environment as a local one."""

    version: str
    """Python version, such as `3.11`."""
    requirements: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its remote name, from its content."""
        content = "\n".join([self.version, platform.system(), platform.machine(), *self.requirements])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def required_packages() -> RequiredPackages:
    """Return this interpreter's packages, without labrun, which is sent separately, and without folders of code.

    Raises:
        ConfigError: a package was installed from a local file or folder.
    """
    requirements, problems = [], []
    for one in metadata.distributions():
        name = one.metadata["Name"]
        if not name or name.lower() == "labrun":
            continue
        origin = json.loads(one.read_text("direct_url.json") or "{}")
        url = str(origin.get("url", ""))
        if "dir_info" in origin:
            if not origin["dir_info"].get("editable"):
                problems.append(f"{name} was installed from the folder {url.removeprefix('file://')}")
            continue
        if "vcs_info" in origin:
            vcs = origin["vcs_info"]
            requirements.append(f"{name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}")
        elif url.startswith("file://"):
            problems.append(f"{name} was installed from the file {url.removeprefix('file://')}")
        elif url:
            requirements.append(f"{name} @ {url}")
        else:
            requirements.append(f"{name}=={one.version}")
    if problems:
        raise ConfigError(
            f"an environment with these packages cannot be built on another machine: {'; '.join(sorted(problems))}. "
            "Name an interpreter that has them there: lab remote add NAME ADDRESS --python PATH"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return RequiredPackages(version, tuple(sorted(set(requirements), key=str.lower)))


def ensure(channel: Channel) -> str:
    """Provide the remote environment. Return the path of its interpreter.

    Raises:
        LabrunError: it cannot be built; the message has the reason and the log's path.
    """
    remote = channel.remote
    if remote.python is not None:
        _tell_differences(channel)
        return channel.python or remote.python
    wanted = required_packages()
    python = f"env/{wanted.key}/bin/python"
    if channel.call("built", folder=f"env/{wanted.key}")["built"]:
        return f"{channel.root}/{python}"
    facts = channel.facts()
    check_platform(remote.name, facts)
    uv = facts.uv or _send_uv(channel)
    log.info("Building the environment on %s, once: %d packages", remote.name, len(wanted.requirements))
    wheelhouse = remote.wheelhouse
    try:
        _build(channel, wanted, uv, facts, wheelhouse)
    except NoIndexError as error:
        if wheelhouse is not None or os.environ.get("UV_OFFLINE"):
            raise
        log.info("%s cannot reach a package index: building wheels here and sending them", remote.name)
        try:
            _build(channel, wanted, uv, facts, wheels.AUTO)
        except ConfigError as trouble:
            raise LabrunError(f"{error}\nIt cannot be built with wheels from here either: {trouble}") from trouble
    return f"{channel.root}/{python}"


class NoIndexError(LabrunError):
    """An environment could not be built, because the machine cannot reach a package index."""


NO_INDEX = re.compile(
    r"dns error|failed to lookup|error sending request|tcp connect error|Connection refused|Network is unreachable|"
    r"No route to host|operation timed out|Failed to fetch|Could not connect",
    re.IGNORECASE,
)
"""What uv writes if it cannot reach an index; its exit code is the same for every failure."""


def check_build(build: str) -> None:
    """Check the setting `Remote.build`.

    Raises:
        ConfigError: it names no backend that can build an environment in a job.
    """
    name = "".join(build.split()[:1])
    builders = [one.name for one in registry.all_known() if one.blocking_job(JOB_NAME, []) is not None]
    if name not in builders:
        known = " or ".join(builders)
        raise ConfigError(f"--build {build!r}: give {known}, with options for its job if it needs any")


def _builder(channel: Channel, facts: Facts) -> list[str]:
    """Return the command prefix for the remote build: none, or what executes it in a job.

    Raises:
        ConfigError: the machine lacks the program for jobs.
    """
    build = channel.remote.build
    if build is None:
        return []
    check_build(build)
    name, *options = build.split()
    backend = registry.get(name)
    path = "" if backend.program is None else facts.programs.get(backend.program)
    if path is None:
        raise ConfigError(f"--build {name}: {channel.remote.name} has no {backend.program} on its PATH")
    return backend.blocking_job(JOB_NAME, options, os.path.dirname(path)) or []


def check_platform(name: str, facts: Facts) -> None:
    """Check that the local packages can be installed on a machine.

    Raises:
        ConfigError: its platform is different.
    """
    local, remote = (platform.system(), platform.machine()), (facts.system, facts.machine)
    if local != remote:
        raise ConfigError(
            f"compute.host={name}: {name} is {' '.join(remote)}, but this machine is {' '.join(local)}: the local "
            f"packages do not fit. Make an environment there by hand, and name its interpreter: "
            f"lab remote add {name} ADDRESS --python PATH"
        )


def _build(channel: Channel, wanted: RequiredPackages, uv: str, facts: Facts, wheelhouse: str | None) -> None:
    index_options = ""
    if wheelhouse is not None:
        is_made = wheelhouse == wheels.AUTO
        folder = wheels.made(wanted.key, wanted.requirements, local_uv()) if is_made else Path(wheelhouse).expanduser()
        wheels.send(channel, folder, f"env/{wanted.key}.wheels")
        index_options = f"--no-index --find-links env/{wanted.key}.wheels "
    seen, text = _start_build(channel, wanted, uv, facts, index_options), ""
    built = f"env/{wanted.key}"
    while True:
        state: WaitAnswer = channel.call(
            "wait", claim=f"{built}.build", file=f"{built}/bin/python", log=f"{built}.log", seen=seen, patience_s=10.0
        )
        seen, text = state["seen"], (text + state["log"])[-4000:]
        for line in state["log"].splitlines():
            if line.strip() and not line.startswith((" + ", NO_PYTHON)):  # uv lists each package at the end
                log.info("  %s", line)
        if state["there"]:
            channel.call("built", folder=built)  # records its files while it is complete
            return
        if not state["lives"]:
            raise _build_error(channel, wanted, text)


def _start_build(channel: Channel, wanted: RequiredPackages, uv: str, facts: Facts, index_options: str) -> int:
    """Start a build, unless one is active. Return the size of the log of earlier builds."""
    script = BUILD.format(
        root=shlex.quote(channel.root),
        key=wanted.key,
        uv=shlex.quote(uv),
        version=wanted.version,
        claim=f"env/{wanted.key}.build",
        wheels=index_options,
        no_python=NO_PYTHON,
    )
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    begun: SpawnAnswer = channel.call(
        "spawn",
        claim=f"env/{wanted.key}.build",
        built=f"env/{wanted.key}",
        log=f"env/{wanted.key}.log",
        command=[*_builder(channel, facts), "sh", "-c", script],
        environment={**variables, "UV_CACHE_DIR": f"{channel.root}/cache/uv"},
        stdin="\n".join(wanted.requirements) + "\n",
    )
    return begun["seen"]


def _build_error(channel: Channel, wanted: RequiredPackages, text: str) -> LabrunError:
    """Return the error for a build that has failed, from the end of its log."""
    remote = channel.remote
    if NO_PYTHON in text:
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        return LabrunError(
            f"{remote.name} has no Python {wanted.version}, which this machine has, and uv cannot fetch it there "
            f"({''.join(errors[-1:]).removeprefix('error: ')}). Install Python {wanted.version} there, or name an "
            f"interpreter that has the packages: lab remote add {remote.name} {remote.address} --python PATH"
        )
    lines = [line for line in text.strip().splitlines() if line.strip()][-6:]
    ending = "\n".join(f"  {line}" for line in lines)
    kind = NoIndexError if NO_INDEX.search(text) else LabrunError
    return kind(
        f"the environment could not be built on {remote.name}. The last lines of "
        f"{channel.root}/env/{wanted.key}.log there:\n{ending}\nNo access to a package index there? Send wheels "
        "(lab remote add NAME ADDRESS --wheelhouse auto), or name an interpreter that has the packages (--python PATH)"
    )


def local_uv() -> Path | None:
    """Return the path of uv's binary; None if it is not installed locally."""
    found = shutil.which("uv")
    candidates = [Path(found)] if found else []
    try:
        import uv  # type: ignore[import-not-found]

        candidates.append(Path(uv.find_uv_bin()))
    except (ImportError, OSError):
        pass
    found = run_command(["pyenv", "which", "uv"], timeout_s=10)
    candidates += [] if found is None else [Path(found.strip())]
    return next((path for path in candidates if _is_program(path)), None)


def _is_program(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"\x7fELF", b"\xcf\xfa\xed\xfe")
    except OSError:
        return False


def ensure_uv(channel: Channel) -> None:
    """Provide uv on the machine for script environments if possible; without it, they are built with pip."""
    facts = channel.facts()
    is_alike = (facts.system, facts.machine) == (platform.system(), platform.machine())
    if not facts.uv and is_alike and local_uv() is not None:
        _send_uv(channel)


def _send_uv(channel: Channel) -> str:
    """Send uv. Return its remote path.

    Raises:
        LabrunError: it is not installed locally either.
    """
    path = local_uv()
    if path is None:
        raise LabrunError(
            f"{channel.remote.name} has no uv, and none was found locally to send: install it "
            "there (see 'lab remote doctor')"
        )
    file, size = packed.archive({"uv": path})
    with file:
        channel.send("put", file, size, Meter(f"sending uv to {channel.remote.name}", size), to="bin", marked=True)
    return f"{channel.root}/bin/uv"


def _tell_differences(channel: Channel) -> None:
    """Report packages of a remote interpreter whose versions may change results, once per pair of environments."""
    remote = remotes.known().get(channel.remote.name, channel.remote)
    interpreter = remote.facts.python if remote.facts is not None else None
    if isinstance(interpreter, str):
        return  # it cannot be used; its own error says why
    if interpreter is not None:
        found = interpreter.packages
    elif "there" in remote.packages:
        found = remote.packages["there"]["packages"]
    else:
        answer = channel.call("hello", root=channel.remote.folder, python=remote.python, packages=True)["packages"]
        if not isinstance(answer, Mapping):
            return
        found = answer["packages"]
    packages = {name: version for name, version in found.items() if name in INFLUENTIAL}
    differing = differences(packages)
    if differing and differing != remote.packages.get("told"):
        sys.stderr.write(f"labrun: {remote.python} on {remote.name} has other versions: {', '.join(differing)}\n")
    remotes.note_packages(remote.name, {"there": {"packages": packages}, "told": differing})


def differences(remote_versions: Mapping[str, str], only_missing: bool = False) -> list[str]:
    """Return the packages whose different remote versions may change results.

    Args:
        remote_versions: the remote packages.
        only_missing: leave out packages that exist in another version.
    """
    installed = installed_packages().items()
    local_versions = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in installed}
    return [
        f"{name} {remote_versions.get(name, 'missing')} (here {local_versions[name]})"
        for name in INFLUENTIAL
        if name in local_versions
        and remote_versions.get(name) != local_versions[name]
        and not (only_missing and name in remote_versions)
    ]
