"""Descents by themselves: limits that are SAM, invariants, formulas."""

import copy

import pytest
import torch
from conftest import closure_of, flat, one_line, selected, small_net
from member_run import BATCHES, Run, choosing, group_norm, same, stepped

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam.descent import Hardest, Reuse, Subtract
from samlib.sam.perturbation import Perturbation
from samlib.sam.step import sam_step
from samlib.sam.when import Every


@pytest.mark.parametrize("descent", [Subtract(alpha=0.0), Hardest(gamma=1.0)], ids=lambda d: d.name)
def test_descents_whose_limit_is_sam(descent):
    if descent.per_example:
        one = Run("esam")
        one.member.descent.gamma = 1.0
        same(one.steps(0, 1, 2).weights, Run("sam").steps(0, 1, 2).weights)
    else:
        same(stepped(0, 1, 2, descent=descent)[0], stepped(0, 1, 2)[0], atol=0)


def test_looksam_limits():
    exact = stepped(0, 1, 2, when=Every(1), descent=Reuse())[0]
    assert torch.equal(exact, stepped(0, 1, 2)[0])
    none = stepped(0, 1, 2, 3, when=Every(2), descent=Reuse(alpha=0.0))[0]
    same(none, stepped(0, 1, 2, 3, when=Every(2))[0], atol=0)


@pytest.mark.parametrize("over", ["all", "mask"])
def test_what_looksam_keeps_is_orthogonal_to_the_gradient_and_of_length_one(over):
    net = small_net(torch.float64, norm=group_norm)
    mask, descent = masks.only_norm(net), Reuse(over=over)
    where = [p for _, p, *_ in descent.where(mask)]
    g = flat(torch.autograd.grad(closure_of(net, *BATCHES[0])(), where))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    perturbation = Perturbation(geometry.L2(), 0.3, mask, when=Every(2))
    sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=descent)
    v = flat(descent.held(descent.where(mask), "v"))
    assert (v @ g).abs() < 1e-12 * g.norm()
    assert v.norm().item() == pytest.approx(1)
    assert v.numel() == (mask.total if over == "all" else mask.count)


def test_what_looksam_keeps_of_coordinates_that_are_left_is_forgotten():
    run, plain = Run("looksam_mask", choosing), Run("sam")
    run.steps(0)
    plain.net.load_state_dict(run.net.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    sam_step(plain.closure(1), plain.optimizer, None)
    assert torch.equal(run.steps(1).weights, plain.weights)


@pytest.mark.parametrize("over", ["all", "mask"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 3.0])
def test_gsam_keeps_what_lies_along_the_perturbed_gradient(alpha, over):
    found = {}
    for a in (0.0, alpha):
        net = small_net(torch.float64, norm=group_norm)
        mask, descent = masks.only_norm(net), Subtract(a, over=over)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        perturbation = Perturbation(geometry.L2(), 0.3, mask)
        sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=descent)
        found[a] = flat(p.grad for p in net.parameters())
        on = selected(mask) if over == "mask" else torch.ones_like(selected(mask))
    there, u = found[0.0], found[alpha]
    assert (u[on] @ there[on]).item() == pytest.approx((there[on] @ there[on]).item())
    assert torch.equal(u[~on], there[~on])
    assert torch.equal(u, there) == (alpha == 0)


def test_esam_selects_by_the_losses_and_refuses_to_select_none():
    descent = Hardest(gamma=0.5)
    before = torch.tensor([1.0, 5.0, 2.0, 0.0], requires_grad=True)
    descent.first(before)
    after = torch.tensor([1.5, 5.0, 4.0, 0.1], requires_grad=True)
    assert descent.second(after).item() == pytest.approx((1.5 + 4.0) / 2)
    descent.first(before)
    with pytest.raises(ConfigError, match=r"gamma 0\.5 of 1 examples selects none") as caught:
        descent.second(torch.tensor([1.0]))
    one_line(caught)
