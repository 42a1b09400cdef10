"""The user's own arrays, tables and Python files: supported forms, and one clear message for the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_matrix
from sklearn.datasets import load_iris

from conftest import Command, Runner
from labrun.config.validation import validate
from labrun.data import assets, reader, transfer
from labrun.data.arrays import Arrays, Part, RawData
from labrun.data.progress import Quiet
from labrun.data.stores.local import LocalDatastore
from labrun.errors import ConfigError, DataError, MissingDataError

RNG = np.random.default_rng(0)
X, Y = RNG.random((40, 3)), np.tile([0, 1], 20)


def read(kind: str, root: Path, **config: Any) -> Arrays:
    return reader.read({"_target_": f"labrun.data.readers.{kind}", "name": "own", "scale": 1.0, **config}, root)


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Arrays]:
    def make(**arrays: Any) -> Arrays:
        np.savez(tmp_path / "a.npz", **arrays)
        return read("Npz", tmp_path, path="a.npz")

    return make


def test_npz_files_are_read_with_and_without_a_test_part(npz: Callable[..., Arrays]) -> None:
    found = npz(X=X, y=Y)
    assert (len(found.train), len(found.test), found.input_shape, found.num_classes) == (32, 8, (3,), 2)
    found = npz(x_train=X, y_train=np.array(["cat", "dog"] * 20), x_test=X[:6], y_test=np.array(["dog"] * 6))
    assert found.class_names == ("cat", "dog") and found.test.y.tolist() == [1] * 6 and len(found.train) == 40


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([b"cat", b"dog"]), ("cat", "dog")),
        (np.array([1.0, 0.0]), ("0", "1")),
        (np.array([True, False]), ("False", "True")),
        (np.array(["10", "9"]), ("9", "10")),
        (np.array(["01", "NA"]), ("01", "NA")),
    ],
)
def test_labels_of_arrays_become_class_names(npz: Callable[..., Arrays], labels: Any, classes: tuple[str, ...]) -> None:
    assert npz(X=X, y=np.tile(labels, 20)).class_names == classes


@pytest.mark.parametrize(
    ("shape", "sample"),
    [((40, 8, 9), (1, 8, 9)), ((40, 8, 9, 3), (3, 8, 9)), ((40, 3, 8, 9), (3, 8, 9)), ((40, 5), (5,))],
)
def test_arrays_shaped_like_images_are_images(
    npz: Callable[..., Arrays], shape: tuple[int, ...], sample: tuple[int, ...]
) -> None:
    values = RNG.integers(0, 255, shape, dtype=np.uint8)
    found = npz(X=values, y=Y)
    assert found.input_shape == sample and found.train.x.dtype == np.uint8
    assert bool(found.notes) == (len(shape) > 2 and shape[1:] != (3, 8, 9))


def with_nan() -> Any:
    values = X.copy()
    values[3, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"X": X}, "has no y"),
        ({"a": X, "b": Y}, "It has: a, b"),
        ({"X": with_nan(), "y": Y}, "NaN or infinity: 1 values, in columns 1"),
        ({"X": X, "y": Y[:7]}, r"expected \(40,\)"),
        ({"X": X[:, 0], "y": Y}, r"has the shape \(40,\)"),
        ({"X": X.astype(str), "y": Y}, "not numbers"),
        ({"X": X, "y": np.zeros(40, int)}, "of one class"),
        ({"X": X, "y": np.arange(40)}, "a quantity or an identifier"),
        ({"X": X, "y": RNG.random(40)}, "a quantity, not a class"),
        ({"X": X, "y": np.where(Y == 1, 1.0, np.nan)}, "every sample needs a class"),
        ({"X_train": X, "y_train": Y, "X_test": X}, "only one of X_test and y_test"),
        ({"X": X, "y": Y, "y_valid": Y}, "only one of X_valid and y_valid"),
        ({"X_train": X, "y_train": Y, "X_test": X[:, :2], "y_test": Y}, "a sample of X_test is"),
        ({"X_train": X, "y_train": Y, "X_test": X, "y_test": Y + 5}, "classes that y_train lacks: 5, 6"),
    ],
)
def test_invalid_arrays_are_refused(npz: Callable[..., Arrays], arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        npz(**arrays)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"dataset\.path"):
        read("Npz", tmp_path, path="none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="not a readable .npz"):
        read("Npz", tmp_path, path="text.npz")
    np.savez(tmp_path / "objects.npz", X=np.array([{}, 1], dtype=object), y=Y)
    with pytest.raises(DataError, match="loading those runs code"):
        read("Npz", tmp_path, path="objects.npz")


def write_iris(path: Path, separator: str = ",") -> Path:
    bunch = load_iris()
    head = separator.join(["sepal length", "sepal width", "petal length", "petal width", "species"])
    names = [str(bunch.target_names[label]) for label in bunch.target]
    rows = [separator.join([*map(str, row), name]) for row, name in zip(bunch.data, names, strict=True)]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_with_its_columns_and_target(tmp_path: Path, separator: str) -> None:
    write_iris(tmp_path / "iris.csv", separator)
    found = read("Csv", tmp_path, path="iris.csv")
    assert found.class_names == ("setosa", "versicolor", "virginica") and found.input_shape == (4,)
    fewer = read("Csv", tmp_path, path="iris.csv", target="species", ignore=["sepal width"], test_path="iris.csv")
    assert fewer.input_shape == (3,) and len(fewer.test) == 150


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (("5.1,", ","), {}, r"missing in the columns sepal length \("),
        (("5.1,", "tall,"), {}, r"sepal length holds? text \(such as 'tall'.*dataset.ignore=\[sepal length\]"),
        (("", ""), {"target": "specis"}, "no such column. Did you mean 'species'"),
        (("", ""), {"ignore": ["colour"]}, "dataset.ignore='colour'"),
        (("", ""), {"separator": ";"}, "except the target"),
        (("", ""), {"target": "sepal length"}, "a quantity, not a class|holds? text"),
    ],
)
def test_an_invalid_table_is_refused(
    tmp_path: Path, change: tuple[str, str], config: dict[str, Any], words: str
) -> None:
    path = write_iris(tmp_path / "iris.csv")
    path.write_text(path.read_text().replace(*change, 2) if change[0] else path.read_text())
    with pytest.raises((DataError, ConfigError), match=words):
        read("Csv", tmp_path, path="iris.csv", **config)


def test_get_data_in_a_python_file_returns_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    script = tmp_path / "get_data.py"
    script.write_text(
        "from sklearn.datasets import load_iris\n\ndef get_data():\n    X, y = load_iris(return_X_y=True)\n"
        '    return {"X": X, "y": y}\n'
    )
    assert read("GetData", tmp_path, script="get_data.py").num_classes == 3
    script.write_text(
        "import scipy.sparse, numpy\n\ndef get_data():\n"
        "    return {'X': scipy.sparse.eye(40).tocsr(), 'y': numpy.tile([1, 2], 20)}\n"
    )
    assert read("GetData", tmp_path, script=str(script)).input_shape == (40,)
    for text, words in (
        ("x = 1\n", r"no function get_data\(\)"),
        ("def get_data():\n    return 1, 2\n", "returned a tuple; it must return a dict"),
        ("def get_data():\n    return {'X': [[1, 2]]}\n", "has no y"),
    ):
        script.write_text(text)
        with pytest.raises((DataError, ConfigError), match=words):
            read("GetData", tmp_path, script="get_data.py")
    with pytest.raises(MissingDataError, match="dataset.script"):
        read("GetData", tmp_path, script="none.py")


def test_a_users_data_frame_is_described_and_kept(tmp_path: Path) -> None:
    (tmp_path / "get_data.py").write_text(
        "import pandas as pd\nN = 40\n\ndef get_data():\n"
        "    X = pd.DataFrame({'n': pd.array([1, None] * 20, 'Int64'),\n"
        "        'd': pd.date_range('1970-01-11', periods=N), 'c': pd.Categorical(['a', None] * 20),\n"
        "        'o': pd.Series([1, 2] * 20, dtype=object), 't': [f'row {i}' for i in range(N)],\n"
        "        'b': [True, False] * 20})\n"
        "    return {'X': X, 'y': [0, 1] * 20}\n"
    )
    node = {
        "_target_": "labrun.data.readers.GetData",
        "name": "own",
        "scale": 1.0,
        "script": str(tmp_path / "get_data.py"),
    }
    found = reader.read(node, tmp_path, tables=True)
    assert found.notes == (
        "numbers: n, o, b; categories: c (1 levels), t (40 levels); dates: d (as days since 1970-01-01)",
        "t: every row has its own value; if it only identifies rows, leave it out",
    )
    table: Any = found.train.x
    assert found.table is not None and set(table["n"].dropna()) == {1.0} and set(table["c"]) == {"a", None}
    assert table["d"].min() >= 10 and set(table["b"]) == {0.0, 1.0}
    with pytest.raises(DataError, match="the columns d, c, t hold text"):
        reader.read(node, tmp_path)


def test_damaged_files_and_values_that_are_not_arrays_are_refused(npz: Callable[..., Arrays], tmp_path: Path) -> None:
    npz(X=X, y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 3] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="not a readable .npz"):
        read("Npz", tmp_path, path="a.npz")
    script = tmp_path / "get_data.py"
    table = "import numpy as np, pandas as pd\ndef get_data():\n    return "
    for text, words in (
        ("{'X': pd.DataFrame({'a': pd.Series([], dtype=object)}), 'y': []}", "X has no samples"),
        ("{'X': [[1, 2], [3]] * 20, 'y': [0, 1] * 20}", "X is not an array"),
        ("{'X': [[1, 2], [3, 4]] * 20, 'y': [[0], [1, 2]] * 20}", "y is not an array"),
        ("{'X': pd.DataFrame(np.ones((40, 2)), columns=['a', 'a']), 'y': [0, 1] * 20}", "more than one column .* 'a'"),
    ):
        script.write_text(table + text)
        with pytest.raises(DataError, match=words):
            read("GetData", tmp_path, script=str(script))
    script.write_text(table + "{'X': np.arange(80.0).reshape(40, 2), 'y': np.array([3, 7] * 20, dtype=object)}")
    assert read("GetData", tmp_path, script=str(script)).class_names == ("3", "7")


def test_runs_train_on_the_users_own_arrays_and_tables(run_here: Runner, workspace: Path) -> None:
    write_iris(workspace / "iris.csv")
    record, _ = run_here("dataset=csv", f"dataset.path={workspace}/iris.csv", "dataset.std=3.0", pictures=True)
    assert record.metrics["accuracy"] > 0.9
    np.savez(workspace / "faces.npz", X=RNG.integers(0, 255, (60, 8, 8), dtype=np.uint8), y=np.tile([0, 1, 2], 20))
    record, _ = run_here(
        "dataset=npz",
        "dataset.path=faces.npz",
        "dataset.scale=255",
        "model=mnist_dnn",
        "trainer.max_epochs=1",
        pictures=True,
    )
    assert record.status == "completed"
    assert record.config["dataset"]["path"] == f"{workspace}/faces.npz", "found in the working folder"


def test_an_asset_takes_precedence_over_a_file_in_the_working_folder(run_here: Runner, workspace: Path) -> None:
    write_iris(workspace / "iris.csv")
    store = LocalDatastore("local", str(workspace / "data"))
    entries, tokens, _ = transfer.upload(store, workspace / "iris.csv", "tables", False, Quiet())
    assets.register(store, "csv", "tables", entries, tokens)
    (workspace / "iris.csv").write_text("a,b\n1,x\n")
    record, _ = run_here("dataset=csv", "dataset.path=iris.csv", "dataset.std=3.0")
    assert record.data[0].asset == "csv" and record.config["dataset"]["path"] == "iris.csv"


def test_a_sweep_reads_the_frozen_script(labrun: Command, workspace: Path) -> None:
    (workspace / "get_data.py").write_text(
        "import numpy as np\nprint('FROM', __file__)\n\ndef get_data():\n"
        "    return {'X': np.random.default_rng(0).random((60, 4)), 'y': np.tile([0, 1], 30)}\n"
    )
    done = labrun("-m", "dataset=get_data", "seed=1,2", "tracking=none", "report=none")
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log")]
    assert len(logs) == 2 and all("outputs/.labrun/code/" in log for log in logs)
    missing = labrun("dataset=csv")
    assert missing.returncode == 2 and "dataset.path" in missing.stderr and "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("x,y,c\n", "no rows below it"),
        ("c\na\nb\na\n", "except the target"),
        ("x,y,c\n0.1,1,a\nhello,2,b\n0.3,1,a\n", "such as 'hello' in 'x'"),
        ("x,c\n1,a\n2,a\n", "of one class, 'a'"),
    ],
)
def test_files_that_are_not_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises((DataError, ConfigError), match=message):
        read("Csv", tmp_path, path="a.csv")


@pytest.mark.parametrize(
    "name, what",
    [
        ("LightningDataModule", "is a LightningDataModule, which has its own loaders"),
        ("Dataset", "is a Dataset, which gives one sample at a time"),
        ("Other", "is a Mine"),
    ],
)
def test_a_target_that_is_not_a_reader_gets_advice(
    name: str, what: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice follows from the names of base classes: nothing heavy is imported, and nothing is built."""
    (workspace / "kinds_of_mine.py").write_text(
        f"class {name}: ...\nclass Mine({name}):\n    def __init__(self): 1 / 0\n"
    )
    monkeypatch.syspath_prepend(str(workspace))
    monkeypatch.delitem(sys.modules, "kinds_of_mine", raising=False)
    way = "dataset=torch dataset.train._target_=kinds_of_mine.Mine" if name == "Dataset" else "dataset=get_data dataset"
    with pytest.raises(ConfigError, match=way) as caught:
        reader.make_reader({"_target_": "kinds_of_mine.Mine", "name": "mine", "root": "x"})
    assert what in str(caught.value)
    assert ("experiment=script" in str(caught.value)) == (name == "LightningDataModule")


