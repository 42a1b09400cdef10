"""Checks of a command before anything is written."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from labrun.app.hydra_changes import CallbackErrors, JobCallbacks
from labrun.backends import registry
from labrun.compose import composed, hydra_job, paths
from labrun.errors import ConfigError, RecordError
from labrun.runs import store
from labrun.runs.record import cannot_write, check_path_length
from labrun.submission import freeze, origin, prerequisites
from labrun.tracking import trackers

PROBE_BYTES = 2**18
"""Minimum disk space that a run needs, in bytes: configs, record, log."""
_made: list[Path] = []
"""Folders that `check_writable` has created, deepest first."""


class Preflight(Callback):
    """Checks a command before anything is written. Hydra calls it before creating the run directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate the config, prepare the data, and check that the run directory can be created."""
        HydraConfig.instance().set_config(config)
        with CallbackErrors():
            check_choices(config)
            plain, typed = composed.without_hydra(config), composed.task_overrides(config.hydra)
            resolved, _ = freeze.resolved_config(plain, typed, store.workspace())
            freeze.check_targets(resolved)
            compute = resolved.compute
            registry.check(compute, sweep=False)
            trackers.check(resolved.tracking)
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.runtime.output_dir = os.path.abspath(config.hydra.run.dir)
            if hydra_job.has_own_logging(config.hydra):
                hydra_job.check_logging(config.hydra)
            backend = registry.chosen(compute, sweep=False)
            JobCallbacks.runs_in_other_process = not backend.in_process
            if resolved.sweep.resume is not None:
                raise ConfigError("sweep.resume continues a sweep, with -m. For a single run: trainer.resume=last")
            if not backend.is_remote:
                prerequisites.prepare(resolved)
            check_writable(Path(config.hydra.run.dir))
            if hydra_job.has_own_logging(config.hydra):
                hydra_job.make_log_folders(
                    composed.kept(config.hydra.job_logging), Path(config.hydra.runtime.output_dir)
                )
            unused = [word for word in typed if word.startswith("sweep=") and word != "sweep=grid"]
            if unused:
                sys.stderr.write(f"labrun: {unused[0]}: a search needs -m; without it, this is a single run\n")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check that the sweep's folder can be created. Its runs are validated later, before the first one starts."""
        HydraConfig.instance().set_config(config)
        with CallbackErrors():
            check_choices(config)
            if OmegaConf.select(config, "sweep.resume") is not None:
                from labrun.submission import resume

                typed = Path(config.hydra.sweep.dir)
                found = resume.find_sweep(store.workspace(), str(config.sweep.resume), str(config.name), typed)
                with read_write(config.hydra), open_dict(config.hydra):
                    config.hydra.sweep.dir = str(found)
            check_writable(Path(config.hydra.sweep.dir))


def check_choices(config: DictConfig) -> None:
    """Check that no option of a group was set as a key: `model.optimizer=adam` would replace the node with text.

    Raises:
        ConfigError: an option was set as a key.
    """
    overrides = composed.task_overrides(config.hydra)
    if any(_may_be_a_choice(text) for text in overrides):
        from labrun import mistakes

        found = mistakes.in_overrides(sys.argv[1:])
        if found is not None:
            raise ConfigError(found)


def _may_be_a_choice(override: str) -> bool:
    """Whether an override sets a key that is also a group to plain text. Reads no file, to be fast."""
    key, _, value = override.lstrip("+").partition("=")
    return "." in key and value[:1] not in ("", "{", "$") and value != "null" and paths.is_group(key.replace(".", "/"))


def tidy() -> None:
    """Remove the folders that `check_writable` has created, if they are still empty."""
    while _made:
        with contextlib.suppress(OSError):
            _made.pop(0).rmdir()


def check_writable(run_dir: Path) -> None:
    """Check that a run directory can be created.

    Raises:
        RecordError: it cannot, or it already holds a run.
    """
    check_path_length(run_dir.absolute())
    if (run_dir / "run.json").exists():
        raise RecordError(f"{run_dir} already holds a run; a new run needs its own folder")
    probe = None
    _made.extend(place for place in run_dir.parents if not place.exists())
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        probe = run_dir.parent / f".probe-{origin.new_id()}"
        with open(probe, "wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        if probe is not None:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        raise RecordError(cannot_write(run_dir.parent, error)) from error
