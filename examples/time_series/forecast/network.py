"""The network: a GRU over the years that are known, and a line of numbers out of its last state."""

from __future__ import annotations

from torch import Tensor, nn


class GRUNetwork(nn.Module):
    """Forecasts some years from those before.

    Args:
        input_size: values of each year; from the data.
        output_size: years to forecast; from the data.
        hidden: size of the GRU's state.
        unit: sunspots that count as 1 within the network.
    """

    def __init__(self, input_size: int, output_size: int, hidden: int = 32, unit: float = 50.0) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden, batch_first=True)
        self.out = nn.Linear(hidden, output_size)
        self.unit = unit

    def forward(self, known: Tensor) -> Tensor:
        """Sunspots to come, (N, output_size), after those that are known, (N, years, input_size)."""
        states, _ = self.gru(known / self.unit)
        forecast: Tensor = self.out(states[:, -1]) * self.unit
        return forecast
