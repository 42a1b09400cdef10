"""Predictions of a table model for later tables: labels, columns matched by name, rows in order."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import Command, Runner
from labrun.errors import DataError, UnfitError
from labrun.registry import models
from labrun.runs import model_journal, store
from labrun.runs.cards import Card, CardKind
from labrun.tasks import sample_files
from labrun.tasks.saved import Saved, _load_pyfunc, load_model

COUNT = 120
PIPELINE = ("model=pipeline", "model.preprocess=true", "model.folds=0", "report=none", "dataset=csv")


def write(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def customers() -> list[dict[str, Any]]:
    return [
        {
            "customerID": f"{7000 + i}-XY",
            "since": f"2020-0{1 + i % 9}-11",
            "charges": " " if i % 11 == 0 else f"1,{i:03}.50",
            "contract": ["Month", "Year"][i % 2],
            "churn": ["Yes", "No"][i % 2],
        }
        for i in range(COUNT)
    ]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_of_a_registered_classifier_have_labels_and_ids(
    run_here: Runner, lab_here: Command, workspace: Path
) -> None:
    """The table has another order of columns, and new categories and gaps."""
    write(workspace / "customers.csv", customers())
    record, run_dir = run_here(*PIPELINE, f"dataset.path={workspace}/customers.csv")
    assert record.data[0].class_names == ["No", "Yes"]
    assert (record.data[0].table or {})["left_out"] == {"customerID": "looks like an id"}
    assert "dates: since (as days since 2020-01-11)" in (record.data[0].notes or [""])[0]
    models.register(store.workspace(), run_dir, "churn")
    new = [
        {"contract": "Year", "charges": "$2,000", "customerID": "b", "since": "2020-03-01", "note": "second"},
        {"contract": "Month", "charges": "", "customerID": "a", "since": "", "note": "first"},
        {"contract": "Decade", "charges": "?", "customerID": "c", "since": "2031-03-01", "note": "third"},
    ]
    write(workspace / "new.csv", new, ";")
    (workspace / "link.csv").symlink_to("new.csv")
    refused = lab_here("models", "predict", "churn", "new.csv", "-o", "link.csv")
    assert refused.returncode == 2 and "would be overwritten" in refused.stderr
    assert (workspace / "new.csv").read_text().startswith("contract;charges")
    done = lab_here("models", "predict", "churn", "new.csv")
    assert done.returncode == 0, done.stderr
    told = rows_of(workspace / "new.csv.predictions.csv")
    assert list(told[0]) == ["customerID", "prediction", "probability_No", "probability_Yes"]
    assert [row["customerID"] for row in told] == ["b", "a", "c"]
    assert [row["prediction"] for row in told][:2] == ["No", "Yes"] and told[2]["prediction"] in ("No", "Yes")
    done = lab_here("models", "predict", "churn", "new.csv", "--inputs", "-o", "all.csv")
    assert done.returncode == 0, done.stderr
    told = rows_of(workspace / "all.csv")
    assert list(told[0])[:6] == ["contract", "charges", "customerID", "since", "note", "prediction"]
    assert told[0]["charges"] == "$2,000" and told[1]["charges"] == ""
    # The same by Python and by what MLflow asks.
    import pandas as pd

    model = load_model("churn")
    frame = pd.DataFrame(new)
    wanted = [row["prediction"] for row in told]
    assert model.predict(frame).tolist() == wanted and model.class_names == ("No", "Yes")
    assert model.predict_numbers(frame).tolist() == [("No", "Yes").index(one) for one in wanted]
    typed = frame.assign(charges=[2000.0, np.nan, np.nan], since=pd.to_datetime(frame["since"]))
    assert model.predict(typed).tolist() == wanted
    served = _load_pyfunc(str(model_journal.content(store.workspace(), model_journal.find(store.workspace(), "churn"))))
    assert served.predict(frame)["prediction"].tolist() == wanted
    for change, words in (
        ({"charges": "many"}, "'charges' holds numbers, but 'many'"),
        ({"since": "1.3.2020"}, "'since' holds dates of the form ISO8601, but '1.3.2020' is not one"),
    ):
        with pytest.raises(UnfitError, match=words):
            model.predict(pd.DataFrame([{**new[0], **change}]))
    with pytest.raises(UnfitError, match="there is no charges"):
        model.predict(frame.drop(columns="charges"))


def test_the_suggested_keys_work_as_typed(run_here: Runner, workspace: Path) -> None:
    rows = [{"d": f"0{1 + i % 9}/0{1 + i % 7}/2020", "n": f"1,{100 + i}", "kind": "ab"[i % 2]} for i in range(COUNT)]
    path = write(workspace / "asked.csv", rows, ";")
    common = (*PIPELINE, f"dataset.path={path}")
    with pytest.raises(DataError, match="dataset.decimal") as asked:
        run_here(*common, "dataset.ignore=[d]")
    assert "use dataset.decimal=point for the first, dataset.decimal=comma for the second" in str(asked.value)
    with pytest.raises(DataError, match="'dataset.dates={d: \"%d/%m/%Y\"}'"):
        run_here(*common, "dataset.decimal=.")
    for decimal in (".", "','"):
        record, _ = run_here(*common, f"dataset.decimal={decimal}", 'dataset.dates={d: "%d/%m/%Y"}')
        kinds = {one["name"]: one["kind"] for one in (record.data[0].table or {})["columns"]}
        assert kinds == {"d": "date", "n": "number"}
    record, _ = run_here(
        *common,
        "dataset.categories=[n]",
        "dataset.ignore=[d]",
        "dataset.separator=semicolon",
        "dataset.encoding=utf-8",
        "dataset.header=true",
    )
    assert [one["kind"] for one in (record.data[0].table or {})["columns"]] == ["category"]


def test_an_id_column_is_written_next_to_the_predictions(run_here: Runner, workspace: Path) -> None:
    rows = [
        {"customer": f"C{100 + i}", "plan": "xy"[i % 3 > 0], "n": f"{i % 7}.5", "kind": "ab"[i % 2]}
        for i in range(COUNT)
    ]
    path = write(workspace / "people.csv", rows)
    for settled in ((), ("dataset.ignore=[customer,plan]",)):
        _, run_dir = run_here(*PIPELINE, f"dataset.path={path}", *settled)
        saved = load_model(str(run_dir))
        assert sample_files.read(path, saved).identifiers(saved) == ["customer"]


def test_a_model_of_numbers_finds_columns_by_name(run_here: Runner, workspace: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [
        {"id": i, "a": f"{draw.normal() + 4 * (i % 2):.3f}", "b": f"{draw.normal():.3f}", "kind": f"0{i % 2}"}
        for i in range(COUNT)
    ]
    path = write(workspace / "numbers.csv", rows)
    record, run_dir = run_here("dataset=csv", f"dataset.path={path}", "report=none")
    assert record.metrics["accuracy"] > 0.8
    import pandas as pd

    model, frame = load_model(run_dir), pd.read_csv(path, dtype={"kind": str})
    assert (model.predict(frame) == frame["kind"]).mean() > 0.9, "labels are text: 01 is not 1"
    assert (model.predict(frame[["kind", "b", "a"]]) == model.predict(frame)).all()
    assert (model.predict(frame[["a", "b"]].to_numpy()) == model.predict(frame)).all()
    with pytest.raises(UnfitError, match="values are missing in the columns b"):
        model.predict(frame.assign(b=np.nan))
    card = json.loads((run_dir / "outputs" / "model.json").read_text())
    assert [column["name"] for column in card["table"]["columns"]] == ["a", "b"]


def test_another_table_is_read_like_the_models_own(run_here: Runner, workspace: Path) -> None:
    """It lacks a class, and its columns would be read differently on their own."""
    rows = [{"a": f"{i % 3}.5", "code": f"{i % 4}", "kind": "xyz"[i % 3]} for i in range(COUNT)]
    write(workspace / "first.csv", rows)
    record, run_dir = run_here(*PIPELINE, f"dataset.path={workspace}/first.csv", "dataset.categories=[code]")
    assert record.metrics["test_accuracy" if "test_accuracy" in record.metrics else "accuracy"] == 1
    later = [{"code": "007", "kind": "zy"[i % 2], "a": f"{2 - i % 2}.5"} for i in range(20)]
    write(workspace / "later.csv", later)
    record, _ = run_here(
        "task=evaluate",
        f"from={run_dir}",
        "dataset=csv",
        f"dataset.path={workspace}/later.csv",
        "dataset.name=later",
        "dataset.test_size=0.5",
    )
    assert record.metrics["accuracy"] == 1 and record.data[0].class_names == ["x", "y", "z"]
    write(workspace / "other.csv", [{**row, "kind": "w"} for row in later])
    with pytest.raises(DataError, match="the model knows the classes x, y, z, but not 'w'"):
        run_here("task=evaluate", f"from={run_dir}", "dataset=csv", f"dataset.path={workspace}/other.csv")


def test_classes_of_images_are_matched_by_name(run_here: Runner, lab_here: Command, workspace: Path) -> None:
    for part, classes in (("Train", "abc"), ("later", "ca")):
        for shade, name in enumerate(classes if part == "Train" else "a c", start=0):
            if name == " ":
                continue
            (workspace / "pictures" / part / name).mkdir(parents=True)
            for number in range(12):
                image = np.full((6, 6), 20 + 100 * shade + number, np.uint8)
                Image.fromarray(image).save(workspace / "pictures" / part / name / f"{number}.png")
    common = ("dataset=image_folder", f"datastore.root={workspace}/pictures", "report=none")
    record, run_dir = run_here(*common, "dataset.path=Train")
    assert record.metrics["accuracy"] == 1 and record.data[0].class_names == ["a", "b", "c"]
    record, _ = run_here("task=evaluate", f"from={run_dir}", *common, "dataset.path=later", "dataset.name=later")
    assert record.metrics["accuracy"] == 1, "'c' is the third class, though the second here"
    models.register(store.workspace(), run_dir, "pictures")
    done = lab_here("models", "predict", "pictures", "pictures/later", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert [row["prediction"] for row in rows_of(workspace / "out.csv")] == ["a"] * 12 + ["c"] * 12


def test_the_format_of_a_later_table_is_reported_and_can_be_set(
    run_here: Runner, lab_here: Command, workspace: Path
) -> None:
    rows = [{"key": f"k{i}", "kind": "aä"[i % 2], "a": f"{i / 8 + 2 * (i % 2):.3f}"} for i in range(COUNT)]
    for row in rows:
        row["label"] = "ja" if row["kind"] == "ä" else "nein"
    write(workspace / "rows.csv", rows)
    _, run_dir = run_here(*PIPELINE, f"dataset.path={workspace}/rows.csv", "dataset.target=label")
    models.register(store.workspace(), run_dir, "m")
    text = write(workspace / "new.csv", [{**row, "a": row["a"].replace(".", ",")} for row in rows], ";").read_text()
    (workspace / "new.csv").write_text(text, encoding="cp1252")
    told = lab_here("models", "predict", "m", "new.csv")
    assert "decimal commas, where the model's own table has points" in told.stdout and told.stdout.count("decimal") == 1
    assert "read as cp1252" in told.stdout and "--encoding sets another" in told.stdout
    found = (workspace / "new.csv.predictions.csv").read_text()
    assert [row["prediction"] for row in rows_of(workspace / "new.csv.predictions.csv")] == [r["label"] for r in rows]
    said = ("--encoding", "cp1252", "--separator", "semicolon", "--decimal", "comma")
    told = lab_here("models", "predict", "m", "new.csv", *said)
    assert told.returncode == 0 and told.stdout.startswith(f"{COUNT} predictions")
    assert (workspace / "new.csv.predictions.csv").read_text() == found
    for option, value, message in (
        ("--decimal", "point", "'0,000' (1 times) is not one"),
        ("--separator", "xx", "lab: --separator='xx': one character"),
        ("--encoding", "nope", "lab: --encoding='nope'"),
        ("--sheet", "s", "lab: --sheet='s': new.csv is a text file"),
    ):
        refused = lab_here("models", "predict", "m", "new.csv", option, value)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr
    np.save(workspace / "x.npy", np.zeros((2, 2)))
    refused = lab_here("models", "predict", "m", "x.npy", "--sheet", "s")
    assert "x.npy is not a table, and only tables have a sheet" in refused.stderr
    with pytest.warns(UserWarning, match="the table: decimal commas"):
        load_model("m").predict(pd.read_csv(workspace / "new.csv", sep=";", encoding="cp1252", dtype=str))


def test_an_ambiguous_decimal_sign_in_a_later_table_is_refused(run_here: Runner, workspace: Path) -> None:
    """`12,125` is not twelve thousand only because the model's own table has points."""
    rows = [{"a": f"{i / 8:.3f}", "label": ["ja", "nein"][i > COUNT / 2]} for i in range(COUNT)]
    write(workspace / "rows.csv", rows)
    _, run_dir = run_here(*PIPELINE, f"dataset.path={workspace}/rows.csv", "dataset.target=label")
    model = load_model(run_dir)
    expected = list(model.predict(pd.DataFrame({"a": ["1.125", "14.125"]})))
    with pytest.raises(
        DataError, match=r"'1,125' .* may be 1125 or 1\.125: use model\.decimal = 'point' for the first"
    ):
        model.predict(pd.DataFrame({"a": ["1,125", "14,125"]}))
    for others in ("0,125", "2,5", "1234,5"):
        with pytest.warns(UserWarning, match="decimal commas"):
            assert list(model.predict(pd.DataFrame({"a": ["1,125", "14,125", others]})))[:2] == expected
    model.decimal = "comma"
    assert list(model.predict(pd.DataFrame({"a": ["1,125", "14,125"]}))) == expected
    model.decimal = "point"
    with pytest.raises(UnfitError, match="'0,125'"):
        model.predict(pd.DataFrame({"a": ["0,125"]}))


