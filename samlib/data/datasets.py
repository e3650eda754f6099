"""Data sets as arrays: downloaded once, kept in a cache that is checked whenever it is read."""

import contextlib
import errno
import functools
import gzip
import hashlib
import http.client
import importlib.util
import io
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from samlib.data.arrays import Arrays, canonical, frozen, other_images, problem_of
from samlib.data.info import INFO, Info
from samlib.errors import DataMissing, choose, command
from samlib.files import DiskError, resolve, write_atomically


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
        problem = problem_of(info, arrays)
        if not problem:
            arrays = canonical(arrays)
            problem = other_images(info, arrays)
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
        problem = problem_of(info, arrays)
        if not problem:
            arrays = canonical(arrays)
            problem = other_images(info, arrays)
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
    return frozen(arrays)


@functools.cache
def _digits() -> Arrays:
    table = _digits_table()
    pixels, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    images = np.rint(pixels * 255 / 16).astype(np.uint8)[..., None]  # 0..16 to 0..255
    return frozen(Arrays(images, labels, images[:0], labels[:0], np.arange(10).astype(str)))


def _digits_table() -> np.ndarray:
    """The digits as scikit-learn has them: (1797, 65) float64, 64 pixels of 0 to 16 and the label.

    The file is read without scikit-learn, whose import takes a second of every worker's start.
    """
    spec = importlib.util.find_spec("sklearn")  # of a package at the top: nothing is imported
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                table = np.loadtxt(file, delimiter=",", ndmin=2)
            if table.shape != (INFO["digits"].train_count, 65):
                raise ValueError(f"it holds {table.shape} numbers, not (1797, 65)")
            return table
        except FileNotFoundError:
            continue
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataMissing(
                f"{path} is unusable ({_one_line(error)}): install scikit-learn again"
            ) from error
    from sklearn.datasets import load_digits  # a release that keeps the digits elsewhere

    digits = load_digits()
    return np.column_stack((digits.data, digits.target))


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


def _write(path: Path, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **vars(arrays))
    write_atomically(path, buffer.getvalue())
