"""Storage of a script's logged values: numbers as metrics, tables and text as JSON Lines, images as files."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from labrun._io import append_line
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import script_context, values
from labrun.runs import context, sdk_ids
from labrun.runs.context import RunContext

FOLDER = os.path.join("logs", "azureml")
ARTIFACT = "aml://artifactId/ExperimentRun/dcid.{}/"
"""The SDK's prefix for the name of a run's file, with the run's id."""


class Metrics:
    """The metrics of one run, as written by one process."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._rows: dict[str, int] = {}

    def scalar(self, name: Any, value: Any, step: Any = None) -> None:
        """Log one number as a metric; append any other value unchanged to a JSON Lines file."""
        number = values.as_number(value)
        if number is not None:
            self._run.log(values.metric_name(name), number, None if step is None else int(step))
            return
        path = self._append(name, {"value": value} if step is None else {"value": value, "step": step})
        text = " ".join(str(value).split())
        sys.stdout.write(f"{name}: {text[:100]} (not a number: stored in {path})\n")

    def series(self, name: Any, items: Any) -> None:
        """Store a list unchanged; its numbers become the metric's steps, starting at 0."""
        listed = values.as_list(items)
        self._append(name, {"list": listed})
        for step, value in enumerate(listed):
            number = values.as_number(value)
            if number is not None:
                self._run.log(values.metric_name(name), number, step)

    def row(self, name: Any, row: dict[str, Any]) -> None:
        """Append a row to a table; its numbers become metrics `name/column` at the row's number."""
        self._append(name, {"row": row})
        self._numbers_of(name, row)

    def table(self, name: Any, table: dict[str, Any]) -> None:
        """Append all rows of a table given as columns."""
        columns = {str(column): values.as_list(cells) for column, cells in dict(table).items()}
        self._append(name, {"table": columns})
        for number in range(max(map(len, columns.values()), default=0)):
            self._numbers_of(name, {c: cells[number] for c, cells in columns.items() if number < len(cells)})

    def _numbers_of(self, name: Any, row: dict[str, Any]) -> None:
        step = self._rows.get(str(name), 0)
        self._rows[str(name)] = step + 1
        for column, value in row.items():
            number = values.as_number(value)
            if number is not None:
                self._run.log(values.metric_name(f"{name}/{column}"), number, step)

    def image(self, name: Any, path: Any = None, plot: Any = None) -> None:
        """Save an image in `outputs/`: a file, or an object with matplotlib's `savefig`.

        Raises:
            UserErrorException: neither or both were given.
            FileNotFoundError: there is no such file.
        """
        if (path is None) == (plot is None):
            raise UserErrorException(f"log_image({name!r}): give either a path or a plot")
        suffix = ".png" if path is None else Path(path).suffix or ".png"
        target = self._free(values.file_name(name), suffix)
        if path is not None:
            shutil.copyfile(str(path), str(target))
        else:
            plot.savefig(str(target))
        self._note(name, target)

    def _free(self, stem: str, suffix: str) -> Path:
        """Return an unused file name, because several images may have the same name."""
        folder = self._outputs()
        stem = stem[: -len(suffix)] if stem.lower().endswith(suffix.lower()) else stem
        number, target = 0, folder / (stem + suffix)
        while target.exists():
            number += 1
            target = folder / f"{stem}_{number}{suffix}"
        return target

    def confusion(self, name: Any, value: Any) -> None:
        """Save a confusion matrix in the form of labrun's own runs; save content of another form unchanged."""
        content = _loaded(name, value)
        data = content.get("data") if isinstance(content, dict) else None
        if isinstance(data, dict) and "class_labels" in data and "matrix" in data:
            labels, matrix = values.as_list(data["class_labels"]), values.as_json(data["matrix"])
            content = {"class_names": [str(label) for label in labels], "counts": matrix}
        self._write(name, content)

    def document(self, name: Any, value: Any) -> None:
        """Save an accuracy table, predictions or residuals as unchanged JSON."""
        self._write(name, _loaded(name, value))

    def _write(self, name: Any, content: Any) -> None:
        target = self._outputs() / f"{values.file_name(name)}.json"
        target.write_text(f"{values.json_text(content)}\n", encoding="utf-8")
        self._note(name, target)

    def _note(self, name: Any, file: Path) -> None:
        """Note a file among the metrics, so that `read` returns its address."""
        self._append(name, {"artifact": file.relative_to(self._run.run_dir).as_posix()})

    def _outputs(self) -> Path:
        folder = self._run.run_dir / "outputs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _append(self, name: Any, content: dict[str, Any]) -> str:
        """Append a line to the name's file in a single write, and return the file's path relative to the run."""
        relative = os.path.join(FOLDER, f"{values.file_name(name)}.jsonl")
        path = self._run.run_dir / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        line = {"time": time.time(), "name": str(name), "attempt": self._run.attempt, **content}
        append_line(path, values.json_text(line))
        return relative


def read(run_dir: Path, attempt: int) -> dict[str, Any]:
    """Return a run's logged values like the SDK's `get_metrics`: a value, a list of values, or a table's columns.

    Images and documents are returned as addresses in the SDK's form, which end with the name of the run's file.

    Args:
        run_dir: the run's folder.
        attempt: the attempt whose tables and texts are returned.
    """
    numbers: dict[str, list[Any]] = {}
    for line in context.read_metrics(run_dir):
        number = int(line["value"]) if line.get("is_whole") else line["value"]
        numbers.setdefault(line["name"], []).append(number)
    found: dict[str, Any] = {name: one_or_all(several) for name, several in numbers.items()}
    record = script_context.record(run_dir)
    run_id = sdk_ids.of_run(str(record.get("id")), record.get("sweep"), record.get("config") or {})
    for name, lines in _kept(run_dir, attempt).items():
        found[name] = _as_logged(lines, ARTIFACT.format(run_id))
        for column in found[name] if isinstance(found[name], dict) else ():
            found.pop(values.metric_name(f"{name}/{column}"), None)
    return found


def _kept(run_dir: Path, attempt: int) -> dict[str, list[dict[str, Any]]]:
    kept: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((run_dir / FOLDER).glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the partial last line of a killed process
            if line.get("attempt", 1) == attempt:
                kept.setdefault(line["name"], []).append(line)
    return kept


def _as_logged(lines: list[dict[str, Any]], address: str) -> Any:
    columns: dict[str, list[Any]] = {}
    single, listed = [], []
    for line in lines:
        if "value" in line:
            single.append(line["value"])
        if "artifact" in line:
            single.append(address + line["artifact"])
        listed += line.get("list", [])
        for column, value in line.get("row", {}).items():
            columns.setdefault(column, []).append(value)
        for column, several in line.get("table", {}).items():
            columns.setdefault(column, []).extend(several)
    if columns:
        return {column: one_or_all(several) for column, several in columns.items()}
    return one_or_all([*single, *listed])


def one_or_all(items: list[Any]) -> Any:
    """Return a list's only item, or the list: the SDK does so for values logged once or several times."""
    return items[0] if len(items) == 1 else items


def _loaded(name: Any, value: Any) -> Any:
    """Return JSON content that was given as an object, as text or as a file.

    Raises:
        UserErrorException: the text or file is not JSON.
    """
    if not isinstance(value, (str, bytes, os.PathLike)):
        return value
    text = value
    try:
        if isinstance(value, os.PathLike) or os.path.isfile(value):
            text = Path(os.fsdecode(value)).read_text(encoding="utf-8")
        return json.loads(text)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise UserErrorException(f"{name}: neither JSON nor a JSON file: {str(value)[:100]!r} ({error})") from error