def test_new_values_and_columns_in_a_later_table_are_reported(
    run_here: Runner, lab_here: Command, workspace: Path
) -> None:
    rows = [
        {
            "day": f"{1 + i % 28:02}.03.2020",
            "kind": "aü"[i % 2],
            "a": f"{i / 7:.2f}".replace(".", ","),
            "y": "np"[i > 60],
        }
        for i in range(COUNT)
    ]
    write(workspace / "rows.csv", rows, ";")
    _, run_dir = run_here(*PIPELINE, f"dataset.path={workspace}/rows.csv")
    models.register(store.workspace(), run_dir, "m")
    new = [
        {"day": "2020-03-05", "kind": "u\u0308", "a": "1,5", "prediction": "n"},
        {"day": "2020-03-06", "kind": "A", "a": "n/a", "prediction": "p"},
    ]
    write(workspace / "new.csv", new, ";")
    told = lab_here("models", "predict", "m", "new.csv", "--inputs")
    assert told.returncode == 0, told.stderr
    assert "kind: 1 of 2 values were not in training: 'A'\n" in told.stdout
    assert "missing values: a (1)\n" in told.stdout
    assert "the table's own column 'prediction' is called 'input_prediction'" in told.stdout
    assert list(rows_of(workspace / "new.csv.predictions.csv")[0])[:5] == [
        *list(new[0])[:3],
        "input_prediction",
        "prediction",
    ]
    write(workspace / "points.csv", [{**new[0], "a": "1.500"}])
    told = lab_here("models", "predict", "m", "points.csv")
    assert "decimal points, where the model's own table has commas" in told.stdout, told.stderr
    write(workspace / "asked.csv", [{**new[0], "a": "1.500"}], ";")
    assert "use --decimal point for the first" in lab_here("models", "predict", "m", "asked.csv").stderr


