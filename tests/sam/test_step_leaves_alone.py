"""What the step leaves as it was: after an error, in buffers, in gradients."""

import copy
import math

import pytest
import torch
from conftest import MASK_OF, closure_of, eps_into, identical, small_batch, small_net, snapshot
from step_setting import OPTIMIZERS, every_mask, grads_of, setting
from torch import nn

from samlib import Perturbation, masks, perturbed, sam_step
from samlib.sam.geometry import L2, by_name
from samlib.sam.masks import norms
from samlib.sam.perturbation import Plan
from samlib.sam.source import Last
from samlib.sam.when import Adaptive, Every


class Boom(Exception):
    pass


class OwnBatchNorm(nn.BatchNorm2d):
    """A subclass with a buffer of its own that each forward pass changes."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class OwnNorm(nn.Module):
    """A norm layer no base class gives away, with a running statistic."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running", torch.ones(channels))

    def forward(self, x):
        size = x.abs().mean((0, 2, 3))
        self.running.lerp_(size.detach(), 0.1)
        return x * (self.weight / size).view(-1, 1, 1) + self.bias.view(-1, 1, 1)


@pytest.fixture
def own_norm(monkeypatch):
    monkeypatch.setattr(norms, "_REGISTERED", dict(norms._REGISTERED))
    masks.register_norm(OwnNorm)
    return OwnNorm


NORMS = [nn.BatchNorm2d, OwnBatchNorm, OwnNorm]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("where", ["pass 1", "pass 2", "pass 2 before its forward"])
@every_mask
def test_a_closure_that_raises_changes_nothing(mask, where, norm, own_norm):
    net = small_net(norm=norm)
    perturbation = Perturbation(by_name("elementwise_l2"), 0.3, MASK_OF[mask](net))
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    inner, calls, fail = closure_of(net, *small_batch()), [], False

    def closure():
        calls.append(1)
        now = fail and len(calls) == (1 if where == "pass 1" else 2)
        if now and "before" in where:
            raise Boom
        loss = inner()
        if now:
            raise Boom
        return loss

    sam_step(closure, optimizer, perturbation)  # so that optimizer and buffers hold something
    before = snapshot(net, optimizer)
    calls.clear()
    fail = True
    with pytest.raises(Boom):
        sam_step(closure, optimizer, perturbation)
    assert len(calls) == (1 if where == "pass 1" else 2)
    assert identical(snapshot(net, optimizer), before)


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
@pytest.mark.parametrize("batchnorm", ["both", "first"])
def test_a_block_that_raises_changes_nothing(batchnorm, error):
    net, closure, perturbation = setting("coordinates", dtype=torch.float32, batchnorm=batchnorm)
    before = snapshot(net)
    with pytest.raises(error), perturbed(closure, perturbation):  # noqa: PT012
        closure().backward()
        assert not identical(snapshot(net), before)
        raise error
    assert identical(snapshot(net), before)


@pytest.mark.parametrize("when", [Every(2), Adaptive(8, early=math.inf, late=math.inf)])
def test_a_block_that_moves_nothing_drops_the_statistics_of_its_second_pass_too(when):
    net, closure, _ = setting(dtype=torch.float32)
    perturbation = Perturbation(L2(), 0.5, masks.only_norm(net), when=when, batchnorm="first")
    for _ in range(2):  # the second is not perturbed
        once = copy.deepcopy(net)
        once.train()
        closure_of(once, *small_batch(torch.float32))()
        with perturbed(closure, perturbation):
            closure().backward()
        assert identical(dict(net.named_buffers()), dict(once.named_buffers()))
    before = snapshot(net)
    with pytest.raises(Boom), perturbed(closure, perturbation, plan=Plan(active=True)):  # noqa: PT012
        closure()
        raise Boom
    assert identical(snapshot(net), before)


def test_a_source_without_a_pass_of_its_own_calls_no_closure_in_a_step_left_out():
    net, closure, _ = setting(dtype=torch.float32)
    calls = []
    perturbation = Perturbation(L2(), 0.5, masks.only_norm(net), source=Last(), when=Every(2))
    for _ in range(2):
        plan = perturbation.plan()
        with perturbed(lambda: calls.append(1) or closure(), perturbation, plan=plan) as loss:
            assert loss is None
    assert calls == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batchnorm", ["both", "first"])
@pytest.mark.parametrize("moved", [False, True])
def test_buffers_after_a_step(batchnorm, norm, own_norm, moved):
    net = small_net(norm=norm)
    x, y = small_batch(torch.float64 if moved else torch.float32)
    perturbation = Perturbation(L2(), 0.5, masks.only_norm(net), batchnorm=batchnorm)
    if moved:  # which replaces the buffers the mask was made with
        net.double()
    by_hand, eps = copy.deepcopy(net), []
    sam_step(
        closure_of(net, x, y),
        torch.optim.SGD(net.parameters(), lr=0.1),
        perturbation,
        on_ascent=eps_into(eps),
    )
    by_hand(x)
    if batchnorm == "both":
        with torch.no_grad():
            for e, step in zip(perturbation.mask.entries, eps, strict=True):
                by_hand.get_parameter(e.name).add_(step)
        by_hand(x)
    buffers = dict(net.named_buffers())
    assert len(buffers) >= 2
    assert identical(buffers, dict(by_hand.named_buffers()))


def test_ascent_leaves_grad_alone():
    net, closure, perturbation = setting()
    kept = [torch.full_like(p, i) for i, p in enumerate(net.parameters())]
    for p, g in zip(net.parameters(), kept, strict=True):
        p.grad = g
    with perturbed(closure, perturbation):
        for i, (p, g) in enumerate(zip(net.parameters(), kept, strict=True)):
            assert p.grad is g
            assert (g == i).all()
        descent = grads_of(closure(), net)
        closure().backward()
    for i, (p, g) in enumerate(zip(net.parameters(), descent, strict=True)):
        torch.testing.assert_close(p.grad, g + i)


def test_step_zeroes_old_gradients():
    (net, closure, perturbation), (other, other_closure, same) = setting(), setting()
    for p in net.parameters():
        p.grad = torch.full_like(p, 100)
    for n, c, ascent in ((net, closure, perturbation), (other, other_closure, same)):
        sam_step(c, torch.optim.SGD(n.parameters(), lr=0.1), ascent)
    assert identical(net.state_dict(), other.state_dict())


def test_frozen_parameters_stay_out_and_still():
    net = small_net()
    net.conv1.weight.requires_grad_(False)
    net.norm2.weight.requires_grad_(False)
    frozen = {id(net.conv1.weight), id(net.norm2.weight)}
    before = snapshot(net)[0]
    for make in (masks.all_parameters, masks.only_norm, masks.no_norm):
        mask = make(net)
        assert not frozen & {id(e.parameter) for e in mask.entries}
        perturbation = Perturbation(by_name("elementwise_l2"), 0.3, mask, radius_over="all")
        optimizer = OPTIMIZERS["sgd"](p for p in net.parameters() if p.requires_grad)
        closure = closure_of(net, *small_batch())
        with perturbed(closure, perturbation):
            assert torch.equal(net.conv1.weight, before["conv1.weight"])
        sam_step(closure, optimizer, perturbation)
        assert torch.equal(net.conv1.weight, before["conv1.weight"])
        assert torch.equal(net.norm2.weight, before["norm2.weight"])
    assert not torch.equal(net.fc.weight, before["fc.weight"])
