"""What a step changes for a while and puts back, bit for bit: tensors or coordinates, modes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def take(tensor: Tensor, index: Tensor | None) -> Tensor:
    """Selected coordinates of a dense tensor; a scalar stands for all of them."""
    if index is None or tensor.ndim == 0:
        return tensor
    return tensor.reshape(-1)[index]


class Saved:
    """Copies of tensors, or of coordinates of them, and the way back.

    Args:
        tensors: what is saved, in place.
        index: by tensor, flat indices in its logical order; None is all of it.
    """

    def __init__(self, tensors: list[Tensor], index: list[Tensor | None] | None = None):
        self.tensors = tensors
        self.index = index or [None] * len(tensors)
        self.whole = [t for t, i in zip(tensors, self.index, strict=True) if i is None]
        self.parts = [(t, i) for t, i in zip(tensors, self.index, strict=True) if i is not None]
        self.whole_copy = [torch.empty_like(t) for t in self.whole]
        if self.whole:
            torch._foreach_copy_(self.whole_copy, self.whole)
        self.parts_copy = [t.reshape(-1)[i] for t, i in self.parts]

    def add(self, eps: list[Tensor]) -> None:
        """Add to what was saved: tensors of its shapes."""
        whole = [e for e, i in zip(eps, self.index, strict=True) if i is None]
        if whole:
            torch._foreach_add_(self.whole, whole)
        parts = (e for e, i in zip(eps, self.index, strict=True) if i is not None)
        for (t, i), old, e in zip(self.parts, self.parts_copy, parts, strict=True):
            _put(t, i, old + e)

    def restore(self) -> None:
        """Copy everything back, bit for bit."""
        if self.whole:
            torch._foreach_copy_(self.whole, self.whole_copy)
        for (t, i), old in zip(self.parts, self.parts_copy, strict=True):
            _put(t, i, old)


def _put(tensor: Tensor, index: Tensor, values: Tensor) -> None:
    if tensor.is_contiguous():
        tensor.view(-1)[index] = values
        return
    # Channels-last weights: flat indices follow the logical order, not the memory's. By integers,
    # because torch.unravel_index copies the shape to the device, which no CUDA graph can record.
    at = []
    for size in reversed(tensor.shape):
        at.append(index % size)
        index = index // size
    tensor[tuple(reversed(at))] = values


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and full precision inside the block; every module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device.type
    model.eval()
    try:
        # An outer autocast would round away what small steps change.
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
