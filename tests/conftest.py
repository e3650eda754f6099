"""Shared by the tests: small data sets, small networks, and what "the same run" means."""

import copy
import dataclasses
import errno
import json
import multiprocessing
import os
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import without_times
from torch import nn

from samlib import masks
from samlib.data.info import INFO
from samlib.trainer import one_run

# As many processes as cores run tests: threads of several would wait for each other, ten times as
# long as the work takes. What a test starts inherits the variable.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


class Net(nn.Module):
    """Two convolutions with norm, one of them with a bias, and a linear head."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), norm(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3), norm(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def small_net(dtype=torch.float32, norm=nn.BatchNorm2d, seed=0):
    """A `Net` in training mode whose parameters are all generic: no zero, no one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net(norm)
        with torch.no_grad():
            for p in net.parameters():
                if p.ndim == 1:
                    p.copy_(torch.randn(p.shape) * 0.5 + 0.2)
    return net.to(dtype)


def small_batch(dtype=torch.float32, n=8, seed=1):
    """Inputs and labels for a `Net`."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, 6, 6, generator=draw, dtype=torch.float64).to(dtype)
    return x, torch.randint(3, (n,), generator=draw)


def closure_of(net, x, y):
    return lambda: F.cross_entropy(net(x), y)


def eps_into(eps):
    """An `on_ascent` that appends eps to a list."""
    return lambda found: eps.extend(found.eps)


def some_coordinates(net):
    """A mask of single coordinates in convolution, norm and head, of others nothing."""
    draw = torch.Generator().manual_seed(3)
    names = ("conv1.weight", "norm1.weight", "norm2.bias", "conv2.weight", "fc.weight")
    shapes = {n: dict(net.named_parameters())[n].shape for n in names}
    chosen = {n: torch.rand(shape, generator=draw) < 0.4 for n, shape in shapes.items()}
    return masks.from_booleans(net, chosen)


MASK_OF = {
    "all": masks.all_parameters,
    "only_norm": masks.only_norm,
    "no_norm": masks.no_norm,
    "coordinates": some_coordinates,
}
WHOLE = ("all", "only_norm", "no_norm")  # those of whole parameters


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def selected(mask):
    """The mask as one boolean per trainable coordinate, in the order of `flat`."""
    entries = {id(e.parameter): e for e in mask.entries}
    parts = []
    for _, p in mask.trainable:
        part = torch.zeros(p.numel(), dtype=torch.bool)
        if id(p) in entries:
            index = entries[id(p)].index
            part[slice(None) if index is None else index] = True
        parts.append(part)
    return torch.cat(parts)


def snapshot(*holders):
    """Deep copies of what modules and optimizers hold."""
    return copy.deepcopy([h.state_dict() for h in holders])


def identical(a, b):
    """Whether nested states are equal bit for bit, in shape and type too."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


def repeatable(result):
    """What of a run must repeat byte for byte, as its record would hold it."""
    return json.dumps(without_times(result), sort_keys=True, allow_nan=False)


def one_line(caught):
    """The message of a caught error, which must be one line."""
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def _no_process_left():
    """A test ends the processes it starts: the next would meet them."""
    yield
    assert not multiprocessing.active_children()


@pytest.fixture(autouse=True)
def _no_figure_left():
    """Figures that a test leaves open would add up in the process that runs them all."""
    yield
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")


@pytest.fixture
def tiny(monkeypatch):
    """Shrinks an image set to a few images; see the function it gives."""

    def shrink(name="cifar10", train=300, test=40):
        """Shrink a set to a few images, each of which holds its own number; return its arrays."""
        info = INFO[name]
        rng = np.random.default_rng(0)
        arrays = {}
        for split, count, first in (("train", train, 0), ("test", test, train)):
            shape = (count, info.image_size, info.image_size, info.channels)
            images = rng.integers(0, 256, shape, dtype=np.uint8)
            number = np.arange(first, first + count)
            images[:, 0, 0, 0], images[:, 0, 1, 0] = number // 256, number % 256
            arrays[f"{split}_images"] = images
            arrays[f"{split}_labels"] = rng.integers(0, info.classes, count)
        arrays["classes"] = np.array([f"class {i}" for i in range(info.classes)])
        means = arrays["train_images"].mean((0, 1, 2)) / 255
        info = dataclasses.replace(
            info,
            train_count=train,
            test_count=test,
            channel_means=tuple(means.tolist()) if info.channel_means else (),
        )
        monkeypatch.setitem(INFO, name, info)
        return arrays

    return shrink


def pytest_collection_modifyitems(items):
    """Files with slow tests first, then those with many, so that no process ends long after all."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))


@pytest.fixture
def few_tested(monkeypatch):
    """Has runs of this process tested on a hundred images: of the digits all others are tested on.

    For tests that hold whole runs against each other; testing takes half of a short run's time.
    """
    whole = one_run.make_splits

    def fewer(*arguments, **options):
        splits = whole(*arguments, **options)
        few = {name: getattr(splits, name)[:100] for name in ("test_images", "test_labels")}
        return dataclasses.replace(splits, **few)

    monkeypatch.setattr(one_run, "make_splits", fewer)


@pytest.fixture(scope="session")
def smoke_folder(tmp_path_factory):
    """The smoke profile made up, on disk; no test changes it."""
    from made_up import made_up_results

    return made_up_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def smoke(smoke_folder):
    """The same, read: tests change copies of its records."""
    from samlib.report.results import load

    return load("smoke", smoke_folder)


@pytest.fixture
def full_disk(monkeypatch):
    """Fills the disk, once called: what is written is cut short and cannot be flushed."""

    def no_space(descriptor):
        os.ftruncate(descriptor, 3)
        raise OSError(errno.ENOSPC, "No space left on device")

    return lambda: monkeypatch.setattr(os, "fsync", no_space)
