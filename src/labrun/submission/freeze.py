"""Freezing: a run is fixed completely when it is submitted, so that later edits have no effect on it.

All interpolations are resolved except two kinds: references to the environment (`${oc.env:...}`), which may be secrets
and are kept as references, and mounts, which are resolved where the run is executed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from labrun import execute
from labrun._io import environ_overlay, file_sha256
from labrun.backends import registry
from labrun.compose.composed import validated_and_kept
from labrun.compose.hydra_files import by_name, hide_environment, top_key
from labrun.config import exact, schema, targets, trust, validation
from labrun.config.instantiate import Node, locate
from labrun.config.schema import Config
from labrun.control import objective
from labrun.errors import ConfigError, LabrunError, RecordError
from labrun.messages import suggest
from labrun.report import formatting
from labrun.runs import model_journal, recording, seals, store
from labrun.runs.cards import CardKind
from labrun.runs.groups import Code, GitState, Host
from labrun.runs.record import (
    COMPLETED,
    HIDDEN,
    QUEUED,
    Record,
    RunPaths,
    describe_host,
    installed_packages,
    is_scoring,
    read_record,
    timestamp,
)
from labrun.submission import inherited, inputs, scored_data, snapshot
from labrun.submission.origin import git_state
from labrun.tasks import base, monitored
from labrun.tasks.packages import Package

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """Provenance that all runs of one command share."""

    git: GitState | None
    code: Code
    packages: dict[str, str] = field(default_factory=dict)
    host: Host | None = None
    pinned: dict[str, Any] = field(default_factory=dict)
    """Versions of assets, looked up for the first run that reads them."""


def capture_provenance(root: Path, all_of_it: bool = False) -> Provenance:
    """Capture the git state and a snapshot of the code; with `all_of_it` also the packages and the host.

    Raises:
        ConfigError, RecordError: see `snapshot.take`.
    """
    if carried := os.environ.get(snapshot.CARRIED):
        content = json.loads(carried)
        git, code = None if content["git"] is None else GitState.of(content["git"]), Code.of(content["code"])
    else:
        git, code = git_state(Path.cwd(), root), snapshot.take(Path.cwd(), root)
    if not all_of_it:
        return Provenance(git, code)
    return Provenance(git, code, installed_packages(), describe_host())


def freeze(config: DictConfig, run_id: str, overrides: list[str], root: Path, around: Provenance) -> Record:
    """Return the record of a run that is about to be submitted.

    Args:
        config: the composed config, without the `hydra` node.
        run_id: the new run's id.
        overrides: the user's task overrides.
        root: the workspace.
        around: provenance that all runs of one command share.

    Raises:
        ConfigError, RecordError: the config is invalid, or refers to a run that does not exist.
    """
    found, parent = resolved_config(config, overrides, root, around.pinned)
    kept = dict(found.raw)
    variables = kept["compute"]["environment"]
    if hidden := [str(name) for name, value in variables.items() if value == HIDDEN]:
        raise ConfigError(
            f"{', '.join(hidden)}={HIDDEN}: that is the placeholder for a variable's value in records. Give the value, "
            f"or refer to your environment: ${{oc.env:{hidden[0]}}}"
        )
    kept["compute"]["environment"] = by_name(variables)
    # The sweep's settings are not part of the run: the command that repeats the run must not resume a sweep.
    overrides = [override for override in hide_environment(overrides) if top_key(override) != "sweep"]
    code = around.code
    if found.script is not None and code.script is None:  # a rerun with the frozen code has its own
        taken = snapshot.take_folder(Path(str(found.script.source)), root)
        code = dataclasses.replace(code, script=taken, environment=found.script.environment or code.environment)
    return Record(
        id=run_id,
        name=exact.shown(found.name),
        task=found.task,
        status=QUEUED,
        created=timestamp(),
        config=kept,
        overrides=overrides,
        command=shlex.join(["labrun", *overrides]),
        settings=_settings(Config(kept), environment(config)),
        parent=parent,
        tags=_tags(kept["tags"]),
        notes=exact.shown(kept["notes"]),
        code=code,
        git=around.git,
        directions=objective.explicit_directions(found),
        packages=around.packages,
        host=around.host,
    )


def _settings(config: Config, variables: Mapping[str, str]) -> str | None:
    """Return `execute.settings_digest` with the run's own variables, which override those of this process."""
    with environ_overlay(variables):
        return execute.settings_digest(config)


