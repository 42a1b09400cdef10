"""The functions of the Python API: submit runs, list and find them, show one, load a model."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import refusal
from labrun.api.base import Submission
from labrun.api.handles import Run, Sweep
from labrun.control import query
from labrun.control.query import StatusResolver
from labrun.errors import ConfigError, RecordError
from labrun.remote import mirror
from labrun.runs import context, store
from labrun.runs.status import Status
from labrun.runs.sweep_state import SweepState
from labrun.runs.workspace import Workspace
from labrun.submission import publish

EVERY_S = 3.0


def samples(
    name: str,
    count: int = 30,
    datastore: str | None = None,
    settings: Sequence[str] = (),
    keys: Sequence[str] = (),
    seed: int | None = None,
) -> Any:
    """Return random samples of the training split. A notebook displays them as a grid with classes, shapes and range.

    Args:
        name: name of a data set in `conf/dataset`, or an asset (`NAME@VERSION`).
        count: number of samples.
        datastore: name of a datastore in `conf/datastore`; None: the default one.
        settings: `key=value` overrides for the datastore, such as `root=/path/to/data`.
        keys: `key=value` overrides for the data set.
        seed: seed of the random choice.

    Returns:
        A `Samples` object: `text` describes the data, `save(path)` draws the grid.

    Raises:
        ConfigError, DataError: the data set or the datastore does not exist, or cannot be read.
    """
    from labrun.submission import inputs, preview

    node = inputs.load(datastore or inputs.default_name(), changes=tuple(settings))
    return preview.samples(name, node, count, seed, keys)


def submit(
    overrides: Sequence[str] = (),
    detach: bool = False,
    root: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    parent: Run | str | None = None,
) -> Any:
    """Submit a `labrun` command line, and return as soon as the records of its runs exist.

    Args:
        overrides: command-line arguments, one per item: `["experiment=mnist_logreg", "seed=1"]`; for a sweep, the
            first is `-m`.
        detach: keep the work running when this interpreter exits; False: cancel it then.
        root: the workspace; None: LABRUN_ROOT, or the current folder.
        environment: environment variables for the command, in addition to those of this process.
        parent: the parent run, or its id.

    Returns:
        A `Run`, or a `Sweep` for a sweep or search.

    Raises:
        ConfigError: the command failed; the message is its own error message.
    """
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise ConfigError(f"submit takes a list of arguments, as in submit(['seed=1']), but was given {overrides!r}")
    words = [str(word) for word in overrides]
    workspace = store.workspace() if root is None else Path(root).expanduser().resolve()
    if not workspace.is_dir():
        raise ConfigError(f"root={root}: there is no such folder")
    place = Workspace(workspace).submissions
    place.mkdir(parents=True, exist_ok=True)
    published, refused, log = (place / f"{uuid.uuid4().hex}.{what}" for what in ("folder", "refusal", "log"))
    detached = ["compute.detach=true"] if detach else []
    variables = {
        **_inherited(environment or {}),
        publish.VARIABLE: str(published),
        refusal.VARIABLE: str(refused),
        store.ROOT_VARIABLE: str(workspace),
    }
    if parent is not None:
        variables[publish.PARENT] = parent.id if isinstance(parent, Run) else parent
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*_labrun(), *words, *detached],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=variables,
            start_new_session=True,
        )
    submission = Submission(process, log)
    while not published.exists() and process.poll() is None:
        time.sleep(0.02)
    if detach:
        process.wait()
    if not published.exists() or (detach and process.returncode):
        why = refusal.taken(refused)
        text = submission.output().strip() if why is None else why.message
        log.unlink(missing_ok=True)
        raise ConfigError(text or f"labrun ended with exit code {process.returncode} before anything was submitted")
    folder = Path(published.read_text(encoding="utf-8"))
    published.unlink()
    return _work(folder, None if detach else submission)


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with the given variables, less those that are for this process alone."""
    variables = {**os.environ, **environment}
    for name in (
        publish.PARENT,
        context.RUN_DIR_VARIABLE,
        context.ATTEMPT_VARIABLE,
        "MPLBACKEND",  # a notebook's backend works only there
    ):
        variables.pop(name, None)
    if variables.get("PYTHONPATH") == "":  # for Python as good as none, but it would need a warm interpreter of its own
        del variables["PYTHONPATH"]
    return variables


def _labrun() -> list[str]:
    """Return the start of a `labrun` command line: its console script, which uses a warm interpreter if it may."""
    script = Path(sysconfig.get_path("scripts")) / "labrun"
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-m", "labrun"]


