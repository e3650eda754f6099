"""A tape: what a CUDA graph does of a step, without a GPU.

Python runs once; then the aten calls it made are made again on the same tensors, and nothing else.
What a capture forbids is refused.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# Values read by the host, sizes that follow from values, tensors made on the host.
_REFUSED = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.item),
    *(aten.nonzero, aten.masked_select, aten.bincount, aten.unique_dim, aten._unique2),
    *(aten.lift_fresh, aten.repeat_interleave),
}
_UNSAID = {aten.native_batch_norm.default}  # writes running statistics, which its schema leaves out


class Refused(Exception):
    """What no CUDA graph can hold."""


class Call(NamedTuple):
    """A call as it was made: what it returned, and which of that was new memory."""

    function: object
    args: tuple
    kwargs: dict
    outputs: list[Tensor]
    new: list[bool]

    @property
    def works(self) -> bool:
        """Whether it computes something; a view does not."""
        return self.function._schema.is_mutable or any(self.new)


def tensors(nested) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_one(tensor: Tensor) -> bool:
    """What torch's AdamW adds to its counts of steps where those are on the CPU, and only there."""
    return tensor.is_cpu and tensor.ndim == 0 and tensor.item() == 1.0


def _check(function, args, kwargs) -> None:
    packet = function.overloadpacket
    if packet is aten.lift_fresh and _is_one(args[0]):
        return
    by_booleans = packet in (aten.index, aten.index_put, aten.index_put_) and any(
        i is not None and i.dtype == torch.bool for i in args[1]
    )
    if packet in _REFUSED or by_booleans:
        raise Refused(str(function))
    devices = {t.device for t in tensors((args, kwargs)) if t.ndim}
    if "device" in kwargs and kwargs["device"] is not None:
        devices.add(torch.device(kwargs["device"]))
    if len(devices) > 1:
        raise Refused(f"{function} between {sorted(map(str, devices))}")


class Tape(TorchDispatchMode):
    """Notes every call inside its block; `undo` takes back what they wrote to what was there."""

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        _check(function, args, kwargs)
        given = tensors((args, kwargs))
        known = {_storage(t) for t in given}
        if function._schema.is_mutable or function in _UNSAID:
            for t in given:
                self._keep(t)
        out = function(*args, **kwargs)
        outputs = tensors(out)
        new = [_storage(t) not in known for t in outputs]
        self._made |= {_storage(t) for t, fresh in zip(outputs, new, strict=True) if fresh}
        self.calls.append(Call(function, args, kwargs, outputs, new))
        return out

    def _keep(self, tensor: Tensor) -> None:
        memory = _storage(tensor)
        if memory not in self._made and memory not in self._before and not tensor.is_meta:
            storage = tensor.untyped_storage()
            self._before[memory] = (storage, storage.clone())

    def undo(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for call in self.calls:
            if call.works:
                again = tensors(call.function(*call.args, **call.kwargs))
                for old, fresh, new in zip(call.outputs, again, call.new, strict=True):
                    if new:
                        old.copy_(fresh)

    @property
    def kernels(self) -> int:
        """Calls that compute, as a GPU starts at least one kernel for each."""
        free = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty)
        return sum(c.works and c.function.overloadpacket not in free for c in self.calls)


class TapeRecorder:
    """In the place of `CudaRecorder`: a recording computes nothing, a replay calls no Python."""

    def __init__(self):
        self.refused, self.tapes = None, []

    def plain(self, call):
        call()

    def record(self, call):
        tape = Tape()
        with tape:
            call()
        tape.undo()
        self.tapes.append(tape)
        return tape.replay
