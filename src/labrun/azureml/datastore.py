"""`Datastore`: an entry of conf/datastore under the SDK's names."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.azureml import folder
from labrun.azureml.advice import Advising
from labrun.azureml.data_reference import DataReference
from labrun.azureml.datastore_files import LOCAL, mounted, register, remove, shown_kind
from labrun.azureml.local_paths import local, slashes
from labrun.azureml.notices import notify_once
from labrun.azureml.transfers import fetch_all, send_all
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import arguments
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import script_context
from labrun.compose import paths
from labrun.config.references import resolve_environment
from labrun.data import stores
from labrun.data.stores.base import clean
from labrun.data.transfer import local_files
from labrun.errors import ConfigError, LabrunError
from labrun.runs import context
from labrun.submission import inputs

if TYPE_CHECKING:
    from labrun.data.stores.base import Datastore as Store

AZURES_OWN = ("workspaceblobstore", "workspacefilestore", "workspaceworkingdirectory", "workspaceartifactstore")
"""Datastores that every Azure workspace has; in labrun they stand for the default datastore."""
SETTINGS, DEFAULT = "settings", "default_datastore"
UPLOADS = "uploads"
AUTHORITY, RESOURCE = "https://login.microsoftonline.com", "https://storage.azure.com/"
"""The SDK's defaults for the sign-in of a service principal."""


