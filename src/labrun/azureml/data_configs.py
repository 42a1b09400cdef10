"""`DataReferenceConfiguration` and `OutputFileDatasetConfig`: an input and an output that find their datastore."""

from __future__ import annotations

import uuid
from typing import Any

from labrun.azureml.advice import Advising
from labrun.azureml.data_reference import DataReference, notify_unused_path, output_folder
from labrun.azureml.datastore import Datastore
from labrun.azureml.notices import notify_once
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException


class DataReferenceConfiguration(DataReference):
    """A `DataReference` for `run_config.data_references`, by datastore name (None: the default datastore)."""

    def __init__(
        self,
        datastore_name: str | None = None,
        mode: str = "mount",
        path_on_datastore: str | None = None,
        path_on_compute: Any = None,
        overwrite: bool = False,
    ) -> None:
        given = (path_on_datastore, mode, path_on_compute, overwrite)
        super().__init__(Datastore(name=datastore_name), None, *given)


class OutputFileDatasetConfig(Advising):
    """A folder that a run writes and later runs read.

    Args:
        name: the output's name.
        destination: a datastore and a path in it; None: `dataset/ID/NAME` in the default datastore.
        source: not used: labrun chooses the path; a notice is printed.
        partition_format: not supported.

    Raises:
        UserErrorException: `destination` is not a datastore and a path.
        NotInLabrun: `partition_format` is given.
    """

    def __init__(
        self, name: str | None = None, destination: Any = None, source: Any = None, partition_format: Any = None
    ) -> None:
        self.name = name or "output"
        if partition_format is not None:
            not_here(
                "OutputFileDatasetConfig(partition_format=...)",
                "when the run has completed: Dataset.File.from_files((datastore, path), partition_format=...)",
            )
        if source is not None:
            notify_unused_path(f"OutputFileDatasetConfig({self.name!r}, source={source!r})")
        target = destination if isinstance(destination, tuple) else (destination or Datastore(), None)
        if len(target) != 2 or not isinstance(target[0], Datastore):
            raise UserErrorException(f"destination={destination!r}: give a datastore and a path: (datastore, 'folder')")
        self._template = str(target[1] or "dataset/{run-id}/{output-name}")
        self.datastore: Datastore = target[0]
        self.path_on_datastore = self._drawn()
        self._is_given = False

    def _drawn(self) -> str:
        text = self._template.replace("{run-id}", uuid.uuid4().hex[:8]).replace("{output-name}", self.name)
        return str(self.datastore._clean(text))

    def labrun_mount(self) -> str:
        """Return the folder to write to. If the path contains `{run-id}`, each run gets a folder of its own."""
        if self._is_given:
            self.path_on_datastore = self._drawn()
        self._is_given = True
        return output_folder(self.datastore, self.path_on_datastore, f"OutputFileDatasetConfig({self.name!r})")

    def as_mount(self, disable_metadata_cache: bool = False) -> OutputFileDatasetConfig:
        """Return the output itself."""
        return self

    def as_upload(self, overwrite: bool = False, source_globs: Any = None) -> OutputFileDatasetConfig:
        """Return the output itself: the run writes directly to the datastore, so `source_globs` selects nothing."""
        if source_globs is not None:
            notify_once(
                f"OutputFileDatasetConfig({self.name!r}).as_upload(source_globs=...): not used: all files are kept"
            )
        return self

    def as_input(self, name: str | None = None) -> Any:
        """Return the written folder as an input for another run."""
        return DataReference(self.datastore, name or self.name, self.path_on_datastore)

    def register_on_complete(self, name: str, description: str | None = None, tags: Any = None) -> Any:
        """Raise: labrun leaves the registration to the program that waits for the run."""
        not_here(
            f"OutputFileDatasetConfig.register_on_complete({name!r})",
            "when the run has completed: Dataset.File.from_files((datastore, path)).register(ws, name)",
        )
