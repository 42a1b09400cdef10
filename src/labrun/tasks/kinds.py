"""labrun's own tasks. Their implementations are imported on demand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from labrun.config import schema, validation
from labrun.config.instantiate import Node
from labrun.runs.groups import DataEntry
from labrun.tasks.base import Run, TaskType

if TYPE_CHECKING:
    from labrun.runs.record import Record, RunPaths


class Fit(TaskType):
    """Train a model, score it on the test split, and save it."""

    name = "fit"
    trains = True
    part = "train"

    def problems(self, config: Node) -> Iterator[str]:
        """Yield why the model and the data set are incompatible, as far as the config shows it."""
        dataset, model = config.get("dataset"), config.get("model")
        if isinstance(dataset, Mapping) and isinstance(model, Mapping):
            yield from validation.check_pair(dataset, model)

    def run(self, run: Run) -> None:
        """See `fitting`."""
        from labrun.tasks import fitting

        fitting.fit(run)

    def assist(self, paths: RunPaths, record: Record, config: schema.Config, inputs: list[DataEntry]) -> None:
        """Take part in the training."""
        from labrun.tasks import fitting

        fitting.assist(config, paths)


class _Scoring(TaskType):
    """Base class of tasks that use another run's model."""

    scores = True
    aim: str
    """The purpose of that model, for messages."""

    def problems(self, config: Node) -> Iterator[str]:
        """Yield a problem if the config has no `from`."""
        if not config.get("from"):
            yield f"task={self.name} needs the run whose model {self.aim}: from=last, or from=<run id>"


class Evaluate(_Scoring):
    """Score a finished run's model."""

    name = "evaluate"
    part = "test"
    aim = "is to be scored"

    def run(self, run: Run) -> None:
        """See `evaluating`."""
        from labrun.tasks import evaluating

        evaluating.evaluate(run)


class Predict(_Scoring):
    """Write the predictions of a finished run's model for a data set."""

    name = "predict"
    needs_targets = False
    aim = "is to predict"

    def run(self, run: Run) -> None:
        """See `predicting`."""
        from labrun.tasks import predicting

        predicting.predict(run)


class Script(TaskType):
    """Run a user's script or command."""

    name = "script"
    reads = False
    uses_hydra = False

    def problems(self, config: Node) -> Iterator[str]:
        """Yield mistakes in the script's node, and groups that cannot be combined with a script."""
        node = config.get("script")
        if not isinstance(node, Mapping):
            yield "task=script needs the script: use experiment=script script.path=train.py"
            return
        if bool(node.get("path")) == bool(node.get("command")):
            given = "both are given" if node.get("path") else "neither is given"
            yield f"script: say what to run, either script.path=train.py or script.command='bash train.sh'; {given}"
        for group in ("dataset", "model"):
            if config.get(group):
                how = " It reads data through script.inputs.NAME='${mount:NAME}'" if group == "dataset" else ""
                yield f"{group}: a script brings its own, so leave it out with task=script.{how}"
        for name, value in (node.get("arguments") or {}).items():
            words = value if isinstance(value, list) else [value]
            if not all(word is None or isinstance(word, str | int | float) for word in words):
                allowed = "an argument is text, a number, true or false, or a list of those"
                yield f"script.arguments.{name}={value}: {allowed}"
        for name in (node.get("tables") or {}).keys() - (node.get("inputs") or {}).keys():
            yield f"script.tables.{name}: there is no input of that name in script.inputs"
        for name, pattern in (node.get("metrics") or {}).items():
            try:
                if isinstance(pattern, str) and not re.compile(pattern).groups:
                    yield f"script.metrics.{name}={pattern!r}: mark the number with a group, ( )"
            except re.error as error:
                yield f"script.metrics.{name}={pattern!r} is not a regular expression: {error}"
        if node.get("python") and node.get("requirements"):
            yield "script.requirements builds its own environment: leave out script.python"

    def run(self, run: Run) -> None:
        """See `script`."""
        from labrun.tasks import summary
        from labrun.tasks.script import registering, script

        run.note_data()
        with script.with_children(run.paths):
            script.run(run.config, run.inputs, run.record, run.paths)
        run.recording.leave_if_forked()
        registering.of_script(run.record, run.paths, run.recording.attempt)
        summary.finish_script(run.record, run.paths, run.pictures)

    def assist(self, paths: RunPaths, record: Record, config: schema.Config, inputs: list[DataEntry]) -> None:
        """Start the script's processes on this machine, too."""
        from labrun.tasks.script import script

        script.assist(config, inputs, record, paths)
