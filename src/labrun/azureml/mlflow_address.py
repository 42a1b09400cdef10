"""Where MLflow in a control script or notebook goes: to runs of labrun, of the experiment that it names.

`mlflow.set_tracking_uri(ws.get_mlflow_tracking_uri())` and `mlflow.start_run()` begin a run as `labrun.start_run` does.
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import Any

from labrun import program
from labrun.azureml.interactive import InteractiveRun
from labrun.tasks.mlflow_endpoint import Answer, Endpoint, ScriptRunState, UnknownCallError

_addresses: dict[Path, str] = {}


def address(workspace: Path) -> str:
    """The address of a workspace, which answers as long as this process lives."""
    if workspace not in _addresses:
        endpoint = Endpoint(WorkspaceBook(workspace))
        endpoint.__enter__()
        atexit.register(endpoint.__exit__, None, None, None)
        variables = endpoint.variables
        _addresses[workspace] = variables.pop("MLFLOW_TRACKING_URI")
        os.environ.update(variables)
    return _addresses[workspace]


class WorkspaceBook:
    """Experiments by name, and a run of labrun for each that MLflow creates.

    Args:
        workspace: the folder of the runs.
    """

    run_id: str | None = None

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._lock = threading.RLock()
        self._names: dict[str, str] = {}
        self._runs: dict[str, tuple[program.ActiveRun, ScriptRunState]] = {}
        self._registered: dict[tuple[str, str], str] = {}

    def carry_out(self, name: str, content: Answer) -> Answer:
        """One call of the API.

        Raises:
            UnknownCallError: it is not answered here.
            KeyError, TypeError, ValueError: it is not as it should be.
        """
        with self._lock:
            if name.startswith("experiments/"):
                return self._of_experiment(name[12:], content)
            if name == "runs/create":
                return self._begin(content)
            if name == "runs/search":
                wanted = set(content.get("experiment_ids") or self._names)
                states = [state for run, state in self._runs.values() if self._id_of(run.name) in wanted]
                return {"runs": [shown for state in states for shown in state.carry_out(name, content)["runs"]]}
            if name.startswith("registered-models/"):
                return next(iter(self._runs.values()))[1].carry_out(name, content)
            run_id = str(content.get("run_id") or content.get("run_uuid") or content.get("source_run_id") or "")
            if name == "model-versions/get":
                run_id = self._registered[str(content["name"]), str(content["version"])]
            elif run_id not in self._runs:
                run_id = self._owner(name if name.startswith("logged-models") else str(content.get("source")))
            run, state = self._runs[run_id]
            answer = state.carry_out(name, content)
            if name == "model-versions/create":
                self._registered[str(content["name"]), answer["model_version"]["version"]] = run_id
            if name == "runs/update" and content.get("status"):
                self._end(run, state, str(content["status"]))
            return answer

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
        """An experiment's id; one that nobody has named before is there as well: it is but a name."""
        for number, known in self._names.items():
            if known == name:
                return number
        number = str(len(self._names) + 1)
        self._names[number] = name
        return number

    def _shown(self, number: str) -> Answer:
        name = self._names.get(number) or "Default"
        place = (self._workspace / "outputs" / name).as_uri()
        return {"experiment_id": number, "name": name, "lifecycle_stage": "active", "artifact_location": place}

    def _begin(self, content: Answer) -> Answer:
        number = str(content.get("experiment_id") or "0")
        name = self._names.get(number) or "Default"
        run = program.start_run(name, root=self._workspace, code=None, capture=False)

        def register(model: str, path: str, tags: dict[str, str]) -> int:
            return int(InteractiveRun(None, work=run).register_model(model, path, tags).version)

        state = ScriptRunState(run.id, name, run.folder, run.log, number, register)
        self._runs[str(state.run_id)] = (run, state)
        tags: list[Any] = [*(content.get("tags") or [])]
        state.carry_out("runs/log-batch", {"run_id": state.run_id, "tags": tags})
        return state.carry_out("runs/get", {"run_id": state.run_id})

    def _owner(self, name: str) -> str:
        """The run whose logged model a call is about: `logged-models/ID/...` or `models:/ID`."""
        for run_id, (_, state) in self._runs.items():
            if state.has_model(name.partition("/")[2].partition("/")[0]):
                return run_id
        raise KeyError(name)

    @staticmethod
    def _end(run: program.ActiveRun, state: ScriptRunState, status: str) -> None:
        state.keep()
        if status == "FINISHED":
            run.complete()
        elif status == "FAILED":
            run.fail("MLflow ended the run as failed")
        elif status == "KILLED":
            run.cancel()

    def keep(self) -> None:
        """Leave the params of runs that still go on with them."""
        for _, state in self._runs.values():
            state.keep()
