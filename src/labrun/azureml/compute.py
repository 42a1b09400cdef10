"""Compute targets: names for the choices of `compute=`.

A name is looked up first in `conf/compute/NAME.yaml`, then in the workspace's table, where `create` stores targets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from labrun.azureml import folder
from labrun.azureml.advice import Advising
from labrun.azureml.notices import notify_once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import ComputeTargetException, UserErrorException
from labrun.compose import paths
from labrun.remote import remotes
from labrun.runs import machine

TABLE = "compute"
VARIABLE = "LABRUN_AZUREML_COMPUTE"
"""The choice of `compute=` that created targets stand for."""
DEFAULT = "local"
HOST = "host"
"""The table key for an attached machine's name, as used in `compute.host`."""
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
PROVISIONED = (
    *("admin_username", "admin_user_password", "admin_user_ssh_key", "vnet_resourcegroup_name", "vnet_name"),
    *("subnet_name", "tags", "description", "remote_login_port_public_access", "identity_type", "identity_id"),
    *("location", "enable_node_public_ip", "ssh_public_access", "admin_user_ssh_public_key"),
    *("assigned_user_object_id", "assigned_user_tenant_id", "ssh_port"),
    *("cluster_min_nodes", "cluster_max_nodes", "autoscale_enabled"),
)
"""The SDK's other arguments of `provisioning_configuration`, over all classes; the last three are from 2018."""
ATTACHED = ("cluster_name", "cluster_purpose", "load_balancer_type", "load_balancer_subnet", "account_name")
"""The SDK's other arguments of `attach_configuration`, over all classes."""
SECRET = ("admin_user_password", "admin_user_ssh_key", "password", "private_key_passphrase")
GPU_FAMILIES = ("standard_nc", "standard_nd", "standard_nv", "standard_ng")


def stands_for() -> str:
    """Return the choice of `compute=` for targets that the project's `conf/compute` does not define."""
    return os.environ.get(VARIABLE) or DEFAULT


def overrides(target: Any, workspace: Workspace) -> list[str]:
    """Return a compute target as arguments for the `labrun` command.

    Args:
        target: a `ComputeTarget`, its name, or None.
        workspace: the workspace whose table is consulted.
    """
    name = getattr(target, "name", target)
    if name is None or name == "local":
        return [f"compute={DEFAULT}"]
    name = str(name)
    if name in _choices():
        return [f"compute={name}"]
    entry = folder.read_table(workspace.folder, TABLE).get(name)
    if entry is None:
        _notify_assumed(name)
        return [f"compute={stands_for()}"]
    nodes, host = entry.get("max_nodes"), entry.get(HOST)
    more = [f"compute.host={host}"] if host else []
    return [f"compute={stands_for()}", *more, *([f"compute.max_parallel={nodes}"] if nodes else [])]


def _notify_assumed(name: str) -> None:
    notify_once(
        f"the compute target {name!r} was never created: it stands for compute={stands_for()} "
        f"(to change that, add conf/compute/{name}.yaml or set {VARIABLE})"
    )


def _choices() -> dict[str, str]:
    """Return the choices of `compute=`, both labrun's and the project's."""
    return dict(paths.groups().get("compute", {}))


