"""Calls of a script on its run, checked against the run directory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from labrun.runs.record import read_record


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_numbers_of_any_type_become_metrics(bench: Any, well: Any) -> None:
    script = bench.write(
        "import numpy as np\n"
        "from decimal import Decimal\n"
        "from azureml.core import Run\n"
        "from azureml.core.run import Run as again\n"
        "run = Run.get_context(allow_offline=False)\n"
        "assert again.get_submitted_run() is run\n"
        "class Tensor:\n"
        "    def __init__(self, *values): self.values = values\n"
        "    def item(self):\n"
        "        if len(self.values) != 1: raise RuntimeError('a Tensor with 2 elements')\n"
        "        return self.values[0]\n"
        "for value in (0.5, 2, True, np.float32(1.5), np.array([4.0]), Tensor(3), Decimal('0.25'), np.bool_(True)):\n"
        "    run.log('loss', value)\n"
        "run.log('loss', float('nan'), step=20)\n"
        "run.log(name='Regularization Strength:', value=np.float64(1), description='how strong')\n"
        "for value in ('svm', None, '0.5', [1, 2], np.array([1., 2.]), Tensor(1, 2), 1j, np.str_('x'), 10 ** 400):\n"
        "    run.log('kind', value)\n"
        "run.log_list('curve', [3, 2, 1])\n"
        "run.log_list('array', np.array([0.5, 0.25]))\n"
        "got = run.get_metrics()\n"
        "assert got['Regularization Strength:'] == 1 and got['curve'] == [3, 2, 1], got\n"
        "assert got['kind'][0] == 'svm' and run.get_metrics('array') == {'array': [0.5, 0.25]}, got\n"
    )
    done = well(bench.run(script))
    metrics = bench.metrics()
    assert [step for step, _ in metrics["loss"]] == [0, 1, 2, 3, 4, 5, 6, 7, 20]
    assert [value for _, value in metrics["loss"][:-1]] == [0.5, 2, 1, 1.5, 4, 3, 0.25, 1]
    assert math.isnan(metrics["loss"][-1][1])
    assert metrics["curve"] == [(0, 3), (1, 2), (2, 1)] and metrics["array"] == [(0, 0.5), (1, 0.25)]
    assert metrics["Regularization Strength:"] == [(0, 1)] and "kind" not in metrics
    kept = read_lines(bench.run_dir / "logs" / "azureml" / "kind.jsonl")
    assert [line["value"] for line in kept][:5] == ["svm", None, "0.5", [1, 2], [1.0, 2.0]] and len(kept) == 9
    assert done.stdout.count("not a number: stored in logs/azureml/kind.jsonl") == 9


def test_rows_and_tables_become_metrics_by_column(bench: Any, well: Any) -> None:
    script = bench.write(
        "from azureml.core import Run\n"
        "run = Run.get_context()\n"
        "for i in range(3):\n"
        "    run.log_row('Error', iteration=i, error=1 / (1 + i), **({'note': 'first'} if i == 0 else {}))\n"
        "run.log_row('Error', 'with a description', error=0)\n"
        "run.log_table('Y over X', {'x': [1, 2, 3], 'y': [0.6, float('nan')], 'who': ['a', 'b', 'c']})\n"
        "got = run.get_metrics()\n"
        "assert sorted(got) == ['Error', 'Y over X'], got\n"
        "assert got['Error']['iteration'] == [0, 1, 2] and got['Y over X']['who'] == ['a', 'b', 'c'], got\n"
    )
    well(bench.run(script))
    metrics = bench.metrics()
    assert metrics["Error/iteration"] == [(0, 0), (1, 1), (2, 2)]
    assert metrics["Error/error"] == [(0, 1), (1, 0.5), (2, 1 / 3), (3, 0)]
    assert metrics["Y over X/x"] == [(0, 1), (1, 2), (2, 3)] and "Y over X/who" not in metrics
    folder = bench.run_dir / "logs" / "azureml"
    assert read_lines(folder / "Error.jsonl")[0]["row"] == {"iteration": 0, "error": 1.0, "note": "first"}
    (table,) = read_lines(folder / "Y over X.jsonl")
    assert table["table"] == {"x": [1, 2, 3], "y": [0.6, "NaN"], "who": ["a", "b", "c"]}


def test_pictures_and_confusion_matrices_are_saved_in_outputs(bench: Any, well: Any) -> None:
    script = bench.write(
        "import json\n"
        "import numpy as np\n"
        "from azureml.core import Run\n"
        "class Plot:\n"
        "    def savefig(self, path, **kwargs): open(path, 'w').write('a plot')\n"
        "open('roc.png', 'w').write('a picture')\n"
        "run = Run.get_context()\n"
        "run.log_image('ROC', path='./roc.png')\n"
        "run.log_image('curve', plot=Plot())\n"
        "run.log_image('curve', plot=Plot())\n"
        "try: run.log_image('neither')\n"
        "except Exception as error: assert 'either' in str(error)\n"
        "else: raise SystemExit('neither a path nor a plot')\n"
        "data = {'class_labels': ['cat', 'dog'], 'matrix': np.array([[3, 1], [0, 4]])}\n"
        "value = {'schema_type': 'confusion_matrix', 'schema_version': 'v1', 'data': data}\n"
        "run.log_confusion_matrix('confusion_matrix', value)\n"
        "data['matrix'] = data['matrix'].tolist()\n"
        "run.log_confusion_matrix('as text', json.dumps(value))\n"
        "open('matrix.json', 'w').write(json.dumps(value))\n"
        "run.log_confusion_matrix('as file', 'matrix.json')\n"
        "run.log_residuals('residuals', {'schema_type': 'residuals', 'data': {'bin_edges': [0, 1]}})\n"
        "run.log_accuracy_table('acc', {'data': {}}); run.log_predictions('pred', {'data': {}})\n"
    )
    well(bench.run(script))
    outputs = bench.run_dir / "outputs"
    assert (outputs / "ROC.png").read_text() == "a picture"
    assert (outputs / "curve.png").is_file() and (outputs / "curve_1.png").is_file()
    for name in ("confusion_matrix", "as text", "as file"):
        content = json.loads((outputs / f"{name}.json").read_text())
        assert content == {"class_names": ["cat", "dog"], "counts": [[3, 1], [0, 4]]}
    assert json.loads((outputs / "residuals.json").read_text())["schema_type"] == "residuals"
    assert (outputs / "acc.json").is_file() and (outputs / "pred.json").is_file()


def test_tags_and_properties_reach_the_record(bench: Any, well: Any) -> None:
    script = bench.write(
        "from azureml.core import Run\n"
        "run = Run.get_context()\n"
        "run.tag('stage'); run.tag('color', 3); run.set_tags({'a': 1, 'b': None}); run.remove_tags(['a'])\n"
        "run.add_properties({'digest': 'x'}); run.add_properties({'digest': 'y'})\n"
        "assert run.get_tags() == run.tags == {'stage': '', 'color': '3', 'b': ''}, run.get_tags()\n"
        "assert run.get_properties() == {'digest': 'x'}\n"
        "print(run.id, run.number, run.display_name, run.experiment.name, run.parent, run.get_status(), run)\n"
        "print(run.experiment.workspace.name, run.get_details()['runId'], run.get_portal_url())\n"
        "with run.experiment.start_logging() as same: assert same is run\n"
        "assert not hasattr(run, 'unheard_of')\n"
        "run.flush(); run.complete()\n"
    )
    done = well(bench.run(script, LABRUN_EXPERIMENT="cats"))
    record = read_record(bench.run_dir)
    assert record.tags == {"stage": "", "color": "3", "b": ""} and record.properties == {"digest": "x"}
    assert done.stdout.startswith("abcd1234 1 test cats None Queued Run(Experiment: cats, Id: abcd1234")


def test_files_are_added_to_the_run_and_never_overwritten(bench: Any, well: Any) -> None:
    script = bench.write(
        "import io, os\n"
        "from azureml.core import Run\n"
        "from azureml._common.exceptions import AzureMLException\n"
        "run = Run.get_context()\n"
        "open('m.pkl', 'w').write('one')\n"
        "run.upload_file('outputs/deep/m.pkl', './m.pkl')\n"
        "run.upload_file(name='model.pkl', path_or_stream='m.pkl')\n"
        "run.upload_file('outputs/stream.txt', io.BytesIO(b'streamed'))\n"
        "open('outputs/own.txt', 'w').write('mine')\n"
        "run.upload_file('outputs/own.txt', 'outputs/own.txt')\n"
        "os.makedirs('many/below'); open('many/a', 'w').write('a'); open('many/below/b', 'w').write('b')\n"
        "run.upload_folder('outputs/many', 'many')\n"
        "os.symlink('/tmp', 'outputs/away')\n"
        "for name in ('model.pkl', '/tmp/x', '../x', 'outputs/../../x', 'run.json', 'requests/cancel',\n"
        "             'outputs/away/x', ''):\n"
        "    try: run.upload_file(name, 'm.pkl')\n"
        "    except AzureMLException as error: print('REFUSED', name, error)\n"
        "try: run.upload_file('outputs/none', 'none')\n"
        "except AzureMLException as error: print('REFUSED', error)\n"
        "run.download_file('outputs/deep/m.pkl', 'back/m.pkl'); assert open('back/m.pkl').read() == 'one'\n"
        "print('FILES', run.get_file_names())\n"
    )
    done = well(bench.run(script))
    assert done.stdout.count("REFUSED") == 9
    assert (bench.run_dir / "outputs/deep/m.pkl").read_text() == (bench.run_dir / "model.pkl").read_text() == "one"
    assert (bench.run_dir / "outputs/stream.txt").read_text() == "streamed"
    assert (bench.run_dir / "outputs/own.txt").read_text() == "mine"
    assert (bench.run_dir / "outputs/many/below/b").read_text() == "b"
    assert "'model.pkl', 'outputs/deep/m.pkl'" in done.stdout and "'run.json'" not in done.stdout
    assert not list(bench.run_dir.rglob("*.partial"))


def test_inputs_are_the_paths_that_were_mounted(bench: Any, well: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "table.csv").write_text("a,b\n1,2\n3,4\n")
    script = bench.write(
        "import os\n"
        "from azureml.core import Run, Dataset, Workspace, Datastore\n"
        "from azureml.data.dataset_factory import TabularDatasetFactory\n"
        "run = Run.get_context()\n"
        "ws = Workspace.from_config()\n"
        "one = run.input_datasets['cats']\n"
        "assert os.listdir(one) == ['table.csv']\n"
        "assert one == Dataset.get_by_name(ws, name='cats') == ws.datasets['cats']\n"
        "assert os.listdir(one.mount()) == os.listdir(one.as_mount()) == ['table.csv']\n"
        "with one.mount() as mounted: assert os.listdir(mounted.mount_point) == ['table.csv']\n"
        "mounted = one.mount(); mounted.start(); mounted.stop()\n"
        "assert [os.path.basename(path) for path in one.download()] == ['table.csv']\n"
        "assert one.to_path() == ['/table.csv']\n"
        "assert one.download(target_path='copy') == [os.path.join('copy', 'table.csv')]\n"
        "assert one.to_pandas_dataframe()['b'].tolist() == [2, 4]\n"
        "frame = TabularDatasetFactory.from_delimited_files(os.path.join(one, 'table.csv')).to_pandas_dataframe()\n"
        "assert frame.shape == (2, 2) and Dataset.get_by_id(ws, id=str(one)) == one\n"
        "assert run.input_datasets.get('dogs') is None and list(run.input_datasets) == ['cats']\n"
        "assert isinstance(ws.compute_targets, dict) and ws.get_default_keyvault().get_secret('a-b') == 'c'\n"
        "for place in (ws, run.experiment.workspace):\n"
        "    assert place.get_mlflow_tracking_uri() == os.environ['MLFLOW_TRACKING_URI']\n"
        "assert run.get_secrets(['a-b']) == {'a-b': 'c'} and not hasattr(ws, 'no_such_thing')\n"
        "from azureml._common._error_definition import AzureMLError\n"
        "from azureml.explain.model._internal.explanation_client import ExplanationClient\n"
        "from azureml.automl.core._vendor.automl.client.core.common import metrics\n"
        "try: run.input_datasets['dogs']\n"
        "except KeyError: pass\n"
        "store = ws.get_default_datastore(); print(store.name)\n"
        "for call in (lambda: run.input_datasets['dogs'], lambda: store.upload('x'), lambda: ws.delete(),\n"
        "             lambda: Dataset.Tabular.from_delimited_files((store, 'x.csv'))):\n"
        "    try: call()\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    own = {"A_B": "c", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    done = well(bench.run(script, LABRUN_INPUTS=json.dumps({"cats": str(data)}), **own))
    assert "(it has: cats)" in done.stdout and "'script.arguments.data_path=${mount:dogs}'" in done.stdout
    assert (
        "NotInLabrun" in done.stdout
        and "NoSuchInputError" in done.stdout
        and "'script.inputs.dogs=${mount:dogs}'" in done.stdout
    )
    assert "no files in the datastore local under x.csv" in done.stdout, "labrun is importable, so datastores are"


def test_registered_models_are_found(bench: Any, well: Any, tmp_path: Path) -> None:
    shelf = tmp_path / "outputs" / ".labrun" / "models"
    for version in ("2", "10"):
        (shelf / "digits" / version).mkdir(parents=True)
        (shelf / "digits" / version / "model.pkl").write_text(version)
    (shelf / "digits" / "10" / "model.json").write_text("{}")
    (shelf / "net" / "1").mkdir(parents=True)
    (shelf / "net" / "1" / "weights").write_text("w")
    (shelf / "net" / "1" / "vocabulary").write_text("v")
    script = bench.write(
        "import os\n"
        "from azureml.core import Model\n"
        "from azureml.core.model import Model as same\n"
        "assert open(Model.get_model_path('digits')).read() == '10'\n"
        "assert open(same.get_model_path('digits', version=2)).read() == '2'\n"
        "assert sorted(os.listdir(Model.get_model_path('net'))) == ['vocabulary', 'weights']\n"
        "model = Model(None, 'digits'); print(model.name, model.version, model.id)\n"
        "print(open(model.download('here')).read())\n"
        "for call in (lambda: Model.get_model_path('cats'), lambda: Model.get_model_path('net', 7),\n"
        "             lambda: Model.register(model_name='x', model_path='y', workspace=None)):\n"
        "    try: call()\n"
        "    except Exception as error: print('REFUSED', error)\n"
    )
    done = well(bench.run(script, LABRUN_WORKSPACE=str(tmp_path)))
    assert "digits 10 digits:10\n10\n" in done.stdout and done.stdout.count("REFUSED") == 3
    assert "registered: digits, net" in done.stdout and "lab models register" in done.stdout


def test_unsupported_names_can_be_imported_and_give_advice_when_used(bench: Any, well: Any) -> None:
    script = bench.write(
        "from typing import Optional\n"
        "import azureml.core\n"
        "from azureml.core import Environment, Image, Webservice, Run, Workspace\n"
        "from azureml.core.compute import AksCompute\n"
        "from azureml.core.model import InferenceConfig\n"
        "from azureml.core.webservice.webservice import WebserviceException as first\n"
        "from azureml.core.webservice import WebserviceException\n"
        "import azureml.pipeline.steps\n"
        "from azureml.exceptions import UserErrorException\n"
        "def f(x: Optional[Image]): return isinstance(x, Image)\n"
        "assert f(3) is False and azureml.core.VERSION\n"
        "run = Run.get_context()\n"
        "try: raise ValueError('x')\n"
        "except (WebserviceException, ValueError): assert first is WebserviceException\n"
        "for call in (lambda: Webservice('x'), lambda: Image.create, lambda: AksCompute(None, 'cpu'),\n"
        "             lambda: InferenceConfig(1, 2), lambda: Workspace().delete(),\n"
        "             lambda: run.wait_for_completion(),\n"
        "             lambda: run.get_secret('NO_SUCH'), lambda: run.unheard_of,\n"
        "             lambda: azureml.pipeline.steps.PythonScriptStep()):\n"
        "    try: call()\n"
        "    except azureml.core.NotInLabrun as error: print('TOLD', error)\n"
        "try: import azureml._of_our_own\n"
        "except ImportError: print('no private parts')\n"
        "try: import azureml.mlflow\n"
        "except ImportError: print('no plug-in of MLflow')\n"
    )
    done = well(bench.run(script))
    assert done.stdout.count("TOLD") == 9 and "no private parts\nno plug-in of MLflow" in done.stdout
    for way in ("compute=slurm", "lab models predict", "labrun has no pipelines yet", "lab compute ls"):
        assert way in done.stdout


def test_a_script_fails_or_cancels_its_own_run(bench: Any) -> None:
    script = bench.write(
        "import sys\n"
        "from azureml.core import Run\n"
        "run = Run.get_context()\n"
        "run.cancel()\n"
        "run.fail(error_details='the data are empty')\n"
        "print('still here')\n"
        "sys.exit(0)\n"
    )
    done = bench.run(script)
    assert done.returncode == 1 and "still here" in done.stdout
    assert done.stderr.splitlines()[-1] == "the data are empty"
    assert (bench.run_dir / "requests" / "cancel").read_text() == "the script canceled its own run\n"
    message = json.loads((bench.run_dir / "logs" / "azureml" / "failed.json").read_text())["message"]
    assert message == "the data are empty"
    # What an earlier attempt failed with does not fail this one.
    quiet = bench.write("print('well')\n", "quiet.py")
    assert bench.run(quiet, LABRUN_ATTEMPT="2").returncode == 0


def test_registering_a_model_in_a_script_is_deferred_and_noted(bench: Any, well: Any) -> None:
    script = bench.write(
        "import json\n"
        "from azureml.core import Model, Run\n"
        "run = Run.get_context()\n"
        "open('outputs/m.pkl', 'w').write('m')\n"
        "print([run.register_model(model_name='digits', model_path='outputs/m.pkl').version for _ in 'ab'])\n"
        "open('m.bin', 'w').write('beside')\n"
        "model = Model.register(None, 'm.bin', 'net', {'a': 1}); print(model.id, model.tags)\n"
    )
    done = well(bench.run(script, LABRUN_WORKSPACE=str(bench.folder.parent)))
    assert "[1, 2]" in done.stdout and "net:1 {'a': '1'}" in done.stdout and "when this run completes" in done.stderr
    left = (bench.run_dir / "logs" / "azureml" / "models" / "register.jsonl").read_text().splitlines()
    assert [json.loads(line)["version"] for line in left] == [1, 2, 1]
    assert (bench.run_dir / json.loads(left[2])["path"]).read_text() == "beside", "kept, wherever it was"


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "x" * 300, "a\nb", 7])
def test_odd_names_are_accepted(bench: Any, well: Any, name: object) -> None:
    script = bench.write(
        "from azureml.core import Run\n"
        f"run, name = Run.get_context(), {name!r}\n"
        "run.log(name, 1); run.log(name, 'text'); run.log_row(name, a=1); run.log_confusion_matrix(name, {})\n"
    )
    well(bench.run(script))
    files = [path for path in bench.run_dir.rglob("*.json*") if path.name not in ("run.json", "metrics.jsonl")]
    assert sorted(path.parent.name for path in files) == ["azureml", "outputs"]


def test_a_star_import_gives_the_sdks_names(bench: Any, well: Any) -> None:
    script = bench.write(
        "from azureml.core import *\nfrom azureml.train.hyperdrive import *\n"
        "from azureml.train.hyperdrive import choice as again\n"
        "del choice\nfrom azureml.train.hyperdrive.parameter_expressions import *\n"
        "from azureml.train.automl import *\n"
        "print(Run.__name__, choice is again, RandomParameterSampling.__name__, AutoMLConfig.__name__)\n"
    )
    assert "Run True RandomParameterSampling AutoMLConfig" in well(bench.run(script)).stdout


def test_errors_of_the_sdks_packages_can_be_caught(bench: Any, well: Any) -> None:
    script = bench.write(
        "from msrest.exceptions import HttpOperationError\n"
        "from azureml.core import Datastore, Workspace\n"
        "try: Datastore.get(Workspace.from_config(), 'no such place')\n"
        "except HttpOperationError: print('caught')\n"
    )
    assert "caught" in well(bench.run(script)).stdout


def test_errors_of_other_packages_and_of_the_sdks_client_can_be_caught(bench: Any, well: Any) -> None:
    script = bench.write(
        "from azure.common import AzureException, AzureMissingResourceHttpError\n"
        "from azureml._restclient.exceptions import ServiceException\n"
        "from azureml._restclient.models.error_response import ErrorResponseException\n"
        "from azureml.exceptions import AzureMLException, WebserviceException\n"
        "import msrest, msrest.exceptions\n"
        "from msrest.exceptions import AuthenticationError, ClientException, HttpOperationError\n"
        "from azureml.core import Datastore, Model, Workspace\n"
        "ws = Workspace.from_config()\n"
        "def caught(call, *errors):\n"
        "    for error in errors:\n"
        "        try: call()\n"
        "        except error: print('caught', error.__name__)\n"
        "caught(lambda: Datastore.get(ws, 'no such place'), ClientException, HttpOperationError, AzureException,\n"
        "       AzureMissingResourceHttpError, ServiceException, ErrorResponseException, AzureMLException)\n"
        "caught(lambda: Model(ws, 'no-such-model'), WebserviceException)\n"
        "import azure.core.exceptions\n"
        "try: from azure.common import credentials\n"
        "except ImportError as error: print('none', issubclass(AuthenticationError, Exception))\n"
    )
    told = well(bench.run(script)).stdout
    assert told.count("caught") == 8 and "none True" in told
