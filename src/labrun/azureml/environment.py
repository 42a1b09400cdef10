"""`Environment`: the packages and variables of a script's interpreter.

`LABRUN_AZUREML_ENVIRONMENTS` decides whether runs use the current interpreter or one built from the environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun.azureml import curated, folder, installed
from labrun.azureml.accepted import ContainerRegistry
from labrun.azureml.conda_dependencies import CondaDependencies, from_pip_requirements
from labrun.azureml.docker import DockerSection
from labrun.azureml.elements import Element
from labrun.azureml.local_paths import local
from labrun.azureml.notices import notify_once
from labrun.azureml.overrides import override
from labrun.azureml.tags import ENVIRONMENT_TAG, VERSION_TAG
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import arguments
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.errors import ConfigError
from labrun.submission import conda, environments

VARIABLE = "LABRUN_AZUREML_ENVIRONMENTS"
CURRENT, BUILD = "current", "build"
TABLE = "environments"
DEFINITION = "azureml_environment.json"


def environment_mode() -> str:
    """Return `current` if runs use the current interpreter, `build` if they use a built one.

    Raises:
        UserErrorException: the environment variable has another value.
    """
    found = os.environ.get(VARIABLE) or CURRENT
    if found not in (CURRENT, BUILD):
        raise UserErrorException(f"{VARIABLE}={found}: choose {CURRENT} (the current interpreter) or {BUILD}")
    return found


class PythonSection(Element):
    """An environment's interpreter and packages.

    Args:
        **attributes: attributes to set.

    Raises:
        TypeError: there is no such attribute.
    """

    def __init__(self, **attributes: Any) -> None:
        self.user_managed_dependencies = False
        self.interpreter_path: str | None = "python"
        self.conda_dependencies_file: Any = None
        self.base_conda_environment: Any = None
        self._dependencies: CondaDependencies | None = None
        self._complete(attributes)

    @property
    def conda_dependencies(self) -> CondaDependencies:
        """The packages, created on first access."""
        if self._dependencies is None:
            self._dependencies = CondaDependencies(self.conda_dependencies_file)
        return self._dependencies

    @conda_dependencies.setter
    def conda_dependencies(self, value: CondaDependencies) -> None:
        self._dependencies = value


PythonEnvironment = PythonSection
"""The older name of `PythonSection`."""


class Environment(Element):
    """A named environment.

    Args:
        name: the environment's name.
        **attributes: attributes to set, such as `environment_variables`.

    Raises:
        TypeError: there is no such attribute.
    """

    def __init__(self, name: str | None = None, **attributes: Any) -> None:
        self.name = name
        self.version: str | None = None
        self.label: str | None = None
        self.python = PythonSection()
        self.docker = DockerSection()
        self.environment_variables: dict[str, str] = {}
        self.inferencing_stack_version: str | None = None
        self.spark: Any = None
        self.r: Any = None
        self.databricks: Any = None
        self.asset_id: str | None = None
        self._complete(attributes)

    def __repr__(self) -> str:
        return f"Environment(Name: {self.name},\nVersion: {self.version})"

    # Lookup and creation

    @staticmethod
    def get(workspace: Any, name: str, version: str | None = None, label: str | None = None) -> Environment:
        """Return a registered environment or one of Azure's curated ones.

        Raises:
            UserErrorException: no environment has this name and version, or the label is not `Latest`.
        """
        if label is not None and (version is not None or str(label).lower() != "latest"):
            raise UserErrorException(f"Environment.get: label={label!r}: give version=, or label='Latest'")
        versions = _versions(workspace, name)
        if versions:
            found = (
                versions[-1] if version is None else next((v for v in versions if v["version"] == str(version)), None)
            )
            if found is not None:
                return _from_dict(found)
        elif (made := _curated(name)) is not None:
            return made
        registered = ", ".join(folder.read_table(_folder(workspace), TABLE)) or "none"
        which = f"{name!r}" if version is None or not versions else f"{name!r} of version {version}"
        raise UserErrorException(f"Environment.get: there is no environment {which}. Registered: {registered}")

    @staticmethod
    def list(workspace: Any) -> dict[str, Environment]:
        """Return the registered environments and some of Azure's curated ones by name."""
        registered = {name: _from_dict(entry["versions"][-1]) for name, entry in _table(workspace).items()}
        return {**{name: made for name in curated.KNOWN if (made := _curated(name))}, **registered}

    @staticmethod
    def from_conda_specification(name: str, file_path: Any) -> Environment:
        """Return an environment with the packages of a conda file."""
        made = Environment(name)
        made.python.conda_dependencies = CondaDependencies(file_path)
        return made

    @staticmethod
    def from_pip_requirements(name: str, file_path: Any, pip_version: str | None = None) -> Environment:
        """Return an environment with the packages of a requirements file; pip's own version is not used."""
        made = Environment(name)
        made.python.conda_dependencies = from_pip_requirements(local(file_path))
        return made

    @staticmethod
    def from_existing_conda_environment(name: str, conda_environment_name: str) -> Environment:
        """Raise: labrun does not call conda."""
        not_here(
            "Environment.from_existing_conda_environment()",
            f"env = Environment({name!r}); env.python.user_managed_dependencies = True; "
            f"env.python.interpreter_path = '/path/to/envs/{conda_environment_name}/bin/python'",
        )

    @staticmethod
    def from_docker_image(
        name: str,
        image: str,
        container_registry: ContainerRegistry | None = None,
        conda_specification: Any = None,
        pip_requirements: Any = None,
    ) -> Environment:
        """Return an environment with the given packages; the image is not used."""
        made = _with_files(name, conda_specification, pip_requirements)
        made.docker.base_image = image
        made.docker.base_image_registry = container_registry or ContainerRegistry()
        return made

    @staticmethod
    def from_dockerfile(
        name: str, dockerfile: Any, conda_specification: Any = None, pip_requirements: Any = None
    ) -> Environment:
        """Return an environment with the given packages; the Dockerfile is not used."""
        made = _with_files(name, conda_specification, pip_requirements)
        made.docker.base_image, made.docker.base_dockerfile = None, str(dockerfile)
        return made

    @staticmethod
    def from_docker_build_context(name: str, docker_build_context: Any) -> Environment:
        """Return an environment without packages: they are in the Dockerfile, which is not used."""
        made = Environment(name)
        made.docker.base_image, made.docker.build_context = None, docker_build_context
        return made

    @staticmethod
    def load_from_directory(path: Any) -> Environment:
        """Return the environment that `save_to_directory` wrote.

        Raises:
            UserErrorException: the folder has no readable environment file.
        """
        file = Path(path) / DEFINITION
        try:
            return _from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserErrorException(f"Environment.load_from_directory: {file} cannot be read: {error}") from error

    @staticmethod
    def add_private_pip_wheel(workspace: Any, file_path: Any, exist_ok: bool = False) -> str:
        """Return the path of a local wheel, which `add_pip_package` accepts.

        Raises:
            UserErrorException: there is no such file.
        """
        if not Path(file_path).is_file():
            raise UserErrorException(f"Environment.add_private_pip_wheel: there is no file {file_path}")
        return str(Path(file_path).resolve())

    # Operations

    def clone(self, new_name: str) -> Environment:
        """Return a copy under another name, without a version."""
        return _from_dict({**self._to_dict(), "name": new_name, "version": None})

    def register(self, workspace: Any) -> Environment:
        """Store the environment under its name. If its content has changed, it becomes a new version.

        Raises:
            UserErrorException: the name is missing or is reserved for Azure.
        """
        if not self.name or self.name.lower().startswith(("azureml", "microsoft")):
            raise UserErrorException(
                f"Environment name {self.name!r} can not start with the prefix Microsoft or AzureML: "
                "register a clone, env.clone('my-name')"
            )
        content = self._to_dict()
        if self.environment_variables:
            notify_once(
                f"the environment {self.name!r} is stored with the values of {', '.join(self.environment_variables)} "
                f"in {folder.table_path(_folder(workspace), TABLE)}, which only you can read: keep secrets out of it"
            )

        def changed(entry: Mapping[str, Any]) -> Mapping[str, Any]:
            versions = list(entry.get("versions") or [])
            if not versions or {**versions[-1], "version": None} != {**content, "version": None}:
                versions.append({**content, "version": str(len(versions) + 1)})
            return {"versions": versions}

        newest = folder.change(_folder(workspace), TABLE, self.name, changed)["versions"][-1]
        self.version = newest["version"]
        return _from_dict(newest)

    def build(self, workspace: Any, image_build_compute: Any = None) -> ImageBuildDetails:
        """Build the environment and wait until it is ready; with the current interpreter, only check its packages.

        Raises:
            UserErrorException: the environment cannot be built.
        """
        if environment_mode() == BUILD and not self.python.user_managed_dependencies:
            try:
                environments.build(environments.plan(self._file(workspace), azureml=True))
            except ConfigError as error:
                raise UserErrorException(str(error)) from error
        else:
            self._check()
        return ImageBuildDetails(self)

    def build_local(
        self,
        workspace: Any,
        platform: str | None = None,
        useDocker: bool = False,  # noqa: N803 - the SDK's name
        pushImageToWorkspaceAcr: bool = False,  # noqa: N803
        **unknown: Any,
    ) -> ImageBuildDetails:
        """Build the environment like `build`, without Docker.

        Raises:
            UserErrorException: the environment cannot be built.
            TypeError: there is no such argument.
        """
        arguments.check(Environment.build_local, unknown)
        arguments.tell_unused("build_local", {"useDocker": useDocker}, "labrun runs Python without containers")
        return self.build(workspace)

    def get_image_details(self, workspace: Any) -> dict[str, Any]:
        """Return image details without an image: labrun builds none."""
        return {
            "dockerImage": {"name": None},
            "ingredients": {"condaSpecification": str(self.python.conda_dependencies)},
        }

    def save_to_directory(self, path: Any, overwrite: bool = False) -> None:
        """Write the environment to a folder, along with a conda file of its packages.

        Raises:
            UserErrorException: the folder exists and `overwrite` is False.
        """
        target = Path(path)
        if target.exists() and not overwrite:
            raise UserErrorException(f"Environment.save_to_directory: {target} exists: overwrite=True replaces it")
        target.mkdir(parents=True, exist_ok=True)
        (target / DEFINITION).write_text(json.dumps(self._to_dict(), indent=4) + "\n", encoding="utf-8")
        self.python.conda_dependencies.save(target / "conda_dependencies.yml")

    # Use by labrun

    def labrun_overrides(self, workspace: Workspace) -> list[str]:  # type: ignore[valid-type]
        """Return the environment as arguments for the `labrun` command.

        Raises:
            UserErrorException: `LABRUN_AZUREML_ENVIRONMENTS` has an unknown value.
        """
        self._notify_unused_docker()
        variables = [override(f"+compute.environment.{key}", str(v)) for key, v in self.environment_variables.items()]
        python = self.python
        if python.user_managed_dependencies:
            if python.interpreter_path in (None, "", "python", "python3"):
                return variables
            return [override("script.python", str(python.interpreter_path)), *variables]
        if environment_mode() == BUILD and self._wanted():
            return [override("script.requirements", str(self._file(workspace))), *variables]
        self._check()
        return variables

    def _wanted(self) -> conda.Requirements | None:
        """Return the required packages; None if the environment lists neither packages nor a Python version."""
        found = self.python.conda_dependencies.wanted()
        return found if found.lines or found.python else None

    def _file(self, workspace: Any) -> Path:
        """Write its conda file for `script.requirements` and return the path."""
        text = self.python.conda_dependencies.serialize_to_string()
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in str(self.name))
        target = folder.table_path(_folder(workspace), TABLE).parent / TABLE / f"{name}-{digest}.yml"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return target

    def _notify_unused_docker(self) -> None:
        wish = self.docker.wish()
        if wish is not None:
            notify_once(f"{wish} of the environment {self.name!r} is not used: labrun runs Python without containers")

    def _check(self) -> None:
        """Print once how the current interpreter differs from the environment."""
        wanted = self._wanted()
        if wanted is None:
            return
        missing, others = installed.compared(wanted)
        how = f"{VARIABLE}={BUILD} (lab azureml run --environments {BUILD}) builds it as specified"
        if missing:
            notify_once(
                f"the environment {self.name!r} lists {', '.join(missing)}, missing from {sys.executable}. "
                f"If the script needs that: uv pip install {' '.join(missing)}; or {how}"
            )
        if others:
            notify_once(f"the environment {self.name!r} runs with the current interpreter: {', '.join(others)}; {how}")

    def _to_dict(self) -> dict[str, Any]:
        python, docker = self.python, self.docker
        return {
            "name": self.name,
            "version": self.version,
            "environmentVariables": dict(self.environment_variables),
            "python": {
                "userManagedDependencies": python.user_managed_dependencies,
                "interpreterPath": python.interpreter_path,
                "condaDependencies": python.conda_dependencies.as_dict(),
            },
            "docker": {
                "enabled": docker.enabled,
                "baseImage": docker.base_image,
                "baseDockerfile": docker.base_dockerfile,
            },
            "inferencingStackVersion": self.inferencing_stack_version,
        }


