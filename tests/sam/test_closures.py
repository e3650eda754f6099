"""Closures that are not what they should be, and unusual ones that are."""

import pytest
import torch
import torch.nn.functional as F
from conftest import identical, one_line, snapshot
from step_setting import OPTIMIZERS, setting
from torch.func import functional_call
from two_norms import RHO, ball, batch, loss_of, sgd, steps, two_norms

from samlib import masks, sam_step
from samlib.errors import ConfigError


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


def test_a_closure_that_calls_backward_is_told_so():
    net, closure, perturbation = setting()

    def torchs():
        loss = closure()
        loss.backward()
        return loss

    with pytest.raises(ConfigError, match="must not call backward") as caught:
        sam_step(torchs, torch.optim.SGD(net.parameters(), lr=0.1), perturbation)
    one_line(caught)


@pytest.mark.parametrize("leave", ["retain", "zero"])
def test_a_closure_with_a_backward_pass_of_its_own_is_refused(leave):
    """The closure that LBFGS takes; a graph that is kept would be walked twice without an error."""
    net, x, y = two_norms(), *batch()
    optimizer = sgd(net)

    def closure():
        if leave == "zero":
            optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward(retain_graph=True)
        return loss

    before = snapshot(net)
    with pytest.raises(ConfigError, match="must not call backward") as caught:
        sam_step(closure, optimizer, ball(masks.only_norm(net)))
    one_line(caught)
    with pytest.raises(ConfigError, match="must not call backward"):
        sam_step(closure, optimizer, ball(masks.only_norm(net), start=3), epoch=0)
    assert identical(snapshot(net), before)


def test_a_closure_with_a_backward_pass_of_a_part_is_refused():
    """Of what no mask holds, and between the first weight and the last one."""
    net, x, y = two_norms(), *batch()
    hidden = net[:3](x).detach()

    def closure():
        net[3](hidden).square().mean().backward()
        return F.cross_entropy(net(x), y)

    for make in (masks.only_norm, masks.no_norm):
        with pytest.raises(ConfigError, match="must not call backward"):
            sam_step(closure, sgd(net), ball(make(net)))
        with pytest.raises(ConfigError, match="must not call backward"):
            next(steps(closure, make(net)))


def test_a_closure_may_take_a_gradient_of_a_gradient():
    """A gradient penalty, as of WGAN-GP."""
    net, x, y = two_norms(), *batch()
    mask = masks.only_norm(net)

    def penalized(call):
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(call(at).sum(), at, create_graph=True)
        return F.cross_entropy(call(x), y) + ((slope.norm(dim=1) - 1) ** 2).mean()

    def gradient(weights):
        weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        loss = penalized(lambda z: functional_call(net, weights, (z,)))
        found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        return dict(zip(weights, found, strict=True))

    weights, names = dict(net.named_parameters()), [e.name for e in mask.entries]
    first = gradient(weights)
    length = torch.cat([first[n] for n in names]).norm()
    away = {n: w + RHO * first[n] / length if n in names else w for n, w in weights.items()}
    slope = gradient(away)
    want = {n: w.detach() - 0.1 * slope[n] for n, w in weights.items()}
    sam_step(lambda: penalized(net), sgd(net), ball(mask))
    torch.testing.assert_close(dict(net.named_parameters()), want, rtol=1e-10, atol=1e-12)


def test_no_gradient_in_inference_mode_is_told_so():
    net = two_norms()
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"torch\.inference_mode takes"):
        sam_step(loss_of(net, *batch()), sgd(net), ball(masks.only_norm(net)))


def test_a_loss_in_the_place_of_the_closure_is_told_so():
    net, closure, perturbation = setting()
    for step in (perturbation, None):
        with pytest.raises(ConfigError, match="returns the loss, not a Tensor") as caught:
            sam_step(closure(), torch.optim.SGD(net.parameters(), lr=0.1), step)
        one_line(caught)


@pytest.mark.parametrize("make", [masks.only_norm, masks.all_parameters])
def test_a_loss_of_an_earlier_forward_pass_is_told_so(make):
    net = two_norms()
    loss = loss_of(net, *batch())()
    before = snapshot(net)
    with pytest.raises(ConfigError, match=r"earlier forward pass|must not call backward") as caught:
        sam_step(lambda: loss, sgd(net), ball(make(net)))
    one_line(caught)
    assert identical(snapshot(net), before)


def test_logits_of_an_earlier_forward_pass_are_told_so_in_a_plain_step():
    net, (x, y) = two_norms(), batch()
    logits = net(x)
    closure = lambda: F.cross_entropy(logits, y)  # noqa: E731
    sam_step(closure, sgd(net), None)
    with pytest.raises(ConfigError, match="have it run the forward pass anew") as caught:
        sam_step(closure, sgd(net), None)
    one_line(caught)


def test_a_loss_that_a_scaler_multiplied_is_refused_and_others_are_not():
    net, (x, y) = two_norms(), batch()
    scaler, half = torch.amp.GradScaler("cpu"), torch.tensor(0.5)
    off = torch.amp.GradScaler("cpu", enabled=False)
    before = snapshot(net)
    with pytest.raises(ConfigError, match="multiplied by a GradScaler") as caught:
        sam_step(lambda: scaler.scale(loss_of(net, x, y)()), sgd(net), ball(masks.only_norm(net)))
    one_line(caught)
    assert identical(snapshot(net), before)
    for closure in (
        lambda: loss_of(net, x, y)() * half,
        lambda: off.scale(loss_of(net, x, y)()),
    ):
        sam_step(closure, sgd(net), ball(masks.only_norm(net)))


def test_a_closure_that_wants_arguments_is_told_so_and_its_own_errors_pass():
    net, (x, y) = two_norms(), batch()
    for step in (ball(masks.only_norm(net)), None):
        with pytest.raises(ConfigError, match=r"called without arguments .*'inputs'") as caught:
            sam_step(lambda inputs: loss_of(net, inputs, y)(), sgd(net), step)
        one_line(caught)
        with pytest.raises(TypeError, match="unsupported operand"):
            sam_step(lambda: loss_of(net, x, y)() + "1", sgd(net), step)
