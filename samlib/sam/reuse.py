"""Nothing computed twice: what lies in front of the first perturbed stage runs once per step.

Both passes of a step see the same batch, and the parameters in front of the first masked stage
are not moved between them: their activations are the same bit for bit, so the second pass starts
from the first one's, graph included, through which the descent gradient reaches them. Running
statistics that should follow both passes are updated a second time by the norm layers themselves,
on the inputs they had. It happens by itself for models with stages and masks inside later ones.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Staged(nn.Module):
    """A network as stages in forward order, and what comes before and after them."""

    memory: "_Recording | _Replaying | None" = None  # set for the length of a step

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
        x = memory.input_of_first(self, x) if memory else self.up_to(x, 0)
        for part in self.stages[first:]:
            x = part(x)
        return self.after_stages(x)


def untouched_stages(model: nn.Module, parameters: list[nn.Parameter]) -> int:
    """How many leading stages a mask of these parameters leaves alone; 0 without stages.

    Parameters outside the stages count as in front of them, and shared ones where they come first.
    """
    if not isinstance(model, Staged):
        return 0
    stages = reversed([*enumerate(model.stages)])
    at = {id(p): i for i, part in stages for p in part.parameters()}
    inside = Counter(p for part in model.stages for p in _names(part))
    every = Counter(_names(model))
    return min(at.get(id(p), 0) if every[id(p)] == inside[id(p)] else 0 for p in parameters)


def _names(module: nn.Module) -> list[int]:
    # The id of each parameter, as often as it has a name.
    return [id(p) for _, p in module.named_parameters(remove_duplicate=False)]


class _Kept(NamedTuple):
    """A tensor and its version, which counts writes to it."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> "_Kept":
        return cls(tensor, tensor._version)

    @property
    def unwritten(self) -> bool:
        return self.tensor._version == self.version


@dataclass(frozen=True)
class _Call:
    """One call of the model in the first pass: what it was given, and what came of it."""

    x: _Kept
    mode: tuple[bool, bool]  # see `_mode`
    activation: _Kept  # the input of the first perturbed stage
    norms: list[tuple[nn.Module, _Kept]]  # norm layers in front of it, with their inputs

    def is_repeated_by(self, x: Tensor, mode: tuple[bool, bool]) -> bool:
        """Whether the same input comes again, unchanged and in the same mode."""
        kept = (self.x, self.activation, *(seen for _, seen in self.norms))
        # A closure that differentiates by its input has used up the graph in between.
        same = self.x.tensor is x and self.mode == mode and not x.requires_grad
        return same and all(each.unwritten for each in kept)


def _mode(model: nn.Module) -> tuple[bool, bool]:
    return torch.is_grad_enabled(), model.training


class _Recording:
    """The first pass: keeps what it computes in front of stage `first`, call by call."""

    def __init__(self, model: Staged, first: int, buffers: list[Tensor]):
        self.first = first
        self.calls: deque[_Call] = deque()
        self.buffers = buffers  # of the modules in front of stage `first`
        self._model = model
        self._norms: list[tuple[nn.Module, _Kept]] | None = None  # of the call that is under way

    def input_of_first(self, model: Staged, x: Tensor) -> Tensor:
        """The input of stage `first`, computed and kept."""
        norms = self._norms = []
        mode, activation = _mode(model), model.up_to(x, self.first)
        self._norms = None
        self.calls.append(_Call(_Kept.of(x), mode, _Kept.of(activation), norms))
        return activation

    def note(self, module: nn.Module, inputs: tuple) -> None:
        """Forward pre-hook of norm layers whose running statistics follow both passes."""
        if self._norms is not None and module.training:
            self._norms.append((module, _Kept.of(inputs[0].detach())))

    def replay(self) -> None:
        """The first pass is over: from now on give back what it computed."""
        self._model.memory = _Replaying(self)


class _Replaying:
    """The second pass: gives back what the first one computed, where the same is asked for."""

    def __init__(self, recording: _Recording):
        self.first = recording.first
        self._calls = recording.calls
        self._buffers = recording.buffers
        self._versions: list[int] | None = [b._version for b in self._buffers]

    def input_of_first(self, model: Staged, x: Tensor) -> Tensor:
        """The input of stage `first`: the kept one, or computed anew."""
        if self._buffers_written():
            self._calls.clear()
        call = self._calls.popleft() if self._calls else None
        if call is None or not call.is_repeated_by(x, _mode(model)):
            return model.up_to(x, self.first)
        with torch.no_grad():
            for module, seen in call.norms:
                module(seen.tensor)
        return call.activation.tensor

    def _buffers_written(self) -> bool:
        """Whether buffers were written between the passes, and so over what a graph needs.

        DistributedDataParallel does. Asked at the first call alone: the norm layers write, too.
        """
        before, self._versions = self._versions, None
        return before is not None and before != [b._version for b in self._buffers]


def _early(model: Staged, first: int) -> list[nn.Module]:
    """The modules outside stage `first` and later ones."""
    late = {id(m) for part in model.stages[first:] for m in part.modules()}
    return [m for m in model.modules() if id(m) not in late]


_DRAWING = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
# Where modules of torch, torchvision and timm keep the share of what they drop at random.
_DROPPED = ("p", "prob", "drop_prob", "dropout")


def _random(module: nn.Module) -> bool:
    """Whether a module draws random numbers, which the second pass must draw anew.

    What only looks so, as the p of a norm, is not reused either: that costs time and no more.
    """
    own = vars(module)
    shares = [own[name] for name in _DROPPED if name in own]
    return any(isinstance(s, int | float) and s for s in shares) or isinstance(module, _DRAWING)


def _own_buffers(module: nn.Module) -> list[Tensor]:
    """A module's own buffers, without the microseconds `buffers()` takes."""
    return [b for b in module._buffers.values() if b is not None]


@contextmanager
def reuse(
    model: nn.Module, first: int, norms: list[nn.Module], *, statistics: bool
) -> Iterator[_Recording | None]:
    """Keep the first pass's activations in front of stage `first` for the second pass.

    Args:
        model: the network; without stages, or with `first` 0, nothing is kept.
        first: leading stages that are not perturbed.
        norms: the model's norm layers.
        statistics: whether running statistics follow the second pass, too.

    Yields:
        What is kept; call its `replay` before the second pass. None if nothing is.
    """
    if not (isinstance(model, Staged) and first and model.memory is None):
        yield None
        return
    early = _early(model, first)
    if not early or any(map(_random, early)):
        yield None
        return
    memory = _Recording(model, first, [b for m in early for b in _own_buffers(m)])
    tracked = [m for m in norms if _own_buffers(m)] if statistics else []
    hooks = [m.register_forward_pre_hook(memory.note) for m in tracked]
    model.memory = memory
    try:
        yield memory
    finally:
        model.memory = None
        for hook in hooks:
            hook.remove()
