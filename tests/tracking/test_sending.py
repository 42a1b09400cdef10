"""Errors while values are sent to MLflow are told apart by their classes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import alembic.util
import pytest
import requests
import sqlalchemy.exc
import urllib3.exceptions
from mlflow.exceptions import MlflowException

from labrun.errors import RecordError
from labrun.tracking.mlflow import client, sending


class DatabaseError(Exception):
    """A user's error with a name of sqlite3's."""


def of_sqlalchemy(kind: type[sqlalchemy.exc.DBAPIError], cause: Exception) -> Exception:
    return kind("SELECT 1", {}, cause)


LOCKED = sqlite3.OperationalError("database is locked")
TAKEN = sqlite3.IntegrityError("UNIQUE constraint failed")
REFUSED = requests.ConnectionError("refused")


@pytest.mark.parametrize(
    "error, is_broken, is_unreachable",
    [
        (LOCKED, True, False),
        (sqlite3.DatabaseError("file is not a database"), True, False),
        (of_sqlalchemy(sqlalchemy.exc.OperationalError, LOCKED), True, False),
        (TAKEN, False, False),
        (of_sqlalchemy(sqlalchemy.exc.IntegrityError, TAKEN), False, False),
        (DatabaseError("mine"), False, False),
        (MlflowException("INVALID"), False, False),
        (REFUSED, False, True),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), False, True),  # type: ignore[arg-type]
        (ConnectionResetError(), False, True),
    ],
    ids=repr,
)
def test_a_broken_database_and_a_lost_server_are_recognized(
    error: Exception, is_broken: bool, is_unreachable: bool
) -> None:
    wrapped = MlflowException("wrapped")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        assert (sending.is_database_broken(one), sending.is_unreachable(one)) == (is_broken, is_unreachable)


def test_only_errors_of_mlflow_and_its_libraries_become_labruns() -> None:
    for error in (MlflowException("no"), LOCKED, REFUSED, alembic.util.CommandError("no such revision")):
        with pytest.raises(RecordError, match="MLflow at http://x refused: "), client.translate_errors("http://x"):
            raise error
    for own in (DatabaseError("mine"), ValueError("mine"), sqlite3.Warning("mine")):
        with pytest.raises(type(own), match="mine"), client.translate_errors("http://x"):
            raise own


def test_looking_for_a_class_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_yet.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert sending.loaded("not_yet", "Error") == ()
    assert sending.loaded("sqlite3", "Error") == (sqlite3.Error,)
