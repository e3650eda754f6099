"""Parameters frozen, unfrozen, added or replaced after the mask was made."""

import pytest
import torch
import torch.nn.functional as F
from conftest import closure_of, identical, one_line, small_batch, small_net, snapshot
from torch import nn
from two_norms import assert_a_step_is_right, ball, batch, loss_of, sgd, two_norms

from samlib import Perturbation, masks, sam_step
from samlib.errors import ConfigError
from samlib.sam.geometry import L2


def test_a_parameter_frozen_after_the_mask_was_made_is_named():
    net, (x, y) = small_net(), small_batch()
    perturbation = Perturbation(L2(), 0.1, masks.only_norm(net))
    net.norm1.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"norm1\.weight was frozen after its mask was made"):
        sam_step(closure_of(net, x, y), torch.optim.SGD(net.parameters(), lr=0.1), perturbation)


def test_so_is_one_outside_the_mask_that_the_radius_runs_over():
    net, (x, y) = small_net(), small_batch()
    net.conv1.weight.requires_grad_(False)
    perturbation = Perturbation(L2(), 0.1, masks.only_norm(net), radius_over="all")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sam_step(closure_of(net, x, y), optimizer, perturbation)
    net.fc.bias.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"fc\.bias was frozen after its mask was made"):
        sam_step(closure_of(net, x, y), optimizer, perturbation)


def half_frozen():
    net = two_norms()
    net[:2].requires_grad_(False)
    return net


ALL_TRUE = {"4.weight": torch.ones(8, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (masks.only_norm, {}),
        (masks.only_gamma, {}),
        (masks.all_parameters, {}),
        (masks.no_norm, {}),
        (lambda net: masks.random(net, sparsity=0.5), {}),
        (lambda net: masks.from_booleans(net, ALL_TRUE), {"radius_over": "all"}),
    ],
)
def test_parameters_unfrozen_after_the_mask_was_made_are_named(make, options):
    net = half_frozen()
    mask = make(net)
    net.requires_grad_(True)
    before = snapshot(net)
    with pytest.raises(ConfigError, match=r"became trainable after mask .* was made") as caught:
        sam_step(loss_of(net, *batch()), sgd(net), ball(mask, **options))
    one_line(caught)
    assert identical(snapshot(net), before)
    sam_step(loss_of(net, *batch()), sgd(net), ball(make(net), **options))


def test_what_is_unfrozen_outside_of_a_selection_is_nobodys_affair():
    net = two_norms()
    net[0].requires_grad_(False)
    mask = masks.only_norm(net)
    net[0].requires_grad_(True)
    assert_a_step_is_right(net, mask)
    net = half_frozen()
    mask = masks.from_booleans(net, ALL_TRUE)
    net.requires_grad_(True)
    assert_a_step_is_right(net, mask)


def test_a_norm_layer_added_after_the_mask_was_made_is_named():
    net = two_norms()
    mask = masks.only_norm(net)
    net.append(nn.RMSNorm(3).double())
    with pytest.raises(ConfigError, match=r"6\.weight became trainable"):
        sam_step(loss_of(net, *batch()), sgd(net), ball(mask))


def test_inputs_and_parameters_of_others_with_a_gradient_are_no_news():
    net = two_norms()
    mask, scale = masks.all_parameters(net), nn.Parameter(torch.ones((), dtype=torch.float64))
    x, y = batch()
    x.requires_grad_()
    assert_a_step_is_right(net, mask, loss=lambda: F.cross_entropy(net(x) * scale, y))


def test_a_random_mask_needs_all_it_counted_through():
    net = two_norms()
    mask = masks.random(net, count=1)
    (entry,) = mask.entries
    other = next(p for p in net.parameters() if p is not entry.parameter)
    other.requires_grad_(False)
    with pytest.raises(ConfigError, match="was frozen after its mask was made"):
        sam_step(loss_of(net, *batch()), sgd(net), ball(mask))


def test_norm_layers_replaced_after_the_mask_was_made_keep_their_statistics():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    mask = masks.only_norm(net)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net).double()
    x, y = batch()
    hidden = net[0](x).detach()
    sam_step(lambda: F.cross_entropy(net(x), y), sgd(net), ball(mask, batchnorm="first"))
    torch.testing.assert_close(net[1].running_mean, 0.1 * hidden.mean(0), rtol=1e-12, atol=0)
    assert mask.norms == [net[1]]
