"""The modules `azureml.*`: made when they are imported, their names looked up when they are used.

A name is first looked for in `labrun.azureml`, which an interpreter without labrun does not have, then among those of
`training`; what neither has is a stand-in. An import alone never fails.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
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
"""Names that every interpreter has, and their modules in `training`."""

VERSION = "1.60.0"
"""The last release of the SDK: scripts print it, and some compare it."""

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
"""What `from azureml.train.hyperdrive import *` gives."""

BESIDE = ("msrest", "msrest.exceptions", "azure", "azure.common")
"""Packages that came with the SDK, of which scripts import the errors that they catch; one that is installed counts."""

AS = {
    "HttpOperationError": "UserErrorException",
    "ClientException": "AzureMLException",
    "AzureException": "AzureMLException",
    "AzureHttpError": "UserErrorException",
    "AzureMissingResourceHttpError": "UserErrorException",
    "ServiceException": "UserErrorException",
    "ErrorResponseException": "UserErrorException",
}
"""Errors of those packages and of the SDK's client, and what labrun raises where these raised them."""

PRIVATE = ("_common", "_restclient")
"""Private modules that scripts import errors from."""

INNER = ("_internal", "_many_models", "_vendor")
"""Private modules below public ones that the SDK's own notebooks import from."""

MISSING = {"mlflow"}
"""Not even a stand-in: MLflow loads this plug-in of its own accord, and goes on without it if it cannot be imported."""


def find(module: str, name: str) -> Any:
    """What a module of the SDK has under a name.

    Raises:
        AttributeError: the name is private, and labrun has none like it.
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
        # `import azureml.core` gave all of the SDK's modules below it.
        return importlib.import_module(f"{module}.{name}")
    return absent.stand_in(module, name)


def _error(module: str, name: str) -> Any:
    """What a package beside the SDK has under a name: an error, or a module below it."""
    exceptions = importlib.import_module("labrun.compat.azureml.exceptions")
    if hasattr(exceptions, AS.get(name, name)):
        return getattr(exceptions, AS.get(name, name))
    if f"{module}.{name}" in BESIDE:
        return importlib.import_module(f"{module}.{name}")
    if name.endswith(("Error", "Exception")):
        return absent.stand_in(module, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}: labrun has its errors alone")


def whole() -> Any:
    """The table of what `labrun.azureml` has; None where labrun is not installed, as in a script's own interpreter."""
    return None if hasattr(sys.modules["labrun"], "ELSEWHERE") else importlib.import_module("labrun.azureml.names")


def _is_own(name: str) -> bool:
    """Whether a script inside of a run asks for `Run`: its own needs no library, and nothing is imported before it."""
    return name == "Run" and context.current() is not None


class _Module(ModuleType):
    """A module of the SDK."""

    def __getattr__(self, name: str) -> Any:
        return find(self.__name__, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What was taken for a module is a function that labrun does not have."""
        name = self.__name__.rpartition(".")[2]
        absent.not_here(f"{name}()", absent.advice(self.__name__, name))


class _Modules(MetaPathFinder, Loader):
    """Finds every module of the SDK; each is a package, since it may have others below it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, *below = fullname.split(".")
        if fullname in BESIDE:
            return ModuleSpec(fullname, self, is_package=True)
        if top == "mlflow" and below[:1] == ["azureml"]:  # which MLflow had until 2023, to deploy models
            return ModuleSpec(fullname, self, is_package=True)
        if top != "azureml" or not below or below[0] in MISSING:
            return None
        if below[0] not in PRIVATE and any(part.startswith("_") and part not in INNER for part in below):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing of its own: see `_Module`."""
        if module.__name__ == "azureml.core":  # it imported this, and scripts that `import urllib` count on it
            importlib.import_module("urllib.request")


def install() -> None:
    """Answer for modules of `azureml`, after every other finder."""
    if not any(isinstance(finder, _Modules) for finder in sys.meta_path):
        sys.meta_path.append(_Modules())
