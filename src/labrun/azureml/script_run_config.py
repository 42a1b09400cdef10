"""`ScriptRunConfig`: a script, its arguments, its compute target and its environment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.azureml import compute, distributed
from labrun.azureml.distributed import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from labrun.azureml.environment import Environment
from labrun.azureml.local_paths import local
from labrun.azureml.notices import notify_once
from labrun.azureml.overrides import Reference, override
from labrun.azureml.run_configuration import RunConfiguration
from labrun.azureml.script_inputs import ScriptInputs
from labrun.azureml.submitting import Config
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.config import exact

if TYPE_CHECKING:
    from labrun.azureml.experiment import Experiment


PYTHONS = ("python", "python3")
SHELL = ("&", "|", ";", "<", ">", "$", "`", "'", '"', "\\", "*", " ")
"""Characters in a command that a shell interprets."""


def _check(argument: str, value: Any, kind: Any, wanted: str) -> None:
    """Reject a value of the wrong type that would be misread, such as a string taken for a list of characters.

    Raises:
        UserErrorException: the value is neither None nor of this type.
    """
    if value is not None and not isinstance(value, kind):
        raise UserErrorException(f"ScriptRunConfig: {argument}={value!r}: give {wanted}")


def _of_notebook(script: str, arguments: Sequence[Any]) -> str:
    """Return the command that executes a notebook and saves it, with its outputs, among the run's files.

    Raises:
        UserErrorException: the notebook was given arguments.
    """
    if arguments:
        raise UserErrorException(
            f"ScriptRunConfig: {script} is a notebook, and a notebook takes no arguments. Set the values in its cells, "
            f"or convert it to a script: jupyter nbconvert --to script {script}"
        )
    return f"lab azureml run --output {shlex.quote(f'outputs/{Path(script).name}')} {shlex.quote(script)}"


class ScriptRunConfig(Config):
    """The configuration of a script run, for `Experiment.submit`.

    Args:
        source_directory: the folder that is copied into the run; None: the current one.
        script: the script's path, relative to that folder.
        arguments: the command-line arguments; a data set or data reference becomes a path.
        run_config: the compute target and the environment.
        compute_target: overrides the target in `run_config`.
        environment: overrides the environment in `run_config`.
        distributed_job_config: the number of processes, all on one machine; see `distributed`.
        resume_from: a `DataPath`, passed to the script as `--resume-from PATH`.
        max_run_duration_seconds: time limit in seconds.
        command: a shell command, in place of script and arguments; a list is joined with spaces.
        docker_runtime_config: not used: labrun has no containers.

    Raises:
        UserErrorException: neither or both of script and command are given, or an argument has the wrong type.
    """

    def __init__(
        self,
        source_directory: Any = None,
        script: str | None = None,
        arguments: Sequence[Any] | None = None,
        run_config: RunConfiguration | None = None,
        _telemetry_values: Any = None,
        compute_target: Any = None,
        environment: Any = None,
        distributed_job_config: Any = None,
        resume_from: Any = None,
        max_run_duration_seconds: float | None = None,
        command: Any = None,
        docker_runtime_config: Any = None,
    ) -> None:
        self.source_directory = os.fspath(local(source_directory or "."))
        self.script = None if script is None else str(local(script, self.source_directory))
        _check("arguments", arguments, (list, tuple), "a list: ['--rate', 0.1]")
        _check("run_config", run_config, RunConfiguration, "RunConfiguration()")
        _check("environment", environment, Environment, "an Environment, such as Environment.get(ws, 'NAME')")
        _check("compute_target", compute_target, (str, compute.ComputeTarget), "a name, or ComputeTarget(ws, 'NAME')")
        self.arguments, self.command = list(arguments or []), command
        self.run_config = run_config if run_config is not None else RunConfiguration()
        if compute_target is not None:
            self.run_config.target = compute_target
        if environment is not None:
            self.run_config.environment = environment
        kinds = (MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration)
        _check("distributed_job_config", distributed_job_config, kinds, "MpiConfiguration(2) or similar")
        self.distributed_job_config, self.resume_from = distributed_job_config, resume_from
        self.max_run_duration_seconds = max_run_duration_seconds
        if getattr(docker_runtime_config, "use_docker", False):
            notify_once("DockerConfiguration(use_docker=True) is not used: labrun runs Python without containers")
        if script is None and command is None:
            self.script, self.command = self.run_config.script, self.run_config.command
        self.arguments = self.arguments or list(self.run_config.arguments)
        if (self.script is None) == (self.command is None):
            raise UserErrorException("ScriptRunConfig: give either script= and arguments=, or command=")
        if resume_from is not None:
            if not hasattr(resume_from, "create_data_reference"):
                raise UserErrorException(
                    f"resume_from={resume_from!r}: give a DataPath, such as DataPath(datastore, 'checkpoints')"
                )
            self.arguments += ["--resume-from", resume_from.create_data_reference()]

    def overrides(self, experiment: Experiment) -> list[str]:
        """Return the arguments for the `labrun` command."""
        if self.run_config.output_data:
            raise UserErrorException(
                f"RunConfiguration.output_data: {', '.join(map(str, self.run_config.output_data))}: give the output as "
                "an argument of the script: arguments=[..., OutputFileDatasetConfig(...)]"
            )
        inputs = ScriptInputs({**self.run_config.data_references, **self.run_config.data})
        run = self._run_overrides(inputs)
        limit = self.max_run_duration_seconds or self.run_config.max_run_duration_seconds
        target = compute.overrides(self.run_config.target, experiment.workspace)
        environment = self._environment_overrides(experiment)
        if str(self.script).endswith(".ipynb") and any(text.startswith("script.") for text in environment):
            raise UserErrorException(
                f"ScriptRunConfig: {self.script} is a notebook, which runs with labrun's own interpreter: leave the "
                f"environment out, or convert it to a script: jupyter nbconvert --to script {self.script}"
            )
        return [
            "experiment=script",
            "script.azureml=true",
            override("script.source", self.source_directory),
            *run,
            *inputs.overrides(),
            *target,
            *distributed.overrides(self.distributed_job_config, self.run_config, target),
            *([override("compute.timeout_min", limit / 60)] if limit else []),
            *environment,
        ]

    def _run_overrides(self, inputs: ScriptInputs) -> list[str]:
        """Return the arguments that describe the script and its arguments, or the command."""
        if self.command is None:
            return self._script_overrides(self.script, self.arguments, inputs)
        several = isinstance(self.command, (list, tuple))
        words = list(self.command) if several else str(self.command).split()
        is_script = len(words) > 1 and str(words[0]) in PYTHONS and str(words[1]).endswith(".py")
        plain = [str(value) for value in words if not hasattr(value, "labrun_mount")]
        raw = plain if several else [str(self.command)]  # splitting a string would lose its line breaks
        needs_shell = any(mark in text for text in plain for mark in SHELL) or any(
            mark in text for text in raw for mark in "\n#~()?[]{}!"
        )
        if is_script and not needs_shell:
            return self._script_overrides(words[1], words[2:], inputs)
        texts = [inputs.argument(value) for value in words] if several else [str(self.command)]
        quoted = [f"'{text}'" if isinstance(text, Reference) else exact.escaped(text) for text in texts]
        return [override("script.command", Reference(" ".join(quoted)))]

    def _script_overrides(self, script: Any, arguments: Sequence[Any], inputs: ScriptInputs) -> list[str]:
        """Return the arguments that describe a script, or the command that executes a notebook.

        Raises:
            UserErrorException: there is no such file.
        """
        if not Path(self.source_directory, str(script)).is_file():
            raise UserErrorException(
                f"ScriptRunConfig: there is no script {script} in the source directory {self.source_directory} "
                f"(the working folder is {Path.cwd()})"
            )
        if str(script).endswith(".ipynb"):
            return [override("script.command", Reference(exact.escaped(_of_notebook(str(script), arguments))))]
        return [
            override("script.path", os.path.join(self.source_directory, str(script))),
            override("script.positional", [inputs.argument(value) for value in arguments]),
        ]

    def _environment_overrides(self, experiment: Experiment) -> list[str]:
        environment = self.run_config._environment
        return [] if environment is None else list(environment.labrun_overrides(experiment.workspace))
