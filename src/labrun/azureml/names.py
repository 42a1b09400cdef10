"""The SDK names that labrun implements beyond those of a training script, and the module that implements each."""

from __future__ import annotations

import importlib
from typing import Any

MODULES = {
    # runs and submission
    "Workspace": "workspace",
    "Experiment": "experiment",
    "Run": "run",
    "get_run": "run",
    "ScriptRun": "run",
    "ScriptRunConfig": "script_run_config",
    "RunConfiguration": "run_configuration",
    "RunDetails": "widgets",
    "Tensorboard": "tensorboard",
    "export_to_tensorboard": "tensorboard",
    "MpiConfiguration": "distributed",
    "PyTorchConfiguration": "distributed",
    "TensorflowConfiguration": "distributed",
    # estimators
    "Chainer": "estimators",
    "Estimator": "estimators",
    "Gloo": "estimators",
    "Mpi": "estimators",
    "Nccl": "estimators",
    "ParameterServer": "estimators",
    "PyTorch": "estimators",
    "SKLearn": "estimators",
    "TensorFlow": "estimators",
    # searches
    "BanditPolicy": "sampling",
    "BayesianParameterSampling": "sampling",
    "EarlyTerminationPolicy": "sampling",
    "GridParameterSampling": "sampling",
    "HyperDriveConfig": "hyperdrive",
    "HyperDriveRun": "hyperdrive",
    "HyperDriveRunConfig": "hyperdrive",
    "HyperParameterSampling": "sampling",
    "MedianStoppingPolicy": "sampling",
    "NoTerminationPolicy": "sampling",
    "PrimaryMetricGoal": "hyperdrive",
    "RandomParameterSampling": "sampling",
    "TruncationSelectionPolicy": "sampling",
    "choice": "sampling",
    "lognormal": "sampling",
    "loguniform": "sampling",
    "normal": "sampling",
    "qlognormal": "sampling",
    "qloguniform": "sampling",
    "qnormal": "sampling",
    "quniform": "sampling",
    "randint": "sampling",
    "uniform": "sampling",
    # models
    "Model": "model",
    # environments
    "CondaDependencies": "conda_dependencies",
    "DEFAULT_CPU_IMAGE": "docker",
    "DEFAULT_GPU_IMAGE": "docker",
    "DockerConfiguration": "docker",
    "DockerSection": "docker",
    "Environment": "environment",
    "EnvironmentDefinition": "environment",
    "PythonSection": "environment",
    # AutoML
    "AutoMLConfig": "automl",
    "AutoMLRun": "automl_run",
    "CONDA_ENV_FILE_PATH": "automl_constants",
    "MODEL_PATH": "automl_constants",
    "SCORING_FILE_PATH": "automl_constants",
    "Metric": "automl_constants",
    "SupportedModels": "automl_constants",
    "get_primary_metrics": "automl",
    "get_sdk_dependencies": "automl",
    # data
    "DataPath": "data_reference",
    "DataPathComputeBinding": "data_reference",
    "DataReference": "data_reference",
    "DataReferenceConfiguration": "data_configs",
    "Dataset": "dataset",
    "DatasetConsumptionConfig": "data_sets",
    "Datastore": "datastore",
    "FileDataset": "data_sets",
    "FileDatasetFactory": "dataset_factories",
    "OutputFileDatasetConfig": "data_configs",
    "TabularDataset": "data_sets",
    "TabularDatasetFactory": "dataset_factories",
    # machines
    "AmlCompute": "compute",
    "BatchAiCompute": "compute",
    "ComputeInstance": "compute",
    "ComputeTarget": "compute",
    "DsvmCompute": "compute",
    "RemoteCompute": "compute",
    "AbstractDataset": "data_sets",
    "AbstractDatastore": "datastore_kinds",
    "AzureBlobDatastore": "datastore_kinds",
    "AzureDataLakeGen2Datastore": "datastore_kinds",
    "AzureFileDatastore": "datastore_kinds",
    "DockerEnvironment": "docker",
    "FeaturizationConfig": "featurization",
    "ImageBuildDetails": "environment",
    "PythonEnvironment": "environment",
    "ViewType": "experiment",
    # accepted without effect: there is no service to sign in to
    "AzureCliAuthentication": "authentication",
    "InteractiveLoginAuthentication": "authentication",
    "MsiAuthentication": "authentication",
    "ServicePrincipalAuthentication": "authentication",
    "TokenAuthentication": "authentication",
    "set_diagnostics_collection": "authentication",
    "AbstractAuthentication": "authentication",
    "AmlComputeConfiguration": "accepted",
    "ArmTokenAuthentication": "authentication",
    "AzureMLTokenAuthentication": "authentication",
    "ContainerRegistry": "accepted",
    "HdiConfiguration": "accepted",
    "HistoryConfiguration": "accepted",
    "Keyvault": "workspace",
    "KubernetesComputeConfiguration": "accepted",
    "ResourceConfiguration": "accepted",
    "SparkConfiguration": "accepted",
}


def has(module: str, name: str) -> bool:
    """Return whether labrun implements a name of the SDK."""
    return name in MODULES


def find(module: str, name: str) -> Any:
    """Return the object for a name that `has` accepts."""
    return getattr(importlib.import_module(f"labrun.azureml.{MODULES[name]}"), name)
