"""Hydra's documented job features in a run, a sweep and a search (listed in docs/hydra.md)."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from conftest import Command, Refused

pytestmark = pytest.mark.long

CALLBACK = """
from hydra.experimental.callback import Callback
class Note(Callback):
    def put(self, *words): open({noted!r}, "a").write(" ".join(map(str, words)) + "\\n")
    def on_run_start(self, config, **_): self.put("run_start")
    def on_run_end(self, config, job_return, **_): self.put("run_end", job_return.status.name)
    def on_multirun_start(self, config, **_): self.put("multirun_start")
    def on_multirun_end(self, config, **_): self.put("multirun_end")
    def on_job_start(self, config, *, task_function, **_): self.put("start", config.seed, config.hydra.job.get("num"))
    def on_job_end(self, config, job_return, **_): self.put("end", config.seed, job_return.status.name)
"""
MODEL = """
import logging, os
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd
from sklearn.linear_model import LogisticRegression
class Telling(LogisticRegression):
    def __init__(self, max_iter=20, fails=False):
        super().__init__(max_iter=max_iter)
        self.fails = fails
    def fit(self, x, y):
        job = HydraConfig.get()
        print("SEEN", job.job.get("num"), job.mode.name, job.runtime.output_dir, os.getcwd(), get_original_cwd(),
              os.environ.get("MINE"), list(job.overrides.task)[-1:], job.sweep.dir)
        logging.getLogger(__name__).debug("told in detail")
        if self.fails:
            raise ValueError("on purpose")
        return super().fit(x[:100], y[:100])
"""


PLUG_IN = """
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
@dataclass
class Typed:
    _target_: str = "sklearn.linear_model.LogisticRegression"
    max_iter: int = 20
ConfigStore.instance().store(group="model", name="typed", node=Typed)
class Mine(SearchPathPlugin):
    def manipulate_search_path(self, search_path):
        search_path.append("mine", "file://{folder}")
"""


@pytest.fixture
def project(workspace: Path) -> Path:
    """A project with its own model and callback."""
    (workspace / "noting.py").write_text(CALLBACK.format(noted=str(workspace / "noted")))
    (workspace / "telling.py").write_text(MODEL)
    for name, text in {
        "model/telling.yaml": "_target_: telling.Telling\nmax_iter: 20\nfails: false\n",
        "model/other.yaml": "_target_: telling.Telling\nmax_iter: 30\n",
        "hydra/callbacks/note.yaml": "note: {_target_: noting.Note}\n",
        "experiment/asks.yaml": "# @package _global_\nsweep: {max_trials: 3}\n",
        "experiment/searches.yaml": "# @package _global_\ndefaults: [{override /sweep: random}]\n",
        "experiment/moves.yaml": "# @package _global_\nhydra: {sweep: {dir: other}}\n",
        "experiment/untracked.yaml": "# @package _global_\ntracking: {kind: none}\n",
        "experiment/plain.yaml": "# @package _global_\nseed: 4\n",
        "experiment/shared.yaml": "# @package _global_\nvars: {n: 7}\npaths: {m: 8}\n"
        "model: {max_iter: '${vars.n}'}\nnotes: 'of ${paths.m}'\n",
        "experiment/typo.yaml": "# @package _global_\ntrainr: {max_epochs: 3}\n",
    }.items():
        file = workspace / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return workspace


def seen(run_dir: Path) -> list[str]:
    """What the model saw of its job."""
    line = next(line for line in (run_dir / "driver.log").read_text().splitlines() if line.startswith("SEEN"))
    return line.split()[1:]


def runs_of(project: Path) -> list[Path]:
    """Every run's folder, in order."""
    return sorted(path.parent for top in ("outputs", "multirun") for path in project.glob(f"{top}/**/run.json"))


def noted(project: Path) -> list[str]:
    """The calls of the callback since the last check."""
    lines = (project / "noted").read_text().splitlines()
    (project / "noted").unlink()
    return lines


