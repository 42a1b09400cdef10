"""Writes a registered version's folder as an MLflow model directory. Does not import MLflow.

`data/model/` holds the registered file and its card. `MLmodel` declares `labrun.tasks.saved` as the loader, and the
model's inputs. The other files list the packages required to serve the model.
Source: https://mlflow.org/docs/latest/ml/model/, and the output of `mlflow.pyfunc.save_model` of 3.17.
"""

from __future__ import annotations

import json
import platform
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.runs.cards import Card, CardKind
from labrun.runs.groups import Host
from labrun.runs.record import Record, cannot_write
from labrun.tracking.mlflow import names

LOADER = "labrun.tasks.saved"
"""The module whose `_load_pyfunc` MLflow calls; it verifies the files, and unpickles only with consent."""
DATA = Path("data", "model")
NEEDED = {
    CardKind.ESTIMATOR: ("scikit-learn", "skops"),
    CardKind.NETWORK: ("torch",),
    CardKind.CHAINER: ("torch",),
    CardKind.PICKLE: ("scikit-learn", "joblib"),
}
"""Packages that loading each kind of model requires, in addition to labrun's own."""


def describe(folder: Path, card: Card, record: Record | None) -> None:
    """Turn a folder that has the files in `data/model/` into an MLflow model directory.

    Args:
        folder: the version's folder.
        card: describes how to load the model, and its inputs.
        record: record of the run that the model comes from; None: no run.

    Raises:
        RecordError: the folder cannot be written.
    """
    import yaml

    packages = record.packages if record else {}
    needed = ["mlflow", "labrun", "numpy", "pandas", *NEEDED.get(card.kind, ())]
    pins = [f"{name}=={version}" for name in needed if (version := packages.get(name) or _installed(name))]
    host = (record.host if record else None) or Host()
    python = str(host.python or platform.python_version())
    tools = [f"{name}=={version}" if (version := _installed(name)) else name for name in ("pip", "setuptools", "wheel")]
    files = {
        "MLmodel": yaml.safe_dump(_ml_model(folder, card, record, python), allow_unicode=True),
        "requirements.txt": "".join(f"{pin}\n" for pin in pins),
        "python_env.yaml": yaml.safe_dump(
            {"python": python, "build_dependencies": tools, "dependencies": ["-r requirements.txt"]}, sort_keys=False
        ),
        "conda.yaml": yaml.safe_dump(
            {
                "channels": ["conda-forge"],
                "dependencies": [f"python={python}", "pip", {"pip": pins}],
                "name": "mlflow-env",
            },
            sort_keys=False,
        ),
    }
    try:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(cannot_write(folder, error)) from error


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ml_model(folder: Path, card: Card, record: Record | None, python: str) -> dict[str, Any]:
    inputs = _inputs(card)
    signature = {} if inputs is None else {"signature": {"inputs": inputs, "outputs": None, "params": None}}
    return {
        "flavors": {
            "python_function": {
                "code": None,
                "data": DATA.as_posix(),
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": LOADER,
                "python_version": python,
                "streamable": False,
            }
        },
        "is_signature_from_type_hint": False,
        "metadata": {
            **({"labrun.run": names.text(record.id), "labrun.experiment": names.text(record.name)} if record else {}),
            "labrun.sha256": card.sha256,
        },
        "mlflow_version": _installed("mlflow"),
        "model_id": None,
        "model_size_bytes": sum(path.stat().st_size for path in (folder / DATA).rglob("*") if path.is_file()),
        "model_uuid": uuid.uuid4().hex,
        "prompts": None,
        **signature,
        "type_hint_from_example": False,
        "utc_time_created": str(datetime.now(UTC).replace(tzinfo=None)),
    }


def _inputs(card: Card) -> str | None:
    """Return the model's inputs as an MLflow signature: raw values as in the data set, unscaled.

    None for a table of numbers, or one whose columns the card does not list: the model then matches columns by name,
    whereas MLflow would match numbers by position.
    """
    if card.columns:
        # `any`, because MLflow rejects integers for a column of doubles.
        kinds = {True: "any", False: "string"}
        inputs = [{"type": kinds[number], "name": name, "required": False} for name, number in card.columns.items()]
        return json.dumps(inputs)
    if card.arguments.get("preprocess") or card.table:
        return None
    shape = [-1, *(card.input_shape or [-1])]
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": shape}}])
