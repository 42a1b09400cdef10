"""Datastores: storage for data. One interface (`base.Datastore`), and a class for each kind.

The `_target_` of the config's `datastore` node selects the kind: a local folder, or an fsspec file system class.
"""

from __future__ import annotations

import pkgutil

from labrun.config import schema
from labrun.config.instantiate import Node
from labrun.data.stores.base import Datastore
from labrun.data.stores.local import LocalDatastore

KINDS = {
    "adlfs.AzureBlobFileSystem": "labrun.data.stores.azure:AzureBlobDatastore",
    "s3fs.S3FileSystem": "labrun.data.stores.s3:S3Datastore",
    "fsspec.implementations.sftp.SFTPFileSystem": "labrun.data.stores.sftp:SFTPDatastore",
    "fsspec.implementations.http.HTTPFileSystem": "labrun.data.stores.http:HTTPDatastore",
}
"""The class for each file system that needs more than fsspec offers; imported on demand."""
ANY = "labrun.data.stores.remote:RemoteDatastore"
"""The class for every other file system."""


def make(node: Node) -> Datastore:
    """Build the datastore that a resolved `datastore` node describes.

    Raises:
        ConfigError: it cannot be built.
    """
    if schema.is_local_datastore(node):
        return LocalDatastore(str(node["name"]), str(node["root"]))
    made = pkgutil.resolve_name(KINDS.get(str(node["_target_"]), ANY))(node)
    assert isinstance(made, Datastore)
    return made
