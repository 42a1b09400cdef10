"""Datastores that a control script registers: files in the workspace's conf/datastore, without secrets.

A secret stays in an environment variable, which the file refers to. It is the variable from which the script took the
secret, or else `LABRUN_NAME_KEY`. The latter is set in this process and its runs; users set it for other commands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from labrun._io import atomic_write
from labrun.azureml.notices import notify_once
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compose import paths
from labrun.config import schema

MARK = "# Written by Datastore.register_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
LOCAL = "labrun.data.stores.local.LocalDatastore"
MOUNTS = Path("/proc/mounts")
KINDS = {
    "adlfs.AzureBlobFileSystem": "AzureBlob",
    "s3fs.S3FileSystem": "S3",
    "fsspec.implementations.sftp.SFTPFileSystem": "SFTP",
    "fsspec.implementations.http.HTTPFileSystem": "HTTP",
}

PLACE = ("_target_", "root", "account_name", "account_host")
"""The keys of a datastore's config that say where its files are."""


def shown_kind(node: Mapping[str, Any]) -> str:
    """Return a datastore's type, by Azure's name if Azure has one."""
    return "Local" if schema.is_local_datastore(node) else KINDS.get(schema.datastore_target(node), "Custom")


def register(
    name: str, target: str, keys: Mapping[str, Any], secrets: Mapping[str, str | None], overwrite: bool = False
) -> None:
    """Write a datastore's config file, unless a user-written file of that name exists.

    Args:
        name: the datastore's name.
        target: its class, for `_target_`.
        keys: the settings for the file. `address` is a custom server, which requires a connection string.
        secrets: the secrets, which the file only refers to.
        overwrite: replace a registration of the same name for something else.

    Raises:
        UserErrorException: the name is invalid, an `address` is given without an account key, or the name is
            registered for something else and `overwrite` is False.
    """
    if not NAME.fullmatch(name):
        raise UserErrorException(f"{name!r} is not a valid datastore name: use letters, digits, '_' and '-'")
    path = _path(name)
    if path.is_file() and not path.read_text(encoding="utf-8").startswith(MARK):
        notify_once(f"the datastore {name} is defined in conf/datastore/{name}.yaml; register_... does not change it")
        return
    node = {"_target_": target, "name": name, **{key: value for key, value in keys.items() if value is not None}}
    variables = {key: _variable(name, key, value) for key, value in secrets.items() if value}
    address = node.pop("address", None)
    if address is None:
        node |= {key: f"${{oc.env:{variable}}}" for key, variable in variables.items()}
    elif "account_key" in variables:
        variable = _set(f"LABRUN_{_upper(name)}_CONNECTION", _connection(address, node, str(secrets["account_key"])))
        node["connection_string"] = f"${{oc.env:{variable}}}"
    else:
        raise UserErrorException(f"the datastore {name}: a custom endpoint needs account_key")
    if not overwrite:
        _check_same(path, node)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(node, sort_keys=False, allow_unicode=True)
    head = f"{MARK}...: see it with `lab data ls --datastore {name}`. Secrets come from the environment.\n"
    with atomic_write(path) as file:
        file.write((head + text).encode())


def _check_same(path: Path, node: Mapping[str, Any]) -> None:
    """Check that an earlier registration, if any, is of the same files. The secrets may differ.

    Raises:
        UserErrorException: it is of other files.
    """
    before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else node
    differing = [key for key in PLACE if before.get(key) != node.get(key)]
    if differing:
        was = ", ".join(f"{key}={before.get(key)}" for key in differing)
        now = ", ".join(f"{key}={node.get(key)}" for key in differing)
        raise UserErrorException(
            f"the datastore {path.stem} is registered with {was}, not {now}: give overwrite=True to replace it, or "
            "another name"
        )


def remove(name: str) -> None:
    """Remove a file that `register` has written.

    Raises:
        UserErrorException: there is no such file, or a user wrote it.
    """
    path = _path(name)
    if not path.is_file() or not path.read_text(encoding="utf-8").startswith(MARK):
        raise UserErrorException(f"the datastore {name} was not registered by a script: remove its file by hand")
    path.unlink()


def mounted(source: str) -> str | None:
    """Return the folder where this machine has mounted a share; None if it is not mounted."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split(" ")[1] for line in lines if line.split(" ")[0].lower() == source.lower()]
    return found[-1].replace("\\040", " ") if found else None


def _path(name: str) -> Path:
    return paths.home() / "conf" / "datastore" / f"{name}.yaml"


def _connection(address: str, node: Mapping[str, Any], key: str) -> str:
    protocol = address.partition(":")[0]
    account = node["account_name"]
    return f"DefaultEndpointsProtocol={protocol};AccountName={account};AccountKey={key};BlobEndpoint={address};"


def _variable(name: str, key: str, value: str) -> str:
    """Return the environment variable that holds a secret. If there is none, set one."""
    for variable, content in os.environ.items():
        if content == value:
            return variable
    return _set(f"LABRUN_{_upper(name)}_{key.upper()}", value)


def _set(variable: str, value: str) -> str:
    if os.environ.get(variable) != value:
        os.environ[variable] = value
        notify_once(
            f"the secret is not written to a file: this process has it in {variable}; set that for other commands"
        )
    return variable


def _upper(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()
