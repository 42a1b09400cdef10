"""The calls that differ between Hydra 1.3 with OmegaConf 2.3, and Hydra 1.4 with OmegaConf 2.4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def is_1_3() -> bool:
    """Return whether this is Hydra 1.3."""
    import hydra

    return hydra.__version__.startswith("1.3.")


def current_defaults() -> dict[str, Any]:
    """Return the arguments with which Hydra uses its current defaults. Hydra 1.4 always does, and deprecates them."""
    return {"version_base": "1.3"} if is_1_3() else {}


def register_resolver(name: str, resolver: Callable[..., Any], *, use_cache: bool = False) -> None:
    """Register a resolver with OmegaConf, in place of an earlier one of this name."""
    import omegaconf
    from omegaconf import OmegaConf

    # OmegaConf 2.3 has a `register_resolver` too, an older one; 2.4 deprecates `register_new_resolver`.
    is_old = omegaconf.__version__.startswith("2.3.")
    register: Any = OmegaConf.register_new_resolver if is_old else OmegaConf.register_resolver
    register(name, resolver, use_cache=use_cache, replace=True)
