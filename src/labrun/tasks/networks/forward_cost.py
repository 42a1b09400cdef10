"""Counts a network's operations, to choose the number of threads (see `labrun.tasks.threads`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # the import path in PyTorch's manual, "Extending PyTorch"
from torch.utils.flop_counter import flop_registry

from labrun.tasks.threads import ForwardCost

FLOPS: dict[str, Callable[..., int]] = {str(operation): count for operation, count in flop_registry.items()}
"""Maps an operation's name to a function that counts its floating-point operations (two per multiply-add)."""


LSTM = "aten.mkldnn_rnn_layer"
"""An RNN layer over a whole sequence on the CPU, which torch's registry does not count."""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the matrix products computed within its context."""

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
            self.products += steps  # the steps are sequential
        return result

    @property
    def work(self) -> ForwardCost | None:
        return ForwardCost(self.flops // 2, self.products) if self.products else None


class Watch:
    """Counts the products of a network's layers during a forward pass, with hooks that change nothing else.

    For networks whose input cannot be made up. Counts only torch's layers, not products in the network's own code.

    Args:
        network: may contain compiled modules, but these are not counted.
    """

    def __init__(self, network: nn.Module) -> None:
        self.multiply_adds = self.products = 0
        self._handles = [
            layer.register_forward_hook(self._note)
            for layer in network.modules()
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd | nn.RNNBase | nn.MultiheadAttention)
        ]

    def end(self) -> ForwardCost | None:
        """Remove the hooks. Return the work that was counted, or None if there was none."""
        for handle in self._handles:
            handle.remove()
        return ForwardCost(self.multiply_adds, self.products) if self.products else None

    def _note(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor):
            return
        if isinstance(layer, nn.RNNBase):
            weights = sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim > 1)
            places = first.numel() // first.shape[-1]  # samples times sequence length
            steps = first.shape[1 if layer.batch_first else 0] if first.ndim == 3 else first.shape[0]
            self._add(places * weights, steps * layer.num_layers)
        elif isinstance(layer, nn.MultiheadAttention):
            self._add(4 * first.numel() * first.shape[-1], 4)
        else:
            weight: Any = layer.weight
            self._add(first.numel() * (weight.numel() // weight.shape[0]), 1)

    def _add(self, multiply_adds: int, products: int) -> None:
        self.multiply_adds += multiply_adds
        self.products += products


def try_out(network: nn.Module, sample: Tensor) -> tuple[Tensor, ForwardCost | None]:
    """Compute the scores of one sample, and count the work.

    Args:
        network: the network, in evaluation mode.
        sample: a batch of one.

    Returns:
        The scores, and the work or None if it cannot be counted.

    Raises:
        Exception: whatever the network raises.
    """
    counter = _Counter()
    try:
        # With gradients, as in training: without them, torch fuses layers into operations that the registry lacks.
        with torch.enable_grad(), counter:
            return network(sample).detach(), counter.work
    except Exception:  # noqa: BLE001 - not every network can be counted; if the network itself is at fault, it fails again
        with torch.no_grad():
            return network(sample), None


class FirstBatch(pl.Callback):
    """Counts the work of a network's first batch, and reports it before the second.

    Args:
        on_work: called once with the work of the whole batch, or None if it cannot be counted.
    """

    def __init__(self, on_work: Callable[[ForwardCost | None], None]) -> None:
        self._on_work: Callable[[ForwardCost | None], None] | None = on_work
        self._watch: Watch | None = None

    def _begin(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._on_work is not None and self._watch is None:
            self._watch = Watch(pl_module)

    def _end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._on_work is not None and self._watch is not None:
            on_work, self._on_work = self._on_work, None
            on_work(self._watch.end())

    on_train_batch_start = on_test_batch_start = on_predict_batch_start = _begin  # type: ignore[assignment]
    # Before the backward pass, so that it already uses the new number of threads. Manual optimization may skip it.
    on_before_backward = on_train_batch_end = _end  # type: ignore[assignment]
    on_test_batch_end = on_predict_batch_end = _end  # type: ignore[assignment]
