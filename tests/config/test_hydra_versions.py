"""What differs between versions of Hydra and Python: no deprecated call is made, and each version is understood."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from labrun import mistakes
from labrun.app import hydra_changes, resolvers
from labrun.config import hydra_versions
from labrun.submission.plain_app.job import trace_of


@pytest.mark.usefixtures("registered")
def test_no_deprecated_call_is_made() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolvers.register()
        hydra.main(config_path=None, **hydra_versions.current_defaults())
        for value in ("first", "second"):
            hydra_versions.register_resolver("labrun_test_version", lambda value=value: value)
            assert OmegaConf.create({"a": "${labrun_test_version:}"}).a == value
        callbacks = {"one": {"_target_": "hydra.experimental.callback.Callback"}}
        hydra_changes.JobCallbacks(OmegaConf.create({"hydra": {"callbacks": callbacks}}))


def test_the_mode_is_never_read_whatever_arguments_hydra_passes() -> None:
    asking: Any = object.__new__(Hydra)
    with hydra_changes.without_asking_for_mode():
        assert asking.get_mode("config", []) is None
        assert asking.get_mode("config", [], parsed_overrides=[]) is None  # 1.4


@pytest.mark.parametrize(
    "said",
    [
        "Could not override 'data'. No match in the defaults list.",
        "Invalid Defaults List override '/data: mnist'.\nNo earlier Group Default for 'data' exists to override.",
    ],
    ids=["1.3", "1.4"],
)
def test_an_override_of_a_group_missing_in_the_defaults_is_explained(said: str, workspace: Path) -> None:
    error = ConfigCompositionException(f"In 'experiment/theirs': {said}")
    told = mistakes.explained(error, [])
    assert told.startswith("in experiment/theirs: 'override /data': there is no group 'data'"), told


def test_hydras_flags_are_known_where_argparse_reads_each_help_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    add = argparse.ArgumentParser.add_argument

    def add_as_in_3_14(self: argparse.ArgumentParser, *names: str, **options: Any) -> argparse.Action:
        assert "%d" not in options.get("help", "")
        return add(self, *names, **options)

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_as_in_3_14)
    with pytest.raises(TypeError):
        get_args_parser()
    helps = {name: action.help for action in hydra_versions.flags_parser()._actions for name in action.option_strings}
    assert helps["--multirun"] == "Run multiple jobs with the configured launcher and sweeper"
    assert str(helps["--shell-completion"]).startswith("Install or Uninstall shell completion:")


def test_a_traceback_begins_below_hydras_frames() -> None:
    def work() -> None:
        raise ValueError("mine")

    def _run_job() -> None:  # in 1.4, between `run_job` and the function of the job
        work()

    def run_job() -> None:
        _run_job()

    with pytest.raises(ValueError, match="mine") as caught:
        run_job()
    assert "run_job" not in trace_of(caught.value)
    assert ", in work\n" in trace_of(caught.value)
