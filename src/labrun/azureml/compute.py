"""Compute targets: names for the choices of `compute=`.

A name is first looked for in `conf/compute/NAME.yaml`, then in the workspace's own table, where `create` puts it.
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
from labrun.azureml.telling import once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import ComputeTargetException, UserErrorException
from labrun.config import paths
from labrun.remote import remotes

TABLE = "compute"
VARIABLE = "LABRUN_AZUREML_COMPUTE"
"""The choice of `compute=` that created targets stand for."""
DEFAULT = "local"
HOST = "host"
"""What the table keeps of a machine that was attached: what `compute.host` calls it."""
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
GPU_FAMILIES = ("standard_nc", "standard_nd", "standard_nv", "standard_ng")


def stands_for() -> str:
    """The choice of `compute=` that a target stands for which the project's own `conf/compute` does not have."""
    return os.environ.get(VARIABLE) or DEFAULT


def words(target: Any, workspace: Workspace) -> list[str]:
    """A compute target as words of labrun's command line.

    Args:
        target: a `ComputeTarget`, its name, or None.
        workspace: whose table is looked at.

    Raises:
        UserErrorException: it cannot be run on.
    """
    name = getattr(target, "name", target)
    if name is None or name == "local":
        return [f"compute={DEFAULT}"]
    name = str(name)
    if name in _choices():
        return [f"compute={name}"]
    entry = folder.read_table(workspace.folder, TABLE).get(name)
    if entry is None:
        _tell_assumed(name)
        return [f"compute={stands_for()}"]
    nodes, host = entry.get("max_nodes"), entry.get(HOST)
    more = [f"compute.host={host}"] if host else []
    return [f"compute={stands_for()}", *more, *([f"compute.max_parallel={nodes}"] if nodes else [])]


def _tell_assumed(name: str) -> None:
    once(
        f"the compute target {name!r} was never created: it stands for compute={stands_for()} "
        f"(conf/compute/{name}.yaml, or {VARIABLE}, says otherwise)"
    )


def assumed(workspace: Workspace, name: str) -> ComputeTarget:
    """A target that a script takes for granted: in Azure somebody has created it by hand. It is put into the table."""
    _tell_assumed(name)
    folder.put(workspace.folder, TABLE, name, {"kind": AmlCompute.kind})
    return ComputeTarget(workspace, name)


def _choices() -> dict[str, str]:
    """The choices of `compute=`, labrun's own and the project's."""
    return dict(paths.groups().get("compute", {}))


