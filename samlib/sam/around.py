"""Wrappers of a whole step: called as `sam_step` is, and knowing nothing of how it ascends."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError, within
from samlib.sam import checks
from samlib.sam.closure import Closure, losses
from samlib.sam.descent import Descent
from samlib.sam.geometry import FLOOR, Tensors
from samlib.sam.masks.base import Mask
from samlib.sam.optimizers import one_or_several, zero_grad
from samlib.sam.perturbation import Perturbation, Plan
from samlib.sam.restore import Saved
from samlib.sam.source.base import Source
from samlib.sam.source.this_step import Gradient
from samlib.sam.state import Stateful, dot
from samlib.sam.step import Backward, OnAscent, perturbed, sam_step


class Slow:
    """Lookbehind (Mordido et al., 2024): k ascents that add up, then a pull back to their start.

        p_i = p_(i-1) + B(grad L(p_(i-1))),  f_i = base(f_(i-1), grad L(p_i)),  p_0 = f_0 = s
        s <- s + alpha (f_k - s)

    Everything on one batch; momentum runs through the inner steps. A step is 2 k passes. After an
    exception in an inner step the weights are back at s; momentum and the norm layers' buffers stay
    as the inner steps before have left them.

    Args:
        k: inner steps.
        alpha: "adaptive" is (cos(f_1 - s, f_k - s) + 1) / 2, tensor by tensor.
    """

    def __init__(self, k: int = 2, alpha: float | Literal["adaptive"] = 0.5):
        self.k = within("k", k, "[1, inf)", whole=True)
        adaptive = alpha == "adaptive"
        self.alpha = alpha if adaptive else within("alpha, if not 'adaptive',", alpha, "[0, 1]")

    def __call__(
        self,
        closure: Closure,
        optimizer: Optimizer | Sequence[Optimizer],
        perturbation: Perturbation | None,
        *,
        epoch: int | None = None,
        plan: Plan | None = None,
        **options: Any,
    ) -> Tensor:
        """One step, called as `sam_step` is."""
        if plan is None and perturbation is not None:
            plan = perturbation.plan(epoch)
        if plan is not None and plan.active:
            assert perturbation is not None, "or nothing were active"
            _check_slow(perturbation, options)
        if plan is None or not plan.perturb:
            return sam_step(closure, optimizer, perturbation, epoch=epoch, plan=plan, **options)
        assert perturbation is not None, "or nothing were perturbed"
        weights: list[Tensor] = [p for _, p in perturbation.mask.trainable]
        slow = _clones(weights)
        try:
            several = one_or_several(optimizer)
            checks.covered("Slow", perturbation.mask, several)
            if options.get("backward") is None:
                checks.outside_ddp(several)
            first, last, loss = self._inner(
                closure, several, perturbation, plan, weights, **options
            )
        except BaseException:
            _copy(weights, slow)
            raise
        with torch.no_grad():
            _copy(weights, self._pulled(slow, first, last))
        return loss

    def _inner(
        self,
        closure: Closure,
        optimizers: Sequence[Optimizer],
        perturbation: Perturbation,
        plan: Plan,
        weights: list[Tensor],
        on_ascent: OnAscent | None = None,
        backward: Backward | None = None,
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Fast weights after the first and after the last inner step, and the loss at s."""
        high = fast = _clones(weights)
        first = at_slow = None
        for _ in range(self.k):
            _copy(weights, high)
            with perturbed(
                closure, perturbation, on_ascent, optimizer=optimizers, plan=plan
            ) as loss:
                zero_grad(optimizers)
                (backward or Tensor.backward)(losses(closure, perturbation, Descent().second)[0])
                high = _clones(weights)
            _copy(weights, fast)
            for each in optimizers:
                each.step()
            fast = _clones(weights)
            if first is None:
                first, at_slow = fast, loss
        assert first is not None, "k is at least 1"
        assert at_slow is not None, "source Gradient has a pass of its own"
        return first, fast, at_slow

    def _pulled(self, slow: list[Tensor], first: list[Tensor], last: list[Tensor]) -> Tensors:
        if self.alpha != "adaptive":
            return torch._foreach_lerp(slow, last, self.alpha)
        one, all_of_it = torch._foreach_sub(first, slow), torch._foreach_sub(last, slow)
        norms = [a.norm() * b.norm() + FLOOR for a, b in zip(one, all_of_it, strict=True)]
        pairs = zip(one, all_of_it, norms, strict=True)
        alphas = [(dot([a], [b]) / n + 1) / 2 for a, b, n in pairs]
        return torch._foreach_add(slow, torch._foreach_mul(all_of_it, alphas))


