"""What a step changes for a while and puts back, bit for bit: tensors or coordinates, modes."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary


def take(tensor: Tensor, index: Tensor | None) -> Tensor:
    """Selected coordinates of a dense tensor; a scalar stands for all of them."""
    if index is None or tensor.ndim == 0:
        return tensor
    memory, at = _in_memory(tensor, index)
    return memory[at]


class Saved:
    """Copies of tensors, or of coordinates of them, and the way back.

    Args:
        tensors: what is saved, in place.
        index: by tensor, flat indices in its logical order; None is all of it.
    """

    def __init__(self, tensors: list[Tensor], index: list[Tensor | None] | None = None):
        self.index = index or [None] * len(tensors)
        pairs = list(zip(tensors, self.index, strict=True))
        self.whole = [t for t, i in pairs if i is None]
        self._whole = [(of, [torch.empty_like(t) for t in of]) for of in _by_dtype(self.whole)]
        for tensors, copies in self._whole:
            torch._foreach_copy_(copies, tensors)
        self.parts = [_in_memory(t, i) for t, i in pairs if i is not None]
        self.parts_copy = [memory[at] for memory, at in self.parts]

    def add(self, eps: Sequence[Tensor]) -> None:
        """Add to what was saved: tensors of its shapes."""
        whole = [e for e, i in zip(eps, self.index, strict=True) if i is None]
        if whole:
            torch._foreach_add_(self.whole, whole)
        parts = (e for e, i in zip(eps, self.index, strict=True) if i is not None)
        for (memory, at), old, e in zip(self.parts, self.parts_copy, parts, strict=True):
            memory[at] = old + e

    def restore(self) -> None:
        """Copy everything back, bit for bit."""
        for tensors, copies in self._whole:
            torch._foreach_copy_(tensors, copies)
        for (memory, at), old in zip(self.parts, self.parts_copy, strict=True):
            memory[at] = old


def _by_dtype(tensors: list[Tensor]) -> Collection[list[Tensor]]:
    """Lists of one dtype each: a GPU copies a mixed list tensor by tensor."""
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    return found.values()


# By tensor of flat indices, the strides they were looked up for and where they are in memory.
_PLACES = WeakTensorKeyDictionary()


def _in_memory(tensor: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor's memory as one dimension, and where in it flat indices of the tensor are.

    Those of a channels-last weight follow its logical order, not the memory's. The places are
    looked up once per index and layout: they would cost a step more kernels than its copies do.
    """
    if tensor.is_contiguous():
        return tensor.view(-1), index
    strides, at = _PLACES.get(index, (None, None))
    if strides != tensor.stride():
        at = _places(tensor, index)
        # What a CUDA graph records is there when it is replayed only.
        if not (index.is_cuda and torch.cuda.is_current_stream_capturing()):
            _PLACES[index] = (tensor.stride(), at)
    spans = zip(tensor.shape, tensor.stride(), strict=True)
    length = 1 + sum((size - 1) * stride for size, stride in spans)
    return tensor.as_strided((length,), (1,)), at


def _places(tensor: Tensor, index: Tensor) -> Tensor:
    # By integers, because torch.unravel_index copies the shape to the device, which no CUDA graph
    # can record.
    at = torch.zeros_like(index)
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        at += index % size * stride
        index = index // size
    return at


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and full precision inside the block; every module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device.type
    model.eval()
    try:
        # An outer autocast would round away what small steps change.
        with torch.autocast(device, enabled=False), full_precision():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 as it is inside the block: a GPU would convolve in TensorFloat-32 by default."""
    cudnn = torch.backends.cudnn
    places: list[tuple[Any, str, Any]] = [(cudnn, "allow_tf32", False)]
    if hasattr(cudnn, "conv"):  # PyTorch 2.9's names, last: the older ones write to them
        mkldnn: Any = torch.backends.mkldnn
        newer = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul, mkldnn.matmul)
        places += [(place, "fp32_precision", "ieee") for place in newer]
    else:
        places += [(torch.backends.cuda.matmul, "allow_tf32", False)]
    before, products = [], None
    with suppress(RuntimeError):  # an older name cannot be read where a newer one was set
        products = torch.get_float32_matmul_precision()
    for place, name, _ in places:
        with suppress(RuntimeError):
            before.append((place, name, getattr(place, name)))
    try:
        torch.set_float32_matmul_precision("highest")
        for place, name, value in places:
            setattr(place, name, value)
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for place, name, value in before:
            setattr(place, name, value)
