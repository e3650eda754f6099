"""SAMPa: both gradients of a step may be taken at once, because neither waits for the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError, within
from samlib.sam.closure import Closure, losses
from samlib.sam.descent import Descent
from samlib.sam.masks.base import Mask
from samlib.sam.optimizers import zero_grad
from samlib.sam.perturbation import Perturbation, Plan
from samlib.sam.restore import Saved
from samlib.sam.source.base import Source
from samlib.sam.state import Stateful, Where, grads_on, on
from samlib.sam.step import Backward, OnAscent, perturbed
from samlib.sam.when import When


class Aux(Source):
    """The gradient at the previewed step, which descent `Mix` hands over."""

    own_pass = False
    given: list[Tensor] | None = None

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> list[Tensor]:
        """The previewed gradient that `Mix` took before this pass."""
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
    numbers = ("reached",)
    reached: Sequence[bool] = ()  # by the loss of the last batch, parameter by parameter

    def __init__(self, lam: float = 0.2):
        self.lam = within("lam", lam, "[0, 1]")

    def check(self, perturbation: Perturbation) -> None:
        """Refuse another source, and steps left out."""
        if not isinstance(perturbation.source, Aux) or type(perturbation.when) is not When:
            raise ConfigError(
                "descent Mix is a step of its own: it takes source Aux and every step, not "
                f"{perturbation.source.name} and {perturbation.when.name}"
            )

    def reads(self, perturbation: Perturbation) -> Iterator[tuple[Stateful, Where]]:
        """Mix itself reads `.grad`, of every parameter."""
        yield self, perturbation.mask.trainable

    def step(
        self,
        closure: Closure,
        optimizers: Sequence[Optimizer],
        perturbation: Perturbation,
        on_ascent: OnAscent | None,
        backward: Backward,
    ) -> Tensor:
        """The whole step; returns the loss at y."""
        mask, source = perturbation.mask, perturbation.source
        assert isinstance(source, Aux), "see `check`"
        where = mask.trainable
        previewed, ascended = self.held(where, "previewed"), self.held(where, "ascended")
        if self.ready:
            pairs = zip(previewed, self.reached, strict=True)
            given = [g if reached else None for g, reached in pairs]
            with _previewed(optimizers, [p for _, p in where], given):
                loss = self._pass(closure, optimizers, perturbation, backward)
        else:
            loss = self._pass(closure, optimizers, perturbation, backward)
        reached = [p.grad is not None for _, p in where]
        with torch.no_grad():
            torch._foreach_copy_(previewed, grads_on(where))
            if not self.ready:
                torch._foreach_copy_(ascended, previewed)
            mixed = torch._foreach_mul(ascended, 1 - self.lam)
            torch._foreach_add_(mixed, previewed, alpha=self.lam)
            # A parameter that neither loss reaches is not stepped, as the base optimizer has it.
            of_either = map(any, zip(reached, self.reached or reached, strict=True))
            for (_, p), u, used in zip(where, mixed, of_either, strict=True):
                p.grad = u if used else None
        self.reached = reached
        for each in optimizers:
            each.step()
        of = {id(p): g for (_, p), g in zip(where, previewed, strict=True)}
        source.given = on(mask.entries, [of[id(e.parameter)] for e in mask.entries])
        plan = Plan(active=True, perturb=True)
        with perturbed(closure, perturbation, on_ascent, optimizer=optimizers, plan=plan):
            self._pass(closure, optimizers, perturbation, backward)
        with torch.no_grad():
            torch._foreach_copy_(ascended, grads_on(where))
        zero_grad(optimizers)
        self.ready = True
        return loss

    def _pass(
        self,
        closure: Closure,
        optimizers: Sequence[Optimizer],
        perturbation: Perturbation,
        backward: Backward,
    ) -> Tensor:
        zero_grad(optimizers)
        loss = losses(closure, perturbation, self.second)[0]
        backward(loss)
        return loss.detach()


@contextmanager
def _previewed(
    optimizers: Sequence[Optimizer], parameters: list[Tensor], gradient: list[Tensor | None]
) -> Iterator[None]:
    """Inside the block, weights as a step with this gradient would leave them.

    Some optimizers count steps in their groups, which are put back with the state.
    """
    states = [(o, p, dict(s)) for o in optimizers for p, s in o.state.items()]
    groups = [(group, dict(group)) for o in optimizers for group in o.param_groups]
    dicts = [*(state for *_, state in states), *(values for _, values in groups)]
    held = [t for each in dicts for t in each.values() if isinstance(t, Tensor)]
    kept = Saved([*parameters, *held])
    try:
        for p, g in zip(parameters, gradient, strict=True):
            p.grad = None if g is None else g.clone()  # which clipping may change
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
        for group, values in groups:
            group.clear()
            group.update(values)
        torch.clear_autocast_cache()
