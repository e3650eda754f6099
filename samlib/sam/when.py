"""Which steps are perturbed, of those in the active epochs."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from samlib.errors import ConfigError
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

    def sees(self, gradient: Sequence[Tensor]) -> bool:
        """Whether the step with this gradient on the mask is perturbed."""
        return True


class Every(When):
    """The first step and every k-th after it."""

    numbers = ("steps",)

    def __init__(self, k: int):
        if k < 1:
            raise ConfigError(f"k must be at least 1, not {k!r}")
        self.k, self.steps = k, 0

    def plan(self):
        """Count."""
        self.steps += 1
        return (self.steps - 1) % self.k == 0


class Sometimes(When):
    """SS-SAM (Zhao et al., 2022): each step with probability p, from a generator of its own."""

    def __init__(self, p: float = 0.5, seed: int = 0):
        if not 0 <= p <= 1:
            raise ConfigError(f"p must be in [0, 1], not {p!r}")
        self.p, self.generator = p, torch.Generator().manual_seed(seed)

    def plan(self):
        """Draw."""
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
        if steps < 1 or not 0 <= delta <= 1:
            raise ConfigError(f"needs steps >= 1 and delta in [0, 1], not {steps} and {delta}")
        self.steps, self.delta, self.early, self.late = steps, delta, early, late
        self.t, self.mean, self.variance = 0, 0.0, 0.0

    def plan(self):
        """None: the gradient decides."""
        return None

    def sees(self, gradient):
        """Whether it is large."""
        n = float(torch.stack(torch._foreach_norm(gradient)).square().sum())
        self.mean += (1 - self.delta) * (n - self.mean)
        self.variance += (1 - self.delta) * ((n - self.mean) ** 2 - self.variance)
        share, self.t = self.t / self.steps, self.t + 1
        c = self.early if self.early == self.late else share * self.late + (1 - share) * self.early
        if math.isinf(c):
            return c < 0
        return n >= self.mean + c * math.sqrt(self.variance)
