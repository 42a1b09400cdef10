"""Registration of models by control scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrun.azureml.model import Model
from labrun.compat.azureml.exceptions import ModelPathNotFoundException, UserErrorException
from labrun.compat.azureml.training import files, registered
from labrun.errors import LabrunError, MissingDataError
from labrun.registry import models


def of_run(run: Any, model_name: str, model_path: str | None, about: Mapping[str, Any]) -> Any:
    """Register a file or folder of a run; see `Run.register_model`.

    Args:
        run: the run.
        model_name: the model's name.
        model_path: as in `Run.register_model`.
        about: the version's tags, properties and description; see `registered.about`.

    Raises:
        ModelNameException: the name is invalid.
        ModelPathNotFoundException: there is no such file.
        UserErrorException: the run is still active, or its file cannot be registered.
    """
    registered.check_name(model_name)
    root = run.experiment.workspace
    try:
        # Without a path, the SDK takes the file named like the model. Otherwise: labrun's saved model, or `outputs`.
        path = model_path or files.named(run._folder, model_name)
        path = path or (None if run._work.record.model else "outputs")
        path = None if path is None else files.stored_name(run._folder, path)
        made = models.About(**about)
        version, _ = models.register(root.folder, run._folder, model_name, path, about=made, exclude=None)
    except MissingDataError as error:
        raise ModelPathNotFoundException(f"register_model({model_name!r}, {model_path!r}): {error}") from error
    except LabrunError as error:
        raise UserErrorException(f"register_model({model_name!r}, {model_path!r}): {error}") from error
    return Model(root, version.name, version=version.number)
