"""Implements the part of MLflow's server that training scripts use, so that `mlflow.log_metric` reaches the record.

Each run's process has its own endpoint on the loopback address. The script finds it through MLFLOW_TRACKING_URI and
MLFLOW_RUN_ID, and may use any version of MLflow. Source: MLflow's REST API, docs/rest-api.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from labrun.compat.azureml.training import pending_models
from labrun.errors import RecordError
from labrun.runs import context, store
from labrun.runs.record import Record
from labrun.tasks.script import mlflow_runs
from labrun.tracking.mlflow.search import searched

log = logging.getLogger(__name__)

EXPERIMENT_ID = "0"
MLFLOWS_ID = re.compile("[0-9a-f]{32}")
"""An ID in MLflow's format, which begins with labrun's ID."""
Answer = dict[str, Any]


class UnknownCallError(Exception):
    """A call that the endpoint does not support."""


class RefusedCallError(Exception):
    """A call that failed.

    Args:
        code: MLflow's error code, such as `RESOURCE_DOES_NOT_EXIST`.
        message: the reason.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EndpointState(Protocol):
    """State behind an endpoint."""

    run_id: str | None
    """MLflow's 32-digit ID of the script's run; None if callers create the runs."""

    def handle(self, name: str, content: Answer) -> Answer: ...
    def save(self) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, without asking for the host's name, for which a bad resolver may need seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", int(self.server_address[1])


class Endpoint:
    """HTTP server for one process, as a context manager.

    Args:
        state: what answers the calls.
    """

    def __init__(self, state: EndpointState) -> None:
        self._token = secrets.token_hex(16)
        self._state = state
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            """Handles requests and answers with JSON."""

            def do_GET(self) -> None:
                """Handle calls that read."""
                address = urlsplit(self.path)
                endpoint.answer(self, address.path, {k: v[-1] for k, v in parse_qs(address.query).items()})

            def do_POST(self) -> None:
                """Handle calls that write."""
                length = int(self.headers.get("Content-Length") or 0)
                try:
                    content = json.loads(self.rfile.read(length) or b"{}")
                except ValueError:
                    content = {}
                endpoint.answer(self, urlsplit(self.path).path, content)

            do_PATCH = do_POST  # noqa: N815 - the library's name

            def log_message(self, *arguments: object) -> None:
                """Log nothing, since requests are not part of the run's output."""

        self._server = _Server(("127.0.0.1", 0), Handler)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that direct a script's MLflow to this endpoint."""
        return {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self._server.server_address[1]}",
            "MLFLOW_TRACKING_TOKEN": self._token,
            **({"MLFLOW_RUN_ID": self._state.run_id} if self._state.run_id else {}),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # these addresses cannot be opened in a browser
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        }

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._state.save()

    def answer(self, request: BaseHTTPRequestHandler, path: str, content: Answer) -> None:
        """Answer one call."""
        status, body = 200, {}
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            status, body = 403, {"error_code": "PERMISSION_DENIED", "message": "the token belongs to another run"}
        else:
            name = path.partition("/mlflow/")[2] or path.strip("/")
            try:
                body = self._state.handle(name, content)
            except UnknownCallError:
                status = 404
                body = {
                    "error_code": "ENDPOINT_NOT_FOUND",
                    "message": f"labrun keeps only metrics, params, tags and files of a script's run, and does not "
                    f"answer {name}. For a whole MLflow server: compute.environment.MLFLOW_TRACKING_URI=http://...",
                }
            except RefusedCallError as error:
                status, body = 400, {"error_code": error.code, "message": str(error)}
            except (KeyError, TypeError, ValueError) as error:
                status, body = 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"{name}: {error}"}
        data = json.dumps(body).encode()
        with contextlib.suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data)


