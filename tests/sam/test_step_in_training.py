"""The step in a training loop: accumulation, epochs, schedules, clipping, nesting."""

import copy

import pytest
import torch
from conftest import closure_of, flat, one_line, small_batch, small_net, some_coordinates
from step_setting import OPTIMIZERS, grads_of, setting
from torch import nn
from two_norms import ball, batch, loss_of, sgd, two_norms

from samlib import Perturbation, masks, perturbed, sam_step
from samlib.errors import ConfigError
from samlib.sam.geometry import L2, by_name


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


@pytest.mark.parametrize("options", [{"start": 150}, {"end": 3}])
def test_active_epochs_want_an_epoch(options):
    net = two_norms()
    late = ball(masks.only_norm(net), **options)
    with pytest.raises(ConfigError, match="say which epoch it is") as caught:
        sam_step(loss_of(net, *batch()), sgd(net), late)
    one_line(caught)
    with pytest.raises(ConfigError, match="say which epoch"), perturbed(lambda: 0, late):
        pass
    gamma = net[1].weight.detach().clone()
    with perturbed(loss_of(net, *batch()), late, plan=late.plan(5)):
        assert torch.equal(net[1].weight, gamma)
    with perturbed(loss_of(net, *batch()), late, plan=late.plan(options.get("start", 0))):
        assert not torch.equal(net[1].weight, gamma)


def test_an_epoch_that_is_no_number_is_refused():
    late = ball(masks.only_norm(two_norms()), start=1)
    with pytest.raises(ConfigError, match="epoch must be a number, not '3'") as caught:
        late.plan("3")
    one_line(caught)
    assert [late.plan(e).active for e in (0, 0.5, 1, 1.5, torch.tensor(2))] == [0, 0, 1, 1, 1]


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
