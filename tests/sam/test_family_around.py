"""What is around a whole step: Lookbehind's slow weights, and IRE's stretch."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import closure_of, flat, identical, one_line, small_net
from dense_family import Dense
from member_run import BATCHES, Run, group_norm, same, stepped
from torch import nn

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam import source
from samlib.sam.around import Slow, Stretch
from samlib.sam.descent import Subtract
from samlib.sam.perturbation import Perturbation
from samlib.sam.radius import Radius
from samlib.sam.step import sam_step
from samlib.sam.when import Adaptive, Every


def slow(*batches, k, alpha):
    return stepped(*batches, around=Slow(k, alpha))[0]


def test_lookbehind_limits():
    same(slow(0, 1, 2, k=1, alpha=1.0), stepped(0, 1, 2)[0], atol=0)
    same(slow(0, 1, 2, k=1, alpha="adaptive"), stepped(0, 1, 2)[0])
    assert torch.equal(
        slow(0, 1, k=3, alpha=0.0), flat(small_net(torch.float64, norm=group_norm).parameters())
    )


def test_lookbehind_returns_the_loss_at_the_slow_weights():
    net = small_net(torch.float64, norm=group_norm)
    closure = closure_of(net, *BATCHES[0])
    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net))
    before = closure().item()
    assert Slow(3)(closure, torch.optim.SGD(net.parameters(), lr=0.1), step).item() == before


def test_lookbehind_counts_a_batch_as_one_step_and_follows_the_learning_rate():
    run = Run("lookbehind")
    other = Run("lookbehind")
    when, radius = Every(2), Radius(follows="lr", largest_lr=0.2)
    for each, parts in ((run, {"when": when, "radius": radius}), (other, {})):
        perturbation = replace(each.member.perturbation, **parts)
        step = Slow(2, 0.5)
        for t in (0, 1, 2):
            if not parts:
                perturbation = replace(perturbation, rho=0.15)
            if parts or t != 1:
                step(each.closure(t), each.optimizer, perturbation)
            else:
                sam_step(each.closure(t), each.optimizer, None)
    assert torch.equal(run.weights, other.weights)


class LooksBack(source.Gradient):
    """Of this step's gradient, and told of the optimizer's step, which Slow would leave out."""

    def after_step(self, mask, refresh):
        raise AssertionError("nobody asks")


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({"source": source.Last()}, {}),
        ({"source": LooksBack()}, {}),
        ({"when": Adaptive(5)}, {}),
        ({}, {"descent": Subtract()}),
    ],
    ids=["source", "looks back", "when", "descent"],
)
def test_lookbehind_refuses_what_it_would_leave_out(parts, options):
    run = Run("sam")
    perturbation = replace(run.member.perturbation, **parts)
    with pytest.raises(ConfigError, match="Slow climbs by this step's gradient") as caught:
        Slow()(run.closure(0), run.optimizer, perturbation, **options)
    one_line(caught)


def test_lookbehind_with_alpha_one_is_an_ascent_of_k_steps():
    net = small_net(torch.float64, norm=group_norm)
    dense = Dense(copy.deepcopy(net), BATCHES, masks.all_parameters(net), 0.3, False)
    high = fast = dense.w
    for _ in range(3):
        high = high + dense.B(dense.g(high, 0))
        dense.velocity = 0.9 * dense.velocity + dense.g(high, 0)
        fast = fast - 0.1 * dense.velocity
    same(slow(0, k=3, alpha=1.0), fast)


def test_adaptive_lookbehind_is_the_dense_rule_tensor_by_tensor():
    net = small_net(torch.float64, norm=group_norm)
    dense = Dense(copy.deepcopy(net), BATCHES, masks.all_parameters(net), 0.3, False)
    high = fast = dense.w
    ways = []
    for _ in range(2):
        high = high + dense.B(dense.g(high, 0))
        dense.velocity = 0.9 * dense.velocity + dense.g(high, 0)
        fast = fast - 0.1 * dense.velocity
        ways.append((fast - dense.w).split([p.numel() for p in net.parameters()]))
    pulled = [(F.cosine_similarity(a, b, 0) + 1) / 2 * b for a, b in zip(*ways, strict=True)]
    same(slow(0, k=2, alpha="adaptive"), dense.w + torch.cat(pulled))


def test_lookbehind_puts_the_weights_back_when_the_closure_raises():
    net = small_net(torch.float64, norm=group_norm)
    before, calls = flat(net.parameters()).clone(), []

    def closure():
        calls.append(1)
        if len(calls) == 4:
            raise KeyError
        return closure_of(net, *BATCHES[0])()

    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net))
    with pytest.raises(KeyError):
        Slow(2, 0.5)(closure, torch.optim.SGD(net.parameters(), lr=0.1), step)
    assert torch.equal(flat(net.parameters()), before)


def stretched(*batches, kappa, rank, lr=0.1):
    net = small_net(torch.float64)
    stretch = Stretch(kappa, lambda: net(BATCHES[5][0]), rank=rank)
    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net))
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for t in batches:
        stretch(closure_of(net, *BATCHES[t]), optimizer, step)
    return net, flat(stretch.held(step.mask.trainable, "flat"))


def test_ire_limits():
    plain, _ = stretched(0, 1, 2, kappa=0.0, rank=0.1)
    sam, _ = Run("sam", norm=nn.BatchNorm2d), None
    sam.optimizer = torch.optim.SGD(sam.net.parameters(), lr=0.1)
    sam.steps(0, 1, 2)
    assert identical(plain.state_dict(), sam.net.state_dict())  # the Fisher's pass left no trace
    total = flat(plain.parameters()).numel()
    further, everywhere = stretched(0, 1, 2, kappa=0.5, rank=1.5 / total)
    assert (everywhere == 1).all()
    faster, _ = stretched(0, 1, 2, kappa=0.0, rank=0.1, lr=0.15)
    same(flat(further.parameters()), flat(faster.parameters()))
    assert stretched(0, kappa=0.5, rank=1.0)[1].sum() >= 1
    assert stretched(0, kappa=0.5, rank=1.0)[1].mean() < 0.1


def test_ire_that_starts_later_must_know_the_epoch():
    run = Run("ire")
    before = run.weights.clone()
    with pytest.raises(ConfigError, match=r"start 1: say which epoch it is, epoch=epoch") as caught:
        run.steps(0, epoch=None)
    one_line(caught)
    assert torch.equal(run.weights, before)
    run.member.around.start = 0
    run.steps(0, epoch=None)
    assert not torch.equal(run.weights, before)


def test_ire_waits_for_its_epoch():
    run, sam = Run("ire"), Run("sam")
    run.member.around.start = 1
    run.steps(0, 1, epoch=0)
    sam.steps(0, 1)
    assert torch.equal(run.weights, sam.weights)
    run.steps(2, epoch=1)
    sam.steps(2)
    assert not torch.equal(run.weights, sam.weights)
