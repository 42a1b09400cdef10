"""Keywords of the SDK's calls: carried out, reported once as unused, or refused with the nearest known one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers import submitted
from labrun.azureml import tensorboard
from labrun.azureml.authentication import InteractiveLoginAuthentication, ServicePrincipalAuthentication
from labrun.azureml.automl import AutoMLConfig, get_sdk_dependencies
from labrun.azureml.automl_run import AutoMLRun
from labrun.azureml.compute import AmlCompute, ComputeTarget, RemoteCompute
from labrun.azureml.data_configs import OutputFileDatasetConfig
from labrun.azureml.data_reference import DataPath, DataPathComputeBinding, DataReference
from labrun.azureml.distributed import MpiConfiguration, PyTorchConfiguration, overrides
from labrun.azureml.docker import DockerSection
from labrun.azureml.environment import Environment, PythonSection
from labrun.azureml.experiment import Experiment
from labrun.azureml.featurization import FeaturizationConfig
from labrun.azureml.hyperdrive import HyperDriveConfig
from labrun.azureml.run import Run, get_run
from labrun.azureml.run_configuration import RunConfiguration
from labrun.azureml.sampling import RandomParameterSampling, choice
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import finder, notice
from labrun.compat.azureml.exceptions import (
    ComputeTargetException,
    NotInLabrun,
    UserErrorException,
    WebserviceException,
)
from labrun.compat.azureml.training import experiment as training_experiment
from labrun.compat.azureml.training import factories, offline
from labrun.compat.azureml.training import model as training_model
from labrun.compat.azureml.training import run as training
from labrun.compat.azureml.training import workspace as training_workspace
from labrun.compat.azureml.training.data import InputDataset
from labrun.remote import remotes

Dataset, Datastore, Keyvault, Model = (
    finder.find("azureml.core", name) for name in ("Dataset", "Datastore", "Keyvault", "Model")
)


@pytest.fixture(autouse=True)
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    for name in ("LABRUN_WORKSPACE", "LABRUN_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notice, "_printed", set())
    return Workspace.from_config()


@pytest.fixture
def run(ws: Workspace) -> Any:
    """A run of this program."""
    with Experiment(ws, "by-hand").start_logging(snapshot_directory=None) as made:
        yield made


@pytest.fixture
def inside(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The run that the script belongs to."""
    monkeypatch.setenv("LABRUN_RUN_DIR", str(submitted(ws.folder, "abcd1234")))
    training._submitted.cache_clear()
    return training.Run.get_context()


def sample() -> RandomParameterSampling:
    return RandomParameterSampling({"--a": choice(1)}, properties={"seed": 3})