def environment(config: DictConfig) -> dict[str, str]:
    """Return a run's own variables with their values, for its process only, never for a record."""
    node = OmegaConf.select(config, "compute.environment")
    return {str(name): str(value) for name, value in node.items()} if node else {}


def resolved_config(
    config: DictConfig, overrides: list[str], root: Path, pinned: dict[str, Any] | None = None
) -> tuple[Config, str | None]:
    """Return the config as the record keeps it, and the id of the run that it resumes from or scores.

    Args:
        config: the composed config, without the `hydra` node.
        overrides: the user's task overrides.
        root: the workspace.
        pinned: versions of assets that this command has already looked up; newly looked up ones are added.

    Raises:
        ConfigError, RecordError: see `freeze`.
    """
    _refuse_empty(config, overrides)
    values, kept = validated_and_kept(config)
    for group, node in (("dataset", values.dataset), ("model", values.model)):
        if node:
            targets.check_module(str(node["_target_"]), group)
    if Config(kept).has_loaders:
        _name_and_limit_loaders(kept, values)
    for group, defaults in (("compute", schema.Compute(target="auto")), ("sweep", schema.Sweep())):
        kept[group] = {**dataclasses.asdict(defaults), **kept.get(group, {})}
    # The resources and the backend are fixed at submission.
    compute = {k: exact.escaped(v) for k, v in values.raw["compute"].items() if not isinstance(v, list | dict)}
    kept["compute"] |= compute
    monitored.resolve_defaults(kept, overrides)
    objective.resolve_defaults(kept)
    _check_metrics(Config(kept))
    validation.check_secrets(kept["datastore"])
    if schema.is_local_datastore(kept["datastore"]):
        kept["datastore"]["root"] = str(_absolute(kept["datastore"]["root"]))
        if kept.get("dataset"):
            inputs.make_absolute(kept["dataset"], values.datastore)
    if _has_a_process_for_each_gpu(Config(kept)):
        kept["compute"]["tasks_per_node"] = kept["compute"]["gpus_per_run"]
    _check_ranks(Config(kept), values)
    if values.script is not None:
        from labrun.submission import scripts

        scripts.resolve_paths(kept["script"], values.script)
    # References to runs are resolved now, even if they come from the environment.
    kept["from"], kept["trainer"]["resume"] = values.raw.get("from"), values.raw["trainer"].get("resume")
    parent = _resolve_references(kept, overrides, root)
    inputs.pin_versions(kept, pinned)
    found = Config(kept)
    if base.of(found).scores:
        scored = read_record(found.scored.run_dir).typed
        _warn_about_other_data(found, scored, overrides)
        _warn_about_limit(found, scored)
    return found, parent


def _check_ranks(config: Config, values: Config) -> None:
    """Refuse several processes for a run that can use only one.

    Args:
        config: the config as the record keeps it.
        values: the resolved config.

    Raises:
        ConfigError: it requests several.
    """
    compute, task = config.compute, base.of(config)
    if config.script is not None:
        if compute.tasks_per_node > 1:
            raise ConfigError(
                f"compute.tasks_per_node={compute.tasks_per_node}: script.processes=N starts N processes of a "
                "script on each machine"
            )
    elif compute.ranks > 1 and not (task.trains and _is_network(str(values.model["_target_"]))):
        from labrun.tasks.task import model_name, refuse_ranks

        refuse_ranks(compute, f"model={model_name(values.model)}" if task.trains else f"task={config.task}")


