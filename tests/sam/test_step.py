"""The step: what it moves, by how much, what it leaves alone, and what it refuses."""

import copy
import gc
import math
import weakref
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    MASK_OF,
    Net,
    closure_of,
    eps_into,
    flat,
    identical,
    one_line,
    selected,
    small_batch,
    small_net,
    snapshot,
    some_coordinates,
)
from timm.optim import Lion
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from samlib import masks, models
from samlib.errors import ConfigError
from samlib.sam.geometry import L2, VARIANTS, by_name
from samlib.sam.masks import norms
from samlib.sam.perturbation import Plan
from samlib.sam.source import Last
from samlib.sam.step import Perturbation, perturbed, sam_step
from samlib.sam.when import Adaptive, Every

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "lion": lambda p: Lion(p, lr=1e-2, weight_decay=0.1),
}
every_geometry = pytest.mark.parametrize("geometry", VARIANTS)
every_mask = pytest.mark.parametrize("mask", MASK_OF)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def setting(mask="all", geometry="l2", rho=0.3, dtype=torch.float64, **options):
    """A network, the closure of one batch, and a perturbation of it."""
    net = small_net(dtype)
    where = MASK_OF[mask](net) if isinstance(mask, str) else mask(net)
    perturbation = Perturbation(by_name(geometry), rho, where, **options)
    return net, closure_of(net, *small_batch(dtype)), perturbation


def grads_of(loss, net):
    return torch.autograd.grad(loss, list(net.parameters()))


def T_of(geometry, net, grads):
    """T_w as a flat vector."""
    names = [n for n, _ in net.named_parameters()]
    T = by_name(geometry).T(names, [p.detach() for p in net.parameters()], grads)
    if T is None:
        return torch.ones(sum(g.numel() for g in grads), dtype=grads[0].dtype)
    return flat([t.expand_as(g) for t, g in zip(T, grads, strict=True)])


# --- the perturbation ----------------------------------------------------------------------------


@pytest.mark.parametrize("radius_over", ["mask", "all"])
@every_mask
@every_geometry
def test_perturbation_has_its_length_on_the_mask_and_is_zero_elsewhere(geometry, mask, radius_over):
    net, closure, perturbation = setting(mask, geometry, radius_over=radius_over)
    grads = grads_of(closure(), net)
    T, g, on = T_of(geometry, net, grads), flat(grads), selected(perturbation.mask)
    assert on.sum() == perturbation.mask.count
    before, seen = flat(net.parameters()).clone(), []
    with perturbed(closure, perturbation, on_ascent=eps_into(seen)):
        moved = flat(net.parameters()) - before
    assert torch.equal(flat(net.parameters()), before)
    assert (moved[~on] == 0).all()
    torch.testing.assert_close(moved[on], flat(seen), rtol=0, atol=1e-15)
    if "linf" in geometry:  # no norm in its formula, so the two rules agree
        assert (moved / T).abs().max().item() == pytest.approx(0.3, rel=1e-9)
        return
    over = on if radius_over == "mask" else torch.ones_like(on)
    norm = (T * g)[over].norm()
    torch.testing.assert_close(moved[on], (0.3 * T**2 * g / norm)[on], rtol=1e-9, atol=1e-15)
    length = 0.3 * (T * g)[on].norm() / norm
    assert (moved / T).norm().item() == pytest.approx(length.item(), rel=1e-9)
    if radius_over == "mask":
        assert (moved / T).norm().item() == pytest.approx(0.3, rel=1e-9)


def test_radius_over_all_is_shorter_on_a_part():
    lengths = {}
    for radius_over in ("mask", "all"):
        _, closure, perturbation = setting("only_norm", radius_over=radius_over)
        eps = []
        with perturbed(closure, perturbation, on_ascent=eps_into(eps)):
            lengths[radius_over] = flat(eps).norm().item()
    assert lengths["mask"] == pytest.approx(0.3)
    assert lengths["all"] < 0.9 * lengths["mask"]


@pytest.mark.parametrize("mask", ["all", "only_norm", "no_norm"])
@pytest.mark.parametrize("model", ["resnet8", "wrn10_1", "vit_micro"])
def test_a_step_of_rho_moves_nearly_every_masked_entry(model, mask):
    net = models.build(model, num_classes=10, in_channels=1, image_size=8)
    x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    perturbation = Perturbation(L2(), 0.05, MASK_OF[mask](net))
    before = flat(p for _, p in masks.trainable(net))
    with perturbed(closure_of(net, x, torch.arange(32) % 10), perturbation):
        moved = flat(p for _, p in masks.trainable(net)) != before
    assert moved[selected(perturbation.mask)].double().mean() >= 0.99