class Datastore(Advising):
    """A datastore.

    Args:
        workspace: the workspace.
        name: the name of a file in conf/datastore, without its suffix; None: the default datastore.

    Raises:
        UserErrorException: no datastore has this name.
    """

    def __init__(self, workspace: Any = None, name: str | None = None) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace()
        if name in AZURES_OWN and not _is_there(str(name)):
            default = default_name(self.workspace)
            notify_once(f"the datastore {name} maps to {default}, the config's default")
            name = default
        self.name = name or default_name(self.workspace)
        self.node = _node(self.workspace, self.name)

    def __repr__(self) -> str:
        return (
            f"Datastore(name='{self.name}', type='{self.datastore_type}', container_name='{self.container_name}', "
            f"account_name='{self.account_name}')"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Datastore) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @functools.cached_property
    def store(self) -> Store:
        """labrun's datastore object."""
        return stores.make(self.node)

    @property
    def datastore_type(self) -> str:
        """The type: `AzureBlob`, or labrun's name for it."""
        return shown_kind(self.node)

    @property
    def container_name(self) -> str:
        """The container; for a local datastore, its folder."""
        root = str(self.node.get("root") or "")
        return root if self.store.is_local else root.partition("/")[0]

    @property
    def account_name(self) -> str:
        """The storage account; for other types, the datastore's name."""
        return str(self.node.get("account_name") or self.name)

    @property
    def is_default(self) -> bool:
        return self.name == default_name(self.workspace)

    # Lookup and registration

    @classmethod
    def get(cls, workspace: Any, datastore_name: str) -> Datastore:
        """Return a datastore by name.

        Raises:
            UserErrorException: no datastore has this name.
        """
        return cls(workspace, datastore_name)

    @classmethod
    def get_default(cls, workspace: Any) -> Datastore:
        """Return the datastore that runs use by default."""
        return cls(workspace)

    @classmethod
    def set_default(cls, workspace: Workspace, name: str) -> None:
        """Set the datastore that `get_default` returns."""
        folder.put(workspace.folder, SETTINGS, DEFAULT, {"name": cls(workspace, name).name})

    def set_as_default(self) -> None:
        """Make this the datastore that `get_default` returns."""
        self.set_default(self.workspace, self.name)

    @classmethod
    def list(cls, workspace: Any) -> list[Datastore]:
        """Return the default datastore and those in the workspace's conf/datastore."""
        conf_dir = paths.user_conf_dir()
        names = sorted(path.stem for path in (conf_dir / "datastore").glob("*.yaml")) if conf_dir else []
        found = [cls(workspace)]
        return found + [cls(workspace, name) for name in names if name != found[0].name]

    def unregister(self) -> None:
        """Remove the file that `register_...` wrote; the data stay.

        Raises:
            UserErrorException: the file was written by the user or belongs to labrun.
        """
        remove(self.name)

    @classmethod
    def register_azure_blob_container(
        cls,
        workspace: Any,
        datastore_name: str,
        container_name: str,
        account_name: str,
        sas_token: str | None = None,
        account_key: str | None = None,
        protocol: str | None = None,
        endpoint: str | None = None,
        overwrite: bool = False,
        create_if_not_exists: bool = False,
        skip_validation: bool = False,
        blob_cache_timeout: int | None = None,
        grant_workspace_access: bool = False,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        **unknown: Any,
    ) -> Datastore:
        """Write conf/datastore/NAME.yaml for an Azure Blob Storage container, without its secret.

        Args:
            workspace: the workspace.
            datastore_name: the file's name.
            container_name: the container.
            account_name: the storage account.
            sas_token: a secret; the file contains only the name of its environment variable.
            account_key: a secret, handled like `sas_token`.
            protocol: `http` or `https`.
            endpoint: an endpoint other than `core.windows.net`.
            overwrite: replace a registration with another container, account or endpoint.
            create_if_not_exists: not needed: an upload creates the container.
            skip_validation: not needed: the container is never checked.
            blob_cache_timeout: not used: labrun's cache compares the files with the container's.
            grant_workspace_access: not used.
            subscription_id: not used.
            resource_group: not used.
            **unknown: refused.

        Raises:
            UserErrorException: the name is invalid, or is registered for something else and `overwrite` is False.
            TypeError: there is no such argument.
        """
        arguments.check(Datastore.register_azure_blob_container, unknown)
        register(
            datastore_name,
            "adlfs.AzureBlobFileSystem",
            {"root": container_name, "account_name": account_name, **_address(account_name, protocol, endpoint)},
            {"account_key": account_key, "sas_token": sas_token},
            overwrite,
        )
        return cls(workspace, datastore_name)

    @classmethod
    def register_azure_data_lake_gen2(
        cls,
        workspace: Any,
        datastore_name: str,
        filesystem: str,
        account_name: str,
        tenant_id: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        resource_url: str | None = None,
        authority_url: str | None = None,
        protocol: str | None = None,
        endpoint: str | None = None,
        overwrite: bool = False,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        grant_workspace_access: bool = False,
        **unknown: Any,
    ) -> Datastore:
        """Register like `register_azure_blob_container`: a file system is a container, read by a service principal.

        Args:
            workspace: the workspace.
            datastore_name: the file's name.
            filesystem: the container.
            account_name: the storage account.
            tenant_id: the service principal's tenant.
            client_id: the service principal.
            client_secret: a secret; the file contains only the name of its environment variable.
            resource_url: not used; a notice says so.
            authority_url: not used; a notice says which variable sets it.
            protocol: `http` or `https`.
            endpoint: an endpoint other than `core.windows.net`.
            overwrite: replace a registration with another file system, account or endpoint.
            subscription_id: not used.
            resource_group: not used.
            grant_workspace_access: not used.
            **unknown: refused.

        Raises:
            UserErrorException: the name is invalid, or is registered for something else and `overwrite` is False.
            TypeError: there is no such argument.
        """
        call = "register_azure_data_lake_gen2"
        arguments.check(Datastore.register_azure_data_lake_gen2, unknown)
        if authority_url not in (None, AUTHORITY):
            why = f"Azure's client takes it from the environment: export AZURE_AUTHORITY_HOST={authority_url}"
            arguments.tell_unused(call, {"authority_url": authority_url}, why)
        if resource_url not in (None, RESOURCE):
            arguments.tell_unused(call, {"resource_url": resource_url}, f"labrun asks for access to {RESOURCE}")
        register(
            datastore_name,
            "adlfs.AzureBlobFileSystem",
            {
                "root": filesystem,
                "account_name": account_name,
                "tenant_id": tenant_id,
                "client_id": client_id,
                **_address(account_name, protocol, endpoint),
            },
            {"client_secret": client_secret},
            overwrite,
        )
        return cls(workspace, datastore_name)

    @classmethod
    def register_azure_file_share(
        cls,
        workspace: Any,
        datastore_name: str,
        file_share_name: str,
        account_name: str,
        sas_token: str | None = None,
        account_key: str | None = None,
        protocol: str | None = None,
        endpoint: str | None = None,
        overwrite: bool = False,
        create_if_not_exists: bool = False,
        skip_validation: bool = False,
        **unknown: Any,
    ) -> Datastore:
        """Write conf/datastore/NAME.yaml for a file share that this machine has mounted. The mount holds the key.

        Args:
            workspace: the workspace.
            datastore_name: the file's name.
            file_share_name: the share.
            account_name: the storage account.
            sas_token: not used.
            account_key: not used.
            protocol: not used: the share is mounted.
            endpoint: an endpoint other than `core.windows.net`.
            overwrite: not needed: the file says where the share is mounted now.
            create_if_not_exists: not used.
            skip_validation: not used.
            **unknown: refused.

        Raises:
            NotInLabrun: the share is not mounted.
            UserErrorException: the name is invalid.
            TypeError: there is no such argument.
        """
        arguments.check(Datastore.register_azure_file_share, unknown)
        source = f"//{account_name}.file.{endpoint or 'core.windows.net'}/{file_share_name}"
        folder = mounted(source)
        if folder is None:
            not_here(
                f"Reading the file share {source} without mounting it",
                f"mount it, sudo mount -t cifs {source} /mnt/share -o username={account_name},password=KEY, "
                "and run this again",
            )
        register(datastore_name, LOCAL, {"root": folder}, {}, overwrite=True)
        return cls(workspace, datastore_name)

    @classmethod
    def register_azure_data_lake(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise: Azure has retired Data Lake Storage Gen1."""
        not_here("Datastore.register_azure_data_lake()", "Datastore.register_azure_data_lake_gen2()")

    @classmethod
    def _database(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise: a labrun datastore holds files."""
        not_here(
            "A database as a datastore", "pandas.read_sql, and Dataset.Tabular.register_pandas_dataframe() of the rows"
        )

    register_azure_sql_database = _database
    register_azure_postgre_sql = _database
    register_azure_my_sql = _database

    @classmethod
    def register_dbfs(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise: labrun does not support DBFS or HDFS."""
        not_here("Datastore.register_dbfs()", "copy the files to a datastore of conf/datastore")

    register_hdfs = register_dbfs

    # Files

    def upload(
        self, src_dir: Any, target_path: str | None = None, overwrite: bool = False, show_progress: bool = True
    ) -> DataReference:
        """Upload a folder's files, skipping existing files unless `overwrite` is True.

        Raises:
            UserErrorException: there is no such folder, or the datastore is not writable.
        """
        source = local(src_dir)
        try:
            files = local_files(source)
        except LabrunError as error:
            raise UserErrorException(f"upload: {error}") from error
        return self._send(self._without_uploads(source, files), target_path, overwrite, show_progress)

    def upload_files(
        self,
        files: Any,
        relative_root: Any = None,
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Upload files under their paths relative to `relative_root` (default: their common folder).

        Raises:
            UserErrorException: a file does not exist or lies outside `relative_root`, or the datastore is not writable.
        """
        sources = [local(one).absolute() for one in ([files] if isinstance(files, (str, os.PathLike)) else files)]
        absent = [str(path) for path in sources if not path.is_file()]
        if absent or not sources:
            raise UserErrorException(f"upload_files: no such file: {', '.join(absent) or 'the list is empty'}")
        common = os.path.commonpath([path.parent for path in sources])
        root = local(relative_root).absolute() if relative_root is not None else Path(common)
        outside = [str(path) for path in sources if not path.is_relative_to(root)]
        if outside:
            raise UserErrorException(f"upload_files: {', '.join(outside)} is not below relative_root={root}")
        named = {path.relative_to(root).as_posix(): path for path in sources}
        return self._send(named, target_path, overwrite, show_progress)

    def _send(self, files: dict[str, Path], target_path: str | None, overwrite: bool, show: bool) -> DataReference:
        target = self._clean(target_path)
        if self.store.is_read_only:
            raise UserErrorException(f"the datastore {self.name} is read-only")
        named = {f"{target}/{name}".lstrip("/"): path for name, path in files.items()}
        try:
            send_all(self.store, named, overwrite, show)
        except LabrunError as error:
            raise UserErrorException(f"upload to the datastore {self.name}: {error}") from error
        if target and self.store.is_local:
            folder.put(self.workspace.folder, UPLOADS, f"{self.store.root}/{target}", {"datastore": self.name})
        return self.path(target)

    def _without_uploads(self, source: Path, files: dict[str, Path]) -> dict[str, Path]:
        """Return a folder's files without those that earlier uploads have put there."""
        if not self.store.is_local:
            return files
        top = source.resolve()
        earlier = [Path(one) for one in folder.read_table(self.workspace.folder, UPLOADS)]
        below = [one for one in earlier if one != top and one.is_relative_to(top)]
        kept = {
            name: path for name, path in files.items() if not any((top / name).is_relative_to(one) for one in below)
        }
        if len(kept) < len(files):
            shown = ", ".join(str(one.relative_to(top)) for one in below)
            notify_once(f"upload: skipping what earlier uploads put into {source}: {shown}")
        return kept

    def download(
        self, target_path: Any, prefix: str | None = None, overwrite: bool = False, show_progress: bool = True
    ) -> int:
        """Download the files whose names begin with `prefix`, skipping existing files unless `overwrite` is True.

        Returns:
            The number of downloaded files.

        Raises:
            UserErrorException: the datastore cannot be reached.
        """
        start = (prefix or "").lstrip("/")
        try:
            whole = self.store.files(start.rpartition("/")[0])
            found = {name: info for name, info in whole.items() if name.startswith(start)}
            return fetch_all(self.store, found, Path(os.fsdecode(target_path)), overwrite, show_progress)
        except LabrunError as error:
            raise UserErrorException(f"download from the datastore {self.name}: {error}") from error

    def path(self, path: str | None = None, data_reference_name: str | None = None) -> DataReference:
        """Return a reference to a folder or file, for a run."""
        return DataReference(self, data_reference_name, self._clean(path))

    def as_mount(self) -> DataReference:
        """Return a reference to the whole datastore, for a run to read."""
        return self.path().as_mount()

    def as_download(self, path_on_compute: Any = None) -> DataReference:
        """Return a reference to the whole datastore, for a run to read."""
        return self.path().as_download(path_on_compute)

    def as_upload(self, path_on_compute: Any = None) -> DataReference:
        """Return a reference to the whole datastore, for a run to write to."""
        return self.path().as_upload(path_on_compute)

    def _clean(self, path: str | None) -> str:
        try:
            return clean(slashes(str(path or "")).strip().lstrip("/"))
        except ConfigError as error:
            raise UserErrorException(str(error)) from error


def default_name(workspace: Workspace) -> str:
    """Return the default datastore's name: inside a run, the run's; else the one set by `set_default` or the config."""
    run = context.current()
    if run is not None:
        return str(script_context.record(run.run_dir).get("config", {}).get("datastore", {}).get("name") or "local")
    return str(folder.read_table(workspace.folder, SETTINGS).get(DEFAULT, {}).get("name") or inputs.default_name())


def _is_there(name: str) -> bool:
    return name in paths.groups().get("datastore", {})


def _node(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return a datastore's resolved config node."""
    try:
        run = context.current()
        if run is None:
            return inputs.load(name)
        config = script_context.record(run.run_dir).get("config") or {}
        for node in (config.get("datastore"), (config.get("datastores") or {}).get(name)):
            if node and (node.get("name") == name or node is not config.get("datastore")):
                found: dict[str, Any] = resolve_environment({"datastore": node})["datastore"]
                return found
        paths.set_home(workspace.folder)
        try:
            return inputs.load(name)
        finally:
            paths.set_home(None)
    except ConfigError as error:
        raise UserErrorException(f"Could not find the datastore {name}: {error}") from error


def _address(account: str, protocol: str | None, endpoint: str | None) -> dict[str, Any]:
    """Return the config keys for a custom server; empty for Azure's own."""
    if endpoint in (None, "core.windows.net") and protocol in (None, "https"):
        return {}
    host = f"{account}.blob.{endpoint or 'core.windows.net'}"
    if protocol in (None, "https"):
        return {"account_host": host}
    return {"address": f"{protocol}://{endpoint}/{account}" if ":" in str(endpoint) else f"{protocol}://{host}"}
