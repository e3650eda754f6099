"""Data sets: what a cache must hold, and what the user is told if it does not."""

import dataclasses
import errno
import gzip
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from conftest import one_line
from sklearn.datasets import load_digits

from samlib.data import datasets
from samlib.data.arrays import Arrays, canonical, checksum
from samlib.data.info import INFO, names
from samlib.errors import ConfigError, DataMissing
from samlib.files import project_root


def test_names_and_unknown_name():
    assert names() == ("digits", "cifar10", "cifar100", "fashion_mnist", "imagenet")
    for use in (datasets.load, datasets.prepare):
        with pytest.raises(ConfigError, match=r"unknown data set 'cifar'.*cifar100"):
            use("cifar")


def test_digits_constants_are_those_of_the_data():
    info, arrays = INFO["digits"], datasets.load("digits")
    assert arrays.train_images.shape == (info.train_count, 8, 8, 1)
    assert arrays.train_images.dtype == np.uint8
    assert (arrays.train_images.min(), arrays.train_images.max()) == (0, 255)
    assert len(np.unique(arrays.train_images)) == 17
    assert np.bincount(arrays.train_labels, minlength=info.classes).min() > 100
    pixels = arrays.train_images / 255
    assert info.mean == (round(pixels.mean(), 4),)
    assert info.std == (round(pixels.std(), 4),)


def test_digits_are_those_of_scikit_learn():
    found, given = datasets.load("digits"), load_digits()
    images = np.rint(given.images * 255 / 16).astype(np.uint8)[..., None]
    assert found.train_images.tobytes() == images.tobytes()
    assert found.train_labels.dtype == np.int64
    assert np.array_equal(found.train_labels, given.target)
    assert found.test_images.shape == (0, 8, 8, 1)
    assert found.classes.tolist() == given.target_names.astype(str).tolist()
    assert found.classes.dtype.kind == "U"


def test_a_run_on_digits_does_not_wait_for_scikit_learn():
    code = (
        "import sys\n"
        "from samlib.trainer.config import RunConfig\n"
        "from samlib.trainer.one_run import train\n"
        "train(RunConfig(train_size=32, validation_size=0, epochs=1, batch_size=32))\n"
        "print(sorted({'sklearn', 'scipy', 'pandas'} & {*sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def made_up_package(folder, monkeypatch):
    """A scikit-learn with its digits as in `folder`; the file of the digits."""
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    (folder / "datasets" / "data").mkdir(parents=True)
    return folder / "datasets" / "data" / "digits.csv.gz"


def test_digits_that_scikit_learn_keeps_elsewhere_are_asked_of_it(tmp_path, monkeypatch):
    expected = datasets._digits_table()
    made_up_package(tmp_path, monkeypatch)
    found = datasets._digits_table()
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "content", [b"0,1\n", gzip.compress(b"0,1\n"), gzip.compress(b"0,1\n0,1\n")[:-9]]
)
def test_a_damaged_file_of_digits_is_named(tmp_path, monkeypatch, content):
    path = made_up_package(tmp_path, monkeypatch)
    path.write_bytes(content)
    with pytest.raises(DataMissing, match="install scikit-learn again") as caught:
        datasets._digits_table()
    assert str(path) in one_line(caught)


def test_data_dir_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path))
    assert datasets.default_data_dir() == tmp_path
    monkeypatch.delenv("SAMLIB_DATA")
    assert datasets.default_data_dir() == project_root() / "data"


# --- the cache -----------------------------------------------------------------------------------

COMMAND = "python -m samlib prepare --dataset cifar10"


def test_absent_cache_names_the_command_and_the_place(tmp_path):
    with pytest.raises(DataMissing) as caught:
        datasets.load("cifar10", tmp_path / "nowhere")
    for part in ("CIFAR-10 ", f"`{COMMAND} --data {tmp_path / 'nowhere'}`", "cifar10.npz"):
        assert part in str(caught.value)


def test_the_command_names_a_folder_only_if_it_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path))
    for folder in (None, tmp_path):
        with pytest.raises(DataMissing, match=f"run `{COMMAND}`,"):
            datasets.load("cifar10", folder)
    with pytest.raises(DataMissing, match=f"`{COMMAND} --data '{tmp_path}/my data'`"):
        datasets.load("cifar10", tmp_path / "my data")


