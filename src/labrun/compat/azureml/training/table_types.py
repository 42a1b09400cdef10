"""The SDK's column types and header options, and the table definitions made from them."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import partitions


class DataType:
    """A column's type, for `set_column_types`."""

    def __init__(self, **parts: Any) -> None:
        self.labrun_type = parts

    def __repr__(self) -> str:
        return "DataType({})".format(self.labrun_type["type"])

    @staticmethod
    def to_string() -> DataType:
        """Return the type for text."""
        return DataType(type="string")

    @staticmethod
    def to_long() -> DataType:
        """Return the type for integers."""
        return DataType(type="long")

    @staticmethod
    def to_float(decimal_mark: str = ".") -> DataType:
        """Return the type for floating-point numbers."""
        if decimal_mark != ".":
            not_here(f"DataType.to_float(decimal_mark={decimal_mark!r})", "replace it in the data frame")
        return DataType(type="float")

    @staticmethod
    def to_bool(true_values: Any = None, false_values: Any = None) -> DataType:
        """Return the type for booleans.

        Args:
            true_values: strings that mean True, case-insensitive; None: `true` and `1`.
            false_values: strings that mean False; None: `false` and `0`.
        """
        return DataType(type="bool", true=_texts(true_values), false=_texts(false_values))

    @staticmethod
    def to_datetime(formats: Any = None) -> DataType:
        """Return the type for dates.

        Args:
            formats: one or more formats such as `%d/%m/%Y`, tried in order; None: ISO 8601.
        """
        return DataType(type="datetime", formats=_texts(formats))

    @staticmethod
    def to_stream(*args: Any, **kwargs: Any) -> Any:
        """Raise: in labrun a column of paths is text."""
        not_here("DataType.to_stream()", "read the files by their paths: a FileDataset mounts them")


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else list(value) if value else None


class PromoteHeadersBehavior:
    """The lines that hold the column names, for `header`."""

    NO_HEADERS = 0
    ONLY_FIRST_FILE_HAS_HEADERS = 1
    COMBINE_ALL_FILES_HEADERS = 2
    ALL_FILES_HAVE_SAME_HEADERS = 3


HEADERS = ("none", "first", "combine", "same")


def header_word(value: Any) -> str:
    """Convert `header` to its value in a table definition.

    Raises:
        UserErrorException: it is not one of the SDK's values.
    """
    if value is None or value is True or value is False:
        return "none" if value is False else "same"
    if isinstance(value, str) and hasattr(PromoteHeadersBehavior, value.rpartition(".")[2]):
        value = getattr(PromoteHeadersBehavior, value.rpartition(".")[2])
    if isinstance(value, int) and 0 <= value < len(HEADERS):
        return HEADERS[value]
    raise UserErrorException(f"header={value!r}: choose True, False or one of PromoteHeadersBehavior")


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
    """Return the table definition for delimited text; the arguments are those of the SDK's `from_delimited_files`."""
    return {
        "format": "delimited",
        "separator": separator,
        "header": header_word(header),
        "encoding": encoding,
        "infer": bool(infer_column_types),
        "empty_as_string": bool(empty_as_string),
        **common(set_column_types, include_path, partition_format),
    }


def json_lines(
    set_column_types: Any = None,
    include_path: bool = False,
    partition_format: Any = None,
    invalid_lines: str = "error",
    encoding: str = "utf8",
) -> Any:
    """Return the table definition for JSON Lines; the arguments are those of the SDK's `from_json_lines_files`.

    Raises:
        UserErrorException: `invalid_lines` is not one of the SDK's values; see also `common`.
    """
    if invalid_lines not in ("error", "drop"):
        raise UserErrorException(f"invalid_lines={invalid_lines!r}: choose 'error' or 'drop'")
    shared = common(set_column_types, include_path, partition_format)
    return {"format": "json", "invalid_lines": invalid_lines, "encoding": encoding, **shared}


def common(set_column_types: Any = None, include_path: bool = False, partition_format: Any = None) -> Any:
    """Return the part of a table definition that all formats share.

    Raises:
        UserErrorException: a type is not a `DataType`, or the partition format is invalid.
    """
    types = {}
    for name, one in (set_column_types or {}).items():
        if not isinstance(one, DataType):
            raise UserErrorException(f"set_column_types: {name}={one!r} is not a DataType such as DataType.to_long()")
        types[str(name)] = one.labrun_type
    partition = {"partition": {"format": partitions.check(partition_format), "base": ""}} if partition_format else {}
    return {"types": types, "include_path": bool(include_path), **partition, "steps": []}


def below(table: Any, base: str) -> Any:
    """Return a table definition that stores the files' base folder if it extracts columns from paths."""
    partition = (table or {}).get("partition")
    return {**table, "partition": {**partition, "base": base}} if partition else table
