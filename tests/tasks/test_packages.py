"""A module of the package `lightning` is trained by that package, whether or not `pytorch_lightning` is installed.

`lightning` is the same code under another name, so these tests use a renamed copy of the installed package.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning
import torch

from conftest import Command, Runner
from labrun.config.schema import Config
from labrun.submission import freeze
from labrun.tasks.packages import Package, derived, spare_clouds, spare_moves, spare_searches

pytestmark = pytest.mark.long

SITE = Path(pytorch_lightning.__file__).parents[1]
MODULE = """
import torch
import pytorch_lightning
from lightning.pytorch import Callback, LightningModule
from torch import nn


class Mine(LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_train_start(self):
        print("trained by", type(self.trainer).__module__)


class Theirs(pytorch_lightning.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        print("theirs is called")


class Stop(pytorch_lightning.callbacks.EarlyStopping):
    pass


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, place):
        return torch.rand(4), place % 3
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a package `lightning`, which can be imported in this process."""
    folder = tmp_path_factory.mktemp("site")
    for old, new in (("pytorch_lightning", "pytorch"), ("lightning_fabric", "fabric")):
        shutil.copytree(SITE / old, folder / "lightning" / new, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "lightning").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        changed = re.sub(r"\bpytorch_lightning\b", "lightning.pytorch", text)
        changed = re.sub(r"\blightning_fabric\b", "lightning.fabric", changed)
        changed = re.sub(r"import lightning\.pytorch as pl\b", "from lightning import pytorch as pl", changed)
        path.write_text(changed, encoding="utf-8")
    for version in SITE.glob("*/version.info"):
        shutil.copy(version, folder / "lightning" / "version.info")
    (folder / "lightning" / "__init__.py").touch()
    (folder / "lightning" / "version.info").write_text(pytorch_lightning.__version__)
    before = list(sys.path)
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
        del sys.modules[name]


def test_a_module_is_trained_by_the_trainer_of_its_package(
    workspace: Path, labrun_here: Command, stand_in: Path
) -> None:
    (workspace / "mine.py").write_text(MODULE)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "mine.yaml").write_text("# Mine.\n_target_: mine.Mine\n")
    (workspace / "conf" / "model" / "three.yaml").write_text("# Mine.\n_target_: mine.Mine\nnum_classes: 3\n")
    common = (
        "model=mine",
        "dataset.max_samples=120",
        "dataset.validation_size=0.25",
        "trainer.batch_size=20",
        "tracking=none",
        "report=none",
        "trainer.monitor=val/acc",
        "callbacks=early_stopping",
    )
    sets = [f"dataset.{part}._target_=mine.Pairs" for part in ("train", "validation")]
    done = labrun_here(
        *common,
        "trainer.max_epochs=3",
        "+callbacks.theirs={_target_: mine.Theirs}",
        "logger=csv",
        "+callbacks.lr={_target_: pytorch_lightning.callbacks.LearningRateMonitor}",
        "name=first",
    )
    assert done.returncode == 0, done.stderr
    assert "trained by lightning.pytorch.trainer.trainer" in done.stdout
    assert done.stdout.count("theirs is called") == 3
    assert "Watching val/acc: the larger the better" in done.stdout
    (run_dir,) = (path.parent for path in workspace.glob("outputs/first/*/run.json"))
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert '"name": "train/loss"' in (run_dir / "metrics.jsonl").read_text()
    refused = labrun_here(*common, "+callbacks.stop={_target_: mine.Stop}")
    assert refused.returncode == 2 and "Stop is derived from the EarlyStopping of a different package" in refused.stderr
    assert "Traceback" not in refused.stderr
    paired = labrun_here("model=three", "dataset=torch", *sets, *common[4:7], "callbacks=none")
    assert paired.returncode == 0 and "trained by lightning.pytorch" in paired.stdout, paired.stdout + paired.stderr


def test_a_users_own_class_may_have_a_name_of_lightnings() -> None:
    class EarlyStopping(pytorch_lightning.Callback):
        """Not derived from Lightning's."""

    assert derived(EarlyStopping(), "EarlyStopping") is None
    assert derived(pytorch_lightning.callbacks.EarlyStopping("loss"), "EarlyStopping") == Package()


def test_names_of_either_lightning_package_work(run_here: Runner) -> None:
    """A config written for `lightning` works where only `pytorch_lightning` is installed."""
    theirs, ours = "lightning.pytorch.callbacks.EarlyStopping", "pytorch_lightning.callbacks.EarlyStopping"
    assert Package().target(theirs) == ours and Package("lightning.pytorch").target(ours) == theirs
    assert Package().target("mine.EarlyStopping") == "mine.EarlyStopping"
    freeze.check_targets(Config({"callbacks": {"stop": {"_target_": theirs}}}))
    record, _ = run_here(
        "model=mnist_dnn", "trainer.max_epochs=1", "dataset.max_samples=60", f"+callbacks.stop={{_target_: {theirs}}}"
    )
    assert record.status == "completed"


def test_lightning_checks_only_cloud_packages_already_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    spare_clouds(Package())
    spare_clouds(Package())
    asked = importlib.import_module("lightning_fabric.utilities.cloud_io").module_available
    monkeypatch.delitem(sys.modules, "adlfs", raising=False)
    assert not asked("adlfs") and "adlfs" not in sys.modules and not asked("no_such_package")
    monkeypatch.setitem(sys.modules, "adlfs", importlib.import_module("adlfs"))
    assert asked("adlfs") and asked("torch")


def test_lightning_lists_the_entry_points_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("lightning_fabric.utilities.registry")
    searched: list[str] = []

    def entry_points(group: str) -> list[str]:
        searched.append(group)
        return []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    for _ in range(2):
        spare_searches(Package())
        assert registry.entry_points(group="callbacks") == []
    assert searched == ["callbacks"]
    monkeypatch.syspath_prepend(tmp_path)  # what lies there may bring callbacks
    registry.entry_points(group="callbacks")
    assert searched == ["callbacks"] * 2


def test_lightning_moves_a_logged_value_only_to_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    results = importlib.import_module("pytorch_lightning.trainer.connectors.logger_connector.result")
    searched: list[object] = []

    def apply_to_collection(data: dict[str, object], kinds: object, function: object, device: object) -> object:
        searched.append(device)
        return plain(data, kinds, function, device)

    spare_moves(Package())
    spare_moves(Package())
    plain = results.apply_to_collection
    monkeypatch.setattr(results, "apply_to_collection", apply_to_collection)
    values = results._ResultCollection(training=True)

    def log(number: float, device: str = "cpu") -> None:
        value = torch.tensor(number, device=device)
        values.log("training_step", "loss", value, on_step=True, on_epoch=True, batch_size=2)

    log(1.0)
    log(3.0)
    (logged,) = values.values()
    assert searched == [] and logged.compute() == 2 and logged._forward_cache == 3
    log(5.0, "meta")
    assert searched == [torch.device("meta")]
    assert {logged.value.device, logged.cumulated_batch_size.device} == {torch.device("meta")}
    log(7.0, "meta")
    assert len(searched) == 1
