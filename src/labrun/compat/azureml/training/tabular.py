"""What every table of the SDK can do: steps over rows and columns, carried out when the data frame is asked for."""

from __future__ import annotations

import datetime
import os
import random
import tempfile
from typing import Any

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
    "as_cache": ".as_mount(): labrun keeps what has come from elsewhere",
    "as_stream": ".as_mount()",
}


def missing(kind: str, name: str) -> Any:
    """Answer for a member that a data set does not have.

    Raises:
        AttributeError: always; with advice unless the name is private.
    """
    if name.startswith("_"):
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")
    way = INSTEAD.get(name, "docs/coming-from-azureml.md lists what data sets do here")
    raise NoSuchMemberError(f"{kind}.{name} is part of Azure ML and not of labrun. Instead: {way}")


class Missing(type):
    """The type of `Dataset`: it answers for what was called on the class in 2019, as `Dataset.auto_read_files()`."""

    def __getattr__(cls, name: str) -> Any:
        return missing(cls.__name__, name)


def seed_of(seed: Any) -> int:
    """A seed; another one each time if none is given."""
    return random.SystemRandom().randrange(2**31) if seed is None else int(seed)


def share(call: str, value: Any) -> float:
    """A share from 0 to 1.

    Raises:
        UserErrorException: it is none.
    """
    number = values.as_number(value)
    if number is None or not 0 <= number <= 1:
        raise UserErrorException(f"{call}: {value!r} is not a share from 0 to 1")
    return number


def count_of(call: str, value: Any) -> int:
    """A whole number from 0 on.

    Raises:
        UserErrorException: it is none.
    """
    number = values.as_number(value)
    if number is None or number < 0 or number != int(number):
        raise UserErrorException(f"{call}({value!r}): give a whole number from 0 on")
    return int(number)


