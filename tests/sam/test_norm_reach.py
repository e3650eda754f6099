"""What the ascent reaches: parameters outside the loss's graph, hidden ones, sparse gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    closure_of,
    eps_into,
    flat,
    identical,
    one_line,
    small_batch,
    small_net,
    snapshot,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from samlib import masks
from samlib.errors import ConfigError
from samlib.sam.geometry import L2, VARIANTS
from samlib.sam.step import Perturbation, perturbed, sam_step


def copied(net):
    return copy.deepcopy(net)


def assigned(net):
    net.load_state_dict({k: v.clone() for k, v in net.state_dict().items()}, assign=True)
    return net


@pytest.mark.parametrize("radius_over", ["mask", "all"])
@pytest.mark.parametrize("other", [copied, assigned])
def test_a_mask_of_another_model_than_the_trained_one_is_refused(other, radius_over):
    net = small_net()
    perturbation = Perturbation(L2(), 0.1, masks.only_norm(net), radius_over=radius_over)
    trained = other(net)
    before = snapshot(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="make the mask from the model that is trained") as caught:
        sam_step(closure_of(trained, *small_batch()), optimizer, perturbation)
    one_line(caught)
    if other is assigned:
        assert identical(snapshot(trained), before)


class Towers(nn.Module):
    """A stem and two heads, of which a batch uses one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)) for _ in "ab")

    def forward(self, x, head):
        return self.heads[head](self.stem(x))


def towers_step(net, perturbation, head):
    """eps by name."""
    x, y = torch.linspace(-1, 1, 32).view(8, 4), torch.arange(8) % 3
    eps = []
    with perturbed(lambda: F.cross_entropy(net(x, head), y), perturbation, eps_into(eps)):
        F.cross_entropy(net(x, head), y).backward()
    return {e.name: step for e, step in zip(perturbation.mask.entries, eps, strict=True)}


def test_what_a_batch_does_not_use_stays_and_is_named_once():
    torch.manual_seed(0)
    net = Towers()
    perturbation = Perturbation(L2(), 0.5, masks.all_parameters(net))
    with pytest.warns(UserWarning, match=r"leaves heads\.1\.0\.weight, .* and 1 more alone"):
        eps = towers_step(net, perturbation, 0)
    assert all((step == 0).all() for name, step in eps.items() if name.startswith("heads.1"))
    assert flat(eps.values()).norm().item() == pytest.approx(0.5)
    towers_step(net, perturbation, 0)  # where a second warning would be an error
    with pytest.warns(UserWarning, match=r"leaves heads\.0\.0\.weight"):
        towers_step(net, perturbation, 1)
    towers_step(net, perturbation, 1)


def test_a_reentrant_checkpoint_hides_parameters_which_is_said():
    torch.manual_seed(0)
    early = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    net = nn.ModuleList([nn.Linear(4, 4), early, nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))])
    x, y = torch.linspace(-1, 1, 32).view(8, 4), torch.arange(8) % 3

    def step(mask, reentrant):
        def closure():
            hidden = checkpoint(net[1], net[0](x), use_reentrant=reentrant)
            return F.cross_entropy(net[2](hidden), y)

        eps = []
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        sam_step(closure, optimizer, Perturbation(L2(), 0.5, mask), on_ascent=eps_into(eps))
        return [e.norm().item() for e in eps]

    assert all(step(masks.only_norm(net), reentrant=False))
    with pytest.warns(UserWarning, match=r"1\.1\.weight, 1\.1\.bias alone.*use_reentrant=False"):
        assert step(masks.only_norm(net), reentrant=True)[:2] == [0, 0]
    inside = {"1.1.weight": torch.ones(4, dtype=torch.bool)}
    with pytest.raises(ConfigError, match="use_reentrant=False"):
        step(masks.from_booleans(net, inside), reentrant=True)


@pytest.mark.parametrize("geometry", VARIANTS)
def test_sparse_gradients_step_as_dense_ones(geometry):
    trained = []
    for sparse in (False, True):
        torch.manual_seed(0)
        words = nn.Embedding(10, 4, sparse=sparse)
        net = nn.Sequential(words, nn.LayerNorm(4), nn.Linear(4, 3))
        perturbation = Perturbation(VARIANTS[geometry], 0.1, masks.all_parameters(net))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            x, y = torch.tensor([1, 1, 4, 7]), torch.tensor([0, 1, 2, 0])
            sam_step(lambda net=net, x=x, y=y: F.cross_entropy(net(x), y), optimizer, perturbation)
        assert words.weight.grad.is_sparse is sparse
        trained.append(flat(net.parameters()))
    torch.testing.assert_close(*trained)
