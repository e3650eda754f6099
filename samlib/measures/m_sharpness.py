"""Worst-case m-sharpness: how far the loss rises within a small ball around the weights.

    S = mean over batches B of max { L_B(w + delta) - L_B(w) : ||delta / c||_p <= rho }

with c = |w| (adaptive) or 1, p = inf or 2, batches of m examples, L_B the mean cross-entropy
without label smoothing, on logits centred and divided by their norm so that no network looks
flat or sharp for the scale of its outputs alone (specification 5; Andriushchenko, Croce, Müller,
Hein and Flammarion, 2023, "A modern look at the relationship between sharpness and
generalization"). The maximum is sought by APGD (Croce and Hein, 2020, "Reliable evaluation of
adversarial robustness with an ensemble of diverse parameter-free attacks", algorithm 1) and
runs over its iterates, delta = 0 among them: S is a lower bound of the definition, and >= 0.

The network is evaluated at other weights without writing to its own, which therefore need no
restoring.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from samlib.errors import ConfigError
from samlib.measures.loss_at import (
    cross_entropy_at,
    gradients,
    masked_weights,
    require_count,
    require_examples,
)
from samlib.sam.masks.base import Mask
from samlib.sam.restore import evaluating

_STEP = 0.75  # alpha of APGD: share of the gradient step, the rest is momentum
_IMPROVING = 0.75  # rho of APGD: with a smaller share of improving steps the step is halved


def m_sharpness(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    mask: Mask,
    *,
    rho: float,
    steps: int,
    batch_size: int,
    p: float = math.inf,
    adaptive: bool = True,
    normalize_logits: bool = True,
    damped_first_step: bool = False,
) -> float:
    """Worst-case m-sharpness in nats, over the parameters of a mask, in eval mode.

    Args:
        model: a classifier; weights, buffers, `.grad` and modes are left as they are.
        inputs: examples, (n, ...).
        labels: their classes, int64 of shape (n,).
        mask: the parameters delta may use, whole ones of this model.
        rho: radius, finite and >= 0.
        steps: APGD steps, each one gradient per batch. One is the sign (p = inf) or normalised
            (p = 2) gradient step to the boundary.
        batch_size: m; n must be a multiple, because m is part of what is measured.
        p: math.inf or 2.
        adaptive: c = |w| per coordinate; False: c = 1.
        normalize_logits: False takes the cross-entropy of the logits as they are.
        damped_first_step: True mixes the first step with its starting point as all later ones
            are, so that it ends at 0.75 rho. The public implementation does, which makes its
            1-step sharpness that of a smaller ball (specification 5, quirk a).

    Raises:
        ConfigError: a value out of range, data or mask that do not fit the model, or a loss
            that is not finite at w or inside the ball.
    """
    if isinstance(rho, bool) or not isinstance(rho, int | float):
        raise ConfigError(f"rho must be a number, not {rho!r}")
    if not (math.isfinite(rho) and rho >= 0):
        raise ConfigError(f"rho must be finite and >= 0, not {rho!r}")
    require_count("steps", steps)
    require_count("batch_size", batch_size)
    if isinstance(p, bool) or p not in (2, math.inf):
        raise ConfigError(f"p must be 2 or math.inf, not {p!r}")
    n = require_examples(inputs, labels)
    if n % batch_size:
        raise ConfigError(
            f"{n} examples are no whole number of batches of {batch_size}; "
            "a shorter batch would measure another m"
        )
    weights = masked_weights(model, mask)
    with evaluating(model), torch.no_grad():
        c = [w.abs() if adaptive else torch.ones_like(w) for w in weights.values()]
        start = [torch.zeros_like(w) for w in weights.values()]
        rises = []
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            batch = _Batch(model, weights, c, x, y, normalize_logits, rho)
            rises.append(_apgd(batch.loss_at, start, rho, steps, p, damped_first_step))
    return math.fsum(rises) / len(rises)


def normalized(logits: Tensor) -> Tensor:
    """(z - mean z) / ||z - mean z||_2 along the last dimension; 0 where all logits are equal.

    >>> normalized(torch.tensor([[0.0, 2.0]]))
    tensor([[-0.7071,  0.7071]])
    """
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-10)


def halving_steps(steps: int) -> list[int]:
    """Steps, from 1, after which APGD may halve its step: ceil(p_j steps), each once.

    p_0 = 0, p_1 = 0.22, p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06) (Croce and Hein, 2020). In
    floating point 0.70 * 20 is a little more than 14; 15 is where the public implementation has
    its checkpoint, too.

    >>> halving_steps(20)
    [5, 9, 12, 15, 16, 18, 19, 20]
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    found = (math.ceil(share * steps) for share in shares[1:])
    return sorted({i for i in found if i <= steps})


