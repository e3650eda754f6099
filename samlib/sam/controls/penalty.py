"""A penalty on the gradient's length: what SAM's step is to first order, without an ascent."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam import checks
from samlib.sam.ascent import Gradients, ascent, dense
from samlib.sam.closure import Closure, losses
from samlib.sam.descent import Descent
from samlib.sam.optimizers import zero_grad
from samlib.sam.perturbation import Perturbation
from samlib.sam.source.eigen import spread
from samlib.sam.source.this_step import Gradient
from samlib.sam.state import dot
from samlib.sam.step import Backward, OnAscent
from samlib.sam.when import When


class Penalty(Descent):
    """u = grad (L + rho ||T P g||), T a constant: rho is the weight of the penalty.

        grad ||T P g|| = H T^2 P g / ||T P g||,  so that  u = g + H eps  with SAM's own eps

    (Zhao, Zhang and Hu, 2022, for T = I and every parameter.) One forward pass and two backward,
    the second of them through the first.
    """

    own_step = True

    def check(self, perturbation: Perturbation) -> None:
        """Refuse what is not SAM's eps at every step."""
        source, when = perturbation.source, perturbation.when
        if type(source) is not Gradient or type(when) is not When:
            raise ConfigError(
                "descent Penalty is a step of its own: it takes source Gradient and every step, "
                f"not {source.name} and {when.name}"
            )
        if perturbation.radius_over != "mask" or perturbation.radius.free:
            raise ConfigError("descent Penalty is on the mask's norm: radius_over 'mask', a ball")

    def step(
        self,
        closure: Closure,
        optimizers: Sequence[Optimizer],
        perturbation: Perturbation,
        on_ascent: OnAscent | None,
        backward: Backward,
    ) -> Tensor:
        """The whole step; returns the loss without the penalty."""
        checks.weights(perturbation)
        zero_grad(optimizers)
        mask = perturbation.mask
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels are differentiated once only
            loss = losses(closure, perturbation, self.second)[0]
        weights: list[Tensor] = [e.parameter for e in mask.entries]
        grads = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        g = dense(mask, mask.entries, weights, grads)
        now = [t.detach() for t in g]
        if perturbation.average is not None:
            now = [t.clone() for t in now]
            perturbation.average(now)
        found = ascent(perturbation, Gradients(mask.entries, now), optimizers)
        assert found is not None, "a pass of its own gives a direction"
        if on_ascent is not None:
            on_ascent(found)
        pairs = zip(g, spread(mask, found.eps), strict=True)
        backward(loss + sum(dot([t], [e]) for t, e in pairs if t.requires_grad))
        mask.observe(found.gradient)
        for each in optimizers:
            each.step()
        return loss.detach()
