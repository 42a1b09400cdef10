"""The SDK's authentication classes and its usage reporting, accepted without effect."""

from __future__ import annotations

from typing import Any


class Authentication:
    """Base class of the authentication classes. None signs in: the file system controls access to a workspace."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.tenant_id = kwargs.get("tenant_id")

    def get_authentication_header(self) -> dict[str, str]:
        """Return an empty header: there is no service to authenticate to."""
        return {}

    def get_token(self, *args: Any, **kwargs: Any) -> None:
        """Return None: there is no token."""


AbstractAuthentication = Authentication
"""The SDK's base class."""


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
    """Accepted, without effect: labrun does not report usage."""
