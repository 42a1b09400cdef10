"""Secrets of a script: variables of the environment."""

from __future__ import annotations

import os
from typing import Any

from labrun.compat.azureml.absent import not_here


def names_of(secret: str) -> list[str]:
    """The variables that a secret may be in: a name in a key vault may hold a `-`, which no shell can set."""
    plain = secret.replace("-", "_")
    return list(dict.fromkeys([secret, plain, plain.upper()]))


def secret_of(call: str, name: str) -> str:
    """A secret by its name.

    Args:
        call: as the script wrote it.
        name: the secret's.

    Raises:
        NotInLabrun: no such variable is set.
    """
    for variable in names_of(name):
        if variable in os.environ:
            return os.environ[variable]
    not_here(call, f"give the secret as a variable of the environment: export {names_of(name)[-1]}=...")


class Keyvault:
    """The secrets of the workspace, which labrun takes from the environment and never keeps."""

    def get_secret(self, name: str) -> str:
        """A secret.

        Raises:
            NotInLabrun: no such variable is set.
        """
        return secret_of(f"Keyvault.get_secret({name!r})", name)

    def get_secrets(self, secrets: Any) -> dict[str, str]:
        """Several secrets by name."""
        return {name: self.get_secret(name) for name in secrets}

    def set_secret(self, name: str, value: str, content_type: str | None = None) -> None:
        """Set a secret for this process and for the runs that it starts; it is written nowhere."""
        os.environ[names_of(name)[-1]] = value

    def set_secrets(self, secrets_batch: Any) -> None:
        """Set several."""
        for name, value in dict(secrets_batch).items():
            self.set_secret(name, value)

    def list_secrets(self, max_results: Any = None) -> Any:
        """Not in labrun: not every variable of the environment is a secret."""
        not_here("Keyvault.list_secrets()", "secrets are variables of the environment: os.environ['NAME']")
