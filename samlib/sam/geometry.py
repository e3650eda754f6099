"""The shape of the ball in which the ascent step looks: T_w and p for every SAM variant.

With a positive diagonal operator T_w the ascent step maximises the linearised loss over
||T_w^-1 eps||_p <= rho. Its solution (SAM-ON poster; specification 1.0, 1.1) is

    p = 2:    eps = rho * T_w^2 g / ||T_w g||_2
    p = inf:  eps = rho * T_w sign(g)

A geometry says what T_w and p are; the two lines above are the same for all of them. Tensors
travel in lists, so that a network of many small ones costs a handful of fused kernels. Complex
weights have a real T_w; autograd's gradient of one points uphill, and sign(g) is g / |g|.
"""

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from samlib.errors import ConfigError, choose

# Added to the norm, so that a zero gradient gives a zero step, not NaN (the authors' value).
FLOOR = 1e-16

Tensors = list[Tensor] | tuple[Tensor, ...]  # what PyTorch's fused kernels take
Scale = Tensors | None  # diagonal of T_w per tensor; None is the identity


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
    takes_eta: ClassVar[bool] = True  # whether eta is in the variant's formula

    def __post_init__(self) -> None:
        number = isinstance(self.eta, numbers.Real) and not isinstance(self.eta, bool)
        if not (number and math.isfinite(self.eta) and self.eta >= 0):
            raise ConfigError(f"eta must be finite and >= 0, not {self.eta!r}")

    @abstractmethod
    def _T(self, weights: Tensors, grads: Tensors) -> Scale:
        """T_w of every tensor, bias or not."""

    def T(self, names: Sequence[str], weights: Tensors, grads: Tensors) -> Scale:
        """Diagonal of T_w: for each tensor one of its shape or a scalar; None is the identity.

        Args:
            names: parameter names, read by the "orig" variants only.
            weights: the parameters, any shapes.
            grads: gradients of the loss, same shapes.
        """
        if self.normalize_bias:
            return self._T(weights, grads)
        scaled = [i for i, name in enumerate(names) if "weight" in name]
        T = [torch.ones((), dtype=w.dtype.to_real(), device=w.device) for w in weights]
        if scaled:
            inner = self._T([weights[i] for i in scaled], [grads[i] for i in scaled])
            for i, t in zip(scaled, inner or (), strict=False):
                T[i] = t
        return T

    def norm(self, T: Scale, grads: Tensors) -> Tensor:
        """||T_w g||_2 over all the tensors given, of one device, a scalar tensor."""
        Tg = grads if T is None else torch._foreach_mul(grads, T)
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(Tg)))

    def eps(
        self, rho: float, T: Scale, grads: Tensors, norm: Tensor | float | None = None
    ) -> Tensors:
        """The ascent step, one tensor per gradient.

        Args:
            rho: radius of the ball.
            T: from `T`, or gathered coordinates of it.
            grads: gradients of matching shapes.
            norm: ||T_w g||_2 if it runs over more than these tensors; None takes theirs.
        """
        step: Tensors
        if self.p == math.inf:
            step = _signs(grads)
            factor: float | Tensor = rho
        else:
            step = grads if T is None else torch._foreach_mul(grads, T)
            factor = rho / ((self.norm(T, grads) if norm is None else norm) + FLOOR)
        step = torch._foreach_mul(step, factor)
        return step if T is None else torch._foreach_mul(step, T)


def _signs(grads: Tensors) -> Tensors:
    if any(g.is_complex() for g in grads):
        return [g.sgn() for g in grads]
    return torch._foreach_sign(grads)


class L2(Geometry):
    """SAM (Foret et al., 2021): T_w = I, p = 2. eta and normalize_bias change nothing."""

    takes_eta = False

    def _T(self, weights: Tensors, grads: Tensors) -> Scale:
        return None

    def T(self, names: Sequence[str], weights: Tensors, grads: Tensors) -> Scale:
        """None: the identity."""
        return None


class ElementwiseL2(Geometry):
    """ASAM (Kwon et al., 2021): T_w = |w| + eta per coordinate, p = 2."""

    def _T(self, weights: Tensors, grads: Tensors) -> Scale:
        T = torch._foreach_abs(weights)
        return torch._foreach_add(T, self.eta) if self.eta else T


class ElementwiseLinf(ElementwiseL2):
    """ASAM with p = inf: T_w = |w| + eta per coordinate, eps = rho T_w sign(g)."""

    p = math.inf


