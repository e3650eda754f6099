"""Parts of the family by themselves: limits that are SAM or the base, invariants, formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    MASK_OF,
    closure_of,
    flat,
    identical,
    one_line,
    selected,
    small_net,
    some_coordinates,
)
from dense_family import Dense, normal, turned
from member_run import BATCHES, Run, group_norm, same, stepped
from torch import nn

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam import family, source
from samlib.sam.controls import Felt, Penalty
from samlib.sam.descent import Descent, Hardest, Reuse, Subtract
from samlib.sam.family import MEMBERS, Setting, make
from samlib.sam.masks.sparse import random
from samlib.sam.masks.ssam import dynamic
from samlib.sam.perturbation import Perturbation
from samlib.sam.radius import Radius
from samlib.sam.sampa import Aux, Mix
from samlib.sam.step import perturbed, sam_step
from samlib.sam.when import Adaptive, Every, Sometimes


@pytest.mark.parametrize(
    "parts",
    [
        {"source": lambda: source.Mean(theta=1.0)},
        {"source": lambda: source.Residual(sigma=0.0)},
        {"source": lambda: source.Eigen(alpha=0.0), "radius": Radius(free=True)},
        {"when": lambda: Every(1)},
        {"when": lambda: Sometimes(1.0)},
        {"when": lambda: Adaptive(10, early=-float("inf"), late=-float("inf"))},
        {"radius": Radius(follows="lr", largest_lr=0.1)},
        {"radius": Radius(follows="sqrt_lr", largest_lr=0.1)},
    ],
)
def test_limits_that_are_sam(parts):
    parts = {k: v() if callable(v) else v for k, v in parts.items()}
    exact = type(parts.get("source")) not in (source.Mean, source.Eigen)
    same(stepped(0, 1, 2, **parts)[0], stepped(0, 1, 2)[0], atol=0 if exact else 1e-12)


@pytest.mark.parametrize("descent", [Subtract(alpha=0.0), Hardest(gamma=1.0)], ids=lambda d: d.name)
def test_descents_whose_limit_is_sam(descent):
    if descent.per_example:
        one = Run("esam")
        one.member.descent.gamma = 1.0
        same(one.steps(0, 1, 2).weights, Run("sam").steps(0, 1, 2).weights)
    else:
        same(stepped(0, 1, 2, descent=descent)[0], stepped(0, 1, 2)[0], atol=0)


@pytest.mark.parametrize(
    "when",
    [Sometimes(0.0), Adaptive(10, early=float("inf"), late=float("inf"))],
    ids=lambda w: w.name,
)
def test_limits_that_are_the_base_optimizer(when):
    assert torch.equal(stepped(0, 1, 2, when=when)[0], stepped(0, 1, 2, rho=0.0)[0])


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


def choosing(net):
    """A mask that chooses other coordinates inside its first step."""
    mask = dynamic(net, sparsity=0.5, epochs=2, every=1)
    mask.begin_epoch(0, None)
    return mask


@pytest.mark.parametrize("mask", [some_coordinates, choosing])
@pytest.mark.parametrize("by", ["mask", "others"])
def test_who_feels_the_perturbed_gradient_is_one_side_of_the_mask(by, mask):
    found = {}
    for name, rho, descent in (("g", 0.0, None), ("there", 0.3, None), ("u", 0.3, Felt(by))):
        net = small_net(torch.float64, norm=group_norm)
        perturbation = Perturbation(geometry.L2(), rho, mask(net))
        on = selected(perturbation.mask)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        options = {} if descent is None else {"descent": descent}
        sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, **options)
        found[name] = flat(p.grad for p in net.parameters())
    felt = on if by == "mask" else ~on
    same(found["u"], torch.where(felt, found["there"], found["g"]))
    assert not torch.equal(found["there"][felt], found["g"][felt])


def test_what_looksam_keeps_of_coordinates_that_are_left_is_forgotten():
    run, plain = Run("looksam_mask", choosing), Run("sam")
    run.steps(0)
    plain.net.load_state_dict(run.net.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    sam_step(plain.closure(1), plain.optimizer, None)
    assert torch.equal(run.steps(1).weights, plain.weights)


def test_the_penalty_is_what_sam_adds_to_the_gradient_to_first_order():
    """(g~ - g) / rho and (u - g) / rho differ by O(rho), on all parameters."""
    found = {}
    for rho in (1e-5, 0.0):
        for descent in (Descent(), Penalty()):
            net = small_net(torch.float64, norm=group_norm)
            perturbation = Perturbation(geometry.L2(), rho, masks.only_norm(net))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=descent)
            found[rho, descent.name] = flat(p.grad for p in net.parameters())
    g = found[0.0, "Descent"]
    same(found[0.0, "Penalty"], g)
    added = {name: (found[1e-5, name] - g) / 1e-5 for name in ("Descent", "Penalty")}
    same(added["Penalty"], added["Descent"], atol=1e-4 * added["Descent"].abs().max().item())
    assert added["Penalty"].abs().max() > 1e-3


def test_a_penalty_takes_sams_own_step_only():
    net = small_net(torch.float64, norm=group_norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for parts, said in (
        ({"source": source.Last()}, "not Last and When"),
        ({"when": Every(2)}, "not Gradient and Every"),
        ({"radius_over": "all"}, "radius_over 'mask'"),
    ):
        perturbation = Perturbation(geometry.L2(), 0.3, masks.only_norm(net), **parts)
        with pytest.raises(ConfigError, match=said) as caught:
            sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=Penalty())
        one_line(caught)


def test_a_penalty_wants_a_gradient_on_its_mask_as_sam_does():
    net = small_net(torch.float64, norm=group_norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    perturbation = Perturbation(geometry.L2(), 0.3, masks.only_norm(net))
    with pytest.raises(ConfigError, match="no gradient in any parameter of the mask") as caught:
        sam_step(lambda: net.fc.weight.sum(), optimizer, perturbation, descent=Penalty())
    one_line(caught)
    net.norm1.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match="was frozen after its mask was made"):
        sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=Penalty())


def test_a_penalty_of_several_workers_is_on_their_common_gradient():
    found = []
    for average in (None, lambda grads: torch._foreach_mul_(grads, -1.0)):
        net = small_net(torch.float64, norm=group_norm)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        perturbation = Perturbation(geometry.L2(), 0.3, masks.only_norm(net), average=average)
        g = flat(torch.autograd.grad(closure_of(net, *BATCHES[0])(), list(net.parameters())))
        sam_step(closure_of(net, *BATCHES[0]), optimizer, perturbation, descent=Penalty())
        found.append(flat(p.grad for p in net.parameters()) - g)
    same(found[0], -found[1])
    assert found[0].norm() > 0.01


def test_what_a_member_keeps_under_a_mask_is_four_or_eight_bytes_a_coordinate():
    net = small_net()  # 20 of its parameters are gamma and beta
    total = sum(p.numel() for p in net.parameters())
    on, everything = masks.only_norm(net), masks.all_parameters(net)
    sizes = {n: (family.kept(n, on), family.kept(n, everything)) for n in MEMBERS}
    assert sizes["sam"] == sizes["msam"] == (0, 0)
    assert sizes["last"] == sizes["vasso"] == (4 * 20, 4 * total)
    assert sizes["lesam"] == (8 * 20, 8 * total)
    assert sizes["looksam"] == (4 * total, 4 * total)
    assert sizes["looksam_mask"] == (4 * 20, 4 * total)
    with pytest.raises(ConfigError, match="unknown member"):
        family.kept("nobody", on)


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


def test_on_one_batch_at_rest_the_mean_is_sam_and_the_residual_nothing():
    eps = {
        name: stepped(0, 0, 0, 0, lr=0.0, source=kind())[1]
        for name, kind in (("mean", source.Mean), ("residual", source.Residual))
    }
    sams = stepped(0, lr=0.0)[1][0]
    assert all(torch.equal(e, sams) for e in eps["mean"])
    assert torch.equal(eps["residual"][0], sams)
    assert all((e == 0).all() for e in eps["residual"][1:])


def test_on_one_batch_at_rest_async_sam_is_sam_from_the_second_step_on():
    none, *rest = stepped(0, 0, 0, lr=0.0, source=source.LastClean())[1]
    assert (none == 0).all()
    assert all(torch.equal(e, stepped(0, lr=0.0)[1][0]) for e in rest)


@pytest.mark.parametrize("sign", [-1, 1])
def test_without_momentum_msam_is_the_last_gradient_with_its_sign(sign):
    bare = lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.0, 0.999))  # noqa: E731
    _, up = stepped(0, 1, optimizer=bare, source=source.Last())
    _, mine = stepped(0, 1, optimizer=bare, source=source.Momentum(sign))
    assert mine[0] is None
    same(mine[1], sign * up[1])


def test_adam_and_lion_show_their_first_moment():
    from timm.optim import Lion

    for make_one in (torch.optim.AdamW, Lion):
        eps = stepped(
            0, 1, optimizer=lambda p, m=make_one: m(p, lr=1e-2), source=source.Momentum()
        )[1]
        assert eps[1].norm().item() == pytest.approx(0.3)


def test_one_step_of_plain_descent_drifts_along_its_gradient():
    bare = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    last = stepped(0, 1, 2, optimizer=bare, source=source.Last())
    drift = stepped(0, 1, 2, optimizer=bare, source=source.Drift())
    same(drift[0], last[0], atol=1e-11)
    same(drift[1][2], last[1][2], atol=1e-11)


def test_a_drift_of_one_step_on_sgd_is_its_momentum():
    drift = stepped(0, 1, 2, source=source.Drift())
    same(drift[0], stepped(0, 1, 2, source=source.Momentum(1))[0], atol=1e-11)


def test_a_longer_round_drifts_by_its_whole_way_until_the_next():
    net = small_net(torch.float64, norm=group_norm)
    perturbation = Perturbation(
        geometry.L2(), 0.3, masks.all_parameters(net), source=source.Drift(every=2)
    )
    optimizer, at, eps = torch.optim.SGD(net.parameters(), lr=0.1), [], []
    for t in range(6):
        at.append(flat(net.parameters()).clone())
        watch = lambda found: eps.append(flat(found.eps))  # noqa: E731
        sam_step(closure_of(net, *BATCHES[t]), optimizer, perturbation, on_ascent=watch)
    assert (eps[0] == 0).all()
    assert (eps[1] == 0).all()
    for t, way in ((2, at[2] - at[0]), (3, at[2] - at[0]), (4, at[4] - at[2]), (5, at[4] - at[2])):
        same(eps[t], -0.3 * way / way.norm(), atol=1e-11)


def test_coordinates_that_are_chosen_anew_within_a_round_drift_from_there():
    net = small_net(torch.float64, norm=group_norm)
    mask = random(net, count=40, seed=0, redraw=True)
    step = Perturbation(geometry.L2(), 0.3, mask, source=source.Drift(every=3, sign=1))
    optimizer, at, found = torch.optim.SGD(net.parameters(), lr=0.1), [], []
    for t in range(4):
        if t == 1:
            mask.begin_epoch(1, None)
        at.append(flat(net.parameters()).clone())
        sam_step(closure_of(net, *BATCHES[t]), optimizer, step, on_ascent=found.append)
    assert all((flat(f.eps) == 0).all() for f in found[:3])
    way = (at[3] - at[1])[selected(mask)]
    same(flat(found[3].eps), 0.3 * way / way.norm(), atol=1e-11)


def test_eigen_sam_has_the_length_of_its_formula_and_turns_by_nothing_where_v_is_g():
    net = small_net(torch.float64, norm=group_norm)
    mask, eigen = masks.only_norm(net), source.Eigen(alpha=0.5)
    g = [t * 2.0 for t in (e.parameter.detach().clone() for e in mask.entries)]
    eigen.held(mask.entries, "v")
    draw = torch.Generator().manual_seed(5)
    v = [torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in g]
    norm = flat(v).norm()
    torch._foreach_copy_(eigen.held(mask.entries, "v"), [t / norm for t in v])
    cos = (flat(v) @ flat(g) / norm / flat(g).norm()).item()
    d = flat(eigen.direction(mask, g, ()))
    assert d.norm().item() == pytest.approx((1 + 0.25 * (1 - cos**2)) ** 0.5)
    torch._foreach_copy_(eigen.held(mask.entries, "v"), [t / flat(g).norm() for t in g])
    same(flat(eigen.direction(mask, g, ())), flat(g) / flat(g).norm())


def test_eigen_sam_measures_in_evaluation_mode():
    net = small_net(torch.float64)
    evaluated, trained = copy.deepcopy(net).eval(), copy.deepcopy(net)
    mask, eigen = masks.only_norm(net), source.Eigen()
    step = Perturbation(geometry.L2(), 0.3, mask, source=eigen, radius=Radius(free=True))
    sam_step(closure_of(net, *BATCHES[0]), torch.optim.SGD(net.parameters(), lr=0.1), step)
    v = flat(eigen.held(mask.entries, "v"))
    found = []
    for model in (evaluated, trained):
        reference = Dense(model, BATCHES, masks.only_norm(model), 0.3, False)
        found.append(turned(reference, 0, normal(reference))[reference.on])
    same(v, found[0], atol=1e-11)
    assert (v @ found[1]).abs() < 0.99
    assert all(m.training for m in net.modules())


def test_a_zero_direction_moves_nothing():
    nothing = [torch.zeros(3), torch.zeros(2, 2)]
    for shape in ("l2", "elementwise_l2", "elementwise_linf", "layerwise_l2", "fisher"):
        where = geometry.by_name(shape)
        weights = [torch.ones(3), torch.ones(2, 2)]
        eps = where.eps(0.3, where.T(["weight"] * 2, weights, nothing), nothing)
        assert all((e == 0).all() for e in eps)


# --- OBF -----------------------------------------------------------------------------------------


def test_obf_with_a_of_one_is_minus_the_cross_entropy_to_the_uniform():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0])
    forget = source.obf(logits, labels, lam=0.0, probabilities="softmax")  # lam 0: a = 1
    got = torch.autograd.grad(forget, logits)[0]
    uniform = torch.full_like(logits, 0.25)
    expected = torch.autograd.grad(-F.cross_entropy(logits, uniform), logits)[0]
    same(got, expected)


def test_obf_at_the_uniform_has_no_gradient():
    logits = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    forget = source.obf(logits, torch.tensor([0, 1, 2]), lam=0.0, probabilities="softmax")
    same(torch.autograd.grad(forget, logits)[0], torch.zeros(3, 4, dtype=torch.float64))


def test_obf_with_a_of_zero_raises_the_mean_logit_over_the_true_one():
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    true = logits.gather(1, labels[:, None])[:, 0]
    assert source.obf(logits, labels, gamma=0.0).item() == pytest.approx(
        (logits.mean(1) - true).mean().item()
    )


def test_obf_takes_no_other_probabilities_than_it_names():
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(ConfigError, match="unknown probabilities 'Sigmoid'") as caught:
        source.obf(logits, labels, probabilities="Sigmoid")
    one_line(caught)
    with pytest.raises(ConfigError, match="lam must be a number"):
        source.obf(logits, labels, lam=1.0)


def test_the_members_options_reach_what_it_ascends():
    run = Run("obf", lam=0.1, gamma=0.5, probabilities="softmax")
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    _, ascended = family.losses(run.member, logits, labels)
    expected = source.obf(logits, labels, lam=0.1, gamma=0.5, probabilities="softmax")
    assert torch.equal(ascended, expected)
    assert not torch.equal(ascended, source.obf(logits, labels))


def test_another_loss_that_is_the_same_is_sam():
    net = small_net(torch.float64, norm=group_norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net), source=source.OtherLoss())
    for t in (0, 1):
        closure = closure_of(net, *BATCHES[t])
        sam_step(lambda c=closure: (loss := c(), loss), optimizer, step)
    assert torch.equal(flat(net.parameters()), stepped(0, 1)[0])


# --- SAMPa, ESAM ---------------------------------------------------------------------------------


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


def test_a_source_that_renews_itself_does_so_in_perturbed_steps_alone():
    renewed = []

    class Watched(source.Eigen):
        def refresh(self, *given):
            renewed.append(self.steps)
            super().refresh(*given)

    net = small_net(torch.float64, norm=group_norm)
    step = Perturbation(
        geometry.L2(),
        0.3,
        masks.only_norm(net),
        source=Watched(every=2),
        radius=Radius(free=True),
        when=Every(2),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for t in (0, 1, 2, 3, 4, 5, 0, 1):
        sam_step(closure_of(net, *BATCHES[t]), optimizer, step)
    assert len(renewed) == 2  # steps 0 and 4, of the perturbed 0, 2, 4, 6


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
