"""Data sets as arrays: their properties, their caches and the checks of a cache."""

import contextlib
import errno
import functools
import hashlib
import http.client
import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samlib.errors import DataMissing, choose, command
from samlib.files import DiskError, resolve, write_atomically


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


@dataclass(frozen=True, eq=False)
class Arrays:
    """A whole data set, read-only: images (N, H, W, C) uint8, labels (N,) int64, class names."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: np.ndarray


def names() -> tuple[str, ...]:
    """The names of the data sets."""
    return tuple(INFO)


def default_data_dir() -> Path:
    """The folder of the caches: environment variable SAMLIB_DATA, or the project's `data`."""
    return resolve(os.environ.get("SAMLIB_DATA") or "data")


def prepare(name: str, data_dir: str | Path | None = None) -> Path | None:
    """Download a data set and write its cache `<data_dir>/NAME.npz`; return the cache's path.

    torchvision downloads into `<data_dir>/archives` and checks its MD5 before any unpickling.
    A valid cache is left as it is. The digits come with scikit-learn: nothing is written, None is
    returned. Raises DataMissing if the download or the disk fails, or if a cache is there but
    unusable (it is the user's to delete).
    """
    info = INFO[choose("data set", name, INFO)]
    if info.folders:
        raise DataMissing(_own_images(info, data_dir))
    if not info.source:
        return None
    path = _cache_path(name, data_dir)
    if path.exists():
        load(name, data_dir)
        return path
    archives = path.parent / "archives"
    try:
        archives.mkdir(parents=True, exist_ok=True)
        arrays = _download(info, archives)
        problem = _problem(info, arrays)
        if not problem:
            arrays = canonical(arrays)
            problem = _other_images(info, arrays)
        if problem:
            raise DataMissing(f"{info.title} as downloaded to {archives} is unusable: {problem}")
        _write(path, arrays)
    except (OSError, RuntimeError, http.client.HTTPException, DiskError) as error:
        reason = error.__cause__ if isinstance(error, DiskError) else None
        reason = reason or error
        damaged = _damaged(info, archives)
        advice = (
            f"{damaged} is there, but it is not the original: its MD5 checksum differs, as that of "
            "a damaged or incomplete file does; replace it"
            if damaged
            else f"put a ready {path.name} in {path.parent} or the original "
            f"{archives / info.archive}"
        )
        if getattr(reason, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            advice = f"free some space on the disk of {path.parent}"
        raise DataMissing(
            f"{info.title} could not be prepared ({_one_line(reason)}): "
            f"{advice}, and run `{_command(name, path)}` again"
        ) from error
    return path


def load(name: str, data_dir: str | Path | None = None) -> Arrays:
    """The checked arrays of a data set; read once per process, until the file changes.

    Raises DataMissing if the cache is absent, cannot be read, or fails a check of its keys, shapes,
    types, labels or, for CIFAR, channel means.
    """
    info = INFO[choose("data set", name, INFO)]
    if info.folders:
        raise DataMissing(_own_images(info, data_dir))
    if not info.source:
        return _digits()
    path = _cache_path(name, data_dir).resolve()
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataMissing(
            f"{info.title} is not in {path.parent}: run `{_command(name, path)}`, "
            f"or put a ready {path.name} there"
        ) from None
    return _read(info, path, stat.st_mtime_ns, stat.st_size)


def _own_images(info: Info, data_dir: str | Path | None) -> str:
    folder = (default_data_dir() if data_dir is None else Path(data_dir)) / info.name
    return (
        f"{info.title} is not downloaded: put its images into {folder}/train and {folder}/val, one "
        "folder per class"
    )


def _command(name: str, cache: Path) -> str:
    """The command that prepares a cache at its path."""
    words = ["prepare", "--dataset", name]
    if cache.resolve() != _cache_path(name, None).resolve():
        words += ["--data", str(cache.parent)]
    return command(*words)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _cache_path(name: str, data_dir: str | Path | None) -> Path:
    folder = default_data_dir() if data_dir is None else Path(data_dir)
    return folder.expanduser() / f"{name}.npz"


@functools.lru_cache(maxsize=2)
def _read(info: Info, path: Path, mtime_ns: int, size: int) -> Arrays:
    """The cache at `path`, checked; with another mtime or size the file is read again."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):  # its directory is at the end: truncation shows here
                raise ValueError("not a complete .npz file")
            with np.load(file, allow_pickle=False) as npz:
                arrays = Arrays(**{key: npz[key] for key in Arrays.__dataclass_fields__})
        problem = _problem(info, arrays)
        if not problem:
            arrays = canonical(arrays)
            problem = _other_images(info, arrays)
    # A flipped bit can also ask for a password (RuntimeError) or for an unknown compression, which
    # is a NotImplementedError and so a RuntimeError, too.
    except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        problem = _one_line(error)
    except zlib.error as error:
        problem = _one_line(error)
    if problem:
        raise DataMissing(
            f"{path} is unusable ({problem}): delete it and run `{_command(info.name, path)}`"
        )
    return _freeze(arrays)


@functools.cache
def _digits() -> Arrays:
    from sklearn.datasets import load_digits  # slow to import, needed by this set only

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]  # 0..16 to 0..255
    labels = digits.target.astype(np.int64)
    return _freeze(Arrays(images, labels, images[:0], labels[:0], digits.target_names.astype(str)))


def _download(info: Info, archives: Path) -> Arrays:
    import torchvision.datasets  # slow to import, needed here only

    def split(train: bool) -> tuple[np.ndarray, np.ndarray]:
        images = np.asarray(data[train].data)
        shape = (len(images), info.image_size, info.image_size, info.channels)
        return images.reshape(shape), np.asarray(data[train].targets, dtype=np.int64)

    cls = getattr(torchvision.datasets, info.source)
    for name, _ in getattr(cls, "resources", ()):
        # Of these sets torchvision checks the archives alone and takes unpacked files as they are.
        (archives / info.source / "raw" / name).with_suffix("").unlink(missing_ok=True)
    data = {train: cls(archives, train=train, download=True) for train in (True, False)}
    return Arrays(*split(True), *split(False), np.array(data[True].classes, dtype=str))


def _damaged(info: Info, archives: Path) -> Path | None:
    """An archive that lies there and is not the original."""
    import torchvision.datasets  # slow to import

    cls = getattr(torchvision.datasets, info.source)
    known = {f"{info.source}/raw/{name}": md5 for name, md5 in getattr(cls, "resources", ())}
    for name, md5 in (known or {info.archive: getattr(cls, "tgz_md5", None)}).items():
        with contextlib.suppress(OSError):  # absent, or unreadable, which its own message says
            content = (archives / name).read_bytes()
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                return archives / name
    return None


def _problem(info: Info, arrays: Arrays) -> str | None:
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


def _other_images(info: Info, arrays: Arrays) -> str | None:
    if info.checksum and checksum(arrays) != info.checksum:
        return f"its images, labels or class names are not {info.title}'s: its checksum differs"
    return None


def _write(path: Path, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **vars(arrays))
    write_atomically(path, buffer.getvalue())


def _freeze(arrays: Arrays) -> Arrays:
    for array in vars(arrays).values():
        array.setflags(write=False)
    return arrays
