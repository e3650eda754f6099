"""How curved the training loss is where a run ended, on the norm layers, on the rest and by layer.

Which sharpness SAM lowers, the Hessian's largest eigenvalue or its trace, depends on the batch
(Wen, Ma and Li, 2023, "How Does Sharpness-Aware Minimization Minimize Sharpness?"), and SAM-ON may
lower it on the norm layers alone. Xu and Zhang (2024, "Understanding Adversarially Robust
Generalization via Weight-Curvature Index") join two factors per layer, ||W||_F and tr(H): here
both are measured, and `index` joins them in a way of this study's own (specification 5).
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from samlib.errors import ConfigError
from samlib.measures.hessian import NotConverged, top_eigenvalues, traces
from samlib.sam.masks.base import Mask
from samlib.sam.masks.by_name import MASKS

if TYPE_CHECKING:
    from samlib.trainer.loop import Trainer

IMAGES = 256
PROBES = 20
BLOCKS = ("only_norm", "no_norm")  # of H; together they hold its diagonal


def index(layer: dict) -> float:
    """sqrt(||W||_F^2 tr(H_W)) of one of a measurement's `layers`; NaN where the trace is negative.

    It stays when W is scaled before a batch norm, which neither factor does.
    """
    product = layer["weight_squared"] * layer["trace"]
    return math.sqrt(product) if product >= 0 else math.nan


def curvature(run: "Trainer") -> dict:
    """Trace and largest eigenvalue of the Hessian H of the training loss, and of its blocks.

    In evaluation mode, to the labels trained on, on the first images as they are.

    Returns:
        `images` and `probes`, their number; `eigenvalue` of `all` (H) and of `only_norm`; `trace`
        and its standard error `trace_error` of these and of `no_norm`; `layers`, by weight outside
        the norm layers: `weight_squared` = ||W||_F^2, `trace` of its block and `trace_error`. What
        is not finite or did not converge is None.
    """
    x, y = run.inputs(run.splits.train_images[:IMAGES]), run.splits.train_labels[:IMAGES]
    masks = {name: MASKS[name](run.model, run.config) for name in ("all", *BLOCKS)}
    found = {
        "images": len(x),
        "probes": PROBES,
        "eigenvalue": {of: _eigenvalue(run, x, y, masks[of]) for of in ("all", "only_norm")},
    }
    try:
        probed = {name: traces(run.model, x, y, masks[name], probes=PROBES) for name in BLOCKS}
    except ConfigError:
        return found | {"trace": None, "trace_error": None, "layers": []}
    by_block = {name: of.sum(1) for name, of in probed.items()}
    by_block["all"] = sum(by_block.values())
    return found | {
        "trace": {name: of.mean() for name, of in by_block.items()},
        "trace_error": {name: _error(of) for name, of in by_block.items()},
        "layers": _layers(masks["no_norm"], probed["no_norm"]),
    }


def _eigenvalue(run: "Trainer", x: Tensor, y: Tensor, mask: Mask) -> float | None:
    try:
        return float(top_eigenvalues(run.model, x, y, mask, tolerance=1e-2)[0])
    except (NotConverged, ConfigError):
        return None


def _error(probes: np.ndarray) -> float:
    """Standard error of the mean over probes."""
    return float(probes.std(ddof=1) / math.sqrt(len(probes)))


def _layers(mask: Mask, probed: np.ndarray) -> list[dict]:
    return [
        {
            "layer": entry.name.removesuffix(".weight"),
            "weight_squared": entry.parameter.square().sum().item(),
            "trace": of.mean(),
            "trace_error": _error(of),
        }
        for entry, of in zip(mask.entries, probed.T, strict=True)
        if entry.parameter.ndim > 1
    ]
