"""Every member of the family: its rule, its promises, its state, and what it is refused with."""

import copy
import io
from dataclasses import replace

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
    small_batch,
    small_net,
    some_coordinates,
)
from dense_family import MEMBERS as DENSE
from dense_family import Dense
from torch import nn

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam import family, source
from samlib.sam.around import Slow, Stretch
from samlib.sam.descent import Descent, Hardest, Reuse, Subtract
from samlib.sam.family import MEMBERS, Setting, make
from samlib.sam.felt import Felt
from samlib.sam.masks.sparse import random
from samlib.sam.masks.ssam import dynamic
from samlib.sam.penalty import Penalty
from samlib.sam.perturbation import Perturbation
from samlib.sam.radius import Radius
from samlib.sam.sampa import Aux, Mix
from samlib.sam.step import perturbed, sam_step
from samlib.sam.when import Adaptive, Every, Sometimes

every_member = pytest.mark.parametrize("name", MEMBERS)
SPOTS = [("all", "l2"), ("only_norm", "elementwise_l2"), ("coordinates", "elementwise_l2")]
BATCHES = [small_batch(torch.float64, seed=s) for s in range(1, 7)]
ONE_PASS = [name for name, member in MEMBERS.items() if member.passes == "1"]


def group_norm(channels):
    return nn.GroupNorm(2, channels)


class Run:
    """A small network, its optimizer and a member of the family."""

    def __init__(self, name, mask="all", shape="l2", rho=0.3, norm=group_norm, **options):
        self.net = small_net(torch.float64, norm=norm)
        self.mask = MASK_OF[mask](self.net) if isinstance(mask, str) else mask(self.net)
        setting = Setting(lr=0.1, steps=8, epochs=4, logits=lambda: self.net(BATCHES[0][0]))
        where = geometry.by_name(shape)
        self.member = make(name, where, rho, self.mask, setting, **options)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        self.calls = 0

    def closure(self, t):
        x, y = BATCHES[t]

        def closure():
            self.calls += 1
            logits = self.net(x)
            each = self.member.descent.per_example
            loss = F.cross_entropy(logits, y, reduction="none" if each else "mean")
            other = self.member.perturbation.source.other_loss
            return (loss, source.obf(logits, y)) if other else loss

        return closure

    def steps(self, *batches, **options):
        for t in batches:
            self.member(self.closure(t), self.optimizer, **options)
        return self

    @property
    def weights(self):
        return flat(self.net.parameters())


# --- what each member computes -------------------------------------------------------------------


def test_there_is_a_dense_reference_for_every_member():
    assert DENSE.keys() == MEMBERS.keys()


@every_member
@pytest.mark.parametrize(("mask", "shape"), SPOTS)
def test_steps_are_those_of_the_dense_rule(name, mask, shape):
    run = Run(name, mask, shape)
    start = run.weights.clone()
    reference = Dense(copy.deepcopy(run.net), BATCHES, run.mask, 0.3, shape != "l2")
    DENSE[name](reference, 4)
    run.steps(0, 1, 2, 3)
    assert (run.weights - start).abs().max() > 0.05
    torch.testing.assert_close(run.weights, reference.w, rtol=0, atol=1e-11)


@every_member
@pytest.mark.parametrize(("mask", "shape"), SPOTS)
def test_what_every_member_keeps(name, mask, shape):
    """eps is 0 off the mask, ||T^-1 eps|| = rho in a ball, and the weights come back."""
    run = Run(name, mask, shape)
    on, where = selected(run.mask), run.mask.entries
    run.steps(0, 1)
    seen, before = [], run.weights.clone()

    def watch(found):
        T = found.scale or [torch.ones((), dtype=torch.float64)] * len(found.eps)
        moved = flat(run.net.parameters())
        seen.append((flat([e / t for e, t in zip(found.eps, T, strict=True)]), moved))

    run.optimizer.param_groups[0]["lr"] = 0.0  # what the step leaves is what it puts back
    ball = not run.member.perturbation.radius.free
    rho = run.member.perturbation.radius.rho(0.3, [run.optimizer])
    steps = 0
    while not seen and steps < 12:
        run.steps(2 + steps % 3, on_ascent=watch)
        steps += 1
    length, moved = seen[0]
    assert len(where) == len(run.mask.entries)
    assert torch.equal(run.weights, before)
    assert torch.equal(moved[~on], before[~on])
    if ball:
        assert length.norm().item() == pytest.approx(rho, rel=1e-9)
    if rho and name != "penalty":  # a radius tied to a learning rate of zero is zero
        assert (moved != before)[on].double().mean() > 0.5


