"""Datastores: where data lie. One interface (`base.Datastore`), and a class for each kind.

A config's node `datastore` names its kind by `_target_`: this machine's folder, or the class of fsspec's file system.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

from labrun import schema
from labrun.data.stores.base import Datastore
from labrun.data.stores.local import LocalDatastore

KINDS = {
    "adlfs.AzureBlobFileSystem": "labrun.data.stores.azure:AzureBlobDatastore",
    "s3fs.S3FileSystem": "labrun.data.stores.s3:S3Datastore",
    "fsspec.implementations.sftp.SFTPFileSystem": "labrun.data.stores.sftp:SFTPDatastore",
    "fsspec.implementations.http.HTTPFileSystem": "labrun.data.stores.http:HTTPDatastore",
}
"""The class for each file system that we know more of than fsspec says; imported when it is needed."""
ANY = "labrun.data.stores.remote:RemoteDatastore"
"""The class for any other one."""


def make(node: Mapping[str, Any]) -> Datastore:
    """The datastore that a config's node `datastore` describes, with what it refers to resolved.

    Raises:
        ConfigError: it cannot be built.
    """
    if schema.is_local_datastore(node):
        return LocalDatastore(str(node["name"]), str(node["root"]))
    made = pkgutil.resolve_name(KINDS.get(str(node["_target_"]), ANY))(node)
    assert isinstance(made, Datastore)
    return made
