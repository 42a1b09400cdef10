"""Runs the user's training script unchanged in its own working folder, and monitors and records it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import refusal
from labrun.config import exact
from labrun.config.schema import Config, Script
from labrun.errors import ConfigError, RunFailedError
from labrun.runs import children, context, definition, ignore_rules, store
from labrun.runs.groups import DataEntry, ScriptCode
from labrun.runs.record import Record, RunPaths
from labrun.runs.recording import Preempted, signal_name
from labrun.tasks import threads
from labrun.tasks.script import nodes
from labrun.tasks.script.mlflow_endpoint import Endpoint, ScriptRunState

log = logging.getLogger(__name__)

WORK = "work"
SHARED = ("outputs", "logs", "checkpoints")
"""Folders of the run that are linked into the script's working folder."""
SAVE_S = 20.0
"""Grace period of a preempted script before it is killed, seconds."""
INTERRUPT_S = 8.0
"""Grace period of an interrupted script before it is killed, seconds."""
DECISION_S = 40.0
"""How long a job's supervisor may take to ask Slurm why the job was signaled, seconds."""
TAIL_LINES = 400
COMPAT = Path(__file__).parents[2] / "compat"


def run(config: Config, inputs: Sequence[DataEntry], record: Record, paths: RunPaths) -> None:
    """Run a script to its end.

    Args:
        config: the run's config, with mounts replaced by paths.
        inputs: the mounted data.
        record: the run's record.
        paths: the run's paths.

    Raises:
        RunFailedError: the script did not end with exit code 0.
        ConfigError: it cannot be started.
        KeyboardInterrupt, Preempted: the run was interrupted or preempted; the script has ended by then.
    """
    script = _of(config)
    code = (record.code and record.code.script) or ScriptCode()
    work = make_work_folder(paths, Path(str(code.folder)), Path(str(code.base)))
    words = definition.words(script.positional, script.arguments)
    frozen = _of(record.typed)  # references to the environment stay references in messages
    _log_command(frozen, script)
    if script.environment:
        _keep_build_log(script.environment, paths)
    if (count := nodes.machines(config)) > 1:
        run_context = context.current()
        nodes.signal_ready(paths, 1 if run_context is None else run_context.attempt)
    with Endpoint(_state(record, paths)) as endpoint:
        command = command_of(script, work, words, count)
        environment = variables(config, record, paths, inputs, endpoint)
        try:
            ended = Watched(command, work, environment, script.metrics).wait()
        finally:
            run_context = context.current()
            if run_context is not None:
                run_context.summary.update(context.last_values(paths.root))
            record.data += read_by_name(paths, record.data)
    if ended.code != 0:
        raise RunFailedError(f"{ended.message(frozen.shown_name)}{_way_out(ended, script)}", ended.trace)
    if count > 1 and (failure := nodes.wait_for_others(paths, count)):
        raise RunFailedError(failure)
    if script.command and (reported := _reported_failure(paths)):
        raise RunFailedError(reported)


def _log_command(frozen: Script, script: Script) -> None:
    """Log the command line of a script as the record has it, and as it is executed, where that differs."""
    positional = [_as_meant(value) for value in frozen.positional]
    arguments = {name: _as_meant(value) for name, value in frozen.arguments.items()}
    before = definition.words(positional, arguments)
    shown = definition.words(
        [_shown(*pair) for pair in zip(positional, script.positional, strict=True)],
        {name: _shown(value, script.arguments[name]) for name, value in arguments.items()},
    )
    name = frozen.shown_name
    log.info("Script: %s", _line(name, before))
    expanded = _shown(name, script.command) if script.command else name
    if (name, before) != (expanded, shown):
        log.info("Expanded: %s", _line(expanded, shown))


def _of(config: Config) -> Script:
    if config.script is None:
        raise ConfigError("task=script needs the script, but this run's config has none")
    return config.script


