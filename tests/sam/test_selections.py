"""Selections by norm layers: what counts as one, and what is said of what does not."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import one_line, small_net
from timm import layers
from timm.layers import grn
from torch import nn
from torch.nn.utils import parametrize, prune
from torchvision.ops import FrozenBatchNorm2d

import samlib
from samlib import Perturbation, geometry, masks, sam_step
from samlib.errors import ConfigError
from samlib.sam.masks import looks, norms


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(norms, "_REGISTERED", dict(norms._REGISTERED))


def names(mask):
    return [e.name for e in mask.entries]


class Own(nn.Module):
    """A module with values per channel, and nothing else."""

    shape: tuple[int, ...] = (8,)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(self.shape))


class Rms(Own):
    def forward(self, x):
        return x * x.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt() * self.weight


class OnePlusRms(Own):
    def forward(self, x):
        size = x.float().pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()
        return (x.float() * size * (1 + self.weight.float())).to(x)


class ChannelsFirst(Own):
    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * x + self.beta[:, None, None]


class Batch(Own):
    shape = (1, 8, 1, 1)

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        mean, var = self.mean, torch.ones(8)
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.mean.lerp_(mean.detach(), 0.1)
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * self.weight


class Length(Own):
    shape = ()

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.weight


class HeadsAndChannels(Rms):
    """One gamma for each head and channel, as some models normalize queries and keys."""

    shape = (2, 8)


class ScaleOfItsOwn(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.ParameterDict({"gamma": torch.ones(8)})

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:]) * self.scale["gamma"]


HeadsAndChannels.__name__ = "QueryNorm"  # values of such a shape are tried where called a norm
BY_DEED = [Rms, HeadsAndChannels, OnePlusRms, ChannelsFirst, Batch, Length, ScaleOfItsOwn]


@pytest.mark.parametrize("kind", BY_DEED)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_own_norm_layers_are_known_by_what_they_compute(kind, device):
    with torch.device(device):
        net = nn.Sequential(nn.Linear(3, 8), kind(), nn.LayerNorm(8))
    own = [f"1.{name}" for name, _ in net[1].named_parameters()]
    assert names(masks.only_norm(net)) == [*own, "2.weight", "2.bias"]
    assert names(masks.no_norm(net)) == ["0.weight", "0.bias"]
    betas = [name for name in own if name.endswith("beta")]
    assert names(masks.only_beta(net)) == [*betas, "2.bias"]
    gammas = [name for name in own if name not in betas]
    assert names(masks.only_gamma(net)) == [*gammas, "2.weight"]


def test_looking_changes_nothing_of_the_layer():
    layer = Batch()
    layer.register_forward_hook(lambda *_: pytest.fail("a hook ran"))
    before, state = {k: v.clone() for k, v in layer.state_dict().items()}, torch.get_rng_state()
    assert looks.normalizes(layer)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in layer.parameters())


def test_running_statistics_of_own_norm_layers_come_back_too():
    net = nn.Sequential(nn.Conv2d(2, 8, 3), Batch(), nn.Flatten(), nn.Linear(8 * 16, 3))
    ball = Perturbation(geometry.L2(), 0.5, masks.only_norm(net), batchnorm="first")
    x, y = torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 0])
    want = torch.zeros(8).lerp(net[0](x).mean((0, 2, 3)).detach(), 0.1)
    sam_step(lambda: F.cross_entropy(net(x), y), torch.optim.SGD(net.parameters(), lr=0.1), ball)
    torch.testing.assert_close(net[1].mean, want)


class Affine(Own):
    def forward(self, x):
        return x * self.weight


class Signs(Own):
    def forward(self, x):
        return x.sign() * self.weight


class Squashed(Own):
    def forward(self, x):
        return (x * self.weight).tanh()


class Position(Own):
    def forward(self, x):
        return x + self.weight


class TwoInputs(Own):
    def forward(self, x, residual):
        return x + residual * self.weight


class NormedLinear(Own):
    """A head whose weights and inputs have length 1."""

    shape = (8, 8)

    def forward(self, x):
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class PostNormBlock(Own):
    """A block whose class is called a norm's, with a matrix of its own and a layer inside."""

    shape = (8, 8)

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return self.inner(x @ self.weight)


