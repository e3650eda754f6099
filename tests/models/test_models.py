"""Models: the paper's parameter counts, shapes, initial weights and what makes each family."""

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import one_line
from helpers import PAPER, on_meta
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from samlib import models
from samlib.errors import ConfigError
from samlib.models import convnets, transformers, zoo
from samlib.sam.masks.norms import norm_layers

# specification 3.2: all parameters at 10 and at 100 classes, those of the norm layers, norm layers
IMAGENET = ("vit_s32", "resnet50")  # counted in test_image_folders
CIFAR = tuple(n for n in models.names() if n not in IMAGENET)
PATCHES = (  # of 32 x 32 images
    *("wrn10_4_patch4", "wrn10_8_patch4", "resnet10_4_patch4", "vit_mini"),
)
SMALL = tuple(n for n in CIFAR if n not in {*PAPER, *PATCHES, "wrn16_4", "vit_t_dyt"})


def counts(model):
    layers = [m for _, m in norm_layers(model)]
    norm = sum(models.count(m.parameters()) for m in layers)
    return models.count(model.parameters()), norm, len(layers)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("name", PAPER)
def test_counts_of_the_paper(name, classes):
    ten, hundred, norm, layers = PAPER[name]
    expected = (ten if classes == 10 else hundred, norm, layers)
    assert counts(on_meta(name, classes)) == expected


def test_families_at_other_depths_have_the_stand_ins_counts():
    """homura's resnet20, wrn16_8 and wrn28_2: stand-ins of specification 3.2, not in the zoo."""
    shape = {"num_classes": 10, "in_channels": 3}
    with torch.device("meta"):
        assert counts(zoo._resnet(3, **shape)) == (272_474, 1_568, 21)
        assert counts(zoo._wrn(16, 8, **shape)) == (10_961_370, 7_200, 13)
        assert counts(zoo._wrn(28, 2, **shape)) == (1_467_610, 3_616, 25)


def test_zoo_lists_the_papers_models_and_a_small_one_of_each_family():
    assert {*PAPER, "wrn16_4"} < set(models.names())
    families = [sorted({n.split("_")[0].rstrip("0123456789") for n in g}) for g in (PAPER, SMALL)]
    assert families == [["resnet", "resnext", "vit", "wrn"]] * 2
    assert [models.is_vit(n) for n in ("vit_t", "vit_micro", "resnet8", "wrn16_4")] == [1, 1, 0, 0]
    for name in SMALL:
        assert models.count(on_meta(name).parameters()) < 200_000


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("name", CIFAR)
def test_any_image_size_and_channel_count(name, size, channels):
    if name == "vit_mini" and size % 8:
        pytest.skip("its patches have 8 pixels")
    model = on_meta(name, 7, in_channels=channels, image_size=size)
    out = model(torch.zeros(2, channels, size, size, device="meta"))
    assert out.shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_compute(name):
    model = models.build(name, num_classes=10, in_channels=1, image_size=8)
    out = model(torch.randn(4, 1, 8, 8))
    assert out.shape == (4, 10)
    assert out.isfinite().all()
    F.cross_entropy(out, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", CIFAR)
def test_stages_are_three_parts_in_forward_order(name):
    size = 32
    model = on_meta(name, image_size=size)
    assert len(model.stages) == 3
    inside = [{id(p) for p in stage.parameters()} for stage in model.stages]
    assert all(inside)
    assert len(set.union(*inside)) == sum(map(len, inside))
    outside = [n for n, p in model.named_parameters() if not any(id(p) in i for i in inside)]
    assert all("layer" not in n and "blocks" not in n for n in outside)
    seen = []
    for number, stage in enumerate(model.stages):
        parts = stage if models.is_vit(name) else [stage]  # a ViT's stage is a view of its blocks
        for part in parts:
            part.register_forward_hook(lambda m, x, y, n=number: seen.append((n, y.shape)))
    model(torch.zeros(2, 3, size, size, device="meta"))
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)
    if not models.is_vit(name):
        side = 8 if name in PATCHES else 32
        assert [shape[2:] for _, shape in seen] == [(side // 2**i, side // 2**i) for i in range(3)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("wrn10_4_patch4", (1_251_300, 1_920)), ("wrn10_8_patch4", (4_943_716, 3_840))],
)
def test_counts_of_the_networks_of_the_evidence(name, expected):
    total, norm, _ = counts(on_meta(name, 100))
    assert (total, norm) == expected


@pytest.mark.parametrize("name", ["resnet56", "resnext29_32x4d", "wrn16_4"])
def test_initial_weights(name):
    torch.manual_seed(0)
    model = models.build(name, num_classes=10)
    big = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            if module.weight.numel() >= 4_000:
                big += 1
                out, _, height, width = module.weight.shape
                expected = (2 / (out * height * width)) ** 0.5  # Kaiming, fan out, for relu
                assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
                assert abs(module.weight.mean().item()) < 0.1 * expected
        if isinstance(module, nn.BatchNorm2d):  # the last of a block too
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert big > 8


def test_wrn_shortcut_is_a_convolution_of_the_raw_input():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for outputs, stride in ((8, 2), (8, 1)):
        block = convnets.PreactBlock(4, outputs, stride).eval()
        nn.init.constant_(block.norm1.bias, -100)  # nothing passes relu(norm1(x))
        shortcut = F.conv2d(x, block.downsample.weight, stride=stride)
        torch.testing.assert_close(block(x), shortcut)
        assert block.downsample.kernel_size == (1, 1)
    assert isinstance(convnets.PreactBlock(4, 4, 1).downsample, nn.Identity)
    assert isinstance(on_meta("wrn28_10").layer1[0].downsample, nn.Conv2d)


def test_wrn_normalises_at_its_end_and_not_after_its_stem():
    order = []
    model = models.build("wrn10_1", num_classes=10)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, x, y, n=name: order.append(n))
    model(torch.randn(2, 3, 8, 8))
    assert order[:2] == ["conv1", "layer1.0.norm1"]
    assert order[-3:] == ["norm1", "fc", ""]