class LayerwiseL2(Geometry):
    """Layer-wise ASAM: T_w = ||W||_2 + eta, one scalar per parameter tensor W, p = 2.

    A layer is a parameter tensor: gamma and beta of one norm layer are two. The authors' code
    computes ||W||_2 (1 + eta) instead, the same at eta = 0 (specification 1.2, quirk 3).
    """

    def _T(self, weights: Tensors, grads: Tensors) -> Scale:
        T = list(torch._foreach_norm(weights))
        return torch._foreach_add(T, self.eta) if self.eta else T


@dataclass(frozen=True)
class Fisher(Geometry):
    """Fisher-SAM (Kim et al., 2022): T_w = (1 + eta |g|^2)^(-1/2) per coordinate, p = 2.

    The diagonal "gradient magnitude" form of eps = rho F^-1 g / sqrt(g^T F^-1 g)
    (specification 1.3), with its public implementations' eta = 1.
    """

    eta: float = 1.0

    def _T(self, weights: Tensors, grads: Tensors) -> Scale:
        squared = list(torch._foreach_abs(grads))
        torch._foreach_mul_(squared, squared)
        torch._foreach_mul_(squared, self.eta)
        torch._foreach_add_(squared, 1.0)
        return torch._foreach_reciprocal(torch._foreach_sqrt(squared))


class _ChannelScales(Geometry):
    """SAM on one multiplicative scale per channel, s = 1 at the weights: the structured control.

    W_c(s) = s_c W_c has the gradient g_s,c = Re <W_c, g_c>, and L2's step on s moves the weights by

        eps_c = rho <W_c, g_c> / ||(<W_c, g_c>)_c||_2 * W_c

    which has the form of every p = 2 step with the operator T = diag(W_c) from s to W
    (specification 2.3). Nothing is added to the network. rho is the length of the step in s.
    """

    axis: ClassVar[int]
    takes_eta = False

    def _T(self, weights: Tensors, grads: Tensors) -> Scale:
        return list(weights)

    def T(self, names: Sequence[str], weights: Tensors, grads: Tensors) -> Scale:
        """The weights themselves: the operator from scales to weights."""
        return self._T(weights, grads)

    def _scales(self, T: Scale, grads: Tensors) -> list[Tensor]:
        """Gradient with respect to the scales, (channels, 1, ...) along the axis."""
        weights = T or ()  # see `T`
        if any(w.ndim < 2 for w in weights):  # a vector, or single coordinates of whatever it is
            raise ConfigError(
                "channel scales are those of whole convolution or linear weights: use the mask "
                "convolutions or weights, and the radius over the mask"
            )
        products = zip(weights, grads, strict=True)
        return [
            (w.conj() * g).real.sum([d for d in range(w.ndim) if d != self.axis], keepdim=True)
            for w, g in products
        ]

    def norm(self, T: Scale, grads: Tensors) -> Tensor:
        """||g_s||_2, a scalar tensor."""
        return super().norm(None, self._scales(T, grads))

    def eps(
        self, rho: float, T: Scale, grads: Tensors, norm: Tensor | float | None = None
    ) -> Tensors:
        """The step on the weights that the step on their scales amounts to.

        Raises:
            ConfigError: a tensor that is no whole weight.
        """
        factor = rho / ((self.norm(T, grads) if norm is None else norm) + FLOOR)
        scales = torch._foreach_mul(self._scales(T, grads), factor)
        return [s * w for s, w in zip(scales, T or (), strict=True)]


class OutputScales(_ChannelScales):
    """SAM on one scale per output channel of each weight.

    A convolution that feeds straight into batch norm does not feel its scale (g_s = 0), so that
    only the others are moved.
    """

    axis = 0


class InputScales(_ChannelScales):
    """SAM on one scale per input channel of each weight.

    Of a grouped convolution it is one per input channel of a group, which the groups share.

    Where relu(gamma x + beta) feeds a weight, its input scale is gamma's and beta's common factor:
    the nearest thing to SAM-ON that touches no normalization layer.
    """

    axis = 1


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
# What a configuration can name: the paper's variants, and the controls.
GEOMETRIES = VARIANTS | {"output_scales": OutputScales(), "input_scales": InputScales()}


def by_name(name: str, eta: float | None = None) -> Geometry:
    """A geometry of `GEOMETRIES`, with its default eta or the one given.

    Raises:
        ConfigError: unknown name, or an eta that is negative or not finite.
    """
    variant = GEOMETRIES[choose("geometry", name, GEOMETRIES)]
    if eta is None:
        return variant
    return type(variant)(eta=eta, normalize_bias=variant.normalize_bias)
