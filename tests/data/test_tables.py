"""Real-world tables: detection of columns and labels, questions to the user, and what is reported."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import lzma
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labrun.data import reader
from labrun.data.arrays import Arrays
from labrun.data.readers.columns import KnownTable, TableSchema
from labrun.data.readers.number_parsing import number
from labrun.errors import ConfigError, DataError, MissingExtraError

Read = Callable[..., Arrays]
COUNT = 60
AB = ["a", "b"]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def of(content: str | bytes, **keys: Any) -> Arrays:
        (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        node = {"_target_": "labrun.data.readers.Csv", "name": "t", "path": "t.csv", "scale": 1.0, **keys}
        return reader.read(node, tmp_path, tables=True)

    return of


def text(separator: str = ",", end: str = "\n", **columns: Sequence[Any]) -> str:
    """A table whose values are repeated in each column; a column `y` is added if missing."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    columns = columns if "y" in columns else {**columns, "y": AB}
    writer.writerow(columns)
    writer.writerows([values[i % len(values)] for values in columns.values()] for i in range(COUNT))
    return file.getvalue()


def column(found: Arrays, name: str) -> list[Any]:
    """Of a table, in the order of the file: the seed decides which samples are in the test split."""
    assert found.table is not None
    place = found.table.names.index(name)
    parts = (found.train.x, found.test.x)
    return [v for x in parts for v in (x.iloc[:, place] if hasattr(x, "iloc") else x[:, place]).tolist()]


def kinds(found: Arrays) -> dict[str, str]:
    assert found.table is not None
    return {one.name: one.kind for one in found.table.columns}


def test_blanks_in_a_column_of_numbers_count_as_missing(read: Read) -> None:
    found = read(
        text(
            customerID=[f"{1000 + i}-ABC" for i in range(COUNT)],
            tenure=range(20),
            TotalCharges=[" ", *(f"{i}.5" for i in range(19))],
            Contract=["Month-to-month", "One year"],
            y=["No", "Yes", "Yes"],
        )
    )
    assert found.class_names == ("No", "Yes")
    assert kinds(found) == {"tenure": "number", "TotalCharges": "number", "Contract": "category"}
    assert found.notes[0].startswith(
        "numbers: tenure, TotalCharges; categories: Contract (2 levels); looks like an id: customerID, left out (set "
        "dataset.ignore=[customerID]"
    )
    assert found.notes[1] == "missing values: TotalCharges (3)"
    assert np.isnan(column(found, "TotalCharges")).sum() == 3


def test_ids_and_names_are_left_out_of_a_table(read: Read) -> None:
    names = [f"Allen, Mr. No {i}" for i in range(COUNT)]
    found = read(
        text(
            PassengerId=range(1, COUNT + 1),
            Survived=[0, 1],
            Pclass=[1, 2, 3],
            Name=names,
            Sex=["male", "female"],
            Age=["", 22, 38, 0.42],
            Cabin=["", "C85", "", ""],
            y=["S", "C", ""],
        ),
        target="Survived",
    )
    assert found.class_names == ("0", "1")
    assert found.table is not None and set(found.table.left_out) == {"PassengerId", "Name"}
    assert set(column(found, "Cabin")) == {None, "C85"} and set(column(found, "y")) == {"S", "C", None}
    kept = read(
        text(PassengerId=range(1, COUNT + 1), Pclass=["1", "2"]), numbers=["PassengerId"], categories=["Pclass"]
    )
    assert kinds(kept) == {"PassengerId": "number", "Pclass": "category"} and set(column(kept, "Pclass")) == {"1", "2"}


def test_question_marks_count_as_missing_and_blanks_are_stripped(read: Read) -> None:
    lines = [
        f"{20 + i}, {['State-gov', '?'][i % 2]}, {['?', '77516'][i % 2]}, {['<=50K', '>50K'][i % 2]}"
        for i in range(COUNT)
    ]
    found = read("\n".join(["age, workclass, fnlwgt, income", *lines]))
    assert found.class_names == ("<=50K", ">50K") and set(column(found, "workclass")) == {"State-gov", "?"}
    assert "fnlwgt: '?' (30 times) counts as missing" in found.notes


