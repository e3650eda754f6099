"""Perturbed scales of channels outside the norm layers, and masks by layer type."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Net, one_line, small_batch, small_net

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.models import build
from samlib.sam.step import Perturbation, perturbed

SCALES = {
    "output_scales": (masks.convolutions, 0),
    "input_scales": (masks.weights, 1),
}


def scaled(net, names, scales, axis):
    """The network's parameters with each named weight multiplied along an axis."""
    weights = dict(net.named_parameters())
    for name, s in zip(names, scales, strict=True):
        shape = [-1 if d == axis else 1 for d in range(weights[name].ndim)]
        weights[name] = weights[name] * s.view(shape)
    return weights


@pytest.mark.parametrize("name", SCALES)
def test_the_step_is_sams_on_scales_that_are_really_there(name):
    make, axis = SCALES[name]
    net = small_net(torch.float64)
    x, y = small_batch(torch.float64)
    mask = make(net)
    names = [e.name for e in mask.entries]
    ones = [
        torch.ones(e.parameter.shape[axis], dtype=torch.float64, requires_grad=True)
        for e in mask.entries
    ]
    outputs = torch.func.functional_call(net, scaled(net, names, ones, axis), (x,))
    grads = torch.autograd.grad(F.cross_entropy(outputs, y), ones)
    norm = torch.cat([g.flatten() for g in grads]).norm()
    expected = [1 + 0.3 * g / norm for g in grads]
    there = scaled(net, names, expected, axis)

    perturbation = Perturbation(geometry.by_name(name), 0.3, mask)
    with perturbed(lambda: F.cross_entropy(net(x), y), perturbation):
        for n, p in net.named_parameters():
            torch.testing.assert_close(p, there[n], rtol=1e-9, atol=1e-12)


def test_an_output_scale_in_front_of_batch_norm_is_not_felt():
    torch.manual_seed(0)
    net = build("wrn10_1", num_classes=10, in_channels=1)
    x, y = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    moved = {}

    def record(found):
        for entry, e in zip(mask.entries, found.eps, strict=True):
            moved[entry.name] = (e.norm() / entry.parameter.detach().norm()).item()

    mask = masks.convolutions(net)
    step = Perturbation(geometry.by_name("output_scales"), 1.0, mask)
    with perturbed(lambda: F.cross_entropy(net(x), y), step, record):
        pass
    in_front = [n for n in moved if n.endswith("conv1.weight") and n != "conv1.weight"]
    assert len(in_front) == 3
    assert all(moved[n] < 1e-4 for n in in_front)
    assert all(moved[n] > 1e-3 for n in moved if n not in in_front)


def test_scales_of_vectors_are_refused_with_the_way_out():
    net = small_net()
    step = Perturbation(geometry.by_name("output_scales"), 0.1, masks.all_parameters(net))
    with (
        pytest.raises(ConfigError, match="use the mask convolutions or weights") as caught,
        perturbed(lambda: F.cross_entropy(net(small_batch()[0]), small_batch()[1]), step),
    ):
        pass
    one_line(caught)


def test_masks_by_layer_type():
    names = [e.name for e in masks.convolutions(Net()).entries]
    assert names == ["conv1.weight", "conv2.weight"]
    assert [e.name for e in masks.weights(Net()).entries] == [*names, "fc.weight"]
