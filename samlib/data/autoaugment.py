"""AutoAugment's CIFAR-10 policy (Cubuk et al. 2019, arXiv 1805.09501), for many images at once.

Every operation gives what Pillow gives for one image, in the SAM-ON authors' conventions: shears
are bicubic, translations and rotations nearest neighbour, what comes from outside is grey 128, and
the sign of a shear, translation, rotation or enhancement is drawn for every image. Magnitude 0..9
is linear in its range; rotation turns about the centre, in degrees.

Operations take images (n, 3, H, W) uint8 and magnitudes (n,) float64, sign included.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from samlib.errors import ConfigError

GREY = 128
# Images worked on at once, by the kind of device: an epoch's indices would fill a small memory, and
# the hundreds of calls that a chunk takes keep a GPU waiting.
CHUNK = {"cpu": 4096, "cuda": 65_536}

# the paper's appendix: probability and magnitude of the first, then of the second operation
POLICY: tuple[tuple[tuple[str, float, int | None], tuple[str, float, int | None]], ...] = (
    (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
    (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
    (("Color", 0.9, 9), ("Equalize", 0.6, None)),
    (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, None), ("Invert", 0.1, None)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
)


def autoaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a sub-policy drawn uniformly per image to images (N, 3, H, W) uint8.

    `generator` is a CPU generator. Raises ConfigError unless the images have three channels.
    """
    if images.shape[1] != 3:
        raise ConfigError(
            f"autoaugment needs colour images, these have {images.shape[1]} channel(s)"
        )
    chunk = CHUNK.get(images.device.type, CHUNK["cpu"])
    parts = (t.split(chunk) for t in (images, *draw(len(images), generator)))
    return torch.cat([apply(*part) for part in zip(*parts, strict=True)])


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The sub-policy (n,), which of its operations are used (n, 2) bool, their signs (n, 2) +-1."""
    policy = torch.randint(len(POLICY), (n,), generator=generator)
    probability = torch.tensor([[p for _, p, _ in pair] for pair in POLICY])
    used = torch.rand(n, 2, generator=generator) < probability[policy]
    sign = torch.randint(2, (n, 2), generator=generator) * 2 - 1
    return policy, used, sign


def apply(images: Tensor, policy: Tensor, used: Tensor, sign: Tensor) -> Tensor:
    """Apply to images (N, 3, H, W) uint8 the draws of `draw`, given on the CPU."""
    images = images.clone()
    for step in (0, 1):
        todo: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for number, pair in enumerate(POLICY):
            name, _, level = pair[step]
            index = ((policy == number) & used[:, step]).nonzero().squeeze(1)
            if len(index):
                todo.setdefault(name, []).append((index, magnitude(name, level, sign[index, step])))
        for name, groups in todo.items():  # one call per operation, whatever the magnitudes
            index = torch.cat([index for index, _ in groups]).to(images.device)
            amount = torch.cat([amount for _, amount in groups]).to(images.device)
            images[index] = OPERATIONS[name](images[index], amount)
    return images


def magnitude(name: str, level: int | None, sign: Tensor) -> Tensor:
    """Magnitude of operation `name` at level 0..9, one float64 per entry of `sign`."""
    if name not in RANGES:
        return torch.zeros(len(sign), dtype=torch.float64)
    amount = float(np.linspace(*RANGES[name], 10)[level])
    if name == "Posterize":
        amount = float(round(amount))
    return torch.full((len(sign),), amount, dtype=torch.float64) * (sign if name in SIGNED else 1)


# what levels 0 and 9 mean; a translation is a share of the image size
RANGES = {
    "ShearX": (0, 0.3),
    "ShearY": (0, 0.3),
    "TranslateX": (0, 150 / 331),
    "TranslateY": (0, 150 / 331),
    "Rotate": (0, 30),
    "Color": (0, 0.9),
    "Contrast": (0, 0.9),
    "Sharpness": (0, 0.9),
    "Brightness": (0, 0.9),
    "Posterize": (8, 4),  # bits kept
    "Solarize": (256, 0),  # the value from which pixels are inverted
}
SIGNED = frozenset(RANGES) - {"Posterize", "Solarize"}


def _per_image(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


# --- where a pixel comes from --------------------------------------------------------------------


def _pixels(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The pixels of (n, 3, H, W) at integer positions broadcast to (n, H, W); grey outside."""
    _, C, H, W = images.shape
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    place = (y.clamp(0, H - 1) * W + x.clamp(0, W - 1)).flatten(1)
    found = images.flatten(2).gather(2, place[:, None].expand(-1, C, -1)).view_as(images)
    return torch.where(inside[:, None], found, GREY)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers (1, H, 1) and column numbers (1, 1, W)."""
    H, W = images.shape[2:]
    y = torch.arange(H, device=images.device)
    x = torch.arange(W, device=images.device)
    return y[None, :, None], x[None, None, :]


def _translate_x(images: Tensor, amount: Tensor) -> Tensor:
    y, x = _grid(images)
    shift = amount.view(-1, 1, 1) * images.shape[3]
    return _pixels(images, y, (x + 0.5 + shift).floor().long())


def _rotate(images: Tensor, amount: Tensor) -> Tensor:
    y, x = _grid(images)
    H, W = images.shape[2:]
    angle = torch.deg2rad(amount).view(-1, 1, 1)
    cos, sin = angle.cos(), angle.sin()
    # the centre of the first pixel, turned about the centre of the image
    x0 = W / 2 + cos * (1 - W) / 2 - sin * (1 - H) / 2
    y0 = H / 2 + sin * (1 - W) / 2 + cos * (1 - H) / 2
    # Pillow walks from there in steps of 2**-16 pixels
    right, down, x0, y0, stay = ((v * 2**16 + 0.5).floor().long() for v in (sin, -sin, x0, y0, cos))
    return _pixels(images, (y0 + right * x + stay * y) >> 16, (x0 + stay * x + down * y) >> 16)


def _shear_x(images: Tensor, amount: Tensor) -> Tensor:
    """Row y moves by `amount * y` pixels: cubic interpolation along the row (Keys, a = -1)."""
    C, W = images.shape[1], images.shape[3]
    y, x = _grid(images)
    source = x + 0.5 + amount.view(-1, 1, 1) * (y + 0.5)
    inside = (source >= 0) & (source < W)
    left = (source - 0.5).floor()
    t = (source - 0.5 - left)[:, None]

    def tap(offset: int) -> Tensor:  # the edge pixel is repeated
        place = (left.long() + offset).clamp(0, W - 1)
        return images.gather(3, place[:, None].expand(-1, C, -1, -1)).double()

    a, b, c, d = tap(-1), tap(0), tap(1), tap(2)
    value = b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a + d - c)))
    return torch.where(inside[:, None], value.clamp(0, 255).to(torch.uint8), GREY)


def _transposed(
    operation: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    """The operation along columns instead of rows."""
    return lambda images, amount: operation(images.mT, amount).mT


# --- what becomes of its value -------------------------------------------------------------------


def _invert(images: Tensor, amount: Tensor) -> Tensor:
    return 255 - images


def _solarize(images: Tensor, amount: Tensor) -> Tensor:
    return torch.where(images < _per_image(amount), images, 255 - images)


def _posterize(images: Tensor, amount: Tensor) -> Tensor:
    return images & (256 - 2 ** (8 - _per_image(amount))).to(torch.uint8)


def _autocontrast(images: Tensor, amount: Tensor) -> Tensor:
    """Stretch every channel to 0..255."""
    low = images.amin((2, 3), keepdim=True).double()
    high = images.amax((2, 3), keepdim=True).double()
    # a quotient of two tensors: torch takes 255 / tensor for 255 times a rounded reciprocal
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    stretched = (images * scale - low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def _equalize(images: Tensor, amount: Tensor) -> Tensor:
    """Give every channel a flat histogram, as far as a table of 256 values can."""
    n, C, H, W = images.shape
    value = images.flatten(2).long()
    channel = torch.arange(n * C, device=images.device).view(n, C, 1)
    count = torch.bincount((channel * 256 + value).flatten(), minlength=n * C * 256)
    count = count.view(n, C, 256)
    last = count.gather(2, value.amax(2, keepdim=True))  # pixels of the brightest value
    step = (H * W - last) // 255  # pixels per output value
    below = count.cumsum(2) - count
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255).to(torch.uint8)
    flat = table.gather(2, value).view_as(images)
    return torch.where(step[..., None] > 0, flat, images)


def _blend(images: Tensor, base: Tensor, amount: Tensor) -> Tensor:
    """Move away from `base` (1 + amount) times as far as the image is; float32, as in Pillow."""
    base = base.float()
    value = base + (1 + _per_image(amount)).float() * (images - base)
    return value.clamp(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """ITU-R 601 grey (n, 1, H, W) int32, in Pillow's fixed point."""
    r, g, b = images.int().split(1, dim=1)
    return (19595 * r + 38470 * g + 7471 * b + 2**15) >> 16


def _brightness(images: Tensor, amount: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images), amount)


def _color(images: Tensor, amount: Tensor) -> Tensor:
    return _blend(images, _luma(images), amount)


def _contrast(images: Tensor, amount: Tensor) -> Tensor:
    mean = _luma(images).double().mean((1, 2, 3), keepdim=True)
    return _blend(images, (mean + 0.5).floor(), amount)


def _sharpness(images: Tensor, amount: Tensor) -> Tensor:
    """The base is smoothed: the centre weighs 5/13, its neighbours 1/13; the border stays."""
    x = images.int()
    box = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    box = box[..., :-2] + box[..., 1:-1] + box[..., 2:]
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = (2 * (box + 4 * x[..., 1:-1, 1:-1]) + 13) // 26  # rounded
    return _blend(images, smooth, amount)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ShearX": _shear_x,
    "ShearY": _transposed(_shear_x),
    "TranslateX": _translate_x,
    "TranslateY": _transposed(_translate_x),
    "Rotate": _rotate,
    "Invert": _invert,
    "Solarize": _solarize,
    "Posterize": _posterize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
}
