"""The `Reader` interface, which turns a path into arrays, and the splitting of its result. Readers: `readers/`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labrun import garbage, messages
from labrun.config.instantiate import Node, build, locate, parameters
from labrun.config.schema import DatasetSettings
from labrun.data import digests
from labrun.data.arrays import Arrays, Part, RawData, Scaling, stratified_split
from labrun.data.digests import Entry
from labrun.data.memory import Limit, Reading, decide
from labrun.data.numeric import unfit
from labrun.errors import ConfigError, DataError, LabrunError, MissingDataError

if TYPE_CHECKING:
    from labrun.data.readers.columns import KnownTable

log = logging.getLogger(__name__)

STREAMING = frozenset({"in_memory", "num_workers"})
"""Keys that labrun handles unless the reader has arguments of these names."""
GENERAL_KEYS = frozenset({*(f.name for f in fields(DatasetSettings)), "search_space"} - STREAMING)
"""Keys of `dataset` that labrun handles itself; all others are passed to the reader."""


class Reader(ABC):
    """Reads one kind of data set.

    A reader is built from the config's `dataset` node, minus the keys that labrun handles itself. It never writes.
    """

    known: KnownTable | None = None
    """For a table read for a trained model: the model's training table; otherwise None."""

    may_be_held = False
    """Whether it starts no threads and calls no user code, so that a sweep can read its data once for all runs."""

    @property
    def is_own_code(self) -> bool:
        """Whether user code produces the data; the record then holds a digest of its output as well as of its files."""
        return not type(self).__module__.startswith("labrun.")

    @abstractmethod
    def find(self, root: Path) -> bool:
        """Return whether the folder holds the files of this data set."""

    @abstractmethod
    def read(self, root: Path) -> RawData:
        """Read everything into memory.

        Raises:
            MissingDataError, CorruptDataError, DataError: the files are missing, damaged or of another format.
        """

    def needed(self, root: Path) -> int | None:
        """Return the size in bytes of the arrays that `read` would return; None if `stream` is unavailable.

        Raises:
            DataError: as `read`.
        """
        return None

    def stream(self, root: Path) -> RawData:
        """Like `read`, but with samples that stay on the disk (`labrun.data.streamed.Rows`).

        Raises:
            DataError: as `read`, or these files cannot be streamed; the message says what to do.
        """
        raise DataError(f"dataset.in_memory=false: {type(self).__name__} can only read into memory: leave it out")

    def files(self, root: Path) -> Sequence[Path]:
        """Return the files that `read` reads, without reading them if possible.

        Raises:
            DataError: as `read`.
        """
        return self.read(root).files

    def candidates(self) -> Sequence[str] | None:
        """Return candidate folders or files below a datastore's root, likeliest first.

        `.` stands for the files directly in the root, the empty name for everything below it. None: this reader takes
        nothing from the datastore.
        """
        return ("",)

    def fetch(self, root: Path) -> None:  # noqa: B027 - most kinds cannot
        """Download missing files, if this kind can.

        Raises:
            MissingDataError: it cannot; the message says how to put the files in place by hand.
        """

    def check_packages(self, root: Path) -> None:  # noqa: B027 - most kinds need none
        """Check that the packages needed to read the files are installed. The files exist.

        Raises:
            MissingExtraError: a package is missing.
        """

    @staticmethod  # noqa: B027 - most kinds need nothing
    def warm() -> None:
        """Import the libraries that reading needs, before runs are forked."""


def make_reader(dataset: Node) -> Reader:
    """Build the reader for a `dataset` node.

    Raises:
        ConfigError: it cannot be built, or is not a `Reader`.
    """
    target = locate(str(dataset["_target_"]), "dataset")
    left = GENERAL_KEYS | (STREAMING - set(parameters(target)))
    own = {key: value for key, value in dataset.items() if key not in left}
    if isinstance(target, type) and not issubclass(target, Reader):
        raise ConfigError(_not_a_reader(str(dataset["_target_"]), target))
    if isinstance(target, type) and (missing := getattr(target, "__abstractmethods__", None)):
        raise ConfigError(f"dataset._target_={dataset['_target_']!r} lacks methods: {', '.join(sorted(missing))}")
    reader = build(own, "dataset")
    if not isinstance(reader, Reader):
        raise ConfigError(_not_a_reader(str(dataset["_target_"]), type(reader), is_made=True))
    return reader