@pytest.mark.parametrize(
    ("labels", "classes", "note"),
    [
        (["NA", "None", "nan"], ("NA", "None", "nan"), "treated as an ordinary class"),
        (["01", "1", "1.0"], ("01", "1", "1.0"), "are different classes: labels are text"),
        (["True", "False"], ("False", "True"), ""),
        (["yes", "Yes"], ("Yes", "yes"), "'Yes' and 'yes' are different classes"),
        ([" a ", "b"], ("a", "b"), ""),
        (["0.0", "1.0"], ("0.0", "1.0"), ""),
        (list(range(12)), tuple(map(str, range(12))), ""),
        (list(range(30)), tuple(map(str, range(30))), "30 different numbers are treated as classes"),
        (["1e3", "1000"], ("1000", "1e3"), "are different classes"),
    ],
)
def test_labels_are_kept_as_text_in_the_file(
    read: Read, labels: list[Any], classes: tuple[str, ...], note: str
) -> None:
    found = read(text(x=[0.5, 1.5, 2.25], y=labels))
    assert found.class_names == classes and note in "; ".join(found.notes)
    counts = np.bincount(np.concatenate([found.train.y, found.test.y]))
    assert counts.tolist() == [COUNT // len(labels)] * len(classes)


@pytest.mark.parametrize(
    ("labels", "keys", "words"),
    [
        ([" ", ""], {}, "target column 'y' has no value in any row"),
        ([0.5, 1, 1.5], {}, r"holds fractions such as .*: that is a quantity, not a class.*dataset.regression=true"),
        (list(range(COUNT)), {}, "a quantity or an identifier"),
        (["1", "x"], {"regression": True}, "30 values are not numbers, such as 'x'"),
        (["NA"], {"regression": True}, "has no value in any row"),
    ],
)
def test_invalid_labels_are_refused(read: Read, labels: list[Any], keys: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(text(x=[0.5, 1.5], y=labels), **keys)


@pytest.mark.parametrize(
    ("values", "decimal", "wanted"),
    [
        ("1,234", ".", 1234),
        ("1,234,567.5", ".", 1234567.5),
        ("$1,200.50", ".", 1200.5),
        ("-$5", ".", -5),
        ("12.5%", ".", 12.5),
        ("(1,200)", ".", -1200),
        ("1 234.5", ".", 1234.5),
        ("1'234", ".", 1234),
        ("+.5", ".", 0.5),
        ("\u22125", ".", -5),
        ("1.234,56", ",", 1234.56),
        ("1.234", ",", 1234),
        ("5 €", ",", 5),
        ("€ 5,5", ",", 5.5),
        ("1,5", ".", None),
        ("1,23,456", ".", None),
        ("12 kg", ".", None),
        ("1-2", ".", None),
        ("", ".", None),
        (".", ".", None),
        ("-", ".", None),
        ("e5", ".", None),
        ("1e5", ".", 1e5),
        ("inf", ".", None),
        ("0x1A", ".", None),
        ("1_000", ".", 1000),
        ("1.5", ",", None),
        ("10.0.0.1", ".", None),
        ("(-5)", ".", None),
    ],
)
def test_numbers_are_parsed_in_many_formats(values: str, decimal: str, wanted: float | None) -> None:
    assert number(values, decimal) == wanted


@pytest.mark.parametrize(
    ("content", "name", "first"),
    [
        (text(p=["1,234", "12,345", "987"]), "p", {1234, 12345, 987}),
        (text(p=["$1,234.50", "$3.25"]), "p", {1234.5, 3.25}),
        (text(p=["12.5%", "3%"]), "p", {12.5, 3}),
        (text(";", p=["1.234,50", "3,25"]), "p", {1234.5, 3.25}),
        (text(";", p=["1.234", "2.500"], q=["0,5", "1,5"]), "p", {1234, 2500}),
        (text(p=["true", "FALSE", ""]), "p", {1, 0}),
        (text(p=["5%", "0", "7 %"]), "p", {5, 0, 7}),
        (text(";", p=["1.125", "2.5"]), "p", {1.125, 2.5}),
        (text(";", p=["1.125", "1234"]), "p", {1.125, 1234}),
        (text(p=["1", "2", "n/a", "?"]), "p", {1, 2}),
    ],
)
def test_columns_of_numbers_are_recognized(read: Read, content: str, name: str, first: set[float]) -> None:
    found = read(content)
    assert kinds(found)[name] == "number" and {v for v in column(found, name) if v == v} == first


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        (["2020-01-31", "2020-02-01", ""], {0, 1}),
        (["31/01/2020", "01/02/2020"], {0, 1}),
        (["01/31/2020", "02/01/2020"], {0, 1}),
        (["31.1.2020", "1.2.2020"], {0, 1}),
        (["May 1, 2020", "May 2, 2020"], {0, 1}),
        (["20200131", "20200201", "20200202"], {0, 1, 2}),
        (["2020-01-31 12:00:00", "2020-01-31T18:00:00Z"], {0.5, 0.75}),
    ],
)
def test_dates_are_days_since_the_first(read: Read, dates: list[str], days: set[float]) -> None:
    found = read(text(d=dates, x=[0.5, 1.5]))
    assert kinds(found)["d"] == "date" and {v for v in column(found, "d") if v == v} == days
    assert "dates: d (as days since 2020-0" in found.notes[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (text(";", p=["1,234", "2,500"]), r"'1,234' in the column 'p' may be 1234 or 1\.234: use dataset\.decimal"),
        (text(";", p=["1,5"], q=["2.25"]), r"decimal points \('2\.25' in 'q'\) and commas \('1,5' in 'p'; .*\)"),
        (text(p=["0", "1", "2", "0", "1", "2", "0", "1", "2", "3+"]), r"'3\+'.*dataset\.numbers=\[p\].*dataset\.categ"),
        (text(";", p=["1.234", "2.500"]), r"'1\.234' in the column 'p' may be 1\.234 or 1234: use dataset\.decimal"),
        (text(";", p=["1.000", "12", "0"]), r"'1\.000' in the column 'p' may be 1\.000 or 1000"),
        (text(p=["5%", "0.05"]), r"percentages \('5%'\) next to '0\.05'.*dataset\.numbers=\[p\]"),
        (text(p=["$5", "€6"]), r"with \$ and €.*dataset\.categories=\[p\]"),
        (text(d=["01/02/2020", "03/04/2021"]), "day and month cannot .*: set 'dataset.dates={d: \"%d/%m/%Y\"}'"),
        (text(d=["2020-01-01"] * 9 + ["soon"]), r"'2020-01-01' next to other text such as 'soon'.*dataset\.categories"),
        ("1.5,2,a\n2.5,3,b\n3.5,4,a\n", "looks like the lines below it. Set dataset.header=false"),
        ("a,y\n1,x\n2\n3,z\n", "row 2 below the first line has 1 values, but the first line has 2 .*'2'"),
        ('a,y\n"1",1.5,x\n"2",2.5,z\n', "names 2 columns, but each line below has 3"),
        ("a,a,y\n1,2,x\n3,4,z\n", "more than one column named 'a'"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not text"),
        (b"", "it is empty"),
        (text(";", p=["1,5"], y=["Привет", "Мир"]).encode("cp1251"), "encoding is unclear.*'Ïðèâåò'.*dataset.encoding"),
        (text(p=["1.5"], y=["Größe", "b"]).encode("mac_roman"), "encoding is unclear.*'Grš§e'"),
        (text(p=["1.5"], y=["Wałęsa", "b"]).encode("iso8859-2"), "encoding is unclear"),
        (text(p=["1.5"], y=["日本語", "b"]).encode("shift_jis"), "encoding is unclear"),
        (b"name, first;city, x\nSmith, A;Rome, I\nJo, B;Oslo, N\n", "separator=semicolon or dataset.separator=comma"),
        (b"Report\n\n" + text(a=[0.5, 1.5]).encode(), "2 lines above the table, such as 'Report': set .*skip_rows=2"),
        (b"Report;;\n" + text(";", a=[0.5, 1.5], b=[2]).encode(), "names 1 of 3 columns .Report.: set .*skip_rows=N"),
        (text(a=[0.5]).encode("utf-16")[:-1], "not text in utf-16"),
        (gzip.compress(text(a=[0.5]).encode(), mtime=0)[:-20], "not a readable table"),
        (gzip.compress(text(a=[0.5]).encode(), mtime=0)[:20] + b"x" * 60, "not a readable table"),
        (gzip.compress(bytes(257) + b"ustar" + bytes(300), mtime=0), "an archive .tar."),
        (b"PK\x03\x04garbage", "not a readable table"),
        (b"PAR1garbagePAR1", "not a readable Parquet file"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b'[{"a": 1}]', "is JSON"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an Excel file from before 2007"),
    ],
)
def test_ambiguous_tables_are_refused_with_the_key_that_decides(read: Read, content: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(content)


def test_ambiguities_are_resolved_by_the_suggested_keys(read: Read) -> None:
    assert column(read(text(";", p=["1,234"]), decimal=","), "p")[0] == pytest.approx(1.234)
    assert column(read(text(";", p=["1,234"]), decimal="."), "p")[0] == 1234
    found = read(text(p=["0", "1", "2", "3", "3+"]), numbers=["p"])
    assert np.isnan(column(found, "p")).sum() == 12
    assert "p: 12 values are not numbers, such as '3+', and count as missing" in found.notes
    assert set(column(read(text(p=["0", "3+"]), categories=["p"]), "p")) == {"0", "3+"}
    assert set(column(read(text(d=["01/02/2020", "03/02/2020"]), dates={"d": "%d/%m/%Y"}), "d")) == {0, 2}
    assert read("1.5,2,a\n2.5,3,b\n3.5,4,a\n1,1,b\n", header=False).input_shape == (2,)
    for content, decimal in ((text(";", p=["1,5"]), "."), (text(p=["1.5"]), ",")):
        with pytest.raises(DataError, match=rf"'1.5' in the column 'p' is a number if dataset.decimal='[^{decimal}]'"):
            read(content, decimal=decimal)
    for keys, words in (
        ({"numbers": ["q"]}, "dataset.numbers='q'.*no such column"),
        ({"numbers": ["p"], "ignore": ["p"]}, "both list 'p'"),
        ({"encoding": "klingon"}, "no such encoding"),
        ({"separator": "ab"}, "one character"),
        ({"dates": {"p": "%d"}}, "is not a date of the form"),
    ):
        with pytest.raises((ConfigError, DataError), match=words):
            read(text(p=["x", "z"]), **keys)


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**members, "__MACOSX/x": ""}.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        text(a=[0.5, 1.5], b=[2.5, 3.5]).encode("utf-8-sig"),
        text(end="\r\n", a=[0.5, 1.5], b=[2.5, 3.5]).encode("utf-16"),
        text(";", a=["0,5", "1,5"], b=["2,5", "3,5"]).encode(),
        text("\t", a=[0.5, 1.5], b=[2.5, 3.5]).encode(),
        text("|", a=[0.5, 1.5], b=[2.5, 3.5]).encode(),
        text(" ", a=[0.5, 1.5], b=[2.5, 3.5]).replace(" ", "   ").encode(),
        b"sep=;\r\n" + text(";", a=[0.5, 1.5], b=[2.5, 3.5]).encode(),
        text(";", a=[0.5, 1.5], b=[2.5, 3.5]).replace("\n", ";\n").replace("y;", "y", 1).encode(),
        (text(a=[0.5, 1.5], b=[2.5, 3.5]) + ",,\n,,\n").encode(),
        text(a=[0.5, 1.5], b=[2.5, 3.5]).replace("\n", "\r").encode(),
        *(text(a=[0.5, 1.5], b=[2.5, 3.5]).encode(f"utf-{name}") for name in ("16-le", "16-be", "32-le", "32-be")),
        b"sep=\t\r\n" + text("\t", "\r\n", a=["0,5", "1,5"], b=[2.5, 3.5]).replace(".", ",").encode(),
        b'\xef\xbb\xbf"sep=;"\r' + text(";", "\r", a=[0.5, 1.5], b=[2.5, 3.5]).encode(),
        b"sep=;\n" + text(a=[0.5, 1.5], b=[2.5, 3.5]).encode(),
        text(";", a=[0.5, 1.5], b=[2.5, 3.5]).replace("\n", ";;\n").encode("utf-8-sig"),
        b"\n,,\n" + text(a=[0.5, 1.5], b=[2.5, 3.5]).encode(),
        *(pack(text(a=[0.5, 1.5], b=[2.5, 3.5]).encode()) for pack in (gzip.compress, bz2.compress, lzma.compress)),
        zipped(table=text(a=[0.5, 1.5], b=[2.5, 3.5])),
    ],
    ids=lambda content: f"{len(content)} bytes or characters",
)
def test_files_of_common_programs_are_read(read: Read, content: bytes) -> None:
    found = read(content)
    assert kinds(found) == {"a": "number", "b": "number"} and found.class_names == ("a", "b")
    assert set(column(found, "a")) == {0.5, 1.5} and len(found.train) + len(found.test) == COUNT