EnvironmentDefinition = Environment
"""The SDK's name for it in 2018."""


class ImageBuildDetails:
    """The result of `build`, which has already finished."""

    def __init__(self, environment: Environment) -> None:
        self.environment, self.status, self.log = environment, "Succeeded", ""

    def wait_for_completion(self, show_output: bool = True) -> None:
        """Return at once: the environment is ready."""
        if show_output:
            python = "built" if environment_mode() == BUILD else f"the current interpreter, {sys.executable}"
            print(f"Environment {self.environment.name}: {python}")


def _curated(name: str) -> Environment | None:
    found = curated.dependencies(name)
    if found is None:
        return None
    made = Environment(name)
    made.version = "1"
    made.python.conda_dependencies = CondaDependencies.create(
        pip_packages=["azureml-defaults", *found[0]], python_version=found[1]
    )
    return made


def _with_files(name: str, conda_specification: Any, pip_requirements: Any) -> Environment:
    """Return an environment with the packages of a file, if one is given.

    Raises:
        UserErrorException: both files are given.
    """
    if conda_specification is not None and pip_requirements is not None:
        raise UserErrorException(
            f"the environment {name!r}: give either conda_specification={str(conda_specification)!r} or "
            f"pip_requirements={str(pip_requirements)!r}, not both"
        )
    if conda_specification is not None:
        return Environment.from_conda_specification(name, conda_specification)
    if pip_requirements is not None:
        return Environment.from_pip_requirements(name, pip_requirements)
    return Environment(name)


