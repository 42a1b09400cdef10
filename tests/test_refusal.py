"""Why a command was refused reaches the process that started it, and no command that a run starts in turn."""

from __future__ import annotations

from pathlib import Path

from conftest import Command
from labrun import refusal

STARTING = """\
from sklearn.linear_model import LogisticRegression
import os
print('ASKED', 'LABRUN_REFUSAL' in os.environ)
"""


def test_a_refusal_is_saved_only_for_the_calling_command(labrun_here: Command, workspace: Path) -> None:
    file = workspace / "why"
    refused = labrun_here("seed=x", "tracking=none", LABRUN_REFUSAL=str(file))
    assert refused.returncode == 2 and (why := refusal.taken(file)) is not None and "seed" in why.message
    (workspace / "starting.py").write_text(STARTING)
    target = ("model._target_=starting.LogisticRegression", "~model.regularization", "~model.solver", "~model.backend")
    done = labrun_here(*target, "tracking=none", "report=none", LABRUN_REFUSAL=str(file))
    assert done.returncode == 0 and "ASKED False" in done.stdout, done.stdout + done.stderr
    assert not file.exists()
