"""Random crops, flips and AutoAugment for many images at once, each image with its own draw.

Every draw comes from a generator on the CPU and only then goes to the device of the images, so that
a run on a GPU augments exactly as the same run on a CPU does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from samlib.data.autoaugment import autoaugment
from samlib.errors import ConfigError, choose

# shift: for signs that have a right way round, such as digits
# basic: the recipe of the SAM-ON authors; autoaugment: theirs with the CIFAR-10 policy after it
# inception: for data sets in folders, augmented while decoded (`samlib.data.image_folders`)
AUGMENTATIONS = ("none", "shift", "basic", "autoaugment", "inception")


def names() -> tuple[str, ...]:
    """The names of the augmentations."""
    return AUGMENTATIONS


def padding_for(image_size: int) -> int:
    """The pixels a crop may shift by: an eighth of the image, rounded up (4 for 32 pixels).

    >>> [padding_for(size) for size in (8, 28, 32)]
    [1, 4, 4]
    """
    return -(-image_size // 8)


def augment(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Augment images (N, C, H, W) uint8, a batch or a whole epoch; the result has the same shape.

    `generator` is a CPU generator; how many draws it makes depends on N alone. "none" returns
    `images` itself. Raises ConfigError for an unknown name, and for AutoAugment without colour.
    """
    choose("augmentation", name, AUGMENTATIONS)
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ConfigError(
            f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}"
        )
    if name == "inception":
        raise ConfigError("inception crops are for data sets in folders, such as imagenet")
    if name == "none":
        return images
    images = random_crop(images, padding_for(images.shape[-1]), generator)
    if name == "shift":
        return images
    images = random_flip(images, generator)
    return autoaugment(images, generator) if name == "autoaugment" else images


def random_crop(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Pad images (N, C, H, W) with `pad` black pixels and crop each at a random place.

    All (2 pad + 1)^2 places are equally likely.
    """
    N, _, H, W = images.shape
    y, x = torch.randint(2 * pad + 1, (2, N), generator=generator).to(images.device)
    n = torch.arange(N, device=images.device)
    # a view with every place there is, (N, C, 2 pad + 1, 2 pad + 1, H, W); one is read per image
    places = F.pad(images, (pad, pad, pad, pad)).unfold(2, H, 1).unfold(3, W, 1)
    return places[n, :, y, x]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right with probability 1/2."""
    flip = torch.randint(2, (len(images), 1, 1, 1), generator=generator).bool()
    return torch.where(flip.to(images.device), images.flip(3), images)