# --- whole steps against a dense reference -------------------------------------------------------


def dense_sam(net, x, y, steps, *, on, asam, rho, lr=0.1, momentum=0.9, decay=5e-4):
    """SAM or ASAM with SGD on one flat float64 vector; returns it after some steps."""
    names, shapes = zip(*((n, p.shape) for n, p in net.named_parameters()), strict=True)
    buffers = dict(net.named_buffers())

    def gradient(w):
        w = w.clone().requires_grad_()
        parts = w.split([s.numel() for s in shapes])
        tensors = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        state = tensors | {n: b.clone() for n, b in buffers.items()}
        return torch.autograd.grad(F.cross_entropy(functional_call(net, state, (x,)), y), w)[0]

    w = flat(net.parameters()).clone()
    velocity = torch.zeros_like(w)
    for _ in range(steps):
        g = gradient(w)
        T = w.abs() if asam else torch.ones_like(w)
        eps = torch.where(on, rho * T**2 * g / (T * g)[on].norm(), 0)
        velocity = momentum * velocity + gradient(w + eps) + decay * w
        w = w - lr * velocity
    return w


@every_mask
@pytest.mark.parametrize("geometry", ["l2", "elementwise_l2"])
def test_steps_are_those_of_the_dense_formula(geometry, mask):
    net, closure, perturbation = setting(mask, geometry)
    expected = dense_sam(
        *(copy.deepcopy(net), *small_batch(torch.float64), 3),
        on=selected(perturbation.mask),
        asam=geometry != "l2",
        rho=perturbation.rho,
    )
    start = flat(net.parameters()).clone()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    for _ in range(3):
        sam_step(closure, optimizer, perturbation)
    got = flat(net.parameters())
    assert (got - start).abs().max() > 0.05
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@every_optimizer
@every_mask
def test_step_is_the_base_optimizers_with_the_perturbed_gradient(mask, optimizer):
    """Bit for bit, in float32: weights come back whole and optimizer state sees nothing else."""
    net, closure, perturbation = setting(mask, "elementwise_l2", dtype=torch.float32)
    x, y = small_batch()
    plain = copy.deepcopy(net)
    ours, theirs = (OPTIMIZERS[optimizer](n.parameters()) for n in (net, plain))
    for _ in range(3):
        eps = []
        loss = sam_step(closure, ours, perturbation, on_ascent=eps_into(eps))
        away = copy.deepcopy(plain)
        assert torch.equal(loss, closure_of(copy.deepcopy(plain), x, y)())
        with torch.no_grad():
            for e, step in zip(perturbation.mask.entries, eps, strict=True):
                p = away.get_parameter(e.name).view(-1)
                if e.index is None:
                    p += step.view(-1)
                else:
                    p[e.index] += step
        closure_of(away, x, y)().backward()
        for p, q in zip(plain.parameters(), away.parameters(), strict=True):
            p.grad = q.grad
        theirs.step()
        assert identical(flat(net.parameters()), flat(plain.parameters()))
        assert identical(ours.state_dict(), theirs.state_dict())


@every_optimizer
@every_mask
@pytest.mark.parametrize("geometry", ["l2", "elementwise_linf", "layerwise_l2"])
def test_rho_zero_is_the_base_optimizer(geometry, mask, optimizer):
    net, closure, perturbation = setting(mask, geometry, rho=0.0, dtype=torch.float32)
    plain, absent = copy.deepcopy(net), copy.deepcopy(net)
    x, y = small_batch()
    ours, theirs, none = (OPTIMIZERS[optimizer](n.parameters()) for n in (net, plain, absent))
    start = flat(net.parameters())
    for _ in range(5):
        sam_step(closure, ours, perturbation)
        sam_step(closure_of(absent, x, y), none, None)
        theirs.zero_grad()
        closure_of(plain, x, y)().backward()
        theirs.step()
    assert identical(flat(net.parameters()), flat(plain.parameters()))
    assert identical(snapshot(absent, none), snapshot(plain, theirs))
    assert identical(ours.state_dict(), theirs.state_dict())
    assert not torch.equal(flat(net.parameters()), start)