@dataclass(frozen=True)
class _Batch:
    """The loss of one batch as a function of u = delta / c."""

    model: nn.Module
    weights: dict[str, Tensor]
    c: list[Tensor]
    x: Tensor
    y: Tensor
    normalize_logits: bool
    rho: float

    def loss_at(self, u: list[Tensor], gradient: bool) -> tuple[float, list[Tensor]]:
        """Loss at w + c u, and its gradient in u if that is wanted.

        Raises:
            ConfigError: the loss is not finite there.
        """
        moved = torch._foreach_add(list(self.weights.values()), torch._foreach_mul(self.c, u))
        there = dict(zip(self.weights, moved, strict=True))
        transform = normalized if self.normalize_logits else None
        with torch.set_grad_enabled(gradient):
            there = {name: w.requires_grad_(gradient) for name, w in there.items()}
            loss = cross_entropy_at(self.model, there, self.x, self.y, transform)
            grads = gradients(loss, list(there.values())) if gradient else []
        if not math.isfinite(loss.item()):
            where = f"within rho = {self.rho:g} of" if any(map(torch.any, u)) else "at"
            raise ConfigError(f"the loss is not finite {where} the model's weights")
        return loss.item(), list(torch._foreach_mul(grads, self.c)) if gradient else []


@dataclass(frozen=True)
class _Iterate:
    """A point of the ball, the loss there, and its gradient; none after the last step."""

    u: list[Tensor]
    loss: float
    grad: list[Tensor]


def _apgd(
    loss_at: Callable[[list[Tensor], bool], tuple[float, list[Tensor]]],
    start: list[Tensor],
    rho: float,
    steps: int,
    p: float,
    damped_first_step: bool,
) -> float:
    """Largest rise of the loss found over ||u||_p <= rho from u = start = 0.

    The search runs in u = delta / c, where the ball is round (or a cube) and coordinates with
    c = 0 have gradient 0 and stay. `loss_at(u, gradient)` gives the loss and, if asked for, its
    gradient in u.
    """
    first = here = best = _Iterate(start, *loss_at(start, True))
    before = start
    size = 2 * rho
    length = {end: end - begin for begin, end in pairwise([0, *halving_steps(steps)])}
    improved, halved, best_before = 0, False, first.loss
    for i in range(1, steps + 1):
        z = _project(torch._foreach_add(here.u, _direction(here.grad, p), alpha=size), rho, p)
        alpha = 1.0 if i == 1 and not damped_first_step else _STEP
        momentum = torch._foreach_mul(torch._foreach_sub(here.u, before), 1 - alpha)
        u = _project(torch._foreach_add(torch._foreach_lerp(here.u, z, alpha), momentum), rho, p)
        before, there = here.u, _Iterate(u, *loss_at(u, i < steps))
        improved += there.loss > here.loss
        here = there
        if here.loss > best.loss:
            best = here
        if i in length:
            few_steps_improved = improved < _IMPROVING * length[i]
            best_stands_still = not halved and best.loss == best_before
            halved = few_steps_improved or best_stands_still
            if halved:
                size, here = size / 2, best
            improved, best_before = 0, best.loss
    return best.loss - first.loss


def _direction(grad: list[Tensor], p: float) -> list[Tensor]:
    """Steepest ascent of unit p-norm; 0 for a zero gradient."""
    if p == math.inf:
        return list(torch._foreach_sign(grad))
    norm = _norm(grad)
    return list(torch._foreach_mul(grad, torch.where(norm > 0, 1 / norm, 0)))


def _project(u: list[Tensor], rho: float, p: float) -> list[Tensor]:
    """The nearest point with ||u||_p <= rho."""
    if p == math.inf:
        return [t.clamp(-rho, rho) for t in u]
    norm = _norm(u)
    return list(torch._foreach_mul(u, torch.where(norm > rho, rho / norm, 1)))


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
