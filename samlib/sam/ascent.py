"""Which gradients the ascent takes, and the step eps it makes of them.

    g = grad L(w) on the mask;  eps = rho T_w^2 g / ||T_w g||

(Foret et al. 2021, eq. 2; the masked form is specification 1.0.) Autograd is asked for the masked
gradients only: `.grad` stays untouched and the backward pass ends at the first masked layer.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from samlib.errors import ConfigError
from samlib.sam.geometry import Scale
from samlib.sam.masks.base import Mask
from samlib.sam.perturbation import Perturbation
from samlib.sam.restore import take


class Ascent(NamedTuple):
    """One ascent step; each list has a tensor per entry of `mask.entries`.

    A tensor has its parameter's shape, or (k,) where the entry has k indices. `scale` is the
    diagonal of T_w, with 0-dimensional tensors where one number stands for all; None is T_w = I.
    """

    eps: list[Tensor]
    gradient: list[Tensor]
    scale: Scale


def ascent(perturbation: Perturbation, loss: Tensor) -> Ascent:
    """The ascent step of a loss, whose graph is used up.

    Raises:
        ConfigError: the loss has no gradient in any parameter of the mask, or has been
            differentiated already.
    """
    mask, geometry = perturbation.mask, perturbation.geometry
    over = reached(perturbation)
    grads = _gradients(mask, over, loss)
    with torch.no_grad():
        T = geometry.T([o[0] for o in over], [o[1] for o in over], grads)
        norm = geometry.norm(T, grads) if over_all(perturbation) else None
        g, scale = _on(mask, over, grads), T and _on(mask, over, T)
        return Ascent(geometry.eps(perturbation.rho, scale, g, norm), g, scale)


def over_all(perturbation: Perturbation) -> bool:
    """Whether the step needs the gradient of every parameter; p = inf has no norm to take."""
    return perturbation.radius_over == "all" and perturbation.geometry.p != math.inf


def reached(perturbation: Perturbation) -> Sequence[tuple]:
    """All whose gradient the ascent takes, in tuples that begin with name and parameter."""
    mask = perturbation.mask
    return mask.trainable if over_all(perturbation) else mask.entries


def _on(mask: Mask, over: Sequence[tuple], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of tensors over some parameters, the mask's coordinates."""
    if over is not mask.entries:
        of = {id(o[1]): t for o, t in zip(over, tensors, strict=True)}
        tensors = [of[id(e.parameter)] for e in mask.entries]
    return [take(t, e.index) for t, e in zip(tensors, mask.entries, strict=True)]


def _gradients(mask: Mask, over: Sequence[tuple], loss: Tensor) -> Sequence[Tensor]:
    weights = [o[1] for o in over]
    try:
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise ConfigError("the closure returns the loss and must not call backward()") from error
    if not any(g is None or g.is_sparse for g in grads):
        return grads
    masked = {id(e.parameter) for e in mask.entries}
    pairs = list(zip(weights, grads, strict=True))
    if all(g is None for w, g in pairs if id(w) in masked):
        raise ConfigError(
            "the loss has no gradient in any parameter of the mask: make the mask from the "
            "model that is trained, after a deepcopy or load_state_dict(assign=True), and give "
            "torch.utils.checkpoint use_reentrant=False"
        )
    _name_unused(mask, [o[0] for o, g in zip(over, grads, strict=True) if g is None])
    return [torch.zeros_like(w) if g is None else g.to_dense() for w, g in pairs]


def _name_unused(mask: Mask, names: list[str]) -> None:
    """Say once which parameters the loss does not reach."""
    new = [n for n in names if n not in mask.unused]
    if new:
        more = f" and {len(new) - 3} more" if len(new) > 3 else ""
        warnings.warn(
            f"the ascent leaves {', '.join(new[:3])}{more} alone, which the loss does not reach. "
            "That is right for what a batch does not use; parameters inside a reentrant "
            "torch.utils.checkpoint are only hidden: give it use_reentrant=False",
            stacklevel=2,
        )
        mask.unused.update(new)