# --- what is left alone --------------------------------------------------------------------------


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


# --- accumulation, schedules, hooks, nesting -----------------------------------------------------


def without_norm(dtype=torch.float64):
    return small_net(dtype, norm=lambda channels: nn.Identity())


def test_accumulating_in_the_block_is_the_big_batch():
    net = without_norm()
    x, y = small_batch(torch.float64, n=12)
    perturbation = Perturbation(by_name("elementwise_l2"), 0.5, masks.all_parameters(net))
    whole = copy.deepcopy(net)
    sam_step(
        closure_of(whole, x, y),
        OPTIMIZERS["sgd"](whole.parameters()),
        Perturbation(by_name("elementwise_l2"), 0.5, masks.all_parameters(whole)),
    )
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with perturbed(closure_of(net, x, y), perturbation):
        for part in torch.arange(12).split(5):
            (closure_of(net, x[part], y[part])() * len(part) / 12).backward()
    optimizer.step()
    torch.testing.assert_close(flat(net.parameters()), flat(whole.parameters()), rtol=0, atol=1e-13)


def test_accumulating_over_perturbations_is_their_mean():
    net = without_norm()
    x, y = small_batch(torch.float64, n=12)
    perturbation = Perturbation(L2(), 0.5, masks.all_parameters(net))
    w, expected = flat(net.parameters()).clone(), 0
    for part in torch.arange(12).split(4):
        closure = closure_of(net, x[part], y[part])
        g = flat(grads_of(closure(), net))
        nn.utils.vector_to_parameters(w + 0.5 * g / g.norm(), net.parameters())
        expected = expected + flat(grads_of(closure(), net)) / 3
        nn.utils.vector_to_parameters(w, net.parameters())
    for part in torch.arange(12).split(4):
        closure = closure_of(net, x[part], y[part])
        with perturbed(closure, perturbation):
            (closure() / 3).backward()
    got = flat(p.grad for p in net.parameters())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_active_epochs():
    calls = []
    for start, end, active in ((0, None, range(5)), (2, 4, range(2, 4)), (3, None, range(3, 5))):
        net, inner, perturbation = setting(start=start, end=end)
        assert [perturbation.active(e) for e in range(5)] == [e in active for e in range(5)]
        if (start, end) == (0, None):
            assert perturbation.active(None)
        else:
            with pytest.raises(ConfigError, match=f"start {start} and end {end}: say which epoch"):
                perturbation.active(None)

        def closure(inner=inner):
            calls.append(1)
            return inner()

        optimizer = OPTIMIZERS["sgd"](net.parameters())
        for epoch in range(5):
            plain = copy.deepcopy((net, optimizer.state_dict()))
            calls.clear()
            sam_step(closure, optimizer, perturbation, epoch=epoch)
            assert len(calls) == (2 if epoch in active else 1)
            other = OPTIMIZERS["sgd"](plain[0].parameters())
            other.load_state_dict(plain[1])
            sam_step(closure_of(plain[0], *small_batch(torch.float64)), other, None)
            same = torch.equal(flat(net.parameters()), flat(plain[0].parameters()))
            assert same == (epoch not in active)


def test_scheduler_groups_and_clipping_stay_the_optimizers():
    net, closure, perturbation = setting()
    fc = list(net.fc.parameters())
    rest = [p for p in net.parameters() if all(p is not q for q in fc)]
    optimizer = torch.optim.SGD([{"params": rest, "lr": 0.2}, {"params": fc, "lr": 0.0}])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def clip(optimizer, args, kwargs):
        nn.utils.clip_grad_norm_(rest, 1e-3)

    optimizer.register_step_pre_hook(clip)
    for lr in (0.2, 0.1):
        before, head = flat(rest).clone(), flat(fc).clone()
        sam_step(closure, optimizer, perturbation)
        scheduler.step()
        assert (flat(rest) - before).norm().item() == pytest.approx(lr * 1e-3, rel=1e-4)
        assert torch.equal(flat(fc), head)


def test_perturbations_nest_and_can_be_used_again():
    net, closure, outer = setting("only_norm", dtype=torch.float32)
    inner = Perturbation(L2(), 0.7, some_coordinates(net))
    w = flat(net.parameters())
    first = None
    for _ in range(2):
        with perturbed(closure, outer):
            away = flat(net.parameters())
            with perturbed(closure, inner):
                further = flat(net.parameters())
            assert torch.equal(flat(net.parameters()), away)
        assert torch.equal(flat(net.parameters()), w)
        assert (away - w).norm().item() == pytest.approx(0.3, rel=1e-5)
        assert (further - away).norm().item() == pytest.approx(0.7, rel=1e-5)
        assert first is None or torch.equal(first, further)
        first = further


