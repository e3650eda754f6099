"""SAMPa: its limits, and its preview of the optimizer's step."""

import copy

import torch
from conftest import closure_of, flat, identical, small_net
from dense_family import Dense
from member_run import BATCHES, Run, group_norm, same
from torch import nn

from samlib import geometry, masks
from samlib.sam.family import Setting, make
from samlib.sam.perturbation import Perturbation
from samlib.sam.sampa import Aux, Mix
from samlib.sam.step import perturbed, sam_step


def sampa_step(lam, rho=0.3, lr=0.1, batches=(0, 1, 2)):
    descent = Mix(lam)
    net = small_net(torch.float64, norm=group_norm)
    perturbation = Perturbation(geometry.L2(), rho, masks.only_norm(net), source=Aux())
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    kept = []
    for t in batches:
        sam_step(closure_of(net, *BATCHES[t]), optimizer, perturbation, descent=descent)
        kept.append({n: flat(v) for n, v in descent.state_dict()["tensors"].items()})
    return flat(net.parameters()), kept


def test_on_one_batch_at_rest_sampas_gradients_are_sams():
    net = small_net(torch.float64, norm=group_norm)
    closure = closure_of(net, *BATCHES[0])
    clean = flat(torch.autograd.grad(closure(), list(net.parameters())))
    with perturbed(closure, Perturbation(geometry.L2(), 0.3, masks.only_norm(net))):
        there = flat(torch.autograd.grad(closure(), list(net.parameters())))
    for kept in sampa_step(0.2, lr=0.0, batches=(0, 0, 0))[1]:
        same(kept["previewed"], clean)
        same(kept["ascended"], there)


def test_with_lambda_one_sampas_perturbation_does_not_matter():
    assert torch.equal(sampa_step(1.0, rho=0.3)[0], sampa_step(1.0, rho=5.0)[0])
    assert not torch.equal(sampa_step(0.5, rho=0.3)[0], sampa_step(0.5, rho=5.0)[0])


def test_with_lambda_one_sampa_steps_along_the_gradient_at_the_preview():
    net = small_net(torch.float64, norm=group_norm)
    dense = Dense(copy.deepcopy(net), BATCHES, masks.only_norm(net), 0.3, False)
    w, velocity, previewed = dense.w, torch.zeros_like(dense.w), None
    for t in (0, 1, 2):
        y = w if previewed is None else w - 0.1 * (0.9 * velocity + previewed)
        previewed = dense.g(y, t)
        velocity = 0.9 * velocity + previewed
        w = w - 0.1 * velocity
    same(sampa_step(1.0)[0], w)


def test_a_preview_leaves_any_optimizer_as_it_was():
    for make_one in (torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop):
        net = small_net(torch.float64, norm=group_norm)
        optimizer = make_one(net.parameters(), lr=0.01)
        step = Perturbation(geometry.L2(), 0.3, masks.only_norm(net), source=Aux())
        descent, states = Mix(0.0), []
        optimizer.register_step_post_hook(
            lambda o, *_, s=states: s.append(copy.deepcopy(o.state_dict()["state"]))
        )
        sam_step(closure_of(net, *BATCHES[0]), optimizer, step, descent=descent)
        before = copy.deepcopy(optimizer.state_dict()["state"])
        assert identical(states[-1], before)
        sam_step(closure_of(net, *BATCHES[1]), optimizer, step, descent=descent)
        counts = [s["step"].item() for s in optimizer.state_dict()["state"].values() if "step" in s]
        assert all(c == 2 for c in counts)
        assert len(states) == 3  # the first step, the preview, the second step


class CountsInItsGroup(torch.optim.SGD):
    """An optimizer that keeps its count of steps where timm's Lamb does."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return super().step(closure)


def test_a_preview_counts_for_nothing_in_the_optimizers_groups_either():
    run = Run("sampa")
    run.optimizer = CountsInItsGroup(run.net.parameters(), lr=0.1)
    run.steps(0, 1, 2, 3)
    assert run.optimizer.param_groups[0]["count"] == 4


def test_sampa_in_its_active_epochs_is_sampa():
    run, always = Run("sampa", start=1), Run("sampa")
    for each in (run, always):
        each.steps(0, 1, epoch=1)
    assert torch.equal(run.weights, always.weights)


def test_sampa_does_not_step_what_the_losses_do_not_reach():
    run = Run("sampa")
    run.net.beside = nn.Linear(2, 2, dtype=torch.float64)
    run.mask = masks.all_parameters(run.net)
    run.member = make("sampa", geometry.L2(), 0.3, run.mask, Setting())
    run.optimizer = torch.optim.SGD(run.net.parameters(), lr=0.1, weight_decay=0.1)
    before = flat(run.net.beside.parameters()).clone()
    run.steps(0, 1, 2)
    assert torch.equal(flat(run.net.beside.parameters()), before)
