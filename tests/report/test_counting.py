"""How many numbers an ascent step moves."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from samlib import models
from samlib.report.counting import moved, undone
from samlib.study import plan, profiles
from samlib.study.methods import ON, SCALES

PROFILE = profiles.get("smoke")
BASE = PROFILE.bases["wrn"]


def test_how_many_numbers_are_moved():
    assert moved(BASE, ON) == 480
    assert [moved(BASE, method) for method in plan.PARTS] == [240, 240]
    # stem 16, the second convolution of each stage, two shortcuts; the first ones are undone
    outputs = 16 + (16 + 32 + 64) + (32 + 64)
    # stem 1, two convolutions in each stage and the shortcuts, the head's 64
    inputs = 1 + (16 + 16) + (16 + 32 + 16) + (32 + 64 + 32) + 64
    assert [moved(BASE, method) for method in SCALES] == [outputs, inputs]


def test_what_is_called_undone_has_no_gradient():
    """In training mode <W_c, g_c> vanishes for those channels, and for no other."""
    torch.manual_seed(0)
    model = models.build(BASE.model, num_classes=10, in_channels=1, image_size=8).train()
    F.cross_entropy(model(torch.randn(64, 1, 8, 8)), torch.arange(64) % 10).backward()
    scales = [
        (m.weight * m.weight.grad).flatten(1).sum(1).abs()
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
    ]
    felt = torch.cat(scales)
    assert int((felt < 1e-3 * felt.median()).sum()) == undone(BASE) == 16 + 32 + 64


@pytest.mark.parametrize(("model", "count"), [("resnet8", None), ("vit_micro", 0)])
def test_other_networks(model, count):
    """After a post-activation block everything is undone; LayerNorm undoes no channel's scale."""
    base = BASE.replace(model=model)
    everything = moved(base, SCALES[0]) + undone(base)
    assert undone(base) == (everything if count is None else count)
