"""Eigen-SAM: the gradient, turned towards the top eigenvector of the Hessian on the mask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from samlib.errors import ConfigError
from samlib.sam.masks.base import Mask
from samlib.sam.restore import evaluating
from samlib.sam.source.base import Source
from samlib.sam.state import dot, length, on

_FLOOR = 1e-16


class Eigen(Source):
    """d = g^ + alpha sign(g.v) (v - (g^.v) g^), g^ = g / ||g|| (Luo et al., 2024).

    v is the top eigenvector of P H P, by warm-started power steps on the step's batch in evaluation
    mode. With a free radius, eps = rho d is as long as the authors': rho sqrt(1 + alpha^2 (1 -
    cos^2(g, v))). Their loop perturbs by rho g until v exists; here v exists from the first step.

    Args:
        alpha: how far d turns.
        every: steps between renewals of v.
        power: power steps per renewal.
        seed: of the first v.
    """

    shared = True
    ready = False
    tensors = ("v",)
    numbers = ("steps",)

    def __init__(self, alpha: float = 0.2, every: int = 100, power: int = 5, seed: int = 0):
        if every < 1 or power < 1:
            raise ConfigError(f"every and power must be at least 1, not {every} and {power}")
        self.alpha, self.every, self.power, self.steps = alpha, every, power, 0
        self.generator = torch.Generator().manual_seed(seed)

    def plan(self, mask, perturb):
        """Whether v is renewed: every so many steps, and where the coordinates are new."""
        v = self.held(mask.entries, "v")
        if not perturb:
            return False
        due = self.steps % self.every == 0 or not self.ready
        if not self.ready:
            for t in v:
                t.copy_(torch.randn(t.shape, generator=self.generator, dtype=t.dtype))
        self.steps += 1
        return due

    def refresh(self, closure, mask, average):
        """Power steps on the Hessian of the closure's loss."""
        v = self.held(mask.entries, "v")
        with evaluating(mask.model), torch.enable_grad():
            curved = _hessian(closure(), mask)
            for _ in range(self.power):
                turned = curved(torch._foreach_div(v, length(v) + _FLOOR))
                if average is not None:
                    average(turned)
                torch._foreach_copy_(v, turned)
        torch._foreach_div_(v, length(v) + _FLOOR)
        self.ready = True

    def direction(self, mask, gradient, optimizers):
        """d."""
        v = self.held(mask.entries, "v")
        unit = torch._foreach_div(gradient, length(gradient) + _FLOOR)
        cos = dot(unit, v)
        across = torch._foreach_sub(v, torch._foreach_mul(unit, cos))
        return torch._foreach_add(unit, torch._foreach_mul(across, self.alpha * cos.sign()))


def _hessian(loss: Tensor, mask: Mask):
    """v -> P H P v of the loss, by differentiating twice."""
    parameters = [e.parameter for e in mask.entries]
    grads = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    curved = [g for g in grads if g.requires_grad]

    def product(v: list[Tensor]) -> list[Tensor]:
        pairs = zip(grads, spread(mask, v), strict=True)
        given = [x for g, x in pairs if g.requires_grad]
        found = torch.autograd.grad(
            curved, parameters, given, retain_graph=True, materialize_grads=True
        )
        return on(mask.entries, found)

    return product


def spread(mask: Mask, values: Sequence[Tensor]) -> list[Tensor]:
    """Values on the mask as tensors of the parameters' shapes, 0 at other coordinates."""
    return [
        x
        if e.index is None
        else x.new_zeros(e.parameter.numel()).index_copy_(0, e.index, x).view(e.parameter.shape)
        for e, x in zip(mask.entries, values, strict=True)
    ]