def test_a_first_line_is_read_as_names_or_values_and_that_is_said(run_here: Runner, workspace: Path) -> None:
    """Without names, columns count from 0, and so may values: a row must not be lost, nor a column moved."""
    values = np.random.default_rng(0).integers(0, 4, size=(60, 3))
    named = pd.DataFrame(values, columns=["a", "b", "c"]).assign(y=values[:, 0] > 1)
    named.to_csv(workspace / "named.csv", index=False)
    named.to_csv(workspace / "counted.csv", index=False, header=False)
    of_counted, of_named = (
        load_model(run_here("dataset=csv", f"dataset.path={workspace}/{path}", f"dataset.header={header}")[1])
        for path, header in (("counted.csv", "false"), ("named.csv", "null"))
    )
    rows = "2,1,3\n1,0,2\n3,3,0\n"
    for model in (of_counted, of_named):
        for first, expected, note in (
            ("1,0,2", ["False", "True", "False", "True"], "the first line (1, 0, 2) is read as values"),
            ("0,1,2", ["True", "False", "True"], "the first line only counts the columns"),
        ):
            (workspace / "new.csv").write_text(f"{first}\n{rows}")
            fed = sample_files.read(workspace / "new.csv", model)
            assert list(map(str, model.predict(fed.samples))) == expected and note in " ".join(fed.notes)
    (workspace / "new.csv").write_text(f"c,b,a\n{rows}")
    fed = sample_files.read(workspace / "new.csv", of_named)
    assert list(map(str, of_named.predict(fed.samples))) == ["True", "True", "False"] and not fed.notes
    frame = pd.DataFrame(values, columns=["a", "b", "c"])
    predicted = of_named.predict(frame)
    for names in (range(3), range(1, 4)):  # a frame without names, and one whose first column was taken out
        assert (of_named.predict(frame.set_axis(names, axis=1)) == predicted).all()
    frame.set_axis(["0", "1", "2"], axis=1).to_parquet(workspace / "new.parquet")
    fed = sample_files.read(workspace / "new.parquet", of_named)
    assert (of_named.predict(fed.samples) == predicted).all() and "read as a, b, c" in " ".join(fed.notes)
    frame.set_axis(["u", "v", "w"], axis=1).to_parquet(workspace / "new.parquet")
    fed = sample_files.read(workspace / "new.parquet", of_named)
    for unclear in (fed.samples, frame.set_axis([2, 0, 1], axis=1), frame.set_axis(["²", "0", "1"], axis=1)):
        with pytest.raises(UnfitError, match="there is no a, b, c"):
            of_named.predict(unclear)
    with pytest.raises(UnfitError, match="there is no 0"):
        of_counted.predict(frame.set_axis([1, 2, 3], axis=1))


