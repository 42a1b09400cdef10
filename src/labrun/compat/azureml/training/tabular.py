"""The methods of all tables: steps on rows and columns, which are executed when the data frame is created."""

from __future__ import annotations

import datetime
import os
import random
import tempfile
from typing import Any

from labrun.compat.azureml import arguments
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import DatasetTimestampMissingError, NoSuchMemberError, UserErrorException
from labrun.compat.azureml.training import partitions, steps, tables, values

FRAME = "the same on the data frame: .to_pandas_dataframe()"
DESCRIBE = "describe() of the data frame: .to_pandas_dataframe().describe()"
REGISTER = "register_pandas_dataframe() of Dataset.Tabular, with the data frame that pandas.{} gives"
INSTEAD = {
    "auto_read_files": "Dataset.Tabular.from_delimited_files(path)",
    "diff": "compare() of the data frames: .to_pandas_dataframe()",
    "from_excel_files": REGISTER.format("read_excel()"),
    "from_json_files": "Dataset.Tabular.from_json_lines_files(path)",
    "from_pandas_dataframe": REGISTER.format("DataFrame()"),
    "from_sql_query": REGISTER.format("read_sql()"),
    "generate_profile": DESCRIBE,
    "list": "Dataset.get_all(workspace)",
    "summary": DESCRIBE,
    "to_dask_dataframe": FRAME,
    "to_spark_dataframe": FRAME,
    "get_profile": DESCRIBE,
    "submit_profile_run": DESCRIBE,
    "partition_by": FRAME,
    "as_hdfs": ".as_mount()",
    "as_cache": ".as_mount(): labrun caches remote data",
    "as_stream": ".as_mount()",
}


def missing(kind: str, name: str) -> Any:
    """Raise for a member that a data set does not have.

    Raises:
        AttributeError: always; with advice unless the name is private.
    """
    if name.startswith("_"):
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")
    way = INSTEAD.get(name, "docs/coming-from-azureml.md lists what data sets can do")
    raise NoSuchMemberError(f"{kind}.{name} is part of Azure ML and not of labrun. Instead: {way}")


class Missing(type):
    """Metaclass of `Dataset`: raises with advice for class methods from 2019, such as `Dataset.auto_read_files()`."""

    def __getattr__(cls, name: str) -> Any:
        return missing(cls.__name__, name)


def seed_of(seed: Any) -> int:
    """Return the seed, or a random one if it is None."""
    return random.SystemRandom().randrange(2**31) if seed is None else int(seed)


def share(call: str, value: Any) -> float:
    """Return a value as a fraction from 0 to 1.

    Raises:
        UserErrorException: it is not such a fraction.
    """
    number = values.as_number(value)
    if number is None or not 0 <= number <= 1:
        raise UserErrorException(f"{call}: {value!r} is not a fraction from 0 to 1")
    return number


def count_of(call: str, value: Any) -> int:
    """Return a value as a non-negative integer.

    Raises:
        UserErrorException: it is not a non-negative integer.
    """
    number = values.as_number(value)
    if number is None or number < 0 or number != int(number):
        raise UserErrorException(f"{call}({value!r}): give an integer of at least 0")
    return int(number)