QUIET = ("tracking=none", "report=none")
JOB = ("hydra/callbacks=note", "hydra.job.chdir=true", "hydra/job_logging=default", "hydra.verbose=[telling]")


def test_a_sweeps_job_behaves_as_hydras_manual_says(project: Path, labrun: Command) -> None:
    """Callbacks, variables, logging, folder and `HydraConfig`; a failed run is reported as failed.

    It starts the pool, whose processes are tested: up to 20 s if other tests use the cores.
    """
    variable = "+hydra.job.env_set.MINE=sesame${hydra:job.num}"
    done = labrun("-m", "model=telling", "model.fails=true,false", "seed=1", variable, *JOB, *QUIET)
    assert done.returncode == 1
    runs = runs_of(project)
    assert len(runs) == 2
    for number, run_dir in enumerate(runs):
        expected = [str(number), "MULTIRUN", str(run_dir), str(run_dir), str(project), f"sesame{number}"]
        assert seen(run_dir) == [*expected, "['report=none']", str(run_dir.parent)]
        log = (run_dir / "app.log").read_text()
        assert "[telling][DEBUG] - told in detail" in log
        record = json.loads((run_dir / "run.json").read_text())
        assert record["config"]["compute"]["environment"] == {"MINE": "***"}
        assert record["hydra"]["chdir"] is True
        assert "sesame" not in (run_dir / ".hydra" / "hydra.yaml").read_text()
        assert shlex.join(JOB) in record["command"]
    told = noted(project)
    assert told[0] == "multirun_start"
    assert sorted(told[1:]) == ["end 1 COMPLETED", "end 1 FAILED", "start 1 0", "start 1 1"]
    assert not (runs[0] / "outputs" / ".labrun").exists()


def test_a_failed_single_run_is_reported_to_callbacks(project: Path, labrun: Command) -> None:
    """Inline and in the pool, each in a new process: up to 20 s if other tests use the cores."""
    for place in ("inline", "local"):
        done = labrun("model=telling", "model.fails=true", f"compute={place}", *JOB, *QUIET)
        assert done.returncode == 1
        assert noted(project) == ["run_start", "start 42 None", "end 42 FAILED", "run_end FAILED"]
    for run_dir in runs_of(project):
        assert seen(run_dir)[3] == str(run_dir)
        assert not (run_dir / "outputs" / ".labrun").exists()


