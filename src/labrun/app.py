"""`labrun`: Hydra's main, wiring only."""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal import hydra as hydra_app
from hydra._internal import utils
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import CompactHydraException, ConfigCompositionException, HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from labrun import masking, new, terminal, version
from labrun.backends import machine, registry
from labrun.config import composed, hydra_files, hydra_job, paths
from labrun.errors import ConfigError, LabrunError, RecordError, RunFailedError
from labrun.runs import custom_locations, recording, store
from labrun.runs import record as records
from labrun.runs.record import Record
from labrun.schema import Compute
from labrun.submission import freeze, publish
from labrun.submission.publish import announce
from labrun.tracking import registry as trackers

log = logging.getLogger(__name__)

USER_ERROR = 2
PROBE_BYTES = 2**18
"""What a run writes at the very least: configs, record, log."""
CANCELED = 130
RUN_HERE = {"labrun.tasks.estimator", "labrun.tasks.lightning"}
"""What a process has loaded that has carried out a run itself, and with it the user's code."""


class UserConf(SearchPathPlugin):
    """Puts the user's own configs in front of ours. Registered in this process alone, by `main`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = paths.user_conf_dir()
        if own is not None:
            search_path.prepend("labrun-user", f"file://{own}", anchor="main")


class Preflight(Callback):
    """Answers mistakes before anything is written: Hydra calls it before it makes the run's folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate the config, bring the data, and try whether the run's folder can be made."""
        HydraConfig.instance().set_config(config)
        with UserErrors():
            check_choices(config)
            plain = composed.without_hydra(config)
            values, _ = freeze.settled(plain, composed.task_overrides(config.hydra), store.workspace())
            freeze.check_targets(values)
            compute = Compute.of(values["compute"])
            registry.check(compute, sweep=False)
            trackers.check(values["tracking"])
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.runtime.output_dir = os.path.abspath(config.hydra.run.dir)
            if hydra_job.has_own_logging(config.hydra):
                hydra_job.check_logging(config.hydra)
            backend = registry.chosen(compute, sweep=False)
            JobCallbacks.is_elsewhere = not backend.in_process
            if values["sweep"]["resume"] is not None:
                raise ConfigError("sweep.resume goes on with a sweep: it wants -m. A single run: trainer.resume=last")
            if not backend.is_elsewhere:
                freeze.prepare(values)
            check_writable(Path(config.hydra.run.dir))
            if hydra_job.has_own_logging(config.hydra):
                hydra_job.make_log_folders(
                    composed.kept(config.hydra.job_logging), Path(config.hydra.runtime.output_dir)
                )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Try whether the sweep's folder can be made; its runs are validated before the first one starts."""
        HydraConfig.instance().set_config(config)
        with UserErrors():
            check_choices(config)
            if OmegaConf.select(config, "sweep.resume") is not None:
                from labrun.submission import resume

                typed = Path(config.hydra.sweep.dir)
                found = resume.find_sweep(store.workspace(), str(config.sweep.resume), str(config.name), typed)
                with read_write(config.hydra), open_dict(config.hydra):
                    config.hydra.sweep.dir = str(found)
            check_writable(Path(config.hydra.sweep.dir))