@pytest.mark.parametrize("name", ONE_PASS)
def test_a_step_of_one_pass_calls_the_closure_once(name):
    run = Run(name, "only_norm").steps(0, 1, 2)
    assert run.calls == 3


@pytest.mark.parametrize(
    ("name", "calls"), [("sam", 2), ("vasso", 2), ("lookbehind", 4), ("sampa", 2)]
)
def test_the_others_call_it_as_often_as_they_say(name, calls):
    run = Run(name, "only_norm").steps(0, 1, 2)
    assert run.calls == 3 * calls
    assert MEMBERS[name].passes == str(calls)


def test_an_adaptive_step_that_is_not_perturbed_is_one_forward_pass():
    run = Run("ae_sam", "only_norm")
    run.member.perturbation.when.early = run.member.perturbation.when.late = float("inf")
    assert run.steps(0, 1, 2).calls == 3


@pytest.mark.parametrize("name", ["last", "msam", "async_sam"])
def test_the_first_step_without_state_is_the_base_optimizers_and_says_so(name):
    run, plain = Run(name), Run("sam")
    assert not run.member.perturbation.ready
    run.steps(0)
    sam_step(plain.closure(0), plain.optimizer, None)
    assert torch.equal(run.weights, plain.weights)
    run.steps(1)
    assert run.member.perturbation.ready
    sam_step(plain.closure(1), plain.optimizer, None)
    assert not torch.equal(run.weights, plain.weights)


# --- state ---------------------------------------------------------------------------------------


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@every_member
@pytest.mark.parametrize("mask", ["only_norm", "coordinates"])
def test_a_resumed_member_goes_on_as_if_nothing_had_been(name, mask):
    whole, first, second = (Run(name, mask) for _ in range(3))
    whole.steps(0, 1, 2, 3, 4)
    first.steps(0, 1)
    state = through_a_file(
        [first.net.state_dict(), first.optimizer.state_dict(), first.member.state_dict()]
    )
    second.net.load_state_dict(state[0])
    second.optimizer.load_state_dict(state[1])
    second.member.load_state_dict(state[2])
    assert identical(second.member.state_dict(), state[2])  # before a step knows the mask, too
    second.steps(2, 3, 4)
    assert torch.equal(second.weights, whole.weights)
    assert identical(second.member.state_dict(), whole.member.state_dict())


@every_member
def test_state_lives_on_the_mask_alone(name):
    """All that shapes the perturbation; what feeds the descent may be as large as the network."""
    run = Run(name, "only_norm").steps(0, 1)
    held = run.member.perturbation.source.state_dict().get("tensors", {})
    for tensors in held.values():
        assert sum(t.numel() for t in tensors) == run.mask.count


def redrawn(net):
    return random(net, count=40, seed=0, redraw=True)


@pytest.mark.parametrize("name", ["last", "vasso", "fsam", "lesam", "async_sam", "eigen_sam"])
def test_other_coordinates_start_anew(name):
    run, fresh = Run(name, redrawn), Run(name, redrawn)
    run.steps(0, 1)
    for each in (run, fresh):
        each.mask.begin_epoch(1, None)
    fresh.net.load_state_dict(run.net.state_dict())
    fresh.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    if name == "eigen_sam":
        generator = run.member.perturbation.source.generator.get_state()
        fresh.member.perturbation.source.generator.set_state(generator)
    run.steps(2, 3)
    fresh.steps(2, 3)
    assert torch.equal(run.weights, fresh.weights)