def show(work: Run | Sweep | str, every_s: float = EVERY_S, wait: bool = True) -> None:
    """Show a run or a sweep in a notebook, refreshed until it has ended; outside a notebook, as text.

    An interrupt stops the display, not the run.

    Args:
        work: a run or a sweep, or a reference that `get_run` accepts.
        every_s: refresh interval in seconds.
        wait: follow it until it ends; False: show it once.

    Raises:
        RecordError: there is no run or sweep for the reference.
    """
    if isinstance(work, str):
        return show(get_run(work), every_s, wait)
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        work.wait_for_completion(show_output=True, raise_on_error=False) if wait else None
        print(repr(work))
        return
    from IPython.display import HTML, display

    from labrun.api import notebook

    mark = notebook.new_mark()
    view = display(HTML(page(work, mark)), display_id=True)
    try:
        while wait and not work.is_over:
            time.sleep(every_s)
            view.update(HTML(page(work, mark)))
    except KeyboardInterrupt:
        pass
    view.update(HTML(page(work, mark)))


def page(work: Run | Sweep, mark: str) -> str:
    """Render a run or a sweep as HTML.

    Args:
        work: the run or the sweep.
        mark: id of the page, unique in its notebook.
    """
    from labrun.api import notebook

    return notebook.run_page(work, mark) if isinstance(work, Run) else notebook.sweep_page(work, mark)


def _work(folder: Path, submission: Submission | None = None) -> Run | Sweep:
    return Run(folder, submission) if (folder / "run.json").is_file() else Sweep(folder, submission)


def get_run(reference: str | os.PathLike[str] = "last", root: str | os.PathLike[str] | None = None) -> Any:
    """Find a run or a sweep.

    Args:
        reference: `last`, `best:METRIC`, the start of an id, or the folder of a run or a sweep.
        root: the workspace; None: LABRUN_ROOT, or the current folder.

    Returns:
        A `Run` or a `Sweep`.

    Raises:
        RecordError: there is no run or sweep for the reference.
    """
    workspace = store.workspace() if root is None else Path(root).expanduser().resolve()
    reference = store.resolve_sdk_id(workspace, os.fspath(reference))
    for folder in (Path(reference).expanduser(), workspace / reference):
        if not (folder / "run.json").is_file() and SweepState(folder).root.is_dir():
            return Sweep(folder)
    return Run(store.find(workspace, reference)[0])


def runs(
    experiment: str | None = None,
    status: str | None = None,
    where: str | Sequence[str] = (),
    tags: str | Sequence[str] | Mapping[str, str] = (),
    sort: str | None = None,
    limit: int | None = None,
    root: str | os.PathLike[str] | None = None,
) -> list[Run]:
    """List the runs of a workspace, newest first.

    Args:
        experiment: only runs of this experiment.
        status: only runs with this status.
        where: conditions such as `accuracy>0.9` or `model.name=mnist_dnn`.
        tags: only runs with these tags: `key`, `key=value`, or a mapping.
        sort: a metric (best first) or a field to sort by.
        limit: maximum number of runs.
        root: the workspace; None: LABRUN_ROOT, or the current folder.

    Raises:
        RecordError: the status does not exist, or no run has a field or metric used in a condition.
    """
    workspace = store.workspace() if root is None else Path(root).expanduser().resolve()
    if status is not None and status not in query.STATUSES:
        raise RecordError(f"status={status!r}: expected one of {', '.join(query.STATUSES)}")
    conditions = [query.condition(text) for text in ([where] if isinstance(where, str) else where)]
    if isinstance(tags, Mapping):
        tags = [f"{key}={value}" for key, value in tags.items()]
    mirror.refresh(workspace)
    tags = [tags] if isinstance(tags, str) else tags
    wanted = query.Filters(experiment, Status(status) if status else None, conditions, tags, sort, limit)
    found = store.listing(workspace).runs
    return [Run(run_dir) for run_dir, _ in query.filtered(found, wanted, StatusResolver())] if found else []


def load_model(
    reference: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    trusted: Sequence[str] = (),
    allow_pickle: bool = False,
) -> Any:
    """Load a registered model for prediction.

    Args:
        reference: `name@alias`, `name/3`, or `name` for the newest version; also `run:` and a run's id, or a run's
            folder.
        root: the workspace; None: LABRUN_ROOT, or the current folder.
        trusted: classes that may be built in addition to those of labrun, scikit-learn and torch.
        allow_pickle: load `.pkl` and `.joblib` files, which can execute arbitrary code.

    Returns:
        An object with `predict(x)`, which returns (N,) labels or, for regression, numbers; `predict_proba(x)`, which
        returns (N, classes) probabilities; and `class_names`. `x` holds N samples (an array, a tensor, lists, a
        DataFrame) as they are stored: they are scaled as in training.

    Raises:
        LabrunError: there is no such model, its files were changed, or it may not be built.
    """
    from labrun.tasks.saved import load_model as load

    return load(reference, root=root, trusted=trusted, allow_pickle=allow_pickle)
