"""The modules `azureml.*`, created on import. Their names are looked up on use.

A name is looked up first in `labrun.azureml` (if the interpreter has labrun), then in `training`. A name that neither
has becomes a stand-in, so an import alone never fails.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from labrun.compat.azureml import absent
from labrun.runs import context

TRAINING = {
    "DataType": "table_types",
    "Dataset": "dataset",
    "Datastore": "datastore",
    "Experiment": "experiment",
    "FileDataset": "data",
    "FileDatasetFactory": "factories",
    "Inputs": "data",
    "Model": "model",
    "Run": "run",
    "PromoteHeadersBehavior": "table_types",
    "TabularDataset": "data",
    "TabularDatasetFactory": "factories",
    "Workspace": "workspace",
    "_OfflineRun": "offline",
    "_SubmittedRun": "run",
}
"""Names that are available in every interpreter, and their modules in `training`."""

VERSION = "1.60.0"
"""The reported SDK version: scripts print it, and some compare it."""

CONSTANTS = {"VERSION": VERSION, "__version__": VERSION}

STARS = {
    "azureml.core": (
        "ComputeTarget ContainerRegistry Dataset Datastore Environment Experiment Image Keyvault Model Run "
        "RunConfiguration ScriptRun ScriptRunConfig Webservice Workspace"
    ),
    "azureml.core.compute": "AksCompute AmlCompute ComputeInstance ComputeTarget DsvmCompute RemoteCompute",
    "azureml.train.hyperdrive": (
        "BanditPolicy BayesianParameterSampling GridParameterSampling HyperDriveConfig HyperDriveRun "
        "HyperDriveRunConfig MedianStoppingPolicy NoTerminationPolicy PrimaryMetricGoal RandomParameterSampling "
        "TruncationSelectionPolicy choice lognormal loguniform normal qlognormal qloguniform qnormal quniform randint "
        "uniform"
    ),
    "azureml.train.hyperdrive.parameter_expressions": (
        "choice lognormal loguniform normal qlognormal qloguniform qnormal quniform randint uniform"
    ),
    "azureml.train.automl": "AutoMLConfig",
    "azureml.train.dnn": "Chainer Gloo Mpi Nccl ParameterServer PyTorch TensorFlow",
    "azureml.widgets": "RunDetails",
}
"""The `__all__` of modules, for imports such as `from azureml.train.hyperdrive import *`."""

BESIDE = ("msrest", "msrest.exceptions", "azure", "azure.common")
"""Packages that came with the SDK, from which scripts import errors to catch. An installed package takes precedence."""

AS = {
    "HttpOperationError": "UserErrorException",
    "ClientException": "AzureMLException",
    "AzureException": "AzureMLException",
    "AzureHttpError": "UserErrorException",
    "AzureMissingResourceHttpError": "UserErrorException",
    "ServiceException": "UserErrorException",
    "ErrorResponseException": "UserErrorException",
}
"""Errors of those packages and of the SDK's client, and the errors that labrun raises in their place."""

PRIVATE = ("_common", "_restclient")
"""Private modules from which scripts import errors."""

INNER = ("_internal", "_many_models", "_vendor")
"""Private submodules from which the SDK's own notebooks import."""

MISSING = {"mlflow"}
"""Modules that must not be importable: MLflow loads this plug-in automatically, and works without it if that fails."""


def find(module: str, name: str) -> Any:
    """Return the object that a module of the SDK has under a name.

    Raises:
        AttributeError: the name is private, and labrun does not have it.
    """
    if name in CONSTANTS and module.count(".") <= 1:
        return CONSTANTS[name]
    if name == "__all__" and module in STARS:
        return STARS[module].split()
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    if module in BESIDE or module.startswith("azureml._restclient"):
        return _error(module, name)
    full = whole()
    if full is not None and full.has(module, name) and not _is_own(name):
        return full.find(module, name)
    if name in TRAINING:
        return getattr(importlib.import_module(f"labrun.compat.azureml.training.{TRAINING[name]}"), name)
    exceptions = importlib.import_module("labrun.compat.azureml.exceptions")
    if name[0].isupper() and hasattr(exceptions, name):
        return getattr(exceptions, name)
    if name.islower() and not name.startswith("_") and name not in absent.INSTEAD:
        # In the SDK, `import azureml.core` also imported its submodules.
        return importlib.import_module(f"{module}.{name}")
    return absent.stand_in(module, name)


def _error(module: str, name: str) -> Any:
    """Return an error or a submodule of a package that came with the SDK."""
    exceptions = importlib.import_module("labrun.compat.azureml.exceptions")
    if hasattr(exceptions, AS.get(name, name)):
        return getattr(exceptions, AS.get(name, name))
    if f"{module}.{name}" in BESIDE:
        return importlib.import_module(f"{module}.{name}")
    if name.endswith(("Error", "Exception")):
        return absent.stand_in(module, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}: labrun has only its errors")


def whole() -> Any:
    """Return the module `labrun.azureml.names`; None if the interpreter does not have labrun installed."""
    return None if hasattr(sys.modules["labrun"], "STANDALONE") else importlib.import_module("labrun.azureml.names")


def _is_own(name: str) -> bool:
    """Return whether a script in a run asks for `Run`: its own run needs no library and no further imports."""
    return name == "Run" and context.current() is not None


class _Module(ModuleType):
    """A module of the SDK."""

    def __getattr__(self, name: str) -> Any:
        return find(self.__name__, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the name that was taken for a module is a function that labrun does not have."""
        name = self.__name__.rpartition(".")[2]
        absent.not_here(f"{name}()", absent.advice(self.__name__, name))


class _Modules:
    """Finds every module of the SDK. Each is a package because it may have submodules.

    It has no base of `importlib.abc`, whose import would take as long as all others here.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, *below = fullname.split(".")
        loader: Any = self
        if fullname in BESIDE:
            return ModuleSpec(fullname, loader, is_package=True)
        if top == "mlflow" and below[:1] == ["azureml"]:  # part of MLflow until 2023, to deploy models
            return ModuleSpec(fullname, loader, is_package=True)
        if top != "azureml" or not below or below[0] in MISSING:
            return None
        if below[0] not in PRIVATE and any(part.startswith("_") and part not in INNER for part in below):
            return None
        return ModuleSpec(fullname, loader, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute nothing: `_Module` looks names up on use."""
        if module.__name__ == "azureml.core":  # the SDK imported this, and scripts that `import urllib` rely on it
            importlib.import_module("urllib.request")


def install() -> None:
    """Install the finder for `azureml` modules after all others."""
    if not any(isinstance(finder, _Modules) for finder in sys.meta_path):
        sys.meta_path.append(_Modules())
