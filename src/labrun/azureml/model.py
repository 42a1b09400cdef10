"""`Model`: registered models, as a control script looks them up and registers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labrun.azureml.advice import Advising
from labrun.azureml.local_paths import local
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import (
    ModelNotFoundException,
    ModelPathNotFoundException,
    UserErrorException,
)
from labrun.compat.azureml.training import model as training
from labrun.compat.azureml.training import registered
from labrun.errors import LabrunError, MissingDataError
from labrun.registry import models
from labrun.registry.models import About
from labrun.runs import context, model_journal, sdk_ids, store

Models = list["Model"]


class Model(training.Model, Advising):
    """A registered model; see `labrun.compat.azureml.training.model.Model`."""

    def __init__(
        self,
        workspace: Any = None,
        name: str | None = None,
        id: str | None = None,
        tags: Any = None,
        properties: Any = None,
        version: Any = None,
        run_id: str | None = None,
        model_framework: str | None = None,
        expand: bool = True,
        **unknown: Any,
    ) -> None:
        self._root = _root(workspace)
        own = _own(self._root, run_id)
        super().__init__(workspace, name, id, tags, properties, version, own, model_framework, expand, **unknown)

    @staticmethod
    def register(
        workspace: Any = None,
        model_path: Any = None,
        model_name: str | None = None,
        tags: Any = None,
        properties: Any = None,
        description: str | None = None,
        datasets: Any = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        child_paths: Any = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Any = None,
    ) -> Any:
        """Register a local file or folder; inside a run, when that run completes.

        Args:
            workspace: the workspace.
            model_path: the file or folder.
            model_name: the model's name.
            tags: the version's tags.
            properties: the version's properties.
            description: the version's description.
            datasets: not kept.
            model_framework: kept.
            model_framework_version: kept.
            child_paths: not used; a notice says that the whole folder is registered.
            sample_input_dataset: not kept.
            sample_output_dataset: not kept.
            resource_configuration: not kept.

        Raises:
            ModelNameException: the name is invalid.
            ModelPathNotFoundException: there is no such file.
            UserErrorException: labrun cannot register it for another reason.
        """
        registered.tell_not_kept(
            "Model.register", datasets, sample_input_dataset, sample_output_dataset, resource_configuration
        )
        training.tell_child_paths(child_paths)
        words = (tags, properties, description, model_framework, model_framework_version)
        if context.current() is not None:
            return training.Model.register(workspace, model_path, model_name, *words[:3], None, *words[3:])
        if not model_name or model_path is None:
            raise UserErrorException("Model.register: give model_path= and model_name=")
        registered.check_name(model_name)
        about = About(**registered.about(*words))
        print(f"Registering model {model_name}")
        try:
            version = models.register_local(_root(workspace), local(model_path), model_name, about)
        except MissingDataError as error:
            raise ModelPathNotFoundException(f"Model.register({model_name!r}): {error}") from error
        except LabrunError as error:
            raise UserErrorException(f"Model.register({model_name!r}): {error}") from error
        return Model(workspace, version.name, version=version.number)

    @staticmethod
    def list(
        workspace: Any = None,
        name: str | None = None,
        tags: Any = None,
        properties: Any = None,
        run_id: str | None = None,
        latest: bool = False,
        dataset_id: Any = None,
        expand: bool = True,
        page_count: int = 255,
        model_framework: str | None = None,
    ) -> Models:
        """Return the registered versions, newest first; see `labrun.compat.azureml.training.model.Model.list`."""
        training.check_no_data_filter(dataset_id)
        found = training.listed(name, latest, tags, properties, _own(_root(workspace), run_id), model_framework)
        return [Model(workspace, one["name"], version=one["number"]) for one in found]

    @property
    def run_id(self) -> str | None:
        """The id, in the SDK's form, of the run that it was registered from; None for a local file."""
        if self._run is None:
            return None
        try:
            _, record = store.find(self._root, self._run)
        except LabrunError:
            return self._run
        return record.sdk_id

    @run_id.setter
    def run_id(self, run_id: str | None) -> None:
        self._run = run_id

    @property
    def run(self) -> Any:
        """The run that it was registered from; None for a local file."""
        return _workspace(self.workspace).get_run(self._run) if self._run else None

    @property
    def datasets(self) -> dict[str, Any]:
        """Empty: the record of its run lists the training data."""
        return {}

    def add_tags(self, tags: Any) -> None:
        """Set tags; other tags stay."""
        self._tell(lambda about: dataclasses.replace(about, tags={**about.tags, **registered.texts(tags)}))

    def add_tag(self, key: str, value: Any = None) -> None:
        """Set a tag."""
        self.add_tags({key: value})

    def remove_tags(self, tags: Any) -> None:
        """Remove tags by key."""
        gone = [tags] if isinstance(tags, str) else [str(tag) for tag in tags]
        kept = {key: value for key, value in self.tags.items() if key not in gone}
        self._tell(lambda about: dataclasses.replace(about, tags=kept))

    def add_properties(self, properties: Any) -> None:
        """Add properties; an existing property never changes."""
        new = registered.texts(properties)
        self._tell(lambda about: dataclasses.replace(about, properties={**new, **about.properties}))

    def update(
        self,
        tags: Any = None,
        description: str | None = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Any = None,
        *,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        **unknown: Any,
    ) -> None:
        """Change the description or framework, or replace all tags.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(Model.update, unknown)
        registered.tell_not_kept(
            "Model.update", None, sample_input_dataset, sample_output_dataset, resource_configuration
        )
        changes = registered.about(tags, {}, description, model_framework, model_framework_version)
        self._tell(
            lambda about: About(
                about.tags if tags is None else changes["tags"],
                {**about.properties, **changes["properties"]},
                about.description if description is None else changes["description"],
            )
        )

    def update_tags_properties(self, add_tags: Any = None, remove_tags: Any = None, add_properties: Any = None) -> None:
        """Add and remove tags, and add properties."""
        self.add_tags(add_tags or {})
        self.remove_tags(remove_tags or [])
        self.add_properties(add_properties or {})

    def delete(self) -> None:
        """Remove the version and its files."""
        try:
            models.remove(self._root, [model_journal.find(self._root, f"{self.name}/{self.version}")])
        except LabrunError as error:
            raise ModelNotFoundException(f"Model.delete: {error}") from error

    def _tell(self, change: Callable[[About], About]) -> None:
        try:
            models.describe(self._root, f"{self.name}/{self.version}", change)
        except LabrunError as error:
            raise ModelNotFoundException(f"{self.id}: {error}") from error
        self._set_attributes(self.name, self.version, registered.of(self.name, self.version))


def _own(root: Path, run_id: Any) -> Any:
    """Convert a run id in the SDK's form to labrun's; return any other value unchanged."""
    try:
        return store.find(root, run_id)[1].id if run_id and sdk_ids.parts(run_id) else run_id
    except LabrunError:
        return run_id


def _root(workspace: Any) -> Path:
    return _workspace(workspace).folder


def _workspace(workspace: Any) -> Workspace:
    return workspace if isinstance(workspace, Workspace) else Workspace()