def test_an_inline_sweep_and_a_search_call_the_same_callbacks(project: Path, labrun_here: Command) -> None:
    arguments = ("-m", "model=telling", "seed=1,2", "compute=inline", *JOB, *QUIET)
    assert labrun_here(*arguments).returncode == 0
    both = ["start 1 0", "end 1 COMPLETED", "start 2 1", "end 2 COMPLETED"]
    assert noted(project) == ["multirun_start", *both, "multirun_end"]
    done = labrun_here(*arguments, "sweep=random", "sweep.max_trials=1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in noted(project)] == ["multirun_start", "start", "end", "multirun_end"]
    assert len(list(project.glob("multirun/*/*/*/app.log"))) == 3


def test_suggested_commands_of_a_search_name_its_config_folders(project: Path, labrun_here: Command) -> None:
    for folder in ("team", "more"):
        (project / folder / "model").mkdir(parents=True)
        (project / folder / "model" / f"{folder}.yaml").write_text("# Of a folder.\ndefaults: [telling, _self_]\n")
    (project / "team" / "first.yaml").write_text("defaults: [config, {override model: team}, _self_]\nseed: 3\n")
    where = ("--config-dir", "team", "--config-name", "first")
    search = (
        "hydra.searchpath=[file://more]",
        "model=team,more",
        "sweep=random",
        "sweep.max_trials=1",
        "compute=inline",
    )
    done = labrun_here(*where, "-m", *search, *QUIET)
    assert done.returncode == 0, done.stderr
    command = done.stdout.split("\nbest: run 0")[1].splitlines()[1]
    file = done.stdout.split("the same from a file: ")[1].splitlines()[0]
    for line in (command, file):
        words = shlex.split(line)
        assert words[0] == "labrun"
        again = labrun_here(*words[1:])
        assert again.returncode == 0, (line, again.stderr[-3000:])
    shown = labrun_here("--config-dir", "team", "--help").stdout
    assert "team                  Of a folder." in shown


def test_keys_are_checked_for_each_option_of_a_swept_group(
    project: Path, labrun_here: Command, refused_here: Refused
) -> None:
    done = labrun_here("-m", "model=telling,other", "model.max_iter=5", "compute=inline", *QUIET)
    assert done.returncode == 0, done.stderr
    configs = [json.loads(path.read_text())["config"] for path in project.glob("multirun/*/*/*/run.json")]
    assert [config["model"]["max_iter"] for config in configs] == [5, 5]
    said = refused_here("-m", "model=telling,other", "model.fails=true")
    assert said.startswith("labrun: run 1 (model=other, ")
    assert "model.fails: no such key" in said
    assert "trainer.max_epoch: no such key. Did you mean 'trainer.max_epochs'?" in refused_here(
        "-m", "model=telling,other", "trainer.max_epoch=1"
    )


def test_a_users_own_node_can_hold_shared_values(project: Path, labrun_here: Command, refused_here: Refused) -> None:
    """`vars`, or any node that a value refers to; a node without references may be a mistyped key."""
    done = labrun_here("experiment=shared", "model=telling", "vars.n=9", *QUIET)
    assert done.returncode == 0, done.stderr
    (record,) = (json.loads(path.read_text()) for path in project.glob("outputs/*/*/run.json"))
    assert record["config"]["model"]["max_iter"] == 9
    assert record["config"]["notes"] == "of 8"
    assert not {"vars", "paths"} & set(record["config"])
    said = refused_here("experiment=typo")
    assert "trainr: no such key. Did you mean 'trainer'?" in said
    assert "below vars" in said


ONCE = "applies to the whole sweep"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["-m", "experiment=asks,plain"], f"sweep.max_trials=null for the sweep: it {ONCE}", id="key"),
        pytest.param(["-m", "experiment=searches,plain"], f"sweep=grid for the sweep: it {ONCE}", id="choice"),
        pytest.param(["-m", "experiment=moves,plain"], f"hydra.sweep.dir {ONCE}", id="folder"),
        pytest.param(["-m", "experiment=untracked,plain"], "tracking.kind applies to the whole sweep", id="tracking"),
        pytest.param(["-m", "sweep.max_trials=1,2"], f"it {ONCE}", id="typed"),
        pytest.param(
            ["-m", "seed=1,2", "sweep=random", "hydra.sweep.subdir=x"], "a search numbers the folders", id="subdir"
        ),
        pytest.param(
            ["-m", "seed=1,2", "hydra.launcher.max_parallel=1"], "configured with compute.max_parallel", id="launcher"
        ),
        pytest.param(
            ["-m", "seed=1,2", "sweep=random", "hydra.launcher.max_parallel=1"],
            "configured with compute",
            id="of a search",
        ),
        pytest.param(["-m", "seed=1,2", "sweep=random", "hydra/launcher=basic"], "(BasicLauncher)", id="basic"),
        pytest.param(["-m", "seed=1,2", "compute=slurm", "compute.partition=no"], "compute", id="partition"),
        pytest.param(["+compute.environment.A=***"], "A=***: that is the placeholder for a variable", id="hidden"),
        pytest.param(["-m", "seed=1,2", "+hydra.job.env_set.A=***"], "${oc.env:A}", id="hidden in Hydra's"),
        pytest.param(
            ["-m", "seed=1", "hydra.job_logging.handlers.console.class=logging.Nothing"],
            "hydra.job_logging.handlers.console: Cannot resolve 'logging.Nothing'",
            id="handler",
        ),
        pytest.param(
            ["hydra/job_logging=default", "hydra.job_logging.handlers.file.filename=/nowhere/x.log"],
            "hydra.job_logging.handlers.file: there is no folder /nowhere",
            id="log folder",
        ),
        pytest.param(["hydra.job.env_copy=[NOT_THERE]"], "NOT_THERE, which is not set", id="copied"),
        pytest.param(["--experimental-rerun", "x.pickle"], "'lab runs rerun RUN' repeats a run", id="rerun"),
        pytest.param([f"name={'x' * 256}"], "a name of 256 bytes, but file systems allow 255", id="long name"),
        pytest.param(
            ["-m", f"notes={'x' * 256}", "seed=1,2", "hydra.sweep.subdir=${hydra.job.override_dirname}"],
            "hydra.job.config.override_dirname.exclude_keys",
            id="long overrides",
        ),
        pytest.param(["notes=caf\udce9"], "notes=caf\\udce9: this is not UTF-8", id="not UTF-8"),
    ],
)
def test_unsupported_settings_are_refused_in_one_message(
    project: Path, refused_here: Refused, arguments: list[str], said: str
) -> None:
    assert said in refused_here(*arguments)
    assert not Path("multirun").exists() and {path.name for path in Path().glob("outputs/*")} <= {".labrun"}


