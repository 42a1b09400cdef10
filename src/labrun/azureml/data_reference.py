"""`DataReference` and `DataPath`: a folder or file in a datastore."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.azureml.advice import Advising
from labrun.azureml.notices import notify_once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.data.stores.local import LocalDatastore

if TYPE_CHECKING:
    from labrun.azureml.datastore import Datastore

MODES = ("mount", "download", "upload")
PREFIX = "$AZUREML_DATAREFERENCE_"
"""The prefix of a reference's text form."""


class DataPath(Advising):
    """A folder or file in a datastore.

    Args:
        datastore: the datastore.
        path_on_datastore: the path in it.
        name: not used.
    """

    def __init__(self, datastore: Datastore, path_on_datastore: str | None = None, name: str | None = None) -> None:
        self.datastore, self.name = datastore, name
        self.path_on_datastore = datastore._clean(path_on_datastore)

    @property
    def datastore_name(self) -> str:
        """The datastore's name."""
        return self.datastore.name

    @staticmethod
    def create_from_data_reference(data_reference: DataReference) -> DataPath:
        """Return the path of a reference."""
        return DataPath(data_reference.datastore, data_reference.path_on_datastore)

    def create_data_reference(
        self, data_reference_name: str | None = None, datapath_compute_binding: Any = None
    ) -> DataReference:
        """Return a reference to this path, for a run."""
        mode = getattr(datapath_compute_binding, "mode", None) or "mount"
        return DataReference(self.datastore, data_reference_name, self.path_on_datastore, mode)


class DataPathComputeBinding:
    """The way in which a run accesses a `DataPath`.

    Args:
        mode: `mount`, `download` or `upload`.
        path_on_compute: not used: labrun chooses the path.
        overwrite: not used.
    """

    def __init__(self, mode: str = "mount", path_on_compute: Any = None, overwrite: bool = False) -> None:
        self.mode, self.path_on_compute, self.overwrite = mode, path_on_compute, overwrite

    def create_data_reference(self, data_reference_name: str | None = None, datapath: Any = None) -> DataReference:
        """Return a reference to a `DataPath`, for a run."""
        made: DataReference = datapath.create_data_reference(data_reference_name, self)
        return made

    @staticmethod
    def create_from_data_reference(data_reference: DataReference) -> DataPathComputeBinding:
        """Return the binding of a reference."""
        return DataPathComputeBinding(data_reference.mode, data_reference.path_on_compute, data_reference.overwrite)