KNOWN_KINDS = {
    "LightningDataModule": "a LightningDataModule, which has its own loaders",
    "DataLoader": "a DataLoader",
    "Dataset": "a Dataset, which gives one sample at a time",
    "IterableDataset": "a Dataset, which gives one sample at a time",
    "DataFrame": "a table",
    "ndarray": "an array",
    "dict": "a dict",
    "tuple": "a tuple",
    "Bunch": "a dict",
}
"""Common objects that users pass in place of a reader, by the name of a base class: importing PyTorch takes seconds."""


def _not_a_reader(named: str, kind: type, is_made: bool = False) -> str:
    """Return the message for a `_target_` that is not a reader.

    Args:
        named: the `_target_`.
        kind: the class it refers to, or the class of the object it returned.
        is_made: whether `kind` is the class of a returned object.
    """
    what = next((KNOWN_KINDS[base.__name__] for base in kind.__mro__ if base.__name__ in KNOWN_KINDS), None)
    is_what = f"{'returns' if is_made else 'is'} {what or f'a {kind.__name__}'}"
    ways = (
        "return its samples as arrays from a function get_data() (dataset=get_data dataset.script=get_data.py), or "
        "derive a labrun.data.reader.Reader"
    )
    if what is not None and "Dataset" in what:
        return (
            f"dataset._target_={named!r} {is_what}: set it as a split, dataset=torch dataset.train._target_={named} "
            "(and dataset.test, dataset.validation). docs/howto/data-modules.md shows how"
        )
    if what is not None and ("Lightning" in what or "Loader" in what):
        ways += "; or run the script that trains with it as it is (experiment=script script.path=train.py)"
    return (
        f"dataset._target_={named!r} {is_what}, but labrun needs a reader of arrays, which it splits, scales and "
        f"batches: {ways}. docs/howto/own-data.md shows how"
    )


def prepare(dataset: Node, root: Path) -> None:
    """Ensure that the files exist, downloading them where allowed. Called once, before any run starts.

    Raises:
        MissingDataError: they are missing and cannot be downloaded.
    """
    reader = make_reader(dataset)
    if DatasetSettings.of(dataset).download and not reader.find(root):
        reader.fetch(root)
    if not reader.find(root):
        _raise_missing(reader, str(dataset.get("name")), root)
    reader.check_packages(root)


def _raise_missing(reader: Reader, name: str, root: Path) -> None:
    """Have a reader say which files are missing; its own code may raise any error."""
    try:
        reader.read(root)
    except LabrunError:
        raise
    except Exception as error:
        raise MissingDataError(
            f"dataset={name}: {type(reader).__name__} finds no data in {root}: set datastore.root to the folder that "
            f"holds the files ({type(error).__name__}: {error})"
        ) from error


