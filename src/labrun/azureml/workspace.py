"""`Workspace`: the folder that holds `outputs/`, with its contents under the SDK's names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from labrun.azureml import names
from labrun.azureml.advice import Advising
from labrun.azureml.notices import notify_once
from labrun.compat.azureml import absent, arguments
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training.keyvault import Keyvault
from labrun.runs import store
from labrun.runs.store import ROOT_VARIABLE

CONFIGS = (".azureml/config.json", "aml_config/config.json", "config.json")

CREATED = (
    *("friendly_name", "storage_account", "key_vault", "app_insights", "container_registry", "adb_workspace"),
    *("primary_user_assigned_identity", "cmk_keyvault", "resource_cmk_uri", "hbi_workspace"),
    *("default_cpu_compute_target", "default_gpu_compute_target", "private_endpoint_config"),
    *("private_endpoint_auto_approval", "exist_ok", "show_output", "user_assigned_identity_for_cmk_encryption"),
    *("system_datastores_auth_mode", "v1_legacy_mode"),
)
"""The SDK's other arguments of `Workspace.create`: they concern only the cloud."""
UPDATED = (
    *("image_build_compute", "service_managed_resources_settings", "primary_user_assigned_identity"),
    *("allow_public_access_when_behind_vnet", "v1_legacy_mode"),
)
"""The SDK's other arguments of `Workspace.update`: they concern only the cloud."""


class ByName(dict[str, Any]):
    """The workspace's items of one kind, by name. Calling it returns itself, as scripts from September 2018 expect.

    Args:
        found: the known items.
        find: looks up a name that is not in `found`, or raises `UserErrorException`.
    """

    def __init__(self, found: Mapping[str, Any] | None = None, find: Callable[[str], Any] | None = None) -> None:
        super().__init__(found or {})
        self._find = find

    def __call__(self) -> ByName:
        return self

    def __missing__(self, name: str) -> Any:
        if self._find is None:
            raise KeyError(name)
        try:
            return self._find(name)
        except UserErrorException as error:
            raise KeyError(str(error)) from error


