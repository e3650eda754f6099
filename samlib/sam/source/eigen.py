"""Eigen-SAM: the gradient, turned towards the top eigenvector of the Hessian on the mask."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from samlib.errors import within
from samlib.sam.geometry import FLOOR, Tensors
from samlib.sam.masks.base import Entry, Mask
from samlib.sam.restore import evaluating
from samlib.sam.source.base import Source
from samlib.sam.state import dot, length, on, unit


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
        self.alpha = within("alpha", alpha, "(-inf, inf)")
        self.every = within("every", every, "[1, inf)", whole=True)
        self.power = within("power", power, "[1, inf)", whole=True)
        self.steps = 0
        self.generator = torch.Generator().manual_seed(seed)

    def plan(self, mask: Mask, perturb: bool) -> bool:
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

    def refresh(
        self,
        closure: Callable[[], Tensor],
        mask: Mask,
        average: Callable[[Sequence[Tensor]], None] | None,
    ) -> None:
        """Power steps on the Hessian of the closure's loss."""
        v = self.held(mask.entries, "v")
        with evaluating(mask.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            curved = _hessian(closure(), mask)
            for _ in range(self.power):
                turned = curved(unit(v))
                if average is not None:
                    average(turned)
                torch._foreach_copy_(v, turned)
        torch._foreach_div_(v, length(v) + FLOOR)
        self.ready = True

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> Tensors:
        """The gradient, turned: d."""
        assert gradient is not None, "a pass of its own gives one"
        g, v = unit(gradient), self.held(mask.entries, "v")
        cos = dot(g, v)
        across = torch._foreach_sub(v, torch._foreach_mul(g, cos))
        return torch._foreach_add(g, torch._foreach_mul(across, self.alpha * cos.sign()))


def _hessian(loss: Tensor, mask: Mask) -> Callable[[Tensors], list[Tensor]]:
    """v -> P H P v of the loss, by differentiating twice."""
    parameters = [e.parameter for e in mask.entries]
    grads = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    curved = [g for g in grads if g.requires_grad]

    def product(v: Tensors) -> list[Tensor]:
        pairs = zip(grads, spread(mask, v), strict=True)
        given = [x for g, x in pairs if g.requires_grad]
        found = torch.autograd.grad(
            curved, parameters, given, retain_graph=True, materialize_grads=True
        )
        return on(mask.entries, found)

    return product


def spread(mask: Mask, values: Sequence[Tensor]) -> list[Tensor]:
    """Values on the mask as tensors of the parameters' shapes, 0 at other coordinates."""
    return [_whole(e, x) for e, x in zip(mask.entries, values, strict=True)]


def _whole(entry: Entry, x: Tensor) -> Tensor:
    if entry.index is None:
        return x
    flat = x.new_zeros(entry.parameter.numel())
    return flat.index_copy_(0, entry.index.to(x.device), x).view(entry.parameter.shape)
