"""`Datastore`: a choice of conf/datastore, under the SDK's names."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun import execute
from labrun.azureml import folder
from labrun.azureml.advice import Advising
from labrun.azureml.datastore_files import LOCAL, mounted, registered, remove, shown_kind
from labrun.azureml.local_paths import local, slashes
from labrun.azureml.moving import fetch_all, send_all
from labrun.azureml.telling import once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import place
from labrun.config import paths
from labrun.data import stores
from labrun.data.stores.base import clean
from labrun.data.transfer import local_files
from labrun.errors import ConfigError, LabrunError
from labrun.runs import context
from labrun.submission import inputs

if TYPE_CHECKING:
    from labrun.azureml.data_reference import DataReference
    from labrun.data.stores.base import Datastore as Store

AZURES_OWN = ("workspaceblobstore", "workspacefilestore", "workspaceworkingdirectory", "workspaceartifactstore")
"""Datastores that every workspace of Azure has; here they are the default one."""
SETTINGS, DEFAULT = "settings", "default_datastore"
UPLOADS = "uploads"


class Datastore(Advising):
    """A datastore.

    Args:
        workspace: the workspace.
        name: a file of conf/datastore, without its suffix; None: the default one.

    Raises:
        UserErrorException: there is none of that name.
    """

    def __init__(self, workspace: Any = None, name: str | None = None, **kwargs: Any) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace()
        if name in AZURES_OWN and not _is_there(str(name)):
            default = default_name(self.workspace)
            once(f"the datastore {name} is {default} here, the default of the config")
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
        """What labrun has for it."""
        return stores.make(self.node)

    @property
    def datastore_type(self) -> str:
        """`AzureBlob`, or labrun's kind."""
        return shown_kind(self.node)

    @property
    def container_name(self) -> str:
        """The container; of a folder of this machine, the folder."""
        root = str(self.node.get("root") or "")
        return root if self.store.is_local else root.partition("/")[0]

    @property
    def account_name(self) -> str:
        """The storage account; of any other kind, the datastore's name."""
        return str(self.node.get("account_name") or self.name)

    @property
    def is_default(self) -> bool:
        return self.name == default_name(self.workspace)

    # All of them

    @classmethod
    def get(cls, workspace: Any, datastore_name: str) -> Datastore:
        """A datastore by name.

        Raises:
            UserErrorException: there is none of that name.
        """
        return cls(workspace, datastore_name)

    @classmethod
    def get_default(cls, workspace: Any) -> Datastore:
        """The one that runs use by default."""
        return cls(workspace)

    @classmethod
    def set_default(cls, workspace: Workspace, name: str) -> None:
        """Have `get_default` give another."""
        folder.put(workspace.folder, SETTINGS, DEFAULT, {"name": cls(workspace, name).name})

    def set_as_default(self) -> None:
        """Have `get_default` give this one."""
        self.set_default(self.workspace, self.name)

    @classmethod
    def list(cls, workspace: Any) -> list[Datastore]:
        """The default one, and those of the workspace's own conf/datastore."""
        own = paths.user_conf_dir()
        names = sorted(path.stem for path in (own / "datastore").glob("*.yaml")) if own else []
        found = [cls(workspace)]
        return found + [cls(workspace, name) for name in names if name != found[0].name]

    def unregister(self) -> None:
        """Remove the file that `register_...` has written; the data stay.

        Raises:
            UserErrorException: the file is a person's own, or labrun's.
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
        **kwargs: Any,
    ) -> Datastore:
        """Write conf/datastore/NAME.yaml for a container of Azure Blob Storage, without its secret.

        Args:
            workspace: the workspace.
            datastore_name: the file's name.
            container_name: the container.
            account_name: the storage account.
            sas_token: is kept as a variable of the environment, by its name alone.
            account_key: as `sas_token`.
            protocol: `http` or `https`.
            endpoint: other than `core.windows.net`.
            overwrite: not needed: the same call gives the same file.
            create_if_not_exists: not needed: an upload makes the container.
            skip_validation: the container is not looked at in any case.
            **kwargs: whatever else the SDK takes; not used.
        """
        registered(
            datastore_name,
            "adlfs.AzureBlobFileSystem",
            {"root": container_name, "account_name": account_name, **_address(account_name, protocol, endpoint)},
            {"account_key": account_key, "sas_token": sas_token},
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
        endpoint: str | None = None,
        protocol: str | None = None,
        **kwargs: Any,
    ) -> Datastore:
        """As `register_azure_blob_container`: its file systems are containers, read by a service principal."""
        registered(
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
        )
        return cls(workspace, datastore_name)

    @classmethod
    def register_azure_file_share(
        cls,
        workspace: Any,
        datastore_name: str,
        file_share_name: str,
        account_name: str,
        *args: Any,
        endpoint: str | None = None,
        **kwargs: Any,
    ) -> Datastore:
        """Write conf/datastore/NAME.yaml for a share that this machine has mounted; its keys are the mount's.

        Raises:
            NotInLabrun: it is not mounted.
        """
        source = f"//{account_name}.file.{endpoint or 'core.windows.net'}/{file_share_name}"
        folder = mounted(source)
        if folder is None:
            not_here(
                f"Reading the file share {source} without mounting it",
                f"mount it, sudo mount -t cifs {source} /mnt/share -o username={account_name},password=KEY, "
                "and run this again",
            )
        registered(datastore_name, LOCAL, {"root": folder}, {})
        return cls(workspace, datastore_name)

    @classmethod
    def register_azure_data_lake(cls, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: Azure has ended it."""
        not_here("Datastore.register_azure_data_lake()", "Datastore.register_azure_data_lake_gen2()")

    @classmethod
    def _database(cls, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a datastore holds files."""
        not_here(
            "A database as a datastore", "pandas.read_sql, and Dataset.Tabular.register_pandas_dataframe() of the rows"
        )

    register_azure_sql_database = _database
    register_azure_postgre_sql = _database
    register_azure_my_sql = _database

    @classmethod
    def register_dbfs(cls, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun."""
        not_here("Datastore.register_dbfs()", "copy the files to a datastore of conf/datastore")

    register_hdfs = register_dbfs

    # Files

    def upload(
        self, src_dir: Any, target_path: str | None = None, overwrite: bool = False, show_progress: bool = True
    ) -> DataReference:
        """Send a folder's files; those that are there already stay, unless `overwrite`.

        Raises:
            UserErrorException: there is no such folder, or the datastore cannot be written.
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
        """Send files; they keep their paths below `relative_root`, by default the folder that they have in common.

        Raises:
            UserErrorException: one is not a file, or the datastore cannot be written.
        """
        given = [local(one).absolute() for one in files]
        absent = [str(path) for path in given if not path.is_file()]
        if absent or not given:
            raise UserErrorException(f"upload_files: no such file: {', '.join(absent) or 'the list is empty'}")
        common = os.path.commonpath([path.parent for path in given])
        root = local(relative_root).absolute() if relative_root is not None else Path(common)
        outside = [str(path) for path in given if not path.is_relative_to(root)]
        if outside:
            raise UserErrorException(f"upload_files: {', '.join(outside)} does not lie below relative_root={root}")
        named = {path.relative_to(root).as_posix(): path for path in given}
        return self._send(named, target_path, overwrite, show_progress)

    def _send(self, files: dict[str, Path], target_path: str | None, overwrite: bool, show: bool) -> DataReference:
        target = self._clean(target_path)
        if self.store.is_read_only:
            raise UserErrorException(f"the datastore {self.name} can only be read")
        named = {f"{target}/{name}".lstrip("/"): path for name, path in files.items()}
        try:
            send_all(self.store, named, overwrite, show)
        except LabrunError as error:
            raise UserErrorException(f"upload to the datastore {self.name}: {error}") from error
        if target and self.store.is_local:
            folder.put(self.workspace.folder, UPLOADS, f"{self.store.root}/{target}", {"datastore": self.name})
        return self.path(target)

    def _without_uploads(self, source: Path, files: dict[str, Path]) -> dict[str, Path]:
        """A folder's files, but for those below it that earlier uploads have put into this datastore."""
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
            once(f"upload: what earlier uploads have put into {source} is left out: {shown}")
        return kept

    def download(
        self, target_path: Any, prefix: str | None = None, overwrite: bool = False, show_progress: bool = True
    ) -> int:
        """Fetch the files whose names begin with `prefix`; those that are there already stay, unless `overwrite`.

        Returns:
            How many were fetched.

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
        """A folder or file of it, for a run."""
        from labrun.azureml.data_reference import DataReference

        return DataReference(self, data_reference_name, self._clean(path))

    def as_mount(self) -> DataReference:
        """All of it, for a run to read."""
        return self.path().as_mount()

    def as_download(self, path_on_compute: Any = None) -> DataReference:
        """All of it, for a run to read."""
        return self.path().as_download(path_on_compute)

    def as_upload(self, path_on_compute: Any = None) -> DataReference:
        """All of it, for a run to write."""
        return self.path().as_upload(path_on_compute)

    def _clean(self, path: str | None) -> str:
        try:
            return clean(slashes(str(path or "")).strip().lstrip("/"))
        except ConfigError as error:
            raise UserErrorException(str(error)) from error


def default_name(workspace: Workspace) -> str:
    """The default datastore: the one that was set, else the config's; inside of a run, the run's own."""
    run = context.current()
    if run is not None:
        return str(place.record(run.run_dir).get("config", {}).get("datastore", {}).get("name") or "local")
    return str(folder.read_table(workspace.folder, SETTINGS).get(DEFAULT, {}).get("name") or inputs.default_name())


def _is_there(name: str) -> bool:
    return name in paths.groups().get("datastore", {})


def _node(workspace: Workspace, name: str) -> dict[str, Any]:
    """The config's node of a datastore, resolved."""
    try:
        run = context.current()
        if run is None:
            return inputs.load(name)
        config = place.record(run.run_dir).get("config") or {}
        for node in (config.get("datastore"), (config.get("datastores") or {}).get(name)):
            if node and (node.get("name") == name or node is not config.get("datastore")):
                found: dict[str, Any] = execute.here({"datastore": node})["datastore"]
                return found
        paths.set_home(workspace.folder)
        try:
            return inputs.load(name)
        finally:
            paths.set_home(None)
    except ConfigError as error:
        raise UserErrorException(f"Could not find the datastore {name}: {error}") from error


def _address(account: str, protocol: str | None, endpoint: str | None) -> dict[str, Any]:
    """Keys for a server other than Azure's own."""
    if endpoint in (None, "core.windows.net") and protocol in (None, "https"):
        return {}
    host = f"{account}.blob.{endpoint or 'core.windows.net'}"
    if protocol in (None, "https"):
        return {"account_host": host}
    return {"address": f"{protocol}://{endpoint}/{account}" if ":" in str(endpoint) else f"{protocol}://{host}"}