PostNormBlock.__name__ = "BlockPostNorm"


@pytest.mark.parametrize(
    "kind", [Affine, Signs, Squashed, Position, TwoInputs, NormedLinear, PostNormBlock]
)
def test_other_values_per_channel_are_no_norm_layers_and_nothing_is_said(kind):
    net = nn.Sequential(nn.Linear(3, 8), kind(), nn.LayerNorm(8))
    mask = masks.only_norm(net)  # where a warning would be an error
    assert names(mask) == ["2.weight", "2.bias"]
    assert "not counted" not in repr(mask)


class FusedNorm(Own):
    """One that needs a kernel which is not here."""

    def forward(self, x):
        raise RuntimeError("no kernel for the CPU")


class AddNorm(Own):
    def forward(self, x, residual):
        return F.layer_norm(x + residual, x.shape[-1:]) * self.weight


class WhiteningNorm(Own):
    """One that holds a matrix, of which a mask of norm layers should not decide by itself."""

    shape = (8, 8)

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:]) @ self.weight


LINE = r"from test_selections import {0}; masks\.register_norm\({0}\)"


@pytest.mark.parametrize("kind", [FusedNorm, AddNorm, WhiteningNorm])
@pytest.mark.parametrize("make", [masks.only_norm, masks.no_norm, masks.only_gamma])
def test_what_looks_like_a_norm_layer_and_is_not_known_is_named(make, kind):
    net = nn.Sequential(nn.Linear(3, 8), kind(), nn.LayerNorm(8), kind())
    said = rf"{kind.__name__} looks like .* \(2 of them, the first at 1\): `{LINE}`"
    with pytest.warns(UserWarning, match=said.format(kind.__name__)):
        mask = make(net)
    assert repr(mask).endswith(f"; 2 {kind.__name__} not counted as norm layers")
    assert ("1.weight" in names(mask)) is (make is masks.no_norm)
    masks.register_norm(kind)
    assert ("1.weight" in names(make(net))) is (make is not masks.no_norm)
    masks.register_norm(kind, norm=False)
    mask = make(net)  # where a warning would be an error
    assert ("1.weight" in names(mask)) is (make is masks.no_norm)
    assert "not counted" not in repr(mask)


def test_a_place_called_a_norm_counts_where_its_pass_cannot_be_tried():
    net = nn.ModuleDict({"norm1": TwoInputs(), "norm2": Affine(), "ln": nn.LayerNorm(8)})
    with pytest.warns(UserWarning, match=r"TwoInputs looks like .* first at norm1"):
        assert names(masks.only_norm(net)) == ["ln.weight", "ln.bias"]


def test_the_line_to_paste_works(tmp_path):
    (tmp_path / "theirs.py").write_text(
        "import torch\n"
        "class SpecialNorm(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.ones(8))\n"
        "    def forward(self, x, residual):\n"
        "        return x\n"
    )
    script = (
        "import re, torch, warnings, theirs\n"
        "from samlib import masks\n"
        "net = torch.nn.Sequential(torch.nn.LayerNorm(8), theirs.SpecialNorm())\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    masks.only_norm(net)\n"
        "exec(re.search('`(.*)`', str(said[0].message))[1])\n"
        "warnings.simplefilter('error')\n"
        "assert masks.only_norm(net).count == 24\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=here(tmp_path))


def here(*more):
    places = [str(Path(samlib.__file__).parents[1]), *map(str, more)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


def test_masks_of_weights_say_which_matrices_they_leave_out():
    """Attention holds its projections itself, and a transposed convolution is another type."""
    net = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 4), nn.ConvTranspose1d(8, 8, 1), nn.Conv1d(8, 8, 1)
    )
    net[0].linear2.requires_grad_(False)
    mask = masks.weights(net)
    left = "self_attn.out_proj.weight", "linear1.weight"
    assert names(mask) == [*(f"0.{name}" for name in left), "2.weight"]
    said = "1 such weights are frozen; 1 matrices of MultiheadAttention are left out; 1 matrices of"
    assert f"; {said} ConvTranspose1d are left out" in repr(mask)
    assert repr(masks.weights(nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8)))).endswith("%)")