def _check_slow(perturbation: Perturbation, options: dict) -> None:
    source, when = perturbation.source, perturbation.when
    looks_back = type(source).after_step is not Source.after_step
    if not isinstance(source, Gradient) or looks_back or when.looks or "descent" in options:
        raise ConfigError(
            "Slow climbs by this step's gradient and descends on the last: it takes source "
            f"Gradient, not {source.name}, no when that looks ({when.name}), no descent"
        )


class Stretch(Stateful):
    """IRE (Wang et al., 2024): w <- w' + kappa M (w' - w) after an inner step from w to w'.

    M is 1 where the diagonal Fisher is at most its (rank d)-th largest value: flat directions are
    walked faster. The Fisher is the squared gradient on one batch of the whole run with labels
    drawn from the model, in training mode; the authors let that pass into the running statistics.

    Args:
        kappa: how much further; 0 is the inner step.
        logits: forward pass of that batch, (n, classes). Processes that train one network must
            return the same logits: M is made of them alone, and replicas with an M of their own
            drift apart.
        rank: share of the coordinates with the largest Fisher, in (0, 1].
        every: steps between renewals of M.
        start: first epoch; steps then need to know theirs.
        seed: of the labels.
        inner: the step it wraps.
    """

    tensors = ("flat",)
    numbers = ("steps",)

    def __init__(
        self,
        kappa: float,
        logits: Callable[[], Tensor],
        rank: float = 0.1,
        every: int = 10,
        start: int = 0,
        seed: int = 0,
        inner: Callable = sam_step,
    ):
        self.kappa = within("kappa", kappa, "[0, inf)")
        self.rank = within("rank", rank, "(0, 1]")
        self.every = within("every", every, "[1, inf)", whole=True)
        self.start = within("start", start, "[0, inf)", whole=True)
        self.logits, self.inner, self.steps = logits, inner, 0
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(
        self,
        closure: Closure,
        optimizer: Optimizer | Sequence[Optimizer],
        perturbation: Perturbation | None,
        *,
        epoch: int | None = None,
        **options: Any,
    ) -> Tensor:
        """One step, called as `sam_step` is."""
        if epoch is None and self.start:
            raise ConfigError(f"Stretch has start {self.start}: say which epoch it is, epoch=epoch")
        if epoch is not None and epoch < self.start:
            return self.inner(closure, optimizer, perturbation, epoch=epoch, **options)
        if perturbation is None:
            raise ConfigError("Stretch takes a perturbation: one of rho 0 for the base optimizer")
        checks.covered("Stretch", perturbation.mask, one_or_several(optimizer))
        where = perturbation.mask.trainable
        flat = self.held(where, "flat")
        if self.steps % self.every == 0:
            self._renew(perturbation.mask, flat)
        self.steps += 1
        weights: list[Tensor] = [p for _, p in where]
        before = _clones(weights)
        loss = self.inner(closure, optimizer, perturbation, epoch=epoch, **options)
        with torch.no_grad():
            way = torch._foreach_mul(torch._foreach_sub(weights, before), flat)
            torch._foreach_add_(weights, way, alpha=self.kappa)
        return loss

    def _renew(self, mask: Mask, flat: list[Tensor]) -> None:
        weights, statistics = [p for _, p in mask.trainable], Saved(mask.norm_buffers)
        torch.clear_autocast_cache()  # an outer autocast still has casts of the last step's weights
        with torch.enable_grad():
            logits = self.logits()
            p = logits.detach().float().softmax(1).cpu()
            labels = p.multinomial(1, generator=self.generator).flatten().to(logits.device)
            loss = F.cross_entropy(logits, labels)
            grads = torch.autograd.grad(loss, weights, materialize_grads=True)
        with torch.no_grad():
            statistics.restore()
            fisher = torch._foreach_mul(grads, grads)
            count = int(self.rank * sum(f.numel() for f in fisher))
            if not count:
                raise ConfigError(f"rank {self.rank} of the weights is not one of them")
            least = torch.cat([f.flatten() for f in fisher]).topk(count).values[-1]
            for kept, f in zip(flat, fisher, strict=True):
                kept.copy_(f <= least)


def _clones(weights: Tensors) -> list[Tensor]:
    return [p.detach().clone() for p in weights]


@torch.no_grad()
def _copy(to: list[Tensor], of: Tensors) -> None:
    torch._foreach_copy_(to, of)
    torch.clear_autocast_cache()
