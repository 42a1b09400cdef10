"""Run the test suites of Hydra and submitit against labrun's plug-ins and executor; see `docs/compatibility.md`.

    git clone https://github.com/facebookincubator/submitit /tmp/submitit
    git clone -b 1.3_branch https://github.com/facebookresearch/hydra /tmp/hydra
    uv run --with pytest-asyncio python scripts/peer_suites.py /tmp/submitit /tmp/hydra

The tests are copied to a temporary folder, and their names replaced with labrun's; nothing else is changed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LAUNCHER = "from hydra_plugins.labrun_launcher.launcher import LabrunLauncher"
OURS = "from labrun.backends.local.executor import LabrunExecutor, LabrunJob\n"
SUBMITIT = ("local/test_local.py", "test_helpers.py", "core/test_async.py", "test_pickle.py", "auto/test_auto.py")
SUITES = """
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from pytest import mark

@mark.parametrize("launcher_name, overrides", [("labrun", []), ("labrun", ["hydra/sweeper=labrun"])])
class TestLauncher(LauncherTestSuite): pass

@mark.parametrize(
    "launcher_name, overrides", [("labrun", ["hydra/sweeper=labrun", "hydra.sweeper.max_batch_size=2"])]
)
class TestBatched(BatchedSweeperTestSuite): pass

@mark.parametrize("task_launcher_cfg, extra_flags", [
    ({}, ["-m", "hydra/launcher=labrun"]),
    ({}, ["-m", "hydra/launcher=labrun", "hydra/job_logging=hydra_debug", "hydra/job_logging=disabled"]),
    ({}, ["-m", "hydra/launcher=labrun", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled"]),
    ({}, ["-m", "hydra/launcher=labrun", "hydra/sweeper=labrun"]),
])
class TestIntegration(IntegrationTestSuite): pass
"""
SWEEPER = ("BasicSweeper", "LabrunSweeper")
SKIPPED = {
    "hydra_joblib_launcher": "backend or example_app_launcher_overrides or inner_max or rejects or config_ or n_jobs",
    "hydra_submitit_launcher": "slurm",
    "hydra_optuna_sweeper": "distribution or create_params or discovery or motpe",
}
"""Tests of each plug-in's own options and internal functions, which are skipped."""


def submitit(clone: Path, work: Path) -> list[str]:
    """Prepare submitit's tests of its local executor for labrun's executor."""
    shutil.copytree(clone / "submitit", work / "submitit")
    for name in (*SUBMITIT, "conftest.py"):
        file = work / "submitit" / name
        text = file.read_text(encoding="utf-8")
        text = re.sub(r"from [\w.]*local import LocalExecutor\n", "", text)
        text = text.replace("local.LocalExecutor", "LabrunExecutor").replace("local.LocalJob", "LabrunJob")
        text = text.replace("LocalExecutor", "LabrunExecutor").replace('cluster="local"', 'cluster="labrun"')
        text = text.replace('cluster == "local"', 'cluster == "labrun"')
        text = re.sub(r"\blocal_(setup|python|max_pickle_size_gb)\b", r"labrun_\1", text)
        first = text.index("\nimport ") + 1
        file.write_text(text[:first] + OURS + text[first:], encoding="utf-8")
    for words in (
        "init -q",
        "add submitit",
        "-c user.name=x -c user.email=x commit -qm x",
    ):  # code snapshots need a repository
        subprocess.run(["git", *words.split()], cwd=work, check=True)
    return [str(Path("submitit") / name) for name in SUBMITIT]


def hydra(clone: Path, work: Path) -> list[str]:
    """Prepare Hydra's contract suites and its tests of its sweeper."""
    (work / "test_suites.py").write_text(SUITES, encoding="utf-8")
    text = (clone / "tests" / "test_basic_sweeper.py").read_text(encoding="utf-8")
    text = text.replace("hydra._internal.core_plugins.basic_sweeper", "hydra_plugins.labrun_sweeper.sweeper")
    text = text.replace(*SWEEPER).replace('"hydra/launcher=basic"', '"hydra/launcher=labrun"')
    (work / "test_basic_sweeper.py").write_text(text, encoding="utf-8")
    return [
        "test_suites.py",
        "test_basic_sweeper.py",
        "-k",
        "not test_partial_failure",
    ]  # a test of Hydra's own launcher


def plugin(clone: Path, work: Path, name: str) -> list[str]:
    """Prepare a plug-in's tests, with its name replaced by labrun's, except those in `SKIPPED`."""
    shutil.copytree(clone / "plugins" / name, work / name, ignore=shutil.ignore_patterns("hydra_plugins"))
    other, ours = {
        "hydra_joblib_launcher": ("joblib", "labrun"),
        "hydra_submitit_launcher": ("submitit_local", "labrun"),
        "hydra_optuna_sweeper": ("optuna", "optuna"),
    }[name]
    patterns = ("tests/*.py", "example/*.yaml", "**/*app.py")
    for file in {file for pattern in patterns for file in work.glob(f"{name}/{pattern}")}:
        text = file.read_text(encoding="utf-8")
        text = text.replace(f"launcher={other}", f"launcher={ours}").replace(f'("{other}"', f'("{ours}"')
        text = text.replace(f"hydra/launcher: {other}", f"hydra/launcher: {ours}")
        text = re.sub(r'"hydra\.launcher\.(n_jobs|timeout_min|gpus_per_node)=\w+",?', "", text)
        text = text.replace('["hydra.launcher.timeout_min=2"]', "[]")
        text = re.sub(r"\bn_jobs: ", "max_parallel: ", text)
        text = re.sub(r"\nfrom hydra_plugins\.hydra_\w+ import .*", "", text)
        text = re.sub(r"\nfrom hydra_plugins\.hydra_\w+\.\w+ import (\w+)", r"\n\1 = None", text)
        text = text.replace("JoblibLauncher = None", f"{LAUNCHER} as JoblibLauncher")
        text = re.sub(r"submitit_launcher\.(Local|Slurm)Launcher", "LabrunLauncher", text)
        if "[LabrunLauncher" in text:
            text = f"{LAUNCHER}\n{text}"
        file.write_text(text, encoding="utf-8")
    return ["tests", "-k", f"not ({SKIPPED[name]})"]


def run(work: Path, arguments: list[str]) -> int:
    """Run prepared tests; the summary lists the failures at the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(work), os.environ.get("PYTHONPATH", "")])}
    options = ["-q", "-rfEXx", "--tb=short", "-p", "no:cacheprovider", "-n0"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    return subprocess.run(command, cwd=work, env=environment, check=False).returncode


def main() -> None:
    """Run all suites of the given clones."""
    clones = [Path(name).resolve() for name in sys.argv[1:]]
    for clone in clones:
        kinds = ["submitit"] if (clone / "submitit").is_dir() else ["hydra", *SKIPPED]
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                work = Path(folder)
                (work / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
                made = {"submitit": submitit, "hydra": hydra}.get(kind)
                arguments = made(clone, work) if made else plugin(clone, work, kind)
                print(f"==== {kind}", flush=True)
                run(work if made else work / kind, arguments)


if __name__ == "__main__":
    main()
