"""The Azure ML SDK v1, as far as labrun implements it: see `labrun.compat.azureml.finder`."""

import importlib
from typing import Any

from labrun.compat.azureml import finder

finder.install()


def __getattr__(name: str) -> Any:
    """Import a submodule: in the SDK, `import azureml.core` imported all of them."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
