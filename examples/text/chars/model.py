"""A causal transformer over characters: the network, its training, and text generation."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.text import Perplexity

from chars import alphabet


class CharTransformer(pl.LightningModule):
    """Predict the next character at every position.

    Args:
        length: maximum number of characters that the model sees.
        width: size of the embedding vectors.
        heads: attention heads of each layer.
        layers: number of layers.
        dropout: fraction of the values to drop in training.
        lr: learning rate.
        new: number of characters that `predict_step` generates.
        temperature: sampling temperature; below 1 conservative, above 1 diverse.
    """

    def __init__(
        self,
        length: int = 64,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.1,
        lr: float = 5e-3,
        new: int = 80,
        temperature: float = 0.7,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.characters = nn.Embedding(alphabet.SIZE, width)
        self.places = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.scores = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, alphabet.SIZE))
        self.perplexity = nn.ModuleDict({f"{part}_perplexity": Perplexity() for part in ("val", "test")})

    def forward(self, numbers: Tensor) -> Tensor:
        """Return scores of the next character, (N, positions, characters), for texts, (N, positions)."""
        size = numbers.shape[1]
        hidden = self.characters(numbers) + self.places(torch.arange(size, device=numbers.device))
        mask = nn.Transformer.generate_square_subsequent_mask(size, device=numbers.device)
        return self.scores(self.layers(hidden, mask=mask, is_causal=True))

    def on_train_epoch_start(self) -> None:
        """Pass the epoch to an iterable data set. Lightning itself calls `set_epoch` only of samplers."""
        tell = getattr(self.trainer.train_dataloader.dataset, "set_epoch", None)
        if tell is not None:
            tell(self.current_epoch)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self._loss(self(batch[:, :-1]), batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._measure("val", batch)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._measure("test", batch)

    def _measure(self, part: str, batch: Tensor) -> None:
        scores, metric = self(batch[:, :-1]), self.perplexity[f"{part}_perplexity"]
        metric.update(scores, batch[:, 1:])
        self.log(f"{part}/loss", self._loss(scores, batch), on_step=False, on_epoch=True)
        self.log(f"{part}/perplexity", metric, on_step=False, on_epoch=True)

    def _loss(self, scores: Tensor, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores.movedim(2, 1), batch[:, 1:])

    def predict_step(self, batch: list[str], batch_idx: int) -> dict[str, list[str]]:
        """Return each text, and the text with the model's continuation."""
        return {"beginning": list(batch), "text": [self.write(beginning) for beginning in batch]}

    @torch.no_grad()
    def write(self, beginning: str) -> str:
        """Return a text followed by new characters, which are sampled one by one with a fixed seed.

        Raises:
            ValueError: the text is empty.
        """
        if not beginning:
            raise ValueError("the text to continue is empty")
        numbers = alphabet.encoded(beginning).to(self.device)
        drawn = torch.Generator(self.device).manual_seed(0)
        for _ in range(self.hparams["new"]):
            scores = self(numbers[None, -self.hparams["length"] :])[0, -1, : alphabet.UNKNOWN]
            chances = (scores / self.hparams["temperature"]).softmax(dim=0)
            numbers = torch.cat([numbers, torch.multinomial(chances, 1, generator=drawn)])
        return alphabet.decoded(numbers)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), self.hparams["lr"])
