"""What is measured on a model: while it trains, and at the end of its run."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samlib.sam.ascent import Ascent
from samlib.sam.masks.norms import norm_layers, norm_parameters
from samlib.sam.perturbation import Perturbation
from samlib.sam.restore import evaluating


def finite(value: float) -> float | None:
    """The value, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None


def share_recorder(perturbation: Perturbation, into: list[Tensor]) -> Callable[[Ascent], None]:
    """An `on_ascent` for `sam_step` that appends ||eps||^2 on norm layers over ||eps||^2."""
    norm = norm_parameters(perturbation.mask.model)

    def record(found: Ascent) -> None:
        squared = torch.stack(torch._foreach_norm(found.eps)).square()
        here = [id(e.parameter) in norm for e in perturbation.mask.entries]
        into.append(squared[torch.tensor(here, device=squared.device)].sum() / squared.sum())

    return record


# Of every layer's gamma and beta a record keeps the values at these shares of its channels.
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@torch.no_grad()
def affine_measures(model: nn.Module) -> dict:
    """gamma and beta at the end of a run: mean |.| over all channels, quantiles per layer.

    `affine` lists the norm layers in the model's order, with `QUANTILES` of gamma and of beta, and
    the mean of |gamma|; empty where a value is not finite.
    """
    layers = norm_layers(model)
    measures = {}
    for name, leaf in (("gamma_abs_mean", "weight"), ("beta_abs_mean", "bias")):
        found = [getattr(m, leaf) for _, m in layers if getattr(m, leaf, None) is not None]
        value = torch.cat([p.abs().flatten() for p in found]).mean().item() if found else None
        measures[name] = value and finite(value)
    measures["affine"] = [_affine(name, m) for name, m in layers if _whole(m)]
    return measures


def _whole(layer: nn.Module) -> bool:
    affine = [getattr(layer, leaf, None) for leaf in ("weight", "bias")]
    return all(p is not None and bool(p.isfinite().all()) for p in affine)


def _affine(name: str, layer: nn.Module) -> dict:
    levels = torch.tensor(QUANTILES, device=layer.weight.device)
    return {
        "layer": name,
        "gamma": layer.weight.float().quantile(levels).tolist(),
        "gamma_abs_mean": layer.weight.abs().mean().item(),
        "beta": layer.bias.float().quantile(levels).tolist(),
    }


@contextmanager
def recalibrated(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[bool]:
    """BatchNorm statistics replaced by those of the unperturbed weights, the old ones back after.

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