class Workspace(Advising):
    """A workspace. Its Azure ids are kept as text but not used.

    Args:
        subscription_id: kept, not used.
        resource_group: kept, not used.
        workspace_name: the value of `name`; None: the folder's name.
        auth: not used.
        sku: kept, not used.
        tags: kept for as long as the program runs.
        location: kept, not used.
        **private: the SDK's private arguments; not used.

    Raises:
        TypeError: there is no such argument.
    """

    DEFAULT_CPU_CLUSTER_NAME: ClassVar[str] = "cpu-cluster"
    DEFAULT_GPU_CLUSTER_NAME: ClassVar[str] = "gpu-cluster"
    DEFAULT_CPU_CLUSTER_CONFIGURATION: ClassVar[Any] = None
    DEFAULT_GPU_CLUSTER_CONFIGURATION: ClassVar[Any] = None

    def __init__(
        self,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        workspace_name: str | None = None,
        auth: Any = None,
        _location: str | None = None,
        sku: str = "Basic",
        tags: Mapping[str, Any] | None = None,
        location: str | None = None,
        **private: Any,
    ) -> None:
        arguments.check(Workspace.__init__, private)
        self.folder = store.workspace_here()
        self.name = workspace_name or self.folder.name
        self.subscription_id = subscription_id or ""
        self.resource_group = resource_group or ""
        self.location = _location or location or "local"
        self.sku = sku
        self.tags: dict[str, str] = dict(tags or {})

    def __repr__(self) -> str:
        return (
            f"Workspace.create(name='{self.name}', subscription_id='{self.subscription_id}', "
            f"resource_group='{self.resource_group}')"
        )

    @property
    def id(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def workspace_name(self) -> str:
        return self.name

    @property
    def discovery_url(self) -> str:
        return self.folder.as_uri()

    # Lookup and creation

    @classmethod
    def from_config(
        cls, path: Any = None, auth: Any = None, _logger: Any = None, _file_name: str | None = None
    ) -> Workspace:
        """Return the workspace of the current folder, with the ids from its `config.json` if it has one.

        Args:
            path: the file, or the folder where the search for it begins. The search covers that folder, its `.azureml`
                and `aml_config` subfolders, and the same places in every parent folder.
            auth: not used.
            _logger: not used.
            _file_name: the file's name, if it is not `config.json`.
        """
        content, above = _config(Path(path or "."), _file_name)
        found = cls(content.get("subscription_id"), content.get("resource_group"), content.get("workspace_name"))
        if (
            above in found.folder.parents
            and above not in (Path("/"), Path.home())
            and not any(
                os.environ.get(name) for name in (ROOT_VARIABLE, "LABRUN_WORKSPACE")
            )  # the latter is set inside a run
        ):
            notify_once(
                f"the workspace is {found.folder}, but config.json is in {above}: set {ROOT_VARIABLE}={above} to give "
                "all its folders one workspace with shared data sets, models and environments"
            )
        return found

    @classmethod
    def get(
        cls,
        name: str | None = None,
        auth: Any = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        location: str | None = None,
        cloud: str | None = None,
        id: str | None = None,
        **unknown: Any,
    ) -> Workspace:
        """Return the workspace of the current folder, with the given ids; `auth`, `cloud` and `id` are not used.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(Workspace.get, unknown)
        return cls(subscription_id, resource_group, name, location=location)

    @classmethod
    def create(
        cls,
        name: str | None = None,
        auth: Any = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        location: str | None = None,
        create_resource_group: bool = True,
        sku: str = "Basic",
        tags: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Workspace:
        """Return the same as `get`: the folder already exists. The SDK's other arguments are accepted, without effect.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(Workspace.create, others, CREATED)
        made = cls(subscription_id, resource_group, name, location=location, sku=sku, tags=tags)
        notify_once(f"Workspace.create: the workspace {made.name} is the folder {made.folder}")
        return made

    setup = create

    @classmethod
    def list(
        cls, subscription_id: str | None = None, auth: Any = None, resource_group: str | None = None
    ) -> dict[str, Any]:
        """Return the only workspace, whatever the ids, in the SDK's form: a list per workspace name."""
        made = cls()
        return {made.name: [made]}

    def write_config(self, path: Any = None, file_name: str | None = None) -> None:
        """Write the `config.json` that `from_config` reads."""
        parent = Path(path or ".")
        target = (parent if parent.name == ".azureml" else parent / ".azureml") / (file_name or "config.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            json.dumps(
                {
                    "subscription_id": self.subscription_id,
                    "resource_group": self.resource_group,
                    "workspace_name": self.name,
                },
                indent=4,
            )
            + "\n",
            encoding="utf-8",
        )

    def delete(self, *args: Any, **kwargs: Any) -> None:
        """Raise: labrun does not let a script delete a folder of run records."""
        absent.not_here("Workspace.delete()", f"remove the folder {self.folder} by hand, or runs with `lab runs rm`")

    def update(
        self,
        friendly_name: str | None = None,
        description: str | None = None,
        tags: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Set the tags, for as long as the program runs, and return the details; see `get_details`.

        Args:
            friendly_name: not kept; a notice says so.
            description: not kept; a notice says so.
            tags: the new tags; None: leave them as they are.
            **others: the SDK's other arguments; accepted without effect.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(Workspace.update, others, UPDATED)
        given = {"friendly_name": friendly_name, "description": description}
        arguments.tell_unused("Workspace.update", given, "a workspace is a folder, which has only its name")
        self.tags = self.tags if tags is None else dict(tags)
        return self.get_details()

    # Contents

    @property
    def experiments(self) -> dict[str, Any]:
        """All experiments by name."""
        return ByName({one.name: one for one in _find("Experiment").list(self)})

    @property
    def compute_targets(self) -> dict[str, Any]:
        """All compute targets by name."""
        compute_target = _find("ComputeTarget")
        targets = {one.name: one for one in compute_target.list(self)}
        return ByName(targets, lambda name: compute_target._assumed(self, name))

    @property
    def datastores(self) -> dict[str, Any]:
        """All datastores by name."""
        return ByName(_named(_find("Datastore").list(self)))

    @property
    def datasets(self) -> Mapping[str, Any]:
        """All registered data sets by name."""
        found: Mapping[str, Any] = _find("Dataset").get_all(self)
        return found

    @property
    def environments(self) -> dict[str, Any]:
        """All registered environments by name, and Azure's curated ones."""
        environments = _find("Environment")
        return ByName(environments.list(self), lambda name: environments.get(self, name))

    @property
    def models(self) -> dict[str, Any]:
        """The newest version of each registered model, by name."""
        return ByName({one.name: one for one in reversed(_find("Model").list(self))})

    @property
    def linked_services(self) -> dict[str, Any]:
        """Empty: labrun has no linked services."""
        return {}

    @property
    def private_endpoints(self) -> dict[str, Any]:
        """Empty: the file system controls access."""
        return {}

    def list_connections(self, category: str | None = None, target: str | None = None) -> dict[str, Any]:
        """Return nothing: labrun has no connections."""
        return {}

    @property
    def service_context(self) -> Any:
        """Always None: there is no service."""
        return None

    def sync_keys(self, no_wait: bool = False) -> None:
        """Do nothing: there are no keys."""

    def get_docs_url(self) -> str:
        """Return the path of the page that explains the SDK's names."""
        return "docs/coming-from-azureml.md"

    @property
    def webservices(self) -> dict[str, Any]:
        """Empty: labrun has no web services."""
        return ByName()

    @property
    def images(self) -> dict[str, Any]:
        """Empty: labrun has no images."""
        return ByName()

    def get_default_datastore(self) -> Any:
        """Return the datastore that runs use unless they name another."""
        return _find("Datastore").get_default(self)

    def set_default_datastore(self, name: str) -> None:
        """Set the datastore that `get_default_datastore` returns."""
        _find("Datastore").set_default(self, name)

    def get_default_compute_target(self, type: str = "CPU") -> Any:
        """Return the target `cpu-cluster` or `gpu-cluster`: Azure's notebook machines had one of each.

        Raises:
            ValueError: the type is neither CPU nor GPU.
        """
        if type.lower() not in ("cpu", "gpu"):
            raise ValueError("Invalid compute type. Accepted values are CPU and GPU")
        return self.compute_targets[f"{type.lower()}-cluster"]

    def get_default_keyvault(self) -> Keyvault:
        """Return the key vault, whose secrets are environment variables."""
        return Keyvault()

    def get_run(self, run_id: str) -> Any:
        """Return a run by its id."""
        return _find("Run").get(self, run_id)

    def get_details(self) -> dict[str, Any]:
        """Return the workspace's name, location and tags in the SDK's form."""
        return {
            "id": self.id,
            "name": self.name,
            "location": self.location,
            "workspaceid": self.name,
            "friendlyName": self.name,
            "provisioningState": "Succeeded",
            "sku": self.sku,
            "tags": self.tags,
        }

    def get_mlflow_tracking_uri(self, _with_auth: bool = False) -> str:
        """Return the URI under which MLflow, in this process, starts labrun runs; see `mlflow_address`."""
        from labrun.azureml import mlflow_address

        return mlflow_address.address(self.folder)

    def get_portal_url(self) -> str:
        """Return the address of `lab ui` while it is running, otherwise the folder's file URI."""
        from labrun.tracking import trackers

        return trackers.page(self.folder) or self.folder.as_uri()


def _config(path: Path, name: str | None) -> tuple[dict[str, Any], Path | None]:
    """Return the nearest `config.json`'s content and the folder it describes; `({}, None)` if there is no such file."""
    names = (name, f".azureml/{name}") if name else CONFIGS
    start = path.expanduser().absolute()
    files = [start] if start.is_file() else [above / one for above in (start, *start.parents) for one in names]
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and "workspace_name" in found:
            folder = file.resolve().parent
            return found, folder.parent if folder.name in (".azureml", "aml_config") else folder
    return {}, None


def _find(name: str) -> Any:
    """Return a class of the SDK. By name, because the modules that implement a workspace's contents import this one."""
    return names.find("azureml.core", name)


def _named(found: Any) -> dict[str, Any]:
    return dict(found) if isinstance(found, Mapping) else {one.name: one for one in found}
