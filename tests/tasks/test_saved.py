"""Models after their runs: `labrun.load_model`, on real runs of the real command."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import run_labrun
from labrun.errors import ConfigError, CorruptDataError, DataError, RecordError, UnfitError
from labrun.registry import models
from labrun.runs import model_journal, store
from labrun.runs.record import read_record, write_record
from labrun.tasks.saved import load_model

Ran = Callable[[str], Path]
QUICK = ("report=none", "tracking=none")
FAST = ("trainer.max_epochs=1", "trainer.batch_size=16")


def labrun(workspace: Path, *arguments: str) -> None:
    done = run_labrun(*arguments, *QUICK, cwd=workspace, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def people(count: int = 200) -> str:
    draw = np.random.default_rng(0)
    lines = ["id,age,town,income,kind"]
    for place in range(count):
        age = int(draw.integers(20, 80))
        town = ["Bern", "Basel", "Genf"][place % 3]
        income = "" if place % 17 == 0 else f"{draw.normal(5000, 900):.0f}"
        lines.append(f"{place},{age},{town},{income},{'old' if age > 45 else 'young'}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run of every kind of model."""
    place = tmp_path_factory.mktemp("models").resolve()
    draw = np.random.default_rng(0)
    y = np.arange(60) % 3
    images = draw.integers(0, 60, (60, 32, 32, 3)).astype(np.uint8) + (y[:, None, None, None] * 90).astype(np.uint8)
    np.savez(place / "images.npz", X=images, y=y)
    (place / "people.csv").write_text(people())
    rows = draw.normal(size=(120, 3))
    np.savez(place / "line.npz", X=rows, y=rows @ [1.0, -2.0, 0.5])
    labrun(place, "name=lr", "export=[pkl]")
    labrun(place, "name=dnn", "model=mnist_dnn", *FAST)
    labrun(
        place,
        "name=cnn",
        "model=cifar10_cnn",
        "dataset=npz",
        f"dataset.path={place}/images.npz",
        "dataset.scale=255",
        *FAST,
    )
    labrun(
        place,
        "name=table",
        "model=pipeline",
        "model.preprocess=true",
        "model.folds=0",
        "dataset=csv",
        f"dataset.path={place}/people.csv",
        "dataset.target=kind",
        "dataset.ignore=[id]",
    )
    labrun(
        place,
        "name=line",
        "model=pipeline",
        "model.folds=0",
        "dataset=npz",
        f"dataset.path={place}/line.npz",
        "dataset.regression=true",
    )
    return place


@pytest.fixture
def ran(root: Path) -> Ran:
    def of(name: str) -> Path:
        return next(run_dir for run_dir, record in store.runs(root) if record.name == name)

    return of


@pytest.fixture
def digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)  # type: ignore[no-any-return]


def recorded_accuracy(run_dir: Path) -> float:
    return float(read_record(run_dir).metrics["accuracy"])


@pytest.mark.parametrize("name", ["lr", "dnn"])
def test_a_loaded_model_takes_raw_values_and_returns_labels(
    root: Path, ran: Ran, digits: tuple[Any, Any], name: str
) -> None:
    import torch

    model = load_model(ran(name))
    x, y = digits
    predicted = model.predict(x)
    assert model.class_names == tuple("0123456789") and model.card.content["data"] == "digits"
    assert predicted.shape == y.shape and (predicted == y).mean() > recorded_accuracy(ran(name)) - 0.05
    chances = model.predict_proba(x[:7])
    assert (
        chances.shape == (7, 10) and np.allclose(chances.sum(axis=1), 1) and (chances.argmax(1) == predicted[:7]).all()
    )
    for same in (x.reshape(-1, 8, 8), x.reshape(-1, 1, 8, 8), torch.tensor(x), x.tolist(), x.astype(np.uint8)):
        assert (model.predict(same) == predicted).all()


def test_a_loaded_model_has_the_exact_score_of_its_run(root: Path, ran: Ran) -> None:
    """The test split, read and split as in the run, gives the accuracy in the record."""
    from labrun.tasks import reading

    for name in ("lr", "dnn", "cnn"):
        config = read_record(ran(name)).typed
        arrays = reading.arrays_of(config)
        found = float((load_model(ran(name)).predict(arrays.test.x) == arrays.test.y).mean())
        assert found == pytest.approx(recorded_accuracy(ran(name)), abs=1e-9)


def test_colour_images_are_taken_in_either_layout(root: Path, ran: Ran) -> None:
    model = load_model(ran("cnn"))
    x = np.load(root / "images.npz")["X"]
    assert (model.predict(x) == model.predict(x.transpose(0, 3, 1, 2))).all()
    with pytest.raises(UnfitError, match=r"takes samples of 3x32x32 .*but these are 28x28"):
        model.predict(np.zeros((1, 28, 28)))


