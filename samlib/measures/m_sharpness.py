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
    """Worst-case m-sharpness in nats, over the coordinates of a mask, in eval mode.

    Args:
        model: a classifier; weights, buffers, `.grad` and modes are left as they are.
        inputs: examples, (n, ...).
        labels: their classes, int64 of shape (n,).
        mask: the coordinates delta may use; of this model.
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
        c = _ball(mask, adaptive)
        rises = []
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):

            def loss_at(u: list[Tensor], gradient: bool, x=x, y=y):
                moved = torch._foreach_add(list(weights.values()), torch._foreach_mul(c, u))
                there = dict(zip(weights, moved, strict=True))
                loss, grads = _loss(model, there, x, y, normalize_logits, gradient)
                if not math.isfinite(loss):
                    where = f"within rho = {rho:g} of" if any(map(torch.any, u)) else "at"
                    raise ConfigError(f"the loss is not finite {where} the model's weights")
                return loss, torch._foreach_mul(grads, c) if gradient else grads

            start = [torch.zeros_like(w) for w in weights.values()]
            rises.append(_apgd(loss_at, start, rho, steps, p, damped_first_step))
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


def _ball(mask: Mask, adaptive: bool) -> list[Tensor]:
    """c per parameter, 0 at coordinates outside the mask: what keeps delta on the mask."""
    c = []
    for entry in mask.entries:
        scale = entry.parameter.abs() if adaptive else torch.ones_like(entry.parameter)
        if entry.index is not None:
            chosen = torch.zeros(scale.numel(), dtype=torch.bool, device=scale.device)
            chosen[entry.index] = True
            scale = torch.where(chosen.view(scale.shape), scale, 0)
        c.append(scale)
    return c


def _loss(
    model: nn.Module,
    weights: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    normalize_logits: bool,
    gradient: bool,
) -> tuple[float, list[Tensor]]:
    """Loss of one batch with the model at other weights, and the gradient there if wanted."""
    with torch.set_grad_enabled(gradient):
        there = {name: w.requires_grad_(gradient) for name, w in weights.items()}
        loss = cross_entropy_at(model, there, x, y, normalized if normalize_logits else None)
        return loss.item(), gradients(loss, list(there.values())) if gradient else []


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
    u = before = best_u = start
    last, grad = loss_at(u, True)
    first = best = last
    best_grad = grad
    size = 2 * rho
    length = {end: end - begin for begin, end in pairwise([0, *halving_steps(steps)])}
    improving, halved, best_before = 0, False, first
    for i in range(1, steps + 1):
        z = _project(torch._foreach_add(u, _direction(grad, p), alpha=size), rho, p)
        alpha = 1.0 if i == 1 and not damped_first_step else _STEP
        momentum = torch._foreach_mul(torch._foreach_sub(u, before), 1 - alpha)
        mixed = torch._foreach_add(torch._foreach_lerp(u, z, alpha), momentum)
        before, u = u, _project(mixed, rho, p)
        loss, grad = loss_at(u, i < steps)
        improving += loss > last
        last = loss
        if loss > best:
            best, best_u, best_grad = loss, u, grad
        if i in length:
            few = improving < _IMPROVING * length[i]
            stuck = not halved and best == best_before
            halved = few or stuck
            if halved:  # from the best point, with the gradient and the loss found there
                size /= 2
                u, grad, last = best_u, best_grad, best
            improving, best_before = 0, best
    return best - first


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
