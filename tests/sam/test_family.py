"""Every member of the family: its rule, its promises, and its state."""

import copy
import io

import pytest
import torch
from conftest import flat, identical, one_line, selected, small_net
from dense_family import MEMBERS as DENSE
from dense_family import Dense
from member_run import BATCHES, ONE_PASS, SPOTS, Run, every_member, group_norm, same

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam import family
from samlib.sam.family import MEMBERS
from samlib.sam.masks.sparse import random
from samlib.sam.perturbation import Perturbation
from samlib.sam.step import sam_step

FOLLOWING = ["gsam", "rho_lr", "rho_root_lr"]

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


@pytest.mark.parametrize(("mask", "shape"), SPOTS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("looksam", {"k": 2}),
        ("looksam_mask", {"k": 2}),
        ("every_k", {"k": 2}),
        ("eigen_sam", {"every": 2}),
        ("ire", {"every": 2}),
        ("lookbehind", {"k": 3}),
        ("obf", {"lam": 0.1, "gamma": 0.5, "probabilities": "softmax"}),
    ],
)
def test_so_are_those_with_what_comes_back_within_a_few_steps(name, options, mask, shape):
    run = Run(name, mask, shape, **options)
    reference = Dense(copy.deepcopy(run.net), BATCHES, run.mask, 0.3, shape != "l2")
    DENSE[name](reference, 5, **options)
    same(run.steps(0, 1, 2, 3, 4).weights, reference.w, atol=1e-11)


@pytest.mark.parametrize(("mask", "shape"), SPOTS)
@pytest.mark.parametrize("name", FOLLOWING)
def test_a_radius_follows_a_learning_rate_that_is_halved_midway(name, mask, shape):
    run = Run(name, mask, shape)
    reference = Dense(copy.deepcopy(run.net), BATCHES, run.mask, 0.3, shape != "l2")
    DENSE[name](reference, 4, halved=2)
    run.steps(0, 1).optimizer.param_groups[0]["lr"] = 0.05
    same(run.steps(2, 3).weights, reference.w, atol=1e-11)


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_radius_that_follows_the_learning_rate_is_kept(name):
    run, found = Run(name, "only_norm", "elementwise_l2"), []
    run.optimizer.param_groups[0]["lr"] = 0.05
    run.steps(0, on_ascent=found.append)
    ratios = zip(found[0].eps, found[0].scale, strict=True)
    share = 0.5**0.5 if name == "rho_root_lr" else 0.5
    assert flat([e / t for e, t in ratios]).norm().item() == pytest.approx(0.3 * share, rel=1e-9)


def nothing(run, t):
    """A closure of a member whose losses have a gradient of zero in every weight."""

    def closure():
        losses = run.closure(t)()
        return tuple(0 * x for x in losses) if isinstance(losses, tuple) else 0 * losses

    return closure


@every_member
@pytest.mark.parametrize(("mask", "shape"), SPOTS)
def test_a_gradient_of_zero_moves_nothing_and_spoils_nothing(name, mask, shape):
    run, found = Run(name, mask, shape), []
    run.optimizer.param_groups[0]["weight_decay"] = 0.0
    before = run.weights.clone()
    for t in (0, 1, 2):
        run.member(nothing(run, t), run.optimizer, epoch=2, on_ascent=found.append)
    assert torch.equal(run.weights, before)
    for eps in (flat(f.eps) for f in found):
        assert eps.isfinite().all()
        assert name == "random_sam" or (eps == 0).all()
    run.steps(3, 4)
    assert run.weights.isfinite().all()
    assert not torch.equal(run.weights, before)
    run.member(nothing(run, 5), run.optimizer, epoch=2)
    assert run.weights.isfinite().all()


@every_member
def test_what_a_member_draws_leaves_the_global_generator_alone(name):
    run, before = Run(name), torch.get_rng_state()
    run.steps(0, 1, 2)
    assert torch.equal(torch.get_rng_state(), before)