class Mine(reader.Reader):
    """A user's own reader; `change` spoils its result."""

    def __init__(self, change: str = "") -> None:
        self.change = change

    def find(self, root: Path) -> bool:
        return True

    def read(self, root: Path) -> RawData:
        x, y, names, test = X.astype(np.float32), Y.astype(np.int64), ("no", "yes"), None
        if self.change == "fewer labels":
            y = y[1:]
        elif self.change == "from one on":
            y = y + 1
        elif self.change == "fractions":
            y = y / 2
        elif self.change == "two columns":
            y = np.stack([y, y], axis=1)
        elif self.change == "gaps":
            x = np.where(x > 0.9, np.nan, x)
        elif self.change == "another width":
            test = Part(x[:4, :2], y[:4])
        elif self.change == "scattered":
            return RawData(Part(coo_matrix(np.where(x > 0.9, np.nan, x)), y), test, names, (Path(__file__),))
        elif self.change == "a table":
            frame = pd.DataFrame(np.where(x > 0.9, np.nan, x), columns=["a", "b", "c"])
            return RawData(Part(frame, y), test, names, (Path(__file__),))  # type: ignore[arg-type]
        elif self.change == "a dict":
            return {"x": x, "y": y}  # type: ignore[return-value]
        elif self.change == "other values":
            x = x + 1
        return RawData(Part(x, y), test, names, (Path(__file__),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fewer labels", "Mine.read.*: train has 40 samples, and 39 labels"),
        ("from one on", "holds int64 from 1 to 2; expected indices into the 2 class_names, integers from 0 to 1"),
        ("fractions", "holds float64 from 0.0 to 0.5"),
        ("two columns", r"has the shape \(40, 2\)"),
        ("gaps", "hold NaN or infinity"),
        ("scattered", "hold NaN or infinity"),
        ("a table", "Mine.read"),
        ("another width", r"test: a sample has shape \(2,\), but in train it is \(3,\)"),
        ("a dict", "returned a dict, not a labrun.data.arrays.RawData"),
    ],
)
def test_the_result_of_a_users_reader_is_checked(tmp_path: Path, change: str, message: str) -> None:
    dataset = {"_target_": f"{__name__}.Mine", "name": "mine", "change": change}
    with pytest.raises(DataError, match=message):
        reader.read(dataset, tmp_path)