def read(
    dataset: Node,
    root: Path,
    tables: bool = False,
    sparse: bool = False,
    known: KnownTable | None = None,
    limit: Limit | None = None,
) -> Arrays:
    """Read a data set and split it according to its config.

    Args:
        dataset: the config's `dataset` node, resolved.
        root: the mounted folder.
        tables: whether the caller accepts text columns and missing values.
        sparse: whether the caller accepts sparse matrices.
        known: the model's training table; this table is read in the same way.
        limit: memory limit of the run, if the caller accepts streamed samples; see `labrun.data.memory`.

    Raises:
        DataError, ConfigError: see `Reader.read`; a split would be empty; mean or std do not match the channels.
    """
    settings, reader = DatasetSettings.of(dataset), make_reader(dataset)
    if known is not None:
        reader.known = known
    how = reading(reader, settings.in_memory, root, limit)
    raw = _read(reader, root) if how is None or how.in_memory else reader.stream(root)
    content = None
    if reader.is_own_code:
        raw = _checked(raw, f"dataset={settings.name}: {type(reader).__name__}.read()")
        content = raw.digest()
    if raw.refusal is not None and not tables:
        raise DataError(raw.refusal)
    if not sparse:
        raw = _dense(raw)
    seed = settings.split_seed
    train, test = raw.train, raw.test
    # Regression has no classes to stratify by: put all samples in one stratum.
    strata = train.y if raw.class_names else np.zeros(len(train), np.int64)
    if test is None:
        kept, held = stratified_split(strata, settings.test_size, seed)
        strata = strata[kept]
        train, test = train.take(kept), train.take(held)
    validation, size = raw.validation, settings.validation_size
    if validation is None and size:
        kept, held = stratified_split(strata, size, seed)
        train, validation = train.take(kept), train.take(held)
    if most := settings.max_samples:
        train, test = _limited(train, most, seed), _limited(test, most, seed)
        validation = None if validation is None else _limited(validation, most, seed)
    scaling = _scaling(settings, raw.train.x.shape[1])
    return Arrays(
        settings.name,
        train,
        validation,
        test,
        raw.class_names,
        scaling,
        raw.files,
        raw.notes,
        raw.table,
        is_split=raw.test is None,
        reading=how,
        content=content,
    )


def reading(reader: Reader, in_memory: bool | str, root: Path, limit: Limit | None) -> Reading | None:
    """Decide whether a data set is held in memory; None if the caller or the reader cannot stream.

    Args:
        reader: the data set's reader.
        in_memory: `dataset.in_memory`.
        root: the mounted folder.
        limit: see `read`.
    """
    if limit is None:
        return None
    if in_memory is False:
        return decide(in_memory, 0, limit)
    needed = reader.needed(root)
    return None if needed is None else decide(in_memory, needed, limit)


def _read(reader: Reader, root: Path) -> RawData:
    """Read everything into memory.

    Raises:
        DataError: the data do not fit.
    """
    with garbage.loading():
        reader.warm()
    try:
        return reader.read(root)
    except MemoryError as error:
        raise DataError(
            f"the data do not fit in memory ({' '.join(str(error).split()) or 'MemoryError'}). Networks can stream "
            "image folders and .npz files from disk (dataset.in_memory=false); dataset.max_samples only limits what "
            "was read"
        ) from error


def _checked(raw: RawData, origin: str) -> RawData:
    """Validate the output of a user's reader and convert it to labrun's types.

    Raises:
        DataError: it is invalid; the message says why.
    """
    if not isinstance(raw, RawData):
        raise DataError(f"{origin} returned a {type(raw).__name__}, not a labrun.data.arrays.RawData")
    names: Any = raw.class_names  # user code may return any type
    files: Any = raw.files
    if isinstance(names, str) or not all(isinstance(name, str) for name in _listed(names, f"{origin}: class_names")):
        raise DataError(f"{origin}: class_names must be a tuple of text, empty if y is a quantity; it is {names!r}")
    if isinstance(files, str) or not all(isinstance(file, Path) for file in _listed(files, f"{origin}: files")):
        raise DataError(f"{origin}: files must be a tuple of pathlib.Path; it is {files!r}")
    if raw.train is None:
        raise DataError(f"{origin} returned no train split")
    parts = {
        name: _checked_part(part, names, f"{origin}: {name}")
        for name, part in (("train", raw.train), ("validation", raw.validation), ("test", raw.test))
        if part is not None
    }
    for name, part in parts.items():
        if part.x.shape[1:] != parts["train"].x.shape[1:]:
            shape = parts["train"].x.shape[1:]
            raise DataError(f"{origin}: {name}: a sample has shape {part.x.shape[1:]}, but in train it is {shape}")
    if names and len(np.unique(parts["train"].y)) < 2:
        raise DataError(f"{origin}: train: all samples are of one class; a classifier needs at least two")
    refusal = raw.refusal or next(filter(None, (unfit(part.x, origin) for part in parts.values())), None)
    return replace(
        raw,
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        class_names=tuple(names),
        files=tuple(files),
        refusal=refusal,
    )