def test_the_windows_encoding_is_detected_and_reported(read: Read) -> None:
    found = read(text(größe=[0.5, 1.5], y=["Öl", "Gas"]).encode("cp1252"))
    assert found.class_names == ("Gas", "Öl")
    assert any("read as cp1252 (Windows), such as 'größe'" in note for note in found.notes)
    assert read(text(größe=[0.5]).encode("cp1250"), encoding="cp1250").table is not None


def test_a_quantity_has_the_decimal_sign_of_its_table(read: Read) -> None:
    found = read(text(";", x=[1, 2], y=["1.234,5", "7,25"]), regression=True)
    assert set(found.train.y) == {1234.5, 7.25} and found.class_names == ()
    assert set(read(text(x=[1, 2], y=["$1,234.5", "7"]), regression=True).train.y) == {1234.5, 7}
    with pytest.raises(DataError, match=r"'1,234' in the column 'y' may be 1234 or 1\.234"):
        read(text(";", x=[1, 2], y=["1,234"]), regression=True)


def test_only_certain_ids_are_detected(read: Read) -> None:
    values = {
        "population": [i * 37 % 1009 for i in range(COUNT)],
        "paid": [0, 1],
        "weight": [f"{i}.5 kg" for i in range(COUNT)],
        "time": [f"{i % 24}:{i:02}:07" for i in range(COUNT)],
        "lap": [f"1:{i:02}.5" for i in range(COUNT)],
        "height": [i * 1.5 for i in range(COUNT)],
        "zip": [f"{i:05}" for i in range(30)],
        "store_id": [1, 2, 3],
    }
    found = read(text(**values))
    assert found.table is not None and found.table.left_out == {}
    assert kinds(found)["zip"] == "category" and kinds(found)["weight"] == "category"
    for name in ("id", "user_id", "UserId", "customerID", "Unnamed: 0", "index"):
        left = read(text(**{name: [i * 7 for i in range(COUNT)], "x": [0.5, 1.5]})).table
        assert left is not None and list(left.left_out) == [name]
    counted = read(text(no=range(COUNT), x=[0.5, 1.5])).table
    assert counted is not None and list(counted.left_out) == ["no"], "it counts the rows"
    assert kinds(read(text(id=range(COUNT)))) == {"id": "number"}, "no other column to learn from"


