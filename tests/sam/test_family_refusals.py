"""When and on what a member steps, blocks of one's own, and what is refused in one line."""

import pytest
import torch
from conftest import closure_of, flat, one_line, small_batch, small_net
from member_run import BATCHES, Run, every_member, group_norm, same, stepped

from samlib import geometry, masks
from samlib.errors import ConfigError
from samlib.sam import controls, family, source
from samlib.sam.around import Slow, Stretch
from samlib.sam.descent import Hardest, Reuse, Subtract
from samlib.sam.family import MEMBERS, make
from samlib.sam.masks.ssam import dynamic
from samlib.sam.perturbation import Perturbation
from samlib.sam.radius import Radius
from samlib.sam.sampa import Aux, Mix
from samlib.sam.step import perturbed, sam_step
from samlib.sam.when import Adaptive, Every, Sometimes


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


class LooksBack(source.Gradient):
    """A source of a user's own."""

    def after_step(self, mask, refresh):
        """Nothing."""


@pytest.mark.parametrize("kind", [source.Last, LooksBack])
def test_a_block_without_a_plan_is_refused_where_a_source_looks_back_on_the_step(kind):
    net = small_net(torch.float64, norm=group_norm)
    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net), source=kind())
    said = rf"source {kind.__name__} looks back .*plan=.*after_step\(plan\)"
    with pytest.raises(ConfigError, match=said) as caught, perturbed(lambda: 0, step):
        pass
    one_line(caught)


def test_a_drift_is_measured_in_blocks_without_a_plan_too():
    net = small_net(torch.float64, norm=group_norm)
    step = Perturbation(geometry.L2(), 0.3, masks.all_parameters(net), source=source.Drift(2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for t in (0, 1, 2, 3, 4):
        with perturbed(closure_of(net, *BATCHES[t]), step):
            optimizer.zero_grad()
            closure_of(net, *BATCHES[t])().backward()
        optimizer.step()
    expected = stepped(0, 1, 2, 3, 4, source=source.Drift(2))[0]
    assert torch.equal(flat(net.parameters()), expected)
    assert not torch.equal(expected, stepped(0, 1, 2, 3, 4, rho=0.0)[0])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"source": [source.Last(), source.Mean()]}, "sources exclude each other"),
        ({"source": "last"}, "source must be a samlib Source, not 'last'"),
        ({"source": source.Last(), "batchnorm": "first"}, "batchnorm 'first' needs a first pass"),
        ({"source": controls.Noise(), "when": Adaptive(5)}, "when Adaptive needs the gradient of"),
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
        ({"source": controls.Noise}, Hardest, "descent Hardest compares with the first pass"),
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


def with_momenta(net, norm, others):
    """SGD whose norm layers have a momentum of their own."""
    on = [p for n, p in net.named_parameters() if n.startswith("norm")]
    off = [p for n, p in net.named_parameters() if not n.startswith("norm")]
    groups = [{"params": on, "momentum": norm}, {"params": off, "momentum": others}]
    return torch.optim.SGD(groups, lr=0.1)


def test_msam_reads_the_momentum_of_the_groups_that_hold_its_mask():
    net, seen = small_net(torch.float64), []
    step = Perturbation(geometry.L2(), 0.3, masks.only_norm(net), source=source.Momentum())
    optimizer = with_momenta(net, 0.9, 0.0)
    sam_step(closure_of(net, *BATCHES[0]), optimizer, step)
    buffer = flat(optimizer.state[e.parameter]["momentum_buffer"] for e in step.mask.entries)
    sam_step(closure_of(net, *BATCHES[0]), optimizer, step, on_ascent=seen.append)
    same(flat(seen[0].eps), -0.3 * buffer / buffer.norm())


def test_msam_refuses_a_mask_in_a_group_without_momentum_now_or_later():
    net = small_net(torch.float64)
    step = Perturbation(geometry.L2(), 0.3, masks.only_norm(net), source=source.Momentum())
    said = r"the optimizer has momentum 0 for norm1\.weight; choose another source"
    with pytest.raises(ConfigError, match=said) as caught:
        sam_step(closure_of(net, *BATCHES[0]), with_momenta(net, 0.0, 0.9), step)
    one_line(caught)
    optimizer = with_momenta(net, 0.9, 0.9)
    sam_step(closure_of(net, *BATCHES[0]), optimizer, step)
    before = flat(net.parameters()).clone()
    optimizer.param_groups[0]["momentum"] = 0.0  # its buffer stays, and is no longer the momentum
    with pytest.raises(ConfigError, match=said):
        sam_step(closure_of(net, *BATCHES[0]), optimizer, step)
    assert torch.equal(flat(net.parameters()), before)
    optimizer.param_groups[0]["momentum"] = 0.9
    optimizer.param_groups[1]["momentum"] = 0.0
    sam_step(closure_of(net, *BATCHES[0]), optimizer, step)


