"""Code in the block of `perturbed`."""

import copy

import pytest
import torch
from conftest import identical, one_line, snapshot
from torch import nn
from two_norms import ball, batch, loss_of, sgd, two_norms

from samlib import masks, perturbed, sam_step
from samlib.errors import ConfigError


def test_an_optimizer_that_steps_in_the_backward_pass_is_refused():
    net = two_norms()
    for p in net.parameters():
        own = torch.optim.SGD([p], lr=0.1)
        p.register_post_accumulate_grad_hook(lambda _, own=own: own.step())
    before = snapshot(net)
    mask = masks.only_norm(net)
    with (
        pytest.raises(ConfigError, match="SGD steps inside the block") as caught,
        perturbed(loss_of(net, *batch()), ball(mask)),
    ):
        loss_of(net, *batch())().backward()
    one_line(caught)
    for name in (e.name for e in mask.entries):
        assert torch.equal(net.state_dict()[name], before[0][name])


@pytest.mark.parametrize(
    "write",
    [
        lambda net, old: net[1].weight.mul_(2),
        lambda net, old: net[1].bias.sub_(0.1),
        lambda net, old: net.load_state_dict(old),
        lambda net, old: nn.init.ones_(net[4].weight),
        lambda net, old: setattr(net[4].weight, "data", torch.ones(8).double()),
    ],
)
def test_weights_changed_inside_the_block_are_named_and_restored(write):
    net = two_norms()
    old = copy.deepcopy(net.state_dict())
    mask = masks.only_norm(net)
    with (
        pytest.raises(ConfigError, match="was changed inside the block") as caught,
        perturbed(loss_of(net, *batch()), ball(mask)),
        torch.no_grad(),
    ):
        write(net, old)
    one_line(caught)
    for name in (e.name for e in mask.entries):
        assert torch.equal(net.state_dict()[name], old[name])


def test_another_networks_optimizer_may_step_inside_the_block():
    net, other = two_norms(), two_norms()
    with perturbed(loss_of(net, *batch()), ball(masks.only_norm(net))):
        sam_step(loss_of(other, *batch()), sgd(other), ball(masks.only_norm(other)))


def test_blocks_may_be_nested():
    net, x, y = two_norms(), *batch()
    inner, outer = ball(masks.only_norm(net)), ball(masks.all_parameters(net))
    before = snapshot(net)
    for first, second in ((outer, inner), (inner, outer), (inner, inner)):
        with perturbed(loss_of(net, x, y), first):
            here = snapshot(net)
            with perturbed(loss_of(net, x, y), second):
                assert not identical(snapshot(net), here)
            assert identical(snapshot(net), here)
            with (
                pytest.raises(ConfigError, match=r"1\.weight was changed"),
                perturbed(loss_of(net, x, y), second),
                torch.no_grad(),
            ):
                net[1].weight.mul_(2)
            assert identical(snapshot(net), here)
        assert identical(snapshot(net), before)


def test_a_forward_pass_may_keep_its_weights_in_bounds():
    class Bounded(nn.Linear):
        """A layer whose rows have a bounded length, as networks for EEG have."""

        def forward(self, x):
            with torch.no_grad():
                self.weight.copy_(self.weight.renorm(2, 0, 0.5))
            return super().forward(x)

    torch.manual_seed(0)
    net = nn.Sequential(Bounded(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    sam_step(loss_of(net, *batch()), sgd(net), ball(masks.all_parameters(net)))
    sam_step(loss_of(net, *batch()), sgd(net), ball(masks.only_norm(net)))
