"""Masks: which coordinates each of them selects, on the zoo and on timm's models."""

from types import SimpleNamespace

import pytest
import timm
import torch
from conftest import Net, one_line, selected, small_net
from helpers import PAPER, on_meta
from timm import layers
from timm.layers import BatchNormAct2d, GroupNorm1, LayerNorm2d, RmsNorm, RmsNorm2d, RmsNormAct2d
from torch import nn
from torch.nn.utils import parametrizations, prune

from samlib import masks, models
from samlib.errors import ConfigError
from samlib.sam.masks import norms
from samlib.sam.masks.by_name import MASKS


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(norms, "_REGISTERED", dict(norms._REGISTERED))


def names(mask):
    return [e.name for e in mask.entries]


@pytest.mark.parametrize("name", models.names())
def test_counts_on_the_zoo(name):
    model = on_meta(name)
    total = models.count(model.parameters())
    count = {kind: MASKS[kind](model, None).count for kind in MASKS if kind in FIXED}
    assert count.keys() == FIXED
    if name in PAPER:
        assert (total, count["only_norm"]) == (PAPER[name][0], PAPER[name][2])
    assert count["all"] == total
    assert count["only_norm"] + count["no_norm"] == total
    # every norm layer of the zoo has as many shifts as scales
    slopes = MASKS["only_alpha"](model, None).count if name.endswith("_dyt") else 0
    assert count["only_gamma"] == count["only_beta"] == (count["only_norm"] - slopes) / 2
    one, two, three = (count[f"blocks_{i}"] for i in "123")
    assert count["blocks_23"] == two + three
    assert count["blocks_12"] == one + two
    assert count["blocks_13"] == one + three
    assert count["blocks_123"] == one + two + three < count["only_norm"]


FIXED = {"all", "only_norm", "no_norm", "only_gamma", "only_beta"} | {
    f"blocks_{stages}" for stages in ("1", "2", "3", "12", "13", "23", "123")
}


def test_names_of_masks_in_records_stay():
    sparse = {"random", "random_redrawn", "fisher", "dynamic"}
    dyt = {"only_alpha", "without_alpha"}
    assert set(MASKS) >= FIXED | sparse | dyt | {"convolutions", "weights"}


def test_blocks_of_wrn28_10():
    model = on_meta("wrn28_10", 100)
    counts = [masks.blocks(model, [s]).count for s in (1, 2, 3)]
    assert counts == [2_272, 4_800, 9_600]
    outside = set(names(masks.only_norm(model))) - set(names(masks.blocks(model, [1, 2, 3])))
    assert outside == {"norm1.weight", "norm1.bias"}
    assert sum(model.get_parameter(n).numel() for n in outside) == 1_280


def test_blocks_of_a_vit_are_its_thirds():
    names_of = [names(masks.blocks(on_meta("vit_t"), [s])) for s in (1, 2, 3)]
    for third, found in enumerate(names_of):
        numbers = {int(n.split(".")[1]) for n in found}
        assert numbers == set(range(4 * third, 4 * third + 4))
        assert len(found) == 4 * 2 * 2


@pytest.mark.parametrize(
    ("name", "tensors", "by_name"),
    [("resnet18", 40, 34), ("resnet50", 106, 98), ("convnext_tiny", 46, 38)],
)
def test_types_find_what_names_miss(name, tensors, by_name):
    with torch.device("meta"):
        model = timm.create_model(name)
    found = names(masks.only_norm(model))
    assert len(found) == tensors
    assert sum("norm" in n or "bn" in n for n in found) == by_name


