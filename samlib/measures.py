"""What is measured on a model: while it trains, and at the end of its run."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .masks import norm_layers
from .sam import Perturbation


def finite(value: float) -> float | None:
    """The value, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None


def share_recorder(
    perturbation: Perturbation, into: list[Tensor]
) -> Callable[[list[Tensor]], None]:
    """An `on_eps` for `sam_step` that appends ||eps||^2 on norm layers over ||eps||^2."""
    norm = {id(p) for _, m in norm_layers(perturbation.mask.model) for p in m.parameters(False)}

    def record(eps: list[Tensor]) -> None:
        squared = torch.stack(torch._foreach_norm(eps)).square()
        here = [id(e.parameter) in norm for e in perturbation.mask.entries]
        into.append(squared[torch.tensor(here, device=squared.device)].sum() / squared.sum())

    return record


@torch.no_grad()
def affine_measures(model: nn.Module) -> dict:
    """Mean |gamma| and mean |beta| over all norm layers' channels at the end of a run."""
    layers = [m for _, m in norm_layers(model)]
    measures = {}
    for name, leaf in (("gamma_abs_mean", "weight"), ("beta_abs_mean", "bias")):
        found = [getattr(m, leaf) for m in layers if getattr(m, leaf, None) is not None]
        value = torch.cat([p.abs().flatten() for p in found]).mean().item() if found else None
        measures[name] = value and finite(value)
    return measures