FAULTS = {
    "key": (lambda a: a.pop("test_labels"), "test_labels"),
    "dtype": (lambda a: a.update(train_labels=a["train_labels"].astype(np.int32)), "int32"),
    "shape": (lambda a: a.update(train_images=a["train_images"].transpose(0, 3, 1, 2)), "32, 32"),
    "count": (lambda a: a.update(test_images=a["test_images"][1:]), "test_images"),
    "label": (lambda a: a["test_labels"].__setitem__(0, 10), r"test_labels must lie in 0\.\.9"),
    "classes": (lambda a: a.update(classes=a["classes"][1:]), "10 names"),
    "means": (lambda a: a.update(train_images=a["train_images"] ^ 1), "channel means"),
    "pickle": (lambda a: a.update(classes=a["classes"].astype(object)), "allow_pickle"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_cache_is_refused(tiny, tmp_path, fault):
    arrays = tiny()
    spoil, named = FAULTS[fault]
    spoil(arrays)
    path = tmp_path / "cifar10.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataMissing, match=named) as caught:
        datasets.load("cifar10", tmp_path)
    assert f"delete it and run `{COMMAND} --data {tmp_path}`" in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataMissing):  # prepare does not delete what it did not write
        datasets.prepare("cifar10", tmp_path)
    assert path.exists()


@pytest.mark.parametrize("keep", [0, 0.3, 0.999, "damaged"])
def test_truncated_or_damaged_cache(tiny, tmp_path, keep):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **tiny())
    content = bytearray(path.read_bytes())
    if keep == "damaged":
        content[len(content) // 2] ^= 255
    else:
        del content[int(len(content) * keep) :]
    path.write_bytes(content)
    with pytest.raises(DataMissing, match=f"delete it and run `{COMMAND} --data {tmp_path}`"):
        datasets.load("cifar10", tmp_path)


def test_cache_is_read_once_until_it_changes(tiny, tmp_path):
    arrays = tiny()
    path = tmp_path / "cifar10.npz"
    np.savez(path, **arrays)
    first = datasets.load("cifar10", tmp_path)
    assert datasets.load("cifar10", str(tmp_path)) is first
    with pytest.raises(ValueError, match="read-only"):
        first.train_images[0] = 0
    os.utime(path, ns=(1, 1))
    assert datasets.load("cifar10", tmp_path) is not first


# --- prepare -------------------------------------------------------------------------------------


@pytest.fixture
def fake(tiny, monkeypatch):
    """A torchvision data set of a few Fashion-MNIST images; returns the arrays it stands for."""
    arrays = tiny("fashion_mnist", train=60, test=20)

    class Fake:
        classes = arrays["classes"].tolist()

        def __init__(self, root, train, download):
            assert download  # without it torchvision would not check the archive
            split = "train" if train else "test"
            self.data = torch.from_numpy(arrays[f"{split}_images"][..., 0])
            self.targets = torch.from_numpy(arrays[f"{split}_labels"])

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", Fake)
    return arrays


def test_prepare_writes_a_cache_that_load_accepts(fake, tmp_path, monkeypatch):
    path = datasets.prepare("fashion_mnist", tmp_path)
    assert path == tmp_path / "fashion_mnist.npz"
    loaded = datasets.load("fashion_mnist", tmp_path)
    expected = vars(canonical(Arrays(**fake)))
    assert all(np.array_equal(getattr(loaded, key), value) for key, value in expected.items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archives", "fashion_mnist.npz"]
    before = path.stat().st_mtime_ns
    monkeypatch.delattr(torchvision.datasets, "FashionMNIST")  # not asked again
    assert datasets.prepare("fashion_mnist", tmp_path) == path
    assert path.stat().st_mtime_ns == before


def a_set(draw, order):
    """Six images, two of them equal, in some order; their labels follow them."""
    images = np.random.default_rng(draw).integers(0, 256, (6, 8, 8, 1), np.uint8)
    images[1] = images[0]
    labels = np.array([3, 1, 2, 0, 1, 2])
    classes = np.array([f"class {i}" for i in range(4)])
    return Arrays(images[order], labels[order], images[:2], labels[:2], classes)


def test_the_canonical_order_is_that_of_the_images_whatever_order_they_came_in():
    first, second = (canonical(a_set(0, order)) for order in ([*range(6)], [5, 1, 3, 0, 2, 4]))
    for name, array in vars(first).items():
        assert np.array_equal(array, getattr(second, name)), name
    pairs = {(i.tobytes(), n) for i, n in zip(first.train_images, first.train_labels, strict=True)}
    given = a_set(0, [*range(6)])
    assert pairs == {
        (i.tobytes(), n) for i, n in zip(given.train_images, given.train_labels, strict=True)
    }


def test_a_cache_of_other_images_labels_or_names_is_refused(tmp_path, monkeypatch):
    good = canonical(a_set(0, [*range(6)]))
    info = dataclasses.replace(
        INFO["digits"],
        **{"name": "small", "title": "Small", "classes": 4, "train_count": 6, "test_count": 2},
        source="none",
        checksum=checksum(good),
    )
    monkeypatch.setitem(INFO, "small", info)
    shuffled = a_set(0, [5, 1, 3, 0, 2, 4])
    np.savez(tmp_path / "small.npz", **vars(shuffled))
    assert np.array_equal(datasets.load("small", tmp_path).train_images, good.train_images)
    relabelled = dataclasses.replace(good, train_labels=good.train_labels[::-1])
    renamed = dataclasses.replace(good, classes=good.classes[::-1])
    for number, other in enumerate((a_set(1, [*range(6)]), relabelled, renamed)):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.savez(folder / "small.npz", **vars(other))
        with pytest.raises(DataMissing, match="its checksum differs"):
            datasets.load("small", folder)


def test_digits_need_no_preparation(tmp_path):
    assert datasets.prepare("digits", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_prepare_checks_what_was_downloaded(fake, tmp_path):
    fake["train_labels"][0] = 10
    with pytest.raises(DataMissing, match="train_labels must lie"):
        datasets.prepare("fashion_mnist", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["archives"]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (KeyboardInterrupt(), None),
    ],
)
def test_interrupted_write_leaves_nothing(fake, tmp_path, monkeypatch, error, named):
    def broken(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DataMissing if named else KeyboardInterrupt, match=named):
        datasets.prepare("fashion_mnist", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["archives"]


@pytest.mark.parametrize(
    "error", [URLError("no route"), RuntimeError("Error downloading:\nTried x"), TimeoutError()]
)
def test_failed_download_says_what_to_put_where(tmp_path, monkeypatch, error):
    def offline(*args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", offline)
    with pytest.raises(DataMissing) as caught:
        datasets.prepare("cifar100", tmp_path)
    message = str(caught.value)
    for part in (
        f"put a ready cifar100.npz in {tmp_path}",
        str(tmp_path / "archives" / "cifar-100-python.tar.gz"),
        f"run `python -m samlib prepare --dataset cifar100 --data {tmp_path}` again",
    ):
        assert part in message
    assert "\n" not in message
