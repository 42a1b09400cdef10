"""Base class of settings objects, which refuse attributes that they do not have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from labrun.compat.azureml import arguments


class Element:
    """A settings object whose attributes are set in its constructor. As in the SDK, a misspelled one is refused later.

    The constructor ends with `_complete()`.
    """

    _is_complete = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises:
            AttributeError: there is no such attribute; the message names the nearest one.
        """
        if self._is_complete and not self._has(name):
            names = [one for one in dir(self) if not one.startswith("_")]
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            advice = f" Did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.{advice}")
        super().__setattr__(name, value)

    def _complete(self, given: Mapping[str, Any] | None = None) -> None:
        """Refuse new attributes from now on, and set some that the constructor was given.

        Raises:
            TypeError: there is no such attribute.
        """
        self._is_complete = True
        for name, value in (given or {}).items():
            if not self._has(name):
                arguments.refuse(type(self).__name__, name, vars(self))
            setattr(self, name, value)

    def _has(self, name: str) -> bool:
        return name.startswith("_") or name in vars(self) or hasattr(type(self), name)
