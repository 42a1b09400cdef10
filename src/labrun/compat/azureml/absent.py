"""Stand-ins for names of the SDK that labrun lacks: they can be imported, and using one says what to do instead.

Scripts often import more than they need, so an import alone must not fail. A call that silently does nothing would
mislead.
"""

from __future__ import annotations

from typing import Any, NoReturn

from labrun.compat.azureml.exceptions import AzureMLException, NotInLabrun

_WATCH = "watch it with `lab runs watch`, or open `lab ui`"
_COMPUTE = "choose the machine on the command line: compute=local, compute=gpu, compute=slurm (see `lab compute ls`)"
_PYTHON = (
    "list the packages in script.requirements=requirements.txt, or use an environment: script.python=/path/to/venv"
)
_SUBMIT = "submit from the command line: labrun experiment=script script.path=train.py script.azureml=true"
_SWEEP = "sweep from the command line: labrun -m experiment=script script.arguments.NAME=0.01,0.1 (or sweep=tpe)"
_DATASTORE = "a datastore is a file in conf/datastore; upload data with `lab data upload`, list it with `lab data ls`"
_MODELS = "register a finished run's model with `lab models register` (and list models with `lab models ls`)"
ONNX = "predict() of the model that get_output() returns, or register_model(), which saves it with skops, not as ONNX"
_SERVE = "score with `lab models predict`, or load the model in your own program: labrun has no web services"

INSTEAD = {
    "AciWebservice": _SERVE,
    "AksCompute": _COMPUTE,
    "AksWebservice": _SERVE,
    "AmlCompute": _COMPUTE,
    "AutoMLConfig": "search over pipelines with: labrun experiment=automl_digits",
    "BanditPolicy": _SWEEP,
    "BayesianParameterSampling": _SWEEP,
    "ComputeInstance": _COMPUTE,
    "ComputeTarget": _COMPUTE,
    "CondaDependencies": _PYTHON,
    "DataReference": _DATASTORE,
    "Environment": _PYTHON,
    "Estimator": _SUBMIT,
    "GridParameterSampling": _SWEEP,
    "HyperDriveConfig": _SWEEP,
    "HyperDriveRun": _SWEEP,
    "Image": _SERVE,
    "InferenceConfig": _SERVE,
    "Keyvault": "pass secrets as environment variables: os.environ['NAME']",
    "LinkedService": _DATASTORE,
    "LocalWebservice": _SERVE,
    "MedianStoppingPolicy": _SWEEP,
    "NotebookRunConfig": "ScriptRunConfig(script='FILE.ipynb') executes a notebook and saves it in outputs/",
    "PyTorch": _SUBMIT,
    "PrimaryMetricGoal": _SWEEP,
    "RandomParameterSampling": _SWEEP,
    "RunConfiguration": _SUBMIT,
    "RunDetails": _WATCH,
    "SKLearn": _SUBMIT,
    "ScriptRun": _SUBMIT,
    "ScriptRunConfig": _SUBMIT,
    "TensorFlow": _SUBMIT,
    "TruncationSelectionPolicy": _SWEEP,
    "Webservice": _SERVE,
    "choice": _SWEEP,
    "lognormal": _SWEEP,
    "loguniform": _SWEEP,
    "normal": _SWEEP,
    "qlognormal": _SWEEP,
    "qloguniform": _SWEEP,
    "qnormal": _SWEEP,
    "quniform": _SWEEP,
    "randint": _SWEEP,
    "uniform": _SWEEP,
}
"""The replacement in labrun for a class or function of the SDK."""

BY_MODULE = {
    "azureml.pipeline": "labrun has no pipelines yet: submit runs one by one, with wait_for_completion() in between",
    "azureml.core.webservice": _SERVE,
    "azureml.core.image": _SERVE,
    "azureml.core.model": _SERVE,
    "azureml.core.compute": _COMPUTE,
    "azureml.core.databricks": _COMPUTE,
    "azureml.core.linked_service": _DATASTORE,
    "azureml.core.private_endpoint": "the file system controls access to a workspace",
    "azureml.data": _DATASTORE,
    "azureml.explain": "explain a model with the packages shap or interpret, and `run.upload_file` the results",
    "azureml.interpret": "explain a model with the packages shap or interpret, and `run.upload_file` the results",
    "azureml.contrib": "it was never part of the SDK proper",
    "azureml.dataprep": "read the data with pandas, or with Dataset.Tabular.from_delimited_files()",
    "azureml.datadrift": "compare two versions of a data set in your own script",
    "azureml.opendatasets": "download the data once, and register it: Dataset.File.from_files(...).register(...)",
    "azureml.train.automl.runtime": "use AutoMLConfig",
    "azureml.automl.runtime.onnx_convert": ONNX,
    "azureml.automl.core.onnx_convert": ONNX,
    "azureml.train": _SUBMIT,
    "azureml.monitoring": _SERVE,
    "mlflow.azureml": _SERVE,
}
"""The replacement in labrun for everything in modules with a name prefix."""

GENERAL = "training scripts have Run, Dataset and Model.get_model_path; for the rest see `labrun --help`, `lab --help`"


def not_here(what: str, instead: str) -> NoReturn:
    """Raise an error that labrun lacks something, with a replacement.

    Args:
        what: the call, as the script wrote it.
        instead: what to do instead.

    Raises:
        NotInLabrun: always.
    """
    raise NotInLabrun(f"{what} is part of Azure ML and not of labrun. Instead: {instead}")


def datastore_way(what: str) -> NoReturn:
    """Raise for a call that reads or changes a datastore, with advice on datastores."""
    not_here(what, _DATASTORE)


def submit_way(what: str) -> NoReturn:
    """Raise for a call that starts a run from inside a script, with advice on submitting."""
    not_here(what, _SUBMIT)


class Absent(type):
    """Metaclass of stand-ins. They are classes, so that annotations and `isinstance` work; any other use raises."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        cls._refuse(f"{cls.__name__}(...)")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        cls._refuse(f"{cls.__name__}.{name}")

    def _refuse(cls, what: str) -> NoReturn:
        not_here(what, advice(cls.__module__, cls.__name__))


def advice(module: str, name: str) -> str:
    """Return what to do in place of a name of the SDK."""
    if name in INSTEAD:
        return INSTEAD[name]
    fitting = [start for start in BY_MODULE if module == start or module.startswith(start + ".")]
    return BY_MODULE[max(fitting, key=len)] if fitting else GENERAL


_made: dict[str, type] = {}


def stand_in(module: str, name: str) -> Any:
    """Return the stand-in for a name that labrun lacks: always the same class for the same name.

    An error name becomes an error class, so that `except Name:` is valid; nothing raises it.

    Raises:
        AttributeError: the name is private, so its absence is meaningful.
    """
    if name.startswith("_"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    if name not in _made:
        members = {"__module__": module, "__doc__": "Not in labrun."}
        is_error = name.endswith(("Exception", "Error"))
        _made[name] = type(name, (AzureMLException,), members) if is_error else Absent(name, (), members)
    return _made[name]
