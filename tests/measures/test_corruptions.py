"""What each corruption does to images, beyond their order and range (see test_robustness)."""

import pytest
import torch
from conftest import one_line

from samlib.errors import ConfigError
from samlib.measures.corruptions import SEVERITIES, corrupt, names


def draw(seed=5):
    return torch.Generator().manual_seed(seed)


def images(n, side, channels=3):
    return torch.randint(256, (n, channels, side, side), dtype=torch.uint8, generator=draw(0))


def test_contrast_is_about_the_mean_of_each_image_over_its_channels():
    x = torch.tensor([[[[0, 100]], [[200, 100]]], [[[40, 40]], [[80, 240]]]], dtype=torch.uint8)
    found = corrupt(x, "contrast", 2, draw())  # both means are 100: 100 + 0.6 (x - 100)
    assert found[0].flatten().tolist() == [40, 100, 160, 100]
    assert found[1].flatten().tolist() == [64, 64, 88, 184]
    x[1] = 50
    assert torch.equal(corrupt(x, "contrast", 2, draw())[0], found[0])


@pytest.mark.parametrize("side", [33, 65])
def test_the_width_of_a_blur_is_a_share_of_the_side(side):
    middle = side // 2
    line = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    line[..., middle] = 255
    profile = corrupt(line, "gaussian_blur", 3, draw())[0, 0, middle].double()
    place = torch.arange(side) - middle
    width = ((profile * place**2).sum() / profile.sum()).sqrt()
    assert width.item() == pytest.approx(0.1 * side, rel=0.06)  # cut off at three widths


@pytest.mark.parametrize("side", [8, 32])
def test_the_strongest_pixelation_leaves_four_blocks_a_side(side):
    x = images(2, side)
    block = side // 4
    means = x.double().unfold(2, block, block).unfold(3, block, block).mean((-2, -1))
    blocks = means.repeat_interleave(block, 2).repeat_interleave(block, 3)
    assert (corrupt(x, "pixelate", 5, draw()).double() - blocks).abs().max() <= 0.5 + 1e-3


def test_impulses_are_black_and_white_evenly():
    grey = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    found = corrupt(grey, "impulse_noise", 3, draw())
    hit = found[found != 128]
    assert set(hit.tolist()) == {0, 255}
    assert (hit == 255).double().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", [n for n in names() if n.endswith("_noise")])
def test_noise_is_drawn_anew_for_every_image_channel_and_call(name):
    grey = torch.full((2, 2, 32, 32), 128, dtype=torch.uint8)
    generator = draw()
    first, second = (corrupt(grey, name, 3, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0, 0], first[0, 1])


@pytest.mark.parametrize("name", names())
def test_larger_colour_images(name):
    x = images(1, 96)
    change = [(corrupt(x, name, s, draw()).double() - x).square().mean() for s in SEVERITIES]
    assert change == sorted(change)
    assert 0 < change[0] < change[-1]


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.int64)]
)
def test_what_are_no_images(bad):
    with pytest.raises(ConfigError, match="images must be uint8") as caught:
        corrupt(bad, "contrast", 1, draw())
    one_line(caught)
