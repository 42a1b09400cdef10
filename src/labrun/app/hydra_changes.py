"""labrun's changes to Hydra. They affect only this process."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import hydra.utils
from hydra._internal import hydra as hydra_app
from hydra._internal import utils
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from hydra.errors import CompactHydraException, ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from labrun.compose import hydra_job
from labrun.config import trust
from labrun.config.hydra_versions import any_help
from labrun.submission import freeze
from labrun.user_errors import UserErrors, for_terminal, refuse, show_traceback


class JobCallbacks(Callbacks):
    """Hydra's callbacks. They are called in the process that executes the job, and also when it fails."""

    current: JobCallbacks | None = None
    runs_in_other_process = False
    """Whether the single run about to start is executed by another process (`compose.hydra_job.around`)."""

    def __init__(self, config: DictConfig | None = None) -> None:
        with _allowing(None if config is None else OmegaConf.select(config, "hydra.callbacks")):
            super().__init__(config)
        JobCallbacks.current, JobCallbacks.runs_in_other_process = self, False

    def on_job_start(self, config: DictConfig, *, task_function: Any, **kwargs: Any) -> None:
        """Call the callbacks before the run."""
        if not self.runs_in_other_process:
            super().on_job_start(config=config, task_function=task_function, **kwargs)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Call the callbacks after a run that has not ended the process."""
        if not self.runs_in_other_process:
            super().on_job_end(config=config, job_return=job_return, **kwargs)

    @classmethod
    def report_failure(cls, error: BaseException) -> None:
        """Call the callbacks for a failed run. labrun then ends the process itself, so Hydra does not call them."""
        if cls.current is None:
            return
        # HydraConfig holds only the `hydra` node; OmegaConf has no public way from a node to the config around it
        config = HydraConfig.instance().cfg.hydra._get_parent()  # type: ignore[union-attr]
        result = hydra_job.returned(config, JobStatus.FAILED, error)
        cls.current.on_job_end(config=config, job_return=result)
        cls.current.on_run_end(config=config, config_name=config.hydra.job.config_name, job_return=result)


def _allowing(callbacks: DictConfig | None) -> contextlib.AbstractContextManager[Any]:
    """Let Hydra build these callbacks in the context: Hydra 1.4 deprecates building what was not allowed beforehand."""
    if callbacks is None or not hasattr(hydra.utils, "execution_whitelist"):
        return contextlib.nullcontext()
    with UserErrors():
        named = trust.named_targets(OmegaConf.to_container(callbacks, resolve=True), "hydra.callbacks")
        allowed: contextlib.AbstractContextManager[Any] = hydra.utils.execution_whitelist([name for _, name in named])
    return allowed


@contextlib.contextmanager
def with_job_callbacks() -> Iterator[None]:
    """In the context, make Hydra call its callbacks through `JobCallbacks`."""
    vars(hydra_app)["Callbacks"] = JobCallbacks
    try:
        yield
    finally:
        vars(hydra_app)["Callbacks"] = Callbacks


@contextlib.contextmanager
def without_asking_for_mode() -> Iterator[None]:
    """In the context, make Hydra assume that no config sets `hydra.mode`."""
    before = Hydra.get_mode
    Hydra.get_mode = lambda self, *args, **kwargs: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = before  # type: ignore[method-assign]


@contextlib.contextmanager
def leaving_keys_to_runs() -> Iterator[None]:
    """In the context, accept keys in a sweep over groups, or over runs to score, that only its runs' configs have.

    Hydra composes the config of the sweep without the varied groups, and so rejects keys below them. The config of each
    run is composed with all overrides before the first run starts, and unknown keys are rejected then.
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
                raise ConfigCompositionException(f"hydra.job.env_copy names {name}, which is not set here") from None
            raise
        finally:
            is_sweep, varied, given = False, False, []

    def putting(overrides: list[Override], cfg: DictConfig) -> None:
        nonlocal varied
        varied = varied or (is_sweep and _has_space_of_groups(cfg))
        _insert_scored_data(overrides, cfg, given)
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


def _insert_scored_data(overrides: Sequence[Override], cfg: DictConfig, given: Sequence[str]) -> None:
    """See `freeze.insert_scored_data`."""
    said = {one.key_or_group: one.value() for one in overrides if one.key_or_group in ("task", "from")}
    if given and (said or "task" in cfg):
        with UserErrors():
            freeze.insert_scored_data(cfg, said.get("task", cfg.get("task")), said.get("from", cfg.get("from")), given)


def _chooses_several(loader: ConfigLoaderImpl, override: str) -> bool:
    """Whether an override sweeps over the options of a group."""
    key, _, value = override.partition("=")
    name = key.lstrip("+").partition("@")[0]
    return ("," in value or "(" in value) and "." not in name and bool(loader.get_group_options(name))


def _has_space_of_groups(cfg: DictConfig) -> bool:
    """Whether the config itself defines a search space that may vary groups, which are keys without a dot."""
    spaces = [OmegaConf.select(cfg, key) for key in ("sweep.space", "hydra.sweeper.params")]
    return any("." not in str(key) for space in spaces if OmegaConf.is_dict(space) for key in space)


@contextlib.contextmanager
def with_own_messages() -> Iterator[None]:
    """In the context, pass Hydra's config errors on to `main`, which explains them. Hydra shows all other errors."""
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
        with any_help():
            yield
    finally:
        entry.get_args_parser = parsers  # type: ignore[attr-defined]
        for module in modules:
            module.run_and_report = before  # type: ignore[attr-defined]


class CallbackErrors(UserErrors):
    """Ends the command with any error of a callback. Hydra would only warn of it, and go on without the checks."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, (HydraException, OmegaConfBaseException)) and os.environ.get("HYDRA_FULL_ERROR") != "1":
            explain_hydra_error(error)
        if isinstance(error, Exception):
            show_traceback(error)


def explain_hydra_error(error: Exception) -> NoReturn:
    """Explain a Hydra error to the user. The final message of a sweep is shown unchanged.

    Raises:
        SystemExit: always.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    if type(error) is CompactHydraException:  # raised by labrun for runs that did not complete
        sys.stderr.write(f"{for_terminal(str(error))}\n")
        sys.exit(1)
    from labrun import mistakes

    with leaving_keys_to_runs():
        said = mistakes.explained(error, sys.argv[1:])
    refuse(said)