class Configuration:
    """What `provisioning_configuration` and `attach_configuration` give; see `ComputeTarget.create`."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self.kind = kind
        self.settings = {key: value for key, value in settings.items() if value is not None}
        for key, value in settings.items():
            setattr(self, key, value)

    def validate_configuration(self) -> None:
        """Nothing: everything is accepted."""


class ComputeTarget(Advising):
    """A compute target that exists.

    Args:
        workspace: where.
        name: its name.

    Raises:
        ComputeTargetException: there is none of this name.
    """

    kind: ClassVar[str] = "AmlCompute"

    def __new__(cls, workspace: Any = None, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        found = _entry(workspace, name)
        if found is None:
            raise ComputeTargetException(
                f"ComputeTargetNotFound: Compute Target with name {name} not found in provided workspace: create it, "
                f"or say in conf/compute/{name}.yaml what it stands for"
            )
        made = object.__new__(KINDS.get(str(found.get("kind")), cls) if cls is ComputeTarget else cls)
        return made

    def __init__(self, workspace: Any = None, name: str | None = None, *args: Any, **kwargs: Any) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace()
        self.name = str(name)
        self._entry = _entry(self.workspace, self.name) or {}
        self.tags = dict(self._entry.get("tags") or {})

    def __getnewargs__(self) -> tuple[Any, str]:
        """What copies are made with."""
        return self.workspace, self.name

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(workspace={self.workspace!r}, name={self.name}, id={self.name}, "
            f"type={self.type}, provisioning_state=Succeeded, location=local, tags={self.tags})"
        )

    # What it is

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
        """What the SDK tells of a cluster: ready, and no node in use that anybody pays for."""
        return Status(self)

    def serialize(self) -> dict[str, Any]:
        """All of it as one dictionary."""
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
                "standsFor": words(self, self.workspace)[0],
            },
        }

    def get_active_runs(self, *args: Any, **kwargs: Any) -> Any:
        """The runs that go on on it, each as a `Run`."""
        from labrun import api
        from labrun.azureml.run import wrapped

        found = [run for run in api.runs(root=self.workspace.folder) if not run.is_over]
        return iter([wrapped(None, run) for run in found])

    def get_credentials(self) -> dict[str, Any]:
        """Empty: nothing is kept."""
        return {}

    def add_identity(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: access is the file system's."""

    remove_identity = add_identity

    def refresh_state(self) -> None:
        """Nothing: everything is read when it is asked for."""

    def get(self) -> Any:
        """The same."""
        return self

    def wait_for_completion(
        self,
        show_output: bool = False,
        min_node_count: Any = None,
        timeout_in_minutes: Any = None,
        is_delete_operation: bool = False,
        **_: Any,
    ) -> None:
        """Nothing to wait for: the machine is there."""
        if show_output:
            print('Succeeded\nProvisioning operation finished, operation "Succeeded"')

    def list_nodes(self) -> Any:
        """None: labrun does not keep nodes."""
        return []

    def update(self, **settings: Any) -> None:
        """Change what its configuration said, as `max_nodes`."""
        new = {key: value for key, value in settings.items() if value is not None}
        if self.name not in _choices():
            own = self._entry
            self._entry = dict(
                folder.change(self.workspace.folder, TABLE, self.name, lambda now: {**(now or own), **new})
            )

    def delete(self, wait_for_completion: bool = False, show_output: bool = False) -> None:
        """Take it out of the workspace's table; what `conf/compute` has stays."""
        if self.name in _choices():
            once(f"the compute target {self.name} is conf/compute/{self.name}.yaml, which stays")
        folder.put(self.workspace.folder, TABLE, self.name, None)

    detach = delete

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the machine is on."""

    stop = restart = start

    # Ways to get one

    @staticmethod
    def create(workspace: Any, name: str, provisioning_configuration: Any) -> Any:
        """Put a target into the workspace's table, and say once what it stands for.

        Raises:
            ComputeTargetException: `provisioning_configuration` is none.
        """
        return _put(workspace, name, provisioning_configuration, "provisioning_configuration")

    @staticmethod
    def attach(workspace: Any, name: str, attach_configuration: Any) -> Any:
        """As `create`.

        Raises:
            ComputeTargetException: `attach_configuration` is none.
        """
        return _put(workspace, name, attach_configuration, "attach_configuration")

    @staticmethod
    def list(workspace: Any) -> list[Any]:
        """The targets of the workspace's table, and those of the project's own `conf/compute`."""
        made = workspace if isinstance(workspace, Workspace) else Workspace()
        own = paths.user_conf_dir()
        names = {path.stem for path in (own / "compute").glob("*.yaml")} if own else set()
        return [ComputeTarget(made, name) for name in sorted(names | set(folder.read_table(made.folder, TABLE)))]

    @classmethod
    def provisioning_configuration(cls, vm_size: str = "", **settings: Any) -> Configuration:
        """What `create` takes.

        Args:
            vm_size: kept; labrun runs on the machines that there are.
            **settings: `max_nodes` is how many runs go at once; the others are kept.
        """
        if "cluster_max_nodes" in settings:  # the word of 2018
            settings["max_nodes"] = settings.pop("cluster_max_nodes")
        return Configuration(cls.kind, vm_size=vm_size, **settings)

    @classmethod
    def attach_configuration(cls, *args: Any, **settings: Any) -> Configuration:
        """What `attach` takes; a password is not kept."""
        secret = ("password", "private_key_passphrase")
        return Configuration(cls.kind, **{key: value for key, value in settings.items() if key not in secret})

    @staticmethod
    def supported_vmsizes(workspace: Any, location: Any = None) -> Any:
        """The one size that there is: this machine."""
        import psutil

        memory = round(psutil.virtual_memory().total / 2**30, 1)
        return [{"name": "this_machine", "vCPUs": os.cpu_count(), "gpus": 0, "memoryGB": memory}]


class Status:
    """The state of a target, as the SDK's `get_status()` has it."""

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
        """All of it as one dictionary."""
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
    """A cluster: `max_nodes` runs at once on what it stands for."""

    kind = "AmlCompute"


class BatchAiCompute(ComputeTarget):
    """The cluster of 2018."""

    kind = "BatchAI"