# --- their own words -----------------------------------------------------------------------------


def frozen(net, *layers):
    for layer in layers:
        net[layer].requires_grad_(False)
    return net


def two_norms():
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8))


@pytest.mark.parametrize(
    ("net", "make", "why"),
    [
        (lambda: frozen(two_norms(), 1, 3), masks.only_norm, r"layers \(2\) are frozen: set"),
        (
            lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8, elementwise_affine=False)),
            *(masks.only_norm, r"normalization layers \(1 LayerNorm\) have no parameters"),
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), FrozenBatchNorm2d(8)),
            *(masks.only_norm, r"normalization layers \(1 FrozenBatchNorm2d\) have no"),
        ),
        (lambda: frozen(two_norms(), 1), masks.only_beta, "have no trainable bias, but weight"),
        (lambda: frozen(two_norms(), 0, 2), masks.no_norm, "nothing outside its norm"),
        (lambda: frozen(two_norms(), 0, 1, 2, 3), masks.all_parameters, "all its parameters are"),
        (nn.ReLU, masks.all_parameters, "it has no parameters"),
        (lambda: nn.Sequential(nn.Linear(3, 8)), masks.only_norm, r"known with masks\.register_no"),
        (lambda: nn.Linear(3, 8), masks.only_norm, "Linear: it has no normalization layer; one of"),
        (two_norms, masks.only_alpha, "have no trainable alpha, but bias, weight"),
        (two_norms, masks.convolutions, "it has no layer of Conv1d, Conv2d, Conv3d"),
        (lambda: frozen(nn.Sequential(nn.Conv2d(3, 8, 1)), 0), masks.convolutions, "are frozen"),
        (
            lambda: nn.Sequential(nn.LazyLinear(8), nn.LayerNorm(8)),
            *(masks.only_norm, "0.weight has no shape yet: run a forward pass"),
        ),
    ],
)
def test_an_empty_selection_says_why(net, make, why):
    with pytest.raises(ConfigError, match=why) as caught:
        make(net())
    one_line(caught)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([1], "not of list"),
        (nn.BatchNorm2d, "not of the class BatchNorm2d"),
        (list(two_norms().parameters()), "not of list"),
        (None, "not of NoneType"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        *(masks.only_norm, masks.no_norm, masks.all_parameters, masks.weights, masks.norm_layers),
        lambda model: masks.from_booleans(model, {}),
    ],
)
def test_what_is_no_model_has_no_mask(make, given, what):
    with pytest.raises(ConfigError, match=f"a mask is made of a model, an nn.Module, {what}") as e:
        make(given)
    one_line(e)


def test_frozen_norm_layers_are_counted_in_the_repr():
    mask = masks.only_norm(frozen(two_norms(), 1))
    assert names(mask) == ["3.weight"]
    assert repr(mask).endswith("; 2 norm tensors are frozen")


def test_norm_layers_without_parameters_are_counted_in_the_repr():
    bare = nn.InstanceNorm2d(8)
    mask = masks.only_norm(nn.Sequential(nn.LayerNorm(8), bare, nn.InstanceNorm2d(8)))
    assert repr(mask).endswith("; 2 norm layers have no parameters")


