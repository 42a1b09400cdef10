"""The files that Hydra saves of a job in `.hydra/`, with the values of the runs' environment variables hidden."""

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
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf._utils import OmegaConfDumper

from labrun.errors import ConfigError, RecordError
from labrun.runs import context
from labrun.runs.context import HYDRA
from labrun.runs.record import HIDDEN, cannot_write
from labrun.runs.sweep_state import SweepState

if TYPE_CHECKING:
    from labrun.config.schema import Variables

REFERENCE = re.compile(r"""(["']?)\$\{oc\.env:\s*\w+\s*\}\1""")
"""A reference to one environment variable, without a default, which would be a literal value."""


VARIABLES = (("compute", "environment"), ("hydra", "job", "env_set"))
"""Nodes that set environment variables of a run: labrun's and Hydra's."""


def hide_environment(overrides: Sequence[str]) -> list[str]:
    """Return overrides as stored in records: values of environment variables are hidden unless they are references."""
    return [
        with_variables(text, lambda name, value: value if REFERENCE.fullmatch(value) else HIDDEN) for text in overrides
    ]


def by_reference(overrides: Sequence[str]) -> list[str]:
    """Return a record's overrides for typing again: hidden variables become references to those of the same name.

    Variables that were given together in one override have no name here and stay hidden; such a command is refused.
    """
    return [
        with_variables(text, lambda name, value: f"${{oc.env:{name}}}" if name and value == HIDDEN else value)
        for text in overrides
    ]


def with_variables(override: str, change: Callable[[str, str], str]) -> str:
    """Change the value in an override that sets environment variables of the runs; return any other unchanged.

    Args:
        override: the override as typed.
        change: returns the new value for a name and a value; the name is empty if the override sets several at once.
    """
    key, equals, value = override.partition("=")
    path = tuple(key.lstrip("+~").split("."))
    for node in VARIABLES:
        is_above = path == node[: len(path)] and value.lstrip().startswith("{") and node[-1] in value
        if equals and (path[: len(node)] == node or (is_above and len(path) < len(node))):
            return f"{key}={change('.'.join(path[len(node) :]), value.strip())}"
    return override


def quoted(text: str) -> str:
    """Quote a text for Hydra's override grammar."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def by_name(environment: Variables) -> dict[str, str | int | float]:
    """Return environment variables of the runs as stored in records; see `hide_environment`."""
    return {name: value if REFERENCE.fullmatch(str(value)) else HIDDEN for name, value in environment.items()}


def top_key(override: str) -> str:
    """Return the top-level key of an override: `compute` for both `+compute.extra.x=1` and `compute=slurm`."""
    return override.lstrip("+~").partition("=")[0].replace("/", ".").split(".")[0]


def texts(config: DictConfig, of_sweep: bool = False) -> dict[str, str]:
    """Return the content of the files that Hydra saves of a job or a sweep, with environment variables hidden.

    Args:
        config: the whole config, including the `hydra` node.
        of_sweep: return the `multirun.yaml` of a sweep.
    """
    # `config[key]` would resolve an interpolation, and OmegaConf has no public access to the node itself
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
    """Return the content of `.hydra/` for a run that Hydra did not compose: its config, and another run's `hydra.yaml`.

    Args:
        config: the config in its record.
        overrides: the overrides in its record.
        source: `.hydra` folder of the other run.
    """
    found = {"config.yaml": as_yaml(dict(config)), "overrides.yaml": as_yaml(list(overrides))}
    with contextlib.suppress(OSError, ValueError):
        found["hydra.yaml"] = context.content(source / "hydra.yaml").decode()
    return found


def save(files: Mapping[str, str], folder: Path) -> None:
    """Write the files of `texts` to a folder.

    Raises:
        RecordError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(cannot_write(folder, error)) from error


def save_of_run(files: Mapping[str, str], run_dir: Path, subfolder: str | None = HYDRA) -> None:
    """Write a run's files to `hydra.output_subdir`. If that is not `.hydra`, also write a copy for labrun.

    Args:
        files: the files of `texts`.
        run_dir: the run directory.
        subfolder: the value of `hydra.output_subdir`; None: write only labrun's copy.

    Raises:
        RecordError: the folder cannot be written.
    """
    if subfolder:
        save(files, run_dir / subfolder)
    if subfolder != HYDRA:
        save(files, SweepState(run_dir).hydra)


def remove_of_run(run_dir: Path, subfolder: str | None = HYDRA) -> None:
    """Remove the files of `save_of_run`, and the run directory if it is then empty."""
    state = SweepState(run_dir)
    for folder in {run_dir / (subfolder or HYDRA), state.hydra}:
        for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    with contextlib.suppress(OSError):
        for folder in (run_dir / (subfolder or HYDRA), state.hydra, state.root, run_dir):
            if folder.exists():
                folder.rmdir()