class Configuration:
    """The result of `provisioning_configuration` and `attach_configuration`; see `ComputeTarget.create`."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self.kind = kind
        self.settings = {key: value for key, value in settings.items() if value is not None}
        for key, value in settings.items():
            setattr(self, key, value)

    def validate_configuration(self) -> None:
        """Do nothing: every configuration is accepted."""


class ComputeTarget(Advising):
    """An existing compute target.

    Args:
        workspace: the workspace.
        name: the target's name.

    Raises:
        ComputeTargetException: no target has this name.
    """

    kind: ClassVar[str] = "AmlCompute"

    def __new__(cls, workspace: Any = None, name: str | None = None) -> Any:
        found = _entry(workspace, name)
        if found is None:
            raise ComputeTargetException(
                f"ComputeTargetNotFound: Compute Target with name {name} not found in provided workspace: create it, "
                f"or define it in conf/compute/{name}.yaml"
            )
        made = object.__new__(KINDS.get(str(found.get("kind")), cls) if cls is ComputeTarget else cls)
        return made

    def __init__(self, workspace: Any = None, name: str | None = None) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace()
        self.name = str(name)
        self._entry = _entry(self.workspace, self.name) or {}
        self.tags = dict(self._entry.get("tags") or {})

    def __getnewargs__(self) -> tuple[Any, str]:
        """Copy by workspace and name."""
        return self.workspace, self.name

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(workspace={self.workspace!r}, name={self.name}, id={self.name}, "
            f"type={self.type}, provisioning_state=Succeeded, location=local, tags={self.tags})"
        )

    # Properties

    @property
    def id(self) -> str:
        return self.name

    @property
    def type(self) -> str:
        return str(self._entry.get("kind") or self.kind)

    @property
    def provisioning_state(self) -> str:
        return "Succeeded"

    @property
    def location(self) -> str:
        return "local"

    cluster_location = location

    @property
    def description(self) -> str:
        return str(self._entry.get("description") or "")

    @property
    def vm_size(self) -> str:
        return str(self._entry.get("vm_size") or "")

    @property
    def vm_priority(self) -> str:
        return str(self._entry.get("vm_priority") or "dedicated")

    @property
    def scale_settings(self) -> Any:
        return SimpleNamespace(
            minimum_node_count=int(self._entry.get("min_nodes") or 0),
            maximum_node_count=int(self._entry.get("max_nodes") or 1),
            idle_seconds_before_scaledown=self._entry.get("idle_seconds_before_scaledown"),
        )

    @property
    def provisioning_errors(self) -> None:
        return None

    @property
    def status(self) -> Any:
        return self.get_status()

    def get_status(self) -> Any:
        """Return the status of an idle cluster that is ready."""
        return Status(self)

    def serialize(self) -> dict[str, Any]:
        """Return the target as a dictionary."""
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "location": self.location,
            "tags": self.tags,
            "properties": {
                "computeType": self.type,
                "provisioningState": self.provisioning_state,
                "vmSize": self.vm_size,
                "scaleSettings": vars(self.scale_settings),
                "standsFor": overrides(self, self.workspace)[0],
            },
        }

    def get_active_runs(
        self, type: str | None = None, tags: Any = None, properties: Any = None, status: Any = None
    ) -> Any:
        """Yield the target's active runs; see `Run.list_by_compute`."""
        from labrun.azureml.run import Run

        found = Run.list_by_compute(self, type, tags, properties, status)
        return (run for run in found if not run._work.is_over)

    def get_credentials(self) -> dict[str, Any]:
        """Return nothing: labrun keeps no credentials."""
        return {}

    def add_identity(self, identity_type: str | None = None, identity_id: Any = None) -> None:
        """Do nothing: the file system controls access."""

    def remove_identity(self, identity_id: Any = None) -> None:
        """Do nothing; see `add_identity`."""

    def refresh_state(self) -> None:
        """Do nothing: every value is read when it is needed."""

    def get(self) -> Any:
        """Return this target."""
        return self

    def wait_for_completion(
        self,
        show_output: bool = False,
        min_node_count: Any = None,
        timeout_in_minutes: Any = None,
        is_delete_operation: bool = False,
        **unknown: Any,
    ) -> None:
        """Return at once: the machine already exists.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(ComputeTarget.wait_for_completion, unknown)
        if show_output:
            print('Succeeded\nProvisioning operation finished, operation "Succeeded"')

    def list_nodes(self) -> Any:
        """Return an empty list: labrun does not manage nodes."""
        return []

    def update(
        self,
        min_nodes: int | None = None,
        max_nodes: int | None = None,
        idle_seconds_before_scaledown: int | None = None,
        **unknown: Any,
    ) -> None:
        """Change settings of its configuration, of which `max_nodes` limits how many runs go at once.

        Raises:
            ComputeTargetException: the node counts are invalid.
            TypeError: there is no such argument.
        """
        arguments.check(ComputeTarget.update, unknown)
        given = {
            "min_nodes": min_nodes,
            "max_nodes": max_nodes,
            "idle_seconds_before_scaledown": idle_seconds_before_scaledown,
        }
        new = {key: value for key, value in given.items() if value is not None}
        if self.name in _choices():
            arguments.tell_unused(
                f"update() of the compute target {self.name}",
                new,
                f"it is conf/compute/{self.name}.yaml: edit that file",
            )
            return
        changed = {**self._entry, **new}
        _check_nodes(changed.get("min_nodes"), changed.get("max_nodes"))
        self._entry = dict(
            folder.change(self.workspace.folder, TABLE, self.name, lambda now: {**(now or changed), **new})
        )

    def delete(self, wait_for_completion: bool = False, show_output: bool = False) -> None:
        """Remove the target from the workspace's table; a file in `conf/compute` stays."""
        if self.name in _choices():
            notify_once(f"the compute target {self.name} is conf/compute/{self.name}.yaml, which is not deleted")
        folder.put(self.workspace.folder, TABLE, self.name, None)

    detach = delete

    def start(self, wait_for_completion: bool = False, show_output: bool = False) -> None:
        """Do nothing: the machine is on."""

    stop = restart = start

    # Creation and lookup

    @staticmethod
    def create(workspace: Any, name: str, provisioning_configuration: Any) -> Any:
        """Add a target to the workspace's table and print once what it stands for.

        Raises:
            ComputeTargetException: `provisioning_configuration` is not a configuration, or its node counts are invalid.
        """
        return _put(workspace, name, provisioning_configuration, "provisioning_configuration")

    @staticmethod
    def attach(workspace: Any, name: str, attach_configuration: Any) -> Any:
        """Add a target like `create`.

        Raises:
            ComputeTargetException: `attach_configuration` is not a configuration, or its node counts are invalid.
        """
        return _put(workspace, name, attach_configuration, "attach_configuration")

    @staticmethod
    def list(workspace: Any) -> list[Any]:
        """Return the targets of the workspace's table and of the project's `conf/compute`."""
        made = workspace if isinstance(workspace, Workspace) else Workspace()
        conf_dir = paths.user_conf_dir()
        names = {path.stem for path in (conf_dir / "compute").glob("*.yaml")} if conf_dir else set()
        return [ComputeTarget(made, name) for name in sorted(names | set(folder.read_table(made.folder, TABLE)))]

    @staticmethod
    def _assumed(workspace: Workspace, name: str) -> ComputeTarget:
        """Add a target that a script takes for granted to the table and return it. In Azure it was created by hand."""
        _notify_assumed(name)
        folder.put(workspace.folder, TABLE, name, {"kind": AmlCompute.kind})
        return ComputeTarget(workspace, name)

    @classmethod
    def provisioning_configuration(
        cls,
        vm_size: str = "",
        vm_priority: str | None = None,
        min_nodes: int | None = None,
        max_nodes: int | None = None,
        idle_seconds_before_scaledown: int | None = None,
        **others: Any,
    ) -> Configuration:
        """Return a configuration for `create`.

        Args:
            vm_size: kept, not used: labrun uses the machines that exist.
            vm_priority: kept, not used.
            min_nodes: kept, not used: labrun starts no machines.
            max_nodes: limits how many runs go at once.
            idle_seconds_before_scaledown: kept, not used.
            **others: the SDK's other arguments, of all releases and kinds of target; kept, except for passwords.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(cls.provisioning_configuration, others, PROVISIONED)
        settings = {
            "vm_size": vm_size,
            "vm_priority": vm_priority,
            "min_nodes": others.pop("cluster_min_nodes", None) if min_nodes is None else min_nodes,
            "max_nodes": others.pop("cluster_max_nodes", None) if max_nodes is None else max_nodes,
            "idle_seconds_before_scaledown": idle_seconds_before_scaledown,
        }
        return Configuration(cls.kind, **settings, **_public(others))

    @classmethod
    def attach_configuration(
        cls,
        username: str | None = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        vm_name: str | None = None,
        resource_id: str | None = None,
        address: str | None = None,
        ssh_port: Any = None,
        password: str = "",
        private_key_file: str = "",
        private_key_passphrase: str = "",
        **others: Any,
    ) -> Configuration:
        """Return a configuration for `attach`; passwords are not kept.

        Args:
            username: the user on the machine.
            subscription_id: kept, not used.
            resource_group: kept, not used.
            vm_name: kept, not used.
            resource_id: kept, not used.
            address: the machine's address; without it, the target stands for labrun's own choice of `compute=`.
            ssh_port: the port; None: 22.
            password: not kept.
            private_key_file: the file with the SSH key.
            private_key_passphrase: not kept.
            **others: the SDK's arguments for other kinds of target; kept, not used.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(cls.attach_configuration, others, ATTACHED)
        settings = {
            "username": username,
            "subscription_id": subscription_id,
            "resource_group": resource_group,
            "vm_name": vm_name,
            "resource_id": resource_id,
            "address": address,
            "ssh_port": ssh_port,
            "private_key_file": private_key_file or None,
        }
        return Configuration(cls.kind, **settings, **_public(others))

    @staticmethod
    def supported_vmsizes(workspace: Any, location: Any = None) -> Any:
        """Return a single size: this machine."""
        memory = round(machine.memory_gb(), 1)
        return [{"name": "this_machine", "vCPUs": os.cpu_count(), "gpus": 0, "memoryGB": memory}]