def test_suggested_commands_of_a_search_refer_to_variables(
    project: Path, labrun_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record has only the variables' names, and `***` would be another value."""
    given = ("+hydra.job.env_set.MINE=one", "+compute.environment.OTHER=two")
    search = ("sweep=random", "sweep.max_trials=1", "sweep.metric=accuracy", "compute=inline")
    done = labrun_here("-m", "model=telling", "model.max_iter=range(20,22)", *search, *given, "tracking=none")
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("  labrun ")]
    assert "'+hydra.job.env_set.MINE=${oc.env:MINE}'" in told and "***" not in told, done.stdout
    (best,) = Path().glob("multirun/*/*/best.yaml")
    again = ("--config-dir", str(best.parent), "--config-name", "best", "tracking=none", "report=none")
    assert "variable OTHER is not set" in labrun_here(*again).stderr
    assert "MINE=one" not in best.read_text()
    monkeypatch.setenv("OTHER", "two")
    assert " one " in labrun_here(*again, MINE="one").stdout


def test_a_users_hydra_plugins_are_used(workspace: Path, labrun: Command) -> None:
    """`hydra_plugins/` in the working folder: search paths of configs, and structured configs."""
    (workspace / "hydra_plugins").mkdir()
    (workspace / "hydra_plugins" / "mine.py").write_text(PLUG_IN.format(folder=workspace / "more"))
    (workspace / "more" / "experiment").mkdir(parents=True)
    (workspace / "more" / "experiment" / "plug.yaml").write_text("# @package _global_\nseed: 7\n")
    few = ("experiment=plug", "model=typed", "report=none", "tracking=none", "dataset.max_samples=50")
    done = labrun(*few, "model.max_iter=30")
    (record,) = workspace.glob("outputs/*/*/run.json")
    config = json.loads(record.read_text())["config"]
    assert (config["seed"], config["model"]["max_iter"]) == (7, 30), done.stderr
    refused = labrun(*few, "model.max_iter=abc")
    assert refused.returncode == 2 and "model.max_iter=abc: Value 'abc' of type 'str' could not be" in refused.stderr


def test_a_working_folder_that_is_not_utf8_is_refused(
    tmp_path: Path, refused_here: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    monkeypatch.chdir(folder)
    assert "the working folder" in refused_here("report=none")


def test_hydras_files_are_in_the_given_folder_without_secrets(project: Path, labrun_here: Command) -> None:
    for subfolder in ("null", "meta"):
        done = labrun_here(
            "model=telling", f"hydra.output_subdir={subfolder}", "+compute.environment.TOKEN=sesame", "name=a", *QUIET
        )
        assert done.returncode == 0, done.stderr
    first, second = sorted(project.glob("outputs/a/*"), key=lambda path: path.stat().st_mtime_ns)
    assert not (first / ".hydra").exists()
    assert (second / "meta" / "config.yaml").is_file()
    for path in project.glob("outputs/a/*/**/*.yaml"):
        assert "sesame" not in path.read_text()
