"""MLflow tracking endpoint for a control script or notebook: each MLflow run becomes a labrun run.

After `mlflow.set_tracking_uri(ws.get_mlflow_tracking_uri())`, `mlflow.start_run()` starts a run like
`labrun.start_run`, with MLflow's experiment name as its name.
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import Any

from labrun.api import functions, handles, program
from labrun.azureml import kinds
from labrun.azureml.mlflow_models import REGISTRY, Registry
from labrun.errors import LabrunError
from labrun.runs import context
from labrun.tasks.script import mlflow_runs
from labrun.tasks.script.mlflow_endpoint import (
    MLFLOWS_ID,
    Answer,
    Endpoint,
    RefusedCallError,
    ScriptRunState,
    UnknownCallError,
)
from labrun.tracking.mlflow.search import searched

_addresses: dict[Path, str] = {}


def address(workspace: Path) -> str:
    """Return a workspace's tracking URI, served for the lifetime of this process; inside a run, the run's own URI."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if context.current() is not None and uri:
        return uri
    if workspace not in _addresses:
        endpoint = Endpoint(WorkspaceClient(workspace))
        endpoint.__enter__()
        atexit.register(endpoint.__exit__, None, None, None)
        variables = endpoint.variables
        _addresses[workspace] = variables.pop("MLFLOW_TRACKING_URI")
        os.environ.update(variables)
    return _addresses[workspace]


class WorkspaceClient:
    """Answers MLflow's API calls for a workspace. Experiments are names, and each MLflow run is a labrun run.

    Args:
        workspace: the folder of the runs.
    """

    run_id: str | None = None

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._lock = threading.RLock()
        self._names: dict[str, str] = {}
        self._runs: dict[str, tuple[program.ActiveRun, ScriptRunState]] = {}
        self._registry = Registry(workspace, self._place_of, self._is_open)

    def handle(self, name: str, content: Answer) -> Answer:
        """Answer one API call.

        Raises:
            UnknownCallError: labrun does not support the call.
            KeyError, TypeError, ValueError: the call's content is malformed.
        """
        with self._lock:
            if name.startswith("experiments/"):
                return self._of_experiment(name[12:], content)
            if name == "runs/create":
                return self._begin(content)
            if name == "runs/search":
                return {"runs": searched(self._every(content), content)}
            if name.startswith(REGISTRY):
                return self._registry.handle(name, content)
            run_id = str(content.get("run_id") or content.get("run_uuid") or content.get("source_run_id") or "")
            if name.startswith("logged-models") and run_id not in self._runs:
                run_id = self._owner(name)
            if run_id not in self._runs:
                return self._of_another(name, run_id, content)
            run, state = self._runs[run_id]
            answer = state.handle(name, content)
            if name == "runs/update" and content.get("status"):
                self._end(run, state, str(content["status"]))
            return answer

    def _every(self, content: Answer) -> list[Answer]:
        """Return the runs of the requested experiments, newest first. This program's own runs have its live state."""
        wanted = {str(one) for one in content.get("experiment_ids") or self._names}
        states = {run.id: state for run, state in self._runs.values()}
        answers = []
        for run in functions.runs(root=self._workspace):
            if self._id_of(run.name) in wanted:
                state = states.get(run.id)
                answers.append(
                    mlflow_runs.shown(run.folder, run.record, run.status, kinds.id_of(run), self._id_of(run.name))
                    if state is None
                    else state.handle("runs/get", {"run_id": state.run_id})["run"]
                )
        return answers

    def _of_another(self, name: str, run_id: str, content: Answer) -> Answer:
        """Answer a call about a run that this program did not start.

        Raises:
            RefusedCallError: there is no such run, or the call would change it.
        """
        try:
            work = functions.get_run(run_id[:8] if MLFLOWS_ID.fullmatch(run_id) else run_id, root=self._workspace)
        except LabrunError as error:
            raise RefusedCallError("RESOURCE_DOES_NOT_EXIST", str(error)) from error
        if isinstance(work, handles.Sweep):
            raise RefusedCallError("RESOURCE_DOES_NOT_EXIST", f"{run_id} is a search: its runs have metrics")
        if name == "runs/get":
            return {"run": mlflow_runs.shown(work.folder, work.record, work.status, run_id, self._id_of(work.name))}
        if name == "metrics/get-history":
            return mlflow_runs.history(work.folder, str(content["metric_key"]))
        raise RefusedCallError(
            "INVALID_STATE", f"{name}: another program started the run {run_id}; this program cannot change it"
        )

    def _place_of(self, model_id: str) -> str:
        """Return the URI of a logged model's files."""
        _, state = self._runs[self._owner(f"logged-models/{model_id}")]
        answer = state.handle(f"logged-models/{model_id}", {})
        return str(answer["model"]["info"]["artifact_uri"])

    def _is_open(self, run_dir: Path) -> bool:
        return any(run.is_open and run.folder == run_dir for run, _ in self._runs.values())

    def _of_experiment(self, verb: str, content: Answer) -> Answer:
        if verb == "search":
            return {"experiments": [self._shown(number) for number in self._names]}
        if verb == "set-experiment-tag":
            return {}
        if verb == "get":
            return {"experiment": self._shown(str(content["experiment_id"]))}
        if verb == "create":
            return {"experiment_id": self._id_of(str(content["name"]))}
        if verb == "get-by-name":
            return {"experiment": self._shown(self._id_of(str(content["experiment_name"])))}
        raise UnknownCallError

    def _id_of(self, name: str) -> str:
        """Return an experiment's id, assigning one to a new name: an experiment is only a name."""
        for number, known in self._names.items():
            if known == name:
                return number
        number = str(len(self._names) + 1)
        self._names[number] = name
        return number

    def _shown(self, number: str) -> Answer:
        name = self._names.get(number) or "Default"
        artifacts = (self._workspace / "outputs" / name).as_uri()
        return {"experiment_id": number, "name": name, "lifecycle_stage": "active", "artifact_location": artifacts}

    def _begin(self, content: Answer) -> Answer:
        number = str(content.get("experiment_id") or "0")
        name = self._names.get(number) or "Default"
        run = program.start_run(name, root=self._workspace, code=None, capture=False)
        state = ScriptRunState(run.id, name, run.folder, run.log, number)
        self._runs[str(state.run_id)] = (run, state)
        tags: list[Any] = [*(content.get("tags") or [])]
        state.handle("runs/log-batch", {"run_id": state.run_id, "tags": tags})
        return state.handle("runs/get", {"run_id": state.run_id})

    def _owner(self, name: str) -> str:
        """Return the id of the run that owns a call's logged model."""
        for run_id, (_, state) in self._runs.items():
            if state.has_model(name[13:].strip("/").partition("/")[0]):
                return run_id
        raise KeyError(name)

    @staticmethod
    def _end(run: program.ActiveRun, state: ScriptRunState, status: str) -> None:
        state.save()
        if status == "FINISHED":
            run.complete()
        elif status == "FAILED":
            run.fail("MLflow ended the run as failed")
        elif status == "KILLED":
            run.cancel()

    def save(self) -> None:
        """Write the parameters of the active runs to their records."""
        for _, state in self._runs.values():
            state.save()
