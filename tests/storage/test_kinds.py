"""The class chosen for a datastore config, without any connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from labrun.config import schema, validation
from labrun.data import stores
from labrun.data.stores.local import LocalDatastore
from labrun.data.stores.remote import RemoteDatastore
from labrun.errors import ConfigError, DataError


@pytest.mark.parametrize("target", sorted(stores.KINDS))
def test_each_known_type_has_a_schema(target: str) -> None:
    made = stores.make({"_target_": target, "name": "there", "root": "top/"})
    assert type(made) is not RemoteDatastore and isinstance(made, RemoteDatastore)
    assert target in schema.DATASTORES and made.package and made.extra
    assert (made.name, made.root, made.identity) == ("there", "top", f"{target}:::::top")


def test_any_other_fsspec_file_system_works() -> None:
    made = stores.make({"_target_": "fsspec.implementations.memory.MemoryFileSystem", "name": "m", "root": "/x"})
    assert type(made) is RemoteDatastore


@pytest.mark.parametrize(
    "error, advice",
    [
        (PermissionError("no"), "Check the credentials"),
        (OSError("InvalidAccessKeyId: 403 Forbidden"), "Check the credentials"),
        (ValueError("Incorrect padding"), "Check the credentials"),
        (OSError("Name or service not known"), "Check the address"),
    ],
)
def test_an_error_of_a_file_system_comes_with_advice(
    error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    made = stores.make({"_target_": "fsspec.implementations.memory.MemoryFileSystem", "name": "m", "root": "/x"})
    monkeypatch.setattr(MemoryFileSystem, "find", fail)
    with pytest.raises(DataError, match=f"{type(error).__name__}: {error}\\. {advice}"):
        made.files()


def test_the_details_of_a_refused_request_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("Server failed to authenticate.\nRequestId:7f\nTime:now\nContent: <?xml?>")

    made = stores.make({"_target_": "fsspec.implementations.memory.MemoryFileSystem", "name": "m", "root": "/x"})
    monkeypatch.setattr(MemoryFileSystem, "find", fail)
    with pytest.raises(DataError, match="OSError: Server failed to authenticate.. Check the credentials"):
        made.files()


@pytest.mark.parametrize("target", [None, schema.LOCAL_DATASTORE, *schema.FORMER_DATASTORES])
def test_the_former_name_of_a_local_datastore_works(target: str | None, tmp_path: Path) -> None:
    node = {"name": "mine", "root": str(tmp_path)} | ({} if target is None else {"_target_": target})
    assert schema.is_local_datastore(node) and list(validation.check_datastore(node)) == []
    assert isinstance(stores.make(node), LocalDatastore)
    assert list(validation.check_datastore(node | {"rot": "x"})) != []


def test_a_web_address_is_quoted_and_cannot_leave_its_root() -> None:
    http = "fsspec.implementations.http.HTTPFileSystem"
    made = stores.make({"_target_": http, "name": "web", "root": "https://example.org/a"})
    assert isinstance(made, RemoteDatastore) and made.path("b c/d?.txt") == "https://example.org/a/b%20c/d%3F.txt"
    for name in ("../x", "\\x", "/x", "a\0b"):
        with pytest.raises(ConfigError, match="not a name inside a datastore"):
            made.path(name)
    with pytest.raises(ConfigError, match="has query parameters"):
        stores.make({"_target_": http, "name": "web", "root": "https://example.org/a?sig=1"})
