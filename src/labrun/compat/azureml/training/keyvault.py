"""Secrets of a script, taken from environment variables."""

from __future__ import annotations

import os
import re
from typing import Any

from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException

_names: dict[str, str] = {}
"""The names of the secrets that this process has set, by variable."""


def own_name(secret: str) -> str:
    """Return the variable that labrun sets for a secret."""
    return str(secret).replace("-", "_").upper()


def names_of(secret: str) -> list[str]:
    """Return the variables that may hold a secret; the last is the one that labrun sets.

    Names in a key vault are case-insensitive and may contain a `-`, which shells do not allow in variables.
    """
    plain = secret.replace("-", "_")
    others = sorted(name for name in os.environ if name.replace("-", "_").upper() == plain.upper())
    return list(dict.fromkeys([secret, plain, *others, own_name(secret)]))


def secret_of(call: str, name: str) -> str:
    """Return a secret by name.

    Args:
        call: the call, as the script wrote it.
        name: the secret's name.

    Raises:
        UserErrorException: several variables match only case-insensitively, and their values differ.
        NotInLabrun: no such variable is set.
    """
    found = [variable for variable in names_of(name) if variable in os.environ]
    if not found:
        not_here(call, f"pass the secret as an environment variable: export {names_of(name)[-1]}=...")
    if found[0] not in (name, name.replace("-", "_")) and len({os.environ[one] for one in found}) > 1:
        message = "{}: secret names are case-insensitive, but the variables {} differ: keep one of them"
        raise UserErrorException(message.format(call, ", ".join(found)))
    return os.environ[found[0]]


class Keyvault:
    """The workspace's secrets, which labrun reads from environment variables and never stores.

    Args:
        workspace: not used: there is only one workspace.
    """

    def __init__(self, workspace: Any = None) -> None:
        pass

    def get_secret(self, name: str) -> str:
        """Return a secret.

        Raises:
            UserErrorException: the name is ambiguous.
            NotInLabrun: no such variable is set.
        """
        return secret_of(f"Keyvault.get_secret({name!r})", name)

    def get_secrets(self, secrets: Any) -> dict[str, str]:
        """Return several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def set_secret(self, name: str, value: str, content_type: str | None = None) -> None:
        """Set a secret for this process and the runs that it starts, without writing it to disk.

        Raises:
            UserErrorException: the name or the value is invalid.
        """
        if not re.match(r"[0-9A-Za-z_-]{1,127}\Z", str(name)):
            raise UserErrorException(
                f"Keyvault.set_secret({name!r}, ...): the name must have 1 to 127 letters, digits and '-'"
            )
        if not isinstance(value, str) or "\0" in value:
            given = "contains a null character" if isinstance(value, str) else f"is a {type(value).__name__}"
            raise UserErrorException(
                f"Keyvault.set_secret({name!r}, ...): the value {given}; it must be a string without null characters"
            )
        _names[own_name(name)] = str(name)
        *others, own = names_of(name)
        for variable in others:
            if variable in os.environ:  # the same secret under another spelling
                os.environ[variable] = value
        os.environ[own] = value

    def delete_secret(self, name: str) -> None:
        """Remove a secret from this process's environment."""
        _names.pop(own_name(name), None)
        for variable in names_of(name):
            os.environ.pop(variable, None)

    def delete_secrets(self, secrets: Any) -> None:
        """Remove several secrets."""
        for name in secrets:
            self.delete_secret(name)

    def set_secrets(self, secrets_batch: Any) -> None:
        """Set several secrets."""
        for name, value in dict(secrets_batch).items():
            self.set_secret(name, value)

    def list_secrets(self, max_results: Any = None) -> Any:
        """Return the names of the secrets that this process has set; other variables may not be secrets."""
        return [{"name": name} for name in list(_names.values())[:max_results]]
