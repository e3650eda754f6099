"""Which gradients the ascent takes, and the step eps it makes of them.

    g = grad L(w) on the mask;  eps = rho T_w^2 d / ||T_w d||,  d = g or what a source makes of it

(Foret et al. 2021, eq. 2; the masked form is specification 1.0.) Autograd is asked for the masked
gradients only: `.grad` stays untouched and the backward pass ends at the first masked layer.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from samlib.errors import ConfigError
from samlib.sam.geometry import Scale, Tensors
from samlib.sam.masks.base import OF_THE_TRAINED, Mask
from samlib.sam.masks.sharded import refuse_sharded
from samlib.sam.perturbation import Perturbation
from samlib.sam.source.eigen import spread
from samlib.sam.state import Where, on

TWICE = "backward through the graph a second time"  # what PyTorch says of a used-up graph


class Gradients(NamedTuple):
    """Gradients of whole parameters, and names and parameters they are of."""

    over: Where
    whole: Tensors


class Ascent(NamedTuple):
    """One ascent step; each list has a tensor per entry of `mask.entries`.

    A tensor has its parameter's shape, or (k,) where the entry has k indices.

    Attributes:
        eps: the step.
        gradient: that of the first pass; without one, what the source looks along.
        scale: the diagonal of T_w, with 0-dimensional tensors where one number stands for all;
            None is T_w = I.
    """

    eps: Tensors
    gradient: Tensors
    scale: Scale


def ascent(
    perturbation: Perturbation, found: Gradients | None, optimizers: Sequence[Optimizer] = ()
) -> Ascent | None:
    """The step that a source, a geometry and a radius make; None leaves the weights where they are.

    Args:
        perturbation: what to do.
        found: from `gradients`; None for a source without a pass of its own.
        optimizers: those of the step, for a source or a radius that reads them.
    """
    mask, geometry, source = perturbation.mask, perturbation.geometry, perturbation.source
    rho = source.factor * perturbation.radius.rho(perturbation.rho, optimizers)
    with torch.no_grad():
        g = found and masked(mask, found)
        d = source.direction(mask, g, optimizers)
        if d is None:
            return None
        along = found
        if along is None or d is not g:
            along = Gradients(mask.entries, spread(mask, d))
        T = geometry.T([o[0] for o in along.over], [o[1] for o in along.over], along.whole)
        norm = geometry.norm(T, along.whole) if over_all(perturbation) else None
        scale = T and masked(mask, Gradients(along.over, T))
        eps = geometry.eps(rho, scale, d, 1.0 if perturbation.radius.free else norm)
        return Ascent(eps, d if g is None else g, scale)


def over_all(perturbation: Perturbation) -> bool:
    """Whether the norm runs over every parameter; p = inf has none to take."""
    return perturbation.radius_over == "all" and perturbation.geometry.p != math.inf


def reached(perturbation: Perturbation, everything: bool = False) -> Where:
    """All whose gradient the first pass takes."""
    mask = perturbation.mask
    return mask.trainable if everything or over_all(perturbation) else mask.entries


def gradients(perturbation: Perturbation, loss: Tensor, everything: bool = False) -> Gradients:
    """Gradients of a loss, whose graph is used up unless `when` asks them what to do.

    Args:
        perturbation: whose mask, or norm, they are for.
        loss: scalar.
        everything: of all trainable parameters, which costs a whole backward pass.

    Raises:
        ConfigError: the loss has no gradient in any parameter of the mask, or has been
            differentiated already.
    """
    mask, over = perturbation.mask, reached(perturbation, everything)
    weights = [o[1] for o in over]
    keep = perturbation.when.looks
    grads: Tensors
    try:
        grads = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=keep)
    except RuntimeError as error:
        if TWICE not in str(error):
            raise
        raise ConfigError("the closure returns the loss and must not call backward()") from error
    if any(g is None or g.is_sparse for g in grads):
        grads = dense(mask, over, weights, grads)
    if perturbation.average is not None:
        perturbation.average(grads)
    return Gradients(over, grads)


def masked(mask: Mask, of: Gradients) -> list[Tensor]:
    """Of tensors over some parameters, the mask's coordinates."""
    whole = of.whole
    if of.over is not mask.entries:
        by_id = {id(o[1]): t for o, t in zip(of.over, whole, strict=True)}
        whole = [by_id[id(e.parameter)] for e in mask.entries]
    return on(mask.entries, whole)


def dense(
    mask: Mask, over: Where, weights: list[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor]:
    """Gradients as dense tensors, zeros where the loss does not use a weight; that is said once."""
    masked = {id(e.parameter) for e in mask.entries}
    pairs = list(zip(weights, grads, strict=True))
    if all(g is None for w, g in pairs if id(w) in masked):
        refuse_sharded(mask.model)  # since the mask was made
        raise ConfigError(
            f"the loss has no gradient in any parameter of the mask: {OF_THE_TRAINED}, and give "
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
