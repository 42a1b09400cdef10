"""Loads saved models of runs and of the registry, with `predict` and `predict_proba`.

Loading always checks the file's digest first, then whether its kind and its class are trusted, and only then reads the
file. Nothing is unpickled unless the user asks for it.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.data.arrays import Scaling, float_rows
from labrun.data.readers.apply_schema import apply_schema
from labrun.data.readers.columns import TableSchema
from labrun.data.readers.number_parsing import DECIMALS
from labrun.errors import BY_ARGUMENT, BY_VARIABLE, DataError, DoubtfulDecimalError, UnfitError, UntrustedError
from labrun.messages import shape_text
from labrun.registry import models
from labrun.runs import cards, context, model_journal, seals, store
from labrun.runs.cards import Card, CardKind, TargetKind
from labrun.runs.record import Record, RunPaths
from labrun.tasks import model_files, outputs, scoring
from labrun.tasks.task import is_network

BATCH = 1000
RUN = "run:"
TRUSTED_VARIABLE = "LABRUN_TRUSTED"
"""Comma-separated trusted classes, for `mlflow models serve`, which has no option for them."""


class Saved:
    """A fitted model. It takes values as stored in its data set, and scales them as in training.

    Args:
        model: the loaded model.
        card: its card.
        title: its name in messages.
    """

    def __init__(self, model: Any, card: Card, title: str) -> None:
        self.model = model
        self.card = card
        self.title = title
        self.class_names = card.class_names
        self.input_shape = card.input_shape or None
        scaling = card.scaling
        self._scaling = Scaling(1.0) if scaling is None else Scaling(scaling.scale, scaling.mean, scaling.std)
        names = getattr(model, "feature_names_in_", None)
        self.columns: tuple[str, ...] | None = None if names is None else tuple(map(str, names))
        """Names of the table columns that it takes; None if it takes numbers by position."""
        self.table = TableSchema.of(card.table) if card.table else None
        """How the columns of its training table were read; None without a table, or if the card does not say."""
        self.decimal: str | None = None
        """Decimal sign of tables to predict, `point` or `comma`; None detects it for each table."""
        self.on_note: Callable[[str], object] | None = None
        """Receives notes on how a table differs from the training table; None warns of differences in reading only."""

    def __repr__(self) -> str:
        classes = f"{len(self.class_names)} classes" if self.class_names else "no class names"
        return f"<{self.title}: {self.card.name}, {classes}>"

    def predict(self, x: Any) -> Any:
        """Predict samples.

        Args:
            x: (N, *input_shape), or (N, values): numpy, torch, lists, a DataFrame; images also (N, H, W[, C]). For a
                model that was trained on a data module's batches: such a batch, with or without its target.

        Returns:
            (N,) labels from `class_names`, as integers if all names are integers (`7`, but not `07`), else as text; for
            regression, numbers. For a model trained on a data module's batches: the output of a LightningModule's
            `predict_step` or `forward`; of a plain network, the class of each sample or of each position in a sequence
            or image, 0 or 1 for each of several labels, or numbers.

        Raises:
            UnfitError: the samples do not fit the model.
        """
        if self.card.takes_batches:
            return self._answer(x)
        found = self.predict_numbers(x)
        if not self.class_names or self._gives_quantities:
            return found
        labels = np.array(self.class_names)
        if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", name) for name in self.class_names):
            labels = labels.astype(np.int64)
        return labels[found.astype(np.int64)]

    def predict_numbers(self, x: Any) -> npt.NDArray[Any]:
        """Predict like `predict`, but return (N,) indices into `class_names` instead of labels."""
        rows = self._rows(x)
        if is_network(self.model):
            scores = self._scores(rows)
            if self._gives_quantities:
                return outputs.predicted(scores, self.card)
            is_quantity = not self.class_names and scores.size == len(scores)
            return scores.reshape(-1) if is_quantity else np.asarray(scores.argmax(axis=1))
        return np.asarray(self._call("predict", rows))

    def predict_proba(self, x: Any) -> npt.NDArray[Any]:
        """Predict the probability of each class.

        Args:
            x: see `predict`.

        Returns:
            (N, classes); for sequences and images (N, ..., classes); for several labels (N, labels).

        Raises:
            UnfitError: the samples do not fit the model, or the model has no probabilities.
        """
        if not self.has_probabilities:
            raise UnfitError(f"{self.title} ({self.card.name}) gives no probabilities: use predict")
        if self.card.takes_batches:
            return outputs.probabilities(self._forward_scores(x), self.card)
        rows = self._rows(x)
        if is_network(self.model):
            return scoring.softmax(self._scores(rows))
        if not self.class_names:
            return np.asarray(self._call("predict_proba", rows))
        found = scoring.probabilities_of(self.model, rows, len(self.class_names))
        assert found is not None
        return found

    @property
    def has_probabilities(self) -> bool:
        """Whether `predict_proba` works for the model."""
        if is_network(self.model):
            if self.card.takes_batches:
                return outputs.has_probabilities(self.card)
            return bool(self.class_names) and not self._gives_quantities
        return hasattr(self.model, "predict_proba")

    @property
    def _gives_quantities(self) -> bool:
        """Whether it is a network that learned quantities; with `model.target=input`, its data may have classes."""
        return self.card.learns is TargetKind.QUANTITY

    def _answer(self, batch: Any) -> Any:
        """Predict a data module's batch with the model's `predict_step`, or with `forward` if it has none."""
        import torch

        if self.card.learns:
            return outputs.predicted(self._forward_scores(batch), self.card)
        given, own = _tensors(batch), getattr(self.model, "predict_step", None)
        self.model.eval()
        with torch.inference_mode():
            if own is not None:
                found = own(given, 0)
            else:
                found = self.model(**given) if isinstance(given, dict) else self.model(given)
        return found.float().cpu().numpy() if isinstance(found, torch.Tensor) else found

    def _forward_scores(self, batch: Any) -> npt.NDArray[Any]:
        """Return a plain network's scores for a data module's batch."""
        import torch

        from labrun.tasks.networks.learner import forward_scores

        self.model.eval()
        with torch.inference_mode():
            return forward_scores(self.model, _tensors(batch)).float().cpu().numpy()

    def _call(self, method: str, rows: Any) -> Any:
        try:
            return getattr(self.model, method)(rows)
        except (ValueError, TypeError, KeyError) as error:
            raise UnfitError(f"{self.title} refuses these samples: {' '.join(str(error).split())}") from error

    def _scores(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        import torch

        self.model.eval()
        with torch.inference_mode():
            found = [
                self.model(torch.from_numpy(np.ascontiguousarray(rows[start : start + BATCH]))).float().numpy()
                for start in range(0, len(rows), BATCH)
            ]
        return np.concatenate(found)

    def _rows(self, x: Any) -> Any:
        """Scale and reshape samples for the model."""
        if self.table is not None and (hasattr(x, "iloc") or self.columns is not None):
            x = self._as_trained(x)
        elif self.columns is not None:
            return self._table(x)
        if self.columns is not None:
            return x
        if hasattr(x, "tocsr"):
            return x.tocsr().astype(np.float32)
        if hasattr(x, "detach"):
            x = x.detach().cpu().numpy()
        try:
            values = np.asarray(x.to_numpy() if hasattr(x, "to_numpy") else x)
            values = values if values.dtype.kind in "biuf" else values.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise UnfitError(f"{self.title} takes numbers, but these samples are not numbers: {error}") from error
        if values.ndim < 2 or not len(values):
            raise UnfitError(
                f"{self.title} takes samples of {self._wanted()}, but got the shape {values.shape}; put a single "
                "sample into a list: [x]"
            )
        if not np.isfinite(values).all():
            raise UnfitError(
                f"{self.title} takes numbers, but got NaN or infinity {int((~np.isfinite(values)).sum())} times"
            )
        values = self._shaped(values)
        rows = float_rows(values, self._scaling)
        return rows.reshape(values.shape) if is_network(self.model) else rows

    def _shaped(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        wanted = self.input_shape
        if wanted is None:
            features = getattr(self.model, "n_features_in_", None)
            values = values.reshape(len(values), -1)
            if features is not None and values.shape[1] != features:
                raise UnfitError(f"{self.title} takes {features} values per sample, but got {values.shape[1]}")
            return values
        given = values.shape[1:]
        if given == wanted:
            return values
        if len(wanted) == 3 and given == (*wanted[1:], wanted[0]):
            return values.transpose(0, 3, 1, 2)
        if given == (int(np.prod(wanted)),) or (len(wanted) == 3 and wanted[0] == 1 and given == wanted[1:]):
            return values.reshape(len(values), *wanted)
        raise UnfitError(f"{self.title} takes samples of {self._wanted()}, but these are {shape_text(given)}")

    def _wanted(self) -> str:
        return "numbers" if self.input_shape is None else shape_text(self.input_shape)

    def _as_trained(self, x: Any) -> Any:
        """Select a table's columns by name, and read them like those of the model's training table."""
        import pandas as pd

        assert self.table is not None
        names = self.table.names
        if not hasattr(x, "iloc"):
            values = np.asarray(x)
            if values.ndim != 2 or values.shape[1] != len(names):
                raise UnfitError(f"{self.title} takes a table of {len(names)} columns, but got {values.shape}")
            x = pd.DataFrame(values, columns=names).infer_objects()
        elif getattr(x, "ndim", 2) != 2:
            raise UnfitError(
                f"{self.title} takes a table with the columns {', '.join(names)}, but got one row or column"
            )
        x = x.set_axis([" ".join(str(name).split()) for name in x.columns], axis=1)
        missing = [name for name in names if name not in x.columns]
        numbers = [int(name) for name in x.columns if name.isdecimal()]
        is_counted = numbers == sorted(set(numbers)) and len(numbers) == x.shape[1] == len(names)
        if missing and is_counted and not are_positions(names):  # no names, perhaps without the first columns
            x, missing = x.set_axis(names, axis=1), []
        if missing:
            raise UnfitError(
                f"{self.title} takes a table with the columns {', '.join(names)}; there is no {', '.join(missing)}"
            )
        try:
            rows, _, notes = apply_schema(self.table, x, "the table", DECIMALS.get(str(self.decimal), self.decimal))
        except DoubtfulDecimalError as error:
            raise error.with_advice(BY_ARGUMENT) from None
        except DataError as error:
            raise UnfitError(f"{self.title}: {error}") from error
        for note in notes:
            (self.on_note or _warn_of_table)(note)
        if self.on_note is not None:
            for note in _unlike_training(self.model, rows):
                self.on_note(note)
        if self.columns is not None:
            return rows
        gaps = [name for name in rows.columns if rows[name].isna().any()]
        if gaps:
            raise UnfitError(
                f"{self.title} takes numbers, but values are missing in the columns {', '.join(gaps)}: fill them, or "
                "train a model that does (model=pipeline model.preprocess=true)"
            )
        return rows

    def _table(self, x: Any) -> Any:
        import pandas as pd

        assert self.columns is not None
        if not hasattr(x, "iloc"):
            values = np.asarray(x)
            if values.ndim != 2 or values.shape[1] != len(self.columns):
                raise UnfitError(f"{self.title} takes a table of {len(self.columns)} columns, but got {values.shape}")
            x = pd.DataFrame(values, columns=list(self.columns)).infer_objects()
        x = x.set_axis([str(name) for name in x.columns], axis=1)
        missing = [name for name in self.columns if name not in x.columns]
        if missing:
            raise UnfitError(
                f"{self.title} takes a table with the columns {', '.join(self.columns)}; there is no "
                f"{', '.join(missing)}"
            )
        return x[list(self.columns)]


def _has_card(run_dir: Path, record: Record) -> bool:
    return (RunPaths(run_dir).outputs / cards.NAME).is_file()


def _tensors(value: Any) -> Any:
    """Convert arrays and lists of numbers in a batch to tensors, as a DataLoader would return them."""
    import torch

    if isinstance(value, Mapping):
        return {key: _tensors(one) for key, one in value.items()}
    if isinstance(value, list | tuple) and any(hasattr(one, "shape") or isinstance(one, Mapping) for one in value):
        return type(value)(map(_tensors, value))
    is_numbers = isinstance(value, np.ndarray) or (isinstance(value, list) and _holds_numbers(value))
    return torch.as_tensor(value) if is_numbers else value


def _holds_numbers(value: Any) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, int | float)


def are_positions(names: Sequence[str]) -> bool:
    """Return whether columns have only their positions as names, as in a table without a header."""
    return bool(names) and list(names) == [str(place) for place in range(len(names))]


def _warn_of_table(note: str) -> None:
    warnings.warn(f"the table: {note}", stacklevel=6)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=6)


def _unlike_training(model: Any, rows: Any) -> Iterator[str]:
    """Yield notes on categories in a table that were not in training, and on missing values."""
    for column, known in _categories(model).items():
        given = rows[column].dropna()
        new = given[~given.isin(known)]
        if len(new):
            values = ", ".join(map(repr, new.unique()[:3]))
            yield f"{column}: {len(new):,} of {len(given):,} values were not in training: {values}"
    gaps = {name: int(rows[name].isna().sum()) for name in rows.columns if rows[name].dtype.kind == "f"}
    if any(gaps.values()):
        yield f"missing values: {', '.join(f'{name} ({count})' for name, count in gaps.items() if count)}"


def _categories(model: Any) -> dict[str, set[str]]:
    """Return the categories that a fitted pipeline knows, by column; empty if it has none."""
    for _, part, columns in getattr(model, "transformers_", ()):
        last = part.steps[-1][1] if hasattr(part, "steps") else part
        if hasattr(last, "categories_"):
            return {str(name): set(map(str, known)) for name, known in zip(columns, last.categories_, strict=True)}
    parts = [step for _, step in getattr(model, "steps", ())]
    for one in [*parts, getattr(model, "estimator_", None), *getattr(model, "estimators_", ())]:
        if one is not None and (found := _categories(one)):
            return found
    return {}


def load_model(
    reference: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    trusted: Sequence[str] = (),
    allow_pickle: bool = False,
) -> Saved:
    """Load a registered model, or the model of a run.

    Args:
        reference: `name` (the newest version), `name/3` or `name@alias`, each optionally after `models:/`; `run:`
            followed by a run's ID, `last` or `best:METRIC`; or a run's folder.
        root: the workspace; None for LABRUN_ROOT, or the current folder.
        trusted: classes to trust in addition to those of labrun, scikit-learn and torch.
        allow_pickle: load `.pkl` and `.joblib` files, which can execute any code: only if you trust their author.

    Returns:
        The model, with `predict`, `predict_proba`, `class_names` and `card`.

    Raises:
        RecordError: there is no such model or run.
        DataError: a file has changed, is damaged, or may only be loaded explicitly.
        UntrustedError: the model's class is not trusted.
    """
    place = store.workspace() if root is None else Path(root).resolve()
    text = os.fspath(reference)
    if text.startswith(RUN) or (Path(text) / "run.json").is_file():
        reference = text.removeprefix(RUN)
        # `last` skips runs without a model, such as those that only predict.
        if reference == "last":
            run_dir, record = store.find(place, reference, _has_card, "a run with a model")
        else:
            run_dir, record = store.find(place, reference)
        title = f"the model of run {record.id}"
        _, card = models.described(run_dir, record, None)
        why = functools.partial(seals.refusal, place, run_id=record.id, imported=record.imported is not None)
        return load(RunPaths(run_dir).outputs, title, trusted, allow_pickle, card, why)
    version = model_journal.find(place, text)
    why = functools.partial(seals.refusal, place, run_id=version.origin)
    return load(model_journal.check(place, version), f"model {version.title}", trusted, allow_pickle, why=why)


def load(
    folder: Path,
    title: str,
    trusted: Sequence[str] = (),
    allow_pickle: bool = False,
    card: Card | None = None,
    why: Callable[[Card], str] | None = None,
    way: str = BY_ARGUMENT,
) -> Saved:
    """Load the model in a folder with a card.

    Args:
        folder: the folder with the model's file.
        title: the model's name in messages.
        trusted: see `load_model`.
        allow_pickle: see `load_model`.
        card: the model's card; None reads the folder's.
        why: returns why a card's model is not proven to be the user's own; None without a workspace to prove it.
        way: how the user lists trusted classes in this context, see `UntrustedError`.

    Raises:
        DataError, ConfigError: see `load_model`.
    """
    card = cards.read(folder, title) if card is None else card
    is_folder = card.kind is CardKind.FOLDER  # its digest is that of a list of files
    file = folder / card.file if is_folder else card.verified_file(folder, title)

    def load_with(names: Sequence[str] | None) -> Any:
        return model_files.load(file, card, title, names, allow_pickle)

    def reason() -> str:
        return seals.UNPROVEN if why is None else why(card)

    if card.kind not in (CardKind.ESTIMATOR, CardKind.NETWORK):  # no run has saved it
        return Saved(load_with(trusted), card, title)
    try:
        return Saved(model_files.proven(load_with, trusted, reason, title, _warn), card, title)
    except UntrustedError as error:
        raise error.with_advice(way) from None


class _Served:
    """MLflow's interface for predictions: the class name or the quantity, and the probability of each class."""

    def __init__(self, saved: Saved) -> None:
        self._saved = saved

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return a table with a row per sample; for shapes see `Saved.predict`."""
        return answers(self._saved, model_input)


def answers(saved: Saved, x: Any) -> Any:
    """Return predictions as a pandas.DataFrame: `prediction`, and `probability_<class>` if the model has them."""
    import pandas as pd

    if saved.card.takes_batches:
        raise UnfitError(
            f"{saved.title} takes the batches of a data module, not files: labrun task=predict from=RUN "
            "dataset=..., or labrun.load_model(...).predict(batch) in Python"
        )
    table: dict[str, Any] = dict(outputs.columns("prediction", saved.predict(x)))
    if saved.has_probabilities and (saved.class_names or is_network(saved.model) or hasattr(saved.model, "classes_")):
        probabilities = saved.predict_proba(x)
        labels = saved.class_names or [
            str(one) for one in getattr(saved.model, "classes_", range(probabilities.shape[1]))
        ]
        table |= {f"probability_{label}": probabilities[:, place] for place, label in enumerate(labels)}
    return pd.DataFrame(table)


def _load_pyfunc(path: str) -> _Served:
    """Load a registered model from its folder; MLflow calls this."""
    trusted = [name for name in os.environ.get(TRUSTED_VARIABLE, "").split(",") if name]
    allow_pickle = os.environ.get(model_files.PICKLE_VARIABLE, "") not in ("", "0")
    place = Path(path).resolve()
    root = next((one.parent.parent for one in place.parents if one.name == context.STATE.name), None)
    why = None if root is None else functools.partial(seals.refusal, root, run_id=None)
    return _Served(load(place, "the model", trusted, allow_pickle, why=why, way=BY_VARIABLE))