SAM = MEMBERS["sam"]
REPLACE = [n for n, m in MEMBERS.items() if (m.descent, m.around) == (SAM.descent, SAM.around)]


@pytest.mark.parametrize("name", REPLACE)
def test_without_a_radius_a_member_is_the_base_optimizer(name):
    run, plain = Run(name, rho=0.0).steps(0, 1, 2), Run("sam")
    for t in (0, 1, 2):
        sam_step(plain.closure(t), plain.optimizer, None)
    assert torch.equal(run.weights, plain.weights)


@every_member
@pytest.mark.parametrize(("mask", "shape"), SPOTS)
def test_what_every_member_keeps(name, mask, shape):
    """eps is 0 off the mask, ||T^-1 eps|| = rho in a ball, and the weights come back."""
    run = Run(name, mask, shape)
    on = selected(run.mask)
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
    assert not run.member.perturbation.source.ready
    run.steps(0)
    sam_step(plain.closure(0), plain.optimizer, None)
    assert torch.equal(run.weights, plain.weights)
    run.steps(1)
    assert run.member.perturbation.source.ready
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


def bytes_held(state):
    return sum(t.nbytes for tensors in state.get("tensors", {}).values() for t in tensors)


@every_member
def test_state_lives_on_the_mask_alone(name):
    """All that shapes the perturbation; what feeds the descent may be as large as the network."""
    run = Run(name, "only_norm").steps(0, 1)
    state = run.member.state_dict()
    of_source, tensors = state["perturbation"]["source"]["state"], run.member.perturbation.source
    assert of_source.get("tensors", {}).keys() == set(tensors.tensors)
    assert bytes_held(of_source) == 8 * run.mask.count * len(tensors.tensors)
    assert bytes_held(state["perturbation"]["when"]["state"]) == 0
    parts = [of_source, state["descent"], state.get("around", {})]
    assert sum(map(bytes_held, parts)) == family.kept(name, run.mask)
    assert bytes_held(state["descent"]) == {
        "looksam": 8 * run.mask.total,
        "looksam_mask": 8 * run.mask.count,
        "sampa": 16 * run.mask.total,
    }.get(name, 0)
    assert bytes_held(state.get("around", {})) == 8 * run.mask.total * (name == "ire")


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
    said = "of mask all of 335 of 335 coordinates, this one is only_norm of 20 of 335"
    with pytest.raises(ConfigError, match=said) as caught:
        Run("vasso", "only_norm").member.load_state_dict(state)
    one_line(caught)
    del state["perturbation"]["of"]  # as a state of before has none
    with pytest.raises(ConfigError, match="the state of Mean is over other coordinates") as caught:
        Run("vasso", "only_norm").member.load_state_dict(state)
    one_line(caught)


def test_the_state_of_another_sparse_mask_is_refused():
    """Its positions would be taken for those of this one, or some of them be lost."""

    def ball(kind, sparsity=0.9):
        net = small_net(torch.float64, norm=group_norm)
        made = {"random": masks.random, "fisher": masks.fisher, "dynamic": masks.dynamic}[kind]
        options = {"epochs": 3} if kind == "dynamic" else {}
        return Perturbation(geometry.L2(), 0.1, made(net, sparsity=sparsity, **options))

    states = {kind: ball(kind).state_dict() for kind in ("random", "dynamic")}
    states["all"] = Run("sam").member.perturbation.state_dict()
    for kind, into in (
        ("random", ball("random", 0.5)),
        ("random", ball("fisher")),
        ("random", ball("dynamic")),
        ("dynamic", ball("random")),
        ("all", ball("random")),
    ):
        with pytest.raises(ConfigError, match=f"the state is of mask {kind} of .*") as caught:
            into.load_state_dict(states[kind])
        one_line(caught)
    again = ball("random")
    again.load_state_dict(states["random"])
    assert torch.equal(again.mask.flat, states["random"]["mask"]["flat"])


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
