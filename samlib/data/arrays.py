"""A data set as arrays: its checks, and an order that follows from the images alone."""

import hashlib
from dataclasses import dataclass

import numpy as np

from samlib.data.info import Info


@dataclass(frozen=True, eq=False)
class Arrays:
    """A whole data set, read-only: images (N, H, W, C) uint8, labels (N,) int64, class names."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: np.ndarray


def problem_of(info: Info, arrays: Arrays) -> str | None:
    """The first fault of a downloaded set's arrays; None if there is none."""
    for split, count in (("train", info.train_count), ("test", info.test_count)):
        images = getattr(arrays, f"{split}_images")
        labels = getattr(arrays, f"{split}_labels")
        wanted = (
            ("images", images, np.uint8, (count, info.image_size, info.image_size, info.channels)),
            ("labels", labels, np.int64, (count,)),
        )
        for part, array, dtype, shape in wanted:
            if array.dtype != dtype or array.shape != shape:
                return (
                    f"{split}_{part} is {array.dtype} {array.shape}, "
                    f"it should be {np.dtype(dtype)} {shape}"
                )
        if labels.min() < 0 or labels.max() >= info.classes:
            return f"{split}_labels must lie in 0..{info.classes - 1}"
    if arrays.classes.dtype.kind != "U" or arrays.classes.shape != (info.classes,):
        return f"classes must be {info.classes} names"
    means = arrays.train_images.mean((0, 1, 2)) / 255
    if info.channel_means and not np.allclose(means, info.channel_means, rtol=0, atol=1e-6):
        return f"the channel means {means.round(6).tolist()} are not {list(info.channel_means)}"
    return None


def canonical(arrays: Arrays) -> Arrays:
    """The same images in the order of their SHA-256 digests, equal images by label.

    Archives of one data set hold its images in different orders. A seed selects the same images
    from every archive only if the order follows from the images themselves.
    """

    def order(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        digests = (hashlib.sha256(image.tobytes()).digest() for image in images)
        ranks = [
            i for _, _, i in sorted(zip(digests, labels.tolist(), range(len(labels)), strict=True))
        ]
        return images[ranks], labels[ranks]

    train = order(arrays.train_images, arrays.train_labels)
    return Arrays(*train, *order(arrays.test_images, arrays.test_labels), arrays.classes)


def checksum(arrays: Arrays) -> str:
    """SHA-256 of all images and labels (int64, little-endian) and of the class names, in order."""
    found = hashlib.sha256()
    for split in ("train", "test"):
        found.update(getattr(arrays, f"{split}_images").tobytes())
        found.update(getattr(arrays, f"{split}_labels").astype("<i8").tobytes())
    found.update("\n".join(arrays.classes.tolist()).encode())
    return found.hexdigest()


def other_images(info: Info, arrays: Arrays) -> str | None:
    """Why arrays in canonical order are not those of the published checksum; None if they are."""
    if info.checksum and checksum(arrays) != info.checksum:
        return f"its images, labels or class names are not {info.title}'s: its checksum differs"
    return None


def frozen(arrays: Arrays) -> Arrays:
    """The same arrays, read-only."""
    for array in vars(arrays).values():
        array.setflags(write=False)
    return arrays
