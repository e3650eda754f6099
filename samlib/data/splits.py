"""The splits of a seed, and the input of the network."""

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samlib.data.augment import augment
from samlib.data.datasets import load
from samlib.data.info import INFO, Info
from samlib.errors import ConfigError, choose


@dataclass(frozen=True, eq=False)
class Splits:
    """One seed's split on a device: images (N, C, H, W) uint8, labels (N,) int64."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    info: Info

    def count(self, split: str) -> int:
        """Number of images in train, validation or test."""
        return len(self._of(split)[1])

    def _of(self, split: str) -> tuple[Tensor, Tensor]:
        return {
            "train": (self.train_images, self.train_labels),
            "validation": (self.val_images, self.val_labels),
            "test": (self.test_images, self.test_labels),
        }[split]

    def train_batches(
        self, augmentation: str, size: int, order: torch.Generator, draws: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training batches: augmented at once, then shuffled; the last may be short.

        Args:
            augmentation: one of `augment.names()`.
            size: images per batch.
            order: of the shuffle; like `draws`, of the augmentation, on the CPU.
        """
        images = augment(self.train_images, augmentation, draws)
        shuffled = torch.randperm(len(images), generator=order).to(images.device)
        for batch in shuffled.split(size):
            yield images[batch], self.train_labels[batch]

    def plain_batches(
        self, split: str, size: int, most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split in order, without augmentation; of the first `most` images."""
        images, labels = self._of(split)
        yield from zip(images[:most].split(size), labels[:most].split(size), strict=True)

    def sample(
        self, n: int, augmentation: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The first n examples of a fresh shuffle of the training set, augmented."""
        chosen = torch.randperm(len(self.train_labels), generator=generator)[:n]
        return augment(self.train_images[chosen], augmentation, generator), self.train_labels[
            chosen
        ]


def make_splits(
    name: str,
    *,
    seed: int,
    validation_size: int,
    train_size: int | None = None,
    label_noise: float = 0.0,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
) -> Splits:
    """The training, validation and test set of a seed.

    Validation and training images are drawn without replacement from the training set; with
    `train_size=None` all that remain are trained on. A set without an official test set is split
    three ways: what is neither trained nor validated on is the test set.

    With probability `label_noise` a training label is replaced by a uniform draw over all K
    classes, so that a share `label_noise * (K - 1) / K` is expected to be wrong. Validation and
    test labels stay clean. The split depends on the seed alone; noise is drawn from a stream of its
    own, image by image, and a larger `label_noise` corrupts the same images and more.

    Raises ConfigError for sizes that do not fit or a `label_noise` outside [0, 1].
    """
    info = INFO[choose("data set", name, INFO)]
    if not 0 <= label_noise <= 1:  # also catches NaN
        raise ConfigError(f"label_noise is {label_noise}, it must lie in [0, 1]")
    if not isinstance(seed, Integral) or seed < 0:
        raise ConfigError(f"seed is {seed!r}, it must be an integer >= 0")
    train_size = _train_size(info, train_size, validation_size)
    arrays = load(name, data_dir)
    order = _stream(seed, "split").permutation(info.train_count)
    val, train, rest = np.split(order, (validation_size, validation_size + train_size))

    rng = _stream(seed, "label noise")
    noisy = rng.random(info.train_count) < label_noise
    drawn = rng.integers(info.classes, size=info.train_count)
    labels = np.where(noisy, drawn, arrays.train_labels)

    if info.official_test:
        test_images, test_labels = arrays.test_images, arrays.test_labels
    else:
        test_images, test_labels = arrays.train_images[rest], arrays.train_labels[rest]
    return Splits(
        train_images=_images(arrays.train_images[train], device),
        train_labels=torch.from_numpy(labels[train]).to(device),
        val_images=_images(arrays.train_images[val], device),
        val_labels=torch.from_numpy(arrays.train_labels[val]).to(device),
        test_images=_images(test_images, device),
        test_labels=torch.from_numpy(test_labels.copy()).to(device),
        info=info,
    )


def normalize(images: Tensor, info: Info, dtype: torch.dtype = torch.float32) -> Tensor:
    """Raw pixels (N, C, H, W) uint8 to network input: (x / 255 - mean) / std per channel.

    Computed in float32, as torchvision's ToTensor and Normalize do, then converted to `dtype`.
    """
    mean, std = mean_std(info, images.device)
    return images.float().div_(255).sub_(mean).div_(std).to(dtype)


@functools.cache  # a copy to the device for every batch would make the GPU wait
def mean_std(info: Info, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of pixels in [0, 1], each (channels, 1, 1)."""
    mean, std = torch.tensor((info.mean, info.std), device=device).view(2, -1, 1, 1)
    return mean, std


def _stream(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for every purpose, so that one draw never shifts another."""
    return np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()),))
    )


def _images(images: np.ndarray, device: str | torch.device) -> Tensor:
    # always a copy: the arrays that were read are shared by all runs of this process
    return torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C")).to(device)


def _train_size(info: Info, train_size: int | None, validation_size: int) -> int:
    """The number of training images; a ConfigError unless everything fits."""
    if train_size is None and not info.official_test:
        raise ConfigError(f"{info.name} has no official test set: train_size must be given")
    total = info.train_count if info.official_test else info.train_count - 1  # one left to test on
    size = total - validation_size if train_size is None else train_size
    if size < 1 or validation_size < 0 or size + validation_size > total:
        use = "training and validation" if info.official_test else "training, validation and test"
        raise ConfigError(
            f"train_size {train_size} and validation_size {validation_size} do not fit: "
            f"{info.name} has {info.train_count} images for {use}"
        )
    return size
