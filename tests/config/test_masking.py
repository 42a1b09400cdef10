"""Values of variables in a config must not appear in records, logs or messages."""

from __future__ import annotations

import html
import json
import logging
import shlex
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from conftest import Command
from helpers import copy_database, mlflow_sync, run_labrun
from labrun.config import instantiate, masking
from labrun.errors import ConfigError
from labrun.runs import recording, store
from labrun.runs.record import RunPaths
from labrun.tracking.mlflow import client


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    masking.forget()
    yield
    masking.forget()


ODD = "s3cr3t/Val\"ue'x+y=z&%41<\u03a9\U0001f600>"


@pytest.mark.parametrize(
    ("name", "value", "text", "shown"),
    [
        ("T", "S3CR3T-ENV", "login with S3CR3T-ENV failed", "login with *** failed"),
        ("T", "S3CR3T-ENV", "xS3CR3T-ENVx", "x***x"),
        ("T", "abcd", "user:abcd@host abcdef xabcd abcd", "user:***@host abcdef xabcd ***"),
        ("T", "p'q\"r\n", "p'q\"r and " + repr("p'q\"r"), "*** and '***'"),
        ("T", "a/b c+d=e", "?token=a%2Fb%20c%2Bd%3De&x=a%2Fb+c%2Bd%3De", "?token=***&x=***"),
        ("T", "-----BEGIN KEY-----\nQUJDREVG\n-----END KEY-----", "got QUJDREVG", "got ***"),
        ("T", "https://me:hunter2x@host/a", "password hunter2x, https://me:hunter2x@host/a", "password ***, ***"),
        ("T", "pa$$ (w)o[r]d", "pa$$ (w)o[r]d", "***"),
        ("T", "123456", "pin 123456, 1234567", "pin ***, 1234567"),
        ("T", "pässwörd", "pässwörd", "***"),
        *(
            ("T", ODD, f"<{spelled}>", "<***>")
            for spelled in (
                ODD,
                repr(ODD)[1:-1],
                repr(ODD.encode())[2:-1],
                ascii(ODD)[1:-1],
                json.dumps(ODD)[1:-1],
                json.dumps(json.dumps(ODD))[3:-3],
                json.dumps(ODD, ensure_ascii=False)[1:-1],
                urllib.parse.quote(ODD),
                urllib.parse.quote(ODD, safe=""),
                urllib.parse.quote_plus(ODD),
                urllib.parse.quote(ODD).replace("%CE", "%ce"),
                urllib.parse.quote(urllib.parse.quote(ODD)),
                html.escape(ODD),
                html.escape(ODD, quote=False),
                shlex.quote(ODD)[1:-1],
                yaml.safe_dump(ODD)[1:-2],
            )
        ),
        ("T", "tail\\", r"tail\\ x", "*** x"),
        ("T", "a\nb\tc\x1bdefg", r"a\nb\tc\x1bdefg a\nb\tc\u001bdefg", "*** ***"),
    ],
)
def test_values_of_secret_variables_are_masked(name: str, value: str, text: str, shown: str) -> None:
    masking.note(name, value)
    assert masking.masked(text) == shown


def test_masking_is_fast_for_any_text() -> None:
    for value in (r"\\\\\\\\xy", "&&&&&&&&", "%25%25%25%25", '"' * 8, "'" * 8, "aaaaaaaa"):
        masking.note("T", value)
    begun = time.process_time()
    for part in ("\\", "&amp;", "%25", '"', "'", "a", r"\u005c", "x\\x\\"):
        masking.masked(part * 5_000)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("T", ""),
        ("T", "1"),
        ("T", "abc"),
        ("T", "true"),
        ("T", "False"),
        ("T", "auto"),
        ("T", "0.001"),
        ("T", "1e-3"),
        ("T", "   "),
        ("T", "/"),
        ("T", "/tmp"),
        ("HOME", "/nobody/at/all"),
        ("USER", "somebody"),
        ("T", "12345"),
    ],
)
def test_values_that_would_garble_all_text_are_not_masked(name: str, value: str) -> None:
    masking.note(name, value)
    assert masking.masked(f"a {value} b") == f"a {value} b"


def test_variables_are_masked_however_they_are_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        monkeypatch.setenv(f"V{number}", f"secret-{number}-value")
    monkeypatch.setenv("WHICH", "V4")
    node = {
        "a": "${oc.env:V0}",
        "b": "${oc.env:V1,none}",
        "c": "x${oc.env:V2}y",
        "d": [{"e": "${oc.decode:${oc.env:V3}}"}],
        "f": "${oc.env:${oc.env:WHICH}}",
        "g": "${oc.env:NOT_SET,${oc.env:V5}}",
        "h": "${oc.env: V6 }",
    }
    assert instantiate.resolve_references(node)["f"] == "secret-4-value"
    text = " ".join(f"secret-{number}-value" for number in range(7))
    assert masking.masked(text) == " ".join(["***"] * 7)
    masking.forget()
    masking.note_config({**node, "compute": {"environment": {"V4": "***"}}})
    assert masking.masked(text) == " ".join(["***"] * 7)
    with pytest.raises(ConfigError) as caught:
        instantiate.resolve_references({"a": "${oc.env:V0}", "b": "${oc.env:NOT_SET}"})
    assert "secret" not in str(caught.value)