class JobCallbacks(Callbacks):
    """Hydra's callbacks: called in the process that executes a job, and at its end, however it ends."""

    current: JobCallbacks | None = None
    is_elsewhere = False
    """Whether the single run that is about to begin goes to another process (`config.hydra_job.around`)."""

    def __init__(self, config: DictConfig | None = None) -> None:
        super().__init__(config)
        JobCallbacks.current, JobCallbacks.is_elsewhere = self, False

    def on_job_start(self, config: DictConfig, *, task_function: Any, **kwargs: Any) -> None:
        """Hydra calls it before the run."""
        if not self.is_elsewhere:
            super().on_job_start(config=config, task_function=task_function, **kwargs)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Hydra calls it after a run that did not end the process."""
        if not self.is_elsewhere:
            super().on_job_end(config=config, job_return=job_return, **kwargs)

    @classmethod
    def tell_failure(cls, error: BaseException) -> None:
        """Tell them of a run that failed: labrun ends the process itself then, and Hydra tells nobody."""
        if cls.current is None:
            return
        config = HydraConfig.instance().cfg.hydra._get_parent()  # type: ignore[union-attr]
        result = hydra_job.returned(config, JobStatus.FAILED, error)
        cls.current.on_job_end(config=config, job_return=result)
        cls.current.on_run_end(config=config, config_name=config.hydra.job.config_name, job_return=result)


def check_choices(config: DictConfig) -> None:
    """Whether every option of a group was chosen as one: `model.optimizer=adam` would put a text in its place.

    Raises:
        ConfigError: one was set as a key.
    """
    overrides = composed.task_overrides(config.hydra)
    if any(_may_be_a_choice(text) for text in overrides):
        from labrun import mistakes

        found = mistakes.in_overrides(sys.argv[1:])
        if found is not None:
            raise ConfigError(found)


def _may_be_a_choice(override: str) -> bool:
    """Whether a key is set to plain text where there is a folder of options. Each command asks: no file is read."""
    key, _, value = override.lstrip("+").partition("=")
    return "." in key and value[:1] not in ("", "{", "$") and value != "null" and paths.is_group(key.replace(".", "/"))


class UserErrors:
    """Shows a `LabrunError` as one message and ends with exit code 2; LABRUN_DEBUG=1 or --debug shows the traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LabrunError) and os.environ.get("LABRUN_DEBUG") != "1":
            sys.stderr.write(f"labrun: {shown(str(error))}\n")
            sys.exit(USER_ERROR)


def shown(text: str) -> str:
    """A text as the terminal has it: without values of the environment, and without what a terminal obeys."""
    return terminal.lines(masking.masked(text))


_made: list[Path] = []
"""Folders that `check_writable` has made, the deepest first."""


def _tidy() -> None:
    """Take away again what `check_writable` has made, where nothing has come into it."""
    while _made:
        with contextlib.suppress(OSError):
            _made.pop(0).rmdir()