@contextlib.contextmanager
def with_children(paths: RunPaths) -> Iterator[None]:
    """Context that ends the child runs of a script when the script ends."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as ending:
        error = ending
        raise
    finally:
        children.end_open(store.workspace(), paths.root, error)


def assist(config: Config, inputs: Sequence[DataEntry], record: Record, paths: RunPaths) -> None:
    """Run the script's processes on a machine other than the first; see `run` and `nodes`.

    Raises:
        RunFailedError: a process did not end with exit code 0.
    """
    script, work = _of(config), paths.root / WORK
    attempt = nodes.wait_until_ready(paths)
    with Endpoint(_state(record, paths)) as endpoint:
        words = definition.words(script.positional, script.arguments)
        command = command_of(script, work, words, nodes.machines(config))
        own = {context.RUN_DIR_VARIABLE: str(paths.root), context.ATTEMPT_VARIABLE: str(attempt)}
        environment = {**variables(config, record, paths, inputs, endpoint), **own}
        ended = Watched(command, work, environment, {}).wait()
    failure = ended.message(_of(record.typed).shown_name) if ended.code else ""
    nodes.signal_ended(paths, failure)
    if failure:
        raise RunFailedError(failure, ended.trace)


def _line(name: str, words: Sequence[str]) -> str:
    """Return a script or command with its arguments, as typed in a shell."""
    return " ".join([name, *([shlex.join(words)] if words else [])])


def command_of(script: Script, work: Path, words: Sequence[str], machines: int = 1) -> list[str]:
    """Return the command to start: the interpreter with the script, or a shell with its command.

    Several processes are started through `ranks.py`.

    Args:
        script: the config's `script`, with mounts replaced by paths.
        work: the working folder.
        words: the arguments, which are also appended to a command.
        machines: number of machines, each of which starts `script.processes` processes.
    """
    if script.command:
        found = [shutil.which("bash") or "sh", "-c", _line(script.command, words)]
    else:
        found = [interpreter(script), *([str(COMPAT / "azureml" / "runner.py")] if script.azureml else [])]
        found += [str(work / str(script.path)), *words]
    if script.processes * machines == 1:
        return found
    ranks = str(Path(__file__).with_name("ranks.py"))
    return [sys.executable, "-IS", ranks, f"{script.processes}x{machines}", *found]


def _reported_failure(paths: RunPaths) -> str | None:
    """Return the message that an Azure script's command passed to `run.fail()` in this attempt, or None.

    For a script with a path, the runner handles this.
    """
    run_context = context.current()
    try:
        found = json.loads((paths.logs / "azureml" / "failed.json").read_text(encoding="utf-8"))
        is_new = run_context is None or found.get("attempt") == run_context.attempt
        return str(found.get("message")) if is_new else None
    except (OSError, ValueError, AttributeError):
        return None


def read_by_name(paths: RunPaths, mounted: Sequence[DataEntry]) -> list[DataEntry]:
    """Return the data that the script read with `Dataset.get_by_name` and that were not mounted, as record entries."""
    try:
        lines = (paths.root / context.INPUTS_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = [DataEntry.of(json.loads(line)) for line in lines if line.endswith("}")]
    new = {(entry.datastore, entry.asset, entry.number): entry for entry in found}
    for one in mounted:
        new.pop((one.datastore, one.asset, one.number), None)
    return list(new.values())


def _way_out(ended: Ended, script: Script) -> str:
    """Return advice for a module that the script's interpreter lacks, or "" if none is missing."""
    # the script's process leaves its error only as a traceback
    missing = re.search(r"^(?:ModuleNotFoundError|ImportError): No module named '([\w.]+)'", ended.trace, re.MULTILINE)
    if missing is None:
        return ""
    top = missing[1].partition(".")[0]
    if top == "azureml" and not script.azureml:
        return ". Set script.azureml=true: labrun supplies the parts of azureml that such scripts use"
    if top == "azureml":
        return ". labrun supplies azureml.core and azureml.data; docs/coming-from-azureml.md lists what is there"
    how = f"add it to {script.requirements}" if script.requirements else "set script.requirements=requirements.txt"
    return f". Install {top} for the script's interpreter, or {how}"


def _as_meant(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_meant(item) for item in value]
    return exact.shown(value) if isinstance(value, str) else value


def _shown(frozen: Any, expanded: Any) -> Any:
    """Return an argument for display: expanded, unless it refers to the environment."""
    return frozen if "${oc." in str(frozen) else expanded


def make_work_folder(paths: RunPaths, snapshot: Path, source: Path) -> Path:
    """Create the script's working folder.

    It holds a copy of the frozen source, links to files that were too large to copy or are not in version control, and
    links to the run's `outputs`, `logs` and `checkpoints`. Files of earlier attempts stay.

    Raises:
        ConfigError: the frozen source is gone.
    """
    if not snapshot.is_dir():
        raise ConfigError(f"the frozen source of the script, {snapshot}, is gone: submit the run again")
    work = paths.root / WORK
    for folder, names, files in os.walk(snapshot):
        place = work / Path(folder).relative_to(snapshot)
        names[:] = [name for name in names if not (Path(folder) == snapshot and name in SHARED)]
        place.mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.copyfile(Path(folder, name), place / name)
    for name in SHARED:
        (paths.root / name).mkdir(exist_ok=True)
        if not (work / name).is_symlink():
            (work / name).symlink_to(Path("..", name), target_is_directory=True)
    linked = sorted(_link_rest(source, work)) if source.is_dir() else []
    if linked:
        more = f", and {len(linked) - 10} more" if len(linked) > 10 else ""
        log.info("Linked, not copied (too large, or not in version control): %s%s", ", ".join(linked[:10]), more)
    return work


