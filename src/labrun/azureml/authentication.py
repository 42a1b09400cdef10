"""Ways to sign in, and what the SDK reported of its use: accepted, and without effect."""

from __future__ import annotations

from typing import Any


class Authentication:
    """Nobody is signed in: a workspace is a folder, and access to it is the file system's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.tenant_id = kwargs.get("tenant_id")

    def get_authentication_header(self) -> dict[str, str]:
        """Empty: there is no service that would ask for it."""
        return {}

    def get_token(self, *args: Any, **kwargs: Any) -> None:
        """None: there is no token."""


AbstractAuthentication = Authentication
"""The class that all of them are of."""


class ArmTokenAuthentication(Authentication):
    """Accepted, without effect."""


class AzureMLTokenAuthentication(Authentication):
    """Accepted, without effect."""


class AzureCliAuthentication(Authentication):
    """Accepted, without effect."""


class InteractiveLoginAuthentication(Authentication):
    """Accepted, without effect."""


class MsiAuthentication(Authentication):
    """Accepted, without effect."""


class ServicePrincipalAuthentication(Authentication):
    """Accepted, without effect; the password is not kept."""


class TokenAuthentication(Authentication):
    """Accepted, without effect."""


def set_diagnostics_collection(send_diagnostics: bool = True, verbosity: Any = None) -> None:
    """Accepted, without effect: labrun reports to nobody."""
