"""Counting what a network computes, for the number of threads (see `labrun.tasks.threads`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # where the manual, "Extending PyTorch", has it
from torch.utils.flop_counter import flop_registry

from labrun.tasks.threads import Work

FLOPS: dict[str, Callable[..., int]] = {str(operation): count for operation, count in flop_registry.items()}
"""Floating-point operations (two per multiply-add) of torch's products, by the operation's name and its arguments."""


LSTM = "aten.mkldnn_rnn_layer"
"""A layer over a whole sequence, on the processor. torch does not count it."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products that are computed inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).rpartition(".")[0]  # without the overload: aten.addmm, not aten.addmm.default
        if name in FLOPS:
            self.flops += FLOPS[name](*args, **(kwargs or {}), out_val=result)
            self.products += 1
        elif name == LSTM:
            sequence, weight, recurrent_weight = args[:3]
            steps, batch = sequence.shape[:2]
            self.flops += 2 * steps * batch * (weight.numel() + recurrent_weight.numel())
            self.products += steps  # one waits for the other
        return result

    @property
    def work(self) -> Work | None:
        return Work(self.flops // 2, self.products) if self.products else None


def try_out(network: nn.Module, sample: Tensor) -> tuple[Tensor, Work | None]:
    """Compute the scores of one sample, and count the work.

    Args:
        network: in evaluation mode.
        sample: a batch of one.

    Returns:
        The scores, and the work; None if it cannot be counted.

    Raises: whatever the network raises.
    """
    counter = _Counter()
    try:
        # With gradients, as in training: without, torch fuses whole layers into operations that nobody counts.
        with torch.enable_grad(), counter:
            return network(sample).detach(), counter.work
    except Exception:  # noqa: BLE001 - not every network can be watched; if this one is at fault, it fails again
        with torch.no_grad():
            return network(sample), None
