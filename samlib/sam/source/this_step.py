"""Sources that look along this step's gradient, or along something made of it."""

from typing import Literal

import torch
from torch import Tensor

from samlib.errors import ConfigError
from samlib.sam.source.base import Source


class Gradient(Source):
    """This step's gradient: SAM (Foret et al., 2021)."""

    def direction(self, mask, gradient, optimizers):
        """g_t."""
        return gradient


class Downhill(Gradient):
    """This step's gradient with its sign turned: the loss falls, a control (ours)."""

    factor = -1.0


class OtherLoss(Gradient):
    """The gradient of another loss of the same batch (`obf`).

    The closure returns two scalars: the loss that is descended, and the one that is ascended.
    """

    other_loss = True

    def losses(self, returned):
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
        lam, gamma: the released 1/1000, and 1 of its ViT-S/32 (its ResNet-50 has 1e-12: a = 0).
        probabilities: what p is.
    """
    x = logits.detach()
    p = x.sigmoid() if probabilities == "sigmoid" else x.softmax(1)
    a = gamma * ((1 - lam / p.gather(1, labels[:, None])) / (1 - lam)).clamp(min=0)
    correct = torch.zeros_like(p).scatter_(1, labels[:, None], 1.0)
    return ((1 / p.shape[1] - a * p - (1 - a) * correct) * logits).sum(1).mean()


class _Averaging(Source):
    """A source with an exponential mean m of gradients, m_0 = g_0."""

    shared = True
    ready = False
    tensors = ("mean",)
    rate: float  # with which a gradient enters the mean

    def begin(self, resumed):
        """The first gradient enters with weight 1, without a branch, so that it can be recorded."""
        super().begin(resumed)
        first = self._held["mean"][0]
        self._weight = first.new_full((), self.rate if self.ready else 1.0)

    def enter(self, mask, gradient: list[Tensor]) -> None:
        """m <- m + rate (g - m), which leaves m = g as it is to the last bit."""
        mean = self.held(mask.entries, "mean")
        step = torch._foreach_mul(torch._foreach_sub(gradient, mean), self._weight)
        torch._foreach_add_(mean, step)
        self._weight.fill_(self.rate)
        self.ready = True


class Mean(_Averaging):
    """VaSSO (Li and Giannakis, 2023): a_t = (1 - theta) a_(t-1) + theta g_t, a_0 = g_0."""

    def __init__(self, theta: float = 0.9):
        self.rate = theta

    def direction(self, mask, gradient, optimizers):
        """a_t."""
        self.enter(mask, gradient)
        return self.held(mask.entries, "mean")


class Residual(_Averaging):
    """F-SAM (Li et al., 2024): d_t = g_t - sigma m_(t-1), then m_t = lam m_(t-1) + (1 - lam) g_t.

    The mean is that before g_t entered, as in the authors' code; d_0 = g_0 = m_0.
    """

    def __init__(self, sigma: float = 1.0, lam: float = 0.6):
        self.sigma, self.rate = sigma, 1 - lam

    def direction(self, mask, gradient, optimizers):
        """d_t."""
        mean = torch._foreach_mul(self.held(mask.entries, "mean"), self.sigma)
        self.enter(mask, gradient)
        return torch._foreach_sub(gradient, mean)


class LastClean(Source):
    """AsyncSAM (Jo, Lim and Lee): the gradient at the last step's w, of its batch; two passes."""

    shared = True
    ready = False
    tensors = ("last",)

    def direction(self, mask, gradient, optimizers):
        """g_(t-1); g_t is kept."""
        kept = self.held(mask.entries, "last")
        last = [t.clone() for t in kept]
        torch._foreach_copy_(kept, gradient)
        self.ready = True
        return last
