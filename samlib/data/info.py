"""What is known of the data sets before their data are read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Info:
    """Properties of a data set that are known before its data are read.

    `mean` and `std` normalise raw pixels divided by 255, one value per channel. `channel_means`
    are the published means of the training pixels / 255, by which a cache is recognised; empty
    where none is published. `checksum` is the digest of all arrays in their canonical order (see
    `canonical`), empty where none is known. `archive` is the original download, relative to the
    archive folder, and `source` the name of its class in torchvision.datasets. A set without
    `official_test` is one pool, from which every seed draws its own test set. A set of `folders`
    is not an array: its images are read from one folder per class (`image_folders`).
    """

    name: str
    title: str
    classes: int
    channels: int
    image_size: int
    train_count: int
    test_count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_means: tuple[float, ...] = ()
    official_test: bool = True
    source: str = ""
    archive: str = ""
    checksum: str = ""
    folders: bool = False


INFO: dict[str, Info] = {
    info.name: info
    for info in (
        # mean and std of all 1,797 images; a test recomputes them
        Info("digits", "Digits", 10, 1, 8, 1797, 0, (0.3053,), (0.3759,), official_test=False),
        # CIFAR: mean and std as in the SAM-ON authors' train.py
        Info(
            *("cifar10", "CIFAR-10", 10, 3, 32, 50_000, 10_000),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
            channel_means=(0.49139968, 0.48215841, 0.44653091),
            source="CIFAR10",
            archive="cifar-10-python.tar.gz",
        ),
        Info(
            *("cifar100", "CIFAR-100", 100, 3, 32, 50_000, 10_000),
            mean=(0.5071, 0.4867, 0.4408),
            std=(0.2675, 0.2565, 0.2761),
            channel_means=(0.50707516, 0.48654887, 0.44091784),
            source="CIFAR100",
            archive="cifar-100-python.tar.gz",
            checksum="cf8cf0f3ae2591e5e6777d075e7ee797920a67c006757b5d52f007161ca63e2e",
        ),
        # mean and std of the 60,000 training images, as in common use
        Info(
            *("fashion_mnist", "Fashion-MNIST", 10, 1, 28, 60_000, 10_000),
            mean=(0.2860,),
            std=(0.3530,),
            source="FashionMNIST",
            archive="FashionMNIST/raw/*.gz",
        ),
        # mean and std as in torchvision's and timm's recipes
        Info(
            *("imagenet", "ImageNet", 1000, 3, 224, 1_281_167, 50_000),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            folders=True,
        ),
    )
}


def names() -> tuple[str, ...]:
    """The names of the data sets."""
    return tuple(INFO)
