"""Small data modules, data sets and networks as users write them."""

from __future__ import annotations

import functools
import os
import random
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset, random_split
from torchmetrics import classification

NOTES = "LOADER_PARTS_NOTES"
"""Environment variable with the path of a file to which `prepare_data` appends a line."""


@functools.cache
def digits() -> TensorDataset:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y))


class DigitsModule(pl.LightningDataModule):
    """A data module in the style of lightning-hydra-template, without a name, with a state."""

    def __init__(self, batch_size: int = 32, sizes: tuple[int, int, int] = (300, 100, 100)) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.parts: list[Any] = []

    @property
    def num_classes(self) -> int:
        return 10

    def prepare_data(self) -> None:
        if os.environ.get(NOTES):
            with open(os.environ[NOTES], "a", encoding="utf-8") as file:
                file.write("prepared\n")

    def setup(self, stage: str | None = None) -> None:
        if not self.parts:
            sizes = [*self.hparams["sizes"]]
            whole = torch.utils.data.Subset(digits(), range(sum(sizes)))
            self.parts = list(random_split(whole, sizes, torch.Generator().manual_seed(0)))

    def train_dataloader(self) -> Any:
        return DataLoader(self.parts[0], batch_size=self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.parts[1], batch_size=50)

    def test_dataloader(self) -> Any:
        return [DataLoader(self.parts[2], batch_size=50), DataLoader(self.parts[1], batch_size=50)]

    def predict_dataloader(self) -> Any:
        return DataLoader(self.parts[2], 30)  # valid, too, although Lightning itself fails on it

    def state_dict(self) -> dict[str, Any]:
        return {"seen": np.arange(3), "part": np.float32(0.5)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        print("the data module's state:", state_dict)


class Careless(DigitsModule):
    """Splits without a generator, as in tutorials."""

    def setup(self, stage: str | None = None) -> None:
        if not self.parts:
            self.parts = list(random_split(torch.utils.data.Subset(digits(), range(500)), [300, 100, 100]))
            print("tested on", self.parts[2].indices[:9])


class TwoValidations(DigitsModule):
    """Has two validation loaders, and a state that contains an instance of a class."""

    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), super().val_dataloader()]

    def state_dict(self) -> dict[str, Any]:
        return {"folder": Path("here")}


