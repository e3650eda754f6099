"""Common corruptions of images, at five severities.

Noise, blur, contrast, brightness and pixelation in the spirit of Hendrycks and Dietterich (2019,
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"). The severities
are this study's own, chosen so that they mean the same at 8 and at 224 pixels: blurs and blocks are
shares of the image's side. They are not those of CIFAR-10-C.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from samlib.errors import ConfigError, choose

SEVERITIES = (1, 2, 3, 4, 5)


def _gaussian_noise(x: Tensor, level: float, draw: torch.Generator) -> Tensor:
    """Additive, `level` is its standard deviation."""
    return x + level * torch.randn(x.shape, generator=draw)


def _shot_noise(x: Tensor, photons: float, draw: torch.Generator) -> Tensor:
    """Poisson counts of `photons` at full brightness."""
    return torch.poisson(x * photons, generator=draw) / photons


def _impulse_noise(x: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """A share of the values is black or white, evenly."""
    hit = torch.rand(x.shape, generator=draw) < share
    white = (torch.rand(x.shape, generator=draw) < 0.5).float()
    return torch.where(hit, white, x)


def _gaussian_blur(x: Tensor, width: float, draw: torch.Generator) -> Tensor:
    """`width` is the standard deviation as a share of the side."""
    from torchvision.transforms.v2 import functional as transforms  # slow to import

    sigma = width * x.shape[-1]
    kernel = min(2 * round(3 * sigma) + 1, 2 * (x.shape[-1] // 2) - 1)
    return transforms.gaussian_blur(x, max(3, kernel), sigma)


def _contrast(x: Tensor, factor: float, draw: torch.Generator) -> Tensor:
    """Values contracted towards the image's mean by `factor`."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + factor * (x - mean)


def _brightness(x: Tensor, shift: float, draw: torch.Generator) -> Tensor:
    """A constant added to every value."""
    return x + shift


def _pixelate(x: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Mixed to `share` with its means over blocks of a quarter of the side."""
    block = max(1, x.shape[-1] // 4)
    means = F.interpolate(F.avg_pool2d(x, block), x.shape[-2:], mode="nearest")
    return x + share * (means - x)


Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
# What each does, and how strongly at severity 1 to 5.
_CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "shot_noise": (_shot_noise, (100.0, 50.0, 25.0, 12.0, 6.0)),
    "impulse_noise": (_impulse_noise, (0.02, 0.05, 0.1, 0.15, 0.25)),
    "gaussian_blur": (_gaussian_blur, (0.05, 0.075, 0.1, 0.125, 0.15)),
    "contrast": (_contrast, (0.8, 0.6, 0.45, 0.3, 0.2)),
    "brightness": (_brightness, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "pixelate": (_pixelate, (0.2, 0.4, 0.6, 0.8, 1.0)),
}


def names() -> tuple[str, ...]:
    """Corruptions by name."""
    return tuple(_CORRUPTIONS)


def corrupt(images: Tensor, name: str, severity: int, generator: torch.Generator) -> Tensor:
    """Corrupted copies of images.

    Args:
        images: uint8, (n, channels, height, width), square.
        name: one of `names()`.
        severity: 1 to 5.
        generator: of the noise; on the CPU, so that every device sees the same.

    Raises:
        ConfigError: an unknown name or severity, or images that are not uint8.
    """
    apply, levels = _CORRUPTIONS[choose("corruption", name, _CORRUPTIONS)]
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise ConfigError(f"severity must be 1 to 5, not {severity!r}")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ConfigError(
            f"images must be uint8 (n, channels, height, width), not {images.dtype} "
            f"{tuple(images.shape)}"
        )
    x = images.cpu().float() / 255
    x = apply(x, levels[severity - 1], generator)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).to(images.device)