def of_run(workspace: Any, properties: Mapping[str, str]) -> Environment:
    """Return the environment that a run's record names: the registered one, or else one with only the name.

    Args:
        workspace: the run's workspace.
        properties: the record's properties.
    """
    name, version = properties.get(ENVIRONMENT_TAG) or "labrun", properties.get(VERSION_TAG)
    if version or not _versions(workspace, name):
        with contextlib.suppress(UserErrorException):
            return Environment.get(workspace, name, version)
    made = Environment(name)
    made.version = version
    return made


def _from_dict(content: Mapping[str, Any]) -> Environment:
    made = Environment(content["name"])
    made.version = content.get("version")
    made.environment_variables = dict(content.get("environmentVariables") or {})
    python, docker = content.get("python") or {}, content.get("docker") or {}
    made.python.user_managed_dependencies = bool(python.get("userManagedDependencies"))
    made.python.interpreter_path = python.get("interpreterPath") or "python"
    made.python.conda_dependencies = CondaDependencies(_underlying_structure=python.get("condaDependencies"))
    made.docker.enabled = bool(docker.get("enabled"))
    made.docker.base_image, made.docker.base_dockerfile = docker.get("baseImage"), docker.get("baseDockerfile")
    made.inferencing_stack_version = content.get("inferencingStackVersion")
    return made


def _folder(workspace: Any) -> Path:
    found: Path = workspace.folder if isinstance(workspace, Workspace) else Workspace().folder
    return found


def _table(workspace: Any) -> dict[str, Any]:
    return folder.read_table(_folder(workspace), TABLE)


def _versions(workspace: Any, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (_table(workspace).get(name) or {}).get("versions") or []
    return found