class Status:
    """The status of a target, as the SDK's `get_status()` returns it."""

    def __init__(self, target: ComputeTarget) -> None:
        self.allocation_state = "Steady"
        self.current_node_count = self.target_node_count = 0
        self.errors = None
        self.provisioning_state = "Succeeded"
        self.scale_settings = target.scale_settings
        self.vm_priority, self.vm_size = target.vm_priority, target.vm_size
        self.node_state_counts = SimpleNamespace(
            preparing_node_count=0,
            running_node_count=0,
            idle_node_count=0,
            unusable_node_count=0,
            leaving_node_count=0,
            preempted_node_count=0,
        )

    def serialize(self) -> dict[str, Any]:
        """Return the status as a dictionary."""
        settings = self.scale_settings
        return {
            "currentNodeCount": self.current_node_count,
            "targetNodeCount": self.target_node_count,
            "nodeStateCounts": {
                "preparingNodeCount": 0,
                "runningNodeCount": 0,
                "idleNodeCount": 0,
                "unusableNodeCount": 0,
                "leavingNodeCount": 0,
                "preemptedNodeCount": 0,
            },
            "allocationState": self.allocation_state,
            "allocationStateTransitionTime": None,
            "errors": self.errors,
            "creationTime": None,
            "modifiedTime": None,
            "provisioningState": self.provisioning_state,
            "provisioningStateTransitionTime": None,
            "scaleSettings": {
                "minNodeCount": settings.minimum_node_count,
                "maxNodeCount": settings.maximum_node_count,
                "nodeIdleTimeBeforeScaleDown": settings.idle_seconds_before_scaledown,
            },
            "vmPriority": self.vm_priority,
            "vmSize": self.vm_size,
        }


