"""What Hydra itself saves of a job in `.hydra/`; variables for the runs by name only."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf._utils import OmegaConfDumper

from labrun.errors import ConfigError, RecordError
from labrun.runs import context, custom_locations
from labrun.runs import record as records
from labrun.runs.record import HIDDEN

REFERENCE = re.compile(r"""(["']?)\$\{oc\.env:\s*\w+\s*\}\1""")
"""One variable of the environment, and nothing else: no default, which would be a value of its own."""


VARIABLES = (("compute", "environment"), ("hydra", "job", "env_set"))
"""Nodes that give a run variables: labrun's own, and Hydra's."""
SUBFOLDER = ".hydra"
"""Where Hydra's files of a run lie, unless `hydra.output_subdir` says otherwise."""
KEPT = Path(custom_locations.LAUNCH, "hydra")
"""Where they lie for labrun's own use then."""


def hide_environment(overrides: Sequence[str]) -> list[str]:
    """Overrides as records hold them: variables for the runs by name only, or as a reference to the environment."""
    return [
        with_variables(text, lambda name, value: value if REFERENCE.fullmatch(value) else HIDDEN) for text in overrides
    ]


def by_reference(overrides: Sequence[str]) -> list[str]:
    """Overrides as records hold them, to be typed again: variables whose values they have not come from where that is.

    Several that were given as one have no names here, and stay hidden: such a command is refused.
    """
    return [
        with_variables(text, lambda name, value: f"${{oc.env:{name}}}" if name and value == HIDDEN else value)
        for text in overrides
    ]


def with_variables(override: str, change: Callable[[str, str], str]) -> str:
    """An override, the values of those variables changed that it gives to the runs; any other as it is.

    Args:
        override: as it was typed.
        change: gives the new value for a name and a value; the name is empty where several are given as one.
    """
    key, equals, value = override.partition("=")
    path = tuple(key.lstrip("+~").split("."))
    for node in VARIABLES:
        is_above = path == node[: len(path)] and value.lstrip().startswith("{") and node[-1] in value
        if equals and (path[: len(node)] == node or (is_above and len(path) < len(node))):
            return f"{key}={change('.'.join(path[len(node) :]), value.strip())}"
    return override


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes any."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def by_name(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Variables for the runs as records hold them; see `hide_environment`."""
    return {name: value if REFERENCE.fullmatch(str(value)) else HIDDEN for name, value in environment.items()}


def top_key(override: str) -> str:
    """The group at the top that an override is about: `compute` for `+compute.extra.x=1`, and for `compute=slurm`."""
    return override.lstrip("+~").partition("=")[0].replace("/", ".").split(".")[0]


def texts(config: DictConfig, of_sweep: bool = False) -> dict[str, str]:
    """What Hydra itself saves of a job, or of a sweep, file by file; variables for the runs by name only.

    Args:
        config: the whole config, Hydra's own node too.
        of_sweep: the sweep's `multirun.yaml`.
    """
    own = {str(key): _unresolved(config._get_node(key)) for key in config if key != "hydra"}
    hydra = _unresolved(config.hydra)
    environment = (own.get("compute") or {}).get("environment") or {}
    own.get("compute", {})["environment"] = by_name(environment)
    job = hydra["job"]
    copied = {name: f"${{oc.env:{name}}}" for name in job["env_copy"] or ()}
    job["env_set"] = by_name({**(job["env_set"] or {}), **copied})
    hydra["overrides"]["hydra"] = hide_environment(hydra["overrides"]["hydra"])
    typed = hydra["overrides"]["task"]
    hidden = hide_environment(typed)
    for before, after in zip(typed, hidden, strict=True):
        if before != after:
            job["override_dirname"] = job["override_dirname"].replace(before, after)
    hydra["overrides"]["task"] = hidden
    if of_sweep:
        return {"multirun.yaml": as_yaml({"hydra": hydra, **own})}
    hydra_text = "hydra:\n" + "".join(_yaml_of_key(key, _Value(value), "hydra") for key, value in hydra.items())
    own_text = "".join(_yaml_of_key(key, _Value(value)) for key, value in own.items())
    return {"config.yaml": own_text or as_yaml({}), "hydra.yaml": hydra_text, "overrides.yaml": as_yaml(hidden)}


def plain(config: Mapping[str, Any], overrides: Sequence[str], source: Path) -> dict[str, str]:
    """What stands in `.hydra/` for a run that was not composed by Hydra: its config, and another run's `hydra.yaml`.

    Args:
        config: as its record has it.
        overrides: as its record has them.
        source: the other run's `.hydra`.
    """
    found = {"config.yaml": as_yaml(dict(config)), "overrides.yaml": as_yaml(list(overrides))}
    with contextlib.suppress(OSError, ValueError):
        found["hydra.yaml"] = context.content(source / "hydra.yaml").decode()
    return found


def save(files: Mapping[str, str], folder: Path) -> None:
    """Write what `texts` gave."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(records.cannot_write(folder, error)) from error


def save_of_run(files: Mapping[str, str], run_dir: Path, subfolder: str | None = SUBFOLDER) -> None:
    """Put a run's files where `hydra.output_subdir` says; labrun's own copy lies apart then.

    Args:
        files: what `texts` gave.
        run_dir: the run's.
        subfolder: the value of `hydra.output_subdir`; None: the user wants none.

    Raises:
        RecordError: the folder cannot be written.
    """
    if subfolder:
        save(files, run_dir / subfolder)
    if subfolder != SUBFOLDER:
        save(files, run_dir / KEPT)


def remove_of_run(run_dir: Path, subfolder: str | None = SUBFOLDER) -> None:
    """Take a run's files away again, and its folder where nothing else is in it; see `save_of_run`."""
    for folder in {run_dir / (subfolder or SUBFOLDER), run_dir / KEPT}:
        for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    with contextlib.suppress(OSError):
        for folder in (run_dir / (subfolder or SUBFOLDER), run_dir / KEPT, run_dir / KEPT.parent, run_dir):
            if folder.exists():
                folder.rmdir()


def of_run(run_dir: Path) -> Path:
    """Where the files of a run lie."""
    own = run_dir / KEPT
    return own if own.is_dir() else run_dir / SUBFOLDER


def command(hydra: DictConfig, overrides: Sequence[str]) -> str:
    """The command that composes a job's configuration again, as one run.

    Args:
        hydra: Hydra's node of the job.
        overrides: the job's own, as its record has them.
    """
    words = [*flags(hydra), *by_reference([*own_overrides(hydra), *overrides])]
    given = [text for text in typed(hydra) if text.startswith("hydra.mode=")]  # Hydra notes what it took, too
    if (hydra.mode is not None and not given) or "hydra.mode=RUN" in sys.argv:
        words.append("hydra.mode=RUN")  # its files say that it is a sweep
    return shlex.join(["labrun", *words])


@dataclass(frozen=True)
class Origin:
    """Where the configs of a sweep come from, for a file that builds on them."""

    primary: str = "config"
    """The config file that all others are composed into."""
    main: str | None = None
    """Its folder, unless that is labrun's."""
    searchpath: tuple[str, ...] = ()
    """Further places where configs are looked for."""
    overrides: tuple[str, ...] = ()
    """What was typed of Hydra's own node and belongs to a job."""
    is_closed: bool = False
    """No other file can build on it: it sets the search path itself."""


def origin(hydra: DictConfig, is_closed: bool) -> Origin:
    """Where the configs of a sweep come from.

    Args:
        hydra: the sweep's own node.
        is_closed: see `Origin`.
    """
    given = flags(hydra)
    told = dict(zip(given[::2], given[1::2], strict=True))
    extra = told.get("--config-dir")
    places = [*([f"file://{extra}"] if extra else []), *map(str, hydra.searchpath or ())]
    own = [text for text in own_overrides(hydra) if not text.startswith("hydra.searchpath=")]
    return Origin(told.get("--config-name", "config"), told.get("--config-path"), tuple(places), tuple(own), is_closed)


def flags(hydra: DictConfig) -> list[str]:
    """Where the configs of a job came from, as flags of the command; nothing of what is so by itself."""
    from labrun.config import paths

    main, extra = _source(hydra, "main"), _source(hydra, "command-line")
    found = [] if main in (None, str(paths.conf_dir())) else ["--config-path", str(main)]
    found += [] if extra is None else ["--config-dir", extra]
    name = hydra.job.config_name
    return found + ([] if name in (None, "config") else ["--config-name", str(name)])


def _source(hydra: DictConfig, provider: str) -> str | None:
    for one in hydra.runtime.get("config_sources") or ():
        if one.provider == provider:
            return f"pkg://{one.path}" if one.schema == "pkg" else str(one.path)
    return None


SWEEPS_OWN = (
    "hydra.run.",
    "hydra.sweep.",
    "hydra.sweeper.",
    "hydra.launcher.",
    "hydra.mode",
    "hydra/launcher",
    "hydra/sweeper",
)
"""Overrides of Hydra's node that say where runs go, or are a sweep's."""


def typed(hydra: DictConfig) -> list[str]:
    """What was typed of Hydra's own node; a reference in it stays one."""
    found = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)
    assert isinstance(found, list)
    return [str(text) for text in found]


