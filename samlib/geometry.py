"""The shape of the ball in which the ascent step looks: T_w and p for every SAM variant.

With a positive diagonal operator T_w the ascent step maximises the linearised loss over
||T_w^-1 eps||_p <= rho. Its solution (SAM-ON poster; science.md 1.0, 1.1) is

    p = 2:    eps = rho * T_w^2 g / ||T_w g||_2
    p = inf:  eps = rho * T_w sign(g)

A geometry says what T_w and p are; the two lines above are the same for all of them. Tensors
travel in lists, so that a network of many small ones costs a handful of fused kernels.
"""

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .errors import ConfigError, choose

# Added to the norm, so that a zero gradient gives a zero step, not NaN (the authors' value).
_FLOOR = 1e-16

Scale = list[Tensor] | None  # diagonal of T_w per tensor; None is the identity


@dataclass(frozen=True)
class Geometry(ABC):
    """T_w and p of one SAM variant.

    Args:
        eta: stabiliser of T_w, >= 0; its place in the formula is each variant's own.
        normalize_bias: False leaves T_w = 1 on every tensor whose name does not say `weight`
            (biases, class token, position embedding): the paper's "orig" variants.

    Raises:
        ConfigError: eta negative or not finite.
    """

    eta: float = 0.0
    normalize_bias: bool = True
    p: ClassVar[float] = 2

    def __post_init__(self):
        number = isinstance(self.eta, numbers.Real) and not isinstance(self.eta, bool)
        if not (number and math.isfinite(self.eta) and self.eta >= 0):
            raise ConfigError(f"eta must be finite and >= 0, not {self.eta!r}")

    @abstractmethod
    def _T(self, weights: Sequence[Tensor], grads: Sequence[Tensor]) -> Scale:
        """T_w of every tensor, bias or not."""

    def T(self, names: Sequence[str], weights: Sequence[Tensor], grads: Sequence[Tensor]) -> Scale:
        """Diagonal of T_w: for each tensor one of its shape or a scalar; None is the identity.

        Args:
            names: parameter names, read by the "orig" variants only.
            weights: the parameters, any shapes.
            grads: gradients of the loss, same shapes.
        """
        if self.normalize_bias:
            return self._T(weights, grads)
        scaled = [i for i, name in enumerate(names) if "weight" in name]
        T = [torch.ones((), dtype=w.dtype, device=w.device) for w in weights]
        inner = self._T([weights[i] for i in scaled], [grads[i] for i in scaled])
        for i, t in zip(scaled, inner or (), strict=False):
            T[i] = t
        return T

    def norm(self, T: Scale, grads: Sequence[Tensor]) -> Tensor:
        """||T_w g||_2 over all the tensors given, a scalar tensor."""
        Tg = grads if T is None else torch._foreach_mul(grads, T)
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(Tg)))

    def eps(
        self, rho: float, T: Scale, grads: Sequence[Tensor], norm: Tensor | None = None
    ) -> list[Tensor]:
        """The ascent step, one tensor per gradient.

        Args:
            rho: radius of the ball.
            T: from `T`, or gathered coordinates of it.
            grads: gradients of matching shapes.
            norm: ||T_w g||_2 if it runs over more than these tensors; None takes theirs.
        """
        if self.p == math.inf:
            step = torch._foreach_sign(grads)
            factor: float | Tensor = rho
        else:
            step = list(grads) if T is None else torch._foreach_mul(grads, T)
            factor = rho / ((self.norm(T, grads) if norm is None else norm) + _FLOOR)
        step = torch._foreach_mul(step, factor)
        return step if T is None else torch._foreach_mul(step, T)


class L2(Geometry):
    """SAM (Foret et al., 2021): T_w = I, p = 2. eta and normalize_bias change nothing."""

    def _T(self, weights, grads):
        return None

    def T(self, names, weights, grads):
        """None: the identity."""
        return None


class ElementwiseL2(Geometry):
    """ASAM (Kwon et al., 2021): T_w = |w| + eta per coordinate, p = 2."""

    def _T(self, weights, grads):
        T = torch._foreach_abs(weights)
        return torch._foreach_add(T, self.eta) if self.eta else T


class ElementwiseLinf(ElementwiseL2):
    """ASAM with p = inf: T_w = |w| + eta per coordinate, eps = rho T_w sign(g)."""

    p = math.inf


class LayerwiseL2(Geometry):
    """Layer-wise ASAM: T_w = ||W||_2 + eta, one scalar per parameter tensor W, p = 2.

    A layer is a parameter tensor: gamma and beta of one norm layer are two. The authors' code
    computes ||W||_2 (1 + eta) instead, the same at eta = 0 (science.md 1.2, quirk 3).
    """

    def _T(self, weights, grads):
        T = list(torch._foreach_norm(weights))
        return torch._foreach_add(T, self.eta) if self.eta else T


@dataclass(frozen=True)
class Fisher(Geometry):
    """Fisher-SAM (Kim et al., 2022): T_w = (1 + eta g^2)^(-1/2) per coordinate, p = 2.

    The diagonal "gradient magnitude" form of eps = rho F^-1 g / sqrt(g^T F^-1 g)
    (science.md 1.3), with its public implementations' eta = 1.
    """

    eta: float = 1.0

    def _T(self, weights, grads):
        squared = torch._foreach_mul(grads, grads)
        torch._foreach_mul_(squared, self.eta)
        torch._foreach_add_(squared, 1.0)
        return torch._foreach_reciprocal(torch._foreach_sqrt(squared))


# Every variant of the study by the name tables and records use.
VARIANTS: dict[str, Geometry] = {
    "l2": L2(),
    "elementwise_l2": ElementwiseL2(),
    "elementwise_l2_orig": ElementwiseL2(normalize_bias=False),
    "elementwise_linf": ElementwiseLinf(),
    "elementwise_linf_orig": ElementwiseLinf(normalize_bias=False),
    "layerwise_l2": LayerwiseL2(),
    "layerwise_l2_orig": LayerwiseL2(normalize_bias=False),
    "fisher": Fisher(),
}


def by_name(name: str, eta: float | None = None) -> Geometry:
    """A variant of `VARIANTS`, with its default eta or the one given.

    Raises:
        ConfigError: unknown name, or an eta that is negative or not finite.
    """
    variant = VARIANTS[choose("geometry", name, VARIANTS)]
    if eta is None:
        return variant
    return type(variant)(eta=eta, normalize_bias=variant.normalize_bias)