def test_a_model_of_a_table_takes_text_and_gaps(root: Path, ran: Ran) -> None:
    import pandas as pd

    model = load_model(ran("table"))
    table = pd.read_csv(root / "people.csv")
    assert model.columns == ("age", "town", "income") and model.class_names == ("old", "young")
    assert (model.predict(table) == table["kind"]).mean() > 0.9, "labels as in the file"
    assert model.predict_numbers(table).tolist() == [int(kind == "young") for kind in model.predict(table)]
    swapped = table[["income", "town", "age"]]
    assert (model.predict(swapped) == model.predict(table)).all()
    with pytest.raises(UnfitError, match="there is no town"):
        model.predict(table[["age", "income"]])


def test_a_regression_predicts_quantities(root: Path, ran: Ran) -> None:
    model = load_model(ran("line"))
    found = model.predict([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert model.class_names == () and found == pytest.approx([1.0, -2.0], abs=0.1)
    with pytest.raises(UnfitError, match="gives no probabilities"):
        model.predict_proba([[1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 63)), "takes samples of 1x8x8 .* but these are 63"),
        (np.zeros(64), "put a single sample into a list"),
        (np.full((1, 64), np.nan), "got NaN or infinity 64 times"),
        ([["a"] * 64], "takes numbers"),
        (np.zeros((0, 64)), r"got the shape \(0, 64\)"),
    ],
)
def test_samples_of_another_shape_are_refused_in_one_message(ran: Ran, x: Any, message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        load_model(ran("lr")).predict(x)


def test_models_are_loaded_by_name_number_alias_and_run(root: Path, ran: Ran, digits: tuple[Any, Any]) -> None:
    x, _ = digits
    first, _ = models.register(root, ran("lr"), "by-name")
    second, _ = models.register(root, ran("dnn"), "by-name", "outputs/model.npz")
    models.alias(root, "by-name/1", "champion")
    assert (first.number, second.number) == (1, 2)
    linear = load_model("by-name@champion", root=root)
    assert (linear.predict(x) == load_model("models:/by-name/1", root=root).predict(x)).all()
    # What a network's run exports in Chainer's layout knows the network's samples and classes.
    newest = load_model("by-name", root=root)
    assert newest.class_names == tuple("0123456789") and (newest.predict(x) == load_model(ran("dnn")).predict(x)).all()
    by_id = load_model(f"run:{read_record(ran('lr')).id}", root=root)
    assert (by_id.predict(x) == linear.predict(x)).all()
    with pytest.raises(RecordError, match="no model is registered as 'nobody'"):
        load_model("nobody", root=root)


def test_a_changed_file_is_reported_before_anything_is_loaded(root: Path, ran: Ran, tmp_path: Path) -> None:
    version, _ = models.register(root, ran("dnn"), "changed")
    place = model_journal.content(root, version)
    for name in ("model.pt", "model.json"):
        before = (place / name).read_bytes()
        (place / name).write_bytes(before + b" ")
        with pytest.raises(CorruptDataError, match="was changed since it was registered"):
            load_model("changed", root=root)
        (place / name).write_bytes(before)
    load_model("changed", root=root)
    (place / "model.pt").unlink()
    with pytest.raises(CorruptDataError, match="is incomplete"):
        load_model("changed", root=root)
    copy = tmp_path / "run"
    shutil.copytree(ran("lr"), copy)
    with open(copy / "outputs" / "model.skops", "ab") as file:
        file.write(b" ")
    with pytest.raises(CorruptDataError, match="was changed since it was saved"):
        load_model(copy)


def test_mlflow_queries_a_model_of_tables_by_column_names(root: Path, ran: Ran) -> None:
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.pyfunc import scoring_server

    models.register(root, ran("table"), "table")
    model = mlflow.pyfunc.load_model(str(model_journal.model_folder(root, "table")))
    schema = model.metadata.get_input_schema()
    assert schema.input_names() == ["age", "town", "income"]
    assert [str(one.type) for one in schema.inputs] == ["Any", "DataType.string", "Any"]
    table = pd.read_csv(root / "people.csv")
    wanted = load_model("table", root=root)
    assert model.predict(table)["prediction"].tolist() == wanted.predict(table).tolist()
    body = json.dumps({"dataframe_records": [{"age": 25, "town": "Bern", "income": None}, {"age": 70, "town": "Rom"}]})
    answer = scoring_server.invocations(body, "application/json", model, schema)
    assert [one["prediction"] for one in json.loads(answer.response)["predictions"]] == ["young", "old"]


class Bomb:
    """What a pickle may do."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["BOMB"],)


def other_file(root: Path, source: Path, name: str, content: bytes) -> Path:
    """A copy of a run under another id, with one more file, and without a card."""
    target = root / "outputs" / "script" / f"now-{name}"
    shutil.copytree(source, target, dirs_exist_ok=True)
    (target / "outputs" / "model.json").unlink()
    record = read_record(target)
    record.id = f"{abs(hash(name)):08x}"[:8]
    write_record(target, record)
    (target / "outputs" / name).write_bytes(content)
    return target


def test_pickles_are_loaded_only_on_request(
    root: Path, ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[Any, Any]
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "went-off"))
    run_dir = other_file(root, ran("lr"), "sklearn_mnist_model.pkl", pickle.dumps(Bomb()))
    models.register(root, run_dir, "bomb", "outputs/sklearn_mnist_model.pkl")
    with pytest.raises(DataError, match="is a pickle, and loading one can run arbitrary code"):
        load_model("bomb", root=root)
    assert not (tmp_path / "went-off").exists()
    with pytest.raises(DataError, match="which has no predict"):
        load_model("bomb", root=root, allow_pickle=True)
    assert (tmp_path / "went-off").exists()
    x, y = digits
    from sklearn.linear_model import LogisticRegression

    own = LogisticRegression(max_iter=50).fit(x / 16, y)
    run_dir = other_file(root, ran("lr"), "own.pkl", pickle.dumps(own))
    models.register(root, run_dir, "pickled", "outputs/own.pkl")
    model = load_model("pickled", root=root, allow_pickle=True)
    assert (model.predict(x / 16) == own.predict(x / 16)).all() and model.predict_proba(x[:2]).shape == (2, 10)
    # What labrun itself exports beside its model scales as the model does.
    models.register(root, ran("lr"), "exported", "outputs/model.pkl")
    exported = load_model("exported", root=root, allow_pickle=True)
    assert (exported.predict(x) == load_model(ran("lr")).predict(x)).all()


def test_chainer_files_of_a_script_load_as_perceptrons(root: Path, ran: Ran) -> None:
    """They are as `chainer.serializers.save_npz` writes them; nothing is unpickled."""
    draw = np.random.default_rng(0)
    weights = {}
    for layer, (outputs, inputs) in {"l1": (20, 784), "l2": (20, 20), "l3": (10, 20)}.items():
        weights[f"predictor/{layer}/W"] = draw.normal(size=(outputs, inputs)).astype(np.float32)
        weights[f"predictor/{layer}/b"] = np.zeros(outputs, np.float32)
    path = root / "chainer.npz"
    np.savez(path, **weights)  # type: ignore[arg-type]
    run_dir = other_file(root, ran("lr"), "chainer-dnn.npz", path.read_bytes())
    models.register(root, run_dir, "chainer", "outputs/chainer-dnn.npz")
    x = draw.uniform(size=(5, 784)).astype(np.float32)
    hidden = x
    for layer in ("l1", "l2"):
        hidden = np.maximum(hidden @ weights[f"predictor/{layer}/W"].T, 0)
    wanted = (hidden @ weights["predictor/l3/W"].T).argmax(axis=1)
    assert (load_model("chainer", root=root).predict(x) == wanted).all()
    np.savez(path, W=np.array([Bomb], dtype=object), l1=np.zeros(3))
    run_dir = other_file(root, ran("lr"), "other.npz", path.read_bytes())
    models.register(root, run_dir, "other-npz", "outputs/other.npz")
    with pytest.raises(DataError, match=r"other\.npz"):
        load_model("other-npz", root=root)


def test_files_without_a_model_card_are_refused_with_advice(root: Path, ran: Ran) -> None:
    for name, message in (
        ("net.pt", "holds only weights.*Train it with labrun"),
        ("notes.txt", "labrun does not load notes.txt.*lab models download"),
    ):
        run_dir = other_file(root, ran("lr"), name, b"content")
        models.register(root, run_dir, f"of-{name}", f"outputs/{name}")
        with pytest.raises(DataError, match=message):
            load_model(f"of-{name}", root=root)


def test_a_users_classes_are_built_only_if_trusted_by_name(root: Path, ran: Ran, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(ran("dnn"), copy)
    card = json.loads((copy / "outputs" / "model.json").read_text())
    card["target"] = "os.system"
    (copy / "outputs" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match=r"os\.system, which is not labrun's own"):
        load_model(copy)
    import skops.io

    class_of_ours = np.random.default_rng  # a function that skops does not know
    skops.io.dump({"model": class_of_ours}, tmp_path / "own.skops")
    run_dir = other_file(root, ran("lr"), "own.skops", (tmp_path / "own.skops").read_bytes())
    models.register(root, run_dir, "own-skops", "outputs/own.skops")
    with pytest.raises((ConfigError, DataError), match=r"own\.skops"):
        load_model("own-skops", root=root)


def test_damaged_model_files_are_refused_in_one_message(root: Path, ran: Ran) -> None:
    for place, name in enumerate(("a.skops", "b.npz", "c.pkl")):
        run_dir = other_file(root, ran("lr"), name, b"no model at all")
        models.register(root, run_dir, f"damaged-{place}", f"outputs/{name}")
        with pytest.raises(DataError, match="cannot be (read|loaded)"):
            load_model(f"damaged-{place}", root=root, allow_pickle=True)
