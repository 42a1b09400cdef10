"""Secrets of a script: variables of the environment."""

from __future__ import annotations

import os
import re
from typing import Any

from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException

_names: dict[str, str] = {}
"""The secrets that this process has set, by their variables."""


def own_name(secret: str) -> str:
    """The variable that labrun sets for a secret."""
    return str(secret).replace("-", "_").upper()


def names_of(secret: str) -> list[str]:
    """The variables that a secret may be in: a name in a key vault may hold a `-`, which no shell can set.

    Names of a key vault have no case. The last is the one that labrun sets itself.
    """
    plain = secret.replace("-", "_")
    others = sorted(name for name in os.environ if name.replace("-", "_").upper() == plain.upper())
    return list(dict.fromkeys([secret, plain, *others, own_name(secret)]))


def secret_of(call: str, name: str) -> str:
    """A secret by its name.

    Args:
        call: as the script wrote it.
        name: the secret's.

    Raises:
        UserErrorException: several variables differ by their case alone, and none has the very name.
        NotInLabrun: no such variable is set.
    """
    found = [variable for variable in names_of(name) if variable in os.environ]
    if not found:
        not_here(call, f"give the secret as a variable of the environment: export {names_of(name)[-1]}=...")
    if found[0] not in (name, name.replace("-", "_")) and len({os.environ[one] for one in found}) > 1:
        message = "{}: names of secrets have no case, and the variables {} differ: keep one of them"
        raise UserErrorException(message.format(call, ", ".join(found)))
    return os.environ[found[0]]


class Keyvault:
    """The secrets of the workspace, which labrun takes from the environment and never keeps."""

    def get_secret(self, name: str) -> str:
        """A secret.

        Raises:
            UserErrorException: several variables may be meant.
            NotInLabrun: no such variable is set.
        """
        return secret_of(f"Keyvault.get_secret({name!r})", name)

    def get_secrets(self, secrets: Any) -> dict[str, str]:
        """Several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def set_secret(self, name: str, value: str, content_type: str | None = None) -> None:
        """Set a secret for this process and for the runs that it starts; it is written nowhere.

        Raises:
            UserErrorException: name or value cannot be a secret's.
        """
        if not re.match(r"[0-9A-Za-z_-]{1,127}\Z", str(name)) or not isinstance(value, str) or "\0" in value:
            raise UserErrorException(
                f"Keyvault.set_secret({name!r}, ...): a name has 1 to 127 letters, digits and '-', and the value is a "
                f"text; it was given a {type(value).__name__}"
            )
        _names[own_name(name)] = str(name)
        *others, own = names_of(name)
        for variable in others:
            if variable in os.environ:  # the same secret under another spelling
                os.environ[variable] = value
        os.environ[own] = value

    def delete_secret(self, name: str) -> None:
        """Take a secret out of this process's environment."""
        _names.pop(own_name(name), None)
        for variable in names_of(name):
            os.environ.pop(variable, None)

    def delete_secrets(self, secrets: Any) -> None:
        """Take several away."""
        for name in secrets:
            self.delete_secret(name)

    def set_secrets(self, secrets_batch: Any) -> None:
        """Set several."""
        for name, value in dict(secrets_batch).items():
            self.set_secret(name, value)

    def list_secrets(self, max_results: Any = None) -> Any:
        """The names of those that this process has set; not every variable of the environment is a secret."""
        return [{"name": name} for name in list(_names.values())[:max_results]]
