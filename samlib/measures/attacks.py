"""Adversarial attack at a small radius, by the Adversarial Robustness Toolbox (ART)."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from samlib.errors import ConfigError, choose
from samlib.extras import needed

STEPS = 10
NORMS = {"l2": 2, "linf": np.inf}


class _Pixels(nn.Module):
    """Logits of pixels in [0, 1], as ART wants a network."""

    def __init__(self, logits: Callable[[Tensor], Tensor]):
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


def attacked(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    norm: str,
    radius: float,
    classes: int,
    step: float | None = None,
    batch_size: int = 512,
) -> Tensor:
    """Images moved to where the cross-entropy is high, by projected gradient ascent.

    PGD of Madry et al. (2018), "Towards Deep Learning Models Resistant to Adversarial Attacks",
    from the images themselves, `STEPS` steps; deterministic on the CPU.

    Args:
        logits: differentiable, from pixels in [0, 1] of shape (n, channels, height, width).
        images: float in [0, 1].
        labels: (n,) int64.
        norm: "l2" or "linf".
        radius: in units of pixels in [0, 1], finite and >= 0.
        classes: number of logits.
        step: length of one step in the norm, finite and > 0; None is a quarter of the radius, with
            which the boundary is in reach from everywhere.
        batch_size: images attacked at once; what is found does not depend on it.

    Returns:
        Images in [0, 1] within the radius of the ones given.

    Raises:
        ConfigError: an unknown norm, or a radius or step out of range.
        ExtraMissing: ART is not installed.
    """
    choose("norm", norm, NORMS)
    if not (math.isfinite(radius) and radius >= 0):
        raise ConfigError(f"radius must be finite and >= 0, not {radius!r}")
    if step is not None and not (math.isfinite(step) and step > 0):
        raise ConfigError(f"step must be finite and > 0, not {step!r}")
    if radius == 0 or not len(images):
        return images.clone()
    with needed("an attack"):
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier
    # The toolbox computes on the current GPU, whichever the images are on.
    with torch.cuda.device(images.device) if images.is_cuda else nullcontext():
        classifier = PyTorchClassifier(
            _Pixels(logits),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if images.is_cuda else "cpu",
        )
        attack = ProjectedGradientDescentPyTorch(
            classifier,
            norm=NORMS[norm],
            eps=radius,
            eps_step=radius / 4 if step is None else step,
            max_iter=STEPS,
            batch_size=batch_size,
            verbose=False,
        )
        found = attack.generate(images.cpu().numpy(), labels.cpu().numpy())
    return torch.from_numpy(found).to(images)
