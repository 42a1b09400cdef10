"""A plain Hydra application: the 784-100-100-10 network on MNIST, trained for one epoch with Lightning, as in labrun.

`loader=plain`: as users write it, with torchvision's data set and PyTorch's DataLoader. `loader=tensors`: batches
sliced from tensors in memory, as in labrun.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset


class Classifier(pl.LightningModule):
    """A three-layer classifier with Chainer's initialization and cross-entropy loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.layers(batch[0]), batch[1]), batch_size=len(batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def plain(folder: Path) -> tuple[Any, Any, Any]:
    """Return loaders of torchvision's data set for training, validation and test."""
    from torchvision.datasets import MNIST
    from torchvision.transforms import ToTensor

    train, test = (MNIST(folder, train=part, transform=ToTensor()) for part in (True, False))
    order = np.load(folder / "split.npz")
    return (
        DataLoader(Subset(train, order["train"].tolist()), batch_size=128, shuffle=True),
        DataLoader(Subset(train, order["validation"].tolist()), batch_size=1000),
        DataLoader(test, batch_size=1000),
    )


def tensors(folder: Path) -> tuple[Any, Any, Any]:
    """Return the same loaders, with batches sliced from tensors in memory."""
    arrays = np.load(folder / "data.npz")

    def loader(part: str, sampler: Any, size: int) -> Any:
        x = torch.from_numpy(arrays[part + "_x"]).float() / 255
        data = TensorDataset(x, torch.from_numpy(arrays[part + "_y"]))
        return DataLoader(data, sampler=BatchSampler(sampler(data), size, drop_last=False), batch_size=None)

    return (
        loader("train", RandomSampler, 128),
        loader("validation", SequentialSampler, 1000),
        loader("test", SequentialSampler, 1000),
    )


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: Any) -> None:
    """Run one job."""
    pl.seed_everything(int(config.value))
    train, validation, test = {"plain": plain, "tensors": tensors}[config.loader](Path(config.data).parent)
    folder = Path(HydraConfig.get().runtime.output_dir)
    network = Classifier()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        deterministic=True,
        logger=False,
        default_root_dir=str(folder),
        callbacks=[pl.callbacks.ModelCheckpoint(dirpath=str(folder), monitor="val_loss", save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(network, train, validation)
    network.eval()
    hits, samples = 0, 0
    with torch.inference_mode():
        for x, y in test:
            hits += int((network.layers(x).argmax(1) == y).sum())
            samples += len(y)
    accuracy = hits / samples
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "result.json").write_text(json.dumps({"value": config.value, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