def _refuse_empty(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse `KEY={}` for a node that is not empty, because Hydra would leave it unchanged.

    Raises:
        ConfigError: there is such an override.
    """
    for text in overrides:
        key, _, value = text.partition("=")
        if value.strip() == "{}" and key[:1] not in ("+", "~") and (node := OmegaConf.select(config, key)):
            raise ConfigError(
                f"{text}: Hydra merges the two, so {', '.join(map(str, node))} would stay. Use {key}=null"
            )


def _check_metrics(config: Config) -> None:
    """Refuse a metric that pipelines do not support, before a search starts.

    Raises:
        ConfigError: see `scoring.check`.
    """
    if base.of(config).trains:
        from labrun.tasks import scoring  # loads NumPy
        from labrun.tasks.task import is_pipeline

        if is_pipeline(config.model):
            scoring.check(scoring.wanted(config), not config.dataset.get("regression"))


def _name_and_limit_loaders(kept: dict[str, Any], values: Config) -> None:
    """Name a data set with its own loaders, and apply `debug=...` to its batches, because its samples cannot be cut."""
    dataset, trainer = kept["dataset"], kept["trainer"]
    target = str(dataset["_target_"])
    dataset["name"] = dataset.get("name") or target.rpartition(".")[2]
    for key in ("max_samples", "validation_size"):
        if key not in dataset or targets.takes(target, key):
            continue
        wanted = values.dataset.get(key)
        del dataset[key]
        if key == "max_samples" and wanted:
            count = max(1, int(wanted) // values.trainer.batch_size)
            trainer["options"] = {"limit_test_batches": count, **trainer["options"]}
            for part in ("limit_train_batches", "limit_val_batches"):
                trainer[part] = count if trainer.get(part) is None else trainer[part]
        elif key == "validation_size" and wanted == 0:
            trainer["limit_val_batches"] = 0


OWN_LAUNCHERS = ("spawn", "fork", "notebook", "auto", "dp")
"""Words in names of Lightning strategies that start their processes themselves, or need only one."""


def _has_a_process_for_each_gpu(config: Config) -> bool:
    """Return whether to start one process per GPU: the run trains a network on several, and no setting forbids it."""
    compute, options = config.compute, config.trainer.options
    if compute.gpus_per_run < 2 or compute.tasks_per_node > 1 or not base.of(config).trains:
        return False
    if "tasks_per_node" not in registry.chosen(compute, sweep=True).settings or "devices" in options:
        return False
    strategy = options.get("strategy", "ddp")
    if isinstance(strategy, str) and any(name in strategy.split("_") for name in OWN_LAUNCHERS):
        return False
    return _is_network(str(config.model["_target_"]))


NETWORKS = ("torch", "torchvision", "pytorch_lightning", "lightning")
"""Packages that provide the base classes of networks."""


def _is_network(target: str) -> bool:
    """Return whether a target may be a network, by its class, or for a function by the imports of its module.

    Whether torch is loaded is no evidence: it is loaded in any process that has executed other runs. If the sources
    decide the question, nothing is imported.
    """
    if any(name.partition(".")[0] in NETWORKS for name in targets.ancestors(target)):
        return True
    found = locate(target, "model")
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if isinstance(found, type):
        return issubclass(found, torch.nn.Module)
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    return module is None or _uses_networks(module, 1)


def _uses_networks(module: ModuleType, depth: int) -> bool:
    """Return whether a module, or a module that it imports from, imports from the network packages."""
    named = {
        value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        for value in vars(module).values()
    }
    names = {name for name in named if isinstance(name, str)} - {module.__name__}
    if any(name.partition(".")[0] in NETWORKS for name in names):
        return True
    others = (sys.modules.get(name) for name in names if depth)
    return any(_uses_networks(other, depth - 1) for other in others if other is not None)


def check_targets(config: Config) -> None:
    """Check that the targets in a config can exist, before any import, which takes seconds.

    This checks the current code, which frozen code may differ from.

    Raises:
        ConfigError: see `targets.check`.
    """
    data, model = config.dataset, config.model
    nodes: dict[str, Any] = {"dataset": data, "model": model}
    for group, named in (("callbacks", config.callbacks), ("logger", config.logger)):
        nodes |= {f"{group}.{name}": node for name, node in named.items()}
    if data.get("_target_") == schema.DATASETS:
        nodes |= {f"dataset.{part}": data.get(part) for part in ("train", "validation", "test", "predict", "sampler")}
        _check_arguments({key: node for key, node in nodes.items() if key.startswith("dataset.")})
    nodes |= {f"model.metrics.{name}": one for name, one in _nodes(model.get("metrics")).items()}
    nodes |= {f"model.{part}": model.get(part) for part in ("optimizer", "scheduler", "loss")}
    for key, node in nodes.items():
        if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
            # Lightning's callbacks and loggers come from the package that trains, whatever the target says.
            is_lightnings = key.partition(".")[0] in ("callbacks", "logger")
            targets.check(Package().target(node["_target_"]) if is_lightnings else node["_target_"], key)


OF_HYDRA = frozenset({"_target_", "_args_", "_partial_", "_recursive_", "_convert_"})


def _check_arguments(nodes: Mapping[str, Any]) -> None:
    """Check the arguments of each part of a data set against its target's signature, if the source shows it.

    Raises:
        ConfigError: a target does not accept an argument.
    """
    problems = []
    for key, node in nodes.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            continue
        unknown, known = targets.unknown_arguments(
            node["_target_"], [str(name) for name in node if name not in OF_HYDRA]
        )
        problems += [
            f"{key}.{name}: {node['_target_'].rpartition('.')[2]} takes no such argument.{suggest(name, known)} It "
            f"takes: {', '.join(known) or 'none'}"
            for name in unknown
        ]
    if problems:
        raise ConfigError(problems)


def _nodes(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _absolute(path: str) -> str | Path:
    if "${" in path:
        return path
    return Path(path).expanduser().resolve()


def _tags(tags: Any) -> dict[str, str]:
    if isinstance(tags, Mapping):
        return {str(key): "" if value is None else exact.shown(str(value)) for key, value in tags.items()}
    return {exact.shown(str(tag)): "" for tag in tags or ()}


def _resolve_references(config: dict[str, Any], overrides: list[str], root: Path) -> str | None:
    """Resolve references such as `last` to one run, and inherit settings from it. Return its id."""
    typed = Config(config)
    if base.of(typed).scores:
        from labrun.tasks import model_files
        from labrun.tasks.task import load_card, network_node

        run_dir, source = _scored(root, str(config["from"]))
        card = load_card(RunPaths(run_dir), source.id)
        is_proven = source.imported is None and seals.has_read(root, card, source.id, source.typed)
        _inherit(config, source, overrides, is_proven, run_dir)
        if card.kind is CardKind.NETWORK:  # an estimator's classes are in its file, and are checked when it is loaded
            node = network_node(card)

            def check(names: Sequence[str] | None) -> None:
                if names is not None:
                    trust.check_model(node, "model", names, may_import=False)

            why = functools.partial(seals.refusal, root, card, source.id, source.imported is not None)
            model_files.proven(check, typed.trusted, why, f"run {source.id}", log.warning)
        config["from"] = {"id": source.id, "path": str(run_dir)}
        return source.id
    resume = config["trainer"].get("resume")
    if resume is None:
        return None
    if typed.script is not None:
        raise ConfigError(
            "trainer.resume: a script resumes by itself, from its files in ./checkpoints. Leave the key out"
        )
    run_dir, source = store.find(root, str(resume), suitable=_has_checkpoint, wanted="a run with a checkpoint")
    parts = [("model", source.typed.model, typed.model)]
    parts += [("dataset", _what_is_read(source.typed), _what_is_read(typed))]
    changed = sorted(change for group, old, new in parts for change in _differences(old, new, group))
    if changed:
        listed = ", ".join([*changed[:MAX_LISTED], *(["..."] if changed[MAX_LISTED:] else [])])
        raise ConfigError(
            f"trainer.resume={resume}: a run resumes with the model, optimizer and data that it began with, but these "
            f"differ from run {source.id}: {listed}. "
            f"To resume with its own values: {formatting.resume_command(source)}. For a new run, leave "
            "trainer.resume out"
        )
    edited = _edited_code(source, typed.model)
    if edited and typed.trainer.resume_code == "same":
        raise ConfigError(
            f"trainer.resume={resume}: the model's code has changed since run {source.id} began ({', '.join(edited)}), "
            "and its weights and best epoch belong to the old code. Restore the old code (it is in "
            f"{(source.code or Code()).folder or 'its snapshot'}), use trainer.resume_code=new to resume with the "
            "weights and the new code, or start a new run"
        )
    if edited:
        log.warning(
            "Resuming run %s with changed code (%s): with its weights, but not with its best epoch",
            source.id,
            ", ".join(edited),
        )
    config["trainer"]["resume"] = {
        "id": source.id,
        "path": str(run_dir / "checkpoints" / "last.ckpt"),
        **({"edited": edited} if edited else {}),
    }
    return source.id


def _scored(root: Path, reference: str) -> tuple[Path, Record]:
    """Return the run for a reference to a run or to a registered model (`name/3`, `name@alias`).

    Raises:
        RecordError: there is no such run.
    """
    suitable, wanted = _has_model, "a finished run with a model"
    is_name = reference.startswith("models:") or model_journal.parts(reference)[0] in model_journal.read(root).versions
    if not is_name or os.path.isdir(reference):
        return store.find(root, reference, suitable=suitable, wanted=wanted)
    version = model_journal.find(root, reference)
    try:
        run_dir, record = store.find(root, version.run, suitable=suitable, wanted=wanted)
    except RecordError as error:
        raise RecordError(
            f"from={reference}: model {version.title} belongs to run {version.run}, which no longer exists, but a task "
            f"needs its record. Use 'lab models predict {version.title}', which does not"
        ) from error
    from labrun.tasks.task import load_card

    card = load_card(RunPaths(run_dir), record.id)
    if version.file != f"outputs/{card.file}" or file_sha256(run_dir / version.file) != version.sha256:
        raise RecordError(
            f"from={reference}: model {version.title} is the file {version.file} of run {record.id} at registration, "
            f"not the run's current model: 'lab models predict {version.title}' uses that file"
        )
    log.info("Model %s belongs to run %s", version.title, record.id)
    return run_dir, record


def _edited_code(source: Record, model: Node) -> list[str]:
    """Return a model's modules that have changed since a run trained with them; empty if its record does not tell."""
    then = seals.noted(source.attempts)
    now = seals.code_of(seals.foreign(model))
    return [] if then is None or now is None else seals.changed(then, now)


MAX_LISTED = 4
"""Maximum number of differences in a message."""


def _differences(old: Any, new: Any, key: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {*old, *new}:
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}")
    elif not exact.same(old, new):
        yield f"{key} (then {old}, now {new})"


UNREAD = frozenset({"download", "verify", "asset", "version", "in_memory", "num_workers"})
"""Keys of a data set that do not affect its samples."""


def _what_is_read(config: Config) -> dict[str, Any]:
    unread = {"num_workers"} if config.has_loaders else UNREAD
    return {key: value for key, value in config.dataset.items() if key not in unread}


SPLIT_KEYS = ("split_seed", "test_size", "validation_size")


def insert_scored_data(config: DictConfig, task: Any, reference: Any, overrides: Sequence[str]) -> None:
    """Make overrides below `dataset` apply to the data of the run to be scored.

    Args:
        config: the composed config before overrides are applied; changed in place.
        task: the config's task.
        reference: the reference to the run.
        overrides: all overrides.

    Raises:
        RecordError: there is no such run, and an override depends on it; otherwise the error is raised later.
    """
    if not is_scoring(task) or not isinstance(reference, str) or scored_data.chooses(overrides):
        return
    try:
        run_dir, source = _scored(store.workspace(), reference)
        scored_data.insert(config, source.config, run_dir, overrides)
    except LabrunError:
        if any(scored_data.typed_below(overrides, group) for group in scored_data.GROUPS):
            raise


def _inherit(config: dict[str, Any], scored: Record, overrides: list[str], is_proven: bool, run_dir: Path) -> None:
    """Fill a scoring run's config from the scored run: its model, and its data unless others are selected.

    Args:
        config: the scoring run's config; changed in place.
        scored: the scored run's record.
        overrides: the user's overrides.
        is_proven: see `inherited.check`.
        run_dir: the scored run's folder.

        Raises:
            ConfigError: an override would change the model or the test split, or the data's reader is not trusted.
            RecordError: the record's config is not that of a run.
    """
    source = scored.config
    for key in ("model", "dataset", "datastore"):
        if not isinstance(source.get(key), Mapping):
            raise RecordError(f"run {scored.id} has no {key} in its config: it cannot be scored")
    if not isinstance(source["model"].get("_target_"), str):
        raise RecordError(f"run {scored.id} has no model class in its config: it cannot be scored")
    typed = Config(config)
    named = [override.lstrip("+").split("=")[0].split("@")[0] for override in overrides]
    own_model = [key for key in named if key.partition(".")[0] == "model"]
    if own_model:
        raise ConfigError(f"task={typed.task} takes the model of run {config['from']} as it is: leave out {own_model}")
    scaled = [key for key in named if key in ("dataset.mean", "dataset.std", "dataset.scale")]
    if scaled:
        raise ConfigError(f"task={typed.task} scales the data as the model was trained: leave out {scaled}")
    inherited.check_learning(scored, typed.trusted)
    for key in ("model", "seed"):
        config[key] = source.get(key, config.get(key))
    if "dataset" in named or "experiment" in named:
        if base.of(typed).part == "test" and typed.dataset["name"] == source["dataset"].get("name"):
            _refuse_other_split(typed.dataset, source["dataset"])
        return
    inherited.check(scored, "dataset", typed.trusted, is_proven)
    config["dataset"] = _with_typed(config, source, overrides, "dataset", run_dir)
    _refuse_other_split(typed.dataset, source["dataset"])
    if "datastore" not in named:
        inherited.check(scored, "datastore", typed.trusted, is_proven)
        config["datastore"] = _with_typed(config, source, overrides, "datastore", run_dir)


def _warn_about_other_data(config: Config, source: Config, overrides: Sequence[str]) -> None:
    """Warn if an experiment's data are not those that the scored run was trained with, which may have the same name."""
    typed = {override.lstrip("+").partition("=")[0] for override in overrides}
    if "experiment" not in typed or "dataset" in typed:
        return
    new, old = ({"dataset": _what_is_read(one), "datastore": one.datastore} for one in (config, source))
    found = [text for group in new for text in _differences(old[group], new[group], group)]
    if found:
        log.warning(
            "experiment=... brings its own data, which are not those of run %s: %s. Leave it out to take the run's",
            config.scored.id,
            ", ".join([*found[:MAX_LISTED], *(["..."] if found[MAX_LISTED:] else [])]),
        )


def _warn_about_limit(config: Config, source: Config) -> None:
    """Warn if the limit on test batches differs from the scored run's: Lightning's options are not inherited."""
    name = "limit_test_batches"
    scored, now = (((one.raw.get("trainer") or {}).get("options") or {}).get(name) for one in (source, config))
    if base.of(config).part == "test" and scored != now:
        before, after = ("null" if value is None else value for value in (scored, now))
        log.warning(
            "run %s was scored with trainer.options.%s=%s, which is %s now: the scores may differ. "
            "'++trainer.options.%s=%s' scores as it did",
            config.scored.id,
            name,
            before,
            after,
            name,
            before,
        )


def _with_typed(config: Node, source: Node, overrides: Sequence[str], group: str, run_dir: Path) -> dict[str, Any]:
    """Return a group of the scored run's config with the user's overrides and their consequences; see `scored_data`."""
    typed = scored_data.typed_below(overrides, group)
    places = [one.lstrip("+").partition("=")[0].split(".")[1:] for one in typed if not one.startswith("~")]
    further = scored_data.consequences(run_dir, group, typed)
    return scored_data.with_further(_with_values(source[group], places, config[group]), further)


def _with_values(node: Node, places: Sequence[Sequence[str]], values: Node) -> dict[str, Any]:
    """Return a copy of a node in which the values at some key paths are taken from another node."""
    result = dict(node)
    for first, *rest in places:
        if rest:
            result[first] = _with_values(_nodes(result.get(first)), [rest], _nodes(values.get(first)))
        else:
            result[first] = values.get(first)
    return result


def _refuse_other_split(new: Node, old: Node) -> None:
    for key in SPLIT_KEYS:
        if new.get(key) != old.get(key):
            raise ConfigError(
                f"dataset.{key}={new.get(key)}: the scored run had {old.get(key)}; with another split, its test score "
                f"would include samples that it was trained on. Use dataset.{key}={old.get(key)}, or leave it out"
            )


def _has_model(run_dir: Path, record: Record) -> bool:
    return record.status == COMPLETED and (RunPaths(run_dir).outputs / "model.json").is_file()


def _has_checkpoint(run_dir: Path, record: Record) -> bool:
    return (RunPaths(run_dir).checkpoints / "last.ckpt").is_file()


def submit(record: Record, run_dir: Path) -> None:
    """Write a frozen run's record to its folder: from then on, the folder describes what the run will do."""
    recording.create(run_dir, record)
    store.keep_out_of_git(store.workspace())
