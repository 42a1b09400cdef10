"""Conversion of conda environment files to PyPI requirements: the `pip` part, and conda packages by their names.

Packages that are not on PyPI (compilers, CUDA, R) are left out and reported. For Azure scripts, Azure's own packages
are left out as well, because labrun supplies azureml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrun.errors import ConfigError

SUFFIXES = (".yml", ".yaml")

ON_PYPI = {
    "bs4": "beautifulsoup4",
    "dask-core": "dask",
    "keras-gpu": "keras",
    "matplotlib-base": "matplotlib",
    "msgpack-python": "msgpack",
    "opencv": "opencv-python-headless",
    "py-opencv": "opencv-python-headless",
    "py-xgboost": "xgboost",
    "py-xgboost-cpu": "xgboost",
    "py-xgboost-gpu": "xgboost",
    "pytables": "tables",
    "python-graphviz": "graphviz",
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "seaborn-base": "seaborn",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorflow-base": "tensorflow",
    "tensorflow-gpu": "tensorflow",
}
"""PyPI names of packages that have another name in conda."""

NOT_PYTHON = re.compile(
    r"r(-.*)?|_.*|lib.*|(gcc|gxx|gfortran|binutils|sysroot)(_.*)?|cuda.*|cudnn|nccl|mkl|blas|openblas|openmpi|mpich|"
    r"openssl|ca-certificates|readline|sqlite|tk|xz|zlib|bzip2|ncurses|git|nodejs|openjdk|make|swig|ffmpeg|glib|conda|"
    r"hdf5|intel-openmp|pytorch-mutex"
)
"""Conda packages that are not on PyPI."""

INSTALLERS = ("pip", "setuptools", "wheel")

AZURE = {
    "azureml-dataprep": ["pandas"],
    "azureml-dataset-runtime": ["pandas"],
    "azureml-mlflow": ["mlflow-skinny"],
    "azureml-train-automl": ["pandas", "scikit-learn"],
    "azureml-train-automl-runtime": ["pandas", "scikit-learn"],
}
"""Azure's packages, each with the dependencies that scripts use directly."""


@dataclass
class Requirements:
    """The requirements of an environment."""

    python: str | None = None
    """Python version in pip's syntax: `==3.6.2.*`, or `>=3.6,<3.9`."""
    lines: list[str] = field(default_factory=list)
    """Lines of a requirements file."""
    left_out: list[str] = field(default_factory=list)
    """Packages that are not on PyPI."""

    def add(self, line: str, azureml: bool) -> None:
        """Add a requirement; replace Azure's own packages by the dependencies that scripts use."""
        name = name_of(line)
        own = azureml and name is not None and (name == "azureml" or name.startswith("azureml-"))
        for one in AZURE.get(name or "", []) if own else [line]:
            if one not in self.lines:
                self.lines.append(one)

    @property
    def names(self) -> dict[str, str]:
        """The requirements that have a name, by name."""
        return {name: line for line in self.lines if (name := name_of(line))}


def is_conda(file: Path) -> bool:
    """Return whether a requirements file is a conda file."""
    return file.suffix in SUFFIXES


def read(file: Path, azureml: bool = False) -> Requirements:
    """Return the requirements in a conda file or a requirements file.

    Args:
        file: the file.
        azureml: leave Azure's own packages out.

    Raises:
        ConfigError: the file cannot be read, or has another content.
    """
    if not is_conda(file):
        wanted = Requirements()
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.split(" #")[0].strip() and not line.lstrip().startswith("#"):
                wanted.add(absolute(line.split(" #")[0].strip(), file.parent), azureml)
        return wanted
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"script.requirements={file} cannot be read: {error}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("dependencies"), list):
        raise ConfigError(f"script.requirements={file}: a conda file needs a list `dependencies`, which this one lacks")
    return from_dependencies(content["dependencies"], azureml, file.parent)


def from_dependencies(dependencies: Sequence[Any], azureml: bool = False, folder: Path | None = None) -> Requirements:
    """Return the requirements in the `dependencies` of a conda file.

    Args:
        dependencies: conda specifications, and mappings with the key `pip`.
        azureml: leave Azure's own packages out.
        folder: the folder for relative paths in the `pip` part.
    """
    wanted = Requirements()
    for one in dependencies:
        if isinstance(one, Mapping):
            for line in one.get("pip") or []:
                wanted.add(absolute(str(line).strip(), folder or Path.cwd()), azureml)
            continue
        name, version = parse_spec(str(one))
        if name == "python":
            wanted.python = version or wanted.python
        elif NOT_PYTHON.fullmatch(name):
            wanted.left_out.append(name)
        elif name not in INSTALLERS:
            wanted.add(f"{ON_PYPI.get(name, name)}{version}", azureml)
    return wanted


def parse_spec(text: str) -> tuple[str, str]:
    """Convert a conda specification to a name and a version in pip's syntax: `numpy=1.19` means any 1.19.

    Channel and build are dropped.
    """
    text = text.rpartition("::")[2].split("#")[0].strip()
    found = re.match(r"([A-Za-z0-9_.\-]+)\s*(?:\[[^\]]*\])?\s*(.*)", text)
    name, version = (found[1].lower(), found[2].replace(" ", "")) if found else (text.lower(), "")
    if not version or version == "*" or version == "=*":
        return name, ""
    exact = re.fullmatch(r"(==?)?([^=<>!~,|]+)(=[^=]+)?", version)
    if exact is None:
        return name, version.split("|")[0]
    number, is_prefix = exact[2], exact[1] != "=="
    if exact[3] is not None or number.endswith("*") or not is_prefix or not re.fullmatch(r"[\d.]+", number):
        return name, f"=={number}"
    return name, f"=={number.rstrip('.')}.*"


def name_of(line: str) -> str | None:
    """Return the normalized name of a requirement; None for options, paths and URLs."""
    found = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[|[=<>!~;@ ]|$)", line)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else None


def absolute(line: str, folder: Path) -> str:
    """Return a requirements line with its path, if it has one, made absolute."""
    found = re.match(r"(-r|-c|-e|-f|--requirement|--constraint|--editable|--find-links)[ =]\s*(\S+)(.*)", line)
    if found and (folder / found[2].partition("[")[0]).exists():
        return f"{found[1]} {(folder / found[2]).resolve()}{found[3]}"
    if line.startswith(("./", "../", ".")) and (folder / line.partition("[")[0]).exists():
        return str((folder / line).resolve())
    return line
