"""Hydra's job features for runs executed by another process: callbacks, logging, working folder, variables.

For a single inline run, Hydra provides them itself. A job's settings are stored in its record (`Record.hydra`), so that
a rerun has them too. Its variables (`hydra.job.env_set`) become environment variables of the run, like those of
`compute.environment`.
"""

from __future__ import annotations

import contextlib
import functools
import logging.config
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.callbacks import Callbacks
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from labrun._io import environ_overlay
from labrun.compose import composed, hydra_files, paths
from labrun.compose.paths import PREFLIGHT
from labrun.config import hydra_versions, instantiate
from labrun.config.references import keep_mounts, resolve_environment
from labrun.errors import ConfigError
from labrun.runs import context, store
from labrun.runs.groups import HydraFeatures
from labrun.runs.record import Record


@functools.cache
def plain_logging() -> dict[str, Any]:
    """Return labrun's own job logging: plain messages on standard output."""
    path = paths.conf_dir() / "hydra" / "job_logging" / "labrun.yaml"
    return dict(yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def settings(hydra: DictConfig) -> HydraFeatures | None:
    """Return the job features that a `hydra` node enables, as stored in the record; None if there are none.

    Args:
        hydra: the node, in its config; `hydra.runtime.output_dir` is the run directory.

    Raises:
        ConfigError: an interpolation cannot be resolved, or a logging handler does not exist.
    """
    found: HydraFeatures = {}
    callbacks = {
        name: composed.kept(node)
        for name, node in (hydra.callbacks or {}).items()
        if node is not None and node.get("_target_") != PREFLIGHT
    }
    if callbacks:
        found["callbacks"] = callbacks
    if has_own_logging(hydra):
        check_logging(hydra)
        found["job_logging"] = composed.kept(hydra.job_logging)
    if hydra.verbose:
        found["verbose"] = composed.kept(hydra.verbose) if OmegaConf.is_config(hydra.verbose) else hydra.verbose
    if hydra.job.chdir:
        found["chdir"] = True
    return found or None


def has_own_logging(hydra: DictConfig) -> bool:
    """Whether a job has another logging config than labrun's."""
    return bool(OmegaConf.to_container(hydra.job_logging, resolve=False) != plain_logging())


def check_logging(hydra: DictConfig) -> None:
    """Check the logging config of a job, before anything runs.

    Raises:
        ConfigError: the class of a handler or a formatter cannot be imported, or a name or a folder does not exist.
    """
    given: Any = OmegaConf.to_container(hydra.job_logging, resolve=False)
    maker = logging.config.DictConfigurator({})
    handlers, formatters = given.get("handlers") or {}, given.get("formatters") or {}
    for kind, nodes in (("handlers", handlers), ("formatters", formatters)):
        for name, node in nodes.items():
            for target in (node.get("class"), node.get("()")):
                try:
                    if isinstance(target, str):
                        maker.resolve(target)
                except (ValueError, ImportError, AttributeError) as error:
                    raise ConfigError(f"hydra.job_logging.{kind}.{name}: {error}") from error
            if kind == "handlers" and node.get("formatter") not in (None, *formatters):
                raise ConfigError(f"hydra.job_logging.handlers.{name}: there is no formatter {node['formatter']!r}")
    for name, node in {"root": given.get("root"), **(given.get("loggers") or {})}.items():
        for handler in (node or {}).get("handlers") or ():
            if handler not in handlers:
                raise ConfigError(f"hydra.job_logging: {name} names the handler {handler!r}, which does not exist")
    for name, path in _log_files(composed.kept(hydra.job_logging)):
        own = Path(hydra.runtime.output_dir).absolute()
        if not path.is_relative_to(own) and not path.parent.is_dir():
            raise ConfigError(f"hydra.job_logging.handlers.{name}: there is no folder {path.parent}")


def make_log_folders(wanted: Mapping[str, Any], run_dir: Path) -> None:
    """Create the folders for log files inside the run directory.

    Args:
        wanted: the resolved logging config of the job.
        run_dir: the run directory.
    """
    for _, path in _log_files(wanted):
        if path.is_relative_to(run_dir):
            path.parent.mkdir(parents=True, exist_ok=True)


def _log_files(wanted: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield the log files of a logging config, as pairs of handler name and path."""
    for name, node in (wanted.get("handlers") or {}).items():
        if isinstance(node.get("filename"), str) and "${" not in node["filename"]:
            yield name, Path(node["filename"]).absolute()


def configure_own_log(hydra: DictConfig) -> None:
    """Use labrun's logging for the messages of a sweep itself; `hydra.job_logging` is only for its jobs.

    Does nothing if the user has turned these messages off (`hydra/hydra_logging=none`, `disabled`).
    """
    own = OmegaConf.select(hydra, "hydra_logging.root")
    if own is not None and own.get("handlers"):
        configure_log(OmegaConf.create(plain_logging()), hydra.verbose)


@contextlib.contextmanager
def given_variables(config: DictConfig, hydra: DictConfig) -> Iterator[None]:
    """In the context, merge `hydra.job.env_set` into `compute.environment`, which takes precedence."""
    own = OmegaConf.to_container(hydra.job.env_set, resolve=False) if hydra.job.env_set else None
    if not isinstance(own, dict) or not own or "compute" not in config:
        yield
        return
    references = {
        str(name): text if hydra_files.REFERENCE.fullmatch(str(text)) else str(hydra.job.env_set[name])
        for name, text in own.items()
    } | {str(name): f"${{oc.env:{name}}}" for name in hydra.job.env_copy or ()}
    compute = config.compute
    before = compute.get("environment")
    given = OmegaConf.to_container(before, resolve=False) if before else {}
    assert isinstance(given, dict)
    with open_dict(config), read_write(config):
        compute["environment"] = {**references, **given}
    try:
        yield
    finally:
        with open_dict(config), read_write(config):
            compute["environment"] = before


@contextlib.contextmanager
def around(record: Record, run_dir: Path) -> Iterator[None]:
    """In the context, provide Hydra's job features, for a run that is not executed by Hydra's own process.

    Raises:
        ConfigError: its logging or one of its callbacks cannot be set up.
    """
    features = record.hydra or {}
    config = _Lazily(record, run_dir)
    with config.published(), folder(features, run_dir), _logging(features, run_dir), _callbacks(features, config):
        yield


@contextlib.contextmanager
def along(record: Record, run_dir: Path) -> Iterator[None]:
    """In the context, provide the job config and the working folder for a rank other than 0."""
    with _Lazily(record, run_dir).published(), folder(record.hydra or {}, run_dir):
        yield


@contextlib.contextmanager
def folder(features: HydraFeatures, run_dir: Path) -> Iterator[None]:
    """In the context, work in the run directory if `hydra.job.chdir` is set; the workspace stays the same."""
    if not features.get("chdir"):
        yield
        return
    with environ_overlay({store.ROOT_VARIABLE: str(store.workspace())}), contextlib.chdir(run_dir):
        yield


@contextlib.contextmanager
def _logging(features: HydraFeatures, run_dir: Path) -> Iterator[None]:
    """In the context, apply the logging config of the job."""
    wanted, verbose = features.get("job_logging"), features.get("verbose", False)
    if wanted is None and not verbose:
        yield
        return
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    enabled = [name for name, one in root.manager.loggerDict.items() if not getattr(one, "disabled", True)]
    made: Any = OmegaConf.create(resolve_environment({"job_logging": wanted or plain_logging()}))
    if made.job_logging.get("root") is None:  # Hydra keeps the existing setup then, which is empty in a new interpreter
        root.handlers, root.level = [], logging.WARNING
    make_log_folders(made.job_logging, run_dir)
    try:
        configure_log(made.job_logging, OmegaConf.create(verbose) if isinstance(verbose, list) else verbose)
    except (ValueError, OSError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(f"hydra.job_logging: {error.__cause__ or error}") from error
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers, root.level = handlers, level
        for name in enabled:
            logging.getLogger(name).disabled = False


@contextlib.contextmanager
def _callbacks(features: HydraFeatures, config: _Lazily) -> Iterator[None]:
    """Call the callbacks' `on_job_start` before the context and `on_job_end` after it; a failure is only a warning."""
    nodes = resolve_environment(features["callbacks"]) if features.get("callbacks") else {}
    if not nodes:
        yield
        return
    callbacks = Callbacks()
    callbacks.callbacks = [instantiate.build(node, f"hydra.callbacks.{name}") for name, node in nodes.items()]
    composed = config.composed
    callbacks.on_job_start(config=composed, task_function=run)
    try:
        yield
    except Exception as error:
        callbacks.on_job_end(config=composed, job_return=returned(composed, JobStatus.FAILED, error))
        raise
    now = context.current()
    metrics = {} if now is None else dict(now.summary)
    callbacks.on_job_end(config=composed, job_return=returned(composed, JobStatus.COMPLETED, metrics))


def run(config: DictConfig) -> None:
    """Do nothing: callbacks receive this as the task function, but the run is executed from its record."""


def returned(config: DictConfig, status: JobStatus, value: Any) -> JobReturn:
    """Return the `JobReturn` that callbacks receive when a job ends.

    Args:
        config: the whole config, including the `hydra` node.
        status: status of the job.
        value: metrics of the job, or its error.
    """
    found = JobReturn()
    found.overrides = composed.task_overrides(config.hydra)
    found.cfg, found.hydra_cfg = composed.without_hydra(config), OmegaConf.masked_copy(config, "hydra")
    found.working_dir, found.task_name = os.getcwd(), str(config.hydra.job.name)
    found.status, found.return_value = status, value
    return found


class _Lazily:
    """The config of a job, including the `hydra` node, composed on first use.

    Args:
        record: record of the run.
        run_dir: the run directory.
    """

    def __init__(self, record: Record, run_dir: Path) -> None:
        self._record, self._run_dir = record, run_dir.resolve()

    @functools.cached_property
    def composed(self) -> DictConfig:
        """The whole config: the task's from the record, and the saved `hydra` node."""
        setup_globals()
        keep_mounts()
        record, hydra = self._record, OmegaConf.structured(HydraConf)
        for name, value in (
            ("id", record.id),
            ("name", record.name),
            ("groups", ""),
            ("cpus", record.typed.compute.cpus_per_run),
        ):
            if not OmegaConf.has_resolver(f"labrun_{name}"):  # in a process without labrun's resolvers
                hydra_versions.register_resolver(f"labrun_{name}", lambda value=value: value)
        saved = hydra_files.of_run(self._run_dir) / "hydra.yaml"
        with open_dict(hydra):
            with contextlib.suppress(OSError, yaml.YAMLError):
                hydra = OmegaConf.merge(hydra, OmegaConf.load(saved).hydra)
            hydra.runtime.output_dir = hydra.run.dir = str(self._run_dir)
            if record.sweep is not None:
                hydra.sweep.dir = str(record.sweep.folder)
        config = OmegaConf.create({**record.config, "hydra": hydra})
        OmegaConf.set_struct(config, True)
        OmegaConf.set_readonly(config.hydra, True)
        return config

    @contextlib.contextmanager
    def published(self) -> Iterator[None]:
        """In the context, make `HydraConfig.get()` return the job's `hydra` node."""
        instances: dict[type, Any] = Singleton._instances
        before = HydraConfig.instance()
        instances[HydraConfig] = _Published(self)
        try:
            yield
        finally:
            instances[HydraConfig] = before


class _Published:
    """Replacement for the singleton instance of `HydraConfig`."""

    def __init__(self, lazily: _Lazily) -> None:
        self._lazily = lazily

    @functools.cached_property
    def cfg(self) -> Any:
        config = self._lazily.composed
        hydra = OmegaConf.masked_copy(config, "hydra")
        hydra.hydra._set_parent(config)  # as Hydra's `set_config` does
        return hydra

    def set_config(self, config: DictConfig) -> None:
        """Set the config as Hydra does, in case the user's code composes a config."""
        real = object.__new__(HydraConfig)
        real.set_config(config)
        self.cfg = real.cfg
