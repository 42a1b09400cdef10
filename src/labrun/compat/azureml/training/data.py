"""The inputs of a run: what its config mounted, as local paths."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import place

if TYPE_CHECKING:
    _Mapping = Mapping[str, "InputDataset"]
else:
    _Mapping = Mapping  # Python 3.8 has no subscript here

__all__ = ["FileDataset", "InputDataset", "Inputs", "TabularDataset"]


class InputDataset(str):
    """An input's local path, which also answers as the SDK's data sets do.

    It is text because a script that got its input mounted in Azure gets the path, and one that did not gets a data set.
    """

    name = ""

    @classmethod
    def called(cls, name: str, path: str) -> InputDataset:
        """An input with its name."""
        made = cls(path)
        made.name = name
        return made

    def __enter__(self) -> InputDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The mount stays: it belongs to the run."""

    @property
    def mount_point(self) -> str:
        return str(self)

    def mount(self, mount_point: Any = None, **kwargs: Any) -> InputDataset:
        """The path; it is mounted already, so a place of the script's own choice is not made."""
        return self

    def as_mount(self, path_on_compute: Any = None) -> InputDataset:
        """The path."""
        return self

    def as_download(self, path_on_compute: Any = None) -> InputDataset:
        """The path."""
        return self

    def as_named_input(self, name: str) -> InputDataset:
        """The same input."""
        return self

    def start(self) -> None:
        """Nothing: it is mounted already."""

    def stop(self) -> None:
        """Nothing: the mount belongs to the run."""

    def to_path(self) -> list[str]:
        """The files below it, each with a leading slash, as the SDK tells them."""
        root = Path(self)
        return (
            [f"/{root.name}"] if root.is_file() else [f"/{path.relative_to(root).as_posix()}" for path in _files(root)]
        )

    def download(self, target_path: Any = None, overwrite: bool = False, **kwargs: Any) -> list[str]:
        """The paths of all files; with a target, of copies there.

        Raises:
            UserErrorException: a file is there already, and `overwrite` is not given.
        """
        root = Path(self)
        if target_path is None:
            return [str(path) for path in _files(root)]
        copies = []
        for path in _files(root):
            copy = Path(os.fsdecode(target_path)) / (path.name if root.is_file() else path.relative_to(root))
            if copy.exists() and not overwrite:
                raise UserErrorException(f"download: {copy} exists already; overwrite=True replaces it")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(path), str(copy))
            copies.append(str(copy))
        return copies

    def to_pandas_dataframe(self, *args: Any, **kwargs: Any) -> Any:
        """The table in it, with pandas.

        Raises:
            UserErrorException: it holds no table, or several.
        """
        tables = [path for path in _files(Path(self)) if path.suffix.lower() in (".csv", ".tsv", ".parquet")]
        if len(tables) != 1:
            raise UserErrorException(
                f"input {self.name}: {len(tables)} tables (.csv, .tsv, .parquet) in {self}, not one"
            )
        return read_table(str(tables[0]))


FileDataset = InputDataset


class TabularDataset:
    """Tables in local files, or at web addresses that pandas reads.

    Args:
        paths: where they are.
        **options: for the reader of pandas.
    """

    def __init__(self, paths: list[str], **options: Any) -> None:
        self.paths = paths
        self._options = options

    def to_pandas_dataframe(self, *args: Any, **kwargs: Any) -> Any:
        """All tables, one below the other."""
        tables = [read_table(path, **self._options) for path in self.paths]
        if len(tables) == 1:
            return tables[0]
        import pandas

        return pandas.concat(tables, ignore_index=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"'TabularDataset' object has no attribute {name!r}")
        not_here(f"TabularDataset.{name}", "the same on the data frame: .to_pandas_dataframe()")


def read_table(path: str, **options: Any) -> Any:
    """One table, by its file's kind."""
    import pandas

    if path.lower().endswith(".parquet"):
        return pandas.read_parquet(path, **options)
    return pandas.read_csv(path, **{"sep": "\t" if path.lower().endswith(".tsv") else ",", **options})


class Inputs(_Mapping):
    """The inputs of this run by name."""

    def __init__(self) -> None:
        self._paths = place.inputs()

    def __getitem__(self, name: str) -> InputDataset:
        if name not in self._paths:
            there = f"it has: {', '.join(sorted(self._paths))}" if self._paths else "it has none"
            not_here(
                f"The input {name!r}, which this run does not have ({there}),",
                f"mount it by the command line: 'script.arguments.data_path=${{mount:{name}}}' (`lab data ls` shows "
                "what there is), and the script gets its path",
            )
        return InputDataset.called(name, self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths


def _files(root: Path) -> list[Path]:
    return [root] if root.is_file() else [path for path in sorted(root.rglob("*")) if path.is_file()]
