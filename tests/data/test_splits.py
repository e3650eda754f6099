"""Data: what a seed decides, and what the network sees of an image."""

from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms as T

from samlib.data import datasets, splits
from samlib.data.info import INFO, names
from samlib.errors import ConfigError

PARTS = ("train", "val", "test")


def numbers(images):
    return (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1].int()).tolist()


def same(a, b, fields):
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in fields)


@pytest.mark.parametrize("name", names())
def test_normalize_is_torchvisions_pipeline(name):
    info = INFO[name]
    shape = (5, info.image_size, info.image_size, info.channels)
    raw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pipeline = T.Compose([T.ToTensor(), T.Normalize(info.mean, info.std)])
    images = torch.from_numpy(raw).permute(0, 3, 1, 2)
    got = splits.normalize(images, info)
    torch.testing.assert_close(got, torch.stack([pipeline(x) for x in raw]), rtol=0, atol=1e-6)
    assert splits.normalize(images, info, torch.bfloat16).dtype == torch.bfloat16


def digits(seed=0, **changes):
    sizes = {"train_size": 1000, "validation_size": 297} | changes
    return splits.make_splits("digits", seed=seed, **sizes)


def test_digits_are_split_three_ways_by_the_seed():
    a = digits()
    assert [len(getattr(a, f"{p}_labels")) for p in PARTS] == [1000, 297, 500]
    whole = datasets.load("digits")
    pool = zip(whole.train_images, whole.train_labels.tolist(), strict=True)
    drawn = Counter()
    for part in PARTS:
        images, labels = getattr(a, f"{part}_images"), getattr(a, f"{part}_labels")
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert images.is_contiguous()
        drawn += Counter(
            (x.numpy().tobytes(), y.item()) for x, y in zip(images, labels, strict=True)
        )
    assert drawn == Counter((x.tobytes(), y) for x, y in pool)  # each image in exactly one part
    fields = [f"{p}_{what}" for p in PARTS for what in ("images", "labels")]
    assert same(a, digits(), fields)
    assert not any(same(a, digits(seed=1), [field]) for field in fields)


def test_noise_changes_training_labels_only():
    clean, noisy = digits(), digits(label_noise=0.4)
    kept = ["train_images", *(f"{p}_{what}" for p in PARTS[1:] for what in ("images", "labels"))]
    assert same(clean, noisy, kept)
    assert not same(clean, noisy, ["train_labels"])
    assert same(noisy, digits(label_noise=0.4), ["train_labels"])


def test_noise_share_and_uniform_draws():
    K, noise, wrong, seen = 10, 0.4, 0, torch.zeros(10)
    for seed in range(10):
        clean, noisy = digits(seed).train_labels, digits(seed, label_noise=noise).train_labels
        changed = clean != noisy
        wrong += changed.sum().item()
        seen += digits(seed, label_noise=1.0).train_labels.bincount(minlength=K)
        # more noise changes the same labels, to the same values, and others
        assert torch.equal(digits(seed, label_noise=0.7).train_labels[changed], noisy[changed])
    n, p = 10_000, noise * (K - 1) / K
    assert abs(wrong - n * p) < 4 * (n * p * (1 - p)) ** 0.5
    assert ((seen - n / K) ** 2 / (n / K)).sum() < (K - 1) + 4 * (2 * (K - 1)) ** 0.5


def test_official_test_set_stays_whole(tiny, tmp_path):
    arrays = tiny()
    np.savez(tmp_path / "cifar10.npz", **arrays)

    def split(seed, **sizes):
        return splits.make_splits("cifar10", seed=seed, data_dir=tmp_path, **sizes)

    s = split(3, validation_size=50)
    train, val = numbers(s.train_images), numbers(s.val_images)
    assert sorted(train + val) == list(range(300))
    assert len(val) == 50
    test = numbers(s.test_images)  # in canonical order
    assert sorted(test) == list(range(300, 340))
    assert np.array_equal(s.train_labels, arrays["train_labels"][train])
    assert np.array_equal(s.val_labels, arrays["train_labels"][val])
    assert np.array_equal(s.test_labels, arrays["test_labels"][np.array(test) - 300])
    raw = torch.from_numpy(arrays["train_images"][train]).permute(0, 3, 1, 2)
    assert torch.equal(s.train_images, raw)
    # fewer training images: the first of these, and the same validation set
    small = split(3, validation_size=50, train_size=20)
    assert numbers(small.train_images) == train[:20]
    assert numbers(small.val_images) == val
    assert len(split(3, validation_size=0).train_labels) == 300
    s.test_images.zero_()  # a run owns its tensors
    assert numbers(split(3, validation_size=50).test_images) == test


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_noise": -0.1}, "label_noise is -0.1"),
        ({"label_noise": 1.01}, r"\[0, 1\]"),
        ({"label_noise": float("nan")}, "label_noise is nan"),
        ({"train_size": 1500}, "1500.*297.*1797 images"),
        ({"train_size": 0}, "do not fit"),
        ({"validation_size": -1}, "do not fit"),
        ({"train_size": None}, "no official test set"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_impossible_splits(changes, message):
    with pytest.raises(ConfigError, match=message):
        digits(**changes)
