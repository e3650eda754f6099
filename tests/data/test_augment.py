"""Augmentation: what each image gets, how often, and that it is what torchvision and Pillow do."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy

from samlib.data import autoaugment as aa
from samlib.data.augment import AUGMENTATIONS, augment, names, padding_for, random_crop, random_flip
from samlib.errors import ConfigError

IN_MEMORY = tuple(name for name in AUGMENTATIONS if name != "inception")  # see test_image_folders


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def within_4_sigma(count, n, p):
    return abs(count - n * p) < 4 * (n * p * (1 - p)) ** 0.5


@pytest.fixture(scope="module")
def images():
    """Noise, smooth colour, low contrast, two values, a single value, nearly a single value."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 32, 32, 3))
    small = rng.integers(0, 256, (24, 4, 4, 3)).astype(np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(s).resize((32, 32))) for s in small])
    dull = 90 + smooth // 8
    two = rng.choice([30, 200], (4, 32, 32, 3))
    flat = np.full((2, 32, 32, 3), 77)
    dot = flat.copy()
    dot[:, 5, 6] = 200
    array = np.concatenate([noise, smooth, dull, two, flat, dot]).astype(np.uint8)
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


# --- crop and flip -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "pad"), [(8, 1), (32, 4)])
def test_crop_takes_every_place_equally_often_and_is_torchvisions_crop(size, pad):
    assert padding_for(size) == pad
    n, places = 20_000 // size, (2 * pad + 1) ** 2
    one = torch.randint(1, 256, (1, 3, size, size), generator=generator(), dtype=torch.uint8)
    padded = TF.pad(one, [pad] * 4)
    corners = [(y, x) for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
    expected = torch.cat([TF.crop(padded, y, x, size, size) for y, x in corners])
    got = random_crop(one.expand(n, -1, -1, -1), pad, generator())
    equal = torch.cdist(got.flatten(1).double(), expected.flatten(1).double()) < 0.5
    assert (equal.sum(1) == 1).all()  # each output is one of the crops, zero-filled
    count = equal.sum(0).double()
    chi2 = ((count - n / places) ** 2 / (n / places)).sum()
    assert chi2 < places - 1 + 4 * (2 * (places - 1)) ** 0.5


def test_flip_is_drawn_per_image_with_probability_one_half():
    n = 4000
    x = torch.randint(256, (n, 1, 4, 4), generator=generator(), dtype=torch.uint8)
    y = random_flip(x, generator(1))
    flipped = (y == x.flip(3)).flatten(1).all(1)
    assert torch.equal(y, torch.where(flipped[:, None, None, None], TF.hflip(x), x))
    assert within_4_sigma(flipped.sum().item(), n, 0.5)
    agree = (flipped[1:] == flipped[:-1]).sum().item()  # neighbours know nothing of each other
    assert within_4_sigma(agree, n - 1, 0.5)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_equal_generators_draw_the_same_and_the_input_is_left_alone(images, name):
    before = images.clone()
    out = augment(images, name, generator(3))
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    assert torch.equal(out, augment(images, name, generator(3)))
    assert torch.equal(out, augment(images, name, generator(4))) == (name == "none")
    assert torch.equal(images, before)


def test_shift_never_mirrors_and_basic_does():
    left_to_right = torch.arange(1, 9, dtype=torch.uint8).expand(500, 1, 8, 8)
    for name, mirrored in (("shift", False), ("basic", True)):
        middle = augment(left_to_right, name, generator())[:, 0, 4, 3:5].int()
        assert (middle[:, 0] > middle[:, 1]).any().item() == mirrored


def test_names_and_errors(images):
    assert names() == AUGMENTATIONS
    with pytest.raises(ConfigError, match=r"unknown augmentation 'bsic'.*basic"):
        augment(images, "bsic", generator())
    with pytest.raises(ConfigError, match="colour"):
        augment(images[:, :1], "autoaugment", generator())
    with pytest.raises(ConfigError, match="uint8"):
        augment(images.float(), "basic", generator())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", IN_MEMORY)
def test_gpu_augments_as_the_cpu_does(images, name):
    many = images.repeat(20, 1, 1, 1)
    on_gpu = augment(many.cuda(), name, generator()).cpu()
    assert torch.equal(on_gpu, augment(many, name, generator()))


# --- AutoAugment ---------------------------------------------------------------------------------


def test_policy_is_the_published_one():
    assert list(aa.POLICY) == AutoAugment(AutoAugmentPolicy.CIFAR10).policies


def test_draws_have_the_policys_frequencies():
    n = 50_000
    policy, used, sign = aa.draw(n, generator())
    count = policy.bincount(minlength=25).double()
    chi2 = ((count - n / 25) ** 2 / (n / 25)).sum()
    assert chi2 < 24 + 4 * 48**0.5
    for number, pair in enumerate(aa.POLICY):
        mine = used[policy == number]
        for step, (_, p, _) in enumerate(pair):
            hits = mine[:, step].sum().item()
            assert hits == 0 if p == 0 else within_4_sigma(hits, len(mine), p)
        both = pair[0][1] * pair[1][1]  # the two are drawn independently
        assert both == 0 or within_4_sigma(mine.all(1).sum().item(), len(mine), both)
    assert set(sign.unique().tolist()) == {-1, 1}
    for step in (0, 1):
        assert within_4_sigma((sign[:, step] == 1).sum().item(), n, 0.5)
    assert within_4_sigma((sign[:, 0] == sign[:, 1]).sum().item(), n, 0.5)


def affine(image, matrix, resample=Image.Resampling.NEAREST):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=(aa.GREY,) * 3
    )