@pytest.mark.parametrize("geometry", ["l2", "elementwise_l2", "fisher", "layerwise_l2"])
def test_channels_last_weights_move_at_the_same_logical_coordinates(geometry):
    net, closure, perturbation = setting("coordinates", geometry)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert not last.conv1.weight.is_contiguous()
    there = Perturbation(by_name(geometry), 0.3, some_coordinates(last))
    before, strides = snapshot(last)[0], last.conv1.weight.stride()
    x, y = small_batch(torch.float64)
    channels_last = closure_of(last, x.to(memory_format=torch.channels_last), y)
    with perturbed(closure, perturbation), perturbed(channels_last, there):
        for p, q in zip(net.parameters(), last.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
        assert not torch.equal(last.conv1.weight, before["conv1.weight"])
    assert all(torch.equal(p, before[n]) for n, p in last.named_parameters())
    assert last.conv1.weight.stride() == strides


class FromHost(TorchDispatchMode):
    """Counts tensors made of Python numbers, which on a GPU no recorded step can copy there."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


def test_a_step_at_channels_last_coordinates_copies_nothing_from_the_host():
    net, closure, perturbation = setting("coordinates")
    net.to(memory_format=torch.channels_last)
    with FromHost() as watch:
        sam_step(closure, OPTIMIZERS["sgd"](net.parameters()), perturbation)
    assert watch.made == 0
    with watch:
        torch.tensor([1, 2])
    assert watch.made == 1


# --- cost ----------------------------------------------------------------------------------------


class ConvolutionGradients(TorchDispatchMode):
    """Notes, of each convolution's backward, whether input and weight gradients were computed."""

    def __init__(self):
        super().__init__()
        self.computed = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.computed.append(tuple(args[-1][:2]))
        return func(*args, **(kwargs or {}))


def late_mask_run():
    """Backward passes of a step that masks the norm layers of the last of three stages."""
    net = models.build("resnet8", num_classes=10, in_channels=1, image_size=8)
    reached, seen, watch = [], [], ConvolutionGradients()
    layers = (net.layer1, net.layer2, net.layer3)
    for number, layer in enumerate(layers, start=1):
        layer.register_forward_hook(
            lambda module, x, y, n=number: y.register_hook(lambda g: reached.append(n)) and None
        )
    perturbation = Perturbation(L2(), 0.1, masks.blocks(net, [3]))
    x = torch.randn(4, 1, 8, 8)
    with watch, perturbed(closure_of(net, x, torch.arange(4)), perturbation):
        seen.append((list(reached), list(watch.computed)))
        reached.clear()
        watch.computed.clear()
        closure_of(net, x, torch.arange(4))().backward()
        seen.append((list(reached), list(watch.computed)))
    return seen


def test_ascent_stops_at_the_first_masked_layer_and_computes_no_weight_gradient():
    (layers, convolutions), (all_layers, all_convolutions) = late_mask_run()
    assert layers == [3]
    assert all_layers == [3, 2, 1]
    # layer3's first norm needs the gradient behind its second convolution, and nothing further
    assert convolutions == [(True, False)]
    assert len(all_convolutions) == 9
    assert all(weight for _, weight in all_convolutions)


def test_ascent_of_a_norm_mask_computes_no_convolution_weight_gradient():
    _, closure, perturbation = setting("only_norm")
    with ConvolutionGradients() as watch:
        eps = []
        with perturbed(closure, perturbation, on_ascent=eps_into(eps)):
            pass
    assert watch.computed == [(True, False)]  # conv2 passes on; conv1 is below every norm
    assert flat(eps).norm().item() == pytest.approx(0.3)


def late_coordinates(net):
    """Below these the ascent's backward runs no node, so none of them lets its tensors go."""
    return masks.from_booleans(net, {"norm2.bias": torch.ones(6, dtype=torch.bool)})


@pytest.mark.parametrize("mask", ["all", "only_norm", "coordinates", late_coordinates])
def test_nothing_of_the_ascent_graph_outlives_it(mask):
    net, _, perturbation = setting(mask)
    x, y = small_batch(torch.float64)
    alive = []

    def closure():
        alive.append([ref() is not None for ref in activations])
        h = torch.relu(net.norm1(net.conv1(x)))
        activations.append(weakref.ref(h))
        loss = F.cross_entropy(net.fc(torch.relu(net.norm2(net.conv2(h))).mean((2, 3))), y)
        del h
        assert activations[-1]() is not None  # its graph alone holds it
        return loss

    activations = []
    gc.disable()  # by reference counting, at once
    try:
        sam_step(closure, torch.optim.SGD(net.parameters(), lr=0.1), perturbation)
    finally:
        gc.enable()
    assert alive == [[], [False]]


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["all", "only_norm", "no_norm", "coordinates"])
def test_an_autocast_around_the_step_sees_the_perturbed_weights(mask):
    """Autocast caches its casts of weights until the outermost context is left."""
    net, closure, perturbation = setting(mask, rho=1.0, dtype=torch.float32)
    with perturbed(closure, perturbation):
        pass

    def inside():
        with torch.autocast("cpu", torch.bfloat16):
            return closure()

    losses = []
    with torch.autocast("cpu", torch.bfloat16), perturbed(closure, perturbation) as first:
        losses.append(closure().detach())
        grads = grads_of(closure(), net)
    with perturbed(inside, perturbation) as expected_first:
        losses.append(inside().detach())
        expected = grads_of(inside(), net)
    assert torch.equal(first, expected_first)
    assert torch.equal(*losses)
    assert losses[0] > first + 0.05
    assert identical(grads, expected)


