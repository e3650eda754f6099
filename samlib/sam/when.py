"""Which steps are perturbed, of those in the active epochs."""

import math
from typing import ClassVar

import torch

from samlib.errors import within
from samlib.sam.geometry import Tensors
from samlib.sam.state import Stateful


class When(Stateful):
    """Every step.

    Attributes:
        looks: whether the gradient of a first pass decides.
    """

    looks: ClassVar[bool] = False

    def plan(self) -> bool | None:
        """Called once before every active step: whether it is perturbed; None asks `sees`."""
        return True

    def sees(self, gradient: Tensors) -> bool:
        """Whether the step with this gradient on the mask is perturbed."""
        return True


class Every(When):
    """The first step and every k-th after it."""

    numbers = ("steps",)

    def __init__(self, k: int):
        self.k, self.steps = within("k", k, "[1, inf)", whole=True), 0

    def plan(self) -> bool:
        """Whether the steps so far are a multiple of k; this step is counted."""
        self.steps += 1
        return (self.steps - 1) % self.k == 0


class Sometimes(When):
    """SS-SAM (Zhao et al., 2022): each step with probability p, from a generator of its own."""

    def __init__(self, p: float = 0.5, seed: int = 0):
        self.p = within("p", p, "[0, 1]")
        self.generator = torch.Generator().manual_seed(seed)

    def plan(self) -> bool:
        """Whether a number drawn from [0, 1) is below p."""
        return torch.rand((), generator=self.generator).item() < self.p


class Adaptive(When):
    """AE-SAM (Jiang et al., 2023): where the gradient is large for its time.

        perturbed iff n >= mu + c sigma,  n = ||P g||^2,  c = (t/T) late + (1 - t/T) early
        mu <- delta mu + (1 - delta) n,  sigma^2 <- delta sigma^2 + (1 - delta) (n - mu)^2

    The authors take all of g, the first pass here knows it on the mask P. Reading n waits for the
    device, so that these steps are not recorded.

    Args:
        steps: T, of the whole run.
        delta, early, late: the authors' values could not be sourced; these are ours.
    """

    looks = True
    numbers = ("t", "mean", "variance")

    def __init__(self, steps: int, delta: float = 0.9, early: float = 1.0, late: float = -1.0):
        self.steps = within("steps", steps, "[1, inf)", whole=True)
        self.delta = within("delta", delta, "[0, 1]")
        finite = "[-inf, inf]" if early == late else "(-inf, inf)"  # no way leads to infinity
        self.early, self.late = within("early", early, finite), within("late", late, finite)
        self.t, self.mean, self.variance = 0, 0.0, 0.0

    def plan(self) -> None:
        """None: the gradient decides."""
        return None

    def sees(self, gradient: Tensors) -> bool:
        """Whether the gradient on the mask is large, of which mean and variance take note."""
        n = float(torch.stack(torch._foreach_norm(gradient)).square().sum())
        self.mean += (1 - self.delta) * (n - self.mean)
        self.variance += (1 - self.delta) * ((n - self.mean) ** 2 - self.variance)
        share, self.t = self.t / self.steps, self.t + 1
        c = self.early if self.early == self.late else share * self.late + (1 - share) * self.early
        if math.isinf(c):
            return c < 0
        return n >= self.mean + c * math.sqrt(self.variance)
