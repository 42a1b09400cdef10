"""Datastores and data sets of the SDK, imported as in users' scripts."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

import labrun
from helpers import lab
from labrun.azureml.overrides import Reference
from labrun.azureml.script_inputs import ScriptInputs
from labrun.compat.azureml import finder, notice
from labrun.compat.azureml.exceptions import NotInLabrun, UserErrorException
from labrun.compat.azureml.training import columns, factories
from labrun.compat.azureml.training.data import InputDataset
from servers import AZURITE_KEY, Server


def sdk(name: str, module: str = "azureml.core") -> Any:
    return finder.find(module, name)


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A workspace in a folder with tables, and text of another kind beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.setattr(columns, "_warned", set())
    monkeypatch.setattr(notice, "_printed", set())
    for name in ("LABRUN_WORKSPACE", "LABRUN_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "raw" / "more").mkdir(parents=True)
    (tmp_path / "raw" / "a.csv").write_text("id,zip,y\n1,00501,0\n2,10001,1\n")
    (tmp_path / "raw" / "more" / "b.csv").write_text("id,zip,y\n3,00502,1\n")
    (tmp_path / "raw" / "note.txt").write_text("a note")
    return sdk("Workspace").from_config()


def table(path: Path, text: str, **options: Any) -> Any:
    path.write_text(text)
    return sdk("Dataset").Tabular.from_delimited_files(str(path), **options).to_pandas_dataframe()


# Datastores


def test_uploads_and_downloads_print_what_the_sdk_prints(ws: Any, tmp_path: Path, capsys: Any) -> None:
    store = ws.get_default_datastore()
    found = store.upload(src_dir="raw", target_path="in", overwrite=True, show_progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Uploading an estimated of 3 files" and lines[-1] == "Uploaded 3 files"
    told = [line.partition(", ")[2] for line in lines if line.startswith("Uploaded raw/")]
    assert told == [f"{number} files out of an estimated total of 3" for number in (1, 2, 3)]
    assert "Uploading raw/a.csv" in lines
    assert (found.path_on_datastore, str(found)) == ("in", "$AZUREML_DATAREFERENCE_local_in")
    (tmp_path / "raw" / "a.csv").write_text("changed")
    store.upload("raw", "in")
    out = capsys.readouterr().out
    assert "Target already exists. Skipping upload for in/a.csv" in out and out.endswith("Uploaded 0 files\n")
    assert (tmp_path / "data/in/a.csv").read_text().startswith("id"), "without overwrite, what is there stays"
    store.upload_files(["raw/a.csv", "raw/more/b.csv"], relative_root="raw", target_path="in", overwrite=True)
    assert (tmp_path / "data/in/a.csv").read_text() == "changed"
    store.upload_files([str(tmp_path / "raw/more/b.csv")], target_path="flat", show_progress=False)
    assert store.download("copy", prefix="in/more", show_progress=True) == 1 and store.download("copy", "in") == 2
    assert (tmp_path / "copy/in/more/b.csv").is_file() and (tmp_path / "data/flat/b.csv").is_file()
    assert "Target already exists. Skipping download for copy/in/more/b.csv" in capsys.readouterr().out
    for call in (lambda: store.upload("no"), lambda: store.upload_files(["no.csv"]), lambda: store.path("../up")):
        with pytest.raises(UserErrorException):
            call()
    with pytest.raises(UserErrorException, match="is not below relative_root"):
        store.upload_files(["raw/a.csv"], relative_root="data")


def test_uploading_the_datastores_own_folder_does_not_nest_it(ws: Any, tmp_path: Path) -> None:
    """Tutorials upload `./data`, which is the default datastore's folder here."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("x\n1\n")
    store = ws.get_default_datastore()
    for target in ("one", "one", "two"):
        store.upload("data", target, overwrite=True, show_progress=False)
    names = sorted(path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.csv"))
    assert names == ["one/x.csv", "two/x.csv", "x.csv"]


def test_datastores_are_read_from_config_files(ws: Any, tmp_path: Path, capsys: Any) -> None:
    datastore = sdk("Datastore")
    store = ws.get_default_datastore()
    assert (store.name, store.datastore_type, store.container_name) == ("local", "Local", str(tmp_path / "data"))
    assert isinstance(store.account_name, str) and list(ws.datastores) == ["local"]
    assert datastore.get(ws, "workspaceblobstore") == datastore(ws, "local") == store
    assert "workspaceblobstore maps to local" in capsys.readouterr().err
    with pytest.raises(UserErrorException, match="Could not find the datastore nowhere"):
        datastore.get(ws, "nowhere")
    with pytest.raises(NotInLabrun, match="register_azure_data_lake_gen2"):
        datastore.register_azure_data_lake(ws, "lake")
    (tmp_path / "conf/datastore").mkdir(parents=True)
    (tmp_path / "conf/datastore/mine.yaml").write_text(
        "_target_: labrun.data.stores.local.LocalDatastore\nname: mine\nroot: elsewhere\n"
    )
    assert list(ws.datastores) == ["local", "mine"]
    ws.set_default_datastore("mine")
    assert ws.get_default_datastore().name == "mine" and ws.datastores["mine"].is_default
    assert datastore.register_azure_blob_container(ws, "mine", "c", "a").datastore_type == "Local"
    assert "does not change it" in capsys.readouterr().err
    with pytest.raises(UserErrorException, match="by hand"):
        datastore.get(ws, "mine").unregister()


def test_a_registered_blob_container_keeps_its_key_out_of_the_file(
    ws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_OWN_KEY", "c2VjcmV0LWtleS0x")
    register = sdk("Datastore").register_azure_blob_container
    pytest.importorskip("adlfs")
    made = register(ws, "images", "pictures", "myaccount", account_key="c2VjcmV0LWtleS0x")
    assert (made.datastore_type, made.container_name, made.account_name) == ("AzureBlob", "pictures", "myaccount")
    text = (tmp_path / "conf/datastore/images.yaml").read_text()
    assert "${oc.env:MY_OWN_KEY}" in text and "c2VjcmV0" not in text
    register(ws, datastore_name="other", container_name="c", account_name="a", sas_token="sv=1&sig=abcdef")
    text = (tmp_path / "conf/datastore/other.yaml").read_text()
    assert "${oc.env:LABRUN_OTHER_SAS_TOKEN}" in text and "abcdef" not in text
    assert os.environ.pop("LABRUN_OTHER_SAS_TOKEN") == "sv=1&sig=abcdef"
    made.unregister()
    assert not (tmp_path / "conf/datastore/images.yaml").exists()


def test_a_blob_container_is_uploaded_to_mounted_and_downloaded(
    ws: Any, tmp_path: Path, azurite_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over 15 s: a real blob store, and a real run that reads from it."""
    address = azurite_server.environment["AZURE_STORAGE_CONNECTION_STRING"].partition("BlobEndpoint=http://")[2]
    monkeypatch.setenv("LABRUN_BLOBS_CONNECTION", "")
    store = sdk("Datastore").register_azure_blob_container(
        workspace=ws,
        datastore_name="blobs",
        container_name=f"c{os.urandom(4).hex()}",
        account_name="devstoreaccount1",
        account_key=AZURITE_KEY,
        protocol="http",
        endpoint=address.partition("/")[0],
        create_if_not_exists=True,
    )
    assert AZURITE_KEY not in (tmp_path / "conf/datastore/blobs.yaml").read_text()
    store.upload("raw", "in", show_progress=False)
    dataset = sdk("Dataset")
    files = dataset.File.from_files((store, "in/**/*.csv"))
    assert files.to_path() == ["/a.csv", "/more/b.csv"]
    assert [Path(path).name for path in files.download("got")] == ["a.csv", "b.csv"]
    rows = dataset.Tabular.from_delimited_files((store, "in/**/*.csv")).register(ws, "post codes")
    assert rows.to_pandas_dataframe()["zip"].tolist() == ["00501", "10001", "00502"]
    assert list(dataset.get_all(ws)) == ["post codes"] and rows.version == 1
    (tmp_path / "train.py").write_text(
        "import os, sys\nfrom azureml.core import Dataset, Run\nrun = Run.get_context()\n"
        "run.log('files', len(os.listdir(sys.argv[1])))\n"
        "run.log('rows', len(run.input_datasets['codes'].to_pandas_dataframe()))\n"
        "run.log('again', len(Dataset.get_by_name(run.experiment.workspace, 'post codes').to_pandas_dataframe()))\n"
    )
    arguments = [store.path("in").as_download(), rows.as_named_input("codes")]
    config = sdk("ScriptRunConfig")(str(tmp_path), "train.py", arguments)
    run = sdk("Experiment")(ws, "blobs").submit(config)
    run.wait_for_completion()
    assert run.get_metrics() == {"files": 3, "rows": 3, "again": 3}
    record = labrun.get_run("last", root=tmp_path).record
    assert AZURITE_KEY not in json.dumps(record.config)
    assert [one.number for one in record.data if one.asset == "post-codes"] == [1]


# Tables


def test_columns_have_types_that_lose_no_information(ws: Any, tmp_path: Path, capsys: Any) -> None:
    frame = table(
        tmp_path / "t.csv",
        "id,zip,when,ok,country,n,long,share,day,maybe\n"
        "1,00501,2020-01-01,true,NA,,12345678901234567890,1,01/02/2020,\n"
        "2,10001,2020-02-01T10:00:00+02:00,false,None,4,1,2.5,13/02/2020,True\n"
        "3,10002,2020/03/01,TRUE,,9,1,NaN,13/02/2020,\n",
    )
    types = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert types == {
        "id": "int64",
        "zip": "object",
        "when": "datetime64[ns]",
        "ok": "bool",
        "country": "object",
        "n": "float64",
        "long": "object",
        "share": "float64",
        "day": "object",
        "maybe": "object",
    }
    assert frame["country"].tolist() == ["NA", "None", None] and frame["zip"].tolist()[0] == "00501"
    assert frame["when"].tolist()[1] == datetime.datetime(2020, 2, 1, 8) and frame["maybe"].tolist() == [
        None,
        True,
        None,
    ]
    told = capsys.readouterr().err
    assert "column zip stays text, because of values such as '00501'" in told
    assert "column day stays text" in told and "column long stays text" in told
    kind = sdk("DataType", "azureml.data.dataset_factory")
    given = {"id": kind.to_string(), "day": kind.to_datetime("%d/%m/%Y"), "n": kind.to_float(), "zip": kind.to_long()}
    frame = table(tmp_path / "t.csv", (tmp_path / "t.csv").read_text(), set_column_types=given)
    assert frame["day"].tolist()[0] == datetime.datetime(2020, 2, 1) and frame["id"].tolist() == ["1", "2", "3"]
    assert frame["zip"].tolist() == [501, 10001, 10002]
    raw = table(tmp_path / "t.csv", "a,b\n1,\n", infer_column_types=False, empty_as_string=True)
    assert raw.to_dict("records") == [{"a": "1", "b": ""}]
    assert table(tmp_path / "n.csv", "n,t\n9007199254740993,a\n,b\n")["n"].tolist() == ["9007199254740993", None]


def test_delimited_files_of_many_formats_are_read(ws: Any, tmp_path: Path) -> None:
    headers = sdk("PromoteHeadersBehavior", "azureml.data.dataset_type_definitions")
    assert list(table(tmp_path / "a.txt", "1;x\n2;y\n", separator=";", header=False).columns) == ["Column1", "Column2"]
    (tmp_path / "l.csv").write_bytes("größe\n1\n".encode("cp1252"))
    made = sdk("Dataset").Tabular.from_delimited_files(str(tmp_path / "l.csv"), encoding="windows1252")
    assert list(made.to_pandas_dataframe().columns) == ["größe"]
    quoted = table(tmp_path / "q.csv", '\ufeffa,b\n"x, ""y""\nz",1\n')
    assert quoted.to_dict("records") == [{"a": 'x, "y"\nz', "b": 1}]
    for name, text in (("1.csv", "a,b\n1,x\n"), ("2.csv", "b,c\ny,2\n"), ("3.csv", "b,a\nz,3\n")):
        (tmp_path / name).write_text(text)
    read = sdk("Dataset").Tabular.from_delimited_files
    one, two, three = (str(tmp_path / f"{n}.csv") for n in (1, 2, 3))
    assert read([one, three]).to_pandas_dataframe().to_dict("records") == [{"a": 1, "b": "x"}, {"a": 3, "b": "z"}]
    both = read([one, two], header=headers.COMBINE_ALL_FILES_HEADERS).to_pandas_dataframe()
    assert list(both.columns) == ["a", "b", "c"] and both["b"].tolist() == ["x", "y"]
    first = read([one, two], header=headers.ONLY_FIRST_FILE_HAS_HEADERS).to_pandas_dataframe()
    assert first["a"].tolist() == ["1", "b", "y"]
    with pytest.raises(UserErrorException, match="COMBINE_ALL_FILES_HEADERS"):
        read([one, two]).to_pandas_dataframe()
    (tmp_path / "j.jsonl").write_text('{"a": 1, "b": "2020-01-01"}\n\n{"a": 2}\nno\n')
    lines = sdk("Dataset").Tabular.from_json_lines_files
    assert lines(str(tmp_path / "j.jsonl"), invalid_lines="drop").to_pandas_dataframe()["b"].tolist() == [
        "2020-01-01",
        None,
    ]
    with pytest.raises(UserErrorException, match="line 4"):
        lines(str(tmp_path / "j.jsonl")).to_pandas_dataframe()
    both.to_parquet(tmp_path / "p.parquet")
    frame = sdk("Dataset").Tabular.from_parquet_files(str(tmp_path / "p.parquet")).to_pandas_dataframe()
    assert frame["b"].tolist() == ["x", "y"] and str(frame["b"].dtype) == "object"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,3\n", "more values than the first line"),
        ("a,b\n1,2\n1,2,3\n", "not a readable table"),
        ("a,b\n1,2\n", "there is no column nobody; the columns are: a, b"),
    ],
)
def test_tables_that_cannot_be_read_are_reported(ws: Any, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    rows = sdk("Dataset").Tabular.from_delimited_files(str(tmp_path / "t.csv"))
    with pytest.raises(UserErrorException, match=message):
        rows.keep_columns("nobody").to_pandas_dataframe()


def test_rows_are_selected_split_and_filtered_by_time(
    ws: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "n,when,kind\n" + "".join(f"{n},2020-01-{n + 1:02},{'ab'[n % 2]}\n" for n in range(20))
    (tmp_path / "t.csv").write_text(text)
    rows = sdk("Dataset").Tabular.from_delimited_files(str(tmp_path / "t.csv"))

    def numbers(some: Any) -> list[int]:
        found: list[int] = some.to_pandas_dataframe()["n"].tolist()
        return found

    assert numbers(rows.take(2)) == [0, 1] and numbers(rows.skip(18).take(1)) == [18] and numbers(rows.take(0)) == []
    first, second = rows.random_split(0.5, seed=3)
    again, _ = rows.random_split(percentage=0.5, seed=3)
    assert sorted(numbers(first) + numbers(second)) == list(range(20)) and numbers(again) == numbers(first)
    assert 0 < len(numbers(first)) < 20
    free, rest = rows.random_split(0.5)
    assert sorted(numbers(free) + numbers(rest)) == list(range(20)), "without a seed, the parts are of one split"
    assert list(rows.keep_columns(["when", "n"]).to_pandas_dataframe().columns) == ["n", "when"]
    assert list(rows.drop_columns(["when", "then"]).to_pandas_dataframe().columns) == ["n", "kind"]
    assert "drop_columns: there is no column then; the columns are: n, when, kind" in capsys.readouterr().err
    assert numbers(rows.filter((rows["n"] > 15) & ~(rows["kind"] == "a"))) == [17, 19]
    dated = rows.with_timestamp_columns("when")
    day = datetime.datetime(2020, 1, 3)
    assert dated.timestamp_columns == ("when", None) and numbers(dated.time_before(day)) == [0, 1, 2]
    assert numbers(dated.time_before(day, include_boundary=False)) == [0, 1]
    assert numbers(dated.time_between(day, datetime.datetime(2020, 1, 4))) == [2, 3]
    assert numbers(dated.time_recent(datetime.timedelta(days=1))) == []
    both = rows.with_timestamp_columns("when", "kind")
    assert both.drop_columns("kind").timestamp_columns == ("when", None) and both.take(1).timestamp_columns[1] == "kind"
    assert both.drop_columns("when").timestamp_columns == both.keep_columns(["n", "kind"]).timestamp_columns
    with pytest.raises(sdk("DatasetTimestampMissingError", "azureml.exceptions"), match="with_timestamp_columns"):
        both.drop_columns("when").time_before(day)
    assert rows.filter(rows["when"] > day).take(1).to_csv_files().to_path() == ["/part-00000.csv"]
    for call, message in (
        (lambda: rows.time_after(day), "with_timestamp_columns"),
        (lambda: rows.with_timestamp_columns(None, "kind"), "partition_timestamp='kind' alone"),
        (lambda: rows.take(-1), "integer of at least 0"),
        (lambda: rows.random_split(2), "fraction from 0 to 1"),
        (lambda: rows.with_timestamp_columns("kind").time_after(day).to_pandas_dataframe(), "to_datetime"),
    ):
        with pytest.raises(UserErrorException, match=message):
            call()


# Data sets


def test_a_data_set_is_registered_and_found_by_any_name(ws: Any, tmp_path: Path) -> None:
    dataset, store = sdk("Dataset"), ws.get_default_datastore()
    store.upload("raw", "in", show_progress=False)
    paths = [(store, "in/a.csv"), (store, "in/more/b.csv")]
    rows = dataset.Tabular.from_delimited_files(path=paths)
    assert (rows.name, rows.version, rows.tags) == (None, None, {})
    made = rows.register(workspace=ws, name="diabetes dataset", description="of 2019", tags={"format": "CSV"})
    assert (made.name, made.version, made.id, made.tags) == (
        "diabetes dataset",
        1,
        "diabetes dataset:1",
        {"format": "CSV"},
    )
    assert rows.register(ws, "diabetes dataset").version == 1, "equal content is the same version"
    with pytest.raises(UserErrorException, match="create_new_version=True"):
        rows.drop_columns("zip").register(ws, "diabetes dataset")
    assert rows.drop_columns("zip").register(ws, "diabetes dataset", create_new_version=True).version == 2
    store.upload_files(["raw/note.txt"], target_path="in", overwrite=True, show_progress=False)
    files = dataset.File.from_files((store, "in")).register(ws, "all files")
    assert {name: one.version for name, one in ws.datasets.items()} == {"all files": 1, "diabetes dataset": 2}
    newest, oldest = (dataset.get_by_name(ws, "diabetes dataset", version=v) for v in ("latest", 1))
    assert list(newest.to_pandas_dataframe().columns) == ["id", "y"] and oldest.description == "of 2019"
    assert oldest.to_pandas_dataframe()["zip"].tolist() == ["00501", "10001", "00502"]
    assert dataset.get_by_id(ws, newest.id).version == 2 and "diabetes dataset" in ws.datasets
    oldest.add_tags({"more": "1"}).update(description="changed")
    assert dataset.get_by_name(ws, "diabetes dataset", 1).tags == {"format": "CSV", "more": "1"}
    for call, message in (
        (lambda: dataset.get_by_name(ws, "nobody"), "Registered: all files, diabetes dataset"),
        (lambda: dataset.get_by_name(ws, "all files", 7), "Versions: 1"),
        (lambda: rows.register(ws, "all-files"), "would both be stored as all-files"),
        (lambda: dataset.get_by_id(ws, "x"), "NAME:VERSION"),
    ):
        with pytest.raises(UserErrorException, match=message):
            call()
    assert lab(tmp_path, "data", "ls").stdout.count("diabetes-dataset") == 1
    newest.unregister_all_versions()
    assert list(dataset.get_all(ws)) == ["all files"] and files.to_path() == ["/a.csv", "/more/b.csv", "/note.txt"]


def test_a_data_frame_is_registered(ws: Any, tmp_path: Path, capsys: Any) -> None:
    import pandas

    store = ws.get_default_datastore()
    for number in (1, 2, 2):
        frame = pandas.DataFrame({"a": range(number), "b": "x"})
        made = sdk("Dataset").Tabular.register_pandas_dataframe(frame, (store, "frames"), "frame", show_progress=True)
        assert made.version == number and made.to_pandas_dataframe().equals(frame.astype({"b": object}))
    assert "Successfully created and registered a new dataset." in capsys.readouterr().out
    sdk("Dataset").File.upload_directory("raw", (store, "sent"), pattern="*.csv", show_progress=False)
    assert [path.name for path in (tmp_path / "data/sent").iterdir()] == ["a.csv"]


def test_files_are_selected_mounted_and_downloaded(ws: Any, tmp_path: Path) -> None:
    dataset, store = sdk("Dataset"), ws.get_default_datastore()
    store.upload("raw", "in", show_progress=False)
    files = dataset.File.from_files(path=(store, "in/**"))
    assert files.to_path() == ["/a.csv", "/more/b.csv", "/note.txt"]
    assert files.take(1).to_path() == ["/a.csv"] and files.skip(2).to_path() == ["/note.txt"]
    first, second = files.random_split(0.5, seed=1)
    assert sorted(first.to_path() + second.to_path()) == files.to_path()
    with files.take(2).mount() as mounted:
        assert sorted(os.listdir(mounted.mount_point)) == ["a.csv", "more"]
        assert Path(mounted.mount_point, "a.csv").read_text().startswith("id")
    assert os.listdir(mounted.mount_point) == []
    assert len(files.download("copy")) == 3 and (tmp_path / "copy/more/b.csv").is_file()
    with pytest.raises(UserErrorException, match="overwrite=True"):
        files.download("copy")
    assert dataset.File.from_files((store, "in/*.csv")).to_path() == ["/a.csv"]
    assert dataset.File.from_files(str(tmp_path / "raw")).to_path() == files.to_path()
    assert abs(files.data_changed_time.timestamp() - datetime.datetime.now().timestamp()) < 60
    for path, message in (
        ((store, "none"), "no files in the datastore local under none"),
        ("nowhere.csv", "no files on this machine"),
        (7, "is not a path"),
        ([], "is empty"),
        ("http://127.0.0.1:9/t.csv", "cannot be reached from this machine"),
    ):
        with pytest.raises(UserErrorException, match=message):
            dataset.File.from_files(path)
    rows = dataset.Tabular.from_delimited_files((store, "in/a.csv"))
    assert rows.head(1).equals(rows.to_pandas_dataframe().head(1))
    for call in (
        lambda: files.as_hdfs,
        lambda: rows.get_profile,
        lambda: dataset.auto_read_files("a"),
        lambda: sdk("ColumnSelector", "azureml.dataprep")("a"),
    ):
        with pytest.raises(NotInLabrun, match="Instead: .*(as_mount|pandas|describe|from_delimited_files)"):
            call()
    assert not hasattr(files, "hydrate") and not hasattr(dataset, "hydrate")


def test_inputs_of_a_run_become_mounts_with_versions(ws: Any, tmp_path: Path) -> None:
    dataset, store = sdk("Dataset"), ws.get_default_datastore()
    store.upload("raw", "in", show_progress=False)
    files = dataset.File.from_files((store, "in"))
    named = files.register(ws, "my files")
    one = dataset.File.from_files((store, "in/a.csv"))
    rows = dataset.Tabular.from_delimited_files((store, "in/a.csv")).take(1)
    both = dataset.Tabular.from_delimited_files([(store, "in/a.csv"), (store, "in/more/b.csv")])
    reference = store.path("in", data_reference_name="ref").as_mount()
    inputs = ScriptInputs({"ref": reference.to_config(), "unused": 3})
    found = [
        inputs.argument(value)
        for value in (
            files.as_mount(),
            named.as_named_input("mine").as_download(),
            one.register(ws, "single").as_mount(),
            rows.as_named_input("rows"),
            both.as_named_input("both"),
            str(reference),
            f"{reference}/a.csv",
            "$AZUREML_DATAREFERENCE_unknown",
            0.5,
        )
    ]
    assert found[:4] == [
        "${mount:local/in}",
        "${mount:local/my-files@1}",
        "${mount:local/single@1}/a.csv",
        "${mount:local/in/a.csv}",
    ]
    assert found[4].startswith("${mount:local/data-") and found[4].endswith("@1}"), "exactly these two files"
    assert found[5:] == ["${mount:local/in}", "${mount:local/in}/a.csv", "$AZUREML_DATAREFERENCE_unknown", "0.5"]
    assert all(isinstance(value, Reference) for value in found[:7])
    told = inputs.overrides()
    assert "mine:'${mount:local/my-files@1}'" in told[0] and "my\\ files:" in told[0] and "ref:" in told[0]
    assert told[1].startswith("script.tables={rows:{") and "take" in told[1]
    with pytest.raises(UserErrorException, match="is not a valid input name"):
        files.as_named_input("two words")
    output = sdk("OutputFileDatasetConfig", "azureml.data")("out", (store, "made/{output-name}"))
    assert (
        inputs.argument(output.as_mount()) == str(tmp_path / "data/made/out") and (tmp_path / "data/made/out").is_dir()
    )


def test_inputs_are_found_by_name_within_a_run(ws: Any, tmp_path: Path) -> None:
    """Over 15 s: complete runs."""
    (tmp_path / "raw" / "note.txt").unlink()
    assert lab(tmp_path, "data", "upload", "raw", "--name", "observations").returncode == 0
    assert "Use weather-data" in lab(tmp_path, "data", "upload", "raw", "--name", "weather data").stderr
    rows = sdk("Dataset").Tabular.from_delimited_files((ws.get_default_datastore(), "observations/a.csv"))
    rows.drop_columns("zip").register(ws, "few rows")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "s.py").write_text(
        "import argparse, os\n"
        "from azureml.core import Dataset, Run\n"
        "argparse.ArgumentParser().parse_args()\n"
        "run = Run.get_context(); ws = run.experiment.workspace\n"
        "run.log('input', len(run.input_datasets['mine'].to_pandas_dataframe()))\n"
        "run.log('variable', len(os.listdir(os.environ['AZUREML_DATAREFERENCE_mine'])))\n"
        "few = Dataset.get_by_name(ws, name='few rows').to_pandas_dataframe()\n"
        "run.log('columns', list(few.columns)); run.log('few', len(few))\n"
        "run.log('first', len(Dataset.get_by_name(ws, 'observations', version=1).to_pandas_dataframe()))\n"
        "run.log('known', sorted(ws.datasets)); run.log('store', ws.get_default_datastore().name)\n"
    )
    words = ["experiment=script", "script.azureml=true", "script.path=src/s.py"]
    run = labrun.submit([*words, "script.inputs.mine=observations"], root=tmp_path)
    assert run.wait_for_completion(show_output=False)["status"] == "completed"
    found = sdk("Run").get(ws, run.id).get_metrics()
    assert found == {
        "input": 3,
        "variable": 2,
        "columns": ["id", "y"],
        "few": 2,
        "first": 3,
        "known": ["few rows", "observations"],
        "store": "local",
    }
    data = labrun.get_run(run.id, root=tmp_path).record.data
    assert [(one.asset, one.number) for one in data] == [("observations", 1), ("few-rows", 1)]


def test_rows_are_filtered_by_times_with_and_without_a_zone(ws: Any, tmp_path: Path) -> None:
    text = "t,x\n2020-01-01T00:00:00Z,1\n2020-01-01T06:00:00Z,2\n2020-01-02T00:00:00Z,3\n"
    (tmp_path / "times.csv").write_text(text)
    rows = sdk("Dataset").Tabular.from_delimited_files("times.csv").with_timestamp_columns("t")
    east = datetime.timezone(datetime.timedelta(hours=8))
    naive, aware = datetime.datetime(2020, 1, 1, 6), datetime.datetime(2020, 1, 1, 14, tzinfo=east)
    for moment in (naive, aware):
        for found, x in (
            (rows.time_after(moment), [2, 3]),
            (rows.time_after(moment, include_boundary=False), [3]),
            (rows.time_before(moment), [1, 2]),
            (rows.time_between(moment, datetime.datetime(2020, 1, 1, 23, tzinfo=datetime.UTC)), [2]),
            (rows.filter(rows["t"] == moment), [2]),
        ):
            assert found.to_pandas_dataframe()["x"].tolist() == x, (moment, found)
    with pytest.raises(UserErrorException, match="give a datetime"):
        rows.time_after("2020-01-01")
    import pandas

    frame = rows.to_pandas_dataframe().assign(t=lambda one: one["t"].dt.tz_localize("UTC").dt.tz_convert(east))
    frame.to_parquet(tmp_path / "zoned.parquet")
    zoned = sdk("Dataset").Tabular.from_parquet_files("zoned.parquet").with_timestamp_columns("t")
    assert [len(zoned.time_after(one).to_pandas_dataframe()) for one in (naive, aware)] == [2, 2]
    assert pandas.api.types.is_datetime64_any_dtype(zoned.to_pandas_dataframe()["t"])


def test_values_of_another_type_and_extreme_dates_become_missing(ws: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.csv").write_text("n,d,b,s\n1,1999-05-06,yes,0\ntwo,9999-12-31,no,1\n3,2001-01-01,perhaps,TRUE\n")
    kind = sdk("DataType", "azureml.data")
    types = {"n": kind.to_long(), "b": kind.to_bool("yes", "no"), "s": kind.to_bool()}
    rows = sdk("Dataset").Tabular.from_delimited_files("bad.csv", set_column_types=types)
    frame = rows.to_pandas_dataframe()
    assert frame["n"].isna().tolist() == [False, True, False] and frame["n"].dropna().tolist() == [1, 3]
    assert frame["b"].tolist() == [True, False, None] and frame["s"].tolist() == [False, True, True]
    assert frame["d"].dt.year.fillna(0).tolist() == [1999, 0, 2001]
    told = capsys.readouterr().err
    assert "column n: 1 of 3 values are not long, such as 'two'" in told and "before 1677 or after 2262" in told
    with pytest.raises(UserErrorException, match="column n: .*two"):
        rows.to_pandas_dataframe(on_error="fail")
    dates = rows.keep_columns("d")
    with pytest.raises(UserErrorException, match="column d: a date is before 1677 or after 2262"):
        dates.to_pandas_dataframe(out_of_range_datetime="fail")
    with pytest.raises(UserErrorException, match="choose 'null' or 'fail'"):
        rows.to_pandas_dataframe(on_error="ignore")
    (tmp_path / "no.csv").write_text("d\n2001-01-01\nnever\n")
    types = {"d": kind.to_datetime("%Y-%m-%d")}
    no = sdk("Dataset").Tabular.from_delimited_files("no.csv", set_column_types=types)
    assert no.to_pandas_dataframe()["d"].isna().tolist() == [False, True]
    with pytest.raises(UserErrorException, match="column d: a value is not a date"):
        no.to_pandas_dataframe(on_error="fail")


def test_partition_columns_are_read_from_paths(ws: Any, tmp_path: Path) -> None:
    store = ws.get_default_datastore()
    for team, day, x in (("Sales", "2019/01/31", 1), ("Sales", "2019/02/01", 2), ("R&D x", "2020/12/24", 3)):
        path = tmp_path / "up" / team / day / "data.csv"
        path.parent.mkdir(parents=True)
        path.write_text(f"x\n{x}\n")
    store.upload("up", "Accounts", show_progress=False)
    made = sdk("Dataset").Tabular.from_delimited_files(
        (store, "Accounts/**/*.csv"), partition_format="/{Team}/{Day:yyyy/MM/dd}/data.csv"
    )
    assert made.partition_keys == ["Team", "Day"]
    frame = made.to_pandas_dataframe().sort_values("x")
    assert list(frame.columns) == ["Team", "Day", "x"] and frame["Team"].tolist() == ["Sales", "Sales", "R&D x"]
    assert frame["Day"].astype(str).tolist() == ["2019-01-31", "2019-02-01", "2020-12-24"]
    assert made.get_partition_key_values(["Team"]) == [{"Team": "R&D x"}, {"Team": "Sales"}]
    late = made.filter(made["Day"] > datetime.datetime(2019, 2, 1)).to_pandas_dataframe()
    assert late["x"].tolist() == [3]
    one = made.register(ws, "accounts")
    assert (
        sdk("Dataset").get_by_name(ws, "accounts").to_pandas_dataframe()["Team"].tolist()
        == frame.sort_index()["Team"].tolist()
    )
    assert one.labrun_table["partition"] == {"format": "/{Team}/{Day:yyyy/MM/dd}/data.csv", "base": "Accounts"}
    single = sdk("Dataset").Tabular.from_delimited_files(
        "up/Sales/2019/01/31/data.csv", partition_format="{Year:yyyy}/{m}/*/*.csv", include_path=True
    )
    assert single.to_pandas_dataframe().astype(str).values.tolist()[0][1:] == ["2019-01-01", "01", "1"]
    for text, message in (
        ("/data.csv", "name parts of the path"),
        ("/{a}/{a}/data.csv", "appears twice"),
        ("/{Day:dd.MM}/data.csv", "does not match it"),
    ):
        with pytest.raises(UserErrorException, match=message):
            sdk("Dataset").Tabular.from_delimited_files((store, "Accounts"), partition_format=text)


def test_files_are_filtered_by_path_and_metadata(ws: Any, tmp_path: Path) -> None:
    (tmp_path / "raw" / "large.bin").write_bytes(bytes(5000))
    files = sdk("Dataset").File.from_files("raw", partition_format="/{folder}/{name}")
    assert files.partition_keys == ["folder", "name"] and {"folder": "more", "name": "b.csv"} in (
        files.get_partition_key_values()
    )
    assert files.filter(files["folder"] == "more").to_path() == ["/more/b.csv"]
    size, kind = files.file_metadata("Size"), files.file_metadata("Extension")
    assert files.filter(size > 4000).to_path() == ["/large.bin"]
    assert files.filter((size < 4000) & ~kind.starts_with("c")).to_path() == ["/note.txt"]
    hour = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    assert len(files.filter(files.file_metadata("LastModifiedTime") > hour).to_path()) == 4
    with pytest.raises(UserErrorException, match="choose one of Size"):
        files.file_metadata("Colour")


def test_secrets_are_recognized_in_any_case(ws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = ws.get_default_keyvault()
    monkeypatch.setenv("My_Secret", "given")
    assert vault.get_secret("my-secret") == vault.get_secret("MY-SECRET") == "given"
    vault.set_secret("MY-Secret", "set")
    assert {vault.get_secret(name) for name in ("my-secret", "My-Secret", "MY-SECRET")} == {"set"}
    vault.set_secret("dbPass", "1")
    vault.set_secret("DBPASS", "2")
    assert vault.get_secrets(["dbpass", "dbPass"]) == {"dbpass": "2", "dbPass": "2"}
    monkeypatch.setenv("to_ken", "a")
    monkeypatch.setenv("To_Ken", "b")
    with pytest.raises(UserErrorException, match="To_Ken, to_ken differ"):
        vault.get_secret("TO-KEN")
    assert vault.get_secret("to-ken") == "a"
    vault.delete_secret("dbpass")
    with pytest.raises(NotInLabrun, match="export DBPASS="):
        vault.get_secret("dbPass")
    for name, value, message in (
        ("a=b", "x", "the name must have 1 to 127 letters, digits and '-'$"),
        ("", "x", "the name must have"),
        ("a", 5, r"\): the value is a int; it must be a string"),
        ("a", "\0", "contains a null character"),
    ):
        with pytest.raises(UserErrorException, match=message):
            vault.set_secret(name, value)
    for name in ("My_Secret", "MY_SECRET"):
        monkeypatch.delenv(name, raising=False)


def test_a_file_share_is_read_from_its_mount_point(ws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labrun.azureml import datastore_files

    call = sdk("Datastore").register_azure_file_share
    with pytest.raises(NotInLabrun, match=r"mount -t cifs //acct.file.core.windows.net/share /mnt/share"):
        call(ws, "shared", "share", "acct", account_key="k")
    share = tmp_path / "mnt share"
    share.mkdir()
    (share / "x.txt").write_text("x")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"//acct.file.core.windows.net/share {str(share).replace(' ', chr(92) + '040')} cifs rw 0 0\n")
    monkeypatch.setattr(datastore_files, "MOUNTS", mounts)
    store = call(ws, "shared", "share", "acct", account_key="k")
    assert store.datastore_type == "Local" and store.download("got", show_progress=False) == 1
    with pytest.raises(NotInLabrun, match=r"pandas.read_sql"):
        sdk("Datastore").register_azure_sql_database(ws, "sql", "server", "db")


def test_integers_stay_exact_in_columns_with_gaps(ws: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    large = 2**60 + 1
    tabular, types = sdk("Dataset").Tabular, sdk("DataType", "azureml.data.dataset_factory")
    Path("a.jsonl").write_text(f'{{"id": {large}, "zip": 501}}\n{{"zip": null}}\n')
    Path("b.jsonl").write_text('{"zip": 502}\n')
    lines = ["a.jsonl", "b.jsonl"]
    frame = tabular.from_json_lines_files(lines).to_pandas_dataframe()
    assert frame["id"].tolist() == [large, None, None] and str(frame["zip"].dtype) == "float64"
    texts = tabular.from_json_lines_files(lines, set_column_types={"zip": types.to_string(), "id": types.to_string()})
    assert texts.to_pandas_dataframe().to_dict("list") == {"id": [str(large), None, None], "zip": ["501", None, "502"]}
    columns_of_file = {"id": pyarrow.array([large, None]), "n": pyarrow.array([1.0, None])}
    pyarrow.parquet.write_table(pyarrow.table(columns_of_file), "a.parquet")
    frame = tabular.from_parquet_files("a.parquet").to_pandas_dataframe()
    assert frame["id"].tolist() == [large, None] and str(frame["n"].dtype) == "float64"
    whole = tabular.from_parquet_files("a.parquet", set_column_types={"n": types.to_long()}).to_pandas_dataframe()
    assert whole["n"].dropna().tolist() == [1]


def test_tables_that_cannot_be_read_as_asked_are_refused(ws: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tabular, types = sdk("Dataset").Tabular, sdk("DataType", "azureml.data.dataset_factory")
    Path("a.csv").write_text("Path,day,n\nx,31/01/2020,1\n")
    Path("b.csv").write_text(",Column1\n1,2\n")
    Path("c.jsonl").write_bytes('{"a": "é"}\n'.encode("latin1"))
    rows = tabular.from_delimited_files("a.csv")
    empty = tabular.from_delimited_files("a.csv", set_column_types={"Path": types.to_long()})
    assert empty.to_pandas_dataframe()["Path"].isna().all() and "become empty" in capsys.readouterr().err
    assert tabular.from_delimited_files("b.csv").to_pandas_dataframe().to_dict("list") == {
        "Column1_": [1],
        "Column1": [2],
    }
    for call, message in (
        (lambda: tabular.from_delimited_files("a.csv", include_path=True).head(1), "already have a column Path"),
        (lambda: tabular.from_json_lines_files("c.jsonl").head(1), "c.jsonl: not a readable table"),
        (lambda: tabular.from_json_lines_files("c.jsonl", encoding="utf9").head(1), "unknown encoding: utf9"),
        (lambda: tabular.from_json_lines_files("c.jsonl", invalid_lines="skip"), "choose 'error' or 'drop'"),
        (lambda: rows.filter(rows["Path"] == 3).head(1), "column Path holds text, such as 'x', and is compared with 3"),
        (lambda: rows.filter(rows["n"] != "1").head(1), "column n holds numbers, such as .*1.* compared with '1'"),
        (lambda: rows.filter(rows["day"] > datetime.datetime(2020, 1, 1)).head(1), "does not hold unambiguous dates"),
        (lambda: rows.with_timestamp_columns("day").time_recent(5), "give a timedelta"),
    ):
        with pytest.raises(UserErrorException, match=message):
            call()


def test_paths_and_patterns_work_without_labrun_in_the_interpreter(ws: Any) -> None:
    tabular, files = factories.TabularDatasetFactory, factories.FileDatasetFactory
    rows = tabular.from_delimited_files(["raw/**/*.csv", "raw/a.csv"], include_path=True).to_pandas_dataframe()
    whole = sdk("Dataset").Tabular.from_delimited_files("raw/**/*.csv", include_path=True).to_pandas_dataframe()
    assert rows["Path"].tolist() == whole["Path"].tolist() == ["/a.csv", "/a.csv", "/more/b.csv"]
    assert files.from_files("raw/*.csv").to_path() == ["/a.csv"]
    mixed = InputDataset.called("mixed", str(Path("raw").absolute()))
    assert len(mixed.to_pandas_dataframe()) == len(mixed.filter(mixed["id"] > 0).to_pandas_dataframe()) == 3
    assert len(sdk("Dataset").File.from_files("raw").to_pandas_dataframe()) == 3, "notes are not tables"
    for call in (lambda: tabular.from_delimited_files("raw/*.tsv"), lambda: files.from_files("nothing")):
        with pytest.raises(UserErrorException, match="there are no files on this machine under"):
            call()
    assert files.from_files("nothing", validate=False).to_path() == []


def test_dates_in_parquet_files_stay_dates(ws: Any) -> None:
    import pandas as pd

    days = [datetime.date(2020, 1, 1), None, datetime.date(2020, 2, 1)]
    pd.DataFrame({"day": days}).to_parquet("a.parquet")
    rows = sdk("Dataset").Tabular.from_parquet_files("a.parquet").with_timestamp_columns("day")
    assert str(rows.to_pandas_dataframe()["day"].dtype).startswith("datetime64")
    assert len(rows.time_after(datetime.datetime(2020, 1, 15)).to_pandas_dataframe()) == 1
    assert len(rows.filter(rows["day"] < datetime.date(2020, 1, 15)).to_pandas_dataframe()) == 1


def test_invalid_registrations_and_uploads_are_refused(ws: Any) -> None:
    import pandas as pd

    store, dataset = ws.get_default_datastore(), sdk("Dataset")
    files, register = dataset.File.from_files("raw"), dataset.Tabular.register_pandas_dataframe
    assert store.upload_files("raw/a.csv", target_path="one", show_progress=False).path_on_datastore == "one"
    assert Path("data/one/a.csv").exists()
    for call, message in (
        (lambda: files.register(ws, ""), "register: name='': give a non-empty string"),
        (lambda: files.register(ws, None), "register: name=None"),
        (lambda: files.register(ws, "x", tags=["team"]), r"register: tags=\['team'\]: give a dictionary"),
        (lambda: files.update(tags=["team"]), "update: tags="),
        (lambda: files.add_tags(["team"]), "add_tags: tags="),
        (lambda: register([1], store, "x"), "list is not a pandas.DataFrame"),
        (lambda: register(pd.DataFrame({"a": [1, "x"]}), store, "x"), "Parquet cannot hold the rows"),
        (
            lambda: dataset.File.upload_directory("raw", (store, "z"), "*.zip"),
            r"no file in raw matches pattern='\*.zip'",
        ),
    ):
        with pytest.raises(UserErrorException, match=message):
            call()
    assert list(ws.datasets) == []


def test_a_mount_keeps_other_files_in_its_folder(ws: Any, tmp_path: Path) -> None:
    files = sdk("Dataset").File.from_files("raw")
    point = tmp_path / "point"
    (point / "empty").mkdir(parents=True)
    (point / "mine").symlink_to(tmp_path)
    (point / "a.csv").symlink_to(tmp_path / "raw/note.txt")  # left over from another mount
    mounted = files.mount(str(point))
    with mounted:
        assert (point / "a.csv").read_text() == (tmp_path / "raw/a.csv").read_text() and (point / "more/b.csv").exists()
    assert sorted(path.name for path in point.iterdir()) == ["empty", "mine"]
    (point / "note.txt").write_text("mine")
    with pytest.raises(UserErrorException, match=r"note.txt exists already: give an empty folder"):
        mounted.start()


def test_names_with_brackets_and_text_as_tags_are_accepted(ws: Any) -> None:
    dataset = sdk("Dataset")
    for name in ("x[1].csv", "x1.csv", "y.csv"):
        Path(name).write_text(f"name\n{name}\n")
    assert dataset.Tabular.from_delimited_files("x[1].csv").to_pandas_dataframe()["name"].tolist() == ["x[1].csv"]
    assert dataset.File.from_files("[!x]*.csv").to_path() == ["/y.csv"]
    Path("v1.0").mkdir()
    Path("v1.0/model").write_text("m")
    files = dataset.File.from_files("v1.0")
    assert files.filter(files.file_metadata("Extension") == "").to_path() == ["/model"]
    made = files.register(ws, "models", tags={"team": "red", "t": None}).remove_tags("team")
    assert made.tags == {"t": ""} and dataset.get_by_name(ws, "models").tags == {"t": ""}
