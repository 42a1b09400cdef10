"""Conda's environment files, as far as PyPI has what they name: the `pip` part, and packages of conda's by their names.

What is not a package of PyPI (compilers, CUDA, R) is left out, and reported. For scripts of Azure, its own packages are
left out as well: labrun supplies azureml.
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
"""Conda's name of a package, and PyPI's where it is another one."""

NOT_PYTHON = re.compile(
    r"r(-.*)?|_.*|lib.*|(gcc|gxx|gfortran|binutils|sysroot)(_.*)?|cuda.*|cudnn|nccl|mkl|blas|openblas|openmpi|mpich|"
    r"openssl|ca-certificates|readline|sqlite|tk|xz|zlib|bzip2|ncurses|git|nodejs|openjdk|make|swig|ffmpeg|glib|conda|"
    r"hdf5|intel-openmp|pytorch-mutex"
)
"""Conda's packages that are not package of PyPI."""

INSTALLERS = ("pip", "setuptools", "wheel")

AZURE = {
    "azureml-dataprep": ["pandas"],
    "azureml-dataset-runtime": ["pandas"],
    "azureml-mlflow": ["mlflow-skinny"],
    "azureml-train-automl": ["pandas", "scikit-learn"],
    "azureml-train-automl-runtime": ["pandas", "scikit-learn"],
}
"""Packages of Azure's, and what scripts use of that which came with them."""


@dataclass
class Wanted:
    """What an environment is to hold."""

    python: str | None = None
    """Which Python, as pip has it: `==3.6.2.*`, or `>=3.6,<3.9`."""
    lines: list[str] = field(default_factory=list)
    """As in a requirements file."""
    left_out: list[str] = field(default_factory=list)
    """What PyPI does not have."""

    def add(self, line: str, azureml: bool) -> None:
        """Add a requirement; Azure's own packages as what scripts use of them."""
        name = name_of(line)
        own = azureml and name is not None and (name == "azureml" or name.startswith("azureml-"))
        for one in AZURE.get(name or "", []) if own else [line]:
            if one not in self.lines:
                self.lines.append(one)

    @property
    def names(self) -> dict[str, str]:
        """Each requirement that has a name, by that."""
        return {name: line for line in self.lines if (name := name_of(line))}


def is_conda(file: Path) -> bool:
    """Whether a file of requirements is one of conda's."""
    return file.suffix in SUFFIXES


def read(file: Path, azureml: bool = False) -> Wanted:
    """What a conda file, or a requirements file, asks for.

    Args:
        file: the file.
        azureml: leave Azure's own packages out.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    if not is_conda(file):
        wanted = Wanted()
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
        raise ConfigError(
            f"script.requirements={file}: a conda file has a list under `dependencies`, and this has none"
        )
    return of(content["dependencies"], azureml, file.parent)


def of(dependencies: Sequence[Any], azureml: bool = False, folder: Path | None = None) -> Wanted:
    """What a conda file's `dependencies` ask for.

    Args:
        dependencies: specifications of conda's, and mappings with the key `pip`.
        azureml: leave Azure's own packages out.
        folder: what paths in the `pip` part are relative to.
    """
    wanted = Wanted()
    for one in dependencies:
        if isinstance(one, Mapping):
            for line in one.get("pip") or []:
                wanted.add(absolute(str(line).strip(), folder or Path.cwd()), azureml)
            continue
        name, version = split(str(one))
        if name == "python":
            wanted.python = version or wanted.python
        elif NOT_PYTHON.fullmatch(name):
            wanted.left_out.append(name)
        elif name not in INSTALLERS:
            wanted.add(f"{ON_PYPI.get(name, name)}{version}", azureml)
    return wanted


def split(text: str) -> tuple[str, str]:
    """A specification of conda's as a name and, as pip has it, a version: `numpy=1.19` is any 1.19.

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
    """The name that a requirement begins with, as PyPI compares it; None for options, paths and addresses."""
    found = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[|[=<>!~;@ ]|$)", line)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else None


def absolute(line: str, folder: Path) -> str:
    """A line of requirements whose path, if it has one, does not depend on where it stands."""
    found = re.match(r"(-r|-c|-e|-f|--requirement|--constraint|--editable|--find-links)[ =]\s*(\S+)(.*)", line)
    if found and (folder / found[2].partition("[")[0]).exists():
        return f"{found[1]} {(folder / found[2]).resolve()}{found[3]}"
    if line.startswith(("./", "../", ".")) and (folder / line.partition("[")[0]).exists():
        return str((folder / line).resolve())
    return line
