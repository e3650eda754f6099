"""Nothing computed twice: what lies in front of the first perturbed stage runs once per step.

Both passes of a step see the same batch, and the parameters in front of the first masked stage
are not moved between them: their activations are the same bit for bit, so the second pass starts
from the first one's, graph included, through which the descent gradient reaches them. Running
statistics that should follow both passes are updated a second time by the norm layers themselves,
on the inputs they had. It happens by itself for models with stages and masks inside later ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Staged(nn.Module):
    """A network as stages in forward order, and what comes before and after them."""

    memory: "_Memory | None" = None  # set for the length of a step

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The parts a mask can be made of, in forward order."""
        raise NotImplementedError

    def before_stages(self, x: Tensor) -> Tensor:
        """What comes before the first stage."""
        raise NotImplementedError

    def after_stages(self, x: Tensor) -> Tensor:
        """What comes after the last stage."""
        raise NotImplementedError

    def up_to(self, x: Tensor, stage: int) -> Tensor:
        """The input of a stage (counted from 0), from the network's input."""
        x = self.before_stages(x)
        for part in self.stages[:stage]:
            x = part(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, classes)."""
        # Compiled graphs free their own tensors: nothing of a compiled pass can be taken over.
        memory = None if torch.compiler.is_compiling() else self.memory
        first = memory.first if memory else 0
        x = memory.recall(self, x) if memory else self.up_to(x, 0)
        for part in self.stages[first:]:
            x = part(x)
        return self.after_stages(x)


def untouched_stages(model: nn.Module, parameters: list[nn.Parameter]) -> int:
    """How many leading stages a mask of these parameters leaves alone; 0 without stages.

    Parameters outside the stages count as in front of them.
    """
    if not isinstance(model, Staged):
        return 0
    at = {id(p): i for i, part in enumerate(model.stages) for p in part.parameters()}
    return min(at.get(id(p), 0) for p in parameters)


class _Call(NamedTuple):
    x: Tensor
    version: int
    mode: tuple[bool, bool]
    activation: Tensor
    norms: list[tuple[nn.Module, Tensor]]


class _Memory:
    """Activations of one step's first pass, one per call of the model, for its second."""

    def __init__(self, first: int, buffers: list[Tensor], statistics: bool):
        self.first = first
        self.buffers = buffers
        self.statistics = statistics
        self.calls: list[_Call] = []
        self.replaying = False
        self.versions: list[int] | None = None
        self.norms: list[tuple[nn.Module, Tensor]] | None = None

    def replay(self) -> None:
        """The first pass is over: from now on give back what it computed."""
        self.replaying = True
        self.versions = [b._version for b in self.buffers]

    def recall(self, model: Staged, x: Tensor) -> Tensor:
        mode = torch.is_grad_enabled(), model.training
        if self.replaying:
            # DistributedDataParallel writes buffers before a pass, and so over what the kept graph
            # needs. Asked once: the norm layers below write them, too.
            if self.versions is not None:
                if self.versions != [b._version for b in self.buffers]:
                    self.calls.clear()
                self.versions = None
            call = self.calls.pop(0) if self.calls else None
            # Another input than in the first pass, or another mode: nothing to reuse.
            if call is None or call.x is not x or call[1:3] != (x._version, mode):
                return model.up_to(x, self.first)
            if self.statistics:
                with torch.no_grad():
                    for module, seen in call.norms:
                        module(seen)
            return call.activation
        self.norms = []
        activation = model.up_to(x, self.first)
        self.calls.append(_Call(x, x._version, mode, activation, self.norms))
        self.norms = None
        return activation

    def note(self, module: nn.Module, inputs: tuple) -> None:
        """Forward pre-hook of norm layers with running statistics."""
        if self.norms is not None and module.training:
            self.norms.append((module, inputs[0].detach()))


def _early(model: Staged, first: int) -> list[nn.Module]:
    """The modules outside stage `first` and later ones."""
    late = {id(m) for part in model.stages[first:] for m in part.modules()}
    return [m for m in model.modules() if id(m) not in late]


def _random(early: list[nn.Module]) -> bool:
    """Whether the prefix draws random numbers, which the second pass must draw anew."""
    return any(getattr(m, "p", 0) or getattr(m, "drop_prob", 0) for m in early)


def _own_buffers(module: nn.Module) -> list[Tensor]:
    """A module's own buffers, without the microseconds `buffers()` takes."""
    return [b for b in module._buffers.values() if b is not None]


@contextmanager
def reuse(
    model: nn.Module, first: int, norms: list[nn.Module], *, statistics: bool
) -> Iterator[_Memory | None]:
    """Keep the first pass's activations in front of stage `first` for the second pass.

    Args:
        model: the network; without stages, or with `first` 0, nothing is kept.
        first: leading stages that are not perturbed.
        norms: the model's norm layers.
        statistics: whether running statistics follow the second pass, too.

    Yields:
        What is kept; call its `replay` before the second pass. None if nothing is.
    """
    early = _early(model, first) if first and model.memory is None else []
    if not early or _random(early):
        yield None
        return
    memory = _Memory(first, [b for m in early for b in _own_buffers(m)], statistics)
    tracked = [m for m in norms if _own_buffers(m)] if statistics else []
    hooks = [m.register_forward_pre_hook(memory.note) for m in tracked]
    model.memory = memory
    try:
        yield memory
    finally:
        model.memory = None
        for hook in hooks:
            hook.remove()
