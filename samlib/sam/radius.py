"""How far the ascent goes: by a ball or freely, and how that follows the learning rate."""

import math
from dataclasses import dataclass
from typing import Literal

from samlib.errors import ConfigError, choose


@dataclass(frozen=True)
class Radius:
    """The length of eps, by the perturbation's rho.

    Args:
        free: False: a ball, ||T_w^-1 eps|| = rho. True: eps = rho T_w^2 d without the division, the
            unnormalised SAM of Dai, Ahn and Sra (2023).
        follows: "constant"; "lr": linear in the learning rate, from `least` at 0 to rho at
            `largest_lr` (GSAM, Zhuang et al., 2022); "sqrt_lr": rho sqrt(lr / largest_lr) (SA-SAM).
        largest_lr: the learning rate at which rho is reached; a constant radius needs none.
        least: rho at a learning rate of 0.

    Raises:
        ConfigError: a schedule without its learning rate, or a value out of range.
    """

    free: bool = False
    follows: Literal["constant", "lr", "sqrt_lr"] = "constant"
    largest_lr: float | None = None
    least: float = 0.0

    def __post_init__(self):
        choose("follows", self.follows, ("constant", "lr", "sqrt_lr"))
        largest = self.largest_lr
        if self.follows != "constant" and not (largest and 0 < largest < math.inf):
            raise ConfigError(f"to follow {self.follows} takes a largest_lr > 0, not {largest!r}")
        if not 0 <= self.least < math.inf or (self.least and self.follows != "lr"):
            raise ConfigError(f"least must be >= 0 and follow lr, not {self.least!r}")

    def rho(self, rho: float, optimizers) -> float:
        """This step's rho, by the learning rate of the first optimizer's first group."""
        if self.follows == "constant":
            return rho
        if not optimizers:
            raise ConfigError("the radius follows the learning rate: give perturbed the optimizer")
        share = optimizers[0].param_groups[0]["lr"] / self.largest_lr
        if self.follows == "sqrt_lr":
            return rho * share**0.5
        return self.least + (rho - self.least) * share