NEVER_LINKED = frozenset(
    {
        "__pycache__",
        ".git",
        ".venv",
        "venv",
        "node_modules",
        "outputs",
        "multirun",
        "logs",
        "checkpoints",
        ".labrun",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
    }
)


def _link_rest(source: Path, work: Path, below: str = "") -> Iterator[str]:
    """Link the entries of the source folder that were not copied, such as data, except hidden files and secrets."""
    is_ignored = ignore_rules.of(source, ignore_rules.AMLIGNORE)
    for entry in sorted((source / below).iterdir()):
        name = f"{below}{entry.name}"
        target = work / name
        if is_ignored(Path(name)) or is_ignored(Path(name, "any")):
            continue
        if entry.name in NEVER_LINKED or entry.name.startswith(".") or entry.name.endswith((".pem", ".key", ".pyc")):
            continue
        if (entry / "pyvenv.cfg").exists():  # a virtual environment, whatever its name
            continue
        if entry.name.startswith(("id_", "credentials")) or entry.resolve() in (work, *work.parents):
            continue
        if target.is_dir() and not target.is_symlink():
            yield from _link_rest(source, work, f"{name}/")
        elif not os.path.lexists(target):
            target.symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
            yield name


def interpreter(script: Script) -> str:
    """Return the path of the script's interpreter.

    Raises:
        ConfigError: its environment is gone.
    """
    if script.environment:
        folder = store.environment_folder(script.environment)
        if not (folder / "bin" / "python").exists():
            raise ConfigError(f"the environment of {script.requirements} is gone ({folder}): submit the run again")
        return str(folder / "bin" / "python")
    return script.python or sys.executable


def variables(
    config: Config, record: Record, paths: RunPaths, inputs: Sequence[DataEntry], endpoint: Endpoint
) -> dict[str, str]:
    """Return the script's environment variables: this process's without labrun's internal ones, and the run's own."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONSAFEPATH", "LABRUN_JOB", refusal.VARIABLE)
    }
    own = found.pop("LABRUN_PYTHONPATH", None)  # the script must not inherit a detached controller's PYTHONPATH
    path = [] if own is not None and not own else [own if own is not None else found.pop("PYTHONPATH", "")]
    found.pop("PYTHONPATH", None)
    script = _of(config)
    if script.python or script.environment:
        path = [str(COMPAT / "standalone"), *path]
    if script.command:  # in a command, `python` is the script's interpreter, with what the runner would set up
        path = [str(COMPAT / "azureml" / "site"), *path] if script.azureml else path
        found["PATH"] = os.pathsep.join([os.path.dirname(interpreter(script)), found.get("PATH") or os.defpath])
    if any(path):
        found["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    threads.keep_user_variable(found)
    threads.wait_by_default(found)
    for name in threads.VARIABLES:
        found.setdefault(name, str(config.compute.cpus_per_run))
    named = {str(entry.input).partition("@")[0].rpartition("/")[2]: str(entry.path) for entry in inputs}
    named |= {name: str(path) for name, path in script.inputs.items()}
    found |= {
        "PYTHONUNBUFFERED": "1",
        "LABRUN_EXPERIMENT": record.name,
        "LABRUN_WORKSPACE": str(store.workspace()),
        "LABRUN_INPUTS": json.dumps(named),
        "LABRUN_TABLES": json.dumps(script.tables),
        "LABRUN_SEED": str(config.seed),
    }
    if script.azureml:
        found |= {f"AZUREML_DATAREFERENCE_{name}": path for name, path in named.items()}
        found |= {
            "AZUREML_RUN_ID": record.sdk_id,
            "AZUREML_ARM_PROJECT_NAME": record.name,
            "AZUREML_ARM_WORKSPACE_NAME": store.workspace().name,
        }
    if "MLFLOW_TRACKING_URI" not in config.compute.environment:
        found |= endpoint.variables
    return found


def _state(record: Record, paths: RunPaths) -> ScriptRunState:
    shown = record.sdk_id
    return ScriptRunState(record.id, record.name, paths.root, aliases=[shown])


def _keep_build_log(digest: str, paths: RunPaths) -> None:
    built = store.environment_folder(digest).with_suffix(".log")
    if built.is_file():
        shutil.copyfile(built, paths.logs / "environment.log")


class Ended:
    """Outcome of a script.

    Args:
        code: its exit code, or the negated number of the signal that ended it.
        tail: the last lines of its output.
    """

    def __init__(self, code: int, tail: Sequence[str]) -> None:
        self.code, self._tail = code, list(tail)

    @property
    def trace(self) -> str:
        """The last traceback in its output, or ""."""
        starts = [n for n, line in enumerate(self._tail) if line.startswith("Traceback (most recent call last)")]
        return "\n".join(self._tail[starts[-1] :]) + "\n" if starts else ""

    def message(self, name: str) -> str:
        """Return a one-line description of the outcome."""
        how = f"was ended by {signal_name(-self.code)}" if self.code < 0 else f"ended with exit code {self.code}"
        said = self._said()
        return f"{name} {how}" + (f": {said}" if said and self.code > 0 else "")

    def _said(self) -> str:
        """Return the exception's line in the traceback, or the last line of the output if there is no traceback."""
        lines = self.trace.splitlines()[1:] or self._tail[::-1]
        return next((line.strip() for line in lines if line.strip() and not (self.trace and line[0].isspace())), "")