def test_arrays_from_a_users_code_have_a_digest(tmp_path: Path, npz: Callable[..., Arrays]) -> None:
    dataset = {"_target_": f"{__name__}.Mine", "name": "mine"}
    first, second = reader.read(dataset, tmp_path), reader.read({**dataset, "split_seed": 3}, tmp_path)
    assert first.content is not None and first.content == second.content
    assert reader.read({**dataset, "change": "other values"}, tmp_path).content != first.content
    assert npz(X=X, y=Y).content is None


class Unfinished(reader.Reader):
    """Lacks `read`."""

    def find(self, root: Path) -> bool:
        return True


def test_a_reader_without_its_methods_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks methods: read"):
        reader.make_reader({"_target_": f"{__name__}.Unfinished", "name": "mine"})


@pytest.mark.parametrize(("key", "value"), [("test_size", 0), ("test_size", "big"), ("num_workers", -1)])
def test_what_labrun_does_with_the_samples_of_a_users_reader_is_checked(
    key: str, value: object, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But an argument of the reader itself is the reader's own."""
    (workspace / "readers_of_mine.py").write_text(
        f"class Plain:\n    def __init__(self): ...\nclass Taking:\n    def __init__(self, {key}): ...\n"
    )
    monkeypatch.syspath_prepend(str(workspace))
    model = {"_target_": "labrun.models.logistic_regression.logistic_regression", "name": "mine"}
    problems = {}
    for name in ("Plain", "Taking"):
        dataset = {"_target_": f"readers_of_mine.{name}", "name": "mine", key: value}
        with pytest.raises(ConfigError) as caught:
            validate({"dataset": dataset, "model": model, "trainer": {"max_epochs": 0}})
        problems[name] = str(caught.value)
    assert f"dataset.{key}={value}" in problems["Plain"].replace("'", "")
    assert f"dataset.{key}" not in problems["Taking"]