class Positive(nn.Module):
    def forward(self, x):
        return F.softplus(x)


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Positive())


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize("spoil", [parametrized, pruned])
@pytest.mark.parametrize("kind", [nn.LayerNorm, lambda n: Rms()])
def test_a_computed_weight_stands_for_what_it_is_made_of(spoil, kind):
    net = nn.Sequential(nn.Linear(3, 8), kind(8))
    spoil(net[1])
    (made_of,) = (n for n, _ in net[1].named_parameters() if n != "bias")
    for make in (masks.only_norm, masks.only_gamma):
        mask = make(net)
        assert f"1.{made_of}" in names(mask)
        assert repr(mask).endswith("; 1.weight is computed: what it is made of is meant")
    assert names(masks.no_norm(net)) == ["0.weight", "0.bias"]


def test_a_step_along_what_a_weight_is_made_of_is_that_of_the_formula():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)).double()
    parametrized(net[1])
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 2
    raw, beta = net[1].parametrizations.weight.original, net[1].bias

    def loss(raw, beta):
        hidden = F.layer_norm(net[0](x), (8,), F.softplus(raw), beta)
        return F.cross_entropy(net[2](hidden), y)

    at = [t.detach().clone().requires_grad_() for t in (raw, beta)]
    slope = torch.autograd.grad(loss(*at), at)
    length = torch.stack(slope).norm()
    away = [
        (t + 0.5 * g / length).detach().requires_grad_() for t, g in zip(at, slope, strict=True)
    ]
    slope = torch.autograd.grad(loss(*away), away)
    want = [t.detach() - 0.1 * g for t, g in zip(at, slope, strict=True)]

    optimizer = torch.optim.SGD([raw, beta], lr=0.1)
    ball = Perturbation(geometry.L2(), 0.5, masks.only_norm(net))
    sam_step(lambda: F.cross_entropy(net(x), y), optimizer, ball)
    torch.testing.assert_close([raw.detach(), beta.detach()], want, rtol=1e-12, atol=1e-14)


def test_only_gamma_names_what_is_neither_weight_nor_bias():
    class Tuned(nn.LayerNorm):
        def __init__(self):
            super().__init__(8)
            self.tau = nn.Parameter(torch.zeros(8))

    mask = masks.only_gamma(nn.Sequential(Tuned()))
    assert names(mask) == ["0.weight"]
    assert repr(mask).endswith("; tau of norm layers are neither weight nor bias")


# --- models that others made ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # newer releases of PyTorch
def test_torchscript_knows_its_layers_by_their_names():
    net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)).double()
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
        scripted = torch.jit.script(net)
    mask = masks.only_norm(scripted)
    assert names(mask) == ["1.weight", "1.bias"]
    assert names(masks.no_norm(scripted)) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    def step(model, mask):
        before = [p.detach().clone() for p in net.parameters()]
        ball = Perturbation(geometry.L2(), 0.5, mask)
        sam_step(lambda: F.cross_entropy(model(x), y), torch.optim.SGD(net.parameters(), 0.1), ball)
        after = [p.detach().clone() for p in net.parameters()]
        with torch.no_grad():
            for p, b in zip(net.parameters(), before, strict=True):
                p.copy_(b)
        return after

    torch.testing.assert_close(step(scripted, mask), step(net, masks.only_norm(net)))


def test_timms_layers_count_from_when_timm_is_there(monkeypatch):
    net = nn.Sequential(layers.FilterResponseNormTlu2d(8), grn.GlobalResponseNorm(8))
    assert names(masks.only_norm(net)) == ["0.weight", "0.bias", "0.tau"]
    monkeypatch.delitem(sys.modules, "timm.layers")
    with pytest.warns(UserWarning, match="GlobalResponseNorm looks like"):
        masks.only_norm(nn.Sequential(nn.LayerNorm(8), grn.GlobalResponseNorm(8)))


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_half_of_a_complex_number_is_half_precision():
    net = small_net()
    net.odd = nn.Parameter(torch.zeros(3, dtype=torch.complex32))
    with pytest.raises(ConfigError, match=r"parameters are torch\.complex32"):
        masks.all_parameters(net)
