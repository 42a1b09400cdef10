"""A plain Hydra application: the 784-100-100-10 network on MNIST, one epoch by Lightning, as `labrun` trains it."""

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
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset


class Classifier(pl.LightningModule):
    """Cross-entropy on three layers that begin as Chainer's do."""

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


def loader(arrays: Any, part: str, sampler: Any, size: int) -> Any:
    """Batches cut from tensors in memory."""
    x = torch.from_numpy(arrays[part + "_x"]).float() / 255
    data = TensorDataset(x, torch.from_numpy(arrays[part + "_y"]))
    return DataLoader(data, sampler=BatchSampler(sampler(data), size, drop_last=False), batch_size=None)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: Any) -> None:
    """One job."""
    pl.seed_everything(int(config.value))
    arrays = np.load(config.data)
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
    trainer.fit(
        network, loader(arrays, "train", RandomSampler, 128), loader(arrays, "validation", SequentialSampler, 1000)
    )
    network.eval()
    with torch.inference_mode():
        hits = sum(
            int((network.layers(x).argmax(1) == y).sum()) for x, y in loader(arrays, "test", SequentialSampler, 1000)
        )
    accuracy = hits / len(arrays["test_y"])
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "result.json").write_text(json.dumps({"value": config.value, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
