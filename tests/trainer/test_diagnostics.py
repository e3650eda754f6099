"""Measures on a model: what they leave as it was, and what counts as a norm layer's."""

import pytest
import torch
from conftest import closure_of, small_batch, small_net
from torch import nn

from samlib import masks
from samlib.sam.geometry import L2
from samlib.sam.masks import norms
from samlib.sam.step import Perturbation, perturbed
from samlib.trainer.diagnostics import recalibrated, share_recorder


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


def test_the_share_counts_what_is_inside_a_registered_layer(monkeypatch):
    monkeypatch.setattr(norms, "_REGISTERED", dict(norms._REGISTERED))
    masks.register_norm(Scaled)
    net, shares = small_net(norm=Scaled), []
    for make in (masks.only_norm, masks.no_norm):
        perturbation = Perturbation(L2(), 0.1, make(net))
        record = share_recorder(perturbation, shares)
        with perturbed(closure_of(net, *small_batch()), perturbation, record):
            pass
    assert [s.item() for s in shares] == [1, 0]
