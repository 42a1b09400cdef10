"""The SDK's authentication classes and its usage reporting, accepted without effect."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml import arguments


class Authentication:
    """Base class of the authentication classes. None signs in: the file system controls access to a workspace."""

    tenant_id: str | None = None

    def __init__(self, cloud: str | None = None, **private: Any) -> None:
        arguments.check(type(self).__init__, private)

    def get_authentication_header(self) -> dict[str, str]:
        """Return an empty header: there is no service to authenticate to."""
        return {}

    def get_token(self, *scopes: Any, **options: Any) -> None:
        """Return None: there is no token."""


AbstractAuthentication = Authentication
"""The SDK's base class."""


class ArmTokenAuthentication(Authentication):
    """Accepted, without effect; the token is not kept."""

    def __init__(self, arm_access_token: str | None = None, cloud: str | None = None, **private: Any) -> None:
        super().__init__(cloud, **private)


class AzureMLTokenAuthentication(Authentication):
    """Accepted, without effect; the token is not kept."""

    def __init__(self, azureml_access_token: str | None = None, *args: Any, **kwargs: Any) -> None:
        pass


class AzureCliAuthentication(Authentication):
    """Accepted, without effect."""


class InteractiveLoginAuthentication(Authentication):
    """Accepted, without effect; the tenant is kept."""

    def __init__(
        self, force: bool = False, tenant_id: str | None = None, cloud: str | None = None, **private: Any
    ) -> None:
        super().__init__(cloud, **private)
        self.tenant_id = tenant_id


class MsiAuthentication(Authentication):
    """Accepted, without effect."""

    def __init__(self, cloud: str | None = None, **settings: Any) -> None:
        """Accept any setting: the SDK passes them on to a managed identity."""


class ServicePrincipalAuthentication(Authentication):
    """Accepted, without effect; the tenant is kept, the password is not."""

    def __init__(
        self,
        tenant_id: str | None = None,
        service_principal_id: str | None = None,
        service_principal_password: str | None = None,
        cloud: str | None = None,
        **private: Any,
    ) -> None:
        super().__init__(cloud, **private)
        self.tenant_id = tenant_id


class TokenAuthentication(Authentication):
    """Accepted, without effect."""

    def __init__(self, get_token_for_audience: Any = None, cloud: str | None = None, **private: Any) -> None:
        super().__init__(cloud, **private)


def set_diagnostics_collection(send_diagnostics: bool = True, verbosity: Any = None) -> None:
    """Accepted, without effect: labrun does not report usage."""
