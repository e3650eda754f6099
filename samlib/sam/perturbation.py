"""What the ascent step does: which ball, how large, over which coordinates, and when."""

import math
import numbers
from dataclasses import dataclass
from typing import Literal

from samlib.errors import ConfigError, choose
from samlib.sam.geometry import Geometry
from samlib.sam.masks.base import Mask


@dataclass(frozen=True)
class Perturbation:
    """What the ascent step does: which ball, how large, over which coordinates, and when.

    Args:
        geometry: T_w and p, from `samlib.geometry`.
        rho: radius of the ball, finite and >= 0.
        mask: the coordinates that move, from `samlib.masks`.
        radius_over: "mask": the norm in the step runs over the mask, so ||T_w^-1 eps|| = rho
            (the paper). "all": over all trainable parameters, then masked, so it is smaller
            (SSAM; specification 2).
        batchnorm: "both": running statistics follow both passes (the authors' code). "first":
            those of the second pass are dropped.
        start, end: active epochs, start <= epoch < end; end None is for ever.

    Raises:
        ConfigError: a value out of range, with the valid ones.
    """

    geometry: Geometry
    rho: float
    mask: Mask
    radius_over: Literal["mask", "all"] = "mask"
    batchnorm: Literal["both", "first"] = "both"
    start: int = 0
    end: int | None = None

    def __post_init__(self):
        if isinstance(self.rho, bool) or not isinstance(self.rho, numbers.Real):
            raise ConfigError(f"rho must be a number, not {self.rho!r}")
        for name, kind in (("geometry", Geometry), ("mask", Mask)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(
                    f"{name} must be a samlib {kind.__name__}, not {getattr(self, name)!r}"
                )
        epochs = (self.start, 0 if self.end is None else self.end)
        if not all(isinstance(e, int) and not isinstance(e, bool) for e in epochs):
            raise ConfigError(f"active epochs {self.start!r} to {self.end!r} are not whole numbers")
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise ConfigError(f"rho must be finite and >= 0, not {self.rho!r}")
        choose("radius_over", self.radius_over, ("mask", "all"))
        choose("batchnorm", self.batchnorm, ("both", "first"))
        if self.start < 0 or (self.end is not None and self.end < self.start):
            raise ConfigError(f"active epochs {self.start} to {self.end} are not a range")

    def active(self, epoch: int | None) -> bool:
        """Whether this epoch (from 0) is perturbed; None, for a loop without epochs, is."""
        if epoch is None:
            return True
        return self.start <= epoch and (self.end is None or epoch < self.end)