def _listed(values: Any, what: str) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise DataError(f"{what} must be a tuple; it is {values!r}") from None


def _checked_part(part: Any, names: Sequence[str], what: str) -> Part:
    if not isinstance(part, Part):
        raise DataError(f"{what} is a {type(part).__name__}, not a labrun.data.arrays.Part")
    given: Any = part.x
    x: Any = given if hasattr(given, "iloc") else given.tocsr() if hasattr(given, "tocsr") else np.asarray(given)
    y, classes = np.asarray(part.y), len(names)
    dtype = getattr(x, "dtype", None)  # a DataFrame has one dtype per column instead
    if dtype is not None and dtype.kind not in "biuf":
        raise DataError(f"{what}.x holds {dtype}; expected numbers")
    if not (x.ndim == 2 or (x.ndim == 4 and x.shape[1] in (1, 3))):
        raise DataError(f"{what}.x has the shape {x.shape}; expected (N, F), or (N, C, H, W) with 1 or 3 channels")
    if y.ndim != 1:
        raise DataError(f"{what}.y has the shape {y.shape}; expected (N,), one label for each sample")
    if x.shape[0] != len(y):
        raise DataError(f"{what} has {x.shape[0]} samples, and {len(y)} labels")
    if not len(y):
        raise DataError(f"{what} has no samples")
    if classes and (y.dtype.kind not in "iu" or int(y.min()) < 0 or int(y.max()) >= classes):
        raise DataError(
            f"{what}.y holds {y.dtype} from {y.min()} to {y.max()}; expected indices into the {classes} class_names, "
            f"integers from 0 to {classes - 1}"
        )
    if not classes and not (y.dtype.kind in "iuf" and np.isfinite(y).all()):
        raise DataError(
            f"{what}.y must be a quantity (class_names is empty), but has values that are not finite numbers"
        )
    return Part(x, y.astype(np.int64 if classes else np.float64, copy=False))


def _dense(raw: RawData) -> RawData:
    """Return the data with sparse samples converted to dense arrays."""
    if not hasattr(raw.train.x, "toarray"):
        return raw

    def dense(part: Part) -> Part:
        samples: Any = part.x
        return Part(samples.toarray(), part.y)

    test, validation = (None if part is None else dense(part) for part in (raw.test, raw.validation))
    return replace(raw, train=dense(raw.train), test=test, validation=validation)


def _limited(part: Part, limit: int, seed: int) -> Part:
    if len(part) <= limit:
        return part
    return part.take(np.random.default_rng(seed).permutation(len(part))[:limit])


def _scaling(settings: DatasetSettings, channels: int) -> Scaling:
    values = {}
    for key, value in (("mean", settings.mean), ("std", settings.std)):
        values[key] = tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),)
        if len(values[key]) not in (1, channels):
            raise ConfigError(
                f"dataset.{key} has {len(values[key])} values, but the data have "
                f"{messages.counted(channels, 'channel')}: give one value, or one per channel"
            )
    return Scaling(float(settings.scale), values["mean"], values["std"])


def manifest(files: Sequence[Path]) -> list[Entry]:
    """Return the entry of each file, sorted by path."""
    base = Path(_common_folder(files))
    entries = [
        Entry(path.relative_to(base).as_posix(), path.stat().st_size, digest)
        for path, digest in zip(files, digests.of(files), strict=True)
    ]
    return sorted(entries, key=lambda entry: entry.path)


def _common_folder(files: Sequence[Path]) -> str:
    import os.path

    if not files:
        raise DataError("the reader returned no files")
    return os.path.commonpath([str(path.parent) for path in files])