class Tabular:
    """The methods of a table; what has them says what its files are and how it is read."""

    def _table(self) -> Any:
        """How it is read; see `tables`."""
        raise NotImplementedError

    def _table_files(self) -> Any:
        """For each file, where it can be read and its name as `Path` shows it."""
        raise NotImplementedError

    def _with_table(self, table: Any) -> Any:
        """The same data, read in another way."""
        raise NotImplementedError

    def _step(self, *step: Any) -> Any:
        table = self._table()
        return self._with_table({**table, "steps": [*table["steps"], list(step)]})

    def to_pandas_dataframe(self, on_error: str = "null", out_of_range_datetime: str = "null") -> Any:
        """The rows as a pandas.DataFrame; `columns.py` says which types they have.

        Args:
            on_error: a value that is none of the type that was asked for becomes empty, and that is told (`null`), or
                ends the reading (`fail`).
            out_of_range_datetime: the same of a date before 1677 or after 2262, which pandas' dates cannot hold.

        Raises:
            UserErrorException: there are no tables, or they cannot be read as one.
        """
        return tables.read(self._table_files(), self._table(), on_error, out_of_range_datetime)

    def take(self, count: int) -> Any:
        """The first rows."""
        return self._step("take", count_of("take", count))

    def head(self, count: int) -> Any:
        """A data frame of the first rows."""
        return self.take(count).to_pandas_dataframe()

    def skip(self, count: int) -> Any:
        """Without the first rows."""
        return self._step("skip", count_of("skip", count))

    def sample(self, probability: float, seed: Any = None) -> Any:
        """Each row with this probability."""
        return self._step("split", share("sample", probability), seed_of(seed), True)

    def random_split(self, percentage: float, seed: Any = None) -> Any:
        """Two tables: each row is in the first with this probability, else in the second."""
        part, seed = share("random_split", percentage), seed_of(seed)
        return self._step("split", part, seed, True), self._step("split", part, seed, False)

    def drop_columns(self, columns: Any) -> Any:
        """Without these columns; one that is not there is told when the rows are read, as is the SDK's way."""
        names = _names(columns)
        return self._timed(lambda name: name not in names)._step("drop", names)

    def keep_columns(self, columns: Any, validate: bool = False) -> Any:
        """Only these columns."""
        names = _names(columns)
        return self._timed(lambda name: name in names)._step("keep", names)

    def filter(self, expression: Any) -> Any:
        """Only rows of which a comparison is true: `data.filter(data['age'] > 30)`."""
        if not isinstance(expression, steps.Condition):
            raise UserErrorException(f"filter({expression!r}): give a comparison, as data['age'] > 30")
        return self._step("filter", expression.told)

    def column(self, name: str) -> Any:
        """A column, for `filter`."""
        return steps.Column(name)

    # Time series

    def with_timestamp_columns(
        self,
        timestamp: Any = None,
        partition_timestamp: Any = None,
        validate: bool = False,
        fine_grain_timestamp: Any = None,
        coarse_grain_timestamp: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Say which column holds the time of a row, for `time_before` and the like.

        Raises:
            UserErrorException: the column of the partitions alone is named.
        """
        fine, coarse = timestamp or fine_grain_timestamp, partition_timestamp or coarse_grain_timestamp
        if coarse and not fine:
            raise UserErrorException(
                f"with_timestamp_columns: partition_timestamp={coarse!r} alone says too little: name the column with "
                "the time of each row, timestamp=..."
            )
        return self._with_table({**self._table(), "timestamp": fine, "partition_timestamp": coarse})

    @property
    def timestamp_columns(self) -> Any:
        """The columns that `with_timestamp_columns` named."""
        table = self._table()
        return table.get("timestamp"), table.get("partition_timestamp")

    def _timed(self, is_there: Any) -> Any:
        """The same; a column of times that will not be there is one no longer."""
        if not self._table().get("timestamp"):
            return self
        fine, coarse = (name if is_there(name) else None for name in self.timestamp_columns)
        return self.with_timestamp_columns(fine, coarse if fine else None)

    def _between(self, call: str, start: Any, end: Any, inclusive: bool) -> Any:
        name = self._table().get("timestamp")
        if not name:
            raise DatasetTimestampMissingError(
                f"{call}: say first which column holds the time: with_timestamp_columns(name)"
            )
        strange = [one for one in (start, end) if one is not None and not hasattr(one, "isoformat")]
        if strange:
            raise UserErrorException(f"{call}({strange[0]!r}): give a datetime; one without a time zone is UTC")
        texts = [None if one is None else one.isoformat() for one in (start, end)]
        return self._step("between", name, *texts, bool(inclusive))

    def time_before(self, end_time: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Rows up to a time."""
        return self._between("time_before", None, end_time, include_boundary)

    def time_after(self, start_time: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Rows from a time on."""
        return self._between("time_after", start_time, None, include_boundary)

    def time_between(self, start_time: Any, end_time: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Rows between two times."""
        return self._between("time_between", start_time, end_time, include_boundary)

    def time_recent(self, time_delta: Any, include_boundary: bool = True, validate: bool = True) -> Any:
        """Rows of the time just gone by, in UTC."""
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)  # noqa: UP017 - UTC is of Python 3.11
        return self._between("time_recent", now - time_delta, None, include_boundary)

    # As files

    @property
    def partition_keys(self) -> Any:
        """The columns that `partition_format` makes of paths."""
        partition = self._table().get("partition")
        return partitions.keys(partition["format"]) if partition else []

    def get_partition_key_values(self, partition_keys: Any = None) -> Any:
        """The different values of these columns, or of all that are made of paths: a dictionary for each.

        Raises:
            UserErrorException: a name is none of them.
        """
        return partitions.different(self._table().get("partition"), self._table_files(), partition_keys)

    def to_csv_files(self, separator: str = ",") -> Any:
        """The rows as a file of text, in a data set of files."""
        return self._written("part-00000.csv", lambda frame, path: frame.to_csv(path, sep=separator, index=False))

    def to_parquet_files(self) -> Any:
        """The rows as a Parquet file, in a data set of files."""
        return self._written("part-00000.parquet", lambda frame, path: frame.to_parquet(path, index=False))

    def _written(self, name: str, write: Any) -> Any:
        folder = tempfile.mkdtemp(prefix="labrun-table-")
        write(self.to_pandas_dataframe(), os.path.join(folder, name))
        return self._of_folder(folder)

    def _of_folder(self, folder: str) -> Any:
        """A data set of the files in a local folder."""
        raise NotImplementedError

    def show(self) -> Any:
        """Not in labrun: the data frame is shown by whoever has it."""
        not_here("TabularDataset.show()", FRAME)


def _names(columns: Any) -> Any:
    return [columns] if isinstance(columns, str) else [str(one) for one in columns]