def of_run(run_dir: Path) -> Path:
    """Return the folder with Hydra's files of a run."""
    own = SweepState(run_dir).hydra
    return own if own.is_dir() else run_dir / HYDRA


def command(hydra: DictConfig, overrides: Sequence[str]) -> str:
    """Return the command that composes the config of a job again, as a single run.

    Args:
        hydra: the `hydra` node of the job.
        overrides: the task overrides in its record.
    """
    words = [*flags(hydra), *by_reference([*own_overrides(hydra), *overrides])]
    given = [text for text in typed(hydra) if text.startswith("hydra.mode=")]  # Hydra also records the mode in effect
    if (hydra.mode is not None and not given) or "hydra.mode=RUN" in sys.argv:
        words.append("hydra.mode=RUN")  # its config files set the mode to a sweep
    return shlex.join(["labrun", *words])


@dataclass(frozen=True)
class ConfigOrigin:
    """Sources of a sweep's configs, for a config file that builds on them."""

    primary: str = "config"
    """The primary config."""
    main: str | None = None
    """Its folder, unless it is labrun's."""
    searchpath: tuple[str, ...] = ()
    """Further entries of the search path."""
    overrides: tuple[str, ...] = ()
    """Typed overrides of the `hydra` node that belong to a job."""
    is_closed: bool = False
    """Whether the primary config sets the search path, so that no other file can build on it."""


def origin(hydra: DictConfig, is_closed: bool) -> ConfigOrigin:
    """Return the sources of a sweep's configs.

    Args:
        hydra: the `hydra` node of the sweep.
        is_closed: see `ConfigOrigin`.
    """
    given = flags(hydra)
    options = dict(zip(given[::2], given[1::2], strict=True))
    extra = options.get("--config-dir")
    places = [*([f"file://{extra}"] if extra else []), *map(str, hydra.searchpath or ())]
    own = [text for text in own_overrides(hydra) if not text.startswith("hydra.searchpath=")]
    return ConfigOrigin(
        options.get("--config-name", "config"), options.get("--config-path"), tuple(places), tuple(own), is_closed
    )


def flags(hydra: DictConfig) -> list[str]:
    """Return the command-line flags that select the sources of a job's configs, without the defaults."""
    from labrun.compose import paths

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
"""Prefixes of `hydra` overrides that set output folders or belong to a sweep, not to a job."""


def typed(hydra: DictConfig) -> list[str]:
    """Return the overrides of the `hydra` node as typed, with references unresolved."""
    found = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)
    assert isinstance(found, list)
    return [str(text) for text in found]


def own_overrides(hydra: DictConfig) -> list[str]:
    """Return the typed `hydra` overrides that belong to a job: callbacks, logging, search path."""
    return [text for text in hide_environment(typed(hydra)) if not text.lstrip("+~").startswith(SWEEPS_OWN)]


def _unresolved(node: Any) -> Any:
    if isinstance(node, Container):
        return OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    return node._value() if isinstance(node, Node) else node


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """A dumper that writes YAML like OmegaConf, in C if available, which is ten times as fast."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


def as_yaml(content: Any) -> str:
    """Write values as YAML that OmegaConf reads back unchanged, which means quotes even around the text `1e5`."""
    return str(yaml.dump(content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_Dumper))


class _Value:
    """A hashable wrapper that compares a value by its `repr`."""

    def __init__(self, value: Any) -> None:
        self.value, self._shown = value, repr(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and self._shown == other._shown

    def __hash__(self) -> int:
        return hash(self._shown)


@functools.lru_cache(maxsize=256)
def _yaml_of_key(key: str, kept: _Value, above: str | None = None) -> str:
    """Return the YAML lines of one key. Cached, because most keys are the same in all runs of a sweep."""
    if above is None:
        return as_yaml({key: kept.value})
    return as_yaml({above: {key: kept.value}}).partition("\n")[2]


def value_here(name: str, value: str) -> str:
    """Return the value of a variable that a search sets for its runs, of which its record holds only the name.

    Raises:
        ConfigError: it is not set on this machine.
    """
    if value != HIDDEN:
        return value
    if not name:
        raise ConfigError(
            "the search sets several variables of its runs at once ({...}), and its record holds none of them: "
            "continue it with its own command and sweep.resume=FOLDER"
        )
    if name not in os.environ:
        raise ConfigError(f"the search sets the variable {name} of its runs, which is not set here: set it first")
    return quoted(os.environ[name])
