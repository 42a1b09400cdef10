"""`CondaDependencies`: the packages of an environment, structured like a conda file."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from labrun.azureml.local_paths import local
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.submission import conda

START = {"name": "project_environment", "dependencies": [{"pip": ["azureml-defaults"]}], "channels": ["conda-forge"]}
FILE = "conda_dependencies.yml"


class CondaDependencies:
    """An editable list of packages.

    Args:
        conda_dependencies_file_path: the conda file to start from.
        _underlying_structure: the content to start from.

    Raises:
        UserErrorException: the file cannot be read or is not a conda file.
    """

    DEFAULT_NUMBER_OF_CONDA_PACKAGES = 0
    DEFAULT_NUMBER_OF_PIP_PACKAGES = 1

    def __init__(self, conda_dependencies_file_path: Any = None, _underlying_structure: Any = None) -> None:
        self._content: dict[str, Any] = copy.deepcopy(_underlying_structure or START)
        if conda_dependencies_file_path is not None:
            self._content = read(local(conda_dependencies_file_path))

    @classmethod
    def create(
        cls,
        pip_indexurl: str | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_packages: Iterable[str] | None = None,
        python_version: str | None = None,
        pin_sdk_version: bool = True,
    ) -> CondaDependencies:
        """Return dependencies made of package names.

        Args:
            pip_indexurl: the package index for pip.
            pip_packages: pip packages; None: `azureml-defaults`, which labrun provides.
            conda_packages: packages by their conda names.
            python_version: None: any version.
            pin_sdk_version: not used: labrun replaces the SDK's packages.
        """
        made = cls()
        if pip_packages is not None:
            made._pip.clear()
        for one in _texts(pip_packages):
            made.add_pip_package(one)
        for one in _texts(conda_packages):
            made.add_conda_package(one)
        if python_version:
            made.set_python_version(python_version)
        if pip_indexurl:
            made.set_pip_index_url(pip_indexurl)
        return made

    def __repr__(self) -> str:
        return self.serialize_to_string()

    @property
    def _conda(self) -> list[Any]:
        found: list[Any] = self._content.setdefault("dependencies", [])
        return found

    @property
    def _pip(self) -> list[str]:
        """The `pip` list, editable in place."""
        for one in self._conda:
            if isinstance(one, dict) and "pip" in one:
                one["pip"] = one["pip"] if isinstance(one["pip"], list) else []
                found: list[str] = one["pip"]
                return found
        self._conda.append({"pip": []})
        made: list[str] = self._conda[-1]["pip"]
        return made

    @property
    def conda_channels(self) -> Iterator[str]:
        return iter(list(self._content.get("channels") or []))

    @property
    def conda_packages(self) -> Iterator[str]:
        return iter([one for one in self._conda if isinstance(one, str)])

    @property
    def pip_packages(self) -> Iterator[str]:
        return iter([one for one in self._pip if not one.startswith("-")])

    @property
    def pip_options(self) -> Iterator[str]:
        return iter([one for one in self._pip if one.startswith("-")])

    @property
    def python_version(self) -> str | None:
        return self.get_python_version()

    def get_python_version(self) -> str | None:
        """Return the Python version; None means any."""
        found = [version for name, version in map(conda.parse_spec, self.conda_packages) if name == "python"]
        return found[0].lstrip("=").removesuffix(".*") or None if found else None

    def set_python_version(self, version: str) -> None:
        """Set the Python version, such as `3.6.2`."""
        self.remove_conda_package("python")
        self._conda.insert(0, f"python={version}")

    def add_conda_package(self, conda_package: str) -> None:
        """Add a conda package, replacing an earlier one of the same name."""
        self.remove_conda_package(conda_package)
        index = next((index for index, one in enumerate(self._conda) if isinstance(one, dict)), len(self._conda))
        self._conda.insert(index, str(conda_package))

    def remove_conda_package(self, conda_package: str) -> None:
        """Remove a conda package by name."""
        name = conda.parse_spec(conda_package)[0]
        self._conda[:] = [one for one in self._conda if not isinstance(one, str) or conda.parse_spec(one)[0] != name]

    def add_pip_package(self, pip_package: str) -> None:
        """Add a pip package, replacing an earlier one of the same name."""
        self.remove_pip_package(pip_package)
        self._pip.append(str(pip_package))

    def remove_pip_package(self, pip_package: str) -> None:
        """Remove a pip package by name."""
        name = conda.name_of(str(pip_package)) or str(pip_package)
        self._pip[:] = [one for one in self._pip if (conda.name_of(one) or one) != name]

    def add_channel(self, channel: str) -> None:
        """Add a channel. It is kept in the file but not used: packages come from PyPI."""
        channels = self._content.setdefault("channels", [])
        if channel not in channels:
            channels.append(channel)

    def remove_channel(self, channel: str) -> None:
        """Remove a channel."""
        self._content["channels"] = [one for one in self.conda_channels if one != channel]

    def set_pip_index_url(self, index_url: str) -> None:
        """Set the package index for pip."""
        self.set_pip_option(f"--index-url {index_url}")

    def set_pip_option(self, pip_option: str) -> None:
        """Set a pip option, replacing an earlier one of the same name."""
        name = pip_option.replace("=", " ").split()[0]
        self._pip[:] = [one for one in self._pip if one.replace("=", " ").split()[:1] != [name]]
        self._pip.insert(0, pip_option)

    def set_pip_requirements(self, pip_requirements: Sequence[str]) -> None:
        """Replace the whole `pip` list."""
        self._pip[:] = _texts(pip_requirements)

    def add_tensorflow_conda_package(self, core_type: str = "cpu", version: str | None = None) -> None:
        """Add TensorFlow as a conda package; the same one serves CPUs and GPUs."""
        _check_core_type(core_type)
        self.add_conda_package("tensorflow" + (f"={version}" if version else ""))

    def add_tensorflow_pip_package(self, core_type: str = "cpu", version: str | None = None) -> None:
        """Add TensorFlow as a pip package; the same one serves CPUs and GPUs."""
        _check_core_type(core_type)
        self.add_pip_package("tensorflow" + (f"=={version}" if version else ""))

    def as_dict(self) -> dict[str, Any]:
        """Return the content as a dictionary."""
        return copy.deepcopy(self._content)

    def serialize_to_string(self) -> str:
        """Return the content as YAML."""
        return yaml.safe_dump(self._content, sort_keys=False)

    def save(self, path: Any = None) -> str:
        """Write a conda file and return its path."""
        target = Path(path or FILE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.serialize_to_string(), encoding="utf-8")
        return str(target)

    def save_to_file(self, base_directory: Any, conda_file_path: Any = None) -> str:
        """Write a conda file into a folder and return its path relative to that folder."""
        self.save(Path(base_directory) / (conda_file_path or FILE))
        return str(conda_file_path or FILE)

    def wanted(self) -> conda.Requirements:
        """Return the requirements of an environment with these packages."""
        return conda.from_dependencies(self._conda, azureml=True)


def read(file: Path) -> dict[str, Any]:
    """Return the content of a conda file.

    Raises:
        UserErrorException: the file cannot be read or is not a conda file.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserErrorException(f"the conda file {file} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise UserErrorException(f"{file} is not a conda file: write keys, such as `dependencies: [python=3.11]`")
    if not isinstance(content.get("dependencies", []), list):
        raise UserErrorException(f"{file} is not a conda file: its `dependencies` is not a list")
    return dict(content)


def from_pip_requirements(file: Path) -> CondaDependencies:
    """Return the packages of a requirements file.

    Raises:
        UserErrorException: the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserErrorException(f"the requirements file {file} cannot be read: {error}") from error
    made = CondaDependencies()
    texts = [line.split(" #")[0].strip() for line in lines if not line.lstrip().startswith("#")]
    made.set_pip_requirements([conda.absolute(text, file.parent) for text in texts if text])
    return made


def _check_core_type(core_type: str) -> None:
    if str(core_type).lower() not in ("cpu", "gpu"):
        raise UserErrorException(f"core_type={core_type!r} must be cpu or gpu")


def _texts(values: Iterable[Any] | None) -> list[str]:
    return [str(values)] if isinstance(values, str) else [str(one) for one in values or []]
