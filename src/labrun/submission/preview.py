"""A preview of data: random samples with their labels, class counts, shapes and the range of values."""

from __future__ import annotations

import base64
import functools
import html
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from labrun import messages
from labrun.compose import paths
from labrun.config import checking, instantiate, schema
from labrun.config.instantiate import Node
from labrun.config.references import resolve_environment
from labrun.data import assets, mount, reader, stores
from labrun.data.arrays import AnyArray, Arrays, Part
from labrun.data.readers import contents
from labrun.errors import ConfigError, DataError, MissingDataError
from labrun.report import figures, formatting
from labrun.submission import inputs
from labrun.tasks import reading

KINDS = ("Mnist", "Cifar10", "Npz", "Csv", "ImageFolder")
"""Readers to try for an asset without a data set config of its name."""
COLUMNS = 8
"""Maximum number of table columns to show."""


@dataclass
class Samples:
    """Samples of a data set, with a rich display in notebooks."""

    arrays: Arrays
    order: AnyArray
    """Their indices in the training split."""

    @property
    def shown(self) -> int:
        """Number of samples."""
        return len(self.order)

    @property
    def are_images(self) -> bool:
        """Whether they are images with classes, which `save` can draw."""
        return self.arrays.are_images and self.arrays.num_classes > 0

    @property
    def text(self) -> str:
        """A summary of the data, followed by the samples if they are not images."""
        arrays = self.arrays
        parts = {"train": arrays.train, "validation": arrays.validation, "test": arrays.test}
        there = {name: part for name, part in parts.items() if part is not None}
        values = [(float(part.x.min()), float(part.x.max())) for part in there.values()]
        rows = [
            ("data", arrays.name),
            ("samples", ", ".join(f"{len(part):,} {name}" for name, part in there.items())),
            ("each", f"{messages.shape_text(arrays.input_shape)}, {arrays.train.x.dtype}"),
            ("values", f"{min(low for low, _ in values):g} to {max(high for _, high in values):g}"),
            ("classes", f"{arrays.num_classes or 'none: a numeric target'}"),
            *((f"  {arrays.class_names[label]}", _counts(there, label)) for label in range(arrays.num_classes)),
        ]
        return formatting.table(rows) + ("" if self.are_images else "\n" + self._rows())

    def save(self, path: Path) -> bool:
        """Draw the samples to a file. Return False if they are not images.

        Raises:
            DataError: the file cannot be written.
        """
        if not self.are_images:
            return False
        part = self.arrays.train
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            title = f"{self.arrays.name}: {self.shown} of {len(part):,} training samples"
            figures.sample_grid(
                part.x, part.y, self.arrays.class_names, self.arrays.scaling.scale, path, title, self.order
            )
        except (OSError, ValueError) as error:
            raise DataError(f"cannot write the picture {path}: {error}") from error
        return True

    def _rows(self) -> str:
        part = self.arrays.train
        flat = part.x.reshape(len(part), -1)[self.order]
        more = " ..." if flat.shape[1] > COLUMNS else ""
        names = self.arrays.class_names
        labels = [names[int(label)] if names else f"{label:.4g}" for label in part.y[self.order]]
        width = max(len(label) for label in labels)
        return "\n".join(
            f"  {label:<{width}}  " + " ".join(f"{value:>9.4g}" for value in row[:COLUMNS]) + more
            for label, row in zip(labels, flat, strict=True)
        )

    def _repr_html_(self) -> str:
        picture = ""
        if self.are_images:
            with tempfile.TemporaryDirectory() as folder:
                self.save(Path(folder, "samples.png"))
                encoded = base64.b64encode(Path(folder, "samples.png").read_bytes()).decode()
            picture = f'<img alt="samples" src="data:image/png;base64,{encoded}">'
        return f"<pre>{html.escape(self.text)}</pre>{picture}"


