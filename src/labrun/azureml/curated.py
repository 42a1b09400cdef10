"""Azure's curated environments, derived from their names, such as `AzureML-sklearn-0.24-ubuntu18.04-py37-cpu`."""

from __future__ import annotations

import re

PACKAGES = {
    "minimal": [],
    "scikit-learn": ["scikit-learn", "scipy", "pandas", "joblib", "matplotlib"],
    "sklearn": ["scikit-learn", "scipy", "pandas", "joblib", "matplotlib"],
    "pytorch": ["torch", "torchvision", "pandas", "matplotlib"],
    "acpt-pytorch": ["torch", "torchvision", "pandas", "matplotlib"],
    "tensorflow": ["tensorflow", "pandas", "matplotlib"],
    "chainer": ["chainer"],
    "lightgbm": ["lightgbm", "scikit-learn", "pandas"],
    "xgboost": ["xgboost", "scikit-learn", "pandas"],
    "automl": ["scikit-learn", "pandas", "lightgbm", "xgboost"],
    "tutorial": ["scikit-learn", "pandas", "matplotlib"],
    "vowpalwabbit": ["vowpalwabbit"],
}
"""The packages per family. The version in the environment's name is that of the first."""

KNOWN = (
    "AzureML-Minimal",
    "AzureML-Tutorial",
    "AzureML-AutoML",
    "AzureML-Scikit-learn-0.20.3",
    "AzureML-sklearn-0.24-ubuntu18.04-py37-cpu",
    "AzureML-sklearn-1.0-ubuntu20.04-py38-cpu",
    "AzureML-lightgbm-3.2-ubuntu18.04-py37-cpu",
    "AzureML-PyTorch-1.3-CPU",
    "AzureML-PyTorch-1.6-GPU",
    "AzureML-pytorch-1.10-ubuntu18.04-py38-cuda11-gpu",
    "AzureML-TensorFlow-2.2-CPU",
    "AzureML-tensorflow-2.4-ubuntu18.04-py37-cuda11-gpu",
)
"""The curated environments that `Environment.list` returns."""

PREFIX = "azureml-"


def dependencies(name: str) -> tuple[list[str], str | None] | None:
    """Return the packages of a curated environment.

    Returns:
        Its requirements and its Python version; None if the name belongs to no known family.
    """
    text = name.lower()
    if not text.startswith(PREFIX):
        return None
    rest = text.removeprefix(PREFIX)
    family = max((one for one in PACKAGES if re.match(rf"{one}(?![a-z])", rest)), key=len, default=None)
    if family is None:
        return None
    packages = list(PACKAGES[family])
    version = re.match(r"-?(\d+(?:\.\d+)*)", rest.removeprefix(family))  # also Scikit-learn0.24-Cuda11
    if packages and version:
        packages[0] += f"=={version[1]}.*"
    python = re.search(r"-py(\d)\.?(\d+)", rest)
    return packages, f"{python[1]}.{python[2]}" if python else None