class ScriptRunState:
    """State of a script's run in MLflow. Runs that the script creates itself all go into that run's record.

    Args:
        run_id: the run's ID.
        experiment: the name of its experiment.
        run_dir: its folder.
        log: function that logs a metric's name, value and step.
        experiment_id: the experiment's ID in MLflow.
        aliases: other IDs of the run, which the script may have from the Azure ML SDK.
    """

    def __init__(
        self,
        run_id: str,
        experiment: str,
        run_dir: Path,
        log: Callable[[str, float, int], None] = context.log,
        experiment_id: str = EXPERIMENT_ID,
        aliases: Collection[str] = (),
    ) -> None:
        self.run_id: str | None = run_id + secrets.token_hex(12)
        """32 digits, as in MLflow."""
        self._aliases = {run_id, *aliases}
        self._experiment, self._run_dir = experiment, run_dir
        self._log, self._experiment_id = log, experiment_id
        self._lock = threading.Lock()
        self._runs: dict[str, Answer] = {}
        self._params: dict[str, str] = {}
        self._models: dict[str, Answer] = {}
        self._versions: dict[tuple[str, str], Answer] = {}
        self._new(str(self.run_id), run_dir.name)

    def _new(self, run_id: str, name: str) -> Answer:
        info = {
            "run_id": run_id,
            "run_uuid": run_id,
            "run_name": name,
            "experiment_id": self._experiment_id,
            "user_id": "labrun",
            "status": "RUNNING",
            "start_time": int(time.time() * 1000),
            "artifact_uri": (self._run_dir / "outputs").as_uri(),
            "lifecycle_stage": "active",
        }
        self._runs[run_id] = {"info": info, "metrics": {}, "params": {}, "tags": {}}
        return self._runs[run_id]

    def handle(self, name: str, content: Answer) -> Answer:
        """Execute one call of the API and return its answer.

        Raises:
            UnknownCallError: the call is not supported.
            RefusedCallError: it failed.
            KeyError, TypeError, ValueError: it is malformed.
        """
        with self._lock:
            if name == "runs/create":
                own = self._new(secrets.token_hex(16), str(content.get("run_name") or self._run_dir.name))
                self._tags(own, content.get("tags") or [])
                return {"run": _shown(own)}
            if name == "runs/search":
                begun = [_shown(run) for run in reversed(self._runs.values())]
                return {"runs": searched([*begun, *self._others()], content)}
            if name.startswith("runs/"):
                return self._of_run(name[5:], content)
            if name == "metrics/get-history":
                return mlflow_runs.history(self._folder_of(content), str(content["metric_key"]))
            if name.startswith("experiments/"):
                return self._of_experiment(name[12:])
            if name.startswith("logged-models"):
                return self._of_model(name[13:].strip("/"), content)
            if name in ("registered-models/create", "registered-models/get"):
                return {"registered_model": {"name": str(content["name"])}}
            if name.startswith("model-versions/"):
                return self._of_version(name[15:], content)
        raise UnknownCallError

    def _of_experiment(self, verb: str) -> Answer:
        shown = {
            "experiment_id": self._experiment_id,
            "name": self._experiment,
            "lifecycle_stage": "active",
            "artifact_location": (self._run_dir / "outputs").as_uri(),
        }
        if verb in ("get", "get-by-name"):
            return {"experiment": shown}
        if verb == "create":
            return {"experiment_id": self._experiment_id}
        if verb == "search":
            return {"experiments": [shown]}
        if verb == "set-experiment-tag":
            return {}
        raise UnknownCallError

    def _of_run(self, verb: str, content: Answer) -> Answer:
        run_id = _run_id(content)
        own = self._runs.get(str(self.run_id) if run_id in self._aliases else run_id)
        if own is None and verb == "get":
            return {"run": self._shown(*_found(run_id))}
        if own is None:
            raise RefusedCallError("INVALID_STATE", f"runs/{verb}: {run_id} is not a run of this script")
        if verb == "get":
            return {"run": _shown(own)}
        if verb == "update":
            own["info"] |= {k: content[k] for k in ("status", "end_time", "run_name") if content.get(k) is not None}
            return {"run_info": own["info"]}
        if verb == "log-metric":
            self._metric(own, content)
        elif verb == "log-batch":
            for metric in content.get("metrics") or []:
                self._metric(own, metric)
            for param in content.get("params") or []:
                self._param(own, param)
            self._tags(own, content.get("tags") or [])
        elif verb == "log-parameter":
            self._param(own, content)
        elif verb == "set-tag":
            self._tags(own, [content])
        elif verb == "delete-tag":
            own["tags"].pop(content["key"], None)
            context.annotate(self._run_dir, untag=[str(content["key"])])
        elif verb not in ("log-model", "log-inputs", "outputs"):
            raise UnknownCallError
        return {}

    def _others(self) -> list[Answer]:
        """Return the experiment's other runs, newest first."""
        every = [
            (run_dir, record)
            for run_dir, record in store.runs(store.workspace())
            if record.name == self._experiment and run_dir.resolve() != self._run_dir.resolve()
        ]
        every.sort(key=lambda pair: pair[1].created, reverse=True)
        return [self._shown(*pair) for pair in every]

    def _shown(self, run_dir: Path, record: Record) -> Answer:
        run_id = record.sdk_id
        return mlflow_runs.shown(run_dir, record, record.status, run_id, self._experiment_id)

    def _folder_of(self, content: Answer) -> Path:
        run_id = _run_id(content)
        return self._run_dir if run_id in self._aliases or run_id in self._runs else _found(run_id)[0]

    def _metric(self, own: Answer, metric: Answer) -> None:
        value, step = float(metric["value"]), int(metric.get("step") or 0)
        self._log(str(metric["key"]), value, step)
        own["metrics"][metric["key"]] = {
            "key": metric["key"],
            "value": value,
            "step": step,
            "timestamp": int(metric.get("timestamp") or 0),
        }

    def _param(self, own: Answer, param: Answer) -> None:
        own["params"][str(param["key"])] = self._params[str(param["key"])] = str(param["value"])

    def _tags(self, own: Answer, tags: list[Answer]) -> None:
        new = {str(tag["key"]): str(tag["value"]) for tag in tags}
        own["tags"] |= new
        mine = {key: value for key, value in new.items() if not key.startswith("mlflow.")}
        if mine:
            context.annotate(self._run_dir, tags=mine)

    def has_model(self, model_id: str) -> bool:
        """Return whether the script has logged a model to this run."""
        return model_id in self._models

    def _of_model(self, rest: str, content: Answer) -> Answer:
        """Handle models that a script logs, which are entities in MLflow 3. Their files go to the run's `outputs/`."""
        if not rest:
            model_id = f"m-{secrets.token_hex(16)}"
            place = self._run_dir / "outputs" / str(content.get("name") or "model")
            info = {
                "model_id": model_id,
                "experiment_id": self._experiment_id,
                "name": content.get("name"),
                "creation_timestamp_ms": int(time.time() * 1000),
                "last_updated_timestamp_ms": int(time.time() * 1000),
                "artifact_uri": place.as_uri(),
                "status": "LOGGED_MODEL_PENDING",
                "source_run_id": content.get("source_run_id"),
                "tags": content.get("tags") or [],
            }
            self._models[model_id] = {"info": info, "data": {"params": content.get("params") or [], "metrics": []}}
            return {"model": self._models[model_id]}
        model_id, _, verb = rest.partition("/")
        if model_id == "search":
            return {"models": list(self._models.values())}
        own = self._models[model_id]
        if content.get("status"):
            own["info"]["status"] = content["status"]
        own["info"]["tags"] += (content.get("tags") or []) if verb == "tags" else []
        return {"model": own}

    def _of_version(self, verb: str, content: Answer) -> Answer:
        """Handle `mlflow.register_model` for models that the script has logged to this run."""
        if verb == "get":
            return {"model_version": self._versions[str(content["name"]), str(content["version"])]}
        if verb != "create":
            raise UnknownCallError
        name, source = str(content["name"]), str(content["source"])
        logged = self._models.get(source.removeprefix("models:/"))
        place = Path(unquote(urlsplit(logged["info"]["artifact_uri"] if logged else source).path))
        tags = {str(tag["key"]): str(tag.get("value") or "") for tag in content.get("tags") or []}
        number = self._promise(name, place.relative_to(self._run_dir).as_posix(), tags)
        made = {"name": name, "version": str(number), "source": source, "run_id": content.get("run_id")}
        self._versions[name, str(number)] = {**made, "status": "READY"}
        return {"model_version": self._versions[name, str(number)]}

    def _promise(self, name: str, path: str, tags: dict[str, str]) -> int:
        run = context.current() or context.RunContext(self._run_dir)
        return pending_models.add(run, name, path, {"tags": tags}, local=False)[0]

    def save(self) -> None:
        """Save the params that the script logged to the run's folder."""
        if self._params:
            text = json.dumps(self._params, indent=1, ensure_ascii=False)
            with contextlib.suppress(OSError):
                (self._run_dir / "logs" / "mlflow_params.json").write_text(text + "\n", encoding="utf-8")


def _run_id(content: Answer) -> str:
    return str(content.get("run_id") or content.get("run_uuid"))


def _found(run_id: str) -> tuple[Path, Record]:
    """Find a run other than the script's.

    Raises:
        RefusedCallError: there is no such run.
    """
    try:
        return store.find(store.workspace(), run_id[:8] if MLFLOWS_ID.fullmatch(run_id) else run_id)
    except RecordError as error:
        raise RefusedCallError("RESOURCE_DOES_NOT_EXIST", str(error)) from error


def _shown(own: Answer) -> Answer:
    params = [{"key": key, "value": value} for key, value in own["params"].items()]
    tags = [{"key": key, "value": value} for key, value in own["tags"].items()]
    return {"info": own["info"], "data": {"metrics": list(own["metrics"].values()), "params": params, "tags": tags}}
