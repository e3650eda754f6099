"""Diagnostics of a model, while it trains and at the end of its run."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samlib.sam.ascent import Ascent
from samlib.sam.geometry import Tensors
from samlib.sam.masks.base import Mask
from samlib.sam.masks.norms import norm_layers, norm_parameters
from samlib.sam.restore import evaluating


def finite(value: float) -> float | None:
    """The value; None if it is not finite, for which JSON has no number."""
    return value if math.isfinite(value) else None


@torch.no_grad()
def weight_norm(model: nn.Module) -> tuple[float, float]:
    """||w|| over the parameters outside the norm layers, and over those inside."""
    norm = norm_parameters(model)
    outside: list[Tensor] = []
    inside: list[Tensor] = []
    for p in model.parameters():
        (inside if id(p) in norm else outside).append(p)
    return _length(outside), _length(inside)


def _length(tensors: list[Tensor]) -> float:
    return torch.stack(torch._foreach_norm(tensors)).norm().item() if tensors else 0.0


class Shares(NamedTuple):
    """Which parameters carry an ascent step.

    Attributes:
        of_eps: share of ||eps||^2 on the norm layers, a scalar.
        of_gradient: share of ||T g||^2 on the norm layers, a scalar.
        by_tensor: shares of ||T g||^2 of the mask's entries, one each.
    """

    of_eps: Tensor
    of_gradient: Tensor
    by_tensor: Tensor


def shares(mask: Mask, found: Ascent) -> Shares:
    """The shares of an ascent step on a mask; NaN where the step is zero."""
    norm = norm_parameters(mask.model)
    here = torch.tensor([id(e.parameter) in norm for e in mask.entries])
    Tg = found.gradient
    if found.scale is not None:
        Tg = torch._foreach_mul(Tg, found.scale)
    eps, scaled = _squared(found.eps), _squared(Tg)
    here = here.to(eps.device)
    of_eps, of_gradient = (x[here].sum() / x.sum() for x in (eps, scaled))
    return Shares(of_eps, of_gradient, scaled / scaled.sum())


def _squared(tensors: Tensors) -> Tensor:
    """||x||^2 of each tensor."""
    return torch.stack(torch._foreach_norm(tensors)).square()


# Of every layer's gamma and beta a record keeps the values at these shares of its channels.
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@torch.no_grad()
def affine_measures(model: nn.Module) -> dict:
    """gamma and beta at the end of a run: mean |.| over all channels, quantiles per layer.

    `affine` lists the norm layers in the model's order, with `QUANTILES` of gamma and of beta, and
    the mean of |gamma|; empty where a value is not finite.
    """
    layers = norm_layers(model)
    measures: dict[str, Any] = {}
    for name, leaf in (("gamma_abs_mean", "weight"), ("beta_abs_mean", "bias")):
        found = [getattr(m, leaf) for _, m in layers if getattr(m, leaf, None) is not None]
        value = torch.cat([p.abs().flatten() for p in found]).mean().item() if found else None
        measures[name] = value and finite(value)
    measures["affine"] = [_affine(name, m) for name, m in layers if _whole(m)]
    return measures


def _whole(layer: nn.Module) -> bool:
    affine = [getattr(layer, leaf, None) for leaf in ("weight", "bias")]
    return all(p is not None and bool(p.isfinite().all()) for p in affine)


def _affine(name: str, layer: Any) -> dict:
    levels = torch.tensor(QUANTILES, device=layer.weight.device)
    return {
        "layer": name,
        "gamma": layer.weight.float().quantile(levels).tolist(),
        "gamma_abs_mean": layer.weight.abs().mean().item(),
        "beta": layer.bias.float().quantile(levels).tolist(),
    }


@contextmanager
def recalibrated(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[bool]:
    """Replace BatchNorm statistics by those of the unperturbed weights; restore them afterwards.

    They are averaged over the given inputs with equal weight (momentum None), in training mode.
    The block sees the model in eval mode; after it every module is in its own again. Yields whether
    the model has any; without, nothing is computed.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(m, m.momentum, {k: b.clone() for k, b in m.named_buffers()}) for m in layers]
    with evaluating(model):
        try:
            for m in layers:
                m.reset_running_stats()
                m.momentum = None
            if layers:
                model.train()
                with torch.no_grad():
                    for x in batches:
                        model(x)
                model.eval()
            yield bool(layers)
        finally:
            for m, momentum, buffers in kept:
                m.momentum = momentum
                for name, buffer in buffers.items():
                    getattr(m, name).copy_(buffer)


@contextmanager
def unsearched() -> Iterator[None]:
    """cuDNN's own choice of convolutions: batches of an odd size are too few to try them all."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