class DsvmCompute(ComputeTarget):
    """One virtual machine."""

    kind = "VirtualMachine"


class ComputeInstance(ComputeTarget):
    """One virtual machine for notebooks."""

    kind = "ComputeInstance"


class RemoteCompute(ComputeTarget):
    """A machine of one's own that SSH reaches."""

    kind = "VirtualMachine"

    @staticmethod
    def attach(  # type: ignore[override]
        workspace: Any, name: str, username: Any = None, address: Any = None, *_: Any, **kwargs: Any
    ) -> Any:
        """As `ComputeTarget.attach`; the way of 2018 gives user name and address in its own arguments."""
        if isinstance(username, Configuration):
            return ComputeTarget.attach(workspace, name, username)
        settings = RemoteCompute.attach_configuration(username=username, address=address, **kwargs)
        return ComputeTarget.attach(workspace, name, kwargs.get("attach_configuration", settings))


KINDS: dict[str, type[ComputeTarget]] = {
    "AmlCompute": AmlCompute,
    "BatchAI": BatchAiCompute,
    "VirtualMachine": DsvmCompute,
    "ComputeInstance": ComputeInstance,
}


def _entry(workspace: Any, name: Any) -> dict[str, Any] | None:
    """What is known of a target: of the table, or of `conf/compute`; None where there is none of that name."""
    if name in _choices():
        return {"kind": "AmlCompute", "description": _choices()[str(name)]}
    made = workspace if isinstance(workspace, Workspace) else Workspace()
    found = folder.read_table(made.folder, TABLE).get(str(name))
    return dict(found) if isinstance(found, dict) else None


def _put(workspace: Any, name: str, configuration: Any, argument: str) -> Any:
    if not isinstance(configuration, Configuration):
        raise ComputeTargetException(
            f"{argument} is {configuration!r}: give what AmlCompute.{argument}(vm_size=..., max_nodes=...) returns"
        )
    fewest, most = (configuration.settings.get(key) for key in ("min_nodes", "max_nodes"))
    if most is not None and not max(1, int(fewest or 0)) <= int(most):
        raise ComputeTargetException(f"max_nodes={most} and min_nodes={fewest}: max_nodes is at least 1, and min_nodes")
    if not isinstance(name, str) or not name:
        raise UserErrorException(f"the compute target's name is {name!r}: give a text")
    made = workspace if isinstance(workspace, Workspace) else Workspace()
    if name in _choices():
        once(f"the compute target {name} is conf/compute/{name}.yaml; what create() says of it is not used")
        return ComputeTarget(made, name)
    entry = {"kind": configuration.kind, **configuration.settings}
    host = _attached(name, entry) if argument == "attach_configuration" else None
    if host is not None:
        folder.put(made.folder, TABLE, name, {**entry, HOST: host})
        return ComputeTarget(made, name)
    folder.put(made.folder, TABLE, name, entry)
    size = str(entry.get("vm_size") or "")
    runs = f", {entry['max_nodes']} runs at once at most" if entry.get("max_nodes") else ""
    once(f"the compute target {name} ({size or configuration.kind}) stands for compute={stands_for()}{runs}")
    if size.lower().startswith(GPU_FAMILIES):
        _tell_of_gpus(name, size)
    return ComputeTarget(made, name)


def _attached(name: str, entry: Mapping[str, Any]) -> str | None:
    """What `compute.host` calls a machine that is attached by its address; None where there is no such address.

    One that `lab remote` knows by this name is taken; else it is made known by it.
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
    once(
        f"the compute target {name} stands for compute={stands_for()} compute.host={name}: ssh {known.address}{other}. "
        f"Where it asks for a password: lab remote connect {name}"
    )
    return name


def _ssh_config(name: str, key: str) -> Path:
    """A configuration for ssh that names a key, beside the person's own."""
    file = remotes.file().parent / f"{name}.ssh_config"
    file.parent.mkdir(parents=True, exist_ok=True)
    place = Path(key).expanduser().resolve()
    file.write_text(f'Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\nHost *\n  IdentityFile "{place}"\n')
    return file


def _tell_of_gpus(name: str, size: str) -> None:
    """Say where a target with GPUs stands for a machine without any."""
    from labrun.backends import machine

    if stands_for() == DEFAULT and not machine.gpu_names():
        once(f"{name}: {size} has GPUs, and this machine has none: its runs use the CPU")
