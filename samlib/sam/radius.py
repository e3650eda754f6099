"""How far the ascent goes: by a ball or freely, and how that follows the learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer

from samlib.errors import ConfigError, choose, within


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

    def __post_init__(self) -> None:
        choose("follows", self.follows, ("constant", "lr", "sqrt_lr"))
        if self.follows != "constant":
            within(f"to follow {self.follows}, largest_lr", self.largest_lr, "(0, inf)")
        if within("least", self.least, "[0, inf)") and self.follows != "lr":
            raise ConfigError(f"least {self.least} is of a radius that follows 'lr'")

    def rho(self, rho: float, optimizers: Sequence[Optimizer]) -> float:
        """This step's rho, by the learning rate of the first optimizer's first group."""
        if self.follows == "constant":
            return rho
        if not optimizers:
            raise ConfigError("the radius follows the learning rate: give perturbed the optimizer")
        share = optimizers[0].param_groups[0]["lr"] / self.largest_lr
        if self.follows == "sqrt_lr":
            return rho * share**0.5
        return self.least + (rho - self.least) * share
