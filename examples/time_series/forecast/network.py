"""A GRU over the known years, with a linear layer that maps its last state to the forecast."""

from __future__ import annotations

from torch import Tensor, nn


class GRUNetwork(nn.Module):
    """Forecast some years from the years before.

    Args:
        input_size: values per year; filled in from the data.
        output_size: years to forecast; filled in from the data.
        hidden: size of the GRU's state.
        unit: number of sunspots that is scaled to 1.
    """

    def __init__(self, input_size: int, output_size: int, hidden: int = 32, unit: float = 50.0) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden, batch_first=True)
        self.out = nn.Linear(hidden, output_size)
        self.unit = unit

    def forward(self, known: Tensor) -> Tensor:
        """Return the forecast, (N, output_size), for the known years, (N, years, input_size)."""
        states, _ = self.gru(known / self.unit)
        forecast: Tensor = self.out(states[:, -1]) * self.unit
        return forecast
