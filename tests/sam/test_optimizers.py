"""Which optimizers the step works with, alone and several, and which it refuses."""

import copy

import pytest
import torch
from conftest import flat, identical, one_line, snapshot
from step_setting import setting
from timm.optim import Lion
from two_norms import ball, batch, descent_gradient, loss_of, sgd, two_norms

from samlib import masks, perturbed, sam_step
from samlib.errors import ConfigError


class Accumulating(torch.optim.Optimizer):
    """Does nothing until it is due, as accelerate's within `accumulate`."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.due = inner, inner.param_groups, False

    def zero_grad(self, set_to_none=True):
        if self.due:
            self.inner.zero_grad(set_to_none)

    def step(self, closure=None):
        if self.due:
            self.inner.step()


@pytest.mark.parametrize("held", [False, True])
def test_an_optimizer_that_accumulates_is_refused(held):
    """Also at its first micro-batch, where no gradient is held: the second of two is due."""
    net, x, y = two_norms(), *batch()
    optimizer, mask = Accumulating(sgd(net)), masks.only_norm(net)
    if held:
        loss_of(net, x, y)().backward()
    before = [(p.grad, p.detach().clone()) for p in net.parameters()]
    with pytest.raises(ConfigError, match=r"Accumulating keeps .* use `perturbed`") as caught:
        sam_step(loss_of(net, x, y), optimizer, ball(mask))
    one_line(caught)
    for p, (grad, weight) in zip(net.parameters(), before, strict=True):
        assert p.grad is grad
        assert torch.equal(p, weight)


def test_an_optimizer_that_accumulates_works_with_perturbed():
    net = two_norms()
    optimizer, mask = Accumulating(sgd(net)), masks.only_norm(net)
    batches = [batch(seed) for seed in range(4)]
    names = [e.name for e in mask.entries]
    found = [descent_gradient(net, x, y, names) for x, y in batches]
    want = {n: p.detach() - 0.1 * sum(g[n] for g in found) for n, p in net.named_parameters()}
    for i, (x, y) in enumerate(batches):
        optimizer.due = i == 3
        with perturbed(loss_of(net, x, y), ball(mask)):
            loss_of(net, x, y)().backward()
        optimizer.step()
        optimizer.zero_grad()
    for n, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), want[n], rtol=1e-10, atol=1e-12)


def test_gradients_that_are_zeroed_in_place_are_dropped():
    class InPlace(torch.optim.SGD):
        def zero_grad(self, set_to_none=False):
            super().zero_grad(set_to_none=False)

    net = two_norms()
    mask = masks.only_norm(net)
    optimizer = InPlace(net.parameters(), lr=0.0)
    for seed in range(3):
        sam_step(loss_of(net, *batch(seed)), optimizer, ball(mask))
    got = {n: p.grad for n, p in net.named_parameters()}
    want = descent_gradient(net, *batch(2), [e.name for e in mask.entries])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


O = torch.optim  # noqa: E741


OPTIMIZERS = {
    "sgd": lambda p: O.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd_foreach": lambda p: O.SGD(p, lr=0.1, foreach=True),
    "adam": lambda p: O.Adam(p, amsgrad=True),
    "adamw": lambda p: O.AdamW(p, fused=True),
    "adamax": O.Adamax,
    "nadam": O.NAdam,
    "radam": O.RAdam,
    "adagrad": O.Adagrad,
    "adadelta": O.Adadelta,
    "rmsprop": O.RMSprop,
    "asgd": O.ASGD,
    "rprop": O.Rprop,
    "adafactor": O.Adafactor,
    "lion": lambda p: Lion(p, lr=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_get_the_gradient_at_the_perturbed_weights(name):
    net = two_norms()
    mask, other = masks.only_norm(net), copy.deepcopy(net)
    ours, theirs = OPTIMIZERS[name](net.parameters()), OPTIMIZERS[name](other.parameters())
    for seed in range(2):
        gradient = descent_gradient(other, *batch(seed), [e.name for e in mask.entries])
        for n, p in other.named_parameters():
            p.grad = gradient[n]
        theirs.step()
        sam_step(loss_of(net, *batch(seed)), ours, ball(mask))
    assert not torch.equal(flat(net.parameters()), flat(two_norms().parameters()))
    torch.testing.assert_close(
        flat(net.parameters()), flat(other.parameters()), rtol=1e-8, atol=1e-10
    )


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


def test_two_optimizers_share_the_parameters():
    net, other = two_norms(), two_norms()
    of_matrices = getattr(O, "Muon", O.Adagrad)  # PyTorch 2.9 brings Muon

    def both(net):
        matrices = [p for p in net.parameters() if p.ndim == 2]
        vectors = [p for p in net.parameters() if p.ndim != 2]
        return [of_matrices(matrices, lr=0.02), O.AdamW(vectors, lr=1e-3)]

    gradient = descent_gradient(other, *batch(), [e.name for e in masks.only_norm(other).entries])
    for n, p in other.named_parameters():
        p.grad = gradient[n]
    for each in both(other):
        each.step()
    sam_step(loss_of(net, *batch()), both(net), ball(masks.only_norm(net)))
    torch.testing.assert_close(
        flat(net.parameters()), flat(other.parameters()), rtol=1e-6, atol=1e-8
    )


def test_one_parameter_in_two_optimizers_is_refused():
    net = two_norms()
    optimizers = [sgd(net), torch.optim.Adam(net[5].parameters())]
    with pytest.raises(ConfigError, match="hold the same parameter") as caught:
        sam_step(loss_of(net, *batch()), optimizers, ball(masks.only_norm(net)))
    one_line(caught)


@pytest.mark.parametrize("perturb", [True, False])
def test_an_optimizer_that_runs_the_closure_itself_is_refused(perturb):
    net, closure, perturbation = setting()
    before = snapshot(net)
    with pytest.raises(ConfigError, match="LBFGS runs the closure") as caught:
        sam_step(closure, torch.optim.LBFGS(net.parameters()), perturbation if perturb else None)
    one_line(caught)
    assert identical(snapshot(net), before)


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


def test_an_optimizers_class_is_no_optimizer():
    net, (x, y) = two_norms(), batch()
    with pytest.raises(ConfigError, match=r"must be a torch\.optim\.Optimizer, not <class") as e:
        sam_step(loss_of(net, x, y), torch.optim.SGD, ball(masks.only_norm(net)))
    one_line(e)