def test_an_autocast_around_many_steps_sees_every_update():
    trained = []
    for around in (True, False):
        net, closure, perturbation = setting(rho=0.5, dtype=torch.float32)
        optimizer = OPTIMIZERS["sgd"](net.parameters())

        def inside(closure=closure):
            with torch.autocast("cpu", torch.bfloat16):
                return closure()

        # not `enabled=around`: even a disabled one keeps the cache of those inside it
        with torch.autocast("cpu", torch.bfloat16) if around else nullcontext():
            for _ in range(3):
                sam_step(closure if around else inside, optimizer, perturbation)
        trained.append(net.state_dict())
    assert identical(*trained)


def test_fp16_is_refused():
    net, closure, perturbation = setting(dtype=torch.float32)
    before = snapshot(net)
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(ConfigError, match=r"fp16 autocast.* use bfloat16") as caught,
    ):
        sam_step(closure, OPTIMIZERS["sgd"](net.parameters()), perturbation)
    one_line(caught)
    with pytest.raises(ConfigError, match="fp16") as caught:
        sam_step(lambda: closure().half(), OPTIMIZERS["sgd"](net.parameters()), perturbation)
    one_line(caught)
    assert identical(snapshot(net), before)


def test_fp16_is_refused_in_epochs_without_a_perturbation_too():
    net, closure, perturbation = setting(dtype=torch.float32, start=150)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    before = snapshot(net)
    with torch.autocast("cpu", torch.float16), pytest.raises(ConfigError, match="fp16 autocast"):
        sam_step(lambda: closure().float(), optimizer, perturbation, epoch=0)
    assert identical(snapshot(net), before)


