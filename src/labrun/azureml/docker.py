"""Docker settings, which are kept but not used: labrun runs scripts in Python environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labrun.azureml.accepted import ContainerRegistry
from labrun.azureml.elements import Element

DEFAULT_CPU_IMAGE = "azureml/openmpi4.1.0-ubuntu20.04"
DEFAULT_GPU_IMAGE = "azureml/openmpi4.1.0-cuda11.1-cudnn8-ubuntu20.04"


class DockerSection(Element):
    """The Docker settings of an environment.

    Args:
        **attributes: attributes to set.

    Raises:
        TypeError: there is no such attribute.
    """

    def __init__(self, **attributes: Any) -> None:
        self.enabled = False
        self.base_image: str | None = DEFAULT_CPU_IMAGE
        self.base_dockerfile: str | None = None
        self.base_image_registry = ContainerRegistry()
        self.platform: Any = None
        self.gpu_support = False
        self.shared_volumes = True
        self.arguments: list[str] = []
        self.shm_size: str | None = None
        self.build_context: Any = None
        self._complete(attributes)

    def wish(self) -> str | None:
        """Return a description of the requested container; None if none is requested."""
        if self.base_dockerfile or self.build_context:
            return "a Dockerfile"
        if self.base_image and self.base_image != DEFAULT_CPU_IMAGE and self.base_image != DEFAULT_GPU_IMAGE:
            return f"the image {self.base_image}"
        return "docker" if self.enabled else None


DockerEnvironment = DockerSection
"""The older name of `DockerSection`."""


class DockerConfiguration(Element):
    """The Docker settings of a run."""

    def __init__(
        self,
        use_docker: bool = False,
        shared_volumes: bool = True,
        arguments: Sequence[str] | None = None,
        shm_size: str | None = None,
    ) -> None:
        self.use_docker, self.shared_volumes = use_docker, shared_volumes
        self.arguments, self.shm_size = list(arguments or []), shm_size
        self._complete()
