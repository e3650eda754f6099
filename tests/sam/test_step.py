"""The step: what it moves, and by how much."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    MASK_OF,
    closure_of,
    eps_into,
    flat,
    identical,
    selected,
    small_batch,
    small_net,
    snapshot,
    some_coordinates,
)
from step_setting import (
    OPTIMIZERS,
    T_of,
    every_geometry,
    every_mask,
    every_optimizer,
    grads_of,
    setting,
)
from torch.func import functional_call

from samlib import Perturbation, masks, models, perturbed, sam_step
from samlib.sam.geometry import L2, by_name


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
