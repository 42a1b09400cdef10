"""A new model takes one Python file and one YAML file in the user's own working folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Command

NETWORK = """
import math
from torch import nn

class TinyNet(nn.Module):
    def __init__(self, input_shape, num_classes, width=32, label="none"):
        super().__init__()
        assert "$" not in label
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, x):
        return self.layers(x)
"""
CONFIG = """
_target_: tiny_net.TinyNet
width: 32
lr: 0.01
"""
MODULE = """
import pytorch_lightning as pl
import torch
from torch import nn

class Mine(pl.LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("my_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)
"""


TEMPLATE = """
import torch
import pytorch_lightning as pl
from torch import nn


class Lit(pl.LightningModule):
    def __init__(self, num_classes, optimizer, scheduler, width=16):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = self.hparams.optimizer(params=self.parameters())
        print("optimizer", type(optimizer).__name__, optimizer.param_groups[0]["lr"])
        if self.hparams.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.hparams.scheduler(optimizer=optimizer)}
"""
LIT_YAML = """
defaults:
  - optimizer: adam
  - scheduler: none
  - _self_
_target_: lit.Lit
width: 16
lr: 0.01
"""


def write(workspace: Path, name: str, code: str, config: str) -> None:
    (workspace / f"{name}.py").write_text(code)
    (workspace / "conf" / "model").mkdir(parents=True, exist_ok=True)
    (workspace / "conf" / "model" / f"{name}.yaml").write_text(config)


def only_record(workspace: Path, name: str) -> dict[str, object]:
    (path,) = (workspace / "outputs" / name).glob("*/run.json")
    return dict(json.loads(path.read_text()))


def test_a_network_in_the_working_folder_is_trained(
    labrun: Command, labrun_here: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NET_LABEL", "of-nobodys-business")
    write(workspace, "tiny_net", NETWORK, CONFIG)
    assert "width: 32" in labrun_here("model=tiny_net", "--cfg", "job").stdout
    done = labrun(
        "model=tiny_net", "model.width=64", "+model.label='${oc.env:NET_LABEL}'", "tracking=none", "report=none"
    )
    assert done.returncode == 0, done.stderr
    record = only_record(workspace, "digits-tiny_net")
    assert [path for path in workspace.glob("outputs/*/*/**/*.json") if "nobodys" in path.read_text()] == []
    assert record["metrics"]["accuracy"] > 0.8  # type: ignore[index]
    assert record["code"]["files"] == 2  # type: ignore[index]
    scored = labrun("task=evaluate", "from=last", "tracking=none", "report=none")
    assert scored.returncode == 0, scored.stderr
    write(workspace, "tiny_net", f"{NETWORK}\n# changed", CONFIG)
    refused = labrun_here("task=evaluate", "from=last", "tracking=none")
    assert refused.returncode == 2 and "'trusted=[tiny_net.TinyNet]'" in refused.stderr
    assert "has changed since it was trained (tiny_net)" in refused.stderr
    scored = labrun("task=evaluate", "from=last", "tracking=none", "trusted=[tiny_net.TinyNet]", "report=none")
    assert scored.returncode == 0, scored.stderr


def test_a_mistyped_argument_is_refused_before_training(labrun: Command, workspace: Path) -> None:
    write(workspace, "tiny_net", NETWORK, CONFIG)
    done = labrun("model=tiny_net", "+model.widht=3", "tracking=none")
    assert done.returncode == 2 and "Did you mean 'width'" in done.stderr and "Traceback" not in done.stderr


def test_the_users_own_lightning_module_is_trained(labrun: Command, workspace: Path) -> None:
    write(workspace, "mine", MODULE, "_target_: mine.Mine\n")
    done = labrun("model=mine", "trainer.max_epochs=3", "tracking=none", "report=none")
    assert done.returncode == 0, done.stderr
    record = only_record(workspace, "digits-mine")
    assert {"my_loss", "accuracy"} <= set(record["metrics"])  # type: ignore[arg-type]
    (metrics,) = workspace.glob("outputs/*/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["name"] == "my_loss"] == [1, 2, 3]
    watched = labrun(
        "model=mine", "trainer.max_epochs=1", "tracking=none", "trainer.monitor=val_f1", "callbacks=early_stopping"
    )
    assert watched.returncode == 2 and "Traceback" not in watched.stderr
    assert "trainer.monitor=val_f1" in watched.stderr and "It logs my_loss" in watched.stderr


def test_a_module_like_that_of_lightning_hydra_template_is_trained(labrun: Command, workspace: Path) -> None:
    """It takes an optimizer and a scheduler, saves its arguments, and its checkpoints can be resumed."""
    write(workspace, "lit", TEMPLATE, LIT_YAML)
    common = ("model=lit", "dataset.validation_size=0.2", "tracking=none", "report=none", "model/scheduler=step")
    done = labrun(*common, "trainer.max_epochs=2", "callbacks=early_stopping", "trainer.evaluate=best", "model.lr=0.02")
    assert done.returncode == 0, done.stderr
    assert "optimizer Adam 0.02" in done.stdout and "Scoring the best epoch's weights" in done.stdout + done.stderr
    on = labrun(*common, "trainer.max_epochs=3", "trainer.resume=last", "model.lr=0.02")
    assert on.returncode == 0, on.stderr
    again = labrun("task=evaluate", "from=last", "trusted=[lit.Lit]", "tracking=none", "report=none")
    assert again.returncode == 0, again.stderr


def test_a_bug_in_the_users_model_is_shown_with_a_traceback(labrun: Command, workspace: Path) -> None:
    write(workspace, "broken", "def broken():\n    raise ValueError('a bug')\n", "_target_: broken.broken\n")
    done = labrun("model=broken", "tracking=none")
    assert done.returncode == 1
    assert "a bug" in done.stderr and "broken.py" in done.stderr and "driver.log" in done.stderr
    assert only_record(workspace, "digits-broken")["status"] == "failed"