class AmlCompute(ComputeTarget):
    """A cluster. It runs up to `max_nodes` runs at once on the compute that it stands for."""

    kind = "AmlCompute"


class BatchAiCompute(ComputeTarget):
    """The SDK's cluster class of 2018."""

    kind = "BatchAI"


class DsvmCompute(ComputeTarget):
    """A virtual machine."""

    kind = "VirtualMachine"


class ComputeInstance(ComputeTarget):
    """A virtual machine for notebooks."""

    kind = "ComputeInstance"


class RemoteCompute(ComputeTarget):
    """A user's own machine, reached by SSH."""

    kind = "VirtualMachine"

    @staticmethod
    def attach(  # type: ignore[override]
        workspace: Any,
        name: str,
        username: Any = None,
        address: Any = None,
        ssh_port: Any = None,
        password: str = "",
        private_key_file: str = "",
        private_key_passphrase: str = "",
        attach_configuration: Any = None,
    ) -> Any:
        """Attach like `ComputeTarget.attach`; in 2018 the user name and address were separate arguments."""
        made = username if isinstance(username, Configuration) else attach_configuration
        if made is None:
            made = RemoteCompute.attach_configuration(
                username, address=address, ssh_port=ssh_port, private_key_file=private_key_file
            )
        return ComputeTarget.attach(workspace, name, made)


KINDS: dict[str, type[ComputeTarget]] = {
    "AmlCompute": AmlCompute,
    "BatchAI": BatchAiCompute,
    "VirtualMachine": DsvmCompute,
    "ComputeInstance": ComputeInstance,
}