def test_only_gamma_and_only_beta_split_only_norm():
    net = small_net()
    assert names(masks.only_gamma(net)) == ["norm1.weight", "norm2.weight"]
    assert names(masks.only_beta(net)) == ["norm1.bias", "norm2.bias"]
    assert names(masks.only_norm(net)) == [
        *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
    ]
    assert names(masks.no_norm(net)) == [
        *("conv1.weight", "conv2.weight", "conv2.bias", "fc.weight", "fc.bias")
    ]
    assert names(masks.all_parameters(net)) == [n for n, _ in net.named_parameters()]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.SyncBatchNorm,
        lambda c: nn.InstanceNorm2d(c, affine=True),
        nn.LayerNorm,
        lambda c: nn.GroupNorm(2, c),
        nn.RMSNorm,
        BatchNormAct2d,
        GroupNorm1,
        LayerNorm2d,
        RmsNorm,
        RmsNorm2d,
        RmsNormAct2d,
        *(layers.SimpleNorm, layers.SimpleNorm2d, layers.SimpleNormFp32, layers.SimpleNorm2dFp32),
        *(layers.EvoNorm2dB0, layers.EvoNorm2dB1, layers.EvoNorm2dB2),
        *(lambda c: layers.EvoNorm2dS0(c, 2), lambda c: layers.EvoNorm2dS1(c, 2)),
        *(lambda c: layers.EvoNorm2dS2(c, 2), lambda c: layers.EvoNorm2dS2a(c, 2)),
        *(layers.FilterResponseNormTlu2d, layers.FilterResponseNormAct2d, layers.InplaceAbn),
    ],
)
def test_every_kind_of_norm_layer_is_found(norm):
    layer = norm(4)
    net = nn.Sequential(nn.Linear(3, 4), layer)
    assert names(masks.only_norm(net)) == [f"1.{n}" for n, _ in layer.named_parameters()]
    assert masks.only_norm(net).count == sum(p.numel() for p in layer.parameters()) >= 4


def test_own_layers_by_registration(registry):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))
            self.alpha = nn.Parameter(torch.ones(()))

    class Special(Scale):
        pass

    net = nn.Sequential(nn.Linear(3, 4), Scale(), Special())
    with pytest.raises(ConfigError, match=r"masks\.register_norm"):
        masks.only_norm(net)
    masks.register_norm(Scale)
    masks.register_norm(Scale)
    assert names(masks.only_norm(net)) == ["1.weight", "1.alpha", "2.weight", "2.alpha"]
    assert names(masks.only_gamma(net)) == ["1.weight", "2.weight"]
    with pytest.raises(ConfigError, match="no trainable coordinate"):
        masks.only_beta(net)


