"""Models that control scripts register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrun.compat.azureml import finder
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.errors import LabrunError

KEPT = ("description", "model_framework", "model_framework_version")
"""Words of the SDK that a version keeps as tags."""


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
    own = {name: kwargs[name] for name in KEPT if kwargs.get(name) is not None}
    noted = {str(key): str(value) for key, value in {**own, **(properties or {}), **(tags or {})}.items()}
    try:
        version = run._work.register_model(model_name=model_name, model_path=model_path, tags=noted)
    except LabrunError as error:
        raise UserErrorException(f"register_model({model_name!r}, {model_path!r}): {error}") from error
    return finder.find("azureml.core", "Model")(run.experiment.workspace, version.name, version=version.version)