def check_writable(run_dir: Path) -> None:
    """Whether a run's folder can be made.

    Raises:
        RecordError: it cannot, or a run lies there already.
    """
    records.check_place(run_dir.absolute())
    if (run_dir / "run.json").exists():
        raise RecordError(f"{run_dir} holds a run already; a new run needs a folder of its own")
    probe = None
    _made.extend(place for place in run_dir.parents if not place.exists())
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        probe = run_dir.parent / f".probe-{freeze.new_id()}"
        with open(probe, "wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        if probe is not None:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        raise RecordError(records.cannot_write(run_dir.parent, error)) from error


def default_name(root: DictConfig) -> str:
    """The resolver `labrun_name`: the experiment's name, else data set and model."""
    hydra_config = root.hydra if "hydra" in root else HydraConfig.get()
    choices = dict(hydra_config.runtime.choices)
    for override in composed.task_overrides(hydra_config):
        # A swept choice is in no single config, but it names the sweep.
        key, _, value = override.partition("=")
        if key in ("experiment", "dataset", "model") and "," in value:
            choices[key] = value.replace(",", "+")
    if records.is_scoring(root.task):
        return str(root.task)
    if choices.get("experiment") == "script" and root.script.path:
        return Path(str(root.script.path)).stem or "script"
    if choices.get("experiment"):
        return str(choices["experiment"]).replace("/", "-")
    return f"{choices.get('dataset')}-{choices.get('model')}".replace("/", "-")


def default_cpus(_parent_: Any = None) -> int:
    """The resolver `labrun_cpus`: all cores for a run that says nothing of them; those of `compute.host`, if it is set.

    In a sweep one.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return 1
    host = None if _parent_ is None else _parent_.get("host")
    if host is None:
        return machine.cores()
    from labrun.remote import backend, remotes

    try:
        return int(backend.facts(remotes.get(str(host)))["cores"])
    except LabrunError:  # an unknown or unreachable one is reported before anything runs
        return 1


def groups_text(root: DictConfig) -> str:
    """The resolver `labrun_groups`: each config group and its options, for `--help`."""
    lines = []
    sources = root.hydra.runtime.get("config_sources") or () if "hydra" in root else ()
    for group, options in paths.groups([Path(one.path) for one in sources if one.schema == "file"]).items():
        lines.append(f"  {group}")
        lines += [f"    {name:<22}{text}" for name, text in options.items()]
    return "\n".join(lines).replace("$", "$$")


def run(config: DictConfig) -> dict[str, Any]:
    """One run, in this process unless `compute` sends it elsewhere; its metrics."""
    try:
        with _where_it_was_typed(HydraConfig.get().runtime.cwd):
            return _run(config, HydraConfig.get())
    except SystemExit as end:
        if end.code not in (None, 0, CANCELED):
            JobCallbacks.tell_failure(end.__context__ or end)
        raise


@contextlib.contextmanager
def _where_it_was_typed(folder: str) -> Iterator[None]:
    """Inside, the working folder is the command's: Hydra has gone to the run's where `hydra.job.chdir` says so."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run(config: DictConfig, hydra_config: Any) -> dict[str, Any]:
    run_dir = Path(hydra_config.runtime.output_dir)
    root = store.workspace()
    with UserErrors(), _taken_back(run_dir, hydra_config.output_subdir):
        suffix = run_dir.name.rsplit("-", 1)[-1]
        run_id = suffix if re.fullmatch("[0-9a-f]{8}", suffix) else freeze.new_id()
        around = freeze.capture_provenance(root)
        files = hydra_files.texts(_whole(config))
        hydra_files.save_of_run(files, run_dir, hydra_config.output_subdir)
        with hydra_job.given_variables(config, hydra_config):
            record = freeze.freeze(config, run_id, composed.task_overrides(hydra_config), root, around)
            variables = freeze.environment(config)
        record.parent = record.parent or publish.parent()
        record.hydra = hydra_job.settings(hydra_config)
        record.command = hydra_files.command(hydra_config, record.overrides)
        if not registry.chosen(Compute.of(record.config["compute"]), sweep=False).in_process:
            from labrun.submission import submit

            job = submit.Job(record, run_dir, files, variables, hydra_config.output_subdir)
            ended = submit.carry_out([job], run_dir)[0]
            submit.answer(ended, run_dir)
            return ended.metrics
        freeze.submit(record, run_dir)
        announce(run_dir)
        os.environ.update(variables)
        return carry_out(record, run_dir, root).metrics


@contextlib.contextmanager
def _taken_back(run_dir: Path, subfolder: str | None) -> Iterator[None]:
    """Where a run is refused or interrupted inside: what Hydra has put into its folder is taken away again.

    A record that is there already is closed: nobody would ever begin that run.
    """
    try:
        yield
    except (LabrunError, KeyboardInterrupt, SystemExit) as end:
        if not (run_dir / "run.json").exists():
            hydra_files.remove_of_run(run_dir, subfolder)
        elif not isinstance(end, LabrunError) and records.read(run_dir).status == records.QUEUED:
            from labrun.runs import finalize

            finalize.close_unrun(run_dir, "canceled before it began")
        raise


def _whole(config: DictConfig) -> DictConfig:
    """The config with Hydra's own node, as it was composed."""
    whole: Any = copy.deepcopy(HydraConfig.instance().cfg)
    with open_dict(whole), read_write(whole):
        whole.merge_with(config)
    assert isinstance(whole, DictConfig)
    return whole


def carry_out(record: Record, run_dir: Path, root: Path) -> Record:
    """Execute a submitted run in this process, tracked."""
    from labrun.backends.local import threads
    from labrun.execute import execute
    from labrun.runs import recording
    from labrun.tasks.threads import wait_asleep
    from labrun.tracking.feed import follow

    wait_asleep()
    config = record.config
    compute = Compute.of(config["compute"])
    own = threads.own_variables(compute)
    if own or compute.cpus_per_run < machine.cores():
        threads.limit_run(compute.cpus_per_run, own)
    with follow(root, config["tracking"]):
        try:
            with hydra_job.folder(record.hydra or {}, run_dir):
                return execute(run_dir)
        except KeyboardInterrupt:
            sys.stderr.write(f"labrun: canceled; the record is in {run_dir}\n")
            sys.exit(CANCELED)
        except RunFailedError as error:
            sys.stderr.write(f"labrun: the run failed: {shown(str(error))}\n  log: {run_dir / 'driver.log'}\n")
            sys.exit(1)
        except LabrunError:
            raise
        except (Exception, SystemExit) as error:
            if os.environ.get("LABRUN_DEBUG") == "1":
                raise
            reason = shown(recording.first_line(error))
            sys.stderr.write(f"labrun: the run failed: {reason}\n  log: {run_dir / 'driver.log'}\n")
            sys.exit(1)


def open_standard_streams() -> None:
    """Give standard input, output and error that the caller closed (`>&-`) to nothing: they must not become files."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def config_dir(arguments: Sequence[str]) -> Path | None:
    """The folder that `--config-dir` names, if it does."""
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value if equals else next(iter(arguments[place + 1 :]), ""))
    return None


def check_yaml(arguments: Sequence[str] = ()) -> dict[Path, str]:
    """Whether every config file can be read as YAML: Hydra would answer with a traceback.

    Args:
        arguments: of the command.

    Returns:
        The text of each.

    Raises:
        ConfigError: with the file, the line and what is wrong there.
    """
    import yaml

    texts = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    extra = config_dir(arguments)
    if extra is not None and custom_locations.is_of_runs(extra):  # Hydra reads what is asked for of a run's own
        extra = None
    for folder in (paths.conf_dir(), paths.user_conf_dir(), extra):
        for path in sorted(folder.rglob("*.yaml")) if folder else []:
            try:
                texts[path] = path.read_text(encoding="utf-8")
                content = yaml.load(texts[path], Loader=loader)
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
            if content is not None and not isinstance(content, dict):
                raise ConfigError(f"{path} holds a {type(content).__name__}; a config file holds keys and values")
            if (place := _not_taken(content)) is not None:
                raise ConfigError(
                    f"{path}: {place}: a config's keys are text, numbers, true or false ('null' in quotes is text), "
                    "its values these, lists and groups of keys"
                )
    return texts


def _not_taken(content: Any, place: str = "") -> str | None:
    """Where a YAML file holds what it may, and Hydra takes not; None if nowhere."""
    if isinstance(content, set):
        return f"{place} is a set"
    if isinstance(content, list):
        found = (_not_taken(value, f"{place}[{number}]") for number, value in enumerate(content))
        return next(filter(None, found), None)
    if not isinstance(content, dict):
        return None
    for key, value in content.items():
        if key is None or isinstance(key, tuple):
            return f"{place or 'the top'} has the key {'null' if key is None else key}"
        if (found_below := _not_taken(value, f"{place}.{key}".lstrip("."))) is not None:
            return found_below
    return None


def may_set_mode(arguments: Sequence[str], texts: Mapping[Path, str]) -> bool:
    """Whether the config may say by itself that the command is a sweep (`hydra.mode`).

    Hydra composes it once to find out, and then again to use it, which is a quarter of a warm command's time.

    Args:
        arguments: of the command.
        texts: of the config files.
    """
    everything = [*arguments, *texts.values()]
    if any(word in text for text in everything for word in ("searchpath", "--config", "@hydra")):
        return True
    if any("hydra" in argument or re.match("-[a-z]*c", argument) for argument in arguments):
        return True
    for path, text in texts.items():
        if re.search(r"\bmode\b", text) and ("hydra" in text or path.parent.name == "hydra"):
            others = [*arguments, *(other for place, other in texts.items() if place != path)]
            if any(path.stem in other for other in others):
                return True
    return False


@contextlib.contextmanager
def telling_jobs() -> Iterator[None]:
    """Have Hydra tell its callbacks of single runs as `JobCallbacks` does."""
    vars(hydra_app)["Callbacks"] = JobCallbacks
    try:
        yield
    finally:
        vars(hydra_app)["Callbacks"] = Callbacks


@contextlib.contextmanager
def without_asking_for_mode() -> Iterator[None]:
    """Have Hydra take it that no config says `hydra.mode`."""
    before = Hydra.get_mode
    Hydra.get_mode = lambda self, config_name, overrides: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = before  # type: ignore[method-assign]


OPEN = {"script": ("arguments", "inputs", "metrics", "tables"), "dataset": ("train", "validation", "test", "predict")}
"""Of each group, the keys below which the user names what a component of their own takes."""


def register() -> None:
    """Make known to Hydra, in this process, what our configs refer to."""
    masking.register()
    OmegaConf.register_new_resolver("labrun_id", freeze.new_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("labrun_cpus", default_cpus, replace=True)
    OmegaConf.register_new_resolver("labrun_groups", lambda *, _root_: groups_text(_root_), replace=True)
    OmegaConf.register_new_resolver("labrun_name", lambda *, _root_: default_name(_root_), replace=True)
    if str(Path.cwd()) not in sys.path:
        # Last, so that the user's module is found and never hides an installed package.
        sys.path.append(str(Path.cwd()))
    Plugins.instance().register(UserConf)  # which looks for the user's own plug-ins, too
    # For each look at a group Hydra copies its sources, this store of all configs among them: 150 times for `--help`.
    # Nothing is put into such a copy, and what is loaded from it is copied by itself.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    for group, keys in OPEN.items():
        ConfigStore.instance().store(name="_open", node=open_node(*keys), group=group)


@contextlib.contextmanager
def leaving_keys_to_runs() -> Iterator[None]:
    """Have a sweep over groups, or over runs to score, take keys that its own config has not, and its runs have.

    Hydra composes the sweep's own config without the groups that vary, and refuses a key below them there. Each run is
    composed with all that was typed before any starts: what none of its files has is refused then.
    """
    load, put = ConfigLoaderImpl._load_configuration_impl, ConfigLoaderImpl._apply_overrides_to_config
    is_sweep = varied = False
    given: list[str] = []

    def loading(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
        nonlocal is_sweep, varied, given
        given, is_sweep = kwargs["overrides"], kwargs.get("run_mode") == RunMode.MULTIRUN
        varied = is_sweep and any(_chooses_several(self, text) or text.startswith("from=") for text in given)
        try:
            return load(self, *args, **kwargs)
        except KeyError as error:
            name = error.args[0] if type(error) is KeyError else None
            if isinstance(name, str) and name not in os.environ:
                raise ConfigCompositionException(
                    f"hydra.job.env_copy names {name}, and that variable is not set here"
                ) from None
            raise
        finally:
            is_sweep, varied, given = False, False, []

    def putting(overrides: list[Override], cfg: DictConfig) -> None:
        nonlocal varied
        varied = varied or (is_sweep and _has_space_of_groups(cfg))
        _place_scored_data(overrides, cfg, given)
        for override in overrides:
            try:
                put([override], cfg)
            except ConfigCompositionException:
                if not varied or override.is_hydra_override():
                    raise

    ConfigLoaderImpl._load_configuration_impl = loading  # type: ignore[method-assign]
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(putting)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl._load_configuration_impl = load  # type: ignore[method-assign]
        ConfigLoaderImpl._apply_overrides_to_config = staticmethod(put)  # type: ignore[method-assign]


def _place_scored_data(overrides: Sequence[Override], cfg: DictConfig, given: Sequence[str]) -> None:
    """See `freeze.place_scored_data`."""
    said = {one.key_or_group: one.value() for one in overrides if one.key_or_group in ("task", "from")}
    if given and (said or "task" in cfg):
        with UserErrors():
            freeze.place_scored_data(cfg, said.get("task", cfg.get("task")), said.get("from", cfg.get("from")), given)


def _chooses_several(loader: ConfigLoaderImpl, override: str) -> bool:
    """Whether an override sweeps over the options of a group."""
    key, _, value = override.partition("=")
    name = key.lstrip("+").partition("@")[0]
    return ("," in value or "(" in value) and "." not in name and bool(loader.get_group_options(name))


def _has_space_of_groups(cfg: DictConfig) -> bool:
    """Whether the config itself says what varies, and groups may be among it: they are keys without a dot."""
    spaces = [OmegaConf.select(cfg, key) for key in ("sweep.space", "hydra.sweeper.params")]
    return any("." not in str(key) for space in spaces if OmegaConf.is_dict(space) for key in space)


def open_node(*keys: str) -> DictConfig:
    """A config whose keys take any name below them; a YAML file cannot say so."""
    node = OmegaConf.create({key: {} for key in keys})
    for key in keys:
        OmegaConf.set_struct(node[key], False)
    return node


@contextlib.contextmanager
def with_own_messages() -> Iterator[None]:
    """Have Hydra's mistakes reach `main`, which tells them in labrun's words; other errors are shown as Hydra does."""
    before = utils.run_and_report

    def report(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # noqa: BLE001 - Hydra shows it, without its own frames
            caught = error

        def again() -> Any:
            raise caught

        return before(again)

    def parser() -> argparse.ArgumentParser:
        made: Any = parsers()
        made.parse_args = made.parse_intermixed_args  # flags may stand between overrides
        found: argparse.ArgumentParser = made
        return found

    entry, modules = sys.modules["hydra.main"], (utils, sys.modules[Hydra.__module__])
    parsers = entry.get_args_parser
    entry.get_args_parser = parser  # type: ignore[attr-defined]
    for module in modules:
        module.run_and_report = report  # type: ignore[attr-defined]
    try:
        yield
    finally:
        entry.get_args_parser = parsers  # type: ignore[attr-defined]
        for module in modules:
            module.run_and_report = before  # type: ignore[attr-defined]


def refuse(text: str) -> NoReturn:
    """One message, and exit code 2."""
    sys.stderr.write(f"labrun: {shown(text)}\n")
    sys.exit(USER_ERROR)


def tell_hydras(error: Exception) -> NoReturn:
    """Explain an error of Hydra's; a sweep's final message is shown unchanged.

    Raises:
        SystemExit: always.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    if type(error) is CompactHydraException:  # ours: of runs that did not complete
        sys.stderr.write(f"{shown(str(error))}\n")
        sys.exit(1)
    from labrun import mistakes

    with leaving_keys_to_runs():
        said = mistakes.explained(error, sys.argv[1:])
    refuse(said)


def check_flags(words: Sequence[str]) -> None:
    """Answer what argparse would answer with a list of all options.

    Raises:
        SystemExit: a flag is none, lacks its value, or does not go with another.
    """
    if any(word.startswith("-") for word in words):
        from labrun import mistakes

        found = mistakes.in_words(words)
        if found is not None:
            refuse(found)


def check_encoding() -> None:
    """Answer what no record can hold: words and folders whose names are not UTF-8.

    Raises:
        SystemExit: one of them is not.
    """
    given = [*sys.argv[1:], os.getcwd(), os.environ.get(store.ROOT_VARIABLE, "")]
    for text, what in zip(given, [*[""] * (len(given) - 2), "the working folder ", "the workspace "], strict=True):
        if text != (storable := recording.storable(text)):
            refuse(f"{what}{storable}: this is not UTF-8, and no record can hold it")


def main() -> None:
    """The command `labrun`."""
    if new.is_asked(sys.argv):
        new.main()
        return
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["LABRUN_DEBUG"] = os.environ["HYDRA_FULL_ERROR"] = "1"
        # Hydra's own word of an error that is shown anyway, and masked then.
        warnings.filterwarnings("ignore", message=r"Callback Preflight\.", category=UserWarning)
    open_standard_streams()
    if "--version" in sys.argv[1:]:
        print(version.text())
        return
    logging.raiseExceptions = False  # `labrun ... | head`: nobody reads what is logged any more
    register()
    gc.freeze()  # what is loaded by now stays: it is not to be searched for garbage again and again
    try:
        check_encoding()
        check_flags(sys.argv[1:])
        with UserErrors():
            texts = check_yaml(sys.argv[1:])
        command = hydra.main(version_base="1.3", config_path=str(paths.conf_dir()), config_name="config")(run)
        asking = contextlib.nullcontext() if may_set_mode(sys.argv[1:], texts) else without_asking_for_mode()
        with asking, telling_jobs(), leaving_keys_to_runs(), masking.in_logs(), with_own_messages():
            command()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except KeyboardInterrupt:
        sys.stderr.write("labrun: canceled before the run began\n")
        sys.exit(CANCELED)
    except (HydraException, OmegaConfBaseException) as error:
        tell_hydras(error)
    except Exception as error:
        if os.environ.get("LABRUN_DEBUG") != "1":
            raise
        sys.stderr.write(shown("".join(traceback.format_exception(error))))
        sys.exit(USER_ERROR if isinstance(error, LabrunError) else 1)
    finally:
        _tidy()
        if not RUN_HERE & set(sys.modules):
            gc.freeze()  # the interpreter need not look through all that was loaded, once more, for what is garbage
