"""Hydra applications that do not use labrun, on a real Slurm cluster."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from helpers import program, wait_for
from slurm_jobs import no_jobs_left

__all__ = ["no_jobs_left"]

LABRUN = ("-m", "hydra/launcher=labrun", "hydra.launcher.target=slurm")


PLAIN_APPLICATION = """
import os
import hydra


@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(config):
    print("x is", config.x, "in job", os.environ["SLURM_JOB_ID"])
    if config.x == 3:
        raise ValueError("three")
    if config.x > 3:
        os.kill(os.getpid(), 9)


if __name__ == "__main__":
    main()
"""


def test_a_plain_hydra_application_runs_as_jobs(workspace: Path) -> None:
    """Over 15 s: several jobs, each a new interpreter."""
    (workspace / "app.py").write_text(PLAIN_APPLICATION)
    command = program("python", "app.py", *LABRUN, "+x=1,2,3,4")
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert said.count("completed") == 2 and said.count("failed  (log") == 2 and done.returncode == 1, said
    printed = "".join(path.read_text() for path in workspace.glob("multirun/**/.submitit/**/*.out"))
    assert "x is 1 in job" in printed and "x is 2 in job" in printed


def test_an_application_runs_on_several_nodes_after_its_setup(workspace: Path) -> None:
    (workspace / "app.py").write_text(PLAIN_APPLICATION.replace('"x is"', 'os.environ["SLURM_NNODES"], "nodes, x is"'))
    command = program(
        "python",
        "app.py",
        *LABRUN,
        "+x=1",
        "hydra.launcher.nodes=2",
        "hydra.launcher.setup=[touch was-here]",
        "hydra.launcher.timeout_min=5",
        "hydra.launcher.cpus_per_run=2",
    )
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = "".join(path.read_text() for path in workspace.glob("multirun/**/.submitit/**/*.out"))
    assert printed.count("2 nodes, x is 1") == 2 and (workspace / "was-here").exists(), "on each of the nodes"


def test_an_application_over_its_time_fails_without_a_retry(workspace: Path) -> None:
    """Over 15 s: Slurm checks time limits twice a minute."""
    late = PLAIN_APPLICATION.replace(
        "    if config.x == 3", "    import time; time.sleep(400 * (config.x == 2))\n    if config.x == 3"
    )
    (workspace / "app.py").write_text(late)
    command = program(
        "python",
        "app.py",
        *LABRUN,
        "+x=1,2",
        "hydra.launcher.timeout_min=0.2",
    )
    began = time.monotonic()
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "TimeoutError: ended by timeout_min=0.2" in said and "+x=1  completed" in said, said
    printed = "".join(path.read_text() for path in workspace.glob("multirun/**/.submitit/**/*.out"))
    assert printed.count("x is 2") == 1
    assert (time.monotonic() - began) < 90, "not when Slurm would have ended it, after three minutes"


def test_a_pickle_that_others_can_write_is_not_loaded(workspace: Path) -> None:
    """It replaces the submitted one, and belongs to this user, but others can write it.

    Over 15 s: Slurm reports a failed job only after a while.
    """
    (workspace / "app.py").write_text(
        "import hydra, time\n\n\n@hydra.main(version_base='1.3', config_path=None, config_name=None)\n"
        "def main(config):\n    print('ran')\n\n\nif __name__ == '__main__':\n    main()\n"
    )
    command = program(
        "python",
        "app.py",
        *LABRUN,
        "+x=1",
        "+hydra.launcher.extra.begin=now+4",
    )
    run = subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: bool(list(workspace.glob("multirun/**/.submitit/*_submitted.pkl"))), 60)
    (pickled,) = workspace.glob("multirun/**/.submitit/*_submitted.pkl")
    pickled.chmod(0o666)
    pickled.parent.chmod(0o777)
    said, _ = run.communicate(timeout=180)
    assert run.returncode == 1 and "is not loaded: it is not yours" in said, said