def test_a_test_file_is_read_like_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(text(id=range(COUNT), x=["1", "2"], c=["a", "b"]))
    (tmp_path / "test.csv").write_text("y,x,c,id\na,1.5,new,0\nb,,a,1\n")
    node = {
        "_target_": "labrun.data.readers.Csv",
        "name": "t",
        "path": "train.csv",
        "test_path": "test.csv",
        "scale": 1.0,
    }
    found = reader.read({**node, "target": "y"}, tmp_path, tables=True)
    assert len(found.test) == 2 and found.test.y.tolist() == [0, 1] and kinds(found) == {"x": "number", "c": "category"}
    test: Any = found.test.x
    assert test["c"].tolist() == ["new", "a"] and test["x"].iloc[0] == 1.5 and np.isnan(test["x"].iloc[1])


def test_the_format_of_a_file_is_reported(read: Read) -> None:
    for content, words in (
        (text(";", a=["0,5"]), "columns are separated by semicolons"),
        (text("|", a=[0.5]), "columns are separated by |"),
        (text("\t", a=[0.5]).encode("utf-16-le"), "UTF-16-LE, without a mark"),
        (b"sep=\t\n" + text("\t", a=[0.5]).encode(), "columns are separated by tabs, as its first line says"),
        (text(";", a=[0.5]).replace("\n", ";\n"), "left out: 1 column without a name or a value"),
    ):
        assert any(words in note for note in read(content, numbers=["a"]).notes), words
    with pytest.raises(DataError, match=r"holds 2 files \(a, b\)"):
        read(zipped(a="1", b="2"))
    for keys, words in (
        ({"encoding": "hex"}, "not an encoding of text"),
        ({"encoding": "a\0"}, "no such encoding"),
        ({"sheet": 1}, "a text file, which has none"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(text(a=[0.5]), **keys)
    with pytest.raises(ConfigError, match="begins with the byte order mark of UTF-8"):
        read(text(a=[0.5]).encode("utf-8-sig"), encoding="cp1252")
    for separator, given in (("\t", r"\t"), ("\t", "tab"), ("|", "pipe"), (";", "semicolon")):
        assert kinds(read(text(separator, a=[0.5, 1]), separator=given)) == {"a": "number"}
    for decimal in ("comma", ","):
        assert column(read(text(";", a=["1,234"]), decimal=decimal), "a")[0] == pytest.approx(1.234)


def test_a_total_row_is_not_a_sample(read: Read) -> None:
    table = text(";", id=[f"A-{n}" for n in range(60)], x=["1,5", "2,5"], z=[7], k=["a", "b"], y=["3,5", "4,5", "5,5"])
    found = read(f"{table}Summe;;;;105,0\n", regression=True)
    assert len(found.train) + len(found.test) == 60 and found.train.y.max() == 5.5
    assert (
        "left out: 1 row without a value in any column to learn from, such as that with 'Summe' in 'id' (t.csv)"
        in found.notes
    )
    found = read(f"{table}Total;90,5;;;105,0\n", regression=True)
    assert len(found.train) + len(found.test) == 61
    assert "the last row may be a total ('Total'): delete it if it is one (t.csv)" in found.notes


def test_rows_without_a_target_are_left_out_and_counted(read: Read, tmp_path: Path) -> None:
    found = read(text(x=[0.5, 1.5], y=["a", "b", " "]))
    assert len(found.train) + len(found.test) == 40 and found.class_names == ("a", "b")
    assert "left out: 20 rows without a value of y, the target" in found.notes
    found = read(text(x=[0.5, 1.5], y=["1.5", "n/a", "2"]), regression=True)
    assert set(found.train.y) == {1.5, 2} and any("left out: 20 rows" in note for note in found.notes)
    assert read(text(x=[0.5], y=["a", "NA"])).class_names == ("NA", "a"), "a label like others, and reported"
    (tmp_path / "test.csv").write_text("x,y\n1,a\n2,\n3,b\n")
    found = read(text(x=[0.5, 1.5]), test_path="test.csv")
    assert len(found.test) == 2 and "left out: 1 row without a value of y, the target (test.csv)" in found.notes


def frame() -> Any:
    import pandas as pd

    count = 20
    return pd.DataFrame(
        {
            "size": [0.1 + 0.2, None, 1e-7, 2.5] * 5,
            "rooms": pd.array([1, 2, None, 12345678901] * 5, dtype="Int64"),
            "zip": ["007", "010"] * 10,
            "since": pd.to_datetime(["2020-01-31", "2020-02-01"] * 10),
            "new": pd.array([True, False, None, True] * 5, dtype="boolean"),
            "kind": ["b", "c", None, "d"] * 5,
            "klass": ["u", "v", "v", None] * 5,
        },
        index=range(count),
    )


def test_parquet_and_excel_files_are_read_like_text(tmp_path: Path) -> None:
    """Their values are interpreted as in the same table in a text file."""
    from pandas.testing import assert_frame_equal

    made = frame()
    made.assign(parts=[[1]] * 20).to_parquet(tmp_path / "t.parquet", index=True)
    made.to_excel(tmp_path / "t.xlsx", index=False)
    made.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.bin").write_bytes(gzip.compress((tmp_path / "t.parquet").read_bytes()))
    node = {"_target_": "labrun.data.readers.Csv", "name": "t", "scale": 1.0}
    first = reader.read({**node, "path": "t.csv"}, tmp_path, tables=True)
    assert kinds(first) == {
        "size": "number",
        "rooms": "number",
        "zip": "category",
        "since": "date",
        "new": "number",
        "kind": "category",
    }
    for name in ("t.parquet", "t.xlsx", "t.bin"):
        found = reader.read({**node, "path": name}, tmp_path, tables=True)
        assert found.table == first.table and found.class_names == ("u", "v") and len(found.test) == len(first.test)
        assert_frame_equal(found.train.x, first.train.x)  # type: ignore[arg-type]
        assert "left out: 5 rows without a value of klass, the target" in found.notes
        assert ("parts (list<" in "; ".join(found.notes)) == (name != "t.xlsx")
    with pytest.raises(ConfigError, match=r"dataset\.separator=';': .* is of the kind Parquet"):
        reader.read({**node, "path": "t.parquet", "separator": ";"}, tmp_path)


def test_sheets_errors_and_formulas_of_excel_are_handled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    one, two = book.active, book.create_sheet("Two")
    for sheet, last in ((one, "#DIV/0!"), (two, 4.5)):
        for row in [
            ["a", "when", "y"],
            *([n + 0.5, datetime.date(2020, 1, 1 + n), "uv"[n % 2]] for n in range(12)),
            [last, None, "u"],
        ]:
            sheet.append(row)
    one["A14"].data_type = "e"
    book.save(tmp_path / "t.xlsx")
    node = {"_target_": "labrun.data.readers.Csv", "name": "t", "scale": 1.0, "path": "t.xlsx"}
    with pytest.raises(DataError, match=r"several sheets with values \('Sheet', 'Two'\): set dataset.sheet='Sheet'"):
        reader.read(node, tmp_path)
    with pytest.raises(ConfigError, match="no such sheet. Did you mean 'Two'"):
        reader.read({**node, "sheet": "Tow"}, tmp_path)
    found = reader.read({**node, "sheet": 1}, tmp_path, tables=True)
    assert kinds(found) == {"a": "number", "when": "date"} and np.isnan(column(found, "a")).sum() == 1
    assert "Excel errors, such as #N/A, count as missing: 1 cell" in "; ".join(found.notes)
    two["A5"] = "=A4+1"
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match=r"the cell A5 holds a formula that was never calculated \(=A4\+1\)"):
        reader.read({**node, "sheet": "Two"}, tmp_path)
    for name, package in (("t.xlsx", "openpyxl"), ("t.parquet", "pyarrow")):
        (tmp_path / "t.parquet").write_bytes(b"PAR1 PAR1")
        monkeypatch.setitem(sys.modules, package, None)
        for act in (reader.read, reader.prepare):  # before anything runs, too
            with pytest.raises(MissingExtraError, match=rf"{name}.* needs the package '{package}'.*labrun\[tables\]"):
                act({**node, "path": name}, tmp_path)


def test_a_later_table_may_have_the_other_decimal_sign(tmp_path: Path) -> None:
    made = reader.make_reader({"_target_": "labrun.data.readers.Csv", "name": "t", "path": "t.csv"})
    (tmp_path / "t.csv").write_text(text(";", a=["0,5", "1,25"]))
    table = made.read(tmp_path).table
    assert table is not None
    made.known = KnownTable(TableSchema.of(table.content()), tuple(AB))
    (tmp_path / "t.csv").write_text(text(a=[0.5, 1.25]))
    found = made.read(tmp_path)
    assert set(found.train.x[:, 0].tolist()) == {0.5, 1.25}
    assert "decimal points, where the model's own table has commas" in found.notes


def test_values_that_single_precision_merges_are_reported(read: Read) -> None:
    times = [1_600_000_000 + 7 * i for i in range(COUNT)]
    found = read(text(time=times, x=[0.1, 0.2, 1e9], y=AB))
    (note,) = (one for one in found.notes if "single precision" in one)
    assert "time (to within 6" in note and "x (" not in note
    assert not any("single" in one for one in read(text(time=[value - times[0] for value in times], y=AB)).notes)


def test_a_word_among_numbers_does_not_hide_the_decimal_sign(read: Read) -> None:
    table = text(";", x=["1,5", "2,25"], k=["a", "b"])
    with pytest.raises(DataError, match=r"text \(such as 'k. M.' in 'x'\) next to numbers"):
        read(f"{table}k. M.;a;a\n")
    found = read(f"{table}k. M.;a;a\n", numbers=["x"])
    assert np.isnan(column(found, "x")).sum() == 1 and "x: 1 values are not numbers" in " ".join(found.notes)
    found = read(text(";", x=["1,50", "2,25-"], k=["a", "b"]))
    assert set(column(found, "x")) == {1.5, -2.25}
    assert kinds(read(text(x=["1-", "2-", "1"], k=["a"])))["x"] == "category", "marks at school"


def test_training_and_test_files_may_have_different_decimal_signs(read: Read, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("x,y\n1.5,a\n2.25,b\n3.5,a\n")
    for keys in ({}, {"decimal": "comma"}):
        found = read(text(";", x=["1,5", "2,25", "4,75"]), test_path="test.csv", **keys)
        assert found.test.x[:, 0].tolist() == [1.5, 2.25, 3.5] and kinds(found) == {"x": "number"}
        assert "decimal points in test.csv, commas in t.csv" in found.notes


def test_a_given_date_format_overrides_the_defaults(read: Read) -> None:
    found = read(text(d=["2020-01-02", "2020-01-05"]), dates={"d": "%Y-%d-%m"})
    assert sorted(set(column(found, "d"))) == [0, 90], "1 February and 1 May"


@pytest.mark.parametrize("title", [b"Report\n\n", b"Report;;\nof May;;\n", b'"Report\nof May"\n', b"Re\x0cport\n\n"])
def test_title_rows_are_skipped_on_request(tmp_path: Path, title: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(title + text(";", a=[0.5, 1.5], b=[2]).encode())
    node = {"_target_": "labrun.data.readers.Csv", "name": "t", "path": "a.csv", "scale": 1.0}
    (tmp_path / "b.csv").write_bytes(text(";", a=[0.5, 1.5], b=[2]).encode())
    found, plain = reader.read({**node, "skip_rows": 2}, tmp_path), reader.read({**node, "path": "b.csv"}, tmp_path)
    assert np.array_equal(found.train.x, plain.train.x) and found.class_names == plain.class_names
    with pytest.raises(DataError, match=r"it is empty below the first 500 lines .dataset\.skip_rows"):
        reader.read({**node, "skip_rows": 500}, tmp_path)


def test_title_rows_of_an_excel_file_are_skipped_on_request(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["Report", None], [None, None], ["x", "y"], *([n, n % 2] for n in range(20))):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    node = {"_target_": "labrun.data.readers.Csv", "name": "t", "path": "a.xlsx", "scale": 1.0, "skip_rows": 2}
    assert len(reader.read(node, tmp_path).train) == 16