@pytest.fixture
def fp16_on_a_gpu():
    """fp16 autocast of CUDA tensors, which need no GPU where nothing is computed."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        with FakeTensorMode(), torch.device("cuda"):
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


@pytest.mark.skipif(torch.__version__ < "2.6", reason="fake CUDA tensors need a driver there")
@pytest.mark.parametrize("call", [lambda net, x: net(x), lambda net, x: net(x=x)])
def test_fp16_is_refused_however_the_model_gets_its_inputs(call, fp16_on_a_gpu):
    net, x = Net(), torch.empty(8, 2, 6, 6)
    perturbation = Perturbation(L2(), 0.1, masks.only_norm(net))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="fp16 autocast"):
        sam_step(lambda: call(net, x).sum(), optimizer, perturbation)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("perturb", [True, False])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda loss: loss.expand(3), r"scalar loss tensor, not \(3,\)"),
        (lambda loss: loss.view(1), r"scalar loss tensor, not \(1,\)"),
        (lambda loss: loss.item(), "scalar loss tensor, not float"),
        (lambda loss: None, "scalar loss tensor, not NoneType"),
        (lambda loss: loss.detach(), "carries no gradient"),
    ],
)
def test_bad_losses_are_refused_and_change_nothing(spoil, message, perturb):
    net, closure, perturbation = setting()
    before = snapshot(net)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with pytest.raises(ConfigError, match=message) as caught:
        sam_step(lambda: spoil(closure()), optimizer, perturbation if perturb else None)
    one_line(caught)
    if perturb:
        assert identical(snapshot(net), before)


@pytest.mark.parametrize("rho", [-1e-9, math.nan, math.inf, True, "0.1", None])
def test_bad_rho(rho):
    with pytest.raises(ConfigError, match="rho must be") as caught:
        Perturbation(L2(), rho, masks.all_parameters(small_net()))
    assert repr(rho) in one_line(caught)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"radius_over": "everything"}, "unknown radius_over 'everything'; valid: mask, all"),
        ({"batchnorm": "second"}, "unknown batchnorm 'second'; valid: both, first"),
        ({"start": -1}, "start is an epoch, counted from 0, not -1"),
        ({"start": 3, "end": 2}, "start 3 and end 2 leave no epoch"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Perturbation(L2(), 0.1, masks.all_parameters(small_net()), **option)
    one_line(caught)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@every_mask
def test_on_a_gpu_the_step_is_the_same(mask):
    trained = []
    for device in ("cpu", "cuda"):
        net = small_net(torch.float64).to(device)
        x, y = (t.to(device) for t in small_batch(torch.float64))
        perturbation = Perturbation(by_name("elementwise_l2"), 0.3, MASK_OF[mask](net))
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        for _ in range(3):
            sam_step(closure_of(net, x, y), optimizer, perturbation)
        trained.append(flat(net.parameters()).cpu())
    torch.testing.assert_close(*trained, rtol=0, atol=1e-10)


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


@pytest.mark.parametrize("perturb", [True, False])
def test_an_optimizer_that_runs_the_closure_itself_is_refused(perturb):
    net, closure, perturbation = setting()
    before = snapshot(net)
    with pytest.raises(ConfigError, match="LBFGS runs the closure") as caught:
        sam_step(closure, torch.optim.LBFGS(net.parameters()), perturbation if perturb else None)
    one_line(caught)
    assert identical(snapshot(net), before)


@pytest.mark.parametrize("perturb", [True, False])
def test_the_callers_own_backward_takes_the_descent_pass(perturb):
    """As accelerate's, which divides the loss by the accumulation steps before its backward."""
    (net, closure, perturbation), (other, other_closure, same) = setting(), setting()
    losses = []

    def backward(loss):
        losses.append(loss.item())
        (loss / 2).backward()

    ours, theirs = (torch.optim.SGD(n.parameters(), lr=lr) for n, lr in ((net, 0.1), (other, 0.05)))
    first = sam_step(closure, ours, perturbation if perturb else None, backward=backward)
    sam_step(other_closure, theirs, same if perturb else None)
    assert len(losses) == 1
    assert (losses[0] > first.item()) == perturb  # at w + eps, where the loss is higher
    torch.testing.assert_close(flat(net.parameters()), flat(other.parameters()), rtol=0, atol=1e-15)


@pytest.mark.parametrize("perturb", [True, False])
def test_several_optimizers_share_the_parameters(perturb):
    (net, closure, perturbation), (one, one_closure, same) = setting(), setting()

    def halves(net):
        head = list(net.fc.parameters())
        return [p for p in net.parameters() if all(p is not q for q in head)], head

    body, head = halves(net)
    several = (torch.optim.SGD(body, lr=0.1, momentum=0.9), torch.optim.SGD(head, lr=0.01))
    groups = [{"params": p, "lr": lr} for p, lr in zip(halves(one), (0.1, 0.01), strict=True)]
    groups[0]["momentum"] = 0.9
    single = torch.optim.SGD(groups, lr=0.1)
    for _ in range(3):
        loss = sam_step(closure, several, perturbation if perturb else None)
        assert torch.equal(loss, sam_step(one_closure, single, same if perturb else None))
    assert identical(net.state_dict(), one.state_dict())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "optimizer must be an optimizer or several, not an empty list"),
        ({"lr": 0.1}, r"optimizer must be a torch\.optim\.Optimizer, not {'lr': 0\.1}"),
        ([None], r"optimizer must be a torch\.optim\.Optimizer, not None"),
    ],
)
def test_what_is_no_optimizer_is_refused(wrong, message):
    net, closure, perturbation = setting()
    before = snapshot(net)
    with pytest.raises(ConfigError, match=message) as caught:
        sam_step(closure, wrong, perturbation)
    one_line(caught)
    assert identical(snapshot(net), before)


