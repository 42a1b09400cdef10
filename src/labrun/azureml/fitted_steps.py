"""The steps of a fitted AutoML pipeline under the SDK's names: `datatransformer` first, the estimator last."""

from __future__ import annotations

from typing import Any

from labrun.azureml.advice import Advising

NAME = "datatransformer"
TABLE = "table"
"""labrun's step that converts a table to numbers."""


class DataTransformer(Advising):
    """Converts the columns of a table to numbers; numeric samples stay as they are.

    Args:
        step: the fitted scikit-learn transformer; None: the samples are already numeric.
        columns: the samples' column names.
    """

    def __init__(self, step: Any, columns: list[str]) -> None:
        self._step, self._columns = step, columns

    def __repr__(self) -> str:
        return f"DataTransformer({self._step!r})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return its parameters."""
        return {} if self._step is None else dict(self._step.get_params(deep))

    def transform(self, X: Any) -> Any:  # noqa: N803 - as scikit-learn calls it
        """Return the samples as numbers, shape (N, features)."""
        return X if self._step is None else self._step.transform(X)

    def get_engineered_feature_names(self) -> list[str]:
        """Return the names of its output features."""
        return self._columns if self._step is None else [str(name) for name in self._step.get_feature_names_out()]

    def get_featurization_summary(self, is_user_friendly: bool = True) -> list[dict[str, Any]]:
        """Return for each column its type and the features made from it."""
        made: dict[str, int] = dict.fromkeys(self._columns, 0)
        for name in self.get_engineered_feature_names():
            origins = [one for one in made if name == one or name.startswith(f"{one}_")]
            made[max(origins, key=len)] += 1
        kinds: dict[str, str] = {}
        for _, transformer, columns in [] if self._step is None else self._step.transformers_:
            last = transformer.steps[-1][1] if hasattr(transformer, "steps") else transformer
            kinds |= {str(column): type(last).__name__ for column in columns}
        return [
            {
                "RawFeatureName": name,
                "TypeDetected": "Categorical" if "Encoder" in kinds.get(name, "") else "Numeric",
                "Dropped": "No" if count else "Yes",
                "EngineeredFeatureCount": count,
                "Transformations": [kinds[name]] if name in kinds else [],
            }
            for name, count in made.items()
        ]


def of(model: Any, columns: list[str]) -> list[tuple[str, Any]]:
    """Return the steps of a fitted pipeline.

    Args:
        model: the scikit-learn pipeline.
        columns: the column names of its input.
    """
    steps = list(model.steps)
    table = next((step for name, step in steps if name == TABLE), None)
    return [
        (NAME, DataTransformer(table, columns)),
        *((type(step).__name__, step) for name, step in steps if name != TABLE),
    ]