def _entry(workspace: Any, name: Any) -> dict[str, Any] | None:
    """Return a target's entry from `conf/compute` or the table; None if the name is unknown."""
    if name in _choices():
        return {"kind": "AmlCompute", "description": _choices()[str(name)]}
    made = workspace if isinstance(workspace, Workspace) else Workspace()
    found = folder.read_table(made.folder, TABLE).get(str(name))
    return dict(found) if isinstance(found, dict) else None


def _check_nodes(fewest: Any, most: Any) -> None:
    """Check the node counts of a cluster.

    Raises:
        ComputeTargetException: the highest is below 1 or below the lowest.
    """
    if most is not None and not max(1, int(fewest or 0)) <= int(most):
        raise ComputeTargetException(
            f"max_nodes={most} and min_nodes={fewest}: max_nodes must be at least 1, and at least min_nodes"
        )


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without passwords and keys, which are not kept."""
    return {name: value for name, value in settings.items() if name not in SECRET}


def _put(workspace: Any, name: str, configuration: Any, argument: str) -> Any:
    if not isinstance(configuration, Configuration):
        raise ComputeTargetException(
            f"{argument} is {configuration!r}: pass the result of AmlCompute.{argument}(vm_size=..., max_nodes=...)"
        )
    _check_nodes(*(configuration.settings.get(key) for key in ("min_nodes", "max_nodes")))
    if not isinstance(name, str) or not name:
        raise UserErrorException(f"the compute target's name is {name!r}: pass a non-empty string")
    made = workspace if isinstance(workspace, Workspace) else Workspace()
    if name in _choices():
        notify_once(
            f"the compute target {name} is conf/compute/{name}.yaml; the settings given to create() are not used"
        )
        return ComputeTarget(made, name)
    entry = {"kind": configuration.kind, **configuration.settings}
    host = _attached(name, entry) if argument == "attach_configuration" else None
    if host is not None:
        folder.put(made.folder, TABLE, name, {**entry, HOST: host})
        return ComputeTarget(made, name)
    folder.put(made.folder, TABLE, name, entry)
    size = str(entry.get("vm_size") or "")
    runs = f", at most {entry['max_nodes']} runs at once" if entry.get("max_nodes") else ""
    notify_once(f"the compute target {name} ({size or configuration.kind}) stands for compute={stands_for()}{runs}")
    if size.lower().startswith(GPU_FAMILIES):
        _notify_of_missing_gpus(name, size)
    return ComputeTarget(made, name)


def _attached(name: str, entry: Mapping[str, Any]) -> str | None:
    """Return the name for `compute.host` of a machine attached by address; None without a usable name and address.

    If `lab remote` already knows a machine by this name, that one is used; otherwise the machine is added to it.
    """
    address, user = str(entry.get("address") or ""), str(entry.get("username") or "")
    if not ADDRESS.fullmatch(address) or not remotes.NAME.fullmatch(name):
        return None
    port, login = entry.get("ssh_port"), f"{user}@{address}" if user else address
    wanted = login if port in (None, 22, "22") else f"ssh://{login}:{port}"
    known = remotes.known().get(name)
    if known is None:
        key = entry.get("private_key_file")
        known = remotes.Remote(name, wanted, ssh_config=None if key is None else str(_ssh_config(name, str(key))))
        remotes.put(known)
    other = f", not {wanted}" if known.address != wanted else ""
    notify_once(
        f"the compute target {name} stands for compute={stands_for()} compute.host={name}: ssh {known.address}{other}. "
        f"If it asks for a password: lab remote connect {name}"
    )
    return name


def _ssh_config(name: str, key: str) -> Path:
    """Write an ssh configuration that adds a key to the user's own configuration, and return its path."""
    file = remotes.file().parent / f"{name}.ssh_config"
    file.parent.mkdir(parents=True, exist_ok=True)
    key_file = Path(key).expanduser().resolve()
    file.write_text(f'Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\nHost *\n  IdentityFile "{key_file}"\n')
    return file


def _notify_of_missing_gpus(name: str, size: str) -> None:
    """Print a notice if a target with GPUs stands for a machine without any."""
    if stands_for() == DEFAULT and not machine.gpu_names():
        notify_once(f"{name}: {size} has GPUs, but this machine has none: its runs use the CPU")