def test_an_optimizer_without_a_moment_is_refused_by_msam():
    net = small_net()
    step = Perturbation(geometry.L2(), 0.1, masks.only_norm(net), source=source.Momentum())
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.01)
    with pytest.raises(ConfigError, match="keeps no momentum but") as caught:
        sam_step(closure_of(net, *small_batch()), optimizer, step)
    one_line(caught)


def stretch(kappa, **options):
    return Stretch(kappa, lambda: torch.zeros(1, 2), **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Every(0), "k must be a whole number in"),
        (lambda: Sometimes(1.5), r"p must be a number in \[0, 1\]"),
        (lambda: Adaptive(0), "steps must be a whole number in"),
        (
            lambda: Radius(follows="lr"),
            r"follow lr, largest_lr must be a number in \(0, inf\), not",
        ),
        (lambda: Radius(follows="loss"), "unknown follows 'loss'"),
        (lambda: Radius(least=0.1), "of a radius that follows 'lr'"),
        (lambda: source.Drift(every=0), "every must be a whole number in"),
        (lambda: source.Momentum(sign=2), "sign must be 1 or -1"),
        (lambda: source.Eigen(power=0), "power must be a whole number in"),
        (lambda: Hardest(gamma=0), "gamma must be a number in"),
        (lambda: source.Mean(5), r"theta must be a number in \[0, 1\], not 5"),
        (lambda: source.Mean(float("nan")), "theta must be a number"),
        (lambda: source.Residual(lam=2), "lam must be a number"),
        (lambda: source.Residual(sigma=float("inf")), "sigma must be a number"),
        (lambda: source.Eigen(alpha=float("nan")), "alpha must be a number"),
        (lambda: source.Eigen(every=0.5), "every must be a whole number"),
        (lambda: Subtract(float("nan")), "alpha must be a number"),
        (lambda: Reuse(float("inf")), "alpha must be a number"),
        (lambda: stretch(float("nan")), "kappa must be a number"),
        (lambda: stretch(1.0, start=-1), "start must be a whole number"),
        (lambda: stretch(1.0, rank=0), r"rank must be a number in \(0, 1\], not 0"),
        (lambda: stretch(1.0, every=0), "every must be a whole number"),
        (lambda: Adaptive(8, early=float("nan")), "early must be a number"),
        (lambda: Adaptive(8, late=float("inf")), "late must be a number"),
        (lambda: Adaptive(8, delta=1.5), "delta must be a number"),
        (lambda: Every(2.5), "k must be a whole number"),
        (lambda: Every("2"), "k must be a whole number in .* not '2'"),
        (lambda: Every(True), "k must be a whole number"),
        (lambda: Slow(2.5), "k must be a whole number"),
        (lambda: Slow(alpha="adaptively"), "alpha, if not 'adaptive', must be a number"),
        (lambda: Hardest("a"), "gamma must be a number in .* not 'a'"),
        (lambda: Radius(least=float("inf")), "least must be a number"),
        (lambda: Radius(follows="lr", largest_lr="fast"), "largest_lr must be a number"),
        (lambda: source.OtherLoss(probabilities="Sigmoid"), "unknown probabilities 'Sigmoid'"),
        (lambda: source.OtherLoss(lam=1), r"lam must be a number in \[0, 1\), not 1"),
        (lambda: source.OtherLoss(gamma=-1), "gamma must be a number"),
        (lambda: Mix(lam=2), "lam must be a number in"),
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


@pytest.mark.parametrize("name", ["gsam", "looksam", "sampa", "lookbehind", "ire", "felt_by_mask"])
def test_a_member_that_works_on_all_parameters_names_one_it_never_saw(name):
    """Unfrozen after the mask was made, it would be left out of the descent without a word."""
    net = small_net(torch.float64, norm=group_norm)
    net.conv1.weight.requires_grad_(False)
    run = Run(name, lambda _: masks.only_norm(net))
    net.conv1.weight.requires_grad_(True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    said = r"conv1\.weight was not trainable, or not the model's, when the mask was made"
    with pytest.raises(ConfigError, match=said) as caught:
        run.member(closure_of(net, *BATCHES[0]), optimizer, epoch=2)
    one_line(caught)
    run = Run(name)
    run.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})  # a criterion's
    with pytest.raises(ConfigError, match="and one was not trainable") as caught:
        run.steps(0)
    one_line(caught)


def test_sparse_gradients_of_an_embedding_are_remembered_as_dense_ones():
    words, table = torch.tensor([0, 2, 2]), {}
    for sparse in (True, False):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Embedding(4, 3, sparse=sparse), torch.nn.LayerNorm(3))
        step = Perturbation(geometry.L2(), 0.1, masks.all_parameters(net), source=source.Last())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            sam_step(lambda net=net: net(words).pow(2).sum(), optimizer, step)
        table[sparse] = flat(net.parameters())
    assert torch.allclose(table[True], table[False])