def own_overrides(hydra: DictConfig) -> list[str]:
    """What was typed of Hydra's own node and belongs to a job: its callbacks, its logging, the search path."""
    return [text for text in hide_environment(typed(hydra)) if not text.lstrip("+~").startswith(SWEEPS_OWN)]


def _unresolved(node: Any) -> Any:
    if isinstance(node, Container):
        return OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    return node._value() if isinstance(node, Node) else node


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """OmegaConf's way of writing YAML, in C where that is there: ten times as fast."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


def as_yaml(content: Any) -> str:
    """Values as YAML that OmegaConf reads as they are: the text `1e5` in quotes, which YAML itself would not need."""
    return str(yaml.dump(content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_Dumper))


class _Value:
    """A value that is distinguished by its text."""

    def __init__(self, value: Any) -> None:
        self.value, self._shown = value, repr(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and self._shown == other._shown

    def __hash__(self) -> int:
        return hash(self._shown)


@functools.lru_cache(maxsize=256)
def _yaml_of_key(key: str, kept: _Value, above: str | None = None) -> str:
    """The lines of one key; from one run of a sweep to the next, most are the same."""
    if above is None:
        return as_yaml({key: kept.value})
    return as_yaml({above: {key: kept.value}}).partition("\n")[2]


def value_here(name: str, value: str) -> str:
    """The value of a variable that the search gave its runs: its record has only the name.

    Raises:
        ConfigError: it is not set here.
    """
    if value != HIDDEN:
        return value
    if not name:
        raise ConfigError(
            "the search gave its runs several variables as one ({...}), and its record holds none of them: its own "
            "command with sweep.resume=FOLDER goes on with it"
        )
    if name not in os.environ:
        raise ConfigError(f"the search gave its runs the variable {name}, and it is not set here: set it first")
    return quoted(os.environ[name])
