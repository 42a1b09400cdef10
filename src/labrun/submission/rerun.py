"""Reruns: a new run from the frozen config and code of another one, with overrides."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from labrun import messages
from labrun.backends import registry, variables
from labrun.compose import composed, hydra_files, paths
from labrun.config import checking, hydra_versions
from labrun.config.references import keep_mounts
from labrun.errors import ConfigError, RecordError
from labrun.plugins import POOL
from labrun.runs import files, machine, store
from labrun.runs.groups import Code, ScriptCode
from labrun.runs.record import HIDDEN, Record, describe_host, installed_packages, read_record
from labrun.runs.workspace import Workspace
from labrun.submission import freeze, origin, snapshot, submit

if TYPE_CHECKING:
    from labrun.config.instantiate import Node
    from labrun.config.schema import Variables


@dataclass
class Rerun:
    """A rerun that is ready to be submitted."""

    job: submit.FrozenJob

    @property
    def run_dir(self) -> Path:
        """The new run's folder."""
        return self.job.run_dir

    def execute(self) -> Record:
        """Submit and execute it; an inline run is repeated in the pool, since only the pool imports the frozen code."""
        return submit.execute_jobs([self.job], self.job.run_dir)[0]


def prepare(run_dir: Path, overrides: Sequence[str], new_code: bool = False) -> Rerun:
    """Freeze a rerun without writing anything.

    Args:
        run_dir: the run to repeat.
        overrides: overrides of its config, in Hydra's grammar.
        new_code: use the current code.

    Raises:
        ConfigError: an override is invalid, or the config is no longer valid.
        RecordError: the frozen code is missing.
    """
    root, old = store.workspace(), read_record(run_dir)
    _check(old)
    composed = dict(old.config)
    for name in ("from", "sweep"):
        if isinstance(composed.get(name), Mapping):
            composed[name] = _as_typed(name, composed[name])
    if isinstance(composed["trainer"].get("resume"), Mapping):
        composed["trainer"] = {**composed["trainer"], "resume": composed["trainer"]["resume"]["id"]}
    compute = {**composed["compute"], "environment": _environment(composed["compute"]["environment"], overrides)}
    if registry.may_be_in_process(compute["target"]):
        compute |= {"target": POOL, "cpus_per_run": min(compute["cpus_per_run"], machine.cores())}
    composed["compute"] = compute
    script = None if old.code is None else old.code.script
    if script is not None and not new_code:
        # Use the frozen copy, wherever it is stored now.
        composed["script"] = {**composed["script"], "source": str(_kept(script, root, old))}
    composed.pop("datastores", None)
    around = freeze.capture_provenance(root, all_of_it=True) if new_code else _as_it_was(old, root)
    config = OmegaConf.create(composed)
    apply(config, overrides)
    typed = [*old.overrides, *overrides]
    with contextlib.nullcontext() if new_code else _importing(around.code):
        record = freeze.freeze(config, origin.new_id(), typed, root, around)
    if script is not None and not new_code:
        record.config["script"]["source"] = script.base
    record.tags, record.notes = {**record.tags, "rerun_of": old.id}, record.notes or old.notes
    if not new_code:
        record.git = old.git
    record.packages, record.host = installed_packages(), describe_host()
    registry.check(record.typed.compute, sweep=False)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    target = root / "outputs" / record.name / f"{stamp}-{record.id}"
    record.command = shlex.join(["lab", "runs", "rerun", old.id, *overrides])
    record.hydra = old.hydra
    files = hydra_files.plain(record.config, typed, hydra_files.of_run(run_dir))
    return Rerun(submit.FrozenJob(record, target, files, freeze.environment(config)))


@contextlib.contextmanager
def _importing(code: Code) -> Iterator[None]:
    """Import modules from the frozen code inside the context; the current code may be different or missing."""
    before = list(sys.path)
    sys.path[:] = snapshot.import_path(code)
    try:
        yield
    finally:
        sys.path[:] = before


def _check(old: Record) -> None:
    """Check the parts of a record's config that the schema does not check.

    Raises:
        RecordError: the config is not that of a run.
    """
    if old.is_of_program:
        raise RecordError(f"run {old.id} belongs to a program that labrun did not start: run the program again")
    trainer, compute, script = (old.config.get(name) for name in ("trainer", "compute", "script"))
    is_sound = (
        isinstance(trainer, Mapping)
        and isinstance(compute, Mapping)
        and isinstance(compute.get("environment"), Mapping)
        and isinstance(compute.get("target"), str)
        and isinstance(compute.get("cpus_per_run"), int)
        and isinstance(script, Mapping | None)
        and (not isinstance(trainer.get("resume"), Mapping) or "id" in trainer["resume"])
        and bool(script) == (old.code is not None and old.code.script is not None)
    )
    if not is_sound:
        raise RecordError(f"the config of run {old.id} is not that of a run, so it cannot be run again")


