"""Settings of the SDK that have no effect in labrun. They keep their values, so that scripts can read them back."""

from __future__ import annotations

from typing import Any


class Setting:
    """Base class of settings that are accepted without effect.

    Args:
        *args: not kept.
        **kwargs: kept as attributes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        vars(self).update(kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in vars(self).items())})"


class AmlComputeConfiguration(Setting):
    """Accepted, without effect."""


class ContainerRegistry(Setting):
    """Accepted, without effect: labrun has no containers; a password is not kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.address = self.username = self.password = None
        super().__init__(**{key: value for key, value in kwargs.items() if key != "password"})


class HdiConfiguration(Setting):
    """Accepted, without effect."""


class HistoryConfiguration(Setting):
    """Accepted, without effect: everything is recorded."""


class KubernetesComputeConfiguration(Setting):
    """Accepted, without effect."""


class ResourceConfiguration(Setting):
    """Accepted, without effect: labrun does not serve models."""

    def __init__(self, cpu: Any = None, memory_in_gb: Any = None, gpu: Any = None) -> None:
        super().__init__(cpu=cpu, memory_in_gb=memory_in_gb, gpu=gpu)

    def serialize(self) -> dict[str, Any]:
        """Return the given values as a dictionary."""
        return {"cpu": vars(self)["cpu"], "memoryInGB": vars(self)["memory_in_gb"], "gpu": vars(self)["gpu"]}


class SparkConfiguration(Setting):
    """Accepted, without effect."""