@every_geometry
@every_mask
def test_who_watches_the_ascent_sees_eps_gradient_and_scale_on_the_mask(mask, geometry):
    net, closure, perturbation = setting(mask, geometry)
    grads, seen = grads_of(closure(), net), []
    T, on = T_of(geometry, net, grads), selected(perturbation.mask)
    with perturbed(closure, perturbation, on_ascent=seen.append):
        pass
    (found,) = seen
    assert [g.numel() for g in found.gradient] == [e.count for e in perturbation.mask.entries]
    torch.testing.assert_close(flat(found.gradient), flat(grads)[on], rtol=0, atol=0)
    assert (found.scale is None) == (geometry == "l2")
    if found.scale is not None:
        pairs = zip(found.scale, found.gradient, strict=True)
        assert torch.equal(flat([t.expand_as(g) for t, g in pairs]), T[on])


def test_a_plain_step_under_an_outer_autocast_sees_the_weights_of_now():
    net, (x, y) = small_net(norm=lambda channels: nn.Identity()), small_batch()
    with torch.autocast("cpu", torch.bfloat16):
        sam_step(closure_of(net, x, y), torch.optim.SGD(net.parameters(), lr=5.0), None)
        second = sam_step(closure_of(net, x, y), torch.optim.SGD(net.parameters(), lr=5.0), None)
    net, (x, y) = small_net(norm=lambda channels: nn.Identity()), small_batch()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            fresh = sam_step(closure_of(net, x, y), torch.optim.SGD(net.parameters(), lr=5.0), None)
    assert torch.equal(second, fresh)


@pytest.mark.parametrize("step", ["sam_step", "perturbed"])
def test_so_does_a_perturbed_step_after_a_plain_one(step):
    """Of the casts that the plain step left, and of those of a `perturbed` that moves nothing."""
    losses = []
    for around in (True, False):
        net, closure, _ = setting(dtype=torch.float32)
        perturbation = Perturbation(L2(), 0.5, masks.only_norm(net), when=Every(2))
        optimizer = torch.optim.SGD(net.parameters(), lr=5.0)

        def inside(closure=closure):
            with torch.autocast("cpu", torch.bfloat16):
                return closure()

        given, found = closure if around else inside, []
        with torch.autocast("cpu", torch.bfloat16) if around else nullcontext():
            for _ in range(4):
                if step == "sam_step":
                    found.append(sam_step(given, optimizer, perturbation))
                    continue
                with perturbed(given, perturbation) as loss:
                    optimizer.zero_grad()
                    given().backward()
                optimizer.step()
                found.append(loss)
        losses.append(torch.stack(found))
    assert torch.equal(*losses)


def test_fp16_autocast_inside_the_closure_is_refused_too():
    net, (x, y) = small_net(), small_batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def closure():
        with torch.autocast("cpu", torch.float16):
            return F.cross_entropy(net(x).float(), y)

    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ConfigError, match="fp16 autocast"):
        sam_step(closure, optimizer, Perturbation(L2(), 0.1, masks.only_norm(net)))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net._forward_pre_hooks


@pytest.mark.parametrize(
    "wrong",
    [{"geometry": "l2"}, {"mask": "only_norm"}, {"start": 1.5}, {"start": None}, {"end": True}],
    ids=str,
)
def test_a_perturbation_of_the_wrong_parts_is_refused(wrong):
    parts = {"geometry": L2(), "rho": 0.1, "mask": masks.only_norm(small_net())}
    with pytest.raises(ConfigError):
        Perturbation(**parts | wrong)


def test_a_closure_that_calls_backward_is_told_so():
    net, closure, perturbation = setting()

    def torchs():
        loss = closure()
        loss.backward()
        return loss

    with pytest.raises(ConfigError, match="must not call backward") as caught:
        sam_step(torchs, torch.optim.SGD(net.parameters(), lr=0.1), perturbation)
    one_line(caught)


def test_a_loss_in_the_place_of_the_closure_is_told_so():
    net, closure, perturbation = setting()
    for step in (perturbation, None):
        with pytest.raises(ConfigError, match="returns the loss, not a Tensor") as caught:
            sam_step(closure(), torch.optim.SGD(net.parameters(), lr=0.1), step)
        one_line(caught)
