"""Directions that do not climb: if they help as much as SAM does, the climb is not why."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.sam.masks.base import Mask
from samlib.sam.source.base import Source
from samlib.sam.source.this_step import Gradient


class Downhill(Gradient):
    """This step's gradient with its sign turned: the loss falls (ours)."""

    factor = -1.0


class Noise(Source):
    """A random direction, normal on every coordinate: the control that ships with OBF's code.

    Drawn on the CPU, so that every device sees the same, in a generator of its own. A step is one
    pass, at w + eps.
    """

    own_pass = False
    tensors = ("noise",)

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def begin(self, resumed: bool) -> None:
        """Noise on other coordinates is as good."""

    def plan(self, mask: Mask, perturb: bool) -> bool:
        """Draw this step's direction."""
        for t in self.held(mask.entries, "noise"):
            t.copy_(torch.randn(t.shape, generator=self.generator, dtype=t.dtype))
        return False

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> list[Tensor]:
        """The direction that `plan` drew."""
        return self.held(mask.entries, "noise")
