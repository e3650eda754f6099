"""What a part of the family remembers from step to step, and how a checkpoint holds it."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from samlib.errors import ConfigError
from samlib.sam.geometry import FLOOR, Tensors
from samlib.sam.restore import take

Where = Sequence[tuple]  # name, parameter and perhaps flat indices: a mask's entries, or all


class Stateful:
    """Tensors over some coordinates, numbers and a generator, which a checkpoint continues.

    Tensors are zero at first, and again when the coordinates are others. They stay where they are
    and are written in place, as a recorded step needs it.

    Attributes:
        tensors: names of what is held per entry of the coordinates.
        numbers: names of attributes that a checkpoint holds, too.
        ready: whether anything is remembered; False after every new start of a part with state.
    """

    tensors: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[tuple[str, ...]] = ()
    generator: torch.Generator | None = None
    ready: bool = True
    _where: Where | None = None
    _held: dict[str, list[Tensor]]
    _loaded: dict | None = None

    @property
    def name(self) -> str:
        """As messages call it."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self.name}()"

    def follow(self, where: Where) -> None:
        """Start anew where the coordinates are others; the same object means the same."""
        if not self.tensors:
            return
        if where is self._where:
            if self._held[self.tensors[0]][0].device == where[0][1].device:
                return
            self._loaded = self._held  # the model was moved in between
        held = {name: zeros(where) for name in self.tensors}
        if self._loaded is not None:
            for name, mine in held.items():
                there = self._loaded[name]
                if [t.shape for t in mine] != [t.shape for t in there]:
                    raise ConfigError(f"the state of {self.name} is over other coordinates")
                for t, loaded in zip(mine, there, strict=True):
                    t.copy_(loaded)
        resumed = self._loaded is not None
        self._where, self._held, self._loaded = where, held, None
        self.begin(resumed)

    def begin(self, resumed: bool) -> None:
        """Called at every new start, and where a state was loaded."""
        self.ready = self.ready and resumed

    def held(self, where: Where, name: str) -> list[Tensor]:
        """What is remembered under a name, a tensor per entry."""
        self.follow(where)
        return self._held[name]

    def state_dict(self) -> dict:
        """What a checkpoint must hold to continue; of fixed parts nothing."""
        state = {name: getattr(self, name) for name in self.numbers}
        if self.generator is not None:
            state["generator"] = self.generator.get_state()
        if self._where is not None:
            state |= {"ready": self.ready, "tensors": self._held}
        elif self._loaded is not None:
            state |= {"ready": self.ready, "tensors": self._loaded}
        return state

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`, with its tensors on whatever device."""
        for name in self.numbers:
            setattr(self, name, state[name])
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())
        # Taken over by `follow`, which knows the coordinates; a state from before the first step
        # has none, and what is remembered since is forgotten.
        self._where, self._loaded = None, state.get("tensors")
        self.ready = state.get("ready", type(self).ready)


def zeros(where: Where) -> list[Tensor]:
    """A tensor of zeros per entry, of its coordinates."""
    pairs = [(each[1], index_of(each)) for each in where]
    return [
        torch.zeros_like(p, requires_grad=False) if i is None else p.new_zeros(len(i))
        for p, i in pairs
    ]


def index_of(each: tuple) -> Tensor | None:
    """Flat indices of an entry; None, for all of the parameter, where it is only a pair."""
    return each[2] if len(each) > 2 else None


def on(where: Where, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The coordinates of tensors that are shaped as the parameters."""
    return [take(t, index_of(each)) for t, each in zip(tensors, where, strict=True)]


def grads_on(where: Where) -> list[Tensor]:
    """The coordinates of `.grad`, 0 for a parameter without."""
    weights = [each[1] for each in where]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in weights]
    return on(where, grads)


def length(tensors: Tensors) -> Tensor:
    """Their common 2-norm, a scalar tensor."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def unit(tensors: Tensors) -> Tensors:
    """Tensors over their common 2-norm; zeros stay zeros."""
    return torch._foreach_div(tensors, length(tensors) + FLOOR)


def dot(a: Tensors, b: Tensors) -> Tensor:
    """Their common inner product, a scalar tensor; of complex ones the real part of <a, b>."""
    a = [t.conj() if t.is_complex() else t for t in a]
    return torch.stack([_real(t.sum()) for t in torch._foreach_mul(a, b)]).sum()


def _real(t: Tensor) -> Tensor:
    return t.real if t.is_complex() else t
