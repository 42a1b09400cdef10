"""The calls that differ between Hydra 1.3 with OmegaConf 2.3, and Hydra 1.4 with OmegaConf 2.4; and those that Python
3.14 refuses in Hydra 1.3."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
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


class _Parser(argparse.ArgumentParser):
    """Takes each help as it is. Python 3.14 refuses one that is not text; Hydra 1.3 has such a help for completion."""

    def add_argument(self, *names: Any, help: Any = None, **options: Any) -> argparse.Action:
        action = super().add_argument(*names, **options)
        action.help = help
        return action


@contextlib.contextmanager
def any_help() -> Iterator[None]:
    """In the context, Hydra makes its parsers of command lines on every version of Python."""
    from hydra._internal import utils  # nothing public makes these parsers

    module: Any = utils
    before = module.argparse
    module.argparse = SimpleNamespace(ArgumentParser=_Parser)
    try:
        yield
    finally:
        module.argparse = before


def flags_parser() -> argparse.ArgumentParser:
    """Return Hydra's parser of command lines."""
    from hydra._internal.utils import get_args_parser

    with any_help():
        return get_args_parser()
