"""Files to exclude from copies of code: `.labignore`, and `.amlignore` in a script's folder; both as `.gitignore`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labrun.errors import ConfigError

LABIGNORE, AMLIGNORE = ".labignore", ".amlignore"


def of(folder: Path, name: str) -> Callable[[Path], bool]:
    """Return a function that tells whether an ignore file excludes a path relative to its folder.

    Args:
        folder: the folder of the ignore file.
        name: `LABIGNORE` or `AMLIGNORE`; a missing file excludes nothing.

    Raises:
        ConfigError: the file cannot be read, or a pattern is invalid.
    """
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return lambda path: False
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder / name} cannot be read: {error}") from error
    from pathspec import GitIgnoreSpec

    try:
        rules = GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise ConfigError(f"{folder / name}: {error}") from error
    return lambda path: rules.match_file(path.as_posix())
