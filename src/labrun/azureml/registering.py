"""Models that control scripts register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrun.azureml.model import Model
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import files, registered
from labrun.errors import LabrunError
from labrun.registry import models

KEPT = ("description", "model_framework", "model_framework_version")


def of_run(
    run: Any,
    model_name: str,
    model_path: str | None,
    tags: Mapping[str, Any] | None,
    properties: Mapping[str, Any] | None,
    **kwargs: Any,
) -> Any:
    """Register a file or a folder of a run; see `Run.register_model`.

    Raises:
        UserErrorException: the name will not do, or there is no such file.
    """
    about = registered.about(tags, properties, *[kwargs.get(name) for name in KEPT])
    root = run.experiment.workspace
    try:
        # As in the SDK: without a path it is all that the run has put into `outputs`, or the model that labrun saved.
        path = model_path or (None if run._work.record.model else "outputs")
        path = None if path is None else files.stored_name(run._folder, path)
        version, _ = models.register(root.folder, run._folder, model_name, path, about=models.About(**about))
    except LabrunError as error:
        raise UserErrorException(f"register_model({model_name!r}, {model_path!r}): {error}") from error
    return Model(root, version.name, version=version.number)