def test_what_a_state_is_of_is_checked():
    state = Run("vasso").steps(0).member.state_dict()
    with pytest.raises(ConfigError, match="of member vasso, this one is fsam") as caught:
        Run("fsam").member.load_state_dict(state)
    one_line(caught)
    with pytest.raises(ConfigError, match="of source Mean, this one is Residual") as caught:
        Run("fsam").member.perturbation.load_state_dict(state["perturbation"])
    one_line(caught)
    other = Run("vasso", "only_norm")
    with pytest.raises(ConfigError, match="the state of Mean is over other coordinates") as caught:
        other.member.load_state_dict(state)
    one_line(caught)


STATEFUL = [
    "last",
    "vasso",
    "fsam",
    "lesam",
    "async_sam",
    "eigen_sam",
    "looksam_mask",
    "random_sam",
]


@pytest.mark.parametrize("name", STATEFUL)
def test_coordinates_that_change_right_after_a_resume_start_anew_as_without_one(name):
    def one_weight(net):  # so that states over any coordinates have equal shapes
        for parameter in net.parameters():
            parameter.requires_grad_(parameter is net.conv2.weight)
        return redrawn(net)

    whole, resumed = Run(name, one_weight).steps(0, 1), Run(name, one_weight)
    for part in ("net", "optimizer", "member"):
        state = copy.deepcopy(getattr(whole, part).state_dict())
        getattr(resumed, part).load_state_dict(state)
    for each in (whole, resumed):
        each.mask.begin_epoch(1, None)
        each.steps(2, 3)
    assert torch.equal(whole.weights, resumed.weights)


@pytest.mark.parametrize("name", ["vasso", "fsam", "lesam", "looksam", "sampa"])
def test_a_state_from_before_the_first_step_forgets_what_came_since(name):
    run, fresh = Run(name), Run(name)
    before = [copy.deepcopy(part.state_dict()) for part in (run.net, run.optimizer, run.member)]
    run.steps(0, 1)
    for part, state in zip((run.net, run.optimizer, run.member), before, strict=True):
        part.load_state_dict(state)
    assert torch.equal(run.steps(2, 3).weights, fresh.steps(2, 3).weights)


class OnAGpu:
    """A generator's state as `torch.load(map_location="cuda")` gives it: of no use until copied."""

    def __init__(self, state):
        self.state = state

    def cpu(self):
        return self.state


@pytest.mark.parametrize("name", ["random_sam", "ss_sam", "ire"])
def test_a_generators_state_is_taken_from_whatever_device(name):
    run, resumed = (Run(name, redrawn) for _ in range(2))
    state = run.steps(0, 1).member.state_dict()

    def moved(value):
        if isinstance(value, dict):
            return {k: OnAGpu(v) if k == "generator" else moved(v) for k, v in value.items()}
        return value

    resumed.member.load_state_dict(moved(state))
    assert identical(resumed.member.state_dict(), state)


@pytest.mark.parametrize("name", ["gsam", "looksam", "felt_by_mask", "sampa", "last"])
def test_a_gradient_that_nobody_drops_is_named(name):
    run = Run(name)
    run.optimizer = torch.optim.SGD(run.net.fc.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"conv1\.weight is trainable and in none of") as caught:
        run.steps(0)
    one_line(caught)


# --- oracles -------------------------------------------------------------------------------------


def stepped(*batches, lr=0.1, optimizer=None, descent=None, around=sam_step, **parts):
    """Weights after steps with a perturbation of these parts, and the perturbation."""
    net = small_net(torch.float64, norm=group_norm)
    mask = parts.pop("mask", masks.all_parameters)(net)
    perturbation = Perturbation(geometry.L2(), parts.pop("rho", 0.3), mask, **parts)
    if optimizer is None:
        opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    else:
        opt = optimizer(net.parameters())
    options = {} if descent is None else {"descent": descent}
    eps = []
    for t in batches:
        seen = []
        watch = lambda found, seen=seen: seen.append([e.clone() for e in found.eps])  # noqa: E731
        around(closure_of(net, *BATCHES[t]), opt, perturbation, on_ascent=watch, **options)
        eps.append(flat(seen[0]) if seen else None)
    return flat(net.parameters()), eps