def test_errors_without_a_message_or_with_a_secret_name_are_shown() -> None:
    masking.note("T", "S3CR3T-ENV")

    def fail(self: Exception) -> str:
        raise ValueError("S3CR3T-ENV")

    mute = type("Mute", (Exception,), {"__str__": fail})()
    assert recording.first_line(mute) == "Mute: (its message cannot be shown: ValueError)"
    named = type("S3CR3T-ENV", (Exception,), {})("S3CR3T-ENV\nmore")
    assert recording.first_line(named) == "***: ***" and recording.first_line(KeyError()) == "KeyError"
    failure = recording.outcome(named, RunPaths(Path()))[1]
    assert failure is not None and failure.type == "***"


def test_a_debug_traceback_has_no_secret(
    workspace: Path, labrun_here: Command, lab_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "S3CR3T-ENV")
    done = labrun_here("--debug", "model=mnist_dnn", "trainer.max_epochs=${oc.env:TOKEN}")
    assert done.returncode == 2 and "Traceback" in done.stderr and "***" in done.stderr, done.stderr
    shown = lab_here("--debug", "runs", "show", "S3CR3T-ENV")
    assert shown.returncode == 2 and "Traceback" in shown.stderr
    assert "S3CR3T" not in done.stdout + done.stderr + shown.stdout + shown.stderr


def test_only_labruns_own_log_lines_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    masking.note("T", "S3CR3T-ENV")
    with masking.in_logs(), caplog.at_level(logging.INFO):
        logging.getLogger("labrun.a").info("with %s", "S3CR3T-ENV")
        logging.getLogger("mine").info("with %s", "S3CR3T-ENV")
    logging.getLogger("labrun.a").info("again %s", "S3CR3T-ENV")
    assert caplog.messages[:2] == ["with ***", "with S3CR3T-ENV"]


def test_other_applications_of_hydra_are_left_alone() -> None:
    masking.register()
    assert OmegaConf.create({"a": "${oc.env:HOME}", "b": "${oc.env:NOT_SET,7}", "c": "${oc.env:NOT_SET,null}"}) == {
        "a": str(Path.home()),
        "b": "7",
        "c": None,
    }


MODEL = """
import os
from sklearn.linear_model import LogisticRegression

class Mine(LogisticRegression):
    def __init__(self, token=None, way="message"):
        super().__init__()
        self.token, self.way = token, way
        if way == "build":
            raise RuntimeError(f"login with {token} failed")

    def fit(self, x, y):
        if self.way == "message":
            raise ValueError(f"fit with {self.token!r}")
        if self.way == "cause":
            try:
                {}[self.token]
            except KeyError as error:
                raise ValueError("no such user") from error
        if self.way == "exit":
            raise SystemExit(self.token)
        if self.way == "variable":
            raise ValueError(os.environ["GIVEN"])
"""


def test_no_error_of_a_run_leaves_a_secret(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Path, labrun: Command
) -> None:
    """Inline and in the pool, in messages, causes and exit codes. Takes 20 s: each case is a separate run."""
    copy_database(empty_mlflow, workspace)
    (workspace / "mine.py").write_text(MODEL)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "mine.yaml").write_text(
        "_target_: mine.Mine\ntoken: x${oc.env:TOKEN}y\nway: build\n"
    )
    monkeypatch.setenv("TOKEN", "S3CR3T-'ENV'")
    common = ("model=mine", "dataset.max_samples=50", "report=none")
    done = run_labrun(*common, cwd=workspace)
    assert done.returncode == 1 and "login with x***y failed" in done.stderr, done.stderr
    swept = run_labrun(
        "-m",
        *common,
        "model.way=build,message,cause,exit,variable",
        "+compute.environment.GIVEN=gIvEn-7h3secret",
        cwd=workspace,
    )
    assert swept.returncode == 1, swept.stderr
    assert len([one for _, one in store.listing(workspace).runs if one.status == "failed"]) == 6
    mlflow_sync(workspace)
    with sqlite3.connect(client.database_path(workspace)) as connection:
        dump = "\n".join(connection.iterdump())
    assert "***" in dump
    texts = {
        str(path): path.read_bytes().decode(errors="replace") for path in workspace.glob("*/**/*") if path.is_file()
    }
    texts |= {"MLflow": dump, "output": done.stdout + done.stderr + swept.stdout + swept.stderr}
    for secret in ("S3CR3T", "gIvEn-7h3secret"):
        assert not [place for place, text in texts.items() if secret in text]
    (error,) = [
        json.loads(t)["error"]
        for t in texts.values()
        if '"way": "cause"' in t and t.startswith("{\n") and '"error": {' in t
    ]
    assert "ValueError: no such user" in error["traceback"] and "***" in error["traceback"]
