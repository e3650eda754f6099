"""Measures on a model: what they leave as it was, and what counts as a norm layer's."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import closure_of, small_batch, small_net
from torch import nn

from samlib import masks
from samlib.sam.geometry import L2, ElementwiseL2, Fisher
from samlib.sam.masks import norms
from samlib.sam.step import Perturbation, perturbed
from samlib.trainer.config import RunConfig
from samlib.trainer.diagnostics import QUANTILES, affine_measures, recalibrated, shares, weight_norm
from samlib.trainer.one_run import train


def test_recalibration_leaves_every_layer_in_its_own_mode():
    net = small_net()
    net.norm1.eval()
    before = [m.training for m in net.modules()]
    with recalibrated(net, [small_batch()[0]]):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == before
    with pytest.raises(RuntimeError), recalibrated(net, [torch.zeros(2, 5, 6, 6)]):
        pass
    assert [m.training for m in net.modules()] == before


class Scaled(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 1, groups=channels)

    def forward(self, x):
        return self.inner(x / x.std())


def shares_of(net, geometry, mask):
    """The shares of one step, and the dense gradient they are held against."""
    found, (x, y) = [], small_batch()
    perturbation = Perturbation(geometry, 0.1, mask)
    with perturbed(closure_of(net, x, y), perturbation, found.append):
        pass
    return shares(mask, found[0])


def test_the_share_counts_what_is_inside_a_registered_layer(monkeypatch):
    monkeypatch.setattr(norms, "_REGISTERED", dict(norms._REGISTERED))
    masks.register_norm(Scaled)
    net = small_net(norm=Scaled)
    found = [shares_of(net, L2(), make(net)).of_eps for make in (masks.only_norm, masks.no_norm)]
    assert [s.item() for s in found] == [1, 0]


@pytest.mark.parametrize("geometry", [L2(), ElementwiseL2(eta=0.01), Fisher(eta=1.0)])
def test_shares_are_those_of_the_scaled_gradient(geometry):
    net = small_net().double()
    x, y = small_batch()
    mask = masks.all_parameters(net)
    weights = [e.parameter for e in mask.entries]
    loss = F.cross_entropy(net.train()(x.double()), y)
    g = torch.autograd.grad(loss, weights)
    scale = {
        L2: lambda w, g: 1.0,
        ElementwiseL2: lambda w, g: w.detach().abs() + 0.01,
        Fisher: lambda w, g: (1 + g**2) ** -0.5,
    }[type(geometry)]
    scaled = [(scale(w, d) * d).square().sum() for w, d in zip(weights, g, strict=True)]
    moved = [(scale(w, d) ** 2 * d).square().sum() for w, d in zip(weights, g, strict=True)]
    found = []
    with perturbed(
        lambda: F.cross_entropy(net(x.double()), y), Perturbation(geometry, 0.1, mask), found.append
    ):
        pass
    got = shares(mask, found[0])
    expected = torch.stack(scaled) / torch.stack(scaled).sum()
    assert torch.allclose(got.by_tensor, expected, rtol=1e-10)
    norm = torch.tensor([id(w) in norms.norm_parameters(net) for w in weights])
    assert torch.allclose(got.of_gradient, expected[norm].sum(), rtol=1e-10)
    moved = torch.stack(moved)
    assert torch.allclose(got.of_eps, moved[norm].sum() / moved.sum(), rtol=1e-10)


def test_the_norm_of_the_weights_is_that_outside_the_norm_layers_and_inside():
    net = small_net()
    inside = norms.norm_parameters(net)
    parts = [
        torch.cat([p.detach().flatten() for p in net.parameters() if (id(p) in inside) == where])
        for where in (False, True)
    ]
    assert weight_norm(net) == pytest.approx([part.double().norm().item() for part in parts])


def test_gamma_and_beta_of_each_layer():
    net = small_net()
    with torch.no_grad():
        net.norm1.weight.copy_(torch.tensor([-4.0, 1.0, 2.0, 3.0]))
    found = affine_measures(net)
    assert [layer["layer"] for layer in found["affine"]] == ["norm1", "norm2"]
    first = found["affine"][0]
    assert first["gamma_abs_mean"] == 2.5
    assert len(first["gamma"]) == len(first["beta"]) == len(QUANTILES)
    assert (first["gamma"][0], first["gamma"][-1]) == (-4.0, 3.0)
    assert first["gamma"][QUANTILES.index(0.5)] == 1.5
    with torch.no_grad():
        net.norm2.bias[0] = math.nan
    assert [layer["layer"] for layer in affine_measures(net)["affine"]] == ["norm1"]


def test_recalibrated_statistics_are_those_of_the_inputs_and_only_for_a_while():
    layer = nn.BatchNorm1d(2)
    net = nn.Sequential(layer).train()
    layer.running_mean += 7
    batches = [torch.randn(10, 2) + k for k in range(3)]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with recalibrated(net, batches) as any_statistics:
        assert any_statistics
        assert not net.training
        torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean((0, 1)))
        variances = torch.stack([b.var(0) for b in batches]).mean(0)
        torch.testing.assert_close(layer.running_var, variances)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert layer.momentum == 0.1


def test_a_network_without_statistics_has_nothing_to_recalibrate():
    tiny = RunConfig(train_size=80, validation_size=40, epochs=1, batch_size=32)
    found = {
        model: train(tiny.replace(model=model))["measures"]["recalibrated_test_accuracy"]
        for model in ("vit_micro", "wrn10_1")
    }
    assert found["vit_micro"] is None
    assert 0 <= found["wrn10_1"] <= 100