def same(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


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
    exact = not isinstance(parts.get("source"), source.Mean | source.Eigen)
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


# --- around the step -----------------------------------------------------------------------------


def slow(*batches, k, alpha):
    return stepped(*batches, around=Slow(k, alpha))[0]


def test_lookbehind_limits():
    same(slow(0, 1, 2, k=1, alpha=1.0), stepped(0, 1, 2)[0], atol=0)
    same(slow(0, 1, 2, k=1, alpha="adaptive"), stepped(0, 1, 2)[0])
    assert torch.equal(
        slow(0, 1, k=3, alpha=0.0), flat(small_net(torch.float64, norm=group_norm).parameters())
    )


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


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({"source": source.Last()}, {}),
        ({"when": Adaptive(5)}, {}),
        ({}, {"descent": Subtract()}),
    ],
    ids=["source", "when", "descent"],
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


def test_ire_waits_for_its_epoch():
    run, sam = Run("ire"), Run("sam")
    run.member.around.start = 1
    run.steps(0, 1, epoch=0)
    sam.steps(0, 1)
    assert torch.equal(run.weights, sam.weights)
    run.steps(2, epoch=1)
    sam.steps(2)
    assert not torch.equal(run.weights, sam.weights)


# --- epochs, accumulation, refusals --------------------------------------------------------------


@every_member
def test_outside_its_epochs_every_member_is_the_base_optimizer(name):
    if name == "ire":
        pytest.skip("wraps whatever the step is")
    run, plain = Run(name, start=1), Run("sam", rho=0.0)
    run.steps(0, 1, epoch=0)
    for t in (0, 1):
        sam_step(plain.closure(t), plain.optimizer, None)
    same(run.weights, plain.weights, atol=1e-14)


def test_a_source_looks_back_on_a_step_of_ones_own():
    net = small_net(torch.float64, norm=group_norm)
    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net), source=source.Last())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for t in (0, 1, 2):
        plan = step.plan()
        with perturbed(closure_of(net, *BATCHES[t]), step, plan=plan) as loss:
            assert loss is None
            optimizer.zero_grad()
            closure_of(net, *BATCHES[t])().backward()
        optimizer.step()
        step.after_step(plan)
    assert torch.equal(flat(net.parameters()), stepped(0, 1, 2, source=source.Last())[0])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"source": [source.Last(), source.Mean()]}, "sources exclude each other"),
        ({"source": "last"}, "source must be a samlib Source, not 'last'"),
        ({"source": source.Last(), "batchnorm": "first"}, "batchnorm 'first' needs a first pass"),
        ({"source": source.Noise(), "when": Adaptive(5)}, "when Adaptive needs the gradient of"),
        ({"source": source.Mean(), "radius_over": "all"}, "radius_over 'all' needs everything's"),
        ({"radius": Radius(free=True), "radius_over": "all"}, "a free radius leaves out a norm"),
        ({"radius": Radius(free=True), "geometry": geometry.ElementwiseLinf()}, "p = 2"),
        (
            {"source": source.Drift(), "mask": "dynamic"},
            "mask dynamic needs the gradient of a first",
        ),
    ],
)
def test_pairs_that_exclude_each_other(parts, message):
    net = small_net()
    mask = dynamic(net, sparsity=0.5, epochs=2) if parts.get("mask") else masks.only_norm(net)
    with pytest.raises(ConfigError, match=message) as caught:
        Perturbation(**{"geometry": geometry.L2(), "rho": 0.1} | parts | {"mask": mask})
    one_line(caught)