def test_a_registered_layer_counts_with_what_is_inside_it(registry):
    class Statistic(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("size", torch.ones(()))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.shift = nn.BatchNorm1d(4), nn.ParameterDict({"bias": torch.zeros(4)})
            self.statistic = Statistic()

    net = nn.Sequential(nn.Linear(3, 4), Wrapped(), BatchNormAct2d(4, act_layer=nn.PReLU))
    known = ["2.weight", "2.bias"]  # not the activation's
    assert names(masks.only_norm(net)) == ["1.inner.weight", "1.inner.bias", *known]
    masks.register_norm(Wrapped)
    inside = ["1.inner.weight", "1.inner.bias", "1.shift.bias"]
    assert names(masks.only_norm(net)) == [*inside, *known]
    assert names(masks.only_gamma(net)) == ["1.inner.weight", "2.weight"]
    assert len(masks.only_norm(net).norm_buffers) == 3 + 1 + 3


@pytest.mark.parametrize("kind", [nn.BatchNorm2d(3), int, "BatchNorm2d"])
def test_only_module_types_can_be_registered(kind, registry):
    with pytest.raises(ConfigError, match=r"register_norm takes nn.Module types") as caught:
        masks.register_norm(kind)
    one_line(caught)


def test_tied_parameters_count_once():
    net = small_net()
    net.again = nn.BatchNorm2d(4)
    net.again.weight = net.norm1.weight
    assert names(masks.only_norm(net)).count("norm1.weight") == 1
    assert "again.weight" not in names(masks.only_norm(net))
    assert masks.only_norm(net).count == 2 * 4 + 2 * 6 + 4
    assert masks.all_parameters(net).count == masks.all_parameters(net).total


def test_repr_says_how_much():
    net = small_net()
    mask = masks.only_norm(net)
    total = sum(p.numel() for p in net.parameters())
    assert (mask.count, mask.total) == (20, total)
    assert mask.share == 20 / total
    assert mask.sparsity == 1 - 20 / total
    text = repr(mask)
    assert text == (
        f"Mask only_norm: 20 of {total} coordinates in 4 tensors "
        f"(share {20 / total:.3%}, sparsity {1 - 20 / total:.3%})"
    )
    assert "36,479,194 coordinates" in repr(masks.all_parameters(on_meta("wrn28_10")))


def test_buffers_are_those_of_all_norm_layers():
    net = small_net()
    for make in (masks.all_parameters, masks.no_norm):
        held = make(net).norm_buffers
        assert {id(b) for b in held} == {id(b) for b in net.buffers()}
        assert len(held) == 6


def test_buffers_are_those_the_layers_have_now():
    net = small_net()
    mask = masks.only_norm(net)
    before = mask.norm_buffers
    net.double()
    assert [id(b) for b in mask.norm_buffers] == [id(b) for b in net.buffers()]
    assert {id(b) for b in mask.norm_buffers} != {id(b) for b in before}


@pytest.mark.parametrize(
    "spoil",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_weights_that_are_no_parameters_are_refused(spoil):
    net = small_net()
    spoil(net.conv2)
    for make in (masks.convolutions, masks.weights):
        with pytest.raises(ConfigError, match=r"weight of conv2 is computed.*from_booleans") as e:
            make(net)
        one_line(e)
    assert masks.only_norm(net).count == 20


def test_from_booleans_selects_what_it_is_given():
    net = small_net()
    chosen = torch.zeros(4, 2, 3, 3, dtype=torch.bool)
    chosen[1, 0, 2, 1] = chosen[3, 1, 0, 0] = True
    nothing = torch.zeros(3, dtype=torch.bool)
    mask = masks.from_booleans(net, {"fc.bias": nothing, "conv1.weight": chosen}, "two")
    assert (mask.kind, mask.count, names(mask)) == ("two", 2, ["conv1.weight"])
    assert torch.equal(selected(mask)[: chosen.numel()], chosen.flatten())
    assert selected(mask).sum() == 2
    whole = {n: torch.ones_like(p, dtype=torch.bool) for n, p in net.named_parameters()}
    assert names(masks.from_booleans(net, dict(reversed(whole.items())))) == list(whole)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"fc.weigth": torch.ones(3, 6) > 0}, "'fc.weigth' is not a trainable parameter of Net"),
        ({"norm1.bias": torch.ones(4) > 0}, "'norm1.bias' is not a trainable parameter of Net"),
        ({"fc.weight": torch.ones(6, 3) > 0}, r"fc.weight must be a boolean tensor of shape \(3"),
        ({"fc.weight": torch.ones(3, 6)}, "fc.weight must be a boolean tensor"),
        (
            {"fc.weight": torch.zeros(3, 6) > 0},
            "mask custom selects no trainable coordinate of Net",
        ),
        ({}, "mask custom selects no trainable coordinate of Net"),
    ],
)
def test_bad_booleans(chosen, message):
    net = small_net()
    net.norm1.bias.requires_grad_(False)
    with pytest.raises(ConfigError, match=message) as caught:
        masks.from_booleans(net, chosen)
    one_line(caught)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([4], "no stage 4; ResNet has stages 1 to 3"),
        ([0, 1], "no stage 0;"),
        ([-1], "no stage -1;"),
        ([1.0], "no stage 1.0;"),
        (["1"], "no stage 1;"),
        ([], "no stage chosen; ResNet has stages 1 to 3"),
    ],
)
def test_bad_stages(stages, message):
    with pytest.raises(ConfigError, match=message) as caught:
        masks.blocks(on_meta("resnet8"), stages)
    one_line(caught)


def test_a_model_without_stages_has_no_blocks():
    with pytest.raises(ConfigError, match="Net has no stages: give it a property `stages`"):
        masks.blocks(small_net(), [1])


def test_empty_masks_name_the_network_and_the_way_out():
    net = nn.Linear(3, 4)
    with pytest.raises(ConfigError, match=r"only_norm selects no .* of Linear.*register") as e:
        masks.only_norm(net)
    one_line(e)
    frozen = small_net()
    frozen.requires_grad_(False)
    with pytest.raises(ConfigError, match="mask all selects no trainable coordinate of Net"):
        masks.all_parameters(frozen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_refused(dtype):
    with pytest.raises(ConfigError, match=f"parameters are {dtype}.*bfloat16 autocast") as caught:
        masks.only_norm(small_net(dtype))
    one_line(caught)
    mixed = small_net()
    mixed.conv1.to(dtype)
    assert masks.only_norm(mixed).count == 20  # what is not masked may be anything


def test_fixed_masks_have_no_state():
    mask = masks.only_norm(Net())
    mask.begin_epoch(0, SimpleNamespace())
    mask.observe([])
    assert mask.state_dict() == {}
    mask.load_state_dict({})
    assert mask.count == 20
