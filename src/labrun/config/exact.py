"""Lossless conversion of config values to JSON and back.

JSON keys are always text, and JSON has no NaN or infinities. A value that JSON cannot represent is written as an object
with a single key that begins with `!`, and is restored on reading:

```
{"!float": "nan"}                    nan, inf, -inf
{"!map": [[0, 1.0], [1, 5.0]]}       a mapping with keys that are not text, as pairs in their order
{"!bytes": "aGk="}                   bytes, in base64
{"!path": "/data"}                   a pathlib.Path
```

All other values are written as plain JSON, so other tools can read them without knowing this format. A mapping that
would look like one of these objects is written as pairs.

Text follows OmegaConf's syntax: `${...}` is an interpolation; a literal one is escaped with a backslash (`escaped`).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MARK = "!"
FLOAT, MAP, BYTES, PATH = "!float", "!map", "!bytes", "!path"
INTERPOLATION = re.compile(r"(\\*)\$\{")
LIVE = re.compile(r"(\\*)\$\{(?=(?:oc\.env|oc\.decode|mount):)")
"""References that records of every format keep unresolved; see `escaped_before`."""


def encoded(value: Any) -> Any:
    """Convert a value for JSON. A value of an unsupported type is returned unchanged (see `unfit`)."""
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value) and not _looks_tagged(value):
            return {key: encoded(item) for key, item in value.items()}
        return {MAP: [[encoded(key), encoded(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: repr(float(value))}
    if isinstance(value, bytes):
        return {BYTES: base64.b64encode(value).decode()}
    if isinstance(value, Path):
        return {PATH: str(value)}
    return value


def decoded(value: Any) -> Any:
    """Return the value that `encoded` was given.

    Raises:
        ValueError: a tag is unknown, or its content is invalid.
    """
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not _looks_tagged(value):
        return {key: decoded(item) for key, item in value.items()}
    ((tag, content),) = value.items()
    try:
        if tag == MAP:
            return {decoded(key): decoded(item) for key, item in content}
        if tag == FLOAT:
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
        if tag == BYTES:
            return base64.b64decode(content, validate=True)
        if tag == PATH:
            return Path(content)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{tag} holds {content!r:.60}") from error
    raise ValueError(f"there is no {tag}")


def may_be_tagged(text: bytes) -> bool:
    """Whether JSON text may contain a tag. Most texts do not, and need no `decoded`."""
    return b'"!' in text or b"\\u0021" in text


def _looks_tagged(value: Mapping[Any, Any]) -> bool:
    return len(value) == 1 and str(next(iter(value))).startswith(MARK)


def canonical(value: Any) -> str:
    """Return a value as text, for digests and dictionary keys: equal values give equal texts."""
    return json.dumps(encoded(value), sort_keys=True, default=str)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, with NaN equal to NaN."""
    return bool(one == other) or canonical(one) == canonical(other)


def escaped(value: Any) -> Any:
    """Escape interpolations in texts, so that OmegaConf returns them literally: `${x}` becomes `\\${x}`."""
    return _texts(value, lambda text: INTERPOLATION.sub(r"\1\1\\${", text))


def shown(text: str) -> str:
    """Return a record's text for display: escaped interpolations unescaped, references unchanged."""
    return INTERPOLATION.sub(
        lambda match: f"{match[1][: len(match[1]) // 2]}${{" if len(match[1]) % 2 else match[0], text
    )


def escaped_before(value: Any) -> Any:
    """Escape the values of a record older than format 2, in which only the references in `LIVE` were interpolations."""
    return _texts(value, _escaped_but_references)


def _escaped_but_references(text: str) -> str:
    kept = {match.end() for match in LIVE.finditer(text)}
    return INTERPOLATION.sub(lambda match: match[0] if match.end() in kept else f"{match[1] * 2}\\${{", text)


def _texts(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value) if "${" in value else value
    if isinstance(value, Mapping):
        return {key: _texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item, change) for item in value]
    return value


def unfit(value: Any, path: str) -> Iterator[str]:
    """Yield a description of each value that a record cannot hold, with its path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from unfit(key, f"{path} (a key)")
            yield from unfit(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from unfit(item, f"{path}[{place}]")
    elif isinstance(value, str):
        if not _is_unicode(value):
            yield f"{path}={value!r}: text that is not Unicode"
    elif type(value) not in (bool, int, float, bytes, type(None)) and not isinstance(value, Path):
        yield f"{path}={value!r:.60}: a {type(value).__name__}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
