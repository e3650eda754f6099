"""Data sets too large for memory: images in one folder per class, decoded as they are needed.

The interface is that of `splits.Splits`: batches of uint8 images and labels on a device. Crop and
flip of an image follow from the run's seed, the epoch and the image alone, so that neither the
number of loading processes nor an interruption changes a run.
"""

import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from samlib.data.datasets import default_data_dir
from samlib.data.info import INFO, Info
from samlib.errors import ConfigError, DataMissing

_PREFETCH = 2  # batches decoded ahead by each process


def loaders() -> int:
    """Processes that decode images: one per core this run may use but one, at most sixteen.

    Runs that torchrun starts on one machine share its cores.
    """
    allowed = getattr(os, "sched_getaffinity", None)  # a cluster's share of the machine; Linux only
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(0, min(16, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def classes_of(folder: Path) -> list[str]:
    """Names of the class folders, sorted: their positions are the labels.

    Raises:
        DataMissing: the folder is not there, or holds no folders.
    """
    if not folder.is_dir():
        raise DataMissing(f"{folder} is not there: put one folder of images per class into it")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not found:
        raise DataMissing(f"{folder} holds no folders: put one folder of images per class into it")
    return found


def files_of(folder: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Paths of the image files of some classes in a stable order, and their classes' positions.

    Paths are one array of text: of a list of objects every loading process would come to hold its
    own copy, as counting references writes to them.

    Raises:
        DataMissing: a class without images.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS  # slow to import

    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in IMG_EXTENSIONS)
        if not found:
            raise DataMissing(f"{folder / name} holds no images")
        files += map(str, found)
        labels += [label] * len(found)
    return np.array(files), np.array(labels, dtype=np.int64)


class Files(Dataset):
    """Image files and labels; augmented with an epoch's seed, without one cropped centrally."""

    def __init__(self, files: np.ndarray, labels: np.ndarray, size: int, epoch: int | None = None):
        self.files, self.labels, self.size, self.epoch = files, labels, size, epoch

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from samlib.data.decode import centred, inception, open_rgb  # slow to import

        image = open_rgb(self.files[index])
        if self.epoch is None:
            return centred(image, self.size), int(self.labels[index])
        seed = int(np.random.SeedSequence((self.epoch, index)).generate_state(1, np.uint64)[0] >> 1)
        return inception(image, self.size, seed), int(self.labels[index])


def batches(
    files: Files, parts: Sequence[Sequence[int]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels on a device, each the files at the given positions.

    Raises:
        DataMissing: a file that cannot be decoded.
    """
    workers = loaders()
    loader = DataLoader(
        files,
        batch_sampler=parts,  # type: ignore[arg-type]  # sequences will do, too
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
    )
    try:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    except DataMissing as error:  # a loading process sends its traceback along
        traceback.clear_frames(error.__traceback__)  # they hold each other and the processes
        raise DataMissing(str(error).rpartition("DataMissing: ")[2].strip()) from None


def in_parts(order: Sequence[int], size: int) -> list[Sequence[int]]:
    """Positions cut into batches; the last may be short."""
    return [order[i : i + size] for i in range(0, len(order), size)]


@dataclass(frozen=True, eq=False)
class FolderSplits:
    """One seed's split of a folder data set; see `splits.Splits` for what its methods do.

    Attributes:
        train, validation, test: files and labels.
        info: of the data set.
        classes: names of the class folders.
        device: where batches go.
    """

    train: Files
    validation: Files
    test: Files
    info: Info
    classes: list[str]
    device: torch.device

    def count(self, split: str) -> int:
        """Number of images in train, validation or test."""
        return len(getattr(self, split))

    def train_batches(
        self, augmentation: str, size: int, order: torch.Generator, draws: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training batches, "inception" or "none"."""
        epoch = int(torch.randint(2**62, (), generator=draws))
        shuffled = torch.randperm(len(self.train), generator=order).tolist()
        files = self.augmented(augmentation, epoch)
        yield from batches(files, in_parts(shuffled, size), self.device)

    def augmented(self, augmentation: str, epoch: int) -> Files:
        """The training files as they are augmented in the epoch of that seed."""
        if augmentation not in ("inception", "none"):
            raise ConfigError(
                f"{self.info.title} is augmented with inception or none, not {augmentation!r}"
            )
        files = self.train
        if augmentation == "none":
            return files
        return Files(files.files, files.labels, files.size, epoch)

    def plain_batches(
        self, split: str, size: int, most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """A split as it is, in order; of the first `most` images."""
        files = getattr(self, split)
        chosen = range(min(len(files), most or len(files)))
        yield from batches(files, in_parts(chosen, size), self.device)

    def sample(
        self, n: int, augmentation: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The first n examples of a fresh shuffle of the training set, augmented."""
        epoch = int(torch.randint(2**62, (), generator=generator))
        chosen = torch.randperm(len(self.train), generator=generator)[:n].tolist()
        return next(batches(self.augmented(augmentation, epoch), [chosen], self.device))


def check(name: str, data_dir: str | Path | None) -> tuple[Path, list[str]]:
    """Folder and classes of a data set whose training and validation classes agree.

    Raises:
        DataMissing: a folder that is not there or has no folders in it.
        ConfigError: classes that do not fit.
    """
    root = (default_data_dir() if data_dir is None else Path(data_dir)).expanduser() / name
    classes, others = classes_of(root / "train"), classes_of(root / "val")
    if len(classes) > INFO[name].classes:
        raise ConfigError(
            f"{root / 'train'} has {len(classes)} classes, more than {INFO[name].classes}"
        )
    if odd := sorted(set(classes) ^ set(others)):
        raise ConfigError(
            f"{root / 'val'} and {root / 'train'} do not have the same classes: {odd[0]} is in one "
            f"of them only, and {len(odd) - 1} more"
        )
    return root, classes


def folder_splits(
    name: str,
    *,
    seed: int,
    validation_size: int,
    train_size: int | None,
    device: torch.device,
    data_dir: str | Path | None,
) -> FolderSplits:
    """A seed's split of `<data dir>/NAME/train/CLASS/*` and `.../val/CLASS/*`.

    The official validation set is the test set here; validation images are drawn from the training
    set.

    Raises:
        DataMissing: a folder that is not there or has no images.
        ConfigError: classes or sizes that do not fit.
    """
    info = INFO[name]
    root, classes = check(name, data_dir)
    files, labels = files_of(root / "train", classes)
    size = len(files) - validation_size if train_size is None else train_size
    if size < 1 or size + validation_size > len(files):
        raise ConfigError(
            f"train_size {train_size} and validation_size {validation_size} do not fit: "
            f"{root / 'train'} has {len(files)} images"
        )
    order = np.random.default_rng(np.random.SeedSequence((seed, 0x666F6C64))).permutation(
        len(files)
    )

    def some(chosen: np.ndarray) -> Files:
        return Files(files[chosen], labels[chosen], info.image_size)

    return FolderSplits(
        train=some(order[validation_size : validation_size + size]),
        validation=some(order[:validation_size]),
        test=Files(*files_of(root / "val", classes), info.image_size),
        info=info,
        classes=classes,
        device=device,
    )
