"""`FeaturizationConfig`: column settings for an `AutoMLConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labrun.azureml.notices import notify_once
from labrun.compat.azureml import arguments


class FeaturizationConfig:
    """Settings for turning columns into features. labrun uses only `drop_columns` and prints a notice of the others.

    Args:
        blocked_transformers: kept, not used.
        column_purposes: kept, not used.
        transformer_params: kept, not used.
        drop_columns: columns to leave out of the samples.
        dataset_language: kept, not used.
        prediction_transform_type: kept, not used.
        **unknown: refused.

    Raises:
        TypeError: there is no such argument.
    """

    def __init__(
        self,
        blocked_transformers: Sequence[str] | None = None,
        column_purposes: dict[str, str] | None = None,
        transformer_params: Any = None,
        drop_columns: Sequence[str] | None = None,
        dataset_language: str | None = None,
        prediction_transform_type: Any = None,
        **unknown: Any,
    ) -> None:
        arguments.check(FeaturizationConfig.__init__, unknown)
        self.blocked_transformers = list(blocked_transformers or [])
        self.column_purposes = dict(column_purposes or {})
        self.transformer_params: dict[str, Any] = dict(transformer_params or {})
        self.drop_columns = list(drop_columns or [])
        self.dataset_language, self.prediction_transform_type = dataset_language, prediction_transform_type

    def add_blocked_transformers(self, transformers: str | Sequence[str]) -> None:
        """Add blocked transformers, which labrun does not use."""
        self.blocked_transformers += [transformers] if isinstance(transformers, str) else list(transformers)

    def add_column_purpose(self, column_name: str, feature_type: str) -> None:
        """Set a column's purpose, which labrun does not use."""
        self.column_purposes[column_name] = feature_type

    def add_drop_columns(self, drop_columns: str | Sequence[str]) -> None:
        """Add columns to leave out of the samples."""
        self.drop_columns += [drop_columns] if isinstance(drop_columns, str) else list(drop_columns)

    def add_transformer_params(self, transformer: str, cols: Sequence[str], params: dict[str, Any]) -> None:
        """Add a transformer's parameters, which labrun does not use."""
        self.transformer_params.setdefault(transformer, []).append((list(cols), dict(params)))

    def remove_column_purpose(self, column_name: str) -> None:
        """Remove a column's purpose."""
        self.column_purposes.pop(column_name, None)

    def tell(self) -> None:
        """Print once which settings have no effect."""
        parts = {
            "blocked_transformers": self.blocked_transformers,
            "column_purposes": self.column_purposes,
            "transformer_params": self.transformer_params,
            "dataset_language": self.dataset_language,
            "prediction_transform_type": self.prediction_transform_type,
        }
        unused = [name for name, value in parts.items() if value]
        if unused:
            notify_once(
                f"FeaturizationConfig: {', '.join(unused)} is not used: model.preprocess fills missing values and "
                "encodes words"
            )