def test_columns_whose_names_are_numbers_are_matched_by_name(run_here: Runner, workspace: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4, size=(60, 3))
    table = pd.DataFrame(values, columns=["2023", "2022", "2021"])
    table.assign(y=values[:, 0] > 1).to_csv(workspace / "years.csv", index=False)
    model = load_model(run_here("dataset=csv", f"dataset.path={workspace}/years.csv", "dataset.header=true")[1])
    predicted = model.predict(table)
    assert len(set(predicted)) == 2 and (model.predict(table[sorted(table)]) == predicted).all()
    assert (model.predict(table.set_axis(range(3), axis=1)) == predicted).all(), "a frame without names"


def test_unused_parts_of_an_archive_are_reported(tmp_path: Path) -> None:
    path, saved = tmp_path / "parts.npz", Saved(None, Card({}, "model.pt", "0" * 64, CardKind.NETWORK), "a model")
    np.savez(path, X_train=np.zeros((5, 2)), y_train=np.zeros(5), X_test=np.ones((3, 2)))
    told = ["predicted only for X_test, not for X_train"]
    whole = sample_files.read(path, saved)
    assert whole.notes == told and len(whole.samples) == 3
    assert [one.notes for one in sample_files.blocks(path, saved)] == [told]
    np.savez(path, X=np.zeros((5, 2)), y=np.zeros(5))
    assert not sample_files.read(path, saved).notes