class Lit(pl.LightningModule):
    """A module with all of its own steps."""

    def __init__(self, num_classes: int, width: int = 32, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def step(self, batch: Any) -> tuple[Tensor, Tensor]:
        x, y = batch
        scores = self(x)
        return nn.functional.cross_entropy(scores, y), (scores.argmax(1) == y).float().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, _ = self.step(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.measure("val", batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.measure("test", batch)

    def measure(self, part: str, batch: Any) -> None:
        loss, accuracy = self.step(batch)
        self.log_dict({f"{part}/loss": loss, f"{part}/acc": accuracy})

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        scores = self(batch[0])
        return {"digit": scores.argmax(1), "sure": scores.softmax(1).amax(1)}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


class Measures(Lit):
    """Logs averages, sums, extremes and torchmetrics; the best value is reset when training starts, as in templates."""

    def __init__(self, num_classes: int, width: int = 32, lr: float = 0.01) -> None:
        super().__init__(num_classes, width, lr)
        classes = {"num_classes": num_classes}
        self.acc = classification.MulticlassAccuracy(**classes)
        self.auroc = classification.MulticlassAUROC(**classes)
        self.several = torchmetrics.MetricCollection(
            {name: getattr(classification, f"Multiclass{name}")(**classes) for name in ("Precision", "Recall")}
        )
        self.best = torchmetrics.MaxMetric()
        self.losses: list[Tensor] = []

    def on_train_start(self) -> None:
        self.best.reset()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scores, loss = self(batch[0]), super().training_step(batch, batch_idx)
        self.log("train/sum", loss, reduce_fx="sum", on_step=False, on_epoch=True)
        self.log("train/max", loss, reduce_fx="max", on_step=False, on_epoch=True)
        for metric in (self.acc, self.auroc, self.several):
            metric.update(scores, batch[1])
        self.log("train/acc", self.acc, on_step=False, on_epoch=True)
        self.losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.late = batch_idx

    def on_train_epoch_end(self) -> None:
        self.log("train/auroc", self.auroc.compute())
        self.log_dict(self.several.compute())
        self.auroc.reset()
        self.several.reset()
        self.losses.clear()

    def on_validation_epoch_end(self) -> None:
        self.best.update(self.trainer.callback_metrics["val/acc"])
        self.log("val/best", self.best.compute())


class Names(Lit):
    """Predicts text, like a captioning model."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return [f"digit {number}" for number in self(batch[0]).argmax(1).tolist()]


class OfSeveral(Lit):
    """Trains on one batch from each of several loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = [self.step(one)[0] for one in batch]
        return torch.stack(losses).sum()


class Dicts(Dataset[Any]):
    """Samples in Hugging Face's format, with labels that labrun can count."""

    num_classes = 10

    def __init__(self, first: int, last: int, path: str | None = None) -> None:
        x, y = digits()[first:last]
        self.x, self.targets = x, y
        if path is not None:
            self.x = self.x + len(Path(path).read_bytes())

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> Any:
        return {"pixels": self.x[place], "label": self.targets[place]}


class Drawn(Dicts):
    """Such samples, drawn: importing scikit-learn takes longer than reading them."""

    def __init__(self, first: int, last: int) -> None:
        generator = torch.Generator().manual_seed(first)
        self.x = torch.rand(last - first, 64, generator=generator)
        self.targets = torch.randint(10, (last - first,), generator=generator)


class Dies(Dicts):
    """Ends its process."""

    def __init__(self) -> None:
        os._exit(3)


class Printed(Dicts):
    def fingerprint(self) -> str:
        return "as it is today" if len(self) else str(1 / len(self))


class TakesPixels(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, num_classes)

    def forward(self, pixels: Tensor) -> Any:
        return self.layer(pixels)


class OwnNames(TakesPixels):
    """Has arguments with the names of labrun's keys."""

    def __init__(self, num_classes: int, loss: str, target: str) -> None:
        super().__init__(num_classes)


class Text(Dataset[Any]):
    """Tokens, and the same tokens shifted by one as targets; 30% of the targets are ignored."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> Any:
        tokens = (torch.arange(7) + place) % 5
        target = tokens[1:].clone()
        target[:2] = -100
        return tokens[:-1], target


class NextToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, tokens: Tensor) -> Any:
        return self.table(tokens)


class Stream(IterableDataset[Any]):
    """Two inputs, and their sum."""

    def __init__(self, count: int = 96) -> None:
        self.count = count

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        for _ in range(self.count):
            x = torch.rand(2, 3, generator=generator)
            yield x[0], x[1], x.sum()


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, one: Tensor, other: Tensor) -> Any:
        return self.layer(torch.cat([one, other], 1))


class Masks(Dataset[Any]):
    """Images with a class per pixel."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, place: int) -> Any:
        image = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(place))
        return image, (image[0] > 0.5).long()


class Segments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class Labels(Dataset[Any]):
    """Multi-label samples."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> Any:
        x = torch.rand(3, generator=torch.Generator().manual_seed(place))
        return x, (x > 0.5).long()


class FloatLabels(Labels):
    def __getitem__(self, place: int) -> Any:
        x, y = super().__getitem__(place)
        return x, y.float()


class Linear(nn.Module):
    def __init__(self, size: int = 3, outputs: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class AutoEncoder(nn.Module):
    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        size = torch.Size(input_shape).numel()
        self.shape = tuple(input_shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, 4), nn.Linear(4, size))

    def forward(self, x: Tensor) -> Any:
        return self.layers(x).reshape(len(x), *self.shape)


def pairs(samples: list[Any]) -> Any:
    """Collate samples of `Dicts` into a tuple."""
    return torch.stack([one["pixels"] for one in samples]), torch.stack([one["label"] for one in samples])


class BreaksElsewhere(TakesPixels):
    """Fails in rank 1 of a run of several processes."""

    def forward(self, pixels: Tensor) -> Any:
        if os.environ.get("RANK") == "1":
            raise ValueError("the second one is broken")
        return super().forward(pixels)


class Noisy(Dataset[Any]):
    """Digits with noise from every random number generator."""

    def __init__(self, count: int = 104) -> None:
        self.x, self.y = digits()[:count]
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.x)

    def noise(self) -> Tensor:
        return torch.rand(64) * 0.1 + np.random.rand() * 0.1 + random.random() * 0.1

    def __getitem__(self, place: int) -> Any:
        return self.x[place] + self.noise(), self.y[place]


class NoisyStream(IterableDataset[Any]):
    """`Noisy` as a stream with a position and an epoch; `StreamWithoutState` has neither."""

    def __init__(self, count: int = 104) -> None:
        self.data, self.place, self.epoch = Noisy(count), 0, -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.place < len(order):
            self.place += 1
            yield self.data[order[self.place - 1]]
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class StreamWithoutState(IterableDataset[Any]):
    def __init__(self, count: int = 104) -> None:
        self.data = Noisy(count)

    def __iter__(self) -> Any:
        yield from (self.data[place] for place in range(len(self.data)))


class NoisyModule(pl.LightningDataModule):
    """Plain loaders without support for resuming."""

    num_classes = 10

    def __init__(self, kind: str = "map", num_workers: int = 0, own_generator: bool = False) -> None:
        super().__init__()
        self.kind, self.workers, self.own = kind, num_workers, own_generator

    def train_dataloader(self) -> Any:
        if self.kind == "two":
            return [DataLoader(Noisy(count), batch_size=16, shuffle=True) for count in (104, 40)]
        if self.kind == "persistent":
            few = torch.utils.data.Subset(digits(), range(400))
            return DataLoader(few, batch_size=50, shuffle=True, num_workers=1, persistent_workers=True)
        if self.kind == "stream":
            return DataLoader(NoisyStream(), batch_size=16)
        if self.kind == "listens":
            return DataLoader(Listens(), batch_size=50)
        if self.kind == "lost":
            return DataLoader(StreamWithoutState(), batch_size=16)
        generator = torch.Generator().manual_seed(3) if self.own else None
        return DataLoader(Noisy(), batch_size=16, shuffle=True, num_workers=self.workers, generator=generator)

    def val_dataloader(self) -> Any:
        if self.kind == "persistent":
            few = torch.utils.data.Subset(digits(), range(400))
            return DataLoader(few, batch_size=100, num_workers=1, persistent_workers=True)
        return DataLoader(Noisy(40), batch_size=20)

    def test_dataloader(self) -> Any:
        return DataLoader(Noisy(40), batch_size=20)


class DropNet(nn.Module):
    """A network that draws random numbers (dropout)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, num_classes))

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class Crash(pl.Callback):
    """Ends training at given steps, once at each: with an error, or as if preempted."""

    ends: ClassVar[list[tuple[int, bool]]] = []
    """The steps to come, each with whether the run leaves as if preempted."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if Crash.ends and trainer.global_step == Crash.ends[0][0]:
            if not Crash.ends.pop(0)[1]:
                raise RuntimeError("crashed")
            os.kill(os.getpid(), signal.SIGUSR1)


class Listens(Noisy):
    """Records the epochs passed to `set_epoch`."""

    told: ClassVar[list[tuple[str, int]]] = []

    def set_epoch(self, epoch: int) -> None:
        Listens.told.append(("data", epoch))


class ListensToo(BatchSampler):
    def set_epoch(self, epoch: int) -> None:
        Listens.told.append(("batches", epoch))
