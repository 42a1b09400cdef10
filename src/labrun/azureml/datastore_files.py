"""Datastores that a control script registers: files in the workspace's conf/datastore, without their secrets.

A secret stays in the environment, and the file names its variable: the one that the script took it from, else
`LABRUN_NAME_KEY`, which is set for the runs of this process and has to be set for other commands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from labrun import schema
from labrun._io import atomic_write
from labrun.azureml.telling import once
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.config import paths

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


def shown_kind(node: Mapping[str, Any]) -> str:
    """A datastore's type: Azure's word where it has one."""
    return "Local" if schema.is_local_datastore(node) else KINDS.get(schema.datastore_target(node), "Custom")


def registered(name: str, target: str, keys: Mapping[str, Any], secrets: Mapping[str, str | None]) -> None:
    """Write a datastore's file, unless a person has one of that name.

    Args:
        name: the datastore's.
        target: its kind.
        keys: what is in the file; `address` is a server's, which needs a connection string.
        secrets: what is not.

    Raises:
        UserErrorException: the name cannot be a file's.
    """
    if not NAME.fullmatch(name):
        raise UserErrorException(f"{name!r} cannot be the name of a datastore: letters, digits, '_' and '-'")
    path = _path(name)
    if path.is_file() and not path.read_text(encoding="utf-8").startswith(MARK):
        once(f"the datastore {name} is what conf/datastore/{name}.yaml says; register_... does not change it")
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
        raise UserErrorException(f"the datastore {name}: an endpoint of one's own needs account_key")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(node, sort_keys=False, allow_unicode=True)
    head = f"{MARK}...: see it with `lab data ls --datastore {name}`. Secrets come from the environment.\n"
    with atomic_write(path) as file:
        file.write((head + text).encode())


def remove(name: str) -> None:
    """Take away what `registered` has written.

    Raises:
        UserErrorException: the file is not of that kind.
    """
    path = _path(name)
    if not path.is_file() or not path.read_text(encoding="utf-8").startswith(MARK):
        raise UserErrorException(f"the datastore {name} was not registered by a script: remove its file by hand")
    path.unlink()


def mounted(source: str) -> str | None:
    """The folder where this machine has mounted a share, if it has."""
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
    """The variable of the environment that holds a secret: the script's own, else one that is set now."""
    for variable, content in os.environ.items():
        if content == value:
            return variable
    return _set(f"LABRUN_{_upper(name)}_{key.upper()}", value)


def _set(variable: str, value: str) -> str:
    if os.environ.get(variable) != value:
        os.environ[variable] = value
        once(f"the secret is not written: it is the variable {variable} in this process; set that for other commands")
    return variable


def _upper(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()
