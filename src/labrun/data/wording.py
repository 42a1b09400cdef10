"""Shared wording of messages about data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

FILLED = "Fill them, leave the columns out, or choose a model that fills them: model=pipeline model.preprocess=true"
QUANTITY = "For regression, use dataset.regression=true model=pipeline"


def option(key: str, names: Sequence[str]) -> str:
    """Return the command-line override that sets a `dataset` key to a list of columns."""
    words = [name if re.fullmatch(r"[A-Za-z_][\w ]*", name, re.ASCII) else f'"{name}"' for name in names]
    text = f"dataset.{key}=[{','.join(words)}]"
    return text if re.fullmatch(r"[\w.=,[\]]*", text) else f"'{text}'"


def few(values: Any, count: int = 5) -> str:
    """Return the first values of a list, and the total if there are more."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:count]) + (f", ... ({len(listed)} in all)" if len(listed) > count else "")