class Tabular:
    """Mixin with the methods of a table. Subclasses define its files and its table definition."""

    def _table(self) -> Any:
        """Return the table definition; see `tables`."""
        raise NotImplementedError

    def _table_files(self) -> Any:
        """Return each file's local path and its name for the column `Path`."""
        raise NotImplementedError

    def _with_table(self, table: Any) -> Any:
        """Return the same data with another table definition."""
        raise NotImplementedError

    def _step(self, *step: Any) -> Any:
        table = self._table()
        return self._with_table({**table, "steps": [*table["steps"], list(step)]})

    def to_pandas_dataframe(self, on_error: str = "null", out_of_range_datetime: str = "null") -> Any:
        """Return the rows as a pandas.DataFrame; `columns.py` describes the column types.

        Args:
            on_error: the handling of values that do not have the requested type: `null` empties them with a notice,
                `fail` raises.
            out_of_range_datetime: the same for dates before 1677 or after 2262, which pandas cannot represent.

        Raises:
            UserErrorException: there are no tables, or they cannot be read as one table.
        """
        return tables.read(self._table_files(), self._table(), on_error, out_of_range_datetime)

    def take(self, count: int) -> Any:
        """Return the first `count` rows."""
        return self._step("take", count_of("take", count))

    def head(self, count: int) -> Any:
        """Return the first `count` rows as a data frame."""
        return self.take(count).to_pandas_dataframe()

    def skip(self, count: int) -> Any:
        """Return all but the first `count` rows."""
        return self._step("skip", count_of("skip", count))

    def sample(self, probability: float, seed: Any = None) -> Any:
        """Sample each row with this probability."""
        return self._step("split", share("sample", probability), seed_of(seed), True)

    def random_split(self, percentage: float, seed: Any = None) -> Any:
        """Split into two tables: each row goes to the first with this probability, otherwise to the second."""
        part, seed = share("random_split", percentage), seed_of(seed)
        return self._step("split", part, seed, True), self._step("split", part, seed, False)

    def drop_columns(self, columns: Any) -> Any:
        """Drop columns. As in the SDK, reading the rows only warns of a column that does not exist."""
        names = _names(columns)
        return self._timed(lambda name: name not in names)._step("drop", names)

    def keep_columns(self, columns: Any, validate: bool = False) -> Any:
        """Keep only these columns.

        Args:
            columns: a column's name, or several.
            validate: read the rows now and check that the columns exist; False: only when the rows are needed.

        Raises:
            UserErrorException: there is no such column.
        """
        names = _names(columns)
        if validate:
            steps.check_columns(self.to_pandas_dataframe(), names)
        return self._timed(lambda name: name in names)._step("keep", names)

    def filter(self, expression: Any) -> Any:
        """Keep only the rows that satisfy a comparison: `data.filter(data['age'] > 30)`."""
        if not isinstance(expression, steps.Condition):
            raise UserErrorException(f"filter({expression!r}): give a comparison, such as data['age'] > 30")
        return self._step("filter", expression.tree)

    def column(self, name: str) -> Any:
        """Return a column for `filter`."""
        return steps.Column(name)

    # Time series

    def with_timestamp_columns(
        self,
        timestamp: Any = None,
        partition_timestamp: Any = None,
        validate: bool = False,
        fine_grain_timestamp: Any = None,
        coarse_grain_timestamp: Any = None,
        **unknown: Any,
    ) -> Any:
        """Set the column with each row's timestamp, for `time_before` and similar methods.

        Args:
            timestamp: the column with the time of each row.
            partition_timestamp: a column of `partition_format`; kept.
            validate: read the rows now and check that the columns hold dates.
            fine_grain_timestamp: the older name of `timestamp`.
            coarse_grain_timestamp: the older name of `partition_timestamp`.
            **unknown: refused.

        Raises:
            UserErrorException: only the partition column is given, or a column does not hold dates.
            TypeError: there is no such argument.
        """
        arguments.check(Tabular.with_timestamp_columns, unknown)
        fine, coarse = timestamp or fine_grain_timestamp, partition_timestamp or coarse_grain_timestamp
        if coarse and not fine:
            raise UserErrorException(
                f"with_timestamp_columns: partition_timestamp={coarse!r} alone is not enough: give the column with "
                "the time of each row, timestamp=..."
            )
        if validate:
            rows = self.to_pandas_dataframe()
            for name in filter(None, (fine, coarse)):
                steps.check_dates(rows, name)
        return self._with_table({**self._table(), "timestamp": fine, "partition_timestamp": coarse})

    @property
    def timestamp_columns(self) -> Any:
        """The columns set by `with_timestamp_columns`."""
        table = self._table()
        return table.get("timestamp"), table.get("partition_timestamp")

    def _timed(self, is_there: Any) -> Any:
        """Return the same table without timestamp columns that are about to be dropped."""
        if not self._table().get("timestamp"):
            return self
        fine, coarse = (name if is_there(name) else None for name in self.timestamp_columns)
        return self.with_timestamp_columns(fine, coarse if fine else None)

    def _between(self, call: str, start: Any, end: Any, inclusive: bool) -> Any:
        name = self._table().get("timestamp")
        if not name:
            raise DatasetTimestampMissingError(
                f"{call}: first set the column that holds the time: with_timestamp_columns(name)"
            )
        strange = [one for one in (start, end) if one is not None and not hasattr(one, "isoformat")]
        if strange:
            raise UserErrorException(f"{call}({strange[0]!r}): give a datetime (UTC if it has no time zone)")
        texts = [None if one is None else one.isoformat() for one in (start, end)]
        return self._step("between", name, *texts, bool(inclusive))

    def time_before(self, end_time: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Keep the rows up to a time."""
        return self._between("time_before", None, end_time, include_boundary)

    def time_after(self, start_time: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Keep the rows from a time on."""
        return self._between("time_after", start_time, None, include_boundary)

    def time_between(self, start_time: Any, end_time: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Keep the rows between two times."""
        return self._between("time_between", start_time, end_time, include_boundary)

    def time_recent(self, time_delta: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Keep the rows from the most recent period, in UTC.

        Raises:
            UserErrorException: `time_delta` is not a `timedelta`, or no column is known to hold the time.
        """
        if not isinstance(time_delta, datetime.timedelta):
            raise UserErrorException(f"time_recent({time_delta!r}): give a timedelta, such as timedelta(days=1)")
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)  # noqa: UP017 - UTC needs Python 3.11
        return self._between("time_recent", now - time_delta, None, include_boundary)

    # As files

    @property
    def partition_keys(self) -> Any:
        """The columns that `partition_format` extracts from paths."""
        partition = self._table().get("partition")
        return partitions.keys(partition["format"]) if partition else []

    def get_partition_key_values(self, partition_keys: Any = None) -> Any:
        """Return the distinct values of these partition columns (default: of all), one dictionary per combination.

        Raises:
            UserErrorException: a name is not a partition column.
        """
        return partitions.different(self._table().get("partition"), self._table_files(), partition_keys)

    def to_csv_files(self, separator: str = ",") -> Any:
        """Write the rows to a text file and return it as a file data set."""
        return self._written("part-00000.csv", lambda frame, path: frame.to_csv(path, sep=separator, index=False))

    def to_parquet_files(self) -> Any:
        """Write the rows to a Parquet file and return it as a file data set."""
        return self._written("part-00000.parquet", lambda frame, path: frame.to_parquet(path, index=False))

    def _written(self, name: str, write: Any) -> Any:
        folder = tempfile.mkdtemp(prefix="labrun-table-")
        write(self.to_pandas_dataframe(), os.path.join(folder, name))
        return self._of_folder(folder)

    def _of_folder(self, folder: str) -> Any:
        """Return a file data set of a local folder."""
        raise NotImplementedError

    def show(self) -> Any:
        """Raise: show the data frame instead."""
        not_here("TabularDataset.show()", FRAME)


def _names(columns: Any) -> Any:
    return [columns] if isinstance(columns, str) else [str(one) for one in columns]