# A misspelled keyword


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ws: Experiment(ws, "x", workspaces=1), "Experiment: .* workspaces=. Did you mean 'workspace'"),
        (lambda ws: Experiment(ws, "x").start_logging(snapshot_dir="."), "Did you mean 'snapshot_directory'"),
        (lambda ws: Run(Experiment(ws, "x"), "1", output=1), "Run: .* output=. Did you mean 'outputs'"),
        (lambda ws: Run.get_context(allow_ofline=False), "Did you mean 'allow_offline'"),
        (lambda ws: Run.get_submitted_run(allow_ofline=False), "Did you mean 'allow_offline'"),
        (lambda ws: Run.list(Experiment(ws, "x"), statuses="Failed"), "Did you mean 'status'"),
        (lambda ws: get_run(Experiment(ws, "x"), "1", cleanup=True), "Did you mean 'clean_up'"),
        (lambda ws: Workspace(work_space_name="w"), "Did you mean 'workspace_name'"),
        (lambda ws: Workspace.get("w", subscription="s"), "Did you mean 'subscription_id'"),
        (lambda ws: Workspace.create("w", exists_ok=True), "Did you mean 'exist_ok'"),
        (lambda ws: ws.update(tag={"a": "b"}), "Did you mean 'tags'"),
        (lambda ws: AmlCompute.provisioning_configuration(max_node=4), "Did you mean 'max_nodes'"),
        (lambda ws: RemoteCompute.attach_configuration(user_name="me"), "Did you mean 'username'"),
        (lambda ws: Datastore.register_azure_blob_container(ws, "d", "c", "a", acount_key="k"), "'account_key'"),
        (lambda ws: Datastore.register_azure_data_lake_gen2(ws, "d", "c", "a", tenant="t"), "'tenant_id'"),
        (lambda ws: Datastore.register_azure_file_share(ws, "d", "c", "a", endpont="t"), "'endpoint'"),
        (lambda ws: FeaturizationConfig(drop_column=["a"]), "Did you mean 'drop_columns'"),
        (lambda ws: AutoMLConfig("classification", iteration=3), "Did you mean 'iterations'"),
        (lambda ws: get_sdk_dependencies(dependencies={}), "there is no argument dependencies="),
        (lambda ws: AutoMLRun.continue_experiment(None, experiment_timeout_hour=1), "'experiment_timeout_hours'"),
        (lambda ws: AutoMLRun.register_model(None, "m", model_path="p"), "register_model: .* model_path="),
        (lambda ws: AutoMLRun.get_output(None, iterations=1), "Did you mean 'iteration'"),
        (lambda ws: Model(ws, "m", versions=1), "Model: .* versions=. Did you mean 'version'"),
        (lambda ws: Dataset.get_by_id(ws, id="a:1", version=1), "get_by_id: there is no argument version="),
        (lambda ws: Environment("e", environment_variable={}), "Did you mean 'environment_variables'"),
        (lambda ws: PythonSection(interpreter="p"), "Did you mean 'interpreter_path'"),
        (lambda ws: DockerSection(base_imag="p"), "Did you mean 'base_image'"),
        (lambda ws: Environment("e").build_local(ws, use_docker=True), "Did you mean 'useDocker'"),
        (lambda ws: InteractiveLoginAuthentication(tennant_id="t"), "Did you mean 'tenant_id'"),
        (lambda ws: offline._OfflineRun().child_run(nmae="a"), "_OfflineRun.child_run: .*Did you mean 'name'"),
        (lambda ws: offline._OfflineRun().register_model("m", tag={}), "Did you mean 'tags'"),
        (lambda ws: training_workspace.Workspace.get(names="w"), "Did you mean 'name'"),
        (lambda ws: training_experiment.Experiment(nam="x"), "Did you mean 'name'"),
        (lambda ws: factories.FileDatasetFactory.from_files("a", partition_forma="/{a}/*"), "partition_forma"),
        (lambda ws: InputDataset.called("a", ".").download(overwrit=True), "Did you mean 'overwrite'"),
    ],
)
def test_a_misspelled_keyword_is_refused(ws: Workspace, call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(ws)


def test_a_misspelled_keyword_of_a_run_is_refused(run: Any, inside: Any) -> None:
    for one in (run, inside):
        for call, message in (
            (lambda one: one.child_run(nmae="a"), "Run.child_run: there is no argument nmae=. Did you mean 'name'"),
            (lambda one: one.register_model("m", model_pth="p"), "Did you mean 'model_path'"),
            (lambda one: one.download_file("a", output_path="b"), "Did you mean 'output_file_path'"),
        ):
            with pytest.raises(TypeError, match=message):
                call(one)
    with pytest.raises(TypeError, match="Did you mean 'show_output'"):
        run.wait_for_completion(show_outputs=True)
    assert list(run.get_children()) == list(inside.get_children()) == []


@pytest.mark.parametrize(
    ("settings", "name", "nearest"),
    [
        (RunConfiguration(), "enviroment", "environment"),
        (RunConfiguration().environment, "environment_variable", "environment_variables"),
        (Environment("e").python, "conda_dependancies", "conda_dependencies"),
        (Environment("e").docker, "base_imag", "base_image"),
        (MpiConfiguration(), "process_count_per_nod", "process_count_per_node"),
    ],
)
def test_a_misspelled_attribute_is_refused(settings: Any, name: str, nearest: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'. Did you mean '{nearest}'"):
        setattr(settings, name, None)
    value = getattr(settings, nearest)
    setattr(settings, nearest, value)
    assert getattr(settings, nearest) == value


# Runs


def test_the_output_folder_of_a_run_is_captured_when_the_run_ends(ws: Workspace, inside: Any) -> None:
    experiment = Experiment(ws, "captured")
    Path("mine").mkdir()
    Path("mine/early.txt").write_text("early")
    with pytest.MonkeyPatch.context() as outside:
        outside.delenv("LABRUN_RUN_DIR")
        with experiment.start_logging("shown", outputs="mine", snapshot_directory=None, properties={"p": 1}) as run:
            child = run.child_run("below", outputs="mine", tags={"a": "b"})
            Path("mine/early.txt").write_text("late")
            Path("mine/new.txt").write_text("new")
            child.complete()
        Path("outputs").mkdir(exist_ok=True)
        with experiment.start_logging(outputs=False, snapshot_directory=None) as none:
            Path("outputs/other.txt").write_text("other")
    assert (run.display_name, run.get_properties()["p"], child.get_tags()["a"]) == ("shown", "1", "b")
    for one in (run, child):
        assert (one._folder / "outputs/early.txt").read_text() == "late" and (one._folder / "outputs/new.txt").exists()
    assert "outputs/other.txt" not in none.get_file_names()
    own = inside.child_run("own", outputs="mine")
    Path("mine/new.txt").write_text("newer")
    own.complete()
    assert (own._run.run_dir / "outputs/new.txt").read_text() == "newer"


def test_start_logging_inside_a_run_adds_to_that_run(
    ws: Workspace, inside: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, tag in ((Experiment, "outer"), (training_experiment.Experiment, "inner")):
        given = {"display_name": tag, "tags": {tag: 1}, "properties": {f"p-{tag}": 2}, "outputs": "elsewhere"}
        assert kind(ws, "x").start_logging(**given) is inside
        assert inside.get_tags()["display_name"] == tag and inside.get_tags()[tag] == "1"
        assert inside.get_properties()[f"p-{tag}"] == "2"
    assert capsys.readouterr().err.count("start_logging: outputs is not used: ./outputs belongs") == 1


def test_unused_ids_datastores_and_snapshots_are_reported_once(
    ws: Workspace, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.txt").write_text("a")
    for _ in range(2):
        run.child_run(run_id="mine").complete()
        run.take_snapshot("src")
    run.upload_file("outputs/a.txt", "a.txt", datastore_name="blobs")
    run.upload_files(["outputs/b.txt"], ["a.txt"], False, None, "blobs")
    with pytest.raises(TypeError, match="2 names, 1 paths"):
        run.upload_files(["b", "c"], ["a.txt"])
    HyperDriveConfig(sample(), "m", run_config=ScriptRunConfig(command="true"), custom_run_id="mine")
    run.experiment.archive()
    told = capsys.readouterr().err
    for text in (
        "child_run: run_id is not used: labrun assigns the id",
        "take_snapshot('src'): nothing is copied",
        "upload_file(datastore_name='blobs'): the name is not used",
        "HyperDriveConfig: custom_run_id is not used",
        "RandomParameterSampling: properties is not used",
        "archive() of the experiment by-hand: nothing happens",
    ):
        assert told.count(text) == 1
    assert {"outputs/a.txt", "outputs/b.txt"} <= set(run.get_file_names())


def test_an_error_code_is_part_of_the_reason(run: Any, inside: Any, capsys: pytest.CaptureFixture[str]) -> None:
    child = inside.child_run("a")
    child.fail("too hot", "E7")
    assert json.loads((child._run.run_dir / "run.json").read_text())["error"]["message"] == "too hot (error code E7)"
    inside.fail(error_code="E8")
    told = json.loads((inside._run.run_dir / "logs/azureml/failed.json").read_text())
    assert told["message"] == "the script called run.fail() (error code E8)"
    run.fail("too cold", error_code="E9")
    assert "too cold (error code E9)" in run.get_details()["error"]["error"]["message"]
    offline._OfflineRun().fail("too wet", "E10")
    assert "too wet (error code E10)" in capsys.readouterr().out


def test_a_run_that_only_prints_takes_the_same_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    run = offline._OfflineRun()
    run.log("a", 1)
    assert run.get_metrics(recursive=True) == {run.id: {"a": 1}} and run.get_metrics("b", recursive=True) == {}
    assert [child.tags for child in run.create_children(tag_key="fold", tag_values=[1, 2])] == [
        {"fold": "1"},
        {"fold": "2"},
    ]
    with pytest.raises(UserErrorException, match="give either count"):
        run.create_children()
    run.register_model("m", "outputs/m", {"a": 1}, None, "ScikitLearn")
    run.upload_files(["x"], ["y"])
    assert "track file x at y" in capsys.readouterr().out


def test_unused_arguments_of_a_model_are_reported_once(
    ws: Workspace, run: Any, inside: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m.txt").write_text("m")
    run.upload_file("outputs/m.txt", "m.txt")
    early = run.register_model("m", "outputs/m.txt", datasets=[("training", 1)], description="d")
    assert Path(early.download("got")).read_text() == "m" and Path("got/m.txt").exists()
    inside.upload_file("outputs/m.txt", "m.txt")
    inside.register_model("m", "outputs/m.txt", resource_configuration=1)
    made = training_model.Model.register(ws, "m.txt", "n", sample_input_dataset=1, child_paths=["a"])
    assert made.name == "n"
    told = capsys.readouterr().err
    for text in (
        "register_model: not kept: datasets\n",
        "register_model: not kept: resource_configuration",
        "Model.register: not kept: sample_input_dataset",
        "Model.register: not kept: child_paths",
    ):
        assert told.count(text) == 1


def test_a_model_is_updated_with_the_sdks_signature(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.txt").write_text("m")
    model = Model.register(ws, "m.txt", "m")
    model.update({"a": "b"}, "text", "a sample", resource_configuration=1)
    again = Model(ws, "m", None, None, None, 1)
    assert (again.tags, again.description, again.model_framework) == ({"a": "b"}, "text", "Custom")
    assert "Model.update: not kept: sample_input_dataset, resource_configuration" in capsys.readouterr().err
    with pytest.raises(TypeError, match="Did you mean 'description'"):
        model.update(descripton="x")
    with pytest.raises(WebserviceException, match="give a name or an id"):
        Model(ws)


# The workspace and its compute targets


def test_a_workspace_keeps_its_location_and_tags(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    made = Workspace.create("w", None, "sub", "group", "westeurope", exist_ok=True, tags={"a": "b"}, show_output=False)
    assert (made.name, made.location, made.tags) == ("w", "westeurope", {"a": "b"})
    assert made.update("friendly", tags={"c": "d"})["tags"] == made.tags == {"c": "d"}
    assert "Workspace.update: friendly_name is not used" in capsys.readouterr().err
    assert list(Workspace.list("sub", None, "group")) == [ws.name] and made.list_connections("git") == {}
    inner = training_workspace.Workspace("sub", "group", "w")
    assert (inner.subscription_id, inner.resource_group, inner.name) == ("sub", "group", "w")
    assert isinstance(Keyvault(ws), type(ws.get_default_keyvault()))
    assert ServicePrincipalAuthentication("t", "i", "p").tenant_id == "t"
    assert InteractiveLoginAuthentication(tenant_id="t", _enable_caching=True).tenant_id == "t"


def test_settings_of_a_compute_target_are_kept_and_checked(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = AmlCompute.provisioning_configuration("STANDARD_D2", "lowpriority", 1, 3, admin_user_password="hunter2")
    target = ComputeTarget.create(ws, "box", given)
    assert (target.vm_priority, target.scale_settings.maximum_node_count) == ("lowpriority", 3)
    assert "hunter2" not in json.dumps(target._entry)
    target.update(2, 5)
    assert ComputeTarget(ws, "box").scale_settings.maximum_node_count == 5
    with pytest.raises(ComputeTargetException, match="max_nodes=1 and min_nodes=2"):
        target.update(max_nodes=1)
    with pytest.raises(TypeError, match="Did you mean 'max_nodes'"):
        target.update(max_node=8)
    with pytest.raises(TypeError, match="Did you mean 'min_node_count'"):
        target.wait_for_completion(min_nodes_count=1)
    ComputeTarget(ws, "local").update(max_nodes=2)
    assert "max_nodes is not used: it is conf/compute/local.yaml" in capsys.readouterr().err
    old = AmlCompute.provisioning_configuration("S", autoscale_enabled=True, cluster_min_nodes=0, cluster_max_nodes=4)
    assert old.max_nodes == 4
    put: list[Any] = []
    monkeypatch.setattr(remotes, "put", put.append)
    monkeypatch.setattr(remotes, "known", dict)
    RemoteCompute.attach(ws, "far", "me", "10.0.0.1", 2222, "secret")
    ComputeTarget.attach(ws, "near", RemoteCompute.attach_configuration("you", address="10.0.0.2"))
    assert [one.address for one in put] == ["ssh://me@10.0.0.1:2222", "you@10.0.0.2"]
    assert "secret" not in json.dumps(ComputeTarget(ws, "far")._entry)


# Datastores and data sets


def test_a_datastore_is_replaced_only_with_overwrite(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    register = Datastore.register_azure_blob_container
    register(ws, "images", "one", "account", blob_cache_timeout=5, grant_workspace_access=True, subscription_id="s")
    register(ws, "images", "one", "account")
    with pytest.raises(UserErrorException, match=r"registered with root=one, not root=two: give overwrite=True"):
        register(ws, "images", "two", "account")
    assert register(ws, "images", "two", "account", overwrite=True).container_name == "two"
    lake = ("lake", "files", "account", "t", "i", "a secret", None, "https://login.chinacloudapi.cn", "https")
    node = Datastore.register_azure_data_lake_gen2(ws, *lake, "core.chinacloudapi.cn").node
    assert node["account_host"] == "account.blob.core.chinacloudapi.cn"
    assert "export AZURE_AUTHORITY_HOST=https://login.chinacloudapi.cn" in capsys.readouterr().err


def test_table_calls_of_2019_keep_the_order_of_their_arguments(ws: Workspace) -> None:
    Path("a.txt").write_text("x;y\n1;2\n")
    frame = Dataset.from_delimited_files("a.txt", ";").to_pandas_dataframe()
    assert frame.to_dict("list") == {"x": [1], "y": [2]}
    assert "Path" in Dataset.from_delimited_files("a.txt", ";", False, include_path=True).to_pandas_dataframe()
    frame.to_parquet("a.parquet")
    assert list(Dataset.from_parquet_files("a.parquet", True).to_pandas_dataframe()) == ["Path", "x", "y"]
    with pytest.raises(NotInLabrun, match=r"from_delimited_files\(skip_rows=2\)"):
        Dataset.from_delimited_files("a.txt", skip_rows=2)
    Dataset.File.from_files("a.txt").register(ws, "rows")
    assert Dataset.get(ws, id="rows:1").version == Dataset.get(ws, "rows").version == 1
    with pytest.raises(UserErrorException, match="give a name or an id"):
        Dataset.get(ws)


def test_a_data_frame_is_written_to_the_given_path(ws: Workspace) -> None:
    import pyarrow.parquet

    register, store = Dataset.Tabular.register_pandas_dataframe, ws.get_default_datastore()
    frame = pd.DataFrame({"a": range(10)})
    quiet = {"show_progress": False, "make_target_path_unique": False}
    register(frame, (store, "here"), "rows", row_group_size=5, **quiet)
    assert pyarrow.parquet.ParquetFile("data/here/part-00000.parquet").num_row_groups == 2
    with pytest.raises(UserErrorException, match="here in the datastore local already has files"):
        register(frame, (store, "here"), "rows", **quiet)
    with pytest.raises(UserErrorException, match="give a path in the datastore"):
        register(frame, store, "rows", **quiet)


def test_missing_files_are_refused_or_left_out(ws: Workspace) -> None:
    Path("raw").mkdir()
    for name in ("a.csv", "b.csv"):
        Path("raw", name).write_text("x\n1\n")
    files = Dataset.File.from_files("raw")
    assert len(files._content.files) == 2
    Path("raw/b.csv").unlink()
    with pytest.raises(UserErrorException, match=r"b\.csv no longer exists; ignore_not_found=True"):
        files.download("got")
    assert [Path(one).name for one in files.download("more", ignore_not_found=True)] == ["a.csv"]
    with pytest.raises(NotInLabrun, match=r"download\(stream_column=...\)"):
        Dataset.Tabular.from_delimited_files("raw/a.csv").download(stream_column="x")
    with pytest.raises(UserErrorException, match="on_error='ignore'"):
        files.to_pandas_dataframe(on_error="ignore")
    with pytest.raises(NotInLabrun, match="partition_format"):
        factories.FileDatasetFactory.from_files("raw", partition_format="/{name}.csv")


def test_validation_reads_the_rows(ws: Workspace) -> None:
    Path("a.csv").write_text("day,n\n2020-01-01,1\n")
    rows = Dataset.Tabular.from_delimited_files("a.csv")
    assert rows.with_timestamp_columns("day", validate=True).timestamp_columns == ("day", None)
    with pytest.raises(UserErrorException, match="column n does not hold unambiguous dates"):
        rows.with_timestamp_columns("n", validate=True)
    assert list(rows.keep_columns("n", validate=True).to_pandas_dataframe()) == ["n"]
    with pytest.raises(UserErrorException, match="there is no column m"):
        rows.keep_columns(["m"], validate=True)
    with pytest.raises(TypeError, match="Did you mean 'timestamp'"):
        rows.with_timestamp_columns(time_stamp="day")


def test_references_to_data_have_the_sdks_arguments(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    store = ws.get_default_datastore()
    made = DataReference.create("ref", DataPath(store, "a/b"), DataPathComputeBinding("download"))
    assert (made.data_reference_name, made.path_on_datastore, made.mode) == ("ref", "a/b", "download")
    with pytest.raises(UserErrorException, match="mode='mout' must be one of mount, download, upload"):
        DataReference(store, mode="mout")
    Path("a.csv").write_text("x\n1\n")
    files = Dataset.File.from_files("a.csv")
    files.as_mount("relative")
    made.as_download("relative")
    assert "the path is not used" not in capsys.readouterr().err
    files.as_mount("/tmp/data")
    made.as_download("/tmp/data")
    assert capsys.readouterr().err.count("the path is not used: the script finds the data") == 2
    config = ScriptRunConfig(command="true")
    config.run_config.output_data = {"out": OutputFileDatasetConfig("out")}
    with pytest.raises(UserErrorException, match=r"output_data: out: give the output as an argument"):
        config.overrides(Experiment(ws, "x"))


# Settings of runs


def test_settings_of_environments_and_configurations_are_checked(
    ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.txt").write_text("six\n")
    with pytest.raises(UserErrorException, match="give either conda_specification='c.yml' or pip_requirements='r.txt'"):
        Environment.from_docker_image("e", "image", conda_specification="c.yml", pip_requirements="r.txt")
    Environment("e", environment_variables={"A": "b"}).build_local(ws, useDocker=True, pushImageToWorkspaceAcr=True)
    settings = RunConfiguration()
    settings.save("here", "name")
    told = capsys.readouterr().err
    assert "build_local: useDocker is not used" in told and "RunConfiguration.save: nothing is written" in told
    ScriptRunConfig(command="true").run_config.environment.python.conda_dependencies.add_tensorflow_pip_package("gpu")
    with pytest.raises(UserErrorException, match="core_type='gpx' must be cpu or gpu"):
        settings.environment.python.conda_dependencies.add_tensorflow_conda_package("gpx")
    with pytest.raises(UserErrorException, match=r"distributed_job_config=2: give MpiConfiguration\(2\)"):
        ScriptRunConfig(command="true", distributed_job_config=2)
    settings.communicator, settings.pytorch.process_count = "Nccl", 3
    assert overrides(None, settings, ["compute=local"]) == ["script.processes=3"]
    assert overrides(PyTorchConfiguration(process_count=2), settings, ["compute=local"]) == ["script.processes=2"]


def test_automl_settings_that_change_a_result_are_used(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"id": range(20), "w": 1.0, "fold": 0, "a": range(20), "y": [0, 1] * 10})
    frame.loc[3, "w"] = np.nan
    featurization = FeaturizationConfig(drop_columns=["w"])
    given = {"training_data": frame, "label_column_name": "y", "iterations": 3}
    config = AutoMLConfig(
        "classification",
        **given,
        featurization=featurization,
        drop_column_names=["id"],
        cv_split_column_names=["fold"],
        exit_time_sec=120,
        enable_voting_ensemble=True,
        enable_stack_ensemble=False,
        positive_label=1,
        mem_in_mb=5,
    )
    words = config.overrides(Experiment(ws, "x"))
    assert list(config.data.parts["X"]) == ["a"] and "sweep.timeout_min=2" in words
    told = capsys.readouterr().err
    for name in ("cv_split_column_names", "enable_voting_ensemble", "positive_label"):
        assert f"AutoMLConfig: {name} is not used: labrun" in told
    assert "enable_stack_ensemble" not in told and "mem_in_mb" not in told
    for more, wanted in (({"preprocess": False}, "false"), ({}, "true"), ({"featurization": "off"}, "false")):
        assert f"model.preprocess={wanted}" in AutoMLConfig("classification", **given, **more).overrides(
            Experiment(ws, "x")
        )
    with pytest.raises(UserErrorException, match="featurization='of' must be 'auto', 'off'"):
        AutoMLConfig("classification", **given, featurization="of").overrides(Experiment(ws, "x"))
    Path("get_data.py").write_text("def get_data():\n    return {'X': [[1], [2]] * 5, 'y': [0, 1] * 5}\n")
    AutoMLConfig("classification", data_script="get_data.py", featurization=featurization).overrides(
        Experiment(ws, "x")
    )
    assert "columns are dropped only from training_data" in capsys.readouterr().err


def test_tensorboard_shows_display_names_and_opens_a_browser(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.display_name = "my run"
    opened: list[str] = []
    monkeypatch.setattr(tensorboard.subprocess, "Popen", lambda *args, **kwargs: SimpleNamespace(poll=lambda: None))
    monkeypatch.setattr(tensorboard.Tensorboard, "_address", lambda self, output: "http://localhost:6006/")
    monkeypatch.setattr(tensorboard.Tensorboard, "stop", lambda self: None)
    monkeypatch.setattr(tensorboard.webbrowser, "open", opened.append)
    tensorboard.Tensorboard([run], tmp_path / "board", use_display_name=True).start(start_browser=True)
    assert (tmp_path / "board" / "my run" / run.id).is_symlink() and opened == ["http://localhost:6006/"]