def test_post_activation_shortcut_has_a_norm_of_its_own():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    block = convnets.BasicBlock(4, 8, 2)
    nn.init.zeros_(block.norm2.weight)  # the branch contributes nothing
    out = F.conv2d(x, block.downsample.conv.weight, stride=2)
    expected = F.relu(
        (out - out.mean((0, 2, 3), keepdim=True))
        * torch.rsqrt(out.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5)
    )
    torch.testing.assert_close(block(x), expected)


def test_resnext_convolves_in_groups():
    model = on_meta("resnext29_32x4d")
    middle = [m for n, m in model.named_modules() if n.endswith("conv2")]
    assert [m.groups for m in middle] == [32] * 9
    assert [m.out_channels for m in middle] == [128] * 3 + [256] * 3 + [512] * 3


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("vit_t", "vit_tiny_patch16_224"), ("vit_s", "vit_small_patch16_224")],
)
def test_vits_are_timms_by_name_and_shape(ours, theirs):
    model = on_meta(ours)
    with torch.device("meta"):
        timms = timm.create_model(theirs, img_size=32, patch_size=4, num_classes=10)
    assert isinstance(model, VisionTransformer)
    shapes = {n: p.shape for n, p in model.state_dict().items()}
    assert shapes == {n: p.shape for n, p in timms.state_dict().items()}
    assert [b.attn.num_heads for b in model.blocks] == [b.attn.num_heads for b in timms.blocks]
    assert {"cls_token", "pos_embed", "blocks.0.norm1.weight", "norm.weight"} <= shapes.keys()
    assert {m.eps for _, m in norm_layers(model)} == {1e-6}


def test_bad_names_and_sizes():
    with pytest.raises(
        ConfigError, match=r"unknown model 'resnet57'; valid: resnet56, .*vit_"
    ) as e:
        models.build("resnet57", num_classes=10)
    one_line(e)
    with pytest.raises(ConfigError, match="image_size must be a multiple of 4 for vit_t") as e:
        models.build("vit_t", num_classes=10, image_size=30)
    one_line(e)


@pytest.mark.parametrize("depth", [3, 4, 6, 8, 11, 12])
def test_every_block_of_a_vit_is_in_a_stage(depth):
    model = transformers.ViT(
        img_size=8, patch_size=4, embed_dim=12, num_heads=3, depth=depth, num_classes=10
    )
    held = [block for stage in model.stages for block in stage]
    assert held == list(model.blocks)
    assert all(len(stage) for stage in model.stages)