def _as_typed(name: str, node: Node) -> Any:
    return node.get("id") if name == "from" else {**node, "resume": None}


def _environment(names: Variables, overrides: Sequence[str]) -> dict[str, str | int | float]:
    """Return the run's variables with values of this process, since records have only the names.

    Args:
        names: the variables in the record.
        overrides: the overrides of the rerun.
    """
    typed = [text.lstrip("+~").partition("=")[0] for text in overrides]
    prefix = "compute.environment"
    given = set(names) if prefix in typed else {key.removeprefix(f"{prefix}.") for key in typed if prefix in key}
    names = {name: "" if name in given else value for name, value in names.items()}  # a placeholder for the override
    missing = variables.missing(names)
    if missing:
        raise ConfigError(
            f"the run was given variables that its record does not hold: set {', '.join(missing)} here first"
        )
    return {name: os.environ[name] if value == HIDDEN else value for name, value in names.items()}


def _as_it_was(old: Record, root: Path) -> freeze.Provenance:
    code = old.code or Code()
    return freeze.Provenance(old.git, dataclasses.replace(code, folder=str(_kept(code, root, old))))


def _kept(code: Code | ScriptCode, root: Path, old: Record) -> Path:
    """Return the folder of a snapshot: in this workspace, or the recorded folder if it matches the digest."""
    digest, recorded = str(code.digest), Path(str(code.folder or ""))
    if checking.is_sha256(digest):
        own = Workspace(root).code / digest
        if own.is_dir():
            return own
        if recorded.is_absolute() and recorded.is_dir() and files.is_tree(recorded, digest):
            return recorded
    raise RecordError(
        f"the code of run {old.id} is gone ({code.folder or 'none was kept'}): use --code new to run it with the "
        "current code"
    )


def apply(config: Any, overrides: Sequence[str]) -> None:
    """Apply overrides to a composed config, as Hydra does: `key=value`, `+key=value`, `~key`, `group=option`.

    Raises:
        ConfigError: an override is invalid, is a sweep, or has an unknown key.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        from labrun import mistakes

        raise ConfigError(mistakes.unreadable(overrides, error)) from error
    groups = paths.groups()
    for one in parsed:
        if one.is_sweep_override():
            raise ConfigError(f"{one.input_line}: a rerun is one run; labrun -m submits a sweep")
        key, value = str(one.key_or_group), one.value()
        try:
            if key in ("experiment", "debug"):
                raise ConfigError(f"{one.input_line}: it composes everything again, which needs a new run with labrun")
            if key in groups and isinstance(value, str | list):
                node = _option(key, one.input_line or key)
                OmegaConf.update(config, key.replace("/", "."), node, merge=False, force_add=True)
            elif one.is_delete():
                _delete(config, key)
            else:
                known = OmegaConf.select(config, key, throw_on_missing=False, default="\0") != "\0"
                if not known and not (one.is_add() or one.is_force_add()):
                    near = messages.suggest(key, list(checking.dotted(OmegaConf.to_container(config))))
                    raise ConfigError(f"{key}: no such key in the run's config.{near} To add it: +{one.input_line}")
                OmegaConf.update(config, key, value, merge=False, force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{one.input_line}: {messages.without_details(error)}") from error


def _delete(config: Any, key: str) -> None:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if node is None or name not in node:
        raise ConfigError(f"~{key}: no such key in the run's config")
    del node[name]


def _option(group: str, override: str) -> Any:
    """Return the node for an option of a group, composed and resolved as by `labrun`."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    GlobalHydra.instance().clear()
    own = paths.user_conf_dir()
    path = [f"hydra.searchpath=[{hydra_files.quoted(f'file://{own}')}]"] if own else []
    try:
        with initialize_config_dir(str(paths.conf_dir()), **hydra_versions.current_defaults()):
            config = compose("config", [override, "name=rerun", "compute.cpus_per_run=1", *path])
    except HydraException as error:
        from labrun import mistakes

        raise ConfigError(f"{override}: {mistakes.in_short(error)}") from error
    keep_mounts()
    found: Any = composed.resolved(composed.without_hydra(config), keep_environment=True)
    for part in group.split("/"):
        found = found[part]
    return found
