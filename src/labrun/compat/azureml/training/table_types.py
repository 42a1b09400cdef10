"""What a script says of the tables that it reads: types of columns, where names stand."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import partitions


class DataType:
    """A column's type, for `set_column_types`."""

    def __init__(self, **told: Any) -> None:
        self.labrun_type = told

    def __repr__(self) -> str:
        return "DataType({})".format(self.labrun_type["type"])

    @staticmethod
    def to_string() -> DataType:
        """Text."""
        return DataType(type="string")

    @staticmethod
    def to_long() -> DataType:
        """Whole numbers."""
        return DataType(type="long")

    @staticmethod
    def to_float(decimal_mark: str = ".") -> DataType:
        """Fractions."""
        if decimal_mark != ".":
            not_here(f"DataType.to_float(decimal_mark={decimal_mark!r})", "replace it in the data frame")
        return DataType(type="float")

    @staticmethod
    def to_bool(true_values: Any = None, false_values: Any = None) -> DataType:
        """Truth values.

        Args:
            true_values: texts that stand for True, whatever their case; None: `true` and `1`.
            false_values: the same for False.
        """
        return DataType(type="bool", true=_texts(true_values), false=_texts(false_values))

    @staticmethod
    def to_datetime(formats: Any = None) -> DataType:
        """Dates.

        Args:
            formats: one or several, as `%d/%m/%Y`, tried one after the other; None: ISO 8601.
        """
        return DataType(type="datetime", formats=_texts(formats))

    @staticmethod
    def to_stream(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a column of paths is text."""
        not_here("DataType.to_stream()", "read the files by their paths: a FileDataset mounts them")


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else list(value) if value else None


class PromoteHeadersBehavior:
    """Which lines name the columns, for `header`."""

    NO_HEADERS = 0
    ONLY_FIRST_FILE_HAS_HEADERS = 1
    COMBINE_ALL_FILES_HEADERS = 2
    ALL_FILES_HAVE_SAME_HEADERS = 3


HEADERS = ("none", "first", "combine", "same")


def header_word(value: Any) -> str:
    """`header` as a table's definition has it.

    Raises:
        UserErrorException: it is none of the SDK's.
    """
    if value is None or value is True or value is False:
        return "none" if value is False else "same"
    if isinstance(value, str) and hasattr(PromoteHeadersBehavior, value.rpartition(".")[2]):
        value = getattr(PromoteHeadersBehavior, value.rpartition(".")[2])
    if isinstance(value, int) and 0 <= value < len(HEADERS):
        return HEADERS[value]
    raise UserErrorException(f"header={value!r}: True, False or one of PromoteHeadersBehavior")


def delimited(
    separator: str = ",",
    header: Any = True,
    encoding: str = "utf8",
    infer_column_types: bool = True,
    set_column_types: Any = None,
    include_path: bool = False,
    partition_format: Any = None,
    empty_as_string: bool = False,
) -> Any:
    """The definition of tables in text.

    Args: as those of the SDK's `from_delimited_files`.
    """
    return {
        "format": "delimited",
        "separator": separator,
        "header": header_word(header),
        "encoding": encoding,
        "infer": bool(infer_column_types),
        "empty_as_string": bool(empty_as_string),
        **common(set_column_types, include_path, partition_format),
    }


def common(set_column_types: Any = None, include_path: bool = False, partition_format: Any = None) -> Any:
    """What the definitions of all kinds of tables have.

    Raises:
        UserErrorException: a type is none, or the format is none.
    """
    types = {}
    for name, one in (set_column_types or {}).items():
        if not isinstance(one, DataType):
            raise UserErrorException(f"set_column_types: {name}={one!r} is not a DataType, as DataType.to_long()")
        types[str(name)] = one.labrun_type
    partition = {"partition": {"format": partitions.check(partition_format), "base": ""}} if partition_format else {}
    return {"types": types, "include_path": bool(include_path), **partition, "steps": []}


def below(table: Any, base: str) -> Any:
    """A definition that knows below which folder its files' names are, where it makes columns of them."""
    partition = (table or {}).get("partition")
    return {**table, "partition": {**partition, "base": base}} if partition else table
