"""How far and at which steps: radius rules and `when` by themselves."""

import pytest
import torch
from conftest import MASK_OF, closure_of, flat, selected, small_net
from member_run import BATCHES, group_norm, same, stepped

from samlib import geometry, masks
from samlib.sam.descent import Subtract
from samlib.sam.perturbation import Perturbation
from samlib.sam.radius import Radius
from samlib.sam.step import sam_step
from samlib.sam.when import Adaptive, Sometimes


def test_gsams_radius_is_linear_in_the_learning_rate():
    radius = Radius(follows="lr", largest_lr=0.2, least=0.1)
    at = lambda lr: radius.rho(0.5, [torch.optim.SGD(small_net().parameters(), lr=lr)])  # noqa: E731
    assert [at(0.2), at(0.1), at(0.0)] == pytest.approx([0.5, 0.3, 0.1])
    root = Radius(follows="sqrt_lr", largest_lr=0.2)
    optimizer = torch.optim.SGD(small_net().parameters(), lr=0.05)
    assert root.rho(0.5, [optimizer]) == pytest.approx(0.25)


def test_gsams_radius_between_equal_ends_is_sams():
    radius = Radius(follows="lr", largest_lr=0.7, least=0.3)
    assert torch.equal(stepped(0, 1, 2, radius=radius)[0], stepped(0, 1, 2)[0])


def test_usam_is_sam_with_the_gradients_norm_in_its_radius():
    net = small_net(torch.float64, norm=group_norm)
    mask = masks.only_norm(net)
    g = torch.autograd.grad(closure_of(net, *BATCHES[0])(), [e.parameter for e in mask.entries])
    free = stepped(0, mask=masks.only_norm, radius=Radius(free=True))[1][0]
    ball = stepped(0, mask=masks.only_norm, rho=0.3 * flat(g).norm().item())[1][0]
    same(free, ball)


@pytest.mark.parametrize(
    "when",
    [Sometimes(0.0), Adaptive(10, early=float("inf"), late=float("inf"))],
    ids=lambda w: w.name,
)
def test_limits_that_are_the_base_optimizer(when):
    assert torch.equal(stepped(0, 1, 2, when=when)[0], stepped(0, 1, 2, rho=0.0)[0])


def test_ae_sam_looks_at_the_gradient_on_the_mask_alone():
    seen = []

    class Watching(Adaptive):
        def sees(self, gradient):
            seen.append(sum(g.square().sum().item() for g in gradient))
            return super().sees(gradient)

    net = small_net(torch.float64, norm=group_norm)
    mask = MASK_OF["coordinates"](net)
    g = flat(torch.autograd.grad(closure_of(net, *BATCHES[0])(), list(net.parameters())))
    step = Perturbation(geometry.L2(), 0.3, mask, when=Watching(5))
    for descent in (Subtract(), Subtract(over="mask")):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        sam_step(closure_of(net, *BATCHES[0]), optimizer, step, descent=descent)
    assert seen == pytest.approx([g[selected(mask)].square().sum().item()] * 2)