def samples(name: str, datastore: Node, count: int = 30, seed: int | None = None, keys: Sequence[str] = ()) -> Samples:
    """Return random samples of the training split.

    Args:
        name: a data set in `conf/dataset`, or an asset (`NAME@VERSION`).
        datastore: the datastore's node, resolved.
        count: maximum number of samples.
        seed: seed of the random choice.
        keys: overrides of the data set's keys, as `key=value`.

    Raises:
        ConfigError, DataError: there is no such data set, or it cannot be read.
    """
    arrays = _read(name, datastore, keys)
    total = len(arrays.train)
    order = np.random.default_rng(seed).choice(total, size=min(count, total), replace=False)
    return Samples(arrays, order)


def _read(name: str, datastore: Node, keys: Sequence[str]) -> Arrays:
    plain, _, version = name.partition("@")
    for folder in (paths.user_conf_dir(), paths.conf_dir()):
        path = folder / "dataset" / f"{plain}.yaml" if folder else None
        if path is not None and path.is_file():
            merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(keys)))
            found = OmegaConf.to_container(merged, resolve=False)
            assert isinstance(found, dict)
            node = {str(key): value for key, value in found.items() if key != "defaults"}
            missing = [key for key, value in node.items() if value == "???"]
            if missing:
                raise ConfigError(f"data set '{plain}' has no {missing[0]}: use --key {missing[0]}=...")
            problems = list(
                checking.check_fields(
                    node,
                    schema.TARGETS.get(str(node["_target_"]), schema.Dataset),
                    "dataset",
                    node["_target_"] not in schema.TARGETS,
                )
            )
            if problems:
                raise ConfigError(problems)
            read = {"dataset": node | ({"version": version} if version else {}), "datastore": datastore}
            config = schema.Config(resolve_environment(read))
            inputs.make_absolute(config.raw["dataset"], config.datastore)
            return reading.arrays_of(config)
    return _asset(plain, version, datastore)


def _asset(name: str, version: str, datastore: Node) -> Arrays:
    """Read an asset with the first reader that recognizes its files."""
    store = stores.make(datastore)
    asset = assets.find(store, name, version or None)
    if asset is None:
        options = [option for option in paths.groups().get("dataset", {}) if "/" not in option]
        known = [*options, *assets.names(store)]
        raise MissingDataError(
            f"there is neither a data set nor an asset '{name}' (datastore '{store.name}')."
            f"{messages.suggest(name, known)} Data sets: {', '.join(options)}; assets: "
            f"{', '.join(assets.names(store)) or 'none'}"
        )
    root = mount.mount(datastore, {"name": name, "asset": name, "version": asset.number}).path
    for node in _guesses(root):
        made = instantiate.build(node, "dataset")
        try:
            if made.find(root):
                scale = 1.0 if node["_target_"].endswith(("Npz", "Csv")) else 255.0
                return reader.read({**node, "name": name, "scale": scale}, root)
        except DataError:
            if len(list(root.iterdir())) == 1:
                raise
    raise ConfigError(
        f"asset '{name}' has no files of a known format (MNIST, CIFAR-10, one .npz, one table, a folder "
        "of images per class): describe it in conf/dataset, and give that name"
    )


def _guesses(root: Path) -> list[dict[str, Any]]:
    nodes = []
    for kind in KINDS:
        node: dict[str, Any] = {"_target_": f"labrun.data.readers.{kind}"}
        if kind in ("Npz", "Csv"):
            is_known = functools.partial(contents.is_table, surely=True) if kind == "Csv" else _is_npz
            names = sorted(path.name for path in root.iterdir() if is_known(path))
            if [name.partition(".")[0] for name in names] == ["test", "train"]:
                node |= {"path": names[1], "test_path": names[0]}
            elif len(names) == 1:
                node["path"] = names[0]
            else:
                continue
        nodes.append(node)
    return nodes


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _counts(parts: Mapping[str, Part], label: int) -> str:
    return ", ".join(f"{int((part.y == label).sum()):,} {name}" for name, part in parts.items())