def rotated(image, degrees):
    grey = Image.new("RGBA", image.size, (aa.GREY,) * 4)
    turned = image.convert("RGBA").rotate(degrees)
    return Image.composite(turned, grey, turned).convert("RGB")


BICUBIC = Image.Resampling.BICUBIC
PILLOW = {
    "ShearX": lambda im, m: affine(im, (1, m, 0, 0, 1, 0), BICUBIC),
    "ShearY": lambda im, m: affine(im, (1, 0, 0, m, 1, 0), BICUBIC),
    "TranslateX": lambda im, m: affine(im, (1, 0, m * im.width, 0, 1, 0)),
    "TranslateY": lambda im, m: affine(im, (1, 0, 0, 0, 1, m * im.height)),
    "Rotate": rotated,
    "Invert": lambda im, m: ImageOps.invert(im),
    "Solarize": ImageOps.solarize,
    "Posterize": lambda im, m: ImageOps.posterize(im, int(m)),
    "AutoContrast": lambda im, m: ImageOps.autocontrast(im),
    "Equalize": lambda im, m: ImageOps.equalize(im),
    "Brightness": lambda im, m: ImageEnhance.Brightness(im).enhance(1 + m),
    "Color": lambda im, m: ImageEnhance.Color(im).enhance(1 + m),
    "Contrast": lambda im, m: ImageEnhance.Contrast(im).enhance(1 + m),
    "Sharpness": lambda im, m: ImageEnhance.Sharpness(im).enhance(1 + m),
}
# Pillow computes these in floating point, which a compiler may contract: one grey level, rarely
ROUNDED = {"ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"}


def by_pillow(images, name, amounts):
    pairs = zip(images.permute(0, 2, 3, 1).numpy(), amounts.tolist(), strict=True)
    arrays = [np.asarray(PILLOW[name](Image.fromarray(array), m)) for array, m in pairs]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def assert_same(got, expected, rounded):
    difference = (got.int() - expected.int()).abs()
    assert difference.max() <= rounded
    assert (difference > 0).double().mean() <= 1e-3 * rounded


@pytest.mark.parametrize("name", sorted(aa.OPERATIONS))
def test_every_operation_is_pillows_at_every_magnitude(images, name):
    for level in range(10) if name in aa.RANGES else [None]:
        sign = torch.randint(2, (len(images),), generator=generator(level or 0)) * 2 - 1
        amounts = aa.magnitude(name, level, sign)
        assert torch.equal(amounts < 0, (sign < 0) & (amounts != 0) & (name in aa.SIGNED))
        got = aa.OPERATIONS[name](images, amounts)
        assert got.dtype == torch.uint8
        assert_same(got, by_pillow(images, name, amounts), name in ROUNDED)


def test_magnitude_ranges():
    plus = torch.ones(1)
    ends = {
        name: (aa.magnitude(name, 0, plus).item(), aa.magnitude(name, 9, plus).item())
        for name in aa.RANGES
    }
    assert ends["Rotate"] == (0, 30)
    assert ends["TranslateX"] == (0, 150 / 331)
    assert ends["Posterize"] == (8, 4)
    assert ends["Solarize"] == (256, 0)
    assert ends["ShearX"] == (0, 0.3)
    bits = [aa.magnitude("Posterize", level, -plus).item() for level in range(10)]
    assert bits == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]


def test_the_batched_policy_is_the_policy_image_by_image(images):
    draws = aa.draw(len(images), generator(5))
    one_by_one = []
    for image, policy, used, sign in zip(images, *draws, strict=True):
        for step, (name, _, level) in enumerate(aa.POLICY[policy]):
            if used[step]:
                image = by_pillow(image[None], name, aa.magnitude(name, level, sign[step, None]))[0]
        one_by_one.append(image)
    assert_same(aa.apply(images, *draws), torch.stack(one_by_one), rounded=True)
    assert torch.equal(aa.autoaugment(images, generator(5)), aa.apply(images, *draws))


@pytest.mark.parametrize("chunk", [1, 7])
def test_how_many_images_are_worked_on_at_once_changes_nothing(images, chunk, monkeypatch):
    """Which differs by the kind of device."""
    whole = aa.autoaugment(images, generator(5))
    assert len(images) > chunk
    monkeypatch.setitem(aa.CHUNK, "cpu", chunk)
    assert torch.equal(aa.autoaugment(images, generator(5)), whole)
    assert aa.CHUNK["cuda"] > 50_000 > aa.CHUNK["cpu"]
