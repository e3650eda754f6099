"""SAMPa: both gradients of a step may be taken at once, because neither waits for the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam.closure import losses
from samlib.sam.descent import Descent
from samlib.sam.restore import Saved
from samlib.sam.source.base import Source
from samlib.sam.state import grads_on, on
from samlib.sam.step import perturbed, zero_grad
from samlib.sam.when import When


class Aux(Source):
    """The gradient at the previewed step, which descent `Mix` hands over."""

    own_pass = False
    given: list[Tensor] | None = None

    def direction(self, mask, gradient, optimizers):
        """That gradient."""
        if self.given is None:
            raise ConfigError("source Aux is part of SAMPa: give sam_step the descent Mix, too")
        return self.given


class Mix(Descent):
    """SAMPa (Xie et al., 2024): u = (1 - lam) grad L_(t-1)(w + B(G)) + lam grad L_t(y), w by u.

    y previews the whole step of the base optimizer with G, the last such gradient, and grad L_t(y)
    becomes G; the first step takes both at w. The authors compute the two side by side; here the
    first is taken at the end of the step before, on that step's batch, which is the same.

    Args:
        lam: the share of the previewed gradient; 1 leaves the perturbation out.
    """

    own_step = True
    over = "all"
    ready = False
    tensors = ("previewed", "ascended")

    def __init__(self, lam: float = 0.2):
        if not 0 <= lam <= 1:
            raise ConfigError(f"lam must be in [0, 1], not {lam!r}")
        self.lam = lam

    def check(self, perturbation):
        """Refuse another source, and steps left out."""
        if not isinstance(perturbation.source, Aux) or type(perturbation.when) is not When:
            raise ConfigError(
                "descent Mix is a step of its own: it takes source Aux and every step, not "
                f"{perturbation.source.name} and {perturbation.when.name}"
            )

    def step(self, closure, optimizers, perturbation, on_ascent, backward):
        """The whole step; returns the loss at y."""
        mask = perturbation.mask
        where = mask.trainable
        previewed, ascended = self.held(where, "previewed"), self.held(where, "ascended")
        if self.ready:
            with _previewed(optimizers, [p for _, p in where], previewed):
                loss = self._pass(closure, optimizers, perturbation, backward)
        else:
            loss = self._pass(closure, optimizers, perturbation, backward)
        with torch.no_grad():
            torch._foreach_copy_(previewed, grads_on(where))
            if not self.ready:
                torch._foreach_copy_(ascended, previewed)
            mixed = torch._foreach_mul(ascended, 1 - self.lam)
            torch._foreach_add_(mixed, previewed, alpha=self.lam)
            for (_, p), u in zip(where, mixed, strict=True):
                p.grad = u
        for each in optimizers:
            each.step()
        of = {id(p): g for (_, p), g in zip(where, previewed, strict=True)}
        perturbation.source.given = on(mask.entries, [of[id(e.parameter)] for e in mask.entries])
        with perturbed(closure, perturbation, on_ascent, optimizer=optimizers):
            self._pass(closure, optimizers, perturbation, backward)
        with torch.no_grad():
            torch._foreach_copy_(ascended, grads_on(where))
        zero_grad(optimizers)
        self.ready = True
        return loss

    def _pass(self, closure, optimizers, perturbation, backward) -> Tensor:
        zero_grad(optimizers)
        loss = losses(closure, perturbation, self.second)[0]
        backward(loss)
        return loss.detach()


@contextmanager
def _previewed(
    optimizers: Sequence[Optimizer], parameters: list[Tensor], gradient: list[Tensor]
) -> Iterator[None]:
    """Inside the block, weights as a step with this gradient would leave them."""
    states = [(o, p, dict(s)) for o in optimizers for p, s in o.state.items()]
    held = [t for *_, state in states for t in state.values() if isinstance(t, Tensor)]
    kept = Saved([*parameters, *held])
    try:
        for p, g in zip(parameters, gradient, strict=True):
            p.grad = g.clone()  # which clipping may change
        for each in optimizers:
            each.step()
        yield
    finally:
        with torch.no_grad():
            kept.restore()
        for each in optimizers:
            each.state.clear()
        for optimizer, parameter, state in states:
            optimizer.state[parameter] = state
        torch.clear_autocast_cache()
