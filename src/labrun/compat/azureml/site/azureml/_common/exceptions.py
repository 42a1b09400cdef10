"""The root of the SDK's errors, at the address that older scripts import."""

from __future__ import annotations

from ..exceptions import AzureMLException

__all__ = ["AzureMLException"]
