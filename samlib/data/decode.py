"""An image file as a tensor: decoded, and cut as the recipes of ImageNet do."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as transforms

from samlib.errors import DataMissing


def open_rgb(path: str | Path) -> Tensor:
    """An image file as uint8, (3, height, width).

    Raises:
        DataMissing: it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return transforms.pil_to_tensor(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataMissing(f"{path} cannot be read as an image ({error}): replace it") from None


def centred(image: Tensor, size: int) -> Tensor:
    """The shorter side resized to 256/224 of `size`, then the central square cut out."""
    short = round(size * 256 / 224)
    return transforms.center_crop(transforms.resize(image, [short], antialias=True), [size, size])


def inception(image: Tensor, size: int, seed: int) -> Tensor:
    """A random part of 8 to 100 % of the area, resized to a square, and a flip (Szegedy et al.)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a GPU's generator is the network's
        box = RandomResizedCrop(size).make_params([image])
        flip = bool(torch.rand(()) < 0.5)
    box = {key: int(box[key]) for key in ("top", "left", "height", "width")}
    cut = transforms.resized_crop(image, **box, size=[size, size], antialias=True)
    return transforms.horizontal_flip(cut) if flip else cut