@pytest.mark.parametrize(
    ("parts", "descent", "message"),
    [
        ({"source": source.Last}, Subtract, "descent Subtract compares with the first pass"),
        ({"source": source.Noise}, Hardest, "descent Hardest compares with the first pass"),
        ({"source": source.OtherLoss}, Reuse, "descent Reuse needs the loss's own gradient"),
        ({}, Mix, "descent Mix is a step of its own: it takes source Aux"),
        ({"source": Aux, "when": lambda: Every(2)}, Mix, "not Aux and Every"),
        ({"source": Aux}, None, "source Aux is part of SAMPa"),
        ({"source": source.OtherLoss}, None, "needs a closure that returns two losses"),
        ({}, Hardest, r"needs a closure that returns \(n,\) losses, not \(\)"),
        ({"source": source.Momentum}, None, "the optimizer has momentum 0"),
    ],
)
def test_steps_that_cannot_be(parts, descent, message):
    net = small_net()
    made = {kind: part() for kind, part in parts.items()}
    step = Perturbation(geometry.L2(), 0.1, masks.only_norm(net), **made)
    options = {} if descent is None else {"descent": descent()}
    before = flat(net.parameters()).clone()
    with pytest.raises(ConfigError, match=message) as caught:
        sam_step(
            closure_of(net, *small_batch()),
            torch.optim.SGD(net.parameters(), lr=0.1),
            step,
            **options,
        )
    one_line(caught)
    if "Aux" not in message:
        assert torch.equal(flat(net.parameters()), before)


def test_an_optimizer_without_a_moment_is_refused_by_msam():
    net = small_net()
    step = Perturbation(geometry.L2(), 0.1, masks.only_norm(net), source=source.Momentum())
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.01)
    with pytest.raises(ConfigError, match="keeps no momentum but") as caught:
        sam_step(closure_of(net, *small_batch()), optimizer, step)
    one_line(caught)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Every(0), "k must be at least 1"),
        (lambda: Sometimes(1.5), r"p must be in \[0, 1\]"),
        (lambda: Adaptive(0), "needs steps >= 1"),
        (lambda: Radius(follows="lr"), "takes a largest_lr > 0, not None"),
        (lambda: Radius(follows="loss"), "unknown follows 'loss'"),
        (lambda: Radius(least=0.1), "least must be"),
        (lambda: source.Drift(every=0), "every must be at least 1"),
        (lambda: source.Momentum(sign=2), "sign must be 1 or -1"),
        (lambda: source.Eigen(power=0), "every and power"),
        (lambda: Hardest(gamma=0), "gamma must be in"),
        (lambda: Mix(lam=2), "lam must be in"),
        (lambda: Subtract(over="norm"), "unknown over 'norm'"),
        (
            lambda: make("samm", geometry.L2(), 0.1, masks.only_norm(small_net())),
            "unknown member 'samm'",
        ),
        (
            lambda: make("gsam", geometry.L2(), 0.1, masks.only_norm(small_net())),
            "needs to know lr",
        ),
    ],
)
def test_bad_parts(wrong, message):
    with pytest.raises(ConfigError, match=message) as caught:
        wrong()
    one_line(caught)


def test_a_radius_that_follows_the_learning_rate_needs_the_optimizer():
    run = Run("gsam")
    with (
        pytest.raises(ConfigError, match="give perturbed the optimizer") as caught,
        perturbed(run.closure(0), run.member.perturbation),
    ):
        pass
    one_line(caught)


def test_a_members_own_options_take_the_place_of_its_authors():
    net = small_net()
    mask = masks.only_norm(net)
    slow = make("lookbehind", geometry.L2(), 0.1, mask, k=4, start=2)
    assert (slow.around.k, slow.around.alpha, slow.perturbation.start) == (4, 0.5, 2)
    reuse = make("looksam", geometry.L2(), 0.1, mask, alpha=0.3)
    assert (reuse.perturbation.when.k, reuse.descent.alpha) == (10, 0.3)
    with pytest.raises(ConfigError, match="unknown option of sampa 'alpha'") as caught:
        make("sampa", geometry.L2(), 0.1, mask, alpha=0.3)
    one_line(caught)


def test_the_table_counts_passes_and_bytes():
    net = small_net()
    lines = family.table(masks.only_norm(net)).splitlines()[1:]
    found = {line.split()[0]: line.split()[-1] for line in lines}
    count, total = masks.only_norm(net).count, masks.only_norm(net).total
    assert found.keys() == MEMBERS.keys()
    assert found["sam"] == found["msam"] == "0"
    assert found["vasso"] == f"{4 * count:,}"
    assert found["lesam"] == f"{8 * count:,}"
    assert found["looksam"] == f"{4 * total:,}"
    assert found["sampa"] == f"{8 * total:,}"