class DataReference(Advising):
    """A folder or file in a datastore, for a run.

    It can be an argument of the script, be part of an argument in its text form, or be an input with a name.

    Args:
        datastore: the datastore.
        data_reference_name: the input's name; None: derived from the path.
        path_on_datastore: the path in the datastore.
        mode: `mount`, `download` or `upload`.
        path_on_compute: not used: labrun chooses the path.
        overwrite: not used.

    Raises:
        UserErrorException: there is no such mode.
    """

    def __init__(
        self,
        datastore: Datastore,
        data_reference_name: str | None = None,
        path_on_datastore: str | None = None,
        mode: str = "mount",
        path_on_compute: Any = None,
        overwrite: bool = False,
    ) -> None:
        if mode not in MODES:
            raise UserErrorException(f"DataReference: mode={mode!r} must be one of {', '.join(MODES)}")
        self.datastore, self.mode = datastore, mode
        self.path_on_datastore = datastore._clean(path_on_datastore)
        plain = re.sub(r"\W+", "_", f"{datastore.name}_{self.path_on_datastore}").strip("_")
        self.data_reference_name = data_reference_name or plain
        self.path_on_compute, self.overwrite = path_on_compute, overwrite

    @staticmethod
    def create(
        data_reference_name: str | None = None,
        datapath: DataPath | None = None,
        datapath_compute_binding: Any = None,
        *,
        datastore: Datastore | None = None,
        mode: str = "mount",
        path_on_datastore: str | None = None,
        path_on_compute: Any = None,
        overwrite: bool = False,
    ) -> DataReference:
        """Return a reference to a `DataPath`; without one, by the other arguments and the default datastore."""
        if datapath is not None:
            return datapath.create_data_reference(data_reference_name, datapath_compute_binding)
        given = (data_reference_name, path_on_datastore, mode, path_on_compute, overwrite)
        return DataReference(datastore or Workspace().get_default_datastore(), *given)

    def __str__(self) -> str:
        return f"{PREFIX}{self.data_reference_name}"

    def __repr__(self) -> str:
        return f"DataReference({self.datastore.name}/{self.path_on_datastore}, mode={self.mode})"

    @property
    def labrun_alias(self) -> str | None:
        """The input's name; None for an output."""
        return None if self.mode == "upload" else self.data_reference_name

    def labrun_mount(self) -> str:
        """Return the text that stands for it in a run's config: a `${mount:...}`, or the folder to write to."""
        if self.mode == "upload":
            return output_folder(self.datastore, self.path_on_datastore, f"{self!r}")
        return reference(self.datastore, self.path_on_datastore)

    def path(self, path: str | None = None, data_reference_name: str | None = None) -> DataReference:
        """Return a reference to a folder or file below it."""
        below = f"{self.path_on_datastore}/{path or ''}"
        return DataReference(self.datastore, data_reference_name, below, self.mode)

    def as_mount(self) -> DataReference:
        """Return the reference in mount mode."""
        return self._with("mount")

    def as_download(self, path_on_compute: Any = None, overwrite: bool = False) -> DataReference:
        """Return the reference in download mode, which labrun treats like mount mode."""
        tell_input_path(f"as_download({path_on_compute!r})", path_on_compute)
        return self._with("download", path_on_compute)

    def as_upload(self, path_on_compute: Any = None, overwrite: bool = False) -> DataReference:
        """Return the reference in upload mode, for a run to write to; a notice says that it has another path."""
        if path_on_compute is not None:
            notify_unused_path(f"as_upload(path_on_compute={path_on_compute!r})")
        return self._with("upload", path_on_compute)

    def _with(self, mode: str, path_on_compute: Any = None) -> DataReference:
        return DataReference(self.datastore, self.data_reference_name, self.path_on_datastore, mode, path_on_compute)

    def to_config(self) -> DataReference:
        """Return the reference itself, which `run_config.data_references` accepts."""
        return self


def notify_unused_path(what: str) -> None:
    """Print a notice that the script must not write to a path of the user's choice."""
    notify_once(f"{what}: the path is not used: the script must write to the folder that it gets as an argument")


def tell_input_path(call: str, path_on_compute: Any) -> None:
    """Print a notice, once, if a script may read its data at a path of the user's choice.

    A relative path is below a folder that the script does not know, so the script cannot rely on it.
    """
    if path_on_compute is not None and str(path_on_compute).startswith("/"):
        notify_once(
            f"{call}: the path is not used: the script finds the data at the path that it gets as an argument, or in "
            "run.input_datasets"
        )


def reference(datastore: Datastore, path: str) -> str:
    """Return the `${mount:...}` text for a folder or file in a datastore."""
    return f"${{mount:{datastore.name}/{path or '.'}}}"


def output_folder(datastore: Datastore, path: str, what: str) -> str:
    """Create the local folder that a run may write to and return its path.

    Raises:
        NotInLabrun: the datastore is not on this machine.
    """
    if not isinstance(datastore.store, LocalDatastore):
        not_here(
            f"{what}, an output in the datastore {datastore.name},",
            "let the script write to ./outputs, and upload that when the run has completed: run.download_files(), "
            "datastore.upload()",
        )
    folder: Path = datastore.store.path(path)
    folder.mkdir(parents=True, exist_ok=True)
    notify_once(f"{what}: the run writes directly to {folder}")
    return str(folder)
