"""Sources that look along this step's gradient, or along something made of it."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError, choose, within
from samlib.sam.geometry import Tensors
from samlib.sam.masks.base import Mask
from samlib.sam.source.base import Source


class Gradient(Source):
    """This step's gradient: SAM (Foret et al., 2021)."""

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> list[Tensor] | None:
        """The gradient g_t as it is."""
        return gradient


class OtherLoss(Gradient):
    """The gradient of another loss of the same batch (`obf`).

    The closure returns two scalars: the loss that is descended, and the one that is ascended.

    Args:
        options: of `obf`, for a closure that calls it by `family.losses`.
    """

    other_loss = True

    def __init__(self, **options: Any):
        obf(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), **options)  # or refused here
        self.options = options

    def losses(self, returned: Any) -> tuple[Any, Any]:
        """The pair that the closure returned."""
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ConfigError(
                "source OtherLoss needs a closure that returns two losses: the one to descend and "
                "the one to ascend"
            )
        return returned


def obf(
    logits: Tensor,
    labels: Tensor,
    *,
    lam: float = 1e-3,
    gamma: float = 1.0,
    probabilities: Literal["sigmoid", "softmax"] = "sigmoid",
) -> Tensor:
    """What output bias forgetting ascends in place of the loss (Vani et al., 2024).

        mean sum_c (1/C - a p_c - (1 - a) 1[c = y]) x_c,   a = gamma max(0, (1 - lam/p_y)/(1 - lam))

    a and p are constants: with softmax its gradient is that of (1 - a) CE(p, y) - CE(p, uniform).
    The released code takes p from a sigmoid, whatever the descent's loss.

    Args:
        logits: (n, classes).
        labels: (n,) int64.
        lam: in [0, 1), the released 1/1000.
        gamma: >= 0, the released 1 of its ViT-S/32 (its ResNet-50 has 1e-12: a = 0).
        probabilities: what p is.

    Raises:
        ConfigError: a value out of range.
    """
    within("lam", lam, "[0, 1)")
    within("gamma", gamma, "[0, inf)")
    choose("probabilities", probabilities, ("sigmoid", "softmax"))
    x = logits.detach()
    p = x.sigmoid() if probabilities == "sigmoid" else x.softmax(1)
    a = gamma * ((1 - lam / p.gather(1, labels[:, None])) / (1 - lam)).clamp(min=0)
    correct = torch.zeros_like(p).scatter_(1, labels[:, None], 1.0)
    return ((1 / p.shape[1] - a * p - (1 - a) * correct) * logits).sum(1).mean()


class Mean(Source):
    """VaSSO (Li and Giannakis, 2023): a_t = (1 - theta) a_(t-1) + theta g_t, a_0 = g_0."""

    shared = True
    ready = False
    tensors = ("mean",)

    def __init__(self, theta: float = 0.9):
        self.theta = within("theta", theta, "[0, 1]")

    def begin(self, resumed: bool) -> None:
        """The first gradient enters with weight 1, without a branch, so that it can be recorded."""
        super().begin(resumed)
        first = self._held["mean"][0]
        self._weight = first.new_full((), self.theta if self.ready else 1.0)

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> Tensors:
        """The mean a_t, by a + theta (g - a), which leaves a = g as it is to the last bit."""
        assert gradient is not None, "a pass of its own gives one"
        mean = self.held(mask.entries, "mean")
        step = torch._foreach_mul(torch._foreach_sub(gradient, mean), self._weight)
        torch._foreach_add_(mean, step)
        self._weight.fill_(self.theta)
        self.ready = True
        return mean


class Residual(Mean):
    """F-SAM (Li et al., 2024): d_t = g_t - sigma m_(t-1), then m_t = lam m_(t-1) + (1 - lam) g_t.

    The mean is that before g_t entered, as in the authors' code; d_0 = g_0 = m_0.
    """

    def __init__(self, sigma: float = 1.0, lam: float = 0.6):
        super().__init__(1 - within("lam", lam, "[0, 1]"))
        self.sigma = within("sigma", sigma, "(-inf, inf)")

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> Tensors:
        """What g_t adds to the mean before it, d_t."""
        assert gradient is not None, "a pass of its own gives one"
        before = torch._foreach_mul(self.held(mask.entries, "mean"), self.sigma)
        super().direction(mask, gradient, optimizers)
        return torch._foreach_sub(gradient, before)


class LastClean(Source):
    """AsyncSAM (Jo, Lim and Lee): the gradient at the last step's w, of its batch; two passes."""

    shared = True
    ready = False
    tensors = ("last",)

    def direction(
        self, mask: Mask, gradient: list[Tensor] | None, optimizers: Sequence[Optimizer]
    ) -> list[Tensor]:
        """The last step's gradient g_(t-1); g_t is kept for the next."""
        assert gradient is not None, "a pass of its own gives one"
        kept = self.held(mask.entries, "last")
        last = [t.clone() for t in kept]
        torch._foreach_copy_(kept, gradient)
        self.ready = True
        return last