def _await_supervisor() -> None:
    """Wait for the supervisor's decision if Slurm has sent SIGTERM to this process, which blocks it in a job.

    Slurm may have sent it to the script, too, which then ended because of it: even with exit code 0, that is no result.

    Raises:
        KeyboardInterrupt, Preempted: the decision.
    """
    end = time.monotonic() + DECISION_S
    while signal.SIGTERM in signal.sigpending() and time.monotonic() < end:
        time.sleep(0.1)


class Watched:
    """Process of a script. Passes on its output, extracts metrics from it, and forwards signals.

    Args:
        command: the words of the command, not interpreted by a shell.
        work: the working folder.
        environment: the environment variables.
        patterns: regular expressions for metrics in output lines, by the metric's name.
    """

    def __init__(
        self, command: Sequence[str], work: Path, environment: Mapping[str, str], patterns: Mapping[str, str]
    ) -> None:
        self._patterns = {name: re.compile(pattern) for name, pattern in patterns.items()}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        guard = [sys.executable, "-IS", str(Path(__file__).with_name("process_guard.py")), str(os.getpid())]
        sys.stdout.flush()
        self._process = subprocess.Popen(
            [*guard, *command],
            cwd=work,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def wait(self) -> Ended:
        """Wait until the script has ended, and kill what is left of the processes that it started.

        Raises:
            KeyboardInterrupt, Preempted: the run was interrupted or preempted; the script got the signal first.
        """
        try:
            self._follow()
            _await_supervisor()
        except Preempted:
            self._end(signal.SIGTERM, SAVE_S)
            raise
        except KeyboardInterrupt:
            self._end(signal.SIGINT, INTERRUPT_S)
            raise
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._drain()
        return Ended(self._process.returncode, self._tail)

    def _follow(self, until: float | None = None) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while until is None or time.monotonic() < until:
            ready, _, _ = select.select([descriptor], [], [], 0.2)
            data = os.read(descriptor, 65536) if ready else b""
            if data:
                self._take(data)
            elif ready or self._process.poll() is not None:  # end of output, or a child process holds the output open
                break
        if until is None:
            self._process.wait()

    def _drain(self) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while select.select([descriptor], [], [], 0.0)[0]:
            data = os.read(descriptor, 65536)
            if not data:
                break
            self._take(data)
        if self._rest:
            self._take(b"\n")
        self._process.stdout.close()

    def _end(self, number: signal.Signals, patience_s: float) -> None:
        self._signal(number)
        self._follow(time.monotonic() + patience_s)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def _take(self, data: bytes) -> None:
        view = data
        while view:
            view = view[os.write(1, view) :]
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        for line in lines:
            text = line.decode(errors="replace")
            if text:
                self._tail.append(text)
                self._match(text)

    def _match(self, text: str) -> None:
        for name, pattern in self._patterns.items():
            for found in pattern.finditer(text):
                groups = found.groupdict()
                value = groups.get("value") or next((g for g in _without_step(found) if g is not None), None)
                try:
                    number, step = float(value or ""), groups.get("step")
                    context.log(name, number, None if step is None else int(float(step)))
                except ValueError:
                    log.warning("script.metrics.%s: %r is not a number, in the line %r", name, value, text[:200])


def _without_step(found: re.Match[str]) -> list[str | None]:
    """Return the groups of a match except `step`."""
    step = found.re.groupindex.get("step")
    return [group for place, group in enumerate(found.groups(), start=1) if place != step]
